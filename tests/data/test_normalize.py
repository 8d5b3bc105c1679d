"""The normalisers against scipy's ranks, their own inverse, and what the file on disk may say."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm, rankdata

from classifier.train import normalized_splits
from tardiff.config import NORMALIZERS as KINDS
from tardiff.data.format import Dataset, Metadata, Split
from tardiff.data.normalize import Normalizer
from tardiff.utils.errors import UserError


def vitals(rows=60, seed=0):
    """Gaussian, log-normal, rounded, and half-missing channels, (rows, 12, 4) float32."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 12, 4))
    x[..., 0] = 80 + 15 * x[..., 0]
    x[..., 1] = np.exp(x[..., 1])
    x[..., 2] = np.round(x[..., 2])
    x[..., 3] = np.where(generator.random((rows, 12)) < 0.5, x[..., 3] - 300, np.nan)
    return x.astype(np.float32)


def assert_inverted(normalizer, x, scale):
    """The round trip is exact to 1e-5 of the larger of the value and `scale`, that of its channel (C,) or of all."""
    restored = normalizer.inverse(normalizer.transform(x))
    observed = np.isfinite(x)
    assert restored.dtype == np.float32
    assert np.all(np.abs(restored - x)[observed] <= 1e-5 * np.maximum(np.abs(x), scale)[observed])


@pytest.mark.parametrize("kind", ["zscore", "minmax", "ecdf", "normal_ecdf"])
def test_training_data_come_back(kind):
    x = vitals()
    assert_inverted(Normalizer.fit(kind, x), x, np.nanmax(x, axis=(0, 1)) - np.nanmin(x, axis=(0, 1)))


def test_training_data_come_back_from_one_map_for_all_channels():
    x = vitals()[..., :3]
    assert_inverted(Normalizer.fit("global_ecdf", x), x, x.max() - x.min())


@pytest.mark.parametrize("kind", ["zscore", "minmax"])
def test_linear_maps_extend_beyond_the_training_range(kind):
    x = vitals()
    normalizer, low, high = Normalizer.fit(kind, x), np.nanmin(x, axis=(0, 1)), np.nanmax(x, axis=(0, 1))
    beyond = np.stack([low - 2 * (high - low), high + 5 * (high - low)])[:, None].astype(np.float32)
    assert_inverted(normalizer, beyond, high - low)
    assert np.all(normalizer.transform(beyond)[0] < normalizer.low) and np.all(
        normalizer.transform(beyond)[1] > normalizer.high)


@pytest.mark.parametrize(("kind", "span"), [("ecdf", 1), ("global_ecdf", 1), ("normal_ecdf", norm.ppf(1 - 0.5 / 720))])
def test_an_ecdf_saturates_beyond_the_training_range(kind, span):
    x = np.random.default_rng(0).normal(size=(60, 12, 4)).astype(np.float32)
    normalizer = Normalizer.fit(kind, x)
    ends = normalizer.transform(np.array([[[-1e6] * 4, [1e6] * 4]], dtype=np.float32))[0]
    np.testing.assert_allclose(ends, [[-span] * 4, [span] * 4], rtol=1e-6)


