"""Everything that is measured of synthetic sets, in one report: utility, fidelity, privacy, influence and pictures."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from classifier.train import Guide
from tardiff.config import InfluenceAnalysisConfig, ReportConfig
from tardiff.data.format import Dataset, Split, read_dataset
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import halve_validation
from tardiff.evaluation.fidelity import FIDELITY
from tardiff.evaluation.frame import NOISE, REAL, summary_table, utility_rows
from tardiff.evaluation.page import write_report
from tardiff.evaluation.pictures import PICTURES, REAL_SERIES, draw, file_name
from tardiff.evaluation.protocol import stratified_rows
from tardiff.evaluation.sections import COPY, FRESH, evaluate_fidelity, evaluate_privacy, fidelity_metrics
from tardiff.evaluation.sets import (
    read_at_bounds,
    read_costs,
    read_generation,
    read_sets,
    reference_of,
    synthetic_folders,
)
from tardiff.evaluation.summary import counted, write_csv, write_tables
from tardiff.stages.estimate import estimated_minutes
from tardiff.stages.evaluate import (
    SCORED_ON,
    check_teachers,
    of_rotation,
    report_utility,
    require_all_datasets,
    scored_split,
    splits_read,
)
from tardiff.stages.influence import (
    ALL,
    GUIDANCE,
    SELECTION,
    TITLES,
    TRAINING,
    analyse,
    influence_frame,
    load_matching_guide,
    remove_tables,
)
from tardiff.utils.checkpoint import write_json, write_text, writing
from tardiff.utils.distributed import resolve_device
from tardiff.utils.errors import UserError
from tardiff.utils.logging import provenance
from tardiff.utils.parallel import worker_count
from tardiff.utils.settings import to_yaml

RESERVED = {REAL, NOISE, COPY, FRESH, REAL_SERIES, TRAINING, SELECTION, GUIDANCE, ALL}
QUICK_CONTROLS = ("guidance_rows", "guidance_weighted", "guidance_last", "target_only", "teacher_labels",
                  "class_weights")
"""Those of one training each, on real rows as they are."""
FILES = ("results.csv", "results.json", "settings.yaml", "utility.csv", "utility.json", "fidelity.csv", "privacy.csv",
         *PICTURES)
"""What a report writes beside its page and the folder of its influence part."""


def run(config: ReportConfig, dry_run: bool) -> None:
    """Evaluate the sets part by part, and write the page, the frame of all results, tables and pictures."""
    whole = quick_settings(config)
    config = of_rotation(whole, 0)
    folders, device = synthetic_folders(config), resolve_device(config.device)
    metrics = fidelity_metrics(config.fidelity_metrics)
    check_settings(config, folders)
    require_all_datasets(whole)
    real = read_dataset(config.real, splits_read(config))
    guidance, selection = halve_validation(real.val)
    held_out = scored_split(config, real)
    if real.val.guidance is not None and "privacy" in config.sections:
        config = dataclasses.replace(config, sections=[part for part in config.sections if part != "privacy"])
        print("note: privacy is not measured: no patients of the source are held out, and attacks would tell those "
              "that trained from patients of the target, whatever the set gives away.")
    sets = read_sets(folders, real)
    check_teachers(config, real)
    guide = guide_of(config, real, sets, device)
    check_rows(config, real, {name: [part.y for part in parts] for name, parts in sets.items()})
    print(f"{len(real.train):,} training and {len(held_out):,} {config.score_on} series against "
          f"{', '.join(f'{name} ({len(parts)} x {len(parts[0]):,})' for name, parts in sets.items())}; on {device}")
    print(expected_duration(config.output, estimated_minutes(config, real, sets, metrics)), flush=True)
    if dry_run:
        return
    output, workers = Path(config.output), worker_count(config.workers, device)
    scaler, kept = Normalizer.fit("zscore", real.train.x), Path(config.output) / "metrics"
    scaled = {name: [scaler.transform(part.x) for part in parts] for name, parts in sets.items()}
    if config.score_on == "selection":
        print(f"scored on {SCORED_ON[config.score_on]}")
    train, guidance, selection, scored = (dataclasses.replace(split, x=scaler.transform(split.x))
                                          for split in (real.train, guidance, selection, held_out))
    description, frames = describe(config, real, sets, folders) | {"settings": to_yaml(whole)}, {}
    if "utility" in config.sections:
        frames["utility"], description["utility"] = report_utility(whole, real)
    if "fidelity" in config.sections:
        frames["fidelity"] = evaluate_fidelity(train, scored, scaled, metrics, config.repeats, kept, workers, device)
    if "privacy" in config.sections:
        # Rows that are scored cannot be the control of the attacks as well.
        control = selection[:0] if config.score_on == "selection" else selection
        frames["privacy"] = evaluate_privacy(train, guidance, control, scored, scaled,
                                             {name: [part.p for part in parts] for name, parts in sets.items()},
                                             kept, workers, device)
    remove_report(output)
    influence = {}
    if guide is not None:
        influence = analyse(InfluenceAnalysisConfig(
            classifier=config.classifier, real=config.real, synthetic=folders, output=str(output / "influence"),
            device=config.device, fine_tuned=config.fine_tuned), real, sets, guide)
        frames["influence"] = influence_frame(influence)
    pictures = draw(output, real.meta, held_out, sets, scored.x, scaled, frames, description.get("utility", {}))
    if frames:
        write_csv(output / "results.csv", pd.concat(frames.values(), ignore_index=True))
    for part in frames.keys() & {"fidelity", "privacy"}:
        write_csv(output / f"{part}.csv", summary_table(frames[part]))
    if "utility" in frames:
        context = {"config": dataclasses.asdict(whole), **provenance()}
        write_tables(output, "utility", utility_rows(frames["utility"]), context)
    write_text(output / "settings.yaml", to_yaml(whole))
    write_json(output / "results.json", description)
    page = write_report(output, description, frames, {TITLES[name]: influence[name] for name in TITLES
                                                      if name in influence}, pictures)
    print(f"\nwritten to {page}, results.json, CSV and PNG")


def remove_report(output: Path) -> None:
    """Remove what an earlier report left, the page first, so that files of two reports never stand beside a page;
    finished results stay."""
    with writing(output):
        for pattern in ("report.html", *FILES):
            for path in output.glob(pattern):
                path.unlink()
    remove_tables(output / "influence")


def expected_duration(output: str | Path, minutes: float) -> str:
    """Return the sentence on how long a report will take, if nothing were kept in its folder, and how much is."""
    about = f"about {minutes:.0f} minutes" if minutes >= 1.5 else "a minute or two"
    kept = sum(len(list(Path(output).glob(f"{folder}/*.npz"))) for folder in ("fits", "metrics"))
    if not kept:
        return f"The report will take {about} on this machine."
    return (f"The report would take {about} on this machine from the start; {counted(kept, 'result')} of an earlier "
            f"one {'is' if kept == 1 else 'are'} kept, and what fits is not computed again.")


def quick_settings(config: ReportConfig) -> ReportConfig:
    """Return the settings of a quick report, where one is asked for."""
    if not config.quick:
        return config
    names = config.fidelity_metrics or [metric.name for metric in FIDELITY]
    cheap = [name for name in names if name in {metric.name for metric in FIDELITY if not metric.trains}]
    training = dataclasses.replace(config.training, steps=min(config.training.steps, 200))
    controls = config.controls
    if controls is None:
        controls = [name for name in config.chosen_controls if name in QUICK_CONTROLS]
    return dataclasses.replace(config, seeds=min(config.seeds, 3), ratios=config.ratios and [max(config.ratios)],
                               weights=[] if config.ratios else config.weights, controls=controls,
                               ensemble_size=2, training=training,
                               bootstrap=min(config.bootstrap, 100), repeats=1, fine_tuned=0, fidelity_metrics=cheap)


def check_settings(config: ReportConfig, folders: dict[str, list[str]]) -> None:
    """Raise UserError on synthetic sets that no report can be made of."""
    if not folders:
        raise UserError("no synthetic dataset is given. Name at least one: --synthetic DIR.")
    for name in folders:
        if name in RESERVED:
            raise UserError(f"synthetic.{name}: this name stands for other rows of the report. Choose another.")
        if not re.fullmatch(r"[\w .,+=()-]+", name):
            raise UserError(f"synthetic.{name}: a name may hold letters, digits, spaces and . , + = ( ) - _ alone.")
    files = [file_name(name) for name in folders]
    if len(set(files)) < len(files):
        raise UserError(f"synthetic: the names {', '.join(folders)} are too alike for files; give clearer ones.")
    reference_of(config, folders)


def guide_of(config: ReportConfig, real: Dataset, sets: dict[str, list[Split]], device: torch.device) -> Guide | None:
    """Return the guide of the influence part, None without one. Raises UserError if it is not there, not one of this
    dataset, or reads masks that sets lack."""
    if "influence" not in config.sections or config.classifier is None:
        return None
    return load_matching_guide(config.classifier, real, sets, device)


def check_rows(config: ReportConfig, real: Dataset, labels: dict[str, list[np.ndarray]]) -> None:
    """Raise UserError if a dataset, whose labels are (N,) int64, has too few rows for a ratio."""
    if "utility" in config.sections and "tsrtr" in config.protocols and config.ratios:
        for name, of_set in labels.items():
            for y in of_set:
                stratified_rows(y, round(max(config.ratios) * len(real.train)), 0, name)


def describe(config: ReportConfig, real: Dataset, sets: dict[str, list[Split]], folders: dict[str, list[str]]
             ) -> dict[str, Any]:
    """Return what is compared, and what is needed to do it again."""
    splits = {name: {"rows": len(split), "subjects": len(np.unique(split.subjects())),
                     "classes": np.bincount(split.y, minlength=real.num_classes).tolist()}
              for name, split in real.splits.items()}
    return {"real": {"name": real.meta.name, "folder": config.real, "length": real.shape[0],
                     "channels": real.meta.channels, "classes": real.meta.classes, "splits": splits},
            "synthetic": {name: {"folders": folders[name], "rows": list(map(len, parts)),
                                 "at_bounds": read_at_bounds(folders[name], real.meta.channels),
                                 "generation": [read_generation(Path(path)) for path in folders[name]]}
                          for name, parts in sets.items()},
            "hashes": {f"real {name}": split.fingerprint() for name, split in real.splits.items()}
                      | {path: part.fingerprint() for name, parts in sets.items()
                         for path, part in zip(folders[name], parts, strict=True)},
            "cost": read_costs(folders), "scored_on": config.score_on, "quick": config.quick,
            "provenance": provenance()}
