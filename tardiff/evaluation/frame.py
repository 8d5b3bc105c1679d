"""Results as one long frame, and what follows from it: means, deviations, intervals and the rows of tables.

A number is one row (set, metric, judge, key, dataset, repeat, value) of the frame:

| part      | set                         | metric                    | key              | dataset | repeat |
|-----------|-----------------------------|---------------------------|------------------|---------|--------|
| utility   | synthetic set, or REAL      | TRTR, TSTR, TSRTR RATIO,  | see `score_arms` | yes     | seed   |
|           |                             | MIXED, these three and    |                  |         |        |
|           |                             | SOFT, a name in CONTROLS  |                  |         |        |
| fidelity  | synthetic set or anchor     | a name in FIDELITY        | of the metric    | yes     | seed   |
| privacy   | synthetic set or anchor     | a name in PRIVACY         | of the metric    | yes     | 0      |
| influence | the rows that were measured | a table of the analysis   | GROUP/STATISTIC  | -       | -      |

`judge` is the classifier that the utility part trains; it is empty elsewhere. `dataset` is the number of the dataset
within its set (one for each generation seed), `repeat` the seed of the classifier or of the metric. Both are empty
where a number is of all together: a variance over subjects and its degrees of freedom, all of influence, and `dataset`
for TRTR. GROUP is a class or a learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from tardiff.config import CONTROLS
from tardiff.evaluation.intervals import (
    holm,
    level_interval,
    p_value,
    seeds_needed,
    smallest_visible,
    standard_error,
)

REAL, NOISE = "real training rows", "matched noise"
"""The anchors of fidelity: a perfect and a poor generator. The first is also what TRTR trains on."""

DIRECTIONS = {"brier": -1, "positive_rate": 0}
"""Which way metrics of utility are better, where that is not upward (1): downward, or neither way."""
SOFT = "soft"
"""The targets of an arm whose synthetic series are trained on with a teacher's probabilities."""

MIXED = "TSRTR mixed"
"""The protocol of an arm whose batches hold a chosen share, the weight, of synthetic series."""

COLUMNS = ("set", "metric", "judge", "key", "dataset", "repeat", "value")
SUBJECT_VARIANCE, SUBJECT_FREEDOM = "_subject_variance", "subject_freedom"
"""The ending of the key of a variance over subjects, and the key of the degrees of freedom of all those of an arm
(absent: infinitely many)."""

Summary = dict[str, Any]
"""Of one key: `values` by repeat, `mean`, and `sd` (None for a single value); where its variance over subjects is known
also `subject_variance`, `low` and `high`, for differences `p`, and for those of AUROC and AUPRC `seeds_for_0.01` and
`smallest_visible`. `utility_rows` adds to differences `p_adjusted`."""


def long_frame(rows: Iterable[tuple]) -> pd.DataFrame:
    """Return rows (set, metric, judge, key, dataset, repeat, value) as a frame; dataset and repeat are whole numbers or
    None."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype({"dataset": "Int64", "repeat": "Int64", "value": "float64"})


def summaries(frame: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, Summary]]:
    """Return the summary of each key by (set, metric, judge), in the order of the frame.

    Intervals have both sources of chance in their error: the variance over subjects and that between seeds, or between
    datasets where several seeds share each (see `standard_error`; percentiles of three resampled seeds would miss the
    truth in a quarter of cases). Those of differences are mean +- t x standard error, those of levels that of
    `level_interval`.
    """
    found: dict[tuple[str, str, str], dict[str, pd.DataFrame]] = {}
    for (*place, key), rows in frame.groupby(["set", "metric", "judge", "key"], sort=False):
        found.setdefault(tuple(place), {})[key] = rows
    return {place: {key: _summary(key, of_place) for key in of_place
                    if not key.endswith(SUBJECT_VARIANCE) and key != SUBJECT_FREEDOM}
            for place, of_place in found.items()}


def independent_values(values: np.ndarray, datasets: np.ndarray) -> np.ndarray:
    """Return the values that chance made apart from each other: values (S,) by seed, or their means by dataset, where
    several seeds share each of several.

    datasets (S,): their numbers, NaN where there is none. One dataset alone tells nothing of the chance of generation.
    """
    numbers = np.unique(datasets)
    if np.isnan(datasets).any() or not 1 < len(numbers) < len(values):
        return values
    return np.array([values[datasets == number].mean() for number in numbers])


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
    `synthetic` (None without synthetic rows), `ratio` (None but for TSRTR), `targets` on the synthetic rows (own, soft;
    None without them), `real_rows`, the labelled real rows trained on, `weight` (None but for MIXED, the mean over
    rotations) and the summary of each key; that of `<metric>_minus_control` names the `control`.

    The p values of the same difference of one judge are adjusted together, by Holm, to `p_adjusted`: those of the arms
    with synthetic rows, and apart from them those of the controls.
    """
    rows = []
    for (name, metric, judge), of_arm in summaries(frame).items():
        protocol, *words = [MIXED, *metric.split(" ")[2:]] if metric.startswith(MIXED) else metric.split(" ")
        synthetic = None if protocol in ("TRTR", *CONTROLS) else name
        targets = None if synthetic is None else SOFT if SOFT in words else "own"
        ratio = next((float(word) for word in words if word != SOFT), None)
        weight = of_arm.pop("weight")["mean"] if "weight" in of_arm else None
        label = (f"control {protocol}" if protocol in CONTROLS
                 else arm_label(protocol, synthetic, weight if protocol == MIXED else ratio, targets))
        real_rows = {"real_rows": int(of_arm.pop("real_rows")["mean"])} if "real_rows" in of_arm else {}
        rows.append({"arm": label, "judge": judge, "protocol": protocol, "synthetic": synthetic, "ratio": ratio,
                     "weight": weight, "targets": targets, **real_rows, **of_arm})
    for row in rows:
        controls = [other for other in rows if other["judge"] == row["judge"] and other["protocol"] in CONTROLS]
        for key in [key for key in row if key.endswith("_minus_control")]:
            metric = key.removesuffix("_minus_control")
            row[key]["control"] = best_control(metric, {control["protocol"]: control[metric]["mean"]
                                                        for control in controls})
    return adjusted_together(rows)


