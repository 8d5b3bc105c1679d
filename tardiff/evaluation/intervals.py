"""Inference from few seeds and few subjects: standard errors, intervals, adjusted p values, and what can be seen.

Two sources of chance meet in every number of the utility part: the subjects that are scored, alike for all seeds, and
what each seed makes of them. `scripts/study_intervals.py` measures how often the intervals hold the truth.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import scipy.optimize
import scipy.stats

FEW_SUBJECTS = 20
"""Of the rarest class, below which intervals of levels near 0 and 1 hold the truth in 9 of 10 cases
(study_intervals.py)."""
SMALL_EFFECT = 0.01
POWER = 0.8
ASSUMED_AUROC, ASSUMED_CORRELATION = 0.75, 0.9
"""What `visible_beforehand` assumes of two classifiers before there is one. The AUROCs of two GRUs, trained on
simulated stays, on synthetic ones or on both, were correlated by 0.75 to 0.98 over draws of subjects, in the median by
0.91."""

_MOST_SEEDS = 10**6
_ROUNDING = 1e-12


def subject_counts(y: np.ndarray, subjects: np.ndarray) -> tuple[int, int, int]:
    """Return the class of the fewest subjects, the number of subjects that have rows of it, and of those that have rows
    of any other class.

    y (N,) int64, subjects (N,).
    """
    counts = {int(label): len(np.unique(subjects[y == label])) for label in np.unique(y)}
    rarest = min(counts, key=counts.get)
    return rarest, counts[rarest], len(np.unique(subjects[y != rarest]))


def subject_freedom(y: np.ndarray, subjects: np.ndarray) -> int:
    """Return the degrees of freedom of a variance over subjects: the smaller number of `subject_counts` less 1, at
    least 1. It bounds the Welch-Satterthwaite degrees of freedom of DeLong's two components from below."""
    _, positives, negatives = subject_counts(y, subjects)
    return max(min(positives, negatives) - 1, 1)


def main_subject_variance(resampled: np.ndarray, freedom: float = np.inf) -> float:
    """Return the variance of what a draw of test subjects does to all seeds alike, for values (S, R) by seed and draw.

    The variance over draws is main + own for a single seed and main + own / S for the mean over S seeds, where `own` is
    what a draw does to a seed apart from the others. The variance between seeds holds that already, so that only the
    main effect is added to it. With one seed the two cannot be told apart, and both are returned. A bootstrap of m
    subjects understates variances by (m - 1) / m, which is made up for with m - 1 = `freedom`.
    """
    of_mean, of_one = np.nanvar(resampled.mean(axis=0)), np.nanvar(resampled, axis=1).mean()
    seeds = len(resampled)
    main = of_mean if seeds == 1 else max(0.0, (seeds * of_mean - of_one) / (seeds - 1))
    return float(main * (1 + 1 / freedom))


def standard_error(seed_variance: float, num_seeds: int, subject_variance: float, subject_freedom: float = np.inf
                   ) -> tuple[float, float]:
    """Return the standard error of a mean over seeds, from the variance between them and that over subjects, and its
    degrees of freedom (Welch-Satterthwaite)."""
    between = seed_variance / num_seeds
    if between == 0:
        return float(np.sqrt(subject_variance)), float(subject_freedom)
    freedom = (between + subject_variance) ** 2 / (between**2 / (num_seeds - 1) + subject_variance**2 / subject_freedom)
    return float(np.sqrt(between + subject_variance)), float(freedom)


def level_interval(mean: float, error: float, freedom: float, subjects: float) -> tuple[float, float]:
    """Return the 95 % interval of a share or an area, which lies within [0, 1].

    It is Wilson's (1927) with the quantile of t and with the sample size that would give a share this standard error,
    as is done for shares in surveys (Kott & Carr 1997). Where nothing varies, as at an AUROC of 1, that size is
    `subjects`, which leaves about as much open as the rule of three: 1 down to m / (m + t^2).
    """
    quantile = scipy.stats.t.ppf(0.975, freedom)
    size = mean * (1 - mean) / error**2 if error > _ROUNDING else subjects
    if size <= 0:
        return mean, mean
    low, high = wilson_interval(mean, size, quantile)
    # Rounding may put an end on the wrong side of a mean of 0 or 1.
    return float(np.clip(low, 0, mean)), float(np.clip(high, mean, 1))


