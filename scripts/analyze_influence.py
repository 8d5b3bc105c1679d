"""What the guide makes of real and synthetic series: gradient norms, influence, and a check by fine-tuning."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from synthetic_sets import read_sets, synthetic_folders
from torch import Tensor

from classifier.train import FittedClassifier, load_task
from tardiff.cli import repository_path, run_stage
from tardiff.config import ClassifierConfig, InfluenceAnalysisConfig
from tardiff.data.format import Dataset, Split, read_dataset
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import halve_validation, joined_subjects
from tardiff.evaluation import metrics, plots
from tardiff.influence.analysis import InfluenceStudy, Series, influence_tables
from tardiff.influence.task import DownstreamTask
from tardiff.utils.checkpoint import require_folder, write_json, write_text
from tardiff.utils.distributed import resolve_device
from tardiff.utils.errors import UserError
from tardiff.utils.logging import provenance, read_run_config

TRAINING, SELECTION = "real training", "real selection"
TITLES = {
    "gradient_norms": "Loss gradients of the guidance rows: norm of their mean; norms of each (mean and sd: the paper's table)",
    "influence_distribution": "Influence: fall of the mean guidance loss per unit of learning rate (mean with 95 % interval)",
    "fine_tuning": "Influence against the fall measured after one gradient step on each series alone, in float64"}


def main(config: InfluenceAnalysisConfig, dry_run: bool) -> None:
    require_folder(config.output)
    device, folders = resolve_device(config.device), synthetic_folders(config)
    if not config.learning_rates:
        raise UserError("learning_rates: give at least one.")
    if reserved := folders.keys() & {TRAINING, SELECTION, "all"}:
        raise UserError(f"synthetic.{reserved.pop()}: this name stands for other rows of the tables. Choose another.")
    needed = [config.data, config.classifier, *(path for paths in folders.values() for path in paths)]
    missing = [path for path in needed if not Path(path).is_dir()]
    if dry_run and missing:
        print(f"settings are valid. Missing input: {', '.join(missing)}.")
        return
    dataset = read_dataset(config.data, ("train", "val"))
    task, normalizer = load_matching_task(config.classifier, dataset, device)
    guidance, selection = halve_validation(dataset.val)
    sets = {TRAINING: [dataset.train], SELECTION: [selection], **read_sets(folders, dataset)}
    series = {name: prepared(parts, normalizer) for name, parts in sets.items()}
    subjects = {name: joined_subjects(parts) for name, parts in sets.items()}
    print(f"{len(guidance):,} guidance series; influence of {', '.join(f'{len(y):,} {name}' for name, (_, y) in series.items())}"
          f"; fine-tuning on {config.fine_tuned} series; on {device}")
    if dry_run:
        return
    study = InfluenceStudy.open(config.output, task, *prepared([guidance], normalizer), dataset.num_classes,
                                len(dataset.train), device)
    tables = influence_tables(study, series, subjects, dataset.meta.classes, config)
    for row in tables["influence_distribution"]:
        if row["class"] == "all":
            row["guide_auroc"] = guide_auroc(task, *series[row["set"]])
    write_results(config, tables, {
        "gradient_norms": plots.gradient_norm_bars(tables["gradient_norms"]),
        "influence_distribution": plots.influence_curves(
            {name: (study.scores(*rows), rows[1].numpy()) for name, rows in series.items()}, dataset.meta.classes),
        "fine_tuning": plots.fine_tuning_scatter(tables["fine_tuned_series"], config.learning_rates)})


def load_matching_task(folder: str, dataset: Dataset, device: torch.device) -> tuple[DownstreamTask, Normalizer]:
    """Load a classifier run and its normaliser. Raises UserError if it was trained on another dataset."""
    task, metadata = load_task(folder, device)
    normalizer = Normalizer.fit(read_run_config(folder, ClassifierConfig).normalizer, dataset.train.x)
    read, given = [metadata[key] for key in ("length", "channels", "classes")], [*dataset.shape, dataset.num_classes]
    if read != list(map(str, given)) or metadata["normalizer"] != normalizer.fingerprint():
        raise UserError(f"{folder}: not trained on {dataset.path}: it reads (length, channels, classes) "
                        f"({', '.join(read)}) with its own normaliser, the dataset has ({', '.join(map(str, given))}). "
                        "Give the dataset that it was trained on as data=...")
    return task, normalizer


def prepared(parts: list[Split], normalizer: Normalizer) -> Series:
    """Return x (N, L, C) normalised and y (N,) of the rows of all parts."""
    return (torch.from_numpy(np.concatenate([normalizer.transform(part.x) for part in parts])),
            torch.from_numpy(np.concatenate([part.y for part in parts])))


def guide_auroc(task: DownstreamTask, x: Tensor, y: Tensor) -> float | None:
    """Return the AUROC of the guide on the labels y of x; far below 0.5, labels are wrong. None where a class is absent."""
    judge = FittedClassifier(copy.deepcopy(task.model), 0, 0.0)  # A copy, for predicting changes the mode of layers.
    auroc = float(metrics.auroc(y.numpy(), judge.predict(x.numpy()))[0])
    return None if math.isnan(auroc) else auroc


def write_results(config: InfluenceAnalysisConfig, tables: dict[str, list[dict[str, Any]]], figures: dict[str, Figure]
                  ) -> None:
    """Write each table as CSV, each figure as PNG, and last `influence.json` with all tables; print the summaries."""
    folder = Path(config.output)
    (folder / "influence.json").unlink(missing_ok=True)
    for name, rows in tables.items():
        write_text(folder / f"{name}.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    for name, figure in figures.items():
        plots.save_figure(folder / f"{name}.png", figure)
    write_json(folder / "influence.json", {**tables, "config": dataclasses.asdict(config), **provenance()})
    for name, title in TITLES.items():
        shown = pd.DataFrame(tables[name]).drop(columns=["p01", "p25", "p75", "p99"], errors="ignore")
        print(f"\n{title}\n{shown.to_string(index=False, float_format='{:.3g}'.format, na_rep='-')}")
    print(f"\nwritten to {folder}: influence.json, {', '.join(f'{name}.csv' for name in tables)} and "
          f"{', '.join(f'{name}.png' for name in figures)}")


if __name__ == "__main__":
    run_stage(InfluenceAnalysisConfig, main, "Analyse the influence of real and synthetic series on the classifier.",
              repository_path("configs/evaluation/influence.yaml"))
