"""Numbers as text, and what an interval says."""

import pytest

from tardiff.evaluation.summary import GAIN, LOSS, NEITHER, TOO_FEW, number, spread, verdict


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0.01, 0.03, GAIN), (-0.03, -0.01, LOSS), (-0.01, 0.02, NEITHER), (0, 0.1, NEITHER), (-0.1, 0, NEITHER)])
def test_an_interval_is_a_gain_or_a_loss_only_if_it_excludes_0(low, high, expected):
    assert verdict({"low": low, "high": high, "values": [0.1, 0.2, 0.3]}) == expected
    assert verdict({"low": low, "high": high, "values": [0.1, 0.2]}) == TOO_FEW


@pytest.mark.parametrize(("value", "expected"), [
    (None, "-"), (float("nan"), "-"), (0.0, "0.000"), (1e-17, "0.000"), (-0.25, "-0.250"), (0.00123, "0.0012"),
    (0.01, "0.010")])
def test_small_numbers_keep_two_figures(value, expected):
    assert number(value) == expected


@pytest.mark.parametrize(("mean", "sd", "expected"), [
    (0.722, 0.0097, "0.722 (0.010)"), (0.0021, 0.00004, "0.0021 (4e-05)"), (0.5, None, "0.500"),
    (float("nan"), 0.1, "-"), (None, None, "-"), (0.3, 1e-17, "0.300 (0.000)")])
def test_mean_and_deviation_have_decimals_alike(mean, sd, expected):
    assert spread({"mean": mean, "sd": sd}) == expected
