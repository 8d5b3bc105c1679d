"""Fidelity metrics against plain loops, scipy and closed forms, and the table that the report iterates over."""

from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch

from tardiff.data.normalize import Normalizer
from tardiff.data.simulator import simulate_cohort
from tardiff.evaluation import fidelity
from tardiff.evaluation.fidelity import (
    FIDELITY,
    FidelityData,
    _autocorrelations,
    autocorrelation_distance,
    correlational_score,
    extremes,
    marginal_distances,
    matched_noise,
    maximum_mean_discrepancy,
)
from tardiff.evaluation.ts2vec import train_encoder

CPU = torch.device("cpu")
METRICS = {metric.name: metric for metric in FIDELITY}
TRAINED = ("discriminative", "discriminative_timegan", "predictive", "predictive_timegan")


@pytest.fixture(scope="module")
def stays():
    """Normalised simulated stays (N, 24, 7), train and test."""
    splits, _ = simulate_cohort(1500, seed=7, ratios=(0.4, 0.2, 0.4))
    normalizer = Normalizer.fit("zscore", splits["train"].x)
    return normalizer.transform(splits["train"].x), normalizer.transform(splits["test"].x)


@pytest.fixture(scope="module")
def encoder(stays):
    return train_encoder(stays[0], seed=0, iterations=10)


def series(rows=40, length=7, channels=3, seed=0):
    generator = np.random.default_rng(seed)
    walks = generator.standard_normal((rows, length, channels)).cumsum(axis=1)
    x = walks @ generator.standard_normal((channels, channels))
    return x.astype(np.float32)


def test_matched_noise_has_the_moments_of_each_channel_and_no_memory(stays):
    real, _ = stays
    noise = matched_noise(real, 0)
    assert noise.shape == real.shape and noise.dtype == np.float32
    np.testing.assert_allclose(noise.mean(axis=(0, 1)), real.mean(axis=(0, 1)), atol=0.03)
    np.testing.assert_allclose(noise.std(axis=(0, 1)), real.std(axis=(0, 1)), rtol=0.03)
    assert abs(np.mean(noise[:, 1:] * noise[:, :-1])) < 0.01
    assert np.array_equal(noise, matched_noise(real, 0)) and not np.array_equal(noise, matched_noise(real, 1))


def test_correlations_are_those_of_numpy():
    """Every row of a set is the same window, so that all random subsets are alike."""
    windows = [series(1, 9, 4, seed)[0] for seed in (0, 1)]
    real, synthetic = (np.repeat(window[None], 50, axis=0) for window in windows)
    differences = np.abs(np.corrcoef(windows[0].T) - np.corrcoef(windows[1].T))
    total = sum(differences[i, j] for i in range(4) for j in range(i + 1))
    scores = correlational_score(real, synthetic, 0)
    assert scores["score"] == pytest.approx(total / 10, rel=1e-5)
    assert scores["per_pair"] == pytest.approx(total / 6, rel=1e-5)
    assert scores["rows"] == 10
    assert correlational_score(3 * real + 5, synthetic, 0) == pytest.approx(scores, rel=1e-4), "each by its own moments"


def test_correlational_score_of_one_channel_and_of_constants():
    x, y = (np.random.default_rng(seed).normal(size=(2000, 12, 3)).astype(np.float32) for seed in (0, 1))
    assert np.isnan(correlational_score(x[..., :1], x[..., :1], 0)["score"])
    y[..., 0] = 2
    assert correlational_score(x, y, 0)["per_pair"] < 0.03  # Uncorrelated with the others, as the real channel is.