def wilson_interval(share: np.ndarray | float, size: np.ndarray | float, quantile: float
                    ) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Return the interval of a share of so many rows, to rounding within [0, 1] (Wilson 1927)."""
    shrinking = 1 + quantile**2 / size
    middle = (share + quantile**2 / (2 * size)) / shrinking
    half = quantile / shrinking * np.sqrt(share * (1 - share) / size + quantile**2 / (4 * size**2))
    return middle - half, middle + half


def p_value(difference: float, error: float, freedom: float) -> float:
    """Return the two-sided p of a difference against 0, by t with the error and freedom of its interval."""
    if error <= _ROUNDING:
        return 1.0 if abs(difference) <= _ROUNDING else 0.0
    return float(2 * scipy.stats.t.sf(abs(difference) / error, freedom))


def holm(p: np.ndarray) -> np.ndarray:
    """Return the p values (M,) of M tests adjusted so that calling those below 0.05 makes any false call in at most
    5 % of reports (Holm 1979)."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1.0)
    return adjusted[np.argsort(order)]


def seeds_needed(differences: np.ndarray, subject_variance: float = 0.0, subject_freedom: float = np.inf
                 ) -> int | None:
    """Return the number of paired seeds with which a true mean difference of SMALL_EFFECT is found with probability
    POWER.

    Found: its unadjusted 95 % interval lies on the right side of 0, the standard deviation between seeds being that of
    differences (S,), one per seed, and `subject_variance` what more seeds do not lessen. The power is that of the
    noncentral t distribution. None for fewer than three seeds, where they differ by no more than rounding, and where
    the effect is below `smallest_visible`. From three to five seeds, take it as an order of magnitude.
    """
    invisible = smallest_visible(subject_variance, subject_freedom) >= SMALL_EFFECT
    if len(differences) < 3 or np.std(differences) <= 1e-6 * SMALL_EFFECT or invisible:
        return None
    seed_variance = float(np.var(differences, ddof=1))

    def enough(seeds: int) -> bool:
        error, freedom = standard_error(seed_variance, seeds, subject_variance, subject_freedom)
        return scipy.stats.nct.sf(scipy.stats.t.ppf(0.975, freedom), freedom, SMALL_EFFECT / error) >= POWER

    seeds = 2 + bisect_left(range(2, _MOST_SEEDS), True, key=enough)
    return seeds if seeds < _MOST_SEEDS else None


def smallest_visible(subject_variance: float, subject_freedom: float = np.inf) -> float:
    """Return the smallest true difference that infinitely many seeds find with probability POWER on these subjects."""
    if np.isinf(subject_freedom):
        errors = scipy.stats.norm.ppf([0.975, POWER]).sum()
    else:
        quantile = scipy.stats.t.ppf(0.975, subject_freedom)
        errors = scipy.optimize.brentq(
            lambda shift: scipy.stats.nct.sf(quantile, subject_freedom, shift) - POWER, 0, 5 * quantile)
    return float(errors * np.sqrt(subject_variance))


def visible_beforehand(y: np.ndarray, subjects: np.ndarray) -> float:
    """Return `smallest_visible` of a difference of AUROC before anything is fitted, from the labels y (N,) int64 and
    the subjects (N,) of the scored rows.

    The variance of an AUROC of ASSUMED_AUROC is that of Hanley & McNeil (1982), of a difference twice that times 1 -
    ASSUMED_CORRELATION, the one between the AUROCs of two classifiers over draws of subjects (Hanley & McNeil 1983). Of
    several classes, the rarest against the others.
    """
    _, positives, negatives = subject_counts(y, subjects)
    variance = 2 * (1 - ASSUMED_CORRELATION) * hanley_mcneil_variance(ASSUMED_AUROC, positives, negatives)
    return smallest_visible(variance, subject_freedom(y, subjects))


def hanley_mcneil_variance(auroc: float, positives: int, negatives: int) -> float:
    """Return the variance of an AUROC on so many positive and negative subjects (Hanley & McNeil 1982, equation 2)."""
    both_positives, both_negatives = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    return (auroc * (1 - auroc) + (positives - 1) * (both_positives - auroc**2)
            + (negatives - 1) * (both_negatives - auroc**2)) / (positives * negatives)
