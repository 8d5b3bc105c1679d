"""The quantiser of TimeVQVAE against plain loops: nearest codes, their moving average, codes that fall out of use."""

import numpy as np
import pytest
import torch

from tardiff.baselines.timevqvae import Config
from tardiff.baselines.timevqvae_quantiser import Quantiser


def quantiser(revive_below=0.0, size=5, width=6):
    torch.manual_seed(0)
    return Quantiser(width, size, revive_below)


def test_quantiser_against_a_plain_nearest_neighbour():
    model, z = quantiser().eval(), torch.randn(3, 4, 6)
    quantised, tokens, commitment = model(z)
    squares = []
    for row, place in np.ndindex(3, 4):
        vector = model.project_in(z[row, place])
        distances = [(vector - code).pow(2).sum().item() for code in model.codes]
        assert tokens[row, place] == int(np.argmin(distances))
        squares.append(min(distances) / 8)
        torch.testing.assert_close(quantised[row, place], model.project_out(model.codes[tokens[row, place]]))
    assert commitment.item() == pytest.approx(np.mean(squares), rel=1e-5)
    torch.testing.assert_close(model.decode(tokens), quantised)


def test_gradients_pass_straight_through_the_codes():
    model, z = quantiser().eval(), torch.randn(2, 3, 6, requires_grad=True)
    weights = torch.randn(2, 3, 6)
    (model(z)[0] * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights @ model.project_out.weight @ model.project_in.weight)


def test_codes_follow_their_vectors_by_the_moving_average():
    model = quantiser()
    counts, sums = model.counts.double().clone(), model.sums.double().clone()
    for _ in range(3):
        z, codes = torch.randn(2, 4, 6), model.codes.clone()
        vectors = model.project_in(z).detach().flatten(0, 1)
        counts, sums = 0.8 * counts, 0.8 * sums
        for vector in vectors:
            token = int((codes - vector).pow(2).sum(dim=1).argmin())
            counts[token] += 0.2
            sums[token] += 0.2 * vector
        quantised, tokens, _ = model(z)
        torch.testing.assert_close(quantised, model.project_out(codes[tokens]))
        expected = torch.stack([sums[code] / ((counts[code] + 1e-5) / (counts.sum() + 5e-5) * counts.sum())
                                for code in range(5)])
        torch.testing.assert_close(model.codes.double(), expected, atol=1e-5, rtol=1e-4)
    before = model.codes.clone()
    model.eval()(torch.randn(2, 4, 6))
    assert torch.equal(model.codes, before)


def test_kmeans_finds_separate_clusters():
    model = quantiser(size=30)
    centres = 5 * torch.randn(10, 6)
    model.initialise((centres.repeat(20, 1) + 0.01 * torch.randn(200, 6)).view(20, 10, 6))
    distance = torch.cdist(model.project_in(centres), model.codes).min(dim=1).values
    assert distance.max() < 0.1 and torch.equal(model.sums, model.codes) and (model.counts == 1).all()


@pytest.mark.parametrize(("revive_below", "revived"), [(0.1, True), (0.0, False)])
def test_a_code_out_of_use_is_revived_from_the_batch(revive_below, revived):
    model, z = quantiser(revive_below), torch.randn(1, 4, 6)
    model.codes[4] = model.sums[4] = 1e3
    for _ in range(11):
        model(z)
    # Its count is now 0.8^11 = 0.086 and the mean (4 + 0.086) / 5 = 0.817.
    assert model.codes[4].min() > 990
    model(z)
    distance = torch.cdist(model.codes[4:], model.project_in(z)[0]).min()
    assert distance < 1e-5 if revived else distance > 990


def quantising_error(size, revive_below, steps=150):
    """Return the squared error, on other vectors, of a quantiser that followed clusters, some rare and all moving."""
    model = quantiser(revive_below, size, width=8)
    generator = torch.Generator().manual_seed(1)
    centres, weights = torch.randn(300, 8, generator=generator), torch.rand(300, generator=generator) ** 4
    shift = torch.zeros(8)

    def draw(count):
        chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
        return (centres[chosen] + shift + 0.2 * torch.randn(count, 8, generator=generator))[None]

    model.initialise(draw(6 * 1024))
    for _ in range(steps):
        shift += 0.01
        model(draw(192))
    vectors = model.project_in(draw(4000)).detach()
    return (vectors - model.codes[model.nearest(vectors)]).pow(2).mean().item()


@pytest.mark.parametrize("size", [1024, 64])
def test_reviving_codes_does_not_harm_also_where_a_batch_has_fewer_vectors_than_codes(size):
    revived, without = (quantising_error(size, share) for share in (Config().revive_below, 0.0))
    assert revived <= 1.02 * without


def test_few_codes_of_the_published_size_are_replaced_in_a_step(monkeypatch):
    counts = []
    monkeypatch.setattr(Quantiser, "_place", lambda model, which, vectors, place=Quantiser._place: (
        counts.append(int(which.sum())), place(model, which, vectors)))
    quantising_error(1024, Config().revive_below, steps=100)
    assert 0 < np.mean(counts[50:]) < 15
