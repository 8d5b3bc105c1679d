"""Chunks of a synthetic dataset."""

import torch

from tardiff.sampling.generate import at_one_size


def test_a_short_chunk_is_filled_up_and_cut_again():
    sizes = []

    def sample(labels, samples):
        sizes.append((len(labels), len(samples)))
        return (10 * samples + labels).numpy()

    found = at_one_size(sample, 4)(torch.tensor([1, 0, 1]), torch.tensor([8, 9, 10]))
    assert found.tolist() == [81, 90, 101] and sizes == [(4, 4)]
    assert len(at_one_size(sample, 4)(torch.zeros(4, dtype=torch.int64), torch.arange(4))) == 4
