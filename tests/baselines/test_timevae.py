"""TimeVAE: sizes, the terms of its loss in closed form, its decoders, its schedule by epochs, and what it learns."""

import math

import numpy as np
import pytest
import torch
from baseline_checks import assert_resumes_exactly, assert_rows_stand_alone, sinusoids, study, trained
from torch.distributions import Normal, kl_divergence

from tardiff.baselines import timevae
from tardiff.baselines.timevae import (
    Config,
    SameConvolution,
    SameTransposedConvolution,
    Seasonality,
    TimeVAE,
    Trend,
    build,
    gaussian_divergence,
    halved,
    reconstruction_error,
)
from tardiff.utils.errors import UserError

TINY = {"filters": [4, 6, 8], "batch_size": 8, "latent_size": 3}


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("length", "num_channels", "expected"), [
    (24, 7, 196_134), (288, 3, 1_078_818), (256, 16, 17_097_060), (300, 15, 20_869_906), (256, 19, 23_980_146),
    (256, 33, 71_699_020)])
def test_sizes_are_the_published_ones(length, num_channels, expected):
    with torch.device("meta"):
        assert parameters(build(Config(), length, num_channels, 1)) == expected


def test_trend_and_seasons_add_their_own_weights_and_train():
    plain, full = (TimeVAE(Config(**settings), 24, 7)
                   for settings in ({}, {"trend_degree": 2, "seasons": [[4, 6], [3, 2]]}))
    trend = (8 * 14 + 14) + (14 * 14 + 14)
    seasons = (8 * 7 * 4 + 7 * 4) + (8 * 7 * 3 + 7 * 3)
    assert parameters(full) - parameters(plain) == trend + seasons
    full.observe(torch.empty(16, 24, 7), torch.zeros(16))
    before = {name: weight.clone() for name, weight in full.named_parameters()}
    full.train_step(full.stages()[0], 0, lambda: (torch.rand(16, 24, 7), torch.zeros(16)))
    still = [name for name, weight in full.named_parameters() if torch.equal(weight, before[name])]
    assert not still