def loop_autocorrelations(x):
    """Row by row, lag by lag: (L // 2, C)."""
    length, channels = x.shape[1:]
    result = np.zeros((length // 2, channels))
    for c in range(channels):
        for lag in range(1, length // 2 + 1):
            covariance = variance = 0.0
            for row in x[..., c].astype(np.float64):
                row = row - row.mean()
                covariance += sum(row[t] * row[t + lag] for t in range(length - lag))
                variance += sum(row * row)
            result[lag - 1, c] = covariance / variance
    return result


@pytest.mark.parametrize("length", [2, 7, 8])
def test_the_autocorrelation_distance_is_that_of_a_plain_loop(length):
    real, synthetic = series(30, length), series(20, length, seed=1)
    expected = np.abs(loop_autocorrelations(real) - loop_autocorrelations(synthetic)).mean(axis=0)
    distances = autocorrelation_distance(real, synthetic)
    assert distances["distance"] == pytest.approx(expected.mean(), rel=1e-9)
    assert [distances[f"distance_{c}"] for c in range(3)] == pytest.approx(expected, rel=1e-9)


def test_the_autocorrelation_of_a_long_autoregression_is_the_power_of_its_memory():
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((300, 400))
    x = noise.copy()
    for t in range(1, 400):
        x[:, t] = 0.5 * x[:, t - 1] + np.sqrt(0.75) * noise[:, t]
    np.testing.assert_allclose(_autocorrelations(x[..., None])[:6, 0], 0.5 ** np.arange(1, 7), atol=0.015)
    np.testing.assert_allclose(_autocorrelations(noise[..., None])[:, 0], 0, atol=0.015)


def test_autocorrelation_of_constants_and_blocks(monkeypatch):
    x = series(50)
    flat = np.repeat(x[:, :1], 7, axis=1) + np.float32(0.1)
    against_flat = autocorrelation_distance(x, flat)["distance"]
    assert against_flat == pytest.approx(np.abs(loop_autocorrelations(x)).mean(), rel=1e-9)
    assert autocorrelation_distance(flat, flat)["distance"] == 0
    assert autocorrelation_distance(5 * x + 2, x)["distance"] == pytest.approx(0, abs=1e-5)
    assert np.isnan(autocorrelation_distance(x[:, :1], x[:, :1])["distance"])
    expected = autocorrelation_distance(x, x[:, ::-1] + x)
    monkeypatch.setattr(fidelity, "_BLOCK", 7)
    assert autocorrelation_distance(x, x[:, ::-1] + x) == pytest.approx(expected, rel=1e-9)


def test_marginal_distances_are_those_of_plain_loops():
    real, synthetic = np.round(series(), 1), np.round(series(seed=1), 1)  # Rounded as a monitor would: with ties.
    distances = marginal_distances(real, synthetic)
    for c in range(3):
        sides = real[..., c].ravel(), synthetic[..., c].ravel()
        gaps = [np.mean(sides[0] <= value) - np.mean(sides[1] <= value) for value in np.concatenate(sides)]
        assert distances[f"ks_{c}"] == pytest.approx(np.abs(gaps).max(), rel=1e-9)
        sorted_gap = np.abs(np.sort(sides[0]).astype(float) - np.sort(sides[1])).mean()
        assert distances[f"wasserstein_{c}"] == pytest.approx(sorted_gap, rel=1e-6)
    assert distances["ks"] == pytest.approx(np.mean([distances[f"ks_{c}"] for c in range(3)]))
    assert distances["wasserstein"] == pytest.approx(np.mean([distances[f"wasserstein_{c}"] for c in range(3)]))


def test_marginal_distances_of_a_shift_and_of_a_copy():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2000, 10, 1), dtype=np.float32)
    shifted = marginal_distances(x, x + np.float32(0.5))
    assert shifted["wasserstein"] == pytest.approx(0.5, rel=1e-5)
    assert shifted["ks"] == pytest.approx(2 * scipy.stats.norm.cdf(0.25) - 1, abs=0.015)
    assert marginal_distances(x, x[::-1]) == {"ks": 0, "ks_0": 0, "wasserstein": 0, "wasserstein_0": 0}


def test_many_values_are_represented_by_their_quantiles(monkeypatch):
    generator = np.random.default_rng(0)
    real, synthetic = generator.standard_normal((500, 10, 1)), generator.standard_normal((400, 10, 1)) * 1.2
    exact = marginal_distances(real, synthetic)
    monkeypatch.setattr(fidelity, "_MOST_QUANTILES", 1000)
    thinned = marginal_distances(real, synthetic)
    assert thinned["ks"] == pytest.approx(exact["ks"], abs=1e-3) and thinned["ks"] != exact["ks"]
    assert thinned["wasserstein"] == pytest.approx(exact["wasserstein"], abs=2e-3)


def test_implausible_values_are_counted_by_channel():
    generator = np.random.default_rng(0)
    real, synthetic = (generator.standard_normal((2500, 20, 2)).astype(np.float32) for _ in range(2))
    found = extremes(real, synthetic)
    assert found["outside_0"] == pytest.approx(0.002, abs=0.0006) and found["at_bound_0"] == pytest.approx(2 / 50_000)
    synthetic[:250, :, 1] = 9  # A tenth.
    synthetic[250:375, :, 1] = -9
    found = extremes(real, synthetic)
    assert found["outside_1"] == pytest.approx(0.15 + 0.85 * 0.002, abs=0.0006) and found["at_bound_1"] == 0.15
    assert found["outside"] == pytest.approx((found["outside_0"] + found["outside_1"]) / 2)


def test_the_discrepancy_is_that_of_a_plain_loop():
    real, synthetic = series(25), series(25, seed=1)
    flat = [x.reshape(25, -1).astype(np.float64) for x in (real, synthetic)]

    def squared(a, b):
        return ((a - b) ** 2).sum()

    distances = [np.sqrt(squared(flat[0][i], flat[0][j])) for i in range(25) for j in range(i)]
    median = np.sort(distances)[len(distances) // 2 - 1]  # Of 300 distances, the lower middle one.

    def kernel(a, b):
        return np.exp(-squared(a, b) / (2 * median**2))

    within = sum(kernel(x[i], x[j]) for x in flat for i in range(25) for j in range(25) if i != j) / (25 * 24)
    across = sum(kernel(a, b) for a in flat[0] for b in flat[1]) / 25**2
    found = maximum_mean_discrepancy(real, synthetic, 0)
    assert found["mmd2"] == pytest.approx(within - 2 * across, abs=1e-6) and found["rows"] == 25
    assert maximum_mean_discrepancy(real, synthetic, 0, block_size=7)["mmd2"] == pytest.approx(found["mmd2"], abs=1e-6)


def test_the_discrepancy_of_two_gaussians_is_the_closed_form():
    """For N(0, I) and N(m, I) in d dimensions and the kernel width s it is
    2 (s^2 / (s^2 + 2))^(d/2) (1 - exp(-|m|^2 / 2(s^2 + 2))); in two dimensions the median distance is 2 sqrt(ln 2)."""
    generator = np.random.default_rng(0)
    real, near, far = generator.standard_normal((3, 3000, 1, 2), dtype=np.float32)
    far[..., 0] += 1
    width2 = 4 * np.log(2)
    expected = 2 * width2 / (width2 + 2) * (1 - np.exp(-1 / (2 * (width2 + 2))))
    assert maximum_mean_discrepancy(real, far, 0)["mmd2"] == pytest.approx(expected, rel=0.08)
    assert abs(maximum_mean_discrepancy(real, near, 0)["mmd2"]) < 0.02 * expected


def test_the_discrepancy_of_a_copy_and_of_identical_rows():
    x = series(300)
    assert abs(maximum_mean_discrepancy(x, x[::-1], 0, max_rows=200)["mmd2"]) < 0.01
    assert maximum_mean_discrepancy(x, x, 0, max_rows=200)["rows"] == 200
    assert maximum_mean_discrepancy(np.zeros_like(x), np.zeros_like(x), 0)["mmd2"] == pytest.approx(0)
    assert np.isnan(maximum_mean_discrepancy(x[:1], x, 0)["mmd2"])


@pytest.fixture
def quick(monkeypatch):
    """Let the table's trained judges and predictors train for a moment only."""
    for name in ("discriminative_score", "predictive_score"):
        monkeypatch.setattr(fidelity, name, partial(getattr(fidelity, name), iterations=3))


@pytest.mark.parametrize("metric", FIDELITY, ids=lambda metric: metric.name)
def test_every_entry_of_the_table_computes_its_columns_whatever_the_order_of_rows(metric, stays, encoder, quick):
    train, test = (x[:100] for x in stays)
    result = metric.compute(FidelityData(test, train, encoder=encoder), 0, CPU)
    assert all(type(value) in (float, int) and np.isfinite(value) for value in result.values())
    expected = {column.key for column in metric.columns}
    if metric.per_channel:
        expected |= {f"{key}_{channel}" for key in expected for channel in range(7)}
    assert expected <= result.keys()
    assert metric.meaning.endswith(".")
    order = np.random.default_rng(0).permutation(100)
    shuffled = metric.compute(FidelityData(test[::-1], train[order], encoder=encoder), 0, CPU)
    assert shuffled == pytest.approx(result, rel=1e-5, abs=1e-9)
    one, other = (metric.compute(FidelityData(test[:40], train[:40], encoder=encoder), seed, CPU) for seed in (1, 2))
    changed = one != other
    assert changed == metric.seeded or metric.name == "mmd"  # With all rows drawn, only the rounding of MMD may change.


def test_names_of_the_table_are_distinct():
    assert len(METRICS) == len(FIDELITY)


@pytest.mark.parametrize("name", [name for name in METRICS if name not in (*TRAINED, "extremes")])
def test_real_series_are_nearer_to_perfect_than_noise(name, stays, encoder):
    train, test = stays
    metric = METRICS[name]
    real = metric.compute(FidelityData(test, train, encoder=encoder), 0, CPU)
    noise = metric.compute(FidelityData(test, matched_noise(train, 0), encoder=encoder), 0, CPU)
    for column in metric.columns:
        assert 1.5 * abs(real[column.key] - column.perfect) < abs(noise[column.key] - column.perfect)


@pytest.mark.parametrize("name", [name for name in METRICS if name not in (*TRAINED, "correlational", "extremes")])
def test_a_copy_is_perfect(name, stays, encoder):
    _, test = stays
    metric = METRICS[name]
    copy = metric.compute(FidelityData(test, test.copy(), encoder=encoder), 0, CPU)
    assert [copy[column.key] for column in metric.columns] == pytest.approx([0] * len(metric.columns), abs=2e-3)
