"""How often the 95 % intervals of the evaluation hold the truth: AUROC of simulated classifiers, whose value is known.

    python scripts/study_intervals.py --studies 400

A classifier of seed s scores subject i with label y as separation * y + effect_i + own_si. `effect` is what all seeds
make of a subject alike: none; shared, half of the spread and the same for two arms; or own, a quarter the same for both
and a quarter of each arm. One in ten subjects is positive. Prints for each case how often intervals of levels (of one
arm) and of differences (of two arms on the same subjects) hold the truth, and how often a true difference is found of
the size that these errors and degrees of freedom find in 80 % of studies by `smallest_visible`.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from scipy.stats import norm

from tardiff.evaluation.frame import SUBJECT_FREEDOM, SUBJECT_VARIANCE, long_frame, summaries
from tardiff.evaluation.intervals import main_subject_variance, smallest_visible, standard_error, subject_freedom
from tardiff.evaluation.metrics import auroc
from tardiff.evaluation.protocol import subject_weights

EFFECTS = {"none": (0.0, 0.0), "shared": (0.5, 0.0), "own": (0.25, 0.25)}
"""The shares of the spread that are the effect of a subject on both arms, and on one."""


def study(generator: np.random.Generator, seeds: int, positives: int, effect: str, separation: float = 1.0,
          resamples: int = 200) -> tuple[dict, dict, float, float]:
    """Return the summaries of a level and of a difference whose truth is 0, of one study, and the standard error of the
    latter with its degrees of freedom."""
    y = np.repeat([0, 1], [9 * positives, positives])
    subjects, of_both, arms = np.arange(len(y)), generator.normal(size=len(y)), []
    weights = subject_weights(subjects, resamples, int(generator.integers(2**31)))
    shared, own = EFFECTS[effect]
    for _ in range(2):
        of_subjects = np.sqrt(shared) * of_both + np.sqrt(own) * generator.normal(size=len(y))
        of_fits = np.sqrt(1 - shared - own) * generator.normal(size=(seeds, len(y)))
        separations = separation + 0.1 * generator.normal(size=(seeds, 1))
        scores = norm.cdf(separations * y + of_subjects + of_fits)
        fits = [np.column_stack([1 - score, score]) for score in scores]
        arms.append((np.array([auroc(y, fit)[0] for fit in fits]), np.array([auroc(y, fit, weights) for fit in fits])))
    (level, resampled_level), (other, resampled_other) = arms
    freedom = subject_freedom(y, subjects)
    rows = [("set", "TSTR", "", SUBJECT_FREEDOM, None, None, freedom)]
    for key, values, resampled in (("auroc", level, resampled_level),
                                   ("auroc_minus_trtr", level - other, resampled_level - resampled_other)):
        rows += [("set", "TSTR", "", key, None, number, value) for number, value in enumerate(values)]
        rows.append(("set", "TSTR", "", key + SUBJECT_VARIANCE, None, None, main_subject_variance(resampled, freedom)))
    found = summaries(long_frame(rows))["set", "TSTR", ""]
    difference = found["auroc_minus_trtr"]
    return found["auroc"], difference, *standard_error(difference["sd"] ** 2, seeds, difference["subject_variance"],
                                                       freedom)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400, help="simulated studies per case")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10, 20])
    parser.add_argument("--positives", type=int, nargs="+", default=[5, 10, 20, 60, 200])
    parser.add_argument("--effects", nargs="+", choices=EFFECTS, default=list(EFFECTS))
    parser.add_argument("--separation", type=float, default=1.0, help="1: AUROC 0.76; 2.5: 0.96; 3.3: 0.99")
    options = parser.parse_args()
    truth = float(norm.expect(lambda separation: norm.cdf(separation / np.sqrt(2)), loc=options.separation, scale=0.1))
    print("seeds positives effect  level held  difference held  width  found of 0.80")
    for seeds, positives, effect in itertools.product(options.seeds, options.positives, options.effects):
        generator = np.random.default_rng(0)
        levels, differences, errors, freedoms = zip(
            *(study(generator, seeds, positives, effect, options.separation) for _ in range(options.studies)),
            strict=True)
        size = smallest_visible(np.mean(np.square(errors)), np.median(freedoms))
        held = np.mean([level["low"] <= truth <= level["high"] for level in levels])
        low, high = np.array([[difference["low"], difference["high"]] for difference in differences]).T
        print(f"{seeds:5d} {positives:9d} {effect:>6} {held:11.3f} {np.mean((low <= 0) & (high >= 0)):16.3f} "
              f"{np.mean(high - low):6.3f} {np.mean(low + size > 0):14.3f}", flush=True)


if __name__ == "__main__":
    main()