def test_trend_and_seasonality_against_loops():
    torch.manual_seed(0)
    z = torch.randn(2, 5)
    trend, seasonality = Trend(5, 10, 3, 2), Seasonality(5, 10, 3, 3, 2)
    coefficients, values = trend.layers(z), seasonality.values(z)
    for c in range(3):
        for t in range(10):
            expected = coefficients[:, 2 * c] * (t / 10) + coefficients[:, 2 * c + 1] * (t / 10) ** 2
            torch.testing.assert_close(trend(z)[:, t, c], expected)
            torch.testing.assert_close(seasonality(z)[:, t, c], values[:, 3 * c + (t // 2) % 3])


@pytest.mark.parametrize("length", [1, 2, 5, 8, 25])
def test_convolutions_pad_at_the_end_as_keras_does(length):
    torch.manual_seed(0)
    layer, x = SameConvolution(1, 1), torch.randn(1, 1, length)
    first = 0 if length % 2 == 0 else -1
    expected = [layer.bias + sum(layer.weight[0, 0, k] * x[0, 0, first + 2 * i + k]
                                 for k in range(3) if 0 <= first + 2 * i + k < length) for i in range(math.ceil(length / 2))]
    torch.testing.assert_close(layer(x)[0, 0], torch.cat(expected))


def test_the_transposed_convolution_is_the_transpose_on_even_lengths():
    torch.manual_seed(0)
    forwards, backwards = SameConvolution(2, 3), SameTransposedConvolution(3, 2)
    backwards.weight.data.copy_(forwards.weight)
    for layer in (forwards, backwards):
        layer.bias.data.zero_()
    x, y = torch.randn(1, 2, 8), torch.randn(1, 3, 4)
    torch.testing.assert_close((forwards(x) * y).sum(), (x * backwards(y)).sum())


def test_halving_rounds_up_each_time():
    for length in range(1, 70):
        expected = length
        for times in range(5):
            assert halved(length, times) == expected
            expected = (expected + 1) // 2


def test_divergence_against_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 6, 4, generator=generator)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(gaussian_divergence(mean, log_variance), expected)


def test_reconstruction_against_a_loop():
    x_hat, x = np.random.default_rng(0).normal(size=(2, 3, 5, 2))
    expected = sum((x_hat[n, t, c] - x[n, t, c]) ** 2 for n in range(3) for t in range(5) for c in range(2))
    expected += sum((x_hat[n, t].mean() - x[n, t].mean()) ** 2 for n in range(3) for t in range(5))
    assert reconstruction_error(torch.tensor(x_hat), torch.tensor(x)).item() == pytest.approx(expected, rel=1e-12)


def test_the_loss_is_the_weighted_sum_of_its_terms_on_a_latent_of_the_encoded_moments():
    torch.manual_seed(0)
    model, x = TimeVAE(Config(**TINY), 12, 2), torch.rand(8, 12, 2)
    model.observe(x, torch.zeros(8))
    mean, log_variance = (part.detach() for part in model.encode(x))
    torch.manual_seed(1)
    latent = mean + log_variance.exp().sqrt() * torch.randn(8, 3)
    reconstruction, divergence = reconstruction_error(model.decode(latent), x), gaussian_divergence(mean, log_variance)
    expected = (3 * reconstruction + divergence).detach()
    torch.manual_seed(1)
    losses = model.train_step(model.stages()[0], 0, lambda: (x, torch.zeros(8)))
    torch.testing.assert_close(losses["loss"], expected)


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
    seen, means = [], []
    model._end_epoch = lambda loss: means.append(loss) or setattr(model, "epoch_loss", 0.0)
    for step in range(stage.steps):
        seen.append(model.train_step(stage, step, lambda: (torch.rand(8, 8, 1), torch.zeros(8)))["loss"].item())
    assert means == pytest.approx([np.mean(seen[first:first + 3]) for first in (0, 3, 6)])


@pytest.mark.parametrize(("length", "num_channels", "num_classes"), [(24, 2, 2), (25, 1, 3), (30, 4, 2)])
def test_series_stand_alone_in_any_shape(tmp_path, length, num_channels, num_classes):
    x, y = sinusoids(30, length, num_channels, num_classes)
    settings = {**TINY, "epochs": 2, "trend_degree": 1, "seasons": [[5, 4]]}
    assert_rows_stand_alone(trained(tmp_path, timevae, x, y, **settings), (length, num_channels), num_classes)


def test_a_killed_training_ends_with_the_same_weights_also_where_it_stops_early(tmp_path, monkeypatch):
    monkeypatch.setattr(timevae, "STOPPING_IMPROVEMENT", 1e6)
    monkeypatch.setattr(timevae, "HALVING_IMPROVEMENT", 1e6)
    assert_resumes_exactly(tmp_path, timevae, *sinusoids(32, length=6), [1, 4, 5, 9], **TINY, stopping_patience=2,
                           halving_patience=1)


@pytest.mark.parametrize("seasons", [[[4]], [[4, 0]], [[4, 6, 1]], [[]]])
def test_a_seasonal_term_is_a_pair(seasons):
    with pytest.raises(UserError, match="'seasons' holds"):
        build(Config(seasons=seasons), 24, 7, 2)


def test_no_filters_are_refused():
    with pytest.raises(UserError, match="'filters' is empty"):
        build(Config(filters=[]), 24, 7, 2)


@pytest.mark.slow
def test_a_classifier_learns_from_samples_as_from_real_series(tmp_path):
    result = study(tmp_path, timevae, steps=1000)
    assert result.real_accuracy > 0.9
    assert result.synthetic_accuracy >= 0.95 * result.real_accuracy
    assert result.synthetic_fid < result.noise_fid / 2
