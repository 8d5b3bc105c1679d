"""The pictures of the report: which there are, and what is written below them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tardiff.data.format import Metadata, Split
from tardiff.evaluation import plots
from tardiff.evaluation.frame import by_set, utility_rows
from tardiff.evaluation.privacy import roc_curve
from tardiff.utils.figures import channel_bands

REAL_SERIES = "real"
PICTURES = ("tsrtr.png", "reliability.png", "attack.png", "bands-*.png", "examples.png", "components.png")
"""The files that `draw` writes."""
INFLUENCE = {
    "gradient_norms": "Norm of the loss gradients per class",
    "influence_distribution": "Distribution of influence, per class and set",
    "fine_tuning": "Influence against the measured fall of the guidance loss after one step on each series"}


@dataclass(frozen=True)
class Picture:
    """A PNG `file`, relative to the folder of the report, for one `part` of it, with the `text` that describes it."""

    part: str
    file: str
    text: str


def draw(output: Path, meta: Metadata, real: Split, sets: dict[str, list[Split]], real_scaled: np.ndarray,
         scaled: dict[str, list[np.ndarray]], frames: dict[str, pd.DataFrame], utility: dict[str, Any]
         ) -> list[Picture]:
    """Draw all pictures into `output` and return them.

    real: held-out rows. sets: raw datasets by name, of which the first of each is drawn. real_scaled, scaled: the same
    z-scored (N, L, C). frames: results by part. utility: for that part, what `report_utility` returns.
    """
    pictures = []

    def save(part: str, file: str, text: str, figure: Figure) -> None:
        plots.save_figure(output / file, figure)
        pictures.append(Picture(part, file, text))

    times = meta.times(real.x.shape[1])
    first = {name: parts[0] for name, parts in sets.items()}
    if "utility" in frames:
        # The judges see the same series; of several, the first is drawn.
        rows = utility_rows(frames["utility"])
        rows = [row for row in rows if row["judge"] == rows[0]["judge"]]
        if any(row["protocol"] == "TSRTR" for row in rows):
            save("utility", "tsrtr.png",
                 "TSRTR: AUROC and AUPRC over the ratio of synthetic to real series, with 95 % intervals; the grey "
                 "band is real data alone",
                 plots.ratio_curves(rows, {"auroc": ("AUROC", 0.5), "auprc": ("AUPRC", utility["chance_auprc"])}))
        label = meta.classes[utility["reliability_class"]]
        save("utility", "reliability.png",
             f"Reliability: observed share of '{label}' over its predicted probability, mean prediction of all seeds",
             plots.reliability_curves(utility["reliability"], label))
    if "privacy" in frames:
        curves = {name: roc_curve({key: summary["mean"] for key, summary in of_set["train_attack"].items()})
                  for name, of_set in by_set(frames["privacy"]).items()}
        save("privacy", "attack.png",
             "ROC of the membership attack on the training series; right: logarithmic axes, where the left end shows "
             "whether a few records are laid open",
             plots.attack_curves(curves))
    if "influence" in frames:
        tables = set(frames["influence"]["metric"])
        pictures += [Picture("influence", f"influence/{name}.png", text) for name, text in INFLUENCE.items()
                     if name in tables]
    for name, split in first.items():
        bands = channel_bands({REAL_SERIES: (real.x, real.y), name: (split.x, split.y)},
                              meta.channels, meta.units, meta.classes, times)
        save("fidelity", f"bands-{file_name(name)}.png",
             f"Median and 10-90 % band per class and channel: held-out real series and {name}", bands)
    save("fidelity", "examples.png", "Single series, drawn at random, of each class: real and of each set",
         plots.example_series({REAL_SERIES: real, **first}, meta.channels, meta.units, meta.classes, times))
    if real_scaled[0].size > 1 and len(real_scaled) > 1:
        drawn = {REAL_SERIES: real_scaled, **{name: parts[0] for name, parts in scaled.items()}}
        save("fidelity", "components.png",
             "Series of each set on the first two principal components of the held-out real series",
             plots.principal_components(drawn))
    return pictures


def file_name(name: str) -> str:
    """Return the name of a set as part of a file name."""
    return re.sub(r"[^\w.-]+", "-", name)
