"""The utility table, printed and written as CSV and JSON, and the words for its numbers, which the report shares."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from tardiff.utils.checkpoint import write_json, write_text

HEADERS = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1 at 0.5", "f1_selected": "F1 selected", "brier": "Brier"}
PARTS = ("mean", "sd", "low", "high", "seeds_for_0.01", "smallest_visible")
GAIN, LOSS, NEITHER, TOO_FEW = "gain", "loss", "no difference shown", "too few seeds to judge"
FEWEST_SEEDS = 3


def format_table(rows: list[dict[str, Any]], reference: str | None) -> str:
    """Return the rows as aligned text: mean, standard deviation over seeds, and AUPRC differences with 95 % intervals."""
    heads = ["", *HEADERS.values(), "AUPRC - TRTR [95 %]", "", *([f"AUPRC - {reference} [95 %]", ""] if reference else [])]
    lines = [heads]
    for row in rows:
        cells = [row["arm"], *(spread(row[name]) for name in HEADERS)]
        for key in ["trtr", *(["reference"] if reference else [])]:
            cells += _difference_cells(row.get(f"auprc_minus_{key}"))
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)


def write_tables(folder: str | Path, name: str, rows: list[dict[str, Any]], context: dict[str, Any]) -> None:
    """Write `<name>.json` (rows and context) and `<name>.csv` (one line per arm) to `folder`."""
    buffer = io.StringIO()
    widest = max(rows, key=len)
    columns = [(key, part) for key in widest if isinstance(widest[key], dict) for part in PARTS if part in widest[key]]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["arm", "protocol", "synthetic", "ratio", *(f"{key}_{part}" for key, part in columns)])
    for row in rows:
        cells = [row[key].get(part, "") if key in row else "" for key, part in columns]
        writer.writerow([row["arm"], row["protocol"], row["synthetic"] or "", "" if row["ratio"] is None else row["ratio"],
                         *cells])
    write_text(Path(folder) / f"{name}.csv", buffer.getvalue())
    write_json(Path(folder) / f"{name}.json", {**context, "rows": rows})


def without_nan(value: Any) -> Any:
    """Return a JSON-like value with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float | None) -> str:
    """Return three decimals, or more where a small value has none of them; a dash where it is not defined."""
    if value is None or math.isnan(value):
        return "-"
    rounding = abs(value) < 1e-12  # Equal values may have a standard deviation of 1e-17.
    return f"{value:.3f}" if rounding or abs(value) >= 0.01 else f"{value:.2g}"


def spread(summary: dict[str, Any]) -> str:
    """Return `mean (sd)`, or the mean alone where there is one value; with three decimals of the mean go three of the other."""
    mean, sd = summary["mean"], summary["sd"]
    if number(mean) == "-" or sd is None:
        return number(mean)
    return f"{number(mean)} ({number(sd) if abs(mean) < 0.01 else format(sd, '.3f')})"


def interval(difference: dict[str, Any]) -> str:
    """Return `+mean [low, high]`."""
    return f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def judgement(difference: dict[str, Any]) -> str:
    """Return what the interval of a difference says; of fewer than three seeds, nothing."""
    if len(difference["values"]) < FEWEST_SEEDS:
        return TOO_FEW
    return GAIN if difference["low"] > 0 else LOSS if difference["high"] < 0 else NEITHER


def _difference_cells(difference: dict[str, Any] | None) -> list[str]:
    return ["", ""] if difference is None else [interval(difference), judgement(difference)]