def adjusted_together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of `utility_rows`, of one evaluation or several, with `p_adjusted` over all of them."""
    families: dict[tuple[str, str, bool], list[Summary]] = {}
    for row in rows:
        for key in [key for key in row if "_minus_" in key]:
            families.setdefault((row["judge"], key, row["synthetic"] is None), []).append(row[key])
    for family in families.values():
        for difference, adjusted in zip(family, holm(np.array([one["p"] for one in family])), strict=True):
            difference["p_adjusted"] = float(adjusted)
    return rows


def arm_label(protocol: str, synthetic: str | None, share: float | None, targets: str | None) -> str:
    """Return how tables name an arm that is no control, with its ratio or weight: `TSRTR guided 0.5, soft`."""
    words = [protocol, *([synthetic] if synthetic else []), *([f"{share:.3g}"] if share is not None else [])]
    return " ".join(words) + (f", {SOFT}" if targets == SOFT else "")


def shown_set(row: dict[str, Any]) -> str:
    """Return how pages and figures name the synthetic set of a row of `utility_rows`: `guided (soft)`."""
    return f"{row['synthetic']} ({SOFT})" if row["targets"] == SOFT else row["synthetic"]


def best_control(metric: str, means: Mapping[Any, float]) -> Any | None:
    """Return the control with the best mean of a metric, the first of equals; None without controls, and of a metric
    that has no better and worse."""
    direction = DIRECTIONS.get(metric, 1)
    return max(means, key=lambda control: direction * means[control]) if means and direction else None


def _summary(key: str, rows: dict[str, pd.DataFrame]) -> Summary:
    """Return the summary of a key; rows: those of the frame, by key, of one set, metric and judge."""
    values = rows[key]["value"].to_numpy()
    mean, several = float(values.mean()), len(values) > 1
    summary = {"values": values.tolist(), "mean": mean, "sd": float(values.std(ddof=1)) if several else None}
    if key + SUBJECT_VARIANCE not in rows:
        return summary
    variance = rows[key + SUBJECT_VARIANCE]["value"].item()
    freedom_over_subjects = rows[SUBJECT_FREEDOM]["value"].item() if SUBJECT_FREEDOM in rows else np.inf
    repeats = independent_values(values, rows[key]["dataset"].to_numpy("float64", na_value=np.nan))
    between = float(repeats.var(ddof=1)) if several else 0.0
    error, freedom = standard_error(between, len(repeats), variance, freedom_over_subjects)
    half = float(scipy.stats.t.ppf(0.975, freedom)) * error
    summary |= {"subject_variance": variance, "low": mean - half, "high": mean + half}
    metric, minus, _ = key.partition("_minus_")
    if minus:
        level = rows[metric]["value"].to_numpy().mean()
        if half == 0 and level in (0, 1):  # Both arms at the ceiling, which a level of this width may be below.
            low, high = level_interval(level, 0.0, freedom, freedom_over_subjects + 1)
            summary |= {"low": mean - (high - low), "high": mean + (high - low)}
        summary["p"] = p_value(mean, error, freedom)
        if metric in ("auroc", "auprc"):
            summary |= {"seeds_for_0.01": seeds_needed(repeats, variance, freedom_over_subjects),
                        "smallest_visible": smallest_visible(variance, freedom_over_subjects)}
    elif metric == "brier":  # Of several classes it may be above 1.
        summary["low"] = max(mean - half, 0.0)
    else:
        summary["low"], summary["high"] = level_interval(mean, error, freedom, freedom_over_subjects + 1)
    return summary
