"""Numbers as text, and what an interval says."""

import numpy as np
import pytest

from tardiff.evaluation.summary import GAIN, LOSS, NEITHER, TOO_FEW, number, seen_beforehand, spread, verdict


@pytest.mark.parametrize(("mean", "p", "expected"), [
    (0.02, 0.049, GAIN), (-0.02, 0.001, LOSS), (0.02, 0.05, NEITHER), (-0.02, 1.0, NEITHER)])
def test_a_gain_or_a_loss_is_what_the_adjusted_p_shows(mean, p, expected):
    assert verdict({"mean": mean, "p": 0.0, "p_adjusted": p, "values": [0.1, 0.2, 0.3]}) == expected
    assert verdict({"mean": mean, "p": 0.0, "p_adjusted": p, "values": [0.1, 0.2]}) == TOO_FEW


def test_what_the_scored_rows_can_show_is_said_of_their_subjects_and_rarest_class():
    said = seen_beforehand(np.repeat([0, 1, 1], 40), np.repeat(np.arange(60), 2), ["died", "survived"])
    assert said.startswith("On these 60 subjects (20 of class died)") and "AUROC" in said


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
