"""The counter-based noise against published values and the normal distribution."""

import pytest
import torch
from scipy import stats

from tardiff.sampling.noise import NoiseStream, philox


@pytest.mark.parametrize(("counter", "key", "expected"), [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1))])
def test_known_answers_of_random123(counter, key, expected):
    """The known-answer tests that are published with Random123 for philox4x32-10."""
    words = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in words) == expected


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    whole = NoiseStream(3, torch.arange(100), (5, 3))(7)
    picked = torch.tensor([99, 4, 41])
    assert torch.equal(NoiseStream(3, picked, (5, 3))(7), whole[picked])


def test_noise_differs_between_seeds_samples_and_steps():
    draws = [NoiseStream(seed, torch.tensor([sample]), (4, 2))(step)
             for seed in (0, 1, 2**40) for sample in (0, 1, 2**33) for step in (0, 1)]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)


def test_noise_is_standard_normal_and_uncorrelated():
    stream = NoiseStream(11, torch.arange(40_000), (3, 2))
    draws = torch.cat([stream(0).flatten(1), stream(1).flatten(1)], dim=1).double()
    assert stats.kstest(draws.flatten().numpy()[:100_000], "norm").pvalue > 1e-3
    assert torch.allclose(draws.T.corrcoef(), torch.eye(12, dtype=torch.float64), atol=0.02)
