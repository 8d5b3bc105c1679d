"""Channels that a series never observed teach nothing, and do not narrow those that others observed."""

import numpy as np
import pytest
import torch
from torch import nn

from tardiff.config import DiffusionConfig
from tardiff.diffusion.gaps import analog_bits, borrowed, learned_signals
from tardiff.diffusion.gaussian import GaussianDenoiser
from tardiff.diffusion.process import DiffusionProcess
from tardiff.sampling.samplers import Prediction, dpm_solver_pp


def stays(rows, seed=0, share=0.25):
    """Series (N, 6, 3) whose levels have variance 1 and correlation 0.8 between the first two channels; labels; and the
    mask: a share of the series observe the second channel."""
    generator = np.random.default_rng(seed)
    levels = generator.multivariate_normal([0, 0, 0], [[1, 0.8, 0], [0.8, 1, 0], [0, 0, 1]], rows)
    x = (levels[:, None] + 0.3 * generator.normal(size=(rows, 6, 3))).astype(np.float32)
    mask = np.ones((rows, 6, 3), dtype=bool)
    mask[..., 1] = (generator.random(rows) < share)[:, None]
    return np.where(mask, x, np.float32(0)), np.arange(rows) % 2, mask


def test_what_was_not_observed_is_that_of_another_series():
    x, y, mask = stays(200)
    observes = mask[:, 0, 1]
    found = borrowed(x, mask, y, 0)
    assert np.array_equal(found[observes], x[observes]) and np.array_equal(found[..., ::2], x[..., ::2])
    for row in found[~observes, :, 1]:
        assert (row == x[observes, :, 1]).all(axis=1).any()
    assert np.array_equal(found, borrowed(x, mask, y, 0)) and not np.array_equal(found, borrowed(x, mask, y, 1))
    assert (x[~observes, :, 1] == 0).all()


def test_what_is_borrowed_goes_with_the_other_channels_and_with_the_class():
    x, y, mask = stays(4000)
    x[..., 1] += mask[..., 1] * y[:, None]
    found, lacks = borrowed(x, mask, y, 0), ~mask[:, 0, 1]
    levels = found.mean(axis=1)
    for label in (0, 1):
        chosen = lacks & (y == label)
        assert np.corrcoef(levels[chosen, 0], levels[chosen, 1])[0, 1] > 0.6
        assert levels[chosen, 1].mean() == pytest.approx(label, abs=0.15)
        assert levels[chosen, 1].var() == pytest.approx(1, abs=0.25)


def test_of_a_class_with_few_owners_it_is_mostly_that_of_others():
    """Five copies of five series would be a mark of the class."""
    x, y, mask = stays(1000)
    y[:] = np.arange(1000) < 100
    mask[(y == 1) & (np.arange(1000) >= 5), :, 1] = False
    means = [borrowed(x, mask, y, seed)[5:100, :, 1].mean() for seed in range(8)]
    assert np.abs(means).max() < 0.35


def test_a_channel_nobody_observed_and_one_owner_alone_are_no_obstacle():
    x, y, mask = stays(50)
    mask[..., 1] = False
    assert np.array_equal(borrowed(x, mask, y, 0), x)
    mask[7, 2, 1] = True
    assert np.array_equal(borrowed(x, mask, y, 0)[..., 1], np.tile(x[7, :, 1], (50, 1)))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_is_that_of_bits_and_of_observed_channels_alone(prediction_type):
    x, y, mask = stays(8)
    signals = torch.cat([torch.from_numpy(x), analog_bits(mask)], dim=2)
    process = DiffusionProcess(DiffusionConfig(prediction_type=prediction_type), with_mask=True)
    torch.manual_seed(0)
    t, noise, output = torch.randint(200, (8,)), torch.randn_like(signals), torch.randn_like(signals)
    loss = process.loss(lambda x_t, t, labels: output, signals, torch.from_numpy(y), t, noise)
    squares = (output - process.target(signals, t, noise)).double() ** 2
    for row in range(8):
        if not mask[row].any(axis=0)[1]:
            squares[row, :, 1] = 0
    assert loss.item() == pytest.approx(squares.mean().item(), rel=1e-5)
    assert learned_signals(signals).shape == (8, 1, 6)


def test_a_channel_that_few_observe_keeps_its_spread_and_its_relation_to_others():
    """Of the Gaussian alone; with a constant in its place the variance would be a quarter."""
    x, y, mask = stays(4000)
    signals = torch.cat([torch.from_numpy(borrowed(x, mask, y, 0)), analog_bits(mask)], dim=2)

    class Nothing(nn.Module):
        num_classes = 2

        def forward(self, x_t, t, labels):
            return torch.zeros_like(x_t)

    denoiser = GaussianDenoiser(Nothing(), DiffusionProcess(DiffusionConfig()), (6, 6), 35)
    torch.manual_seed(0)
    denoiser.fit(signals, torch.from_numpy(y))
    noise = torch.randn(4000, 6, 6)
    predict = Prediction(denoiser, denoiser.process, torch.from_numpy(y), null_label=2)
    series = dpm_solver_pp(predict, lambda index: noise, denoiser.process.schedule.timesteps(20, "log_snr"))
    levels = series[series[..., 4].mean(dim=1) > 0].mean(dim=1)
    assert 0.15 < len(levels) / 4000 < 0.4
    assert levels[:, 1].var() == pytest.approx(x[mask[:, 0, 1], :, 1].mean(axis=1).var(), rel=0.2)
    assert torch.corrcoef(levels[:, :2].T)[0, 1] > 0.6
