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


def stays(rows, seed=0):
    """Series (N, 6, 2) of levels with variance 1, whose second channel a quarter of them observe; labels and mask."""
    generator = np.random.default_rng(seed)
    x = (generator.normal(size=(rows, 1, 2)) + 0.3 * generator.normal(size=(rows, 6, 2))).astype(np.float32)
    mask = np.ones((rows, 6, 2), dtype=bool)
    mask[..., 1] = (generator.random(rows) < 0.25)[:, None]
    return np.where(mask, x, np.float32(0)), np.arange(rows) % 2, mask


def test_what_was_not_observed_is_that_of_another_series_of_the_class():
    x, y, mask = stays(200)
    observes = mask[:, 0, 1]
    found = borrowed(x, mask, y, 0)
    assert np.array_equal(found[observes], x[observes]) and np.array_equal(found[..., 0], x[..., 0])
    for label in (0, 1):
        own = x[observes & (y == label), :, 1]
        for row in found[~observes & (y == label), :, 1]:
            assert (row == own).all(axis=1).any()
    assert np.array_equal(found, borrowed(x, mask, y, 0)) and not np.array_equal(found, borrowed(x, mask, y, 1))
    assert (x[~observes, :, 1] == 0).all()


def test_a_class_that_never_observed_a_channel_borrows_of_others_and_a_channel_nobody_did_stays():
    x, y, mask = stays(100)
    mask[y == 1, :, 1] = False
    assert (borrowed(x, mask, y, 0)[y == 1, :, 1] != 0).all()
    mask[..., 1] = False
    assert np.array_equal(borrowed(x, mask, y, 0), x)


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
    assert learned_signals(signals).shape == (8, 1, 4)


def test_a_channel_that_few_observe_keeps_the_spread_of_those_who_do():
    """Of the Gaussian alone; with a constant in its place the variance would be a quarter."""
    x, y, mask = stays(4000)
    signals = torch.cat([torch.from_numpy(borrowed(x, mask, y, 0)), analog_bits(mask)], dim=2)

    class Nothing(nn.Module):
        num_classes = 2

        def forward(self, x_t, t, labels):
            return torch.zeros_like(x_t)

    denoiser = GaussianDenoiser(Nothing(), DiffusionProcess(DiffusionConfig()), (6, 4), 23)
    torch.manual_seed(0)
    denoiser.fit(signals, torch.from_numpy(y))
    noise = torch.randn(4000, 6, 4)
    predict = Prediction(denoiser, denoiser.process, torch.from_numpy(y), null_label=2)
    series = dpm_solver_pp(predict, lambda index: noise, denoiser.process.schedule.timesteps(20, "log_snr"))
    observed = series[..., 3].mean(dim=1) > 0
    assert 0.15 < observed.float().mean() < 0.4
    level = x[mask[:, 0, 1], :, 1].mean(axis=1).var()
    assert series[observed][..., 1].mean(dim=1).var() == pytest.approx(level, rel=0.15)
