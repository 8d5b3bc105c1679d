"""Diffusion-TS against its specification and plain loops: network, loss, optimiser steps, rates, average, samples."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_hand import num_parameters

from tardiff.baselines.diffusion_ts import (
    Config,
    DiffusionTS,
    TrendSeasonTransformer,
    build,
    reconstruction_loss,
    step_weights,
    strongest_frequencies,
)
from tardiff.baselines.interface import Stage
from tardiff.diffusion.schedule import NoiseSchedule
from tardiff.utils.errors import UserError

TINY = {"width": 8, "num_heads": 2, "encoder_blocks": 1, "decoder_blocks": 2, "num_train_timesteps": 6, "batch_size": 4}
STAGE = Stage("diffusion", 100, 4)


def batches(length=12, num_channels=2, rows=4):
    """Return a function that draws batches in [-1, 1] from torch's generator, as the training loop does."""
    def draw():
        return torch.rand(rows, length, num_channels) * 2 - 1, torch.zeros(rows, dtype=torch.int64)
    return draw


@pytest.mark.parametrize(("length", "num_channels", "settings", "expected"), [
    (24, 7, {}, 353_531),
    (24, 7, {"width": 96, "encoder_blocks": 4, "decoder_blocks": 3}, 1_101_301),
    (288, 3, {}, 718_743),
    (256, 16, {}, 656_856),
    (300, 15, {}, 760_347),
    # A season kernel of 5 adds 4 x width x C.
    (256, 16, {"season_kernel": 5}, 656_856 + 4 * 64 * 16),
])
def test_parameters_are_those_of_the_published_code(length, num_channels, settings, expected):
    network = TrendSeasonTransformer(Config(**settings), length, num_channels)
    assert num_parameters(network) == expected


@pytest.mark.parametrize(("length", "count"), [(24, 2), (25, 2), (30, 2), (288, 4)])
def test_the_fourier_block_recovers_known_sinusoids_times_the_length(length, count):
    time = torch.arange(length, dtype=torch.float64)[None, :, None]
    known = sum((3 - index / 2) * torch.cos(2 * math.pi * (2 * index + 1) / length * time + index)
                for index in range(count))
    faint = 0.1 * torch.cos(2 * math.pi * 10 / length * time) + 5
    torch.testing.assert_close(strongest_frequencies(known + faint), length * known)


