"""The utility table, printed and written as CSV and JSON, and its numbers as text, which the report shares."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tardiff.evaluation.frame import DIRECTIONS, Summary
from tardiff.evaluation.intervals import ASSUMED_AUROC, ASSUMED_CORRELATION, subject_counts, visible_beforehand
from tardiff.evaluation.protocol import METRICS
from tardiff.utils.checkpoint import write_json, write_text

HEADERS = {"auroc": "AUROC", "auprc": "AUPRC"}
PARTS = ("mean", "sd", "low", "high", "p", "p_adjusted", "seeds_for_0.01", "smallest_visible", "control")
GAIN, LOSS, NEITHER, TOO_FEW = "gain", "loss", "no difference shown", "too few seeds to judge"
NO_GAIN = "no gain shown"
FEWEST_SEEDS = 3
SIGNIFICANT = 0.05
ADJUSTED = ("Gain and loss: p below 0.05 after Holm's adjustment over all arms of a judge with synthetic series, and "
            "over its controls, else no difference is shown; the intervals are those of each arm alone.")


def format_table(rows: list[dict[str, Any]], reference: str | None) -> str:
    """Return the rows as aligned text: mean and standard deviation over seeds of AUROC and AUPRC, and AUPRC differences
    with 95 % intervals. The files have all other metrics and differences."""
    names = {"trtr": "TRTR", "reference": reference, "control": "best control"}
    shown = [key for key in names if any(f"auprc_minus_{key}" in row for row in rows)]
    heads = ["", "judge", "real rows", *HEADERS.values()]
    heads += [text for key in shown for text in (f"AUPRC - {names[key]} [95 %]", "")]
    lines = [heads]
    for row in rows:
        cells = [row["arm"], row["judge"], f"{row['real_rows']:,}", *(spread(row[name]) for name in HEADERS)]
        for key in shown:
            cells += _difference_cells(row.get(f"auprc_minus_{key}"))
        lines.append(cells)
    best = {row["judge"]: row["auprc_minus_control"]["control"] for row in rows if "auprc_minus_control" in row}
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*table, *(f"best control of {judge}: {name}" for judge, name in best.items())])


def seen_beforehand(y: np.ndarray, subjects: np.ndarray, classes: list[str]) -> str:
    """Return the sentence on what the scored rows, y (N,) int64 of subjects (N,), can show before anything is
    fitted."""
    rarest, positives, _ = subject_counts(y, subjects)
    return (f"On these {len(np.unique(subjects)):,} subjects ({positives:,} of class {classes[rarest]}), true "
            f"differences below about {visible_beforehand(y, subjects):.3f} AUROC are missed in more than one of five "
            f"evaluations, however many seeds (assuming AUROC {ASSUMED_AUROC:g}, correlated {ASSUMED_CORRELATION:g} "
            "between two classifiers).")


def tidy_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one line for each row of `utility_rows` and metric; `tardiff.stages.evaluate.evaluate_sets` says what the
    columns are."""
    lines = []
    for row in rows:
        for metric in METRICS:
            line = {"judge": row["judge"], "set": row["synthetic"], "protocol": row["protocol"],
                    "targets": row["targets"],
                    "ratio": row["ratio"], "weight": row["weight"], "real_rows": row["real_rows"], "metric": metric,
                    **{part: row[metric][part] for part in ("mean", "sd", "low", "high")}}
            for key in ("trtr", "control", "teacher", "reference"):
                prefix = "" if key == "trtr" else f"{key}_"
                if (difference := row.get(f"{metric}_minus_{key}")) is not None:
                    line |= {f"{prefix}difference": difference["mean"],
                             f"{prefix}verdict": verdict(difference, DIRECTIONS.get(metric, 1)),
                             **{f"{prefix}difference_{part}": difference[part] for part in ("sd", "low", "high")}}
                    line |= {"control": difference["control"]} if "control" in difference else {}
            lines.append(line)
    differences = ["difference", "difference_sd", "difference_low", "difference_high", "verdict"]
    return pd.DataFrame(lines, columns=[
        "judge", "set", "protocol", "targets", "ratio", "weight", "real_rows", "metric", "mean", "sd", "low", "high",
        *differences, "control",
        *(f"{key}_{name}" for key in ("control", "teacher", "reference") for name in differences)])


def write_tables(folder: str | Path, name: str, rows: list[dict[str, Any]], context: dict[str, Any]) -> None:
    """Write `<name>.json` (rows and context) and `<name>.csv` (one line per arm) to `folder`."""
    lines = [{key: value for key, value in row.items() if not isinstance(value, dict)}
             | {f"{key}_{part}": value[part] for key, value in row.items() if isinstance(value, dict)
                for part in PARTS if part in value} for row in rows]
    write_csv(Path(folder) / f"{name}.csv", pd.DataFrame(lines, columns=list(max(lines, key=len)), dtype=object))
    write_json(Path(folder) / f"{name}.json", {**context, "rows": rows})


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a frame without its index, atomically; what is not defined is empty."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def counted(count: int, noun: str) -> str:
    """Return `1 seed`, `3 seeds`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def number(value: float | None) -> str:
    """Return three decimals, or more where a small value has none of them; a dash where it is not defined."""
    if value is None or math.isnan(value):
        return "-"
    rounding = abs(value) < 1e-12  # Equal values may have a standard deviation of 1e-17.
    return f"{value:.3f}" if rounding or abs(value) >= 0.01 else f"{value:.2g}"


def spread(summary: Summary) -> str:
    """Return `mean (sd)`, or the mean alone where there is one value; with three decimals of the mean go three of the
    other."""
    mean, sd = summary["mean"], summary["sd"]
    if number(mean) == "-" or sd is None:
        return number(mean)
    return f"{number(mean)} ({number(sd) if abs(mean) < 0.01 else format(sd, '.3f')})"


def interval(difference: Summary) -> str:
    """Return `+mean [low, high]`."""
    return f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def verdict(difference: Summary, direction: int = 1) -> str:
    """Return what the adjusted p of a difference of `utility_rows` says, for a metric that is better upward (1) or
    downward (-1); where neither is better (0), the empty text.

    There is no loss against the best control: it is the best on the scored rows, so that by chance alone nearly every
    set is below it.
    """
    if not direction:
        return ""
    if len(difference["values"]) < FEWEST_SEEDS:
        return TOO_FEW
    is_shown, is_gain = difference["p_adjusted"] < SIGNIFICANT, direction * difference["mean"] > 0
    if "control" in difference:
        return GAIN if is_shown and is_gain else NO_GAIN
    return (GAIN if is_gain else LOSS) if is_shown else NEITHER


def shown_verdict(difference: Summary) -> str:
    """Return `verdict` of a difference, or the empty text where it shows nothing."""
    found = verdict(difference)
    return "" if found in (NEITHER, NO_GAIN) else found


def at_chance(trtr: dict[str, Any]) -> bool:
    """Tell whether a judge is not shown to be better than chance on real data, from its row of TRTR."""
    return trtr["auroc"]["low"] <= 0.5


def _difference_cells(difference: Summary | None) -> list[str]:
    return ["", ""] if difference is None else [interval(difference), shown_verdict(difference)]
