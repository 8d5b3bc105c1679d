"""Advice: what is said of a choice comes of rows that it was not made on."""

from types import SimpleNamespace

import numpy as np
import pytest

from tardiff.data.format import Split
from tardiff.evaluation.advice import LEAST_GAIN, advise
from tardiff.evaluation.frame import MIXED
from tardiff.evaluation.protocol import Arm

ROWS, PIECES, SEEDS = 300, 3, 3
Y = np.tile([0, 0, 1], ROWS // 3)
PROTOCOL = SimpleNamespace(
    scored=Split(np.zeros((ROWS, 1, 1), np.float32), Y), selection=Split(np.zeros((ROWS, 1, 1), np.float32), Y),
    pieces=[(slice(start, start + 100),) * 2 for start in range(0, ROWS, 100)], positive=1,
    real_rows=lambda arm: 0, dataset_number=lambda arm, seed: None)
TRTR, CONTROL = Arm("TRTR"), Arm("mixup")


def results_of(separations, seed):
    """Return predictions of arms that see the classes so far apart, on patients who are as hard for all of them."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=ROWS)

    def of_fit(separation):
        score = separation * Y + shared + 0.5 * generator.normal(size=ROWS)
        p = 1 / (1 + np.exp(-score))
        return np.stack([1 - p, p], axis=1)

    return {arm: [(of_fit(separation),) * 2 for _ in range(SEEDS)] for arm, separation in separations.items()}


def advice(separations, seed=0):
    return advise(results_of(separations, seed), PROTOCOL, "", "auroc", 40)


@pytest.mark.parametrize(("control", "made", "expected"), [
    (1.0, 2.5, "made"), (2.5, 2.3, "mixup"), (2.5, 1.0, "mixup"), (1.0, 1.0, "TRTR")])
def test_what_is_better_is_advised(control, made, expected):
    sets = {Arm("TSTR", "made"): made, Arm("TSRTR", "made", 1.0): 0.8}
    found = advice({TRTR: 1.0, CONTROL: control} | sets)
    assert {"made": found.arm.synthetic == "made", "mixup": found.arm == CONTROL, "TRTR": found.arm == TRTR}[expected]
    assert (found.gain["mean"] > LEAST_GAIN) == (expected == "made")


@pytest.mark.parametrize("made", [0.9, 1.1])
def test_a_difference_that_is_rarely_shown_is_mostly_decided_rightly(made):
    found = [advice({TRTR: 1.0, Arm("TSTR", "made"): made}, seed) for seed in range(40)]
    assert sum(one.gain["low"] > 0 or one.gain["high"] < 0 for one in found) < 20
    assert sum((one.arm.synthetic is not None) == (made > 1) for one in found) >= 30


def test_among_many_arms_that_gain_nothing_few_are_shown_and_the_gain_of_the_best_is_not_flattered():
    sets = {Arm("TSTR", f"set{number}"): 1.0 for number in range(8)}
    found = [advice({TRTR: 1.0, CONTROL: 1.0} | sets, seed) for seed in range(60)]
    assert sum(one.gain["low"] > 0 for one in found) <= 6  # By chance 1 or 2 of 60.
    means = [one.gain["mean"] for one in found]
    assert abs(np.mean(means)) < 3 * np.std(means) / np.sqrt(len(means))


def test_the_weight_of_a_mixed_arm_is_told():
    mixed = {Arm(MIXED, "made", weight=weight): separation for weight, separation in ((0.1, 1.0), (0.5, 3.0))}
    found = advice({TRTR: 1.0} | mixed)
    assert found.arm == Arm(MIXED, "made") and found.weights == [0.5] * PIECES and found.control_gain is None
