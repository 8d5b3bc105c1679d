"""The gain map: what synthetic series add, against the number of labelled rows.

Each number of rows has several subsets of the rows, on each of which everything is trained anew; all are scored on the
same test subjects. A subset is a repeat as a classifier's seed is one elsewhere: it counts by its mean over classifiers
and denoisers, of points and of draws of the test subjects alike, and intervals hold the variance between subsets and
the effect that the draw of subjects has on all of them (see `tardiff.evaluation.intervals`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from tardiff.evaluation.frame import adjusted_together, arm_label, utility_rows
from tardiff.evaluation.protocol import METRICS, Arm, ArmScores, scores_frame
from tardiff.evaluation.summary import tidy_table
from tardiff.utils.cache import Values

CellScores = dict[Arm, ArmScores]
"""What the arms score that were trained on one subset, by seed of the classifiers."""


def mean_over_seeds(scores: ArmScores) -> ArmScores:
    """Return scores of one repeat, the mean of all."""
    table = {name: (values.mean(keepdims=True), resampled.mean(axis=0, keepdims=True))
             for name, (values, resampled) in scores.table.items()}
    return replace(scores, table=table, datasets=[None])


def over_subsets(cells: Sequence[CellScores]) -> CellScores:
    """Return the scores of subsets as repeats of one evaluation, of the arms that all have. One subset alone keeps its
    own repeats, so that its intervals say nothing of the chance of the rows."""
    if len(cells) == 1:
        return cells[0]
    found = {}
    for arm in cells[0]:
        if not all(arm in cell for cell in cells):
            continue
        parts = [mean_over_seeds(cell[arm]) for cell in cells]
        table = {name: tuple(np.concatenate([part.table[name][side] for part in parts]) for side in (0, 1))
                 for name in parts[0].table}
        found[arm] = replace(parts[0], table=table, datasets=[None] * len(parts),
                             real_rows=round(np.mean([part.real_rows for part in parts])),
                             weights=[weight for part in parts for weight in part.weights])
    return found


def map_rows(sizes: Mapping[int, Sequence[CellScores]], reference: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of `utility_rows` of each number of labelled rows, as `n`, with the number of `subsets`; p values
    are adjusted over the whole map. An arm of chosen weight has the same label everywhere. reference: the set that the
    others are compared with."""
    rows = []
    for n, cells in sizes.items():
        for row in utility_rows(scores_frame(over_subsets(cells), reference)):
            label = row["arm"]
            if row["weight"] is not None:
                label = arm_label(row["protocol"], row["synthetic"], None, row["targets"])
            rows.append({"n": n, "subsets": len(cells), **row, "arm": label})
    return adjusted_together(rows)


def map_table(rows: list[dict[str, Any]], denoisers: int) -> pd.DataFrame:
    """Return `map_rows` as a table, one line for each n, judge, arm and metric: the columns of `tidy_table`, after the
    numbers of rows, subsets and, for each of these, denoisers."""
    lines = pd.DataFrame([{"n": row["n"], "subsets": row["subsets"], "denoisers": denoisers, "arm": row["arm"]}
                          for row in rows for _ in METRICS])
    return pd.concat([lines, tidy_table(rows)], axis=1)


def packed(scores: CellScores) -> Values:
    """Return the scores of a cell as arrays; see `unpacked`."""
    arms = [{**asdict(arm), **{name: getattr(own, name) for name in ("real_rows", "freedom", "datasets", "weights")}}
            for arm, own in scores.items()]
    return {"arms": np.array([json.dumps(arm) for arm in arms])} | {
        f"{name}_{side}": np.stack([own.table[name][number] for own in scores.values()])
        for name in METRICS for number, side in enumerate(("values", "resampled"))}


def unpacked(values: Values) -> CellScores:
    """Return the scores that `packed` made arrays of."""
    found = {}
    for number, text in enumerate(values["arms"]):
        fields = json.loads(str(text))
        table = {name: (values[f"{name}_values"][number], values[f"{name}_resampled"][number]) for name in METRICS}
        of_scores = {name: fields.pop(name) for name in ("real_rows", "freedom", "datasets", "weights")}
        found[Arm(**fields)] = ArmScores(table, **of_scores)
    return found
