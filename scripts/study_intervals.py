"""How often the 95 % intervals of the evaluation hold the truth: AUROC of simulated classifiers, whose value is known.

    python scripts/study_intervals.py --studies 400

A classifier of seed s scores subject i with label y as separation * y + shared_i + own_si: `shared` is what all seeds
make of a subject alike, the subject effect; its share of the spread is varied, as are seeds and positive subjects.
Intervals of levels are those of one arm, of differences those of two arms on the same subjects. Prints one line for
each case.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from scipy.stats import norm

from tardiff.evaluation.frame import SUBJECT_VARIANCE, long_frame, main_subject_variance, summaries
from tardiff.evaluation.metrics import auroc
from tardiff.evaluation.protocol import subject_weights


def intervals(generator: np.random.Generator, seeds: int, positives: int, shared: float, seed_spread: float,
              resamples: int = 200) -> tuple[dict, dict, float]:
    """Return the summaries of a level and of a difference whose truth is 0, and the true level, of one study."""
    y = np.repeat([0, 1], [9 * positives, positives])
    weights = subject_weights(np.arange(len(y)), resamples, int(generator.integers(2**31)))
    subject = generator.normal(size=len(y)) * np.sqrt(shared)
    arms = []
    for _ in range(2):
        separations = 1 + seed_spread * generator.normal(size=seeds)
        own = generator.normal(size=(seeds, len(y))) * np.sqrt(1 - shared)
        scores = norm.cdf(separations[:, None] * y + subject + own)
        fits = [np.column_stack([1 - score, score]) for score in scores]
        arms.append((np.array([auroc(y, fit)[0] for fit in fits]), np.array([auroc(y, fit, weights) for fit in fits])))
    (level, resampled_level), (other, resampled_other) = arms
    found = {}
    for key, values, resampled in (("auroc", level, resampled_level),
                                   ("auroc_minus_trtr", level - other, resampled_level - resampled_other)):
        rows = [("set", "TSTR", "", key, None, number, value) for number, value in enumerate(values)]
        rows.append(("set", "TSTR", "", key + SUBJECT_VARIANCE, None, None, main_subject_variance(resampled)))
        found[key] = summaries(long_frame(rows))["set", "TSTR", ""][key]
    truth = float(norm.expect(lambda separation: norm.cdf(separation / np.sqrt(2)), loc=1, scale=seed_spread))
    return found["auroc"], found["auroc_minus_trtr"], truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400, help="simulated studies per case")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10, 20])
    parser.add_argument("--positives", type=int, nargs="+", default=[5, 20, 60, 200])
    options = parser.parse_args()
    print("seeds positives shared  level held  difference held  width")
    for seeds, positives, shared in itertools.product(options.seeds, options.positives, (0.0, 0.5)):
        generator, held, width = np.random.default_rng(0), np.zeros(2), 0.0
        for _ in range(options.studies):
            level, difference, truth = intervals(generator, seeds, positives, shared, seed_spread=0.1)
            held += [level["low"] <= truth <= level["high"], difference["low"] <= 0 <= difference["high"]]
            width += (difference["high"] - difference["low"]) / options.studies
        shares = held / options.studies
        print(f"{seeds:5d} {positives:9d} {shared:6.1f} {shares[0]:11.3f} {shares[1]:16.3f} {width:6.3f}", flush=True)


if __name__ == "__main__":
    main()
