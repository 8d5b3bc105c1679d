"""The search for a guidance scale, on separabilities in closed form."""

import math

import pytest
from scipy.stats import norm

from tardiff.influence.scale import TRIES, matched_scale


@pytest.mark.parametrize("truth", [0.03, 0.25, 0.7, 1.0, 2.5, 9.0])
@pytest.mark.parametrize("shape", [lambda scale: scale, lambda scale: 3 * scale, math.log1p])
def test_the_crossing_is_found_in_few_tries(truth, shape):
    """Guidance that shifts a class by shape(scale): scores N(0, 1) and N(0.6 + shape, 1) have AUROC Phi(. / sqrt 2)."""
    asked = []

    def separability(scale):
        asked.append(scale)
        return norm.cdf((0.6 + shape(scale)) / math.sqrt(2))

    found = matched_scale(separability, separability(truth))
    assert len(asked) - 1 <= TRIES == 4 and list(found.tried) == asked[1:]
    assert found.tried[found.scale] == pytest.approx(found.target, abs=0.015 if truth <= 1 else 0.04)


def test_series_that_are_separable_already_need_no_guidance():
    found = matched_scale(lambda scale: 0.8 + scale, 0.8)
    assert found.scale == 0 and found.tried == {0.0: 0.8}


def test_out_of_reach_the_best_scale_that_was_tried_is_kept():
    found = matched_scale(lambda scale: 0.6 + 0.1 * (scale == 4), 0.9)
    assert found.scale == 4 and list(found.tried) == [0, 1, 4, 16]
