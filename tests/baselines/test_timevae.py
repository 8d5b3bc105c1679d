"""TimeVAE: sizes, its encoder and decoders against plain sums, the loss it descends, its schedule by epochs, and what
it learns."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_hand import num_parameters
from torch.distributions import Normal, kl_divergence

from tardiff.baselines.timevae import Config, TimeVAE, build, halved
from tardiff.utils.errors import UserError

TINY = {"filters": [4, 6, 8], "batch_size": 8, "latent_size": 3}
SEASONS = [[4, 3], [3, 2]]


def perturbed(length):
    """Return a model of 2 channels with all decoders, in float64, with weights so far from zero that each one tells."""
    torch.manual_seed(0)
    model = TimeVAE(Config(**TINY, trend_degree=2, seasons=SEASONS), length, 2).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return model, dict(model.named_parameters())


def dense(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def shorten(weights, name, x):
    """Convolve (B, C, L) as Keras does with stride 2 and padding 'same': of the zeros, an odd one is at the end."""
    kernel, steps = weights[f"{name}.weight"], math.ceil(x.shape[2] / 2)
    zeros = 2 * (steps - 1) + 3 - x.shape[2]
    x = F.pad(x, (zeros // 2, zeros - zeros // 2))
    return torch.stack([torch.einsum("bik,oik->bo", x[:, :, 2 * step:2 * step + 3], kernel) + weights[f"{name}.bias"]
                        for step in range(steps)], dim=2)


def lengthen(weights, name, x):
    """Transpose the convolution with stride 2 of an even length: each step of (B, C, L) adds its kernel to three."""
    kernel, length = weights[f"{name}.weight"], 2 * x.shape[2]
    wide = x.new_zeros(len(x), kernel.shape[1], length + 1)
    for step in range(x.shape[2]):
        wide[:, :, 2 * step:2 * step + 3] += torch.einsum("bi,iok->bok", x[:, :, step], kernel)
    return wide[:, :, :length] + weights[f"{name}.bias"][:, None]


def plain_encode(weights, x):
    hidden = x.transpose(1, 2)
    for layer in (0, 2, 4):
        hidden = shorten(weights, f"encoder.{layer}", hidden).relu()
    return [dense(weights, name, hidden.flatten(1)) for name in ("latent_mean", "latent_log_variance")]


def plain_decode(weights, z, length):
    hidden = dense(weights, "decoders.4.entry.0", z).relu().unflatten(1, (8, -1))
    for layer in (0, 2, 4):
        hidden = lengthen(weights, f"decoders.4.convolutions.{layer}", hidden).relu()
    residual = dense(weights, "decoders.4.exit", hidden.flatten(1)).unflatten(1, (length, 2))
    level, trend = (dense(weights, f"decoders.{index}.layers.2", dense(weights, f"decoders.{index}.layers.0", z).relu())
                    for index in (0, 1))
    seasonal = [dense(weights, f"decoders.{index}.values", z) for index in (2, 3)]
    rows = []
    for t, c in np.ndindex(length, 2):
        seasons = sum(values[:, count * c + t // steps % count]
                      for values, (count, steps) in zip(seasonal, SEASONS, strict=True))
        polynomial = trend[:, 2 * c] * (t / length) + trend[:, 2 * c + 1] * (t / length) ** 2
        rows.append(level[:, c] + polynomial + seasons + residual[:, t, c])
    return torch.stack(rows, dim=1).unflatten(1, (length, 2))


@pytest.mark.parametrize(("length", "num_channels", "expected"), [
    (24, 7, 196_134), (288, 3, 1_078_818), (256, 16, 17_097_060), (300, 15, 20_869_906), (256, 19, 23_980_146),
    (256, 33, 71_699_020)])
def test_sizes_are_the_published_ones(length, num_channels, expected):
    with torch.device("meta"):
        assert num_parameters(build(Config(), length, num_channels, 1)) == expected


def test_trend_and_seasons_add_their_own_weights_and_train():
    plain, full = (TimeVAE(Config(**settings), 24, 7)
                   for settings in ({}, {"trend_degree": 2, "seasons": [[4, 6], [3, 2]]}))
    trend = (8 * 14 + 14) + (14 * 14 + 14)
    seasons = (8 * 7 * 4 + 7 * 4) + (8 * 7 * 3 + 7 * 3)
    assert num_parameters(full) - num_parameters(plain) == trend + seasons
    full.observe(torch.empty(16, 24, 7), torch.zeros(16))
    before = {name: weight.clone() for name, weight in full.named_parameters()}
    full.train_step(full.stages()[0], 0, lambda: (torch.rand(16, 24, 7), torch.zeros(16)))
    still = [name for name, weight in full.named_parameters() if torch.equal(weight, before[name])]
    assert not still


@pytest.mark.parametrize("length", [1, 2, 5, 11, 16])
def test_encoder_and_decoders_against_plain_sums(length):
    model, weights = perturbed(length)
    x, z = torch.randn(6, length, 2, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(list(model.encode(x)), plain_encode(weights, x))
    # The powers of time are known to single precision.
    torch.testing.assert_close(model.decode(z), plain_decode(weights, z, length), atol=1e-6, rtol=1e-6)


def test_halving_rounds_up_each_time():
    for length in range(1, 70):
        expected = length
        for times in range(5):
            assert halved(length, times) == expected
            expected = (expected + 1) // 2


def test_every_step_descends_the_published_loss():
    model, weights = perturbed(11)
    x, stage = torch.rand(8, 11, 2, dtype=torch.float64), model.stages()[0]
    # A first step leaves gradients that the second must not see.
    model.train_step(stage, 0, lambda: (x, None))
    still = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
    torch.manual_seed(1)
    losses = model.train_step(stage, 1, lambda: (x, None))
    torch.manual_seed(1)
    mean, log_variance = plain_encode(still, x)
    latent = Normal(mean, (log_variance / 2).exp())
    x_hat = plain_decode(still, mean + latent.stddev * torch.randn(8, 3, dtype=torch.float64), 11)
    reconstruction = (x_hat - x).pow(2).sum() + (x_hat.mean(dim=2) - x.mean(dim=2)).pow(2).sum()
    divergence = kl_divergence(latent, Normal(0.0, 1.0)).sum()
    loss = 3 * reconstruction + divergence
    expected = {"loss": loss, "reconstruction_loss": reconstruction, "divergence": divergence}
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close([weight.grad for weight in weights.values()],
                               list(torch.autograd.grad(loss, list(still.values()))), atol=1e-5, rtol=1e-5)


def test_samples_are_decoded_from_standard_normal_latents(monkeypatch):
    model = TimeVAE(Config(**TINY), 8, 1)
    monkeypatch.setattr(model, "decode", lambda z: z)
    z = model.sample(torch.zeros(4000, dtype=torch.int64), torch.arange(4000), 0)
    torch.testing.assert_close(torch.cov(z.T), torch.eye(3), atol=0.06, rtol=0)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(3), atol=0.06, rtol=0)


def epochs(losses, **settings):
    """Feed epoch losses to a model and return the learning rate after each, up to the epoch that ends the training."""
    model = TimeVAE(Config(**TINY, **settings), 8, 1)
    rates = []
    for loss in losses:
        model._end_epoch(loss)
        rates.append(model.optimizers["adam"].param_groups[0]["lr"])
        if model.finished(None):
            break
    return rates


def test_thirty_epochs_without_improvement_halve_the_rate_and_fifty_end_the_training():
    rates = epochs([5.0] * 200)
    assert len(rates) == 51 and rates[:30] == [1e-3] * 30 and rates[30:] == [5e-4] * 21


def test_a_small_improvement_keeps_the_rate_and_does_not_keep_the_training():
    """Keras: the rate looks for 1e-4, the stopping for 1e-2, each below the best so far."""
    assert epochs([5 - 1.5e-4 * epoch for epoch in range(200)]) == [1e-3] * 51
    assert len(epochs([5 - 2e-2 * epoch for epoch in range(200)])) == 200


def test_an_epoch_is_as_many_steps_as_cover_the_rows():
    model = TimeVAE(Config(**TINY, epochs=3), 8, 1)
    model.observe(torch.rand(17, 8, 1), torch.zeros(17))
    stage = model.stages()[0]
    assert stage.steps == 9 and TimeVAE(Config(**TINY, steps=5), 8, 1).stages()[0].steps == 5
    means = []
    model._end_epoch = lambda loss: means.append(loss) or setattr(model, "epoch_loss", 0.0)
    losses = [model.train_step(stage, step, lambda: (torch.rand(8, 8, 1), torch.zeros(8)))["loss"].item()
              for step in range(stage.steps)]
    assert means == pytest.approx([np.mean(losses[first:first + 3]) for first in (0, 3, 6)])


@pytest.mark.parametrize("seasons", [[[4]], [[4, 0]], [[4, 6, 1]], [[]]])
def test_a_seasonal_term_is_a_pair(seasons):
    with pytest.raises(UserError, match="'seasons' holds"):
        build(Config(seasons=seasons), 24, 7, 2)


def test_no_filters_are_refused():
    with pytest.raises(UserError, match="'filters' is empty"):
        build(Config(filters=[]), 24, 7, 2)
