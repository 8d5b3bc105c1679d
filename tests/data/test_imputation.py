"""Filling gaps, against a plain loop."""

import numpy as np
import pytest

from tardiff.data.imputation import RULES, Imputation, forward_fill, interpolate

NAN = np.nan


def test_forward_fill_agrees_with_a_loop_and_never_crosses_stays_or_looks_ahead():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(20, 12, 3))
    x[generator.random(x.shape) < 0.7] = NAN
    expected = x.copy()
    for stay in expected:
        for step in range(1, len(stay)):
            for channel in range(stay.shape[1]):
                if np.isnan(stay[step, channel]):
                    stay[step, channel] = stay[step - 1, channel]
    np.testing.assert_array_equal(forward_fill(x), expected)
    changed = x.copy()
    changed[:, 6:] = 999
    np.testing.assert_array_equal(forward_fill(changed)[:, :6], expected[:, :6])


def gappy(dtype=np.float64):
    generator = np.random.default_rng(2)
    x = generator.normal(size=(30, 12, 3)).astype(dtype)
    x[generator.random(x.shape) < 0.7] = NAN
    x[0, :, 1] = NAN
    return x


def test_interpolation_agrees_with_numpy_one_series_at_a_time():
    x = gappy()
    expected = x.copy()
    for series in expected:
        for values in series.T:
            observed = np.flatnonzero(~np.isnan(values))
            if len(observed):
                values[:] = np.interp(np.arange(len(values)), observed, values[observed])
    np.testing.assert_allclose(interpolate(x), expected, rtol=1e-12, atol=1e-12)
    assert np.isnan(interpolate(x)[0, :, 1]).all()


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_keeps_what_was_observed_and_leaves_no_gap(rule):
    x = gappy(np.float32)
    filled = Imputation(rule, [7.0, 8.0, 9.0]).fill(x)
    assert filled.dtype == np.float32 and not np.isnan(filled).any()
    np.testing.assert_array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])
    assert (filled[0, :, 1] == 8).all()


def test_the_rules_by_hand():
    x = np.array([NAN, 2, NAN, NAN, 8, NAN])[None, :, None]
    filled = {rule: Imputation(rule, [5.0]).fill(x).ravel().tolist() for rule in RULES}
    assert filled == {"forward": [5, 2, 2, 2, 8, 8], "linear": [2, 2, 4, 6, 8, 8], "median": [5, 2, 5, 5, 8, 5]}