def test_zscore_has_mean_0_and_deviation_1_and_minmax_spans_minus_1_to_1():
    x = vitals()
    scaled = np.where(np.isnan(x), np.nan, Normalizer.fit("zscore", x).transform(x)).astype(np.float64)
    np.testing.assert_allclose(np.nanmean(scaled, axis=(0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(scaled, axis=(0, 1)), 1, atol=1e-5)
    scaled = Normalizer.fit("minmax", x).transform(x)
    np.testing.assert_allclose([scaled.min(axis=(0, 1)), scaled.max(axis=(0, 1))], [[-1] * 4, [1] * 4], atol=1e-6)


def rescaled_ranks(values):
    ranks = rankdata(values)
    return 2 * (ranks - ranks.min()) / (ranks.max() - ranks.min()) - 1


@given(arrays(np.int64, st.integers(2, 60), elements=st.integers(-5, 5)).filter(lambda values: len(set(values)) > 1))
@settings(max_examples=60, deadline=None)
def test_the_ecdf_is_the_rescaled_mid_rank_or_its_normal_quantile(values):
    x = values.astype(np.float32)[:, None, None]
    np.testing.assert_allclose(Normalizer.fit("ecdf", x).transform(x).ravel(), rescaled_ranks(values), atol=1e-6)
    quantiles = norm.ppf((rankdata(values) - 0.5) / len(values))
    np.testing.assert_allclose(Normalizer.fit("normal_ecdf", x).transform(x).ravel(), quantiles, atol=1e-6)


@given(arrays(np.int64, st.integers(2, 60), elements=st.integers(-5, 5)).filter(lambda values: len(set(values)) > 1))
@settings(max_examples=60, deadline=None)
def test_the_inverse_is_the_empirical_quantile_function(values):
    """Linear between the sorted values, of which the smallest stands at 0.5 / N (numpy calls it hazen)."""
    normalizer, shares = Normalizer.fit("ecdf", values[:, None, None].astype(np.float32)), np.linspace(0, 1, 301)
    middles = rankdata(values) - 0.5
    position = 2 * (shares * len(values) - middles.min()) / (middles.max() - middles.min()) - 1
    restored = normalizer.inverse(position[None, :, None])
    np.testing.assert_allclose(restored.ravel(), np.quantile(values, shares, method="hazen"), atol=1e-5)


@pytest.mark.parametrize("kind", ["ecdf", "normal_ecdf", "global_ecdf"])
def test_point_masses_keep_their_share(kind):
    """Series that are uniform in rank have as many copies of a value as the training rows."""
    generator = np.random.default_rng(0)
    x = np.where(generator.random((500, 8, 1)) < 0.4, 37.0, generator.normal(37, 1, (500, 8, 1))).astype(np.float32)
    normalizer = Normalizer.fit(kind, x)
    uniform = generator.random((500, 8, 1))
    drawn = normalizer.inverse(norm.ppf(uniform) if kind == "normal_ecdf" else 2 * uniform - 1)
    assert abs(np.mean(drawn == 37) - np.mean(x == 37)) < 0.03
    np.testing.assert_allclose(np.quantile(drawn, [0.05, 0.25, 0.75, 0.95]),
                               np.quantile(x, [0.05, 0.25, 0.75, 0.95]), atol=0.15)


def test_the_global_ecdf_ranks_all_channels_together():
    x = vitals()[..., :3]
    scaled = Normalizer.fit("global_ecdf", x).transform(x)
    np.testing.assert_allclose(scaled.ravel(), rescaled_ranks(x.ravel()), atol=1e-6)


@pytest.mark.parametrize(("kind", "expected"), [
    ("ecdf", rescaled_ranks), ("normal_ecdf", lambda values: norm.ppf((rankdata(values) - 0.5) / len(values)))])
def test_an_ecdf_with_more_values_than_knots_stays_close_to_the_rank(kind, expected):
    x = np.random.default_rng(0).lognormal(size=(30_000, 1, 1)).astype(np.float32)
    normalizer = Normalizer.fit(kind, x)
    assert len(normalizer.raw[0]) < 2100
    np.testing.assert_allclose(normalizer.transform(x).ravel(), expected(x.ravel()), atol=5e-3)
    steepest = np.max(np.diff(normalizer.raw[0]) / np.diff(normalizer.normalized[0]))
    rounding = steepest * np.spacing(np.float32(normalizer.high[0])) + 1e-6 * np.abs(x)
    assert np.all(np.abs(normalizer.inverse(normalizer.transform(x)) - x) <= rounding)


@pytest.mark.parametrize("kind", KINDS)
def test_every_map_is_monotone(kind):
    normalizer = Normalizer.fit(kind, vitals())
    grid = np.linspace(-400, 200, 5001, dtype=np.float32)[None, :, None].repeat(4, axis=2)
    assert np.all(np.diff(normalizer.transform(grid), axis=1) >= 0)
    assert np.all(np.diff(normalizer.inverse(grid / 100), axis=1) >= 0)


@pytest.mark.parametrize("kind", KINDS)
def test_low_and_high_are_the_normalised_training_range(kind):
    x = vitals()
    normalizer = Normalizer.fit(kind, x)
    scaled = normalizer.transform(x)
    np.testing.assert_allclose(normalizer.low, scaled.min(axis=(0, 1)), rtol=1e-6)
    np.testing.assert_allclose(normalizer.high, scaled.max(axis=(0, 1)), rtol=1e-6)
    assert np.all(normalizer.low < normalizer.high)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_becomes_the_training_median(kind):
    x = vitals()
    normalizer = Normalizer.fit(kind, x)
    unobserved, medians = np.full((1, 1, 4), np.nan, dtype=np.float32), np.nanmedian(x, axis=(0, 1))[None, None]
    np.testing.assert_allclose(normalizer.transform(unobserved), normalizer.transform(medians), atol=1e-6)
    assert np.isfinite(normalizer.transform(x)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [0.0, 0.1, -273.15, 1e4])
def test_a_constant_channel_is_kept(kind, constant):
    x = np.full((50, 7, 1), constant, dtype=np.float32)
    normalizer = Normalizer.fit(kind, x)
    scaled = normalizer.transform(x)
    assert np.isfinite(scaled).all() and len(np.unique(scaled)) == 1 and abs(scaled).max() <= 1
    np.testing.assert_allclose(normalizer.inverse(scaled), x, rtol=1e-6, atol=1e-6)
    assert scaled.flat[0] == normalizer.low[0] == normalizer.high[0]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_training_split_is_fitted(kind):
    train, y = vitals(), np.arange(60) % 2
    meta = Metadata("toy", list("abcd"), list("abcd"), ["0", "1"])
    datasets = [Dataset(Path("toy"), meta, {"train": Split(train, y), "val": Split(held_out, y)})
                for held_out in (vitals(seed=1), 1000 * vitals(seed=2))]
    fitted = [normalized_splits(dataset, kind)[0] for dataset in datasets]
    assert fitted[0].fingerprint() == fitted[1].fingerprint() == Normalizer.fit(kind, train).fingerprint()
    assert fitted[0].fingerprint() != Normalizer.fit(kind, vitals(seed=1)).fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_normaliser_maps_bit_for_bit_alike(kind, tmp_path):
    normalizer = Normalizer.fit(kind, vitals())
    normalizer.save(tmp_path / "normalizer.json")
    loaded, x = Normalizer.load(tmp_path / "normalizer.json"), vitals(seed=1)
    assert loaded.kind == kind and loaded.fingerprint() == normalizer.fingerprint()
    np.testing.assert_array_equal(loaded.transform(x), normalizer.transform(x))
    np.testing.assert_array_equal(loaded.inverse(x), normalizer.inverse(x))
    for name in ("low", "high", "fill"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(normalizer, name))


@pytest.mark.parametrize("name", ["kind", "raw", "normalized", "fill"])
def test_an_altered_file_is_refused(name, tmp_path):
    path = tmp_path / "normalizer.json"
    Normalizer.fit("zscore", vitals()).save(path)
    content = json.loads(path.read_text())
    if name == "kind":
        content["kind"] = "minmax"
    else:
        values = content[name][0] if isinstance(content[name][0], list) else content[name]
        values[0] -= 0.001
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="does not match its fingerprint"):
        Normalizer.load(path)


@pytest.mark.parametrize("content", ["[]", "{}", "3", '{"kind": "zscore", "raw": 1}', "not json"])
def test_a_file_that_is_no_normaliser_is_refused(content, tmp_path):
    (tmp_path / "normalizer.json").write_text(content)
    with pytest.raises(UserError, match=r"normalizer\.json: (not|expected)"):
        Normalizer.load(tmp_path / "normalizer.json")


def test_another_kind_is_another_normaliser():
    fitted = [Normalizer.fit(kind, vitals()).fingerprint() for kind in KINDS]
    assert len(set(fitted)) == len(KINDS)


def test_what_cannot_be_fitted_or_mapped_is_refused():
    x = vitals()
    x[..., 2] = np.nan
    with pytest.raises(UserError, match="channel 2 has no observed value"):
        Normalizer.fit("zscore", x)
    with pytest.raises(UserError, match=r"expected data of shape \(N, L, 4\)"):
        Normalizer.fit("zscore", vitals()).transform(vitals()[..., :3])
