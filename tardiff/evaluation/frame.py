"""Results as one long frame, and what follows from it: means, deviations, intervals and the rows of tables.

A number is one row (set, metric, judge, key, dataset, repeat, value) of the frame:

| part      | set                         | metric                    | key              | dataset | repeat |
|-----------|-----------------------------|---------------------------|------------------|---------|--------|
| utility   | synthetic set, or REAL      | TRTR, TSTR, TSRTR RATIO,  | see `score_arms` | yes     | seed   |
|           |                             | a name in CONTROLS        |                  |         |        |
| fidelity  | synthetic set or anchor     | a name in FIDELITY        | of the metric    | yes     | seed   |
| privacy   | synthetic set or anchor     | a name in PRIVACY         | of the metric    | yes     | 0      |
| influence | the rows that were measured | a table of the analysis   | GROUP/STATISTIC  | -       | -      |

`judge` is the classifier that the utility part trains; it is empty elsewhere. `dataset` is the number of the dataset
within its set (one for each generation seed), `repeat` the seed of the classifier or of the metric. Both are empty
where a number is of all together: a variance over subjects, all of influence, and `dataset` for TRTR. GROUP is a class
or a learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from tardiff.config import CONTROLS

REAL, NOISE = "real training rows", "matched noise"
"""The anchors of fidelity: a perfect and a poor generator. The first is also what TRTR trains on."""

COLUMNS = ("set", "metric", "judge", "key", "dataset", "repeat", "value")
SUBJECT_VARIANCE = "_subject_variance"
SMALL_EFFECT = 0.01

Summary = dict[str, Any]
"""Of one key: `values` by repeat, `mean`, and `sd` (None for a single value); where its variance over subjects is known
also `subject_variance`, `low` and `high`, and for differences of AUROC and AUPRC `seeds_for_0.01` and
`smallest_visible`."""


def long_frame(rows: Iterable[tuple]) -> pd.DataFrame:
    """Return rows (set, metric, judge, key, dataset, repeat, value) as a frame; dataset and repeat are whole numbers or
    None."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype({"dataset": "Int64", "repeat": "Int64", "value": "float64"})


def summaries(frame: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, Summary]]:
    """Return the summary of each key by (set, metric, judge), in the order of the frame.

    Intervals are mean +- t x standard error, with both sources of chance in the error: the variance over subjects and
    that between seeds (see `standard_error`; percentiles of three resampled seeds would miss the truth in a quarter of
    cases).
    """
    found: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}
    for (*place, key), values in frame.groupby(["set", "metric", "judge", "key"], sort=False)["value"]:
        found.setdefault(tuple(place), {})[key] = values.to_numpy()
    return {place: {key: _summary(key, values, of_place.get(key + SUBJECT_VARIANCE)) for key, values in of_place.items()
                    if not key.endswith(SUBJECT_VARIANCE)} for place, of_place in found.items()}


def by_set(frame: pd.DataFrame) -> dict[str, dict[str, dict[str, Summary]]]:
    """Return `{set: {metric: {key: summary}}}` of results without a judge."""
    nested: dict[str, dict[str, dict[str, Summary]]] = {}
    for (name, metric, _), of_pair in summaries(frame).items():
        nested.setdefault(name, {})[metric] = of_pair
    return nested


def summary_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (set, metric, key) with the mean and the standard deviation."""
    return pd.DataFrame([(name, metric, key, summary["mean"], summary["sd"])
                         for name, of_set in by_set(frame).items() for metric, of_pair in of_set.items()
                         for key, summary in of_pair.items()], columns=["set", "metric", "key", "mean", "sd"])


def utility_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row per arm of the utility part: `arm`, its label, `judge`, `protocol` (of a control its name),
    `synthetic` (None without synthetic rows), `ratio` (None but for TSRTR), `real_rows`, the labelled real rows trained
    on, and the summary of each key; that of `<metric>_minus_control` names the `control`."""
    rows = []
    for (name, metric, judge), of_arm in summaries(frame).items():
        protocol, _, ratio = metric.partition(" ")
        synthetic, number = None if protocol in ("TRTR", *CONTROLS) else name, float(ratio) if ratio else None
        label = " ".join([*(["control"] if protocol in CONTROLS else []), protocol, *([synthetic] if synthetic else []),
                          *([f"{number:g}"] if ratio else [])])
        real_rows = {"real_rows": int(of_arm.pop("real_rows")["mean"])} if "real_rows" in of_arm else {}
        rows.append({"arm": label, "judge": judge, "protocol": protocol, "synthetic": synthetic, "ratio": number,
                     **real_rows, **of_arm})
    for row in rows:
        controls = [other for other in rows if other["judge"] == row["judge"] and other["protocol"] in CONTROLS]
        for key in [key for key in row if key.endswith("_minus_control")]:
            metric = key.removesuffix("_minus_control")
            means = {control["protocol"]: control[metric]["mean"] for control in controls}
            row[key]["control"] = best_control(metric, means)
    return rows