def strongest_cosines(column):
    """Return L times the part of column (L,) at its strongest frequencies, as a sum of cosines."""
    steps = np.arange(len(column)) / len(column)
    bins = {k: (column * np.exp(-2j * np.pi * k * steps)).sum() for k in range(1, (len(column) - 1) // 2 + 1)}
    strongest = sorted(bins, key=lambda k: -abs(bins[k]))[:int(math.log(len(bins)))]
    # Each bin has a conjugate, which adds the same cosine once more.
    return sum(2 * abs(bins[k]) * np.cos(2 * np.pi * k * steps + np.angle(bins[k])) for k in strongest)


@pytest.mark.parametrize("length", [7, 12, 24, 25])
def test_the_fourier_block_against_a_sum_of_cosines(length):
    x = torch.randn(3, length, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.apply_along_axis(strongest_cosines, 1, x.numpy())
    np.testing.assert_allclose(strongest_frequencies(x), expected, atol=1e-9)


class NetworkByHand:
    """The network as specified, of two blocks each way and two heads, for one series at a time and in float64."""

    def __init__(self, network):
        self.weights = {name: value.double() for name, value in network.state_dict().items()}

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def convolution(self, name, padded):
        """Slide weights over the rows of padded (L + width - 1, inputs)."""
        weight = self.weights[f"{name}.weight"]
        windows = padded.unfold(0, weight.shape[2], 1)
        return torch.einsum("liw,oiw->lo", windows, weight) + self.weights.get(f"{name}.bias", 0)

    def zero_padded(self, name, x):
        return self.convolution(name, F.pad(x, (0, 0, 1, 1)))

    def circular(self, name, x):
        reach = self.weights[f"{name}.weight"].shape[2] // 2
        return self.convolution(name, x[torch.arange(-reach, len(x) + reach) % len(x)])

    def adaptive_norm(self, name, x, t):
        half = x.shape[1] // 2
        angles = t / 10_000 ** (torch.arange(half, dtype=torch.float64) / half)
        scale, shift = self.linear(f"{name}.scale_shift.1", F.silu(torch.cat([angles.cos(), angles.sin()]))).chunk(2)
        return F.layer_norm(x, x.shape[1:]) * (1 + scale) + shift

    def attention(self, name, x, other):
        heads = zip(*(self.linear(f"{name}.{part}", source).chunk(2, dim=1)
                      for part, source in (("query", x), ("key", other), ("value", other))), strict=True)
        attended = [torch.softmax(query @ key.T / math.sqrt(key.shape[1]), dim=1) @ value
                    for query, key, value in heads]
        return self.linear(f"{name}.output", torch.cat(attended, dim=1))

    def perceptron(self, name, x):
        normed = F.layer_norm(x, x.shape[1:], self.weights[f"{name}.0.weight"], self.weights[f"{name}.0.bias"])
        return self.linear(f"{name}.3", F.gelu(self.linear(f"{name}.1", normed)))

    def trend(self, name, x):
        per_feature = F.gelu(self.zero_padded(f"{name}.across_time", x.T))
        first, second, third = self.zero_padded(f"{name}.across_features", per_feature.T)
        time = torch.arange(1, len(x) + 1, dtype=torch.float64)[:, None] / (len(x) + 1)
        return first * time + second * time**2 + third * time**3

    def trend_and_season(self, x_t, t):
        entry = self.zero_padded("entry", x_t)
        encoded, hidden = entry + self.weights["encoder_positions"], entry + self.weights["decoder_positions"]
        trend, season = torch.zeros_like(x_t), torch.zeros_like(hidden)
        for block in ("encoder.0", "encoder.1"):
            normed = self.adaptive_norm(f"{block}.norm", encoded, t)
            encoded = encoded + self.attention(f"{block}.attention", normed, normed)
            encoded = encoded + self.perceptron(f"{block}.perceptron", encoded)
        for block, share in zip(("decoder.0", "decoder.1"), self.weights["mean.weight"].flatten(), strict=True):
            normed = self.adaptive_norm(f"{block}.norm_self", hidden, t)
            hidden = hidden + self.attention(f"{block}.attention_self", normed, normed)
            normed = self.adaptive_norm(f"{block}.norm_cross", hidden, t)
            hidden = hidden + self.attention(f"{block}.attention_cross", normed, encoded)
            for_trend, for_season = self.convolution(f"{block}.split", hidden.T).T.chunk(2)
            hidden = hidden + self.perceptron(f"{block}.perceptron", hidden)
            trend += self.trend(f"{block}.trend", for_trend) + share * self.linear(f"{block}.mean", hidden.mean(dim=0))
            season += torch.from_numpy(np.apply_along_axis(strongest_cosines, 0, for_season.numpy()))
            hidden = hidden - hidden.mean(dim=0)
        residual = self.zero_padded("residual", hidden)
        level = residual.mean(dim=0)
        return trend + level, self.circular("season", season) + residual - level


@pytest.mark.parametrize(("length", "season_kernel"), [(24, 1), (25, 5)])
def test_trend_and_season_are_those_of_the_specification(length, season_kernel):
    torch.manual_seed(0)
    network = TrendSeasonTransformer(Config(**{**TINY, "encoder_blocks": 2}, season_kernel=season_kernel), length, 3)
    # At their first values positions are faint, biases small and layer norms without effect.
    for parameter in network.parameters():
        parameter.data += torch.randn_like(parameter) / 4
    x_t, t = torch.randn(2, length, 3), torch.tensor([1, 5])
    parts = network.trend_and_season(x_t, t)
    torch.testing.assert_close(network(x_t, t), sum(parts))
    for row in range(2):
        expected = NetworkByHand(network).trend_and_season(x_t[row].double(), t[row].item())
        torch.testing.assert_close(tuple(part[row].double() for part in parts), expected, rtol=1e-4, atol=1e-4)


def test_the_loss_against_plain_numpy():
    generator = np.random.default_rng(0)
    x0_pred, x_start = generator.normal(size=(2, 3, 10, 2))
    weights, length = [0.5, 2.0, 1.0], 10
    transform = np.exp(-2j * np.pi * np.outer(np.arange(length), np.arange(length)) / length) / length
    expected = 0.0
    for row in range(3):
        elements = []
        for channel in range(2):
            predicted, real = (transform @ x[row, :, channel] for x in (x0_pred, x_start))
            for step in range(length):
                gap = predicted[step] - real[step]
                elements.append(abs(x0_pred[row, step, channel] - x_start[row, step, channel])
                                + math.sqrt(length) / 5 * (abs(gap.real) + abs(gap.imag)))
        expected += weights[row] * np.mean(elements) / 3
    loss = reconstruction_loss(torch.from_numpy(x0_pred), torch.from_numpy(x_start), torch.tensor(weights))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_step_weights_against_a_loop():
    betas = NoiseSchedule(torch.tensor([0.1, 0.3, 0.999], dtype=torch.float64)).betas
    remaining, expected = 1.0, []
    for beta in betas.tolist():
        remaining *= 1 - beta
        expected.append(math.sqrt(1 - beta) * math.sqrt(1 - remaining) / beta / 100)
    np.testing.assert_allclose(step_weights(betas), expected, rtol=1e-6)


def test_two_accumulated_batches_step_as_one_of_twice_the_size():
    torch.manual_seed(0)
    model = DiffusionTS(Config(**TINY, warmup_steps=0, learning_rate=1e-3, gradient_clip=0.05), 12, 2)
    by_hand, draw = copy.deepcopy(model.network), batches()
    torch.manual_seed(1)
    losses = model.train_step(STAGE, 0, draw)
    torch.manual_seed(1)
    parts = []
    for _ in range(2):
        x_start, _ = draw()
        parts.append((x_start, torch.randint(6, (4,)), torch.randn_like(x_start)))
    x_start, t, noise = (torch.cat(part) for part in zip(*parts, strict=True))
    remaining = NoiseSchedule(model.process.schedule.betas).alphas_cumprod.float()[t][:, None, None]
    output = by_hand(remaining.sqrt() * x_start + (1 - remaining).sqrt() * noise, t)
    loss = reconstruction_loss(output, x_start, model.step_weights[t])
    loss.backward()
    assert losses["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    norm = torch.cat([parameter.grad.flatten() for parameter in by_hand.parameters()]).norm()
    assert norm > 0.05
    for parameter in by_hand.parameters():
        parameter.grad *= 0.05 / norm
    torch.optim.Adam(by_hand.parameters(), lr=1e-3, betas=(0.9, 0.96)).step()
    # Adam's first step divides by the gradient, so that tiny gradients are compared up to their rounding.
    for stepped, expected in zip(model.network.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(stepped.grad, expected.grad, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(stepped, expected, rtol=0, atol=1e-4)


def test_the_rate_rises_linearly_then_halves_on_a_plateau():
    torch.manual_seed(0)
    model = DiffusionTS(Config(**TINY, warmup_steps=5, patience=3, learning_rate=4e-5), 12, 2)
    draw, rates, losses = batches(), [], []
    for step in range(40):
        rates.append(model.optimizers["adam"].param_groups[0]["lr"])
        losses.append(model.train_step(STAGE, step, draw)["loss"].item())
    expected, rate, best, worse = [1e-5], 4e-5, math.inf, 0
    for done, loss in enumerate(losses, start=1):
        if done <= 5:
            expected.append(1e-5 + done / 5 * 3e-5)
            continue
        if loss < 0.9 * best:
            best, worse = loss, 0
        else:
            worse += 1
        if worse > 3:
            rate, worse = max(rate / 2, 1e-5), 0
        expected.append(rate)
    np.testing.assert_allclose(rates, expected[:40], rtol=1e-9)
    assert max(rates) == pytest.approx(4e-5) and rates[-1] == 1e-5


def test_the_average_moves_every_ten_steps_and_makes_the_samples():
    torch.manual_seed(0)
    model = DiffusionTS(Config(**TINY, warmup_steps=0, learning_rate=1e-2), 12, 2)
    name = "season.weight"
    expected, decays = model.average.get_parameter(name).clone(), iter([1 / 10, 2 / 11])
    draw = batches()
    for step in range(20):
        model.train_step(STAGE, step, draw)
        if step in (9, 19):
            decay = next(decays)
            expected = decay * expected + (1 - decay) * model.network.get_parameter(name).detach()
        torch.testing.assert_close(model.average.get_parameter(name), expected)
    labels, samples = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    before = model.sample(labels, samples, 0)
    assert before.abs().max() <= 1
    with torch.no_grad():
        model.network.residual.bias += 1
        assert torch.equal(model.sample(labels, samples, 0), before)
        model.average.residual.bias += 1
    assert not torch.allclose(model.sample(labels, samples, 0), before)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match="width=10 cannot be divided among num_heads=4"):
        build(Config(width=10), 24, 7, 2)


def test_series_too_short_for_the_season_kernel_are_refused():
    with pytest.raises(UserError, match="season_kernel=5: series have 1 time step"):
        build(Config(season_kernel=5), 1, 7, 2)
    build(Config(season_kernel=5), 2, 7, 2).models[0].network(torch.randn(3, 2, 7), torch.zeros(3, dtype=torch.int64))
