"""What the guide makes of real and synthetic series: gradient norms, influence, and a check by fine-tuning."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from classifier.train import Guide
from tardiff.config import InfluenceAnalysisConfig
from tardiff.data.format import Dataset, Split, absent_masks, read_dataset
from tardiff.data.splits import halve_validation, joined_subjects
from tardiff.evaluation import metrics, plots
from tardiff.evaluation.frame import long_frame
from tardiff.evaluation.sets import read_sets, synthetic_folders
from tardiff.evaluation.summary import write_csv
from tardiff.influence.analysis import InfluenceStudy, Series, influence_tables
from tardiff.library import Guidance, require_trained_on
from tardiff.utils.checkpoint import write_json, writing
from tardiff.utils.distributed import resolve_device
from tardiff.utils.errors import UserError
from tardiff.utils.logging import provenance

TRAINING, SELECTION, GUIDANCE, ALL = "real training", "real selection", "real guidance", "all"
TITLES = {
    "gradient_norms": "Loss gradients of the guidance rows: norm of their mean; norms of each (mean and sd: the "
                      "paper's table)",
    "guidance_signal": "How much of the guidance gradient G is signal: cosine between G of two halves of the guidance "
                       "rows, beside chance, and between G of a half and of as many training rows",
    "influence_distribution": "Influence: fall of the mean guidance loss per unit of learning rate (mean with 95 % "
                              "interval)",
    "fine_tuning": "Influence against the fall measured after one gradient step on each series alone, in float64"}
FINE_TUNED_SERIES = "fine_tuned_series"
"""The table of the single series behind `fine_tuning`."""
GROUPS = {"gradient_norms": "class", "guidance_signal": "rows of G", "influence_distribution": "class",
          "fine_tuning": "learning_rate"}
"""The column of each table that, with the set, names a row."""

Tables = dict[str, list[dict[str, Any]]]


def run(config: InfluenceAnalysisConfig, dry_run: bool) -> None:
    """Analyse the synthetic sets on disk beside the real training rows and the selection half."""
    device, folders = resolve_device(config.device), synthetic_folders(config)
    if reserved := folders.keys() & {TRAINING, SELECTION, ALL}:
        raise UserError(f"synthetic.{reserved.pop()}: this name stands for other rows of the tables. Choose another.")
    real = read_dataset(config.real, ("train", "val"))
    sets = read_sets(folders, real)
    guide = load_matching_guide(config.classifier, real, sets, device)
    if not dry_run:
        analyse(config, real, sets, guide)
        return
    counts = [f"{sum(map(len, parts)):,} {name}" for name, parts in analysed_sets(real, sets).items()]
    print(f"{len(halve_validation(real.val)[0]):,} guidance series; influence of {', '.join(counts)}; fine-tuning on "
          f"{config.fine_tuned} series; on {device}")


def analyse(config: InfluenceAnalysisConfig, real: Dataset, sets: dict[str, list[Split]], guide: Guide) -> Tables:
    """Analyse sets that have been read by their guide, of `load_matching_guide`, print the summaries, write tables and
    figures to the output folder, and return the tables by name."""
    guidance, _ = halve_validation(real.val)
    parts_of = analysed_sets(real, sets)
    series = {name: prepared(parts, guide) for name, parts in parts_of.items()}
    subjects = {name: joined_subjects(parts) for name, parts in parts_of.items()}
    study = InfluenceStudy.open(config.output, guide.task, *prepared([guidance], guide), real.num_classes,
                                len(real.train), guide.task.device)
    tables = influence_tables(study, series, subjects, real.meta.classes, config)
    if signal := signal_rows(guide, real):
        tables["guidance_signal"] = signal
    for row in tables["influence_distribution"]:
        if row["class"] == ALL:
            row["guide_auroc"] = guide_auroc(guide, parts_of[row["set"]])
    folder = Path(config.output)
    remove_tables(folder)
    for name, rows in tables.items():
        write_csv(folder / f"{name}.csv", pd.DataFrame(rows))
    figures = {
        "gradient_norms": plots.gradient_norm_bars(tables["gradient_norms"]),
        "influence_distribution": plots.influence_curves(
            {name: (study.scores(*rows), rows[1].numpy()) for name, rows in series.items()}, real.meta.classes)}
    if "fine_tuning" in tables:
        figures["fine_tuning"] = plots.fine_tuning_scatter(tables[FINE_TUNED_SERIES], config.learning_rates)
    for name, figure in figures.items():
        plots.save_figure(folder / f"{name}.png", figure)
    write_json(folder / "influence.json", {**tables, "config": dataclasses.asdict(config), **provenance()})
    for name in (name for name in TITLES if name in tables):
        printed = pd.DataFrame(tables[name]).drop(columns=["p01", "p25", "p75", "p99"], errors="ignore")
        print(f"\n{TITLES[name]}\n{printed.to_string(index=False, float_format='{:.3g}'.format, na_rep='-')}")
    print(f"\nwritten to {folder}: influence.json, {', '.join(f'{name}.csv' for name in tables)} and "
          f"{', '.join(f'{name}.png' for name in figures)}")
    return tables


def signal_rows(guide: Guide, real: Dataset) -> list[dict[str, Any]]:
    """Return one row for G of all guidance rows, and for G with equal weight for each class: how far it agrees with
    itself; print what there is to warn of."""
    rows = []
    for classes in ("all", "balanced"):
        guidance = Guidance(guide, real, objective="influence", classes=classes)
        found = guidance.agreement
        print(*guidance.signal_words()[found is not None:], sep="\n")
        if found is not None:
            rows.append({"rows of G": classes, "cosine_of_halves": found.halves, "chance_low": found.chance_low,
                         "chance_high": found.chance_high, "cosine_with_training": found.training})
    return rows


def remove_tables(folder: Path) -> None:
    """Remove the tables and figures of an earlier analysis; finished measurements stay."""
    tables = (*TITLES, FINE_TUNED_SERIES)
    with writing(folder):
        for name in ("influence.json", *(f"{table}.{ending}" for table in tables for ending in ("csv", "png"))):
            (folder / name).unlink(missing_ok=True)


def analysed_sets(real: Dataset, sets: dict[str, list[Split]]) -> dict[str, list[Split]]:
    """Return the real rows and the synthetic sets whose influence is measured, by name."""
    return {TRAINING: [real.train], SELECTION: [halve_validation(real.val)[1]], **sets}


def influence_frame(tables: Tables) -> pd.DataFrame:
    """Return the tables as a long frame (see `tardiff.evaluation.frame`): one row for each number."""
    return long_frame((row.get("set", GUIDANCE), name, "", f"{row[group]}/{statistic}", None, None, value)
                      for name, group in GROUPS.items() for row in tables.get(name, [])
                      for statistic, value in row.items() if statistic not in ("set", group))


def load_matching_guide(folder: str, dataset: Dataset, sets: dict[str, list[Split]], device: torch.device) -> Guide:
    """Load a classifier run. Raises UserError if it was trained on another dataset, or reads masks and a set has
    none."""
    guide = Guide.load(folder, device)
    require_trained_on(folder, dataset, "train", "val")
    pairs = ((f"synthetic set '{name}'", part) for name, parts in sets.items() for part in parts)
    if guide.reads_mask and (faults := absent_masks(pairs)):
        raise UserError("\n".join([f"{guide.folder} reads masks:", *faults]))
    return guide


def prepared(parts: list[Split], guide: Guide) -> Series:
    """Return what the guide reads of the rows of all parts, and y (N,)."""
    return (torch.from_numpy(np.concatenate([guide.inputs(part.x, part.mask) for part in parts])),
            torch.from_numpy(np.concatenate([part.y for part in parts])))


def guide_auroc(guide: Guide, parts: list[Split]) -> float | None:
    """Return the AUROC of the guide on the labels of all parts; far below 0.5, labels are wrong. None where a class is
    absent."""
    y, x, *masks = (np.concatenate([getattr(part, name) for part in parts])
                    for name in ("y", "x", *(["mask"] if guide.reads_mask else [])))
    auroc = float(metrics.auroc(y, guide.predict(x, *masks))[0])
    return None if math.isnan(auroc) else auroc