def best_control(metric: str, means: Mapping[Any, float]) -> Any | None:
    """Return the control with the best mean of a metric, the first of equals; None without controls, and of a metric
    that has no better and worse."""
    if not means or metric == "positive_rate":
        return None
    return (min if metric == "brier" else max)(means, key=means.get)


def main_subject_variance(resampled: np.ndarray) -> float:
    """Return the variance of what a draw of test subjects does to all seeds alike, for values (S, R) by seed and draw.

    The variance over draws is main + own for a single seed and main + own / S for the mean over S seeds, where `own` is
    what a draw does to a seed apart from the others. The variance between seeds holds that already, so that only the
    main effect is added to it. With one seed the two cannot be told apart, and both are returned.
    """
    of_mean, of_one = np.nanvar(resampled.mean(axis=0)), np.nanvar(resampled, axis=1).mean()
    seeds = len(resampled)
    return float(of_mean if seeds == 1 else max(0.0, (seeds * of_mean - of_one) / (seeds - 1)))


def standard_error(seed_variance: float, num_seeds: int, subject_variance: float) -> tuple[float, float]:
    """Return the standard error of a mean over seeds, from the variance between them and that over subjects, and its
    degrees of freedom (Welch-Satterthwaite; infinite where seeds do not vary)."""
    between = seed_variance / num_seeds
    freedom = (between + subject_variance) ** 2 / (between**2 / (num_seeds - 1)) if between > 0 else np.inf
    return float(np.sqrt(between + subject_variance)), float(freedom)


def seeds_needed(differences: np.ndarray, subject_variance: float = 0.0, effect: float = SMALL_EFFECT,
                 power: float = 0.8) -> int | None:
    """Return the number of paired seeds with which a true mean difference of `effect` is found with probability
    `power`.

    Found: the 95 % interval of `summaries` lies on the right side of 0, the standard deviation between seeds being that
    of differences (S,), one per seed, and `subject_variance` what more seeds do not lessen. The power is that of the
    noncentral t distribution. None for fewer than three seeds, where they differ by no more than rounding, and where
    the effect is below `smallest_visible`. From three to five seeds, take it as an order of magnitude.
    """
    invisible = effect <= smallest_visible(subject_variance, power)
    if len(differences) < 3 or np.std(differences) <= 1e-6 * effect or invisible:
        return None
    seed_variance = float(np.var(differences, ddof=1))

    def enough(seeds: int) -> bool:
        error, freedom = standard_error(seed_variance, seeds, subject_variance)
        return scipy.stats.nct.sf(scipy.stats.t.ppf(0.975, freedom), freedom, effect / error) >= power

    # With the normal distribution in place of t the number has a closed form; the t-test always needs a few more.
    quantiles = scipy.stats.norm.ppf([0.975, power]).sum()
    seeds = max(2, int(np.ceil(seed_variance / ((effect / quantiles) ** 2 - subject_variance))))
    while not enough(seeds):
        seeds += 1
    return seeds


def smallest_visible(subject_variance: float, power: float = 0.8) -> float:
    """Return the smallest true difference that infinitely many seeds find with probability `power` on these
    subjects."""
    return float(scipy.stats.norm.ppf([0.975, power]).sum() * np.sqrt(subject_variance))


def _summary(key: str, values: np.ndarray, subject_variance: np.ndarray | None) -> Summary:
    mean, several = float(values.mean()), len(values) > 1
    summary = {"values": values.tolist(), "mean": mean, "sd": float(values.std(ddof=1)) if several else None}
    if subject_variance is None:
        return summary
    (variance,) = map(float, subject_variance)
    error, freedom = standard_error(float(values.var(ddof=1)) if several else 0.0, len(values), variance)
    half = float(scipy.stats.t.ppf(0.975, freedom)) * error
    metric, minus, _ = key.partition("_minus_")
    low, high = mean - half, mean + half
    if not minus and metric != "brier":  # Shares and areas; a Brier score of several classes may be above 1.
        low, high = max(low, 0.0), min(high, 1.0)
    summary |= {"low": low, "high": high, "subject_variance": variance}
    if minus and metric in ("auroc", "auprc"):
        summary |= {"seeds_for_0.01": seeds_needed(values, variance), "smallest_visible": smallest_visible(variance)}
    return summary
