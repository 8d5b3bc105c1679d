"""The pictures and the CSV tables of the report."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from tardiff.data.format import Dataset, Split
from tardiff.evaluation import plots
from tardiff.evaluation.privacy import roc_curve
from tardiff.utils.checkpoint import write_text
from tardiff.utils.figures import channel_bands

INFLUENCE = {"gradient_norms.png": "Norm of the loss gradients per class",
             "influence_distribution.png": "Distribution of influence, per class and set",
             "fine_tuning.png": "Influence against the measured fall of the guidance loss after one step on each series"}


REAL_SERIES = "real"


def draw(output: Path, real: Dataset, sets: dict[str, list[Split]], test: np.ndarray, scaled: dict[str, list[np.ndarray]],
         results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Draw all pictures into `output` and return for each its part of the report, file and description.

    sets: raw datasets by name, of which the first of each is drawn. test, scaled: z-scored (N, L, C).
    """
    pictures = []

    def save(part: str, name: str, text: str, figure) -> None:
        plots.save_figure(output / name, figure)
        pictures.append((part, name, text))

    meta, first = real.meta, {name: parts[0] for name, parts in sets.items()}
    if "utility" in results:
        rows, utility = results["utility"]["rows"], results["utility"]
        if any(row["protocol"] == "TSRTR" for row in rows):
            save("utility", "tsrtr.png", "TSRTR: AUROC and AUPRC over the ratio of synthetic to real series, with 95 % "
                 "intervals; the grey band is real data alone", plots.ratio_curves(rows, {"auroc": "AUROC", "auprc": "AUPRC"}))
        label = meta.classes[utility["reliability_class"]]
        save("utility", "reliability.png", f"Reliability: observed share of '{label}' over its predicted probability, mean "
             "prediction of all seeds", plots.reliability_curves(utility["reliability"], label))
    if "privacy" in results:
        curves = {name: roc_curve({key: summary["mean"] for key, summary in of_set["train_attack"].items()})
                  for name, of_set in results["privacy"].items()}
        save("privacy", "attack.png", "ROC of the membership attack on the training series; right: logarithmic axes, where "
             "the left end shows whether a few records are laid open", plots.attack_curves(curves))
    for name, text in INFLUENCE.items() if "influence" in results else ():
        pictures.append(("influence", f"influence/{name}", text))
    for name, split in first.items():
        save("pictures", f"bands-{file_name(name)}.png", f"Median and 10-90 % band per class and channel: real test series "
             f"and {name}", channel_bands({REAL_SERIES: (real.test.x, real.test.y), name: (split.x, split.y)},
                                          meta.channels, meta.units, meta.classes))
    save("pictures", "examples.png", "Single series, drawn at random, of each class: real and of each set",
         plots.example_series({REAL_SERIES: real.test, **first}, meta.channels, meta.units, meta.classes))
    if test[0].size > 1 and len(test) > 1:
        save("pictures", "components.png", "Series of each set on the first two principal components of the real test series",
             plots.principal_components({REAL_SERIES: test, **{name: parts[0] for name, parts in scaled.items()}}))
    return pictures


def file_name(name: str) -> str:
    """Return the name of a set as part of a file name."""
    return re.sub(r"[^\w.-]+", "-", name)


def write_csv(path: Path, results: dict[str, dict[str, dict[str, dict[str, Any]]]]) -> None:
    """Write `{set: {metric: {key: summary}}}` as one line per number: set, metric, key, mean, sd."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["set", "metric", "key", "mean", "sd"])
    for name, metrics in results.items():
        for metric, summaries in metrics.items():
            for key, summary in summaries.items():
                writer.writerow([name, metric, key, summary["mean"], "" if summary["sd"] is None else summary["sd"]])
    write_text(path, buffer.getvalue())
