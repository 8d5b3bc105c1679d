"""TimesNet against a loop written from its equations, published sizes, fixed periods, second derivatives."""

import math

import numpy as np
import pytest
import torch
from by_hand import perturbed
from derivatives import assert_derivatives_are_right, assert_double_backward_is_finite
from torch import nn

from classifier.timesnet import TimesBlock, TimesNet, sinusoidal_positions
from tardiff.utils.errors import UserError

ERF = np.vectorize(math.erf)


def gelu(value):
    return value * 0.5 * (1 + ERF(value / math.sqrt(2)))


def weights_of(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def loop_inception(grid: dict, rows: int, columns: int, weights: dict, prefix: str) -> dict:
    """Average the kernels tap by tap over a grid {(row, column): vector}."""
    count = len([name for name in weights if name.startswith(prefix) and name.endswith("weight")])
    result = {}
    for row in range(rows):
        for column in range(columns):
            total = 0
            for i in range(count):
                kernel = weights[f"{prefix}kernels.{i}.weight"]
                total = total + weights[f"{prefix}kernels.{i}.bias"]
                for down in range(-i, i + 1):
                    for right in range(-i, i + 1):
                        cell = grid.get((row + down, column + right))
                        if cell is not None:
                            total = total + kernel[:, :, i + down, i + right] @ cell
            result[row, column] = total / count
    return result


def loop_block(x: np.ndarray, frequencies: list[int], weights: dict, prefix: str = "") -> np.ndarray:
    """One TimesBlock on one series `x (L, d)`: explicit Fourier sums, explicit folding, one tap at a time."""
    length, width = x.shape
    time = np.arange(length)
    amplitudes = []
    for frequency in frequencies:
        angle = 2 * np.pi * frequency * time / length
        amplitudes.append(np.mean([math.hypot(x[:, d] @ np.cos(angle), x[:, d] @ np.sin(angle)) for d in range(width)]))
    shares = np.exp(amplitudes) / np.exp(amplitudes).sum()
    result = x.copy()
    for frequency, share in zip(frequencies, shares, strict=True):
        period = length // frequency
        rows = math.ceil(length / period)
        grid = {divmod(t, period): x[t] if t < length else np.zeros(width) for t in range(rows * period)}
        grid = loop_inception(grid, rows, period, weights, f"{prefix}convolutions.0.")
        grid = {cell: gelu(value) for cell, value in grid.items()}
        grid = loop_inception(grid, rows, period, weights, f"{prefix}convolutions.2.")
        for t in range(length):
            result[t] += share * grid[divmod(t, period)]
    return result


def loop_timesnet(x: np.ndarray, model: TimesNet) -> np.ndarray:
    """Logits of one series `x (L, C)`."""
    weights, length = weights_of(model), len(x)
    positions = model.positions.numpy()
    kernel = weights["token.weight"]
    features = np.zeros((length, len(kernel)))
    for t in range(length):
        for d in range(len(kernel)):
            features[t, d] = positions[t, d] + sum(kernel[d, :, tap] @ x[(t + tap - 1) % length] for tap in range(3))
    for block in range(len(model.blocks)):
        features = loop_block(features, weights["frequencies"].tolist(), weights, f"blocks.{block}.")
        centred = features - features.mean(axis=1, keepdims=True)
        features = centred / np.sqrt((centred ** 2).mean(axis=1, keepdims=True) + 1e-5)
        features = features * weights["norm.weight"] + weights["norm.bias"]
    return weights["head.weight"] @ gelu(features).reshape(-1) + weights["head.bias"]


def fitted(length=24, channels=3, dtype=torch.float64, **sizes) -> TimesNet:
    """A small TimesNet in evaluation mode whose periods come from random training data."""
    torch.manual_seed(0)
    model = TimesNet(length, channels, 2, **{"d_model": 4, "d_ff": 6, "num_kernels": 3, **sizes}).to(dtype).eval()
    model.fit_periods(torch.randn(32, length, channels, dtype=dtype))
    return model


def draw(rows, length=24, channels=3, seed=1, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(rows, length, channels, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sinusoids(length: int, cycles_and_amplitudes: list[tuple[int, float]], rows=20, channels=3) -> torch.Tensor:
    """Series with the given cycles per series, random phases, a large constant part and a little noise."""
    generator = np.random.default_rng(2)
    time = np.arange(length)[None, :, None]
    x = 50 + 0.05 * generator.normal(size=(rows, length, channels))
    for cycles, amplitude in cycles_and_amplitudes:
        phase = generator.uniform(0, 2 * np.pi, size=(rows, 1, channels))
        x = x + amplitude * np.sin(2 * np.pi * cycles * time / length + phase)
    return torch.from_numpy(x)


@pytest.mark.parametrize(("d_model", "d_ff", "published"), [(16, 32, 587_506), (32, 64, 2_346_466)])
def test_size_is_the_published_one_less_the_unused_time_feature_layer(d_model, d_ff, published):
    model = TimesNet(24, 7, 2, d_model=d_model, d_ff=d_ff)
    unused_time_features = nn.Linear(4, d_model, bias=False).weight.numel()
    assert sum(parameter.numel() for parameter in model.parameters()) + unused_time_features == published


@pytest.mark.parametrize(("length", "frequencies"), [
    (24, [4, 3, 1]),    # whole cycles, and one grid of a single row
    (25, [3, 4, 7]),    # 25 is no multiple of 8, 6 or 3: the last row is filled with zeros
    (24, [9, 10, 12]),  # 9 and 10 share period 2
])
def test_block_equals_loop_written_from_the_equations(length, frequencies):
    torch.manual_seed(5)
    block = perturbed(TimesBlock(3, 4, num_kernels=6).double())
    x = draw(2, length)
    periods = [length // frequency for frequency in frequencies]
    observed = block(x, torch.tensor(frequencies), periods).detach().numpy()
    expected = np.stack([loop_block(row, frequencies, weights_of(block)) for row in x.numpy()])
    np.testing.assert_allclose(observed, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", (24, 25))
def test_logits_equal_loop_written_from_the_equations(length):
    model = perturbed(fitted(length))
    x = draw(2, length)
    expected = np.stack([loop_timesnet(row, model) for row in x.numpy()])
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("d_model", (6, 5))
def test_positions_are_the_published_sines_and_cosines(d_model):
    observed = sinusoidal_positions(300, d_model)
    for step in (0, 1, 7, 299):
        for d in range(d_model):
            angle = step / 10000.0 ** ((d - d % 2) / d_model)
            assert observed[step, d] == pytest.approx(math.cos(angle) if d % 2 else math.sin(angle), abs=1e-7)


@pytest.mark.parametrize("length", (24, 25))
def test_logits_do_not_depend_on_the_batch(length):
    model, x = fitted(length), draw(7, length)
    whole = model(x)
    for size in (1, 3, 5):
        pieces = torch.cat([model(piece) for piece in x.split(size)])
        torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    torch.testing.assert_close(model(x[order]), whole[order], rtol=0, atol=1e-12)
    dominant = 1e3 * sinusoids(length, [(8, 1.0)], rows=9)
    torch.testing.assert_close(model(torch.cat([dominant, x]))[9:], whole, rtol=0, atol=1e-12)


def test_fitted_frequencies_are_those_of_the_training_sinusoids_strongest_first():
    model = fitted(top_k=2)
    period_6, period_8 = 24 // 6, 24 // 8
    model.fit_periods(sinusoids(24, [(period_6, 2.0), (period_8, 1.0)]))
    assert model.frequencies.tolist() == [period_6, period_8]
    model.fit_periods(sinusoids(24, [(period_6, 1.0), (period_8, 2.0)]).float())
    assert model.frequencies.tolist() == [period_8, period_6]


def test_fitted_frequencies_pool_all_rows_and_channels():
    model = fitted(channels=2, top_k=2)
    weak, strong = (sinusoids(24, [cycles], rows=3000, channels=1) for cycles in ((2, 0.2), (5, 1.0)))
    many = torch.cat([weak, strong], dim=2)
    few_but_strong = sinusoids(24, [(7, 4.0)], rows=1500, channels=2)
    model.fit_periods(torch.cat([many, few_but_strong]))
    # Summed over rows and channels: bin 7 has 2 * 1500 * 4, bin 5 has 3000 * 1, bin 2 has 3000 * 0.2.
    assert model.frequencies.tolist() == [7, 5]


def test_constant_training_data_never_selects_the_constant_bin():
    model = fitted(top_k=12)
    model.fit_periods(torch.full((4, 24, 3), 5.0))
    assert sorted(model.frequencies.tolist()) == list(range(1, 13))
    assert model(draw(2)).isfinite().all()


def test_frequencies_travel_with_the_state_dict():
    model, x = fitted(), draw(3)
    fresh = TimesNet(24, 3, 2, d_model=4, d_ff=6, num_kernels=3).double().eval()
    fresh.load_state_dict(model.state_dict())
    assert model.state_dict()["frequencies"].dtype == torch.int64
    assert torch.equal(fresh(x), model(x))


def test_forward_before_fitting_says_what_to_call():
    with pytest.raises(RuntimeError, match="fit_periods"):
        TimesNet(24, 3, 2)(torch.zeros(1, 24, 3))


@pytest.mark.parametrize(("length", "top_k", "limit"), [(24, 13, 12), (25, 13, 12), (5, 3, 2), (24, 0, 12)])
def test_top_k_outside_the_frequency_bins_says_what_to_change(length, top_k, limit):
    with pytest.raises(UserError, match=f"Set top_k between 1 and {limit}"):
        TimesNet(length, 3, 2, top_k=top_k)
    assert TimesNet(length, 3, 2, top_k=limit).frequencies.shape == (limit,)


def test_first_and_second_derivatives_are_right():
    model = fitted(length=5, channels=1, d_model=2, d_ff=1, num_blocks=1, top_k=2, num_kernels=2)
    assert_derivatives_are_right(model, draw(2, 5, 1))


@pytest.mark.parametrize("value", ("random", "constant", "zero"))
def test_double_backward_is_finite_at_full_size(value):
    model = fitted(24, 7, torch.float32, d_model=16, d_ff=32, num_kernels=6)
    inputs = {"random": draw(4, 24, 7).float(), "constant": torch.full((4, 24, 7), 3.0), "zero": torch.zeros(4, 24, 7)}
    assert_double_backward_is_finite(model, inputs[value])
