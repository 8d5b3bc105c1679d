"""The inputs of the report: what is refused before it is begun, since each part takes long, and what it says of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from analyze_influence import SELECTION, TRAINING, load_matching_task
from report_pictures import REAL_SERIES, file_name

from tardiff.config import ReportConfig
from tardiff.data.format import Dataset, Split
from tardiff.evaluation.sections import COPY, FRESH, NOISE, REAL, read_costs, read_generation
from tardiff.evaluation.utility import stratified_rows
from tardiff.utils.errors import UserError
from tardiff.utils.logging import provenance
from tardiff.utils.settings import to_yaml

RESERVED = {REAL, NOISE, COPY, FRESH, REAL_SERIES, TRAINING, SELECTION, "all"}


def check_settings(config: ReportConfig, folders: dict[str, list[str]]) -> None:
    """Raise UserError on settings that no report can be made with."""
    if not folders:
        raise UserError("no synthetic dataset is given. Name at least one: --synthetic DIR.")
    if config.score_on != "test":
        raise UserError(f"score_on={config.score_on}: the report is for results on test. Compare settings with "
                        "evaluate_tstr.py or evaluate_tsrtr.py.")
    if not config.ratios or len(set(config.ratios)) < len(config.ratios):
        raise UserError(f"ratios={config.ratios}: give at least one ratio, and each once.")
    if config.sections == ["influence"] and config.classifier is None:
        raise UserError("sections=[influence]: it needs the classifier that guided, classifier=RUN.")
    for name in folders:
        if name in RESERVED:
            raise UserError(f"synthetic.{name}: this name stands for other rows of the report. Choose another.")
        if not re.fullmatch(r"[\w .,+=()-]+", name):
            raise UserError(f"synthetic.{name}: a name may hold letters, digits, spaces and . , + = ( ) - _ alone.")
    files = [file_name(name) for name in folders]
    if len(set(files)) < len(files):
        raise UserError(f"synthetic: the names {', '.join(folders)} are too alike for files; give clearer ones.")
    if config.reference is not None and config.reference not in folders and config.reference != "unguided":
        raise UserError(f"reference={config.reference}: not among the sets {', '.join(folders)}.")


def check_classifier(config: ReportConfig, real: Dataset, device: torch.device) -> None:
    """Raise UserError if the guide of the influence part is not there, or not one of this dataset."""
    if "influence" in config.sections and config.classifier is not None:
        load_matching_task(config.classifier, real, device)


def check_rows(config: ReportConfig, real: Dataset, labels: dict[str, list[np.ndarray]]) -> None:
    """Raise UserError if a dataset, whose labels are (N,) int64, has too few rows for a ratio."""
    if "utility" in config.sections:
        for name, of_set in labels.items():
            for y in of_set:
                stratified_rows(y, round(max(config.ratios) * len(real.train)), 0, name)


def describe(config: ReportConfig, real: Dataset, sets: dict[str, list[Split]], folders: dict[str, list[str]]
             ) -> dict[str, Any]:
    """Return what is compared, and what is needed to do it again."""
    splits = {name: {"rows": len(split), "subjects": len(np.unique(split.subjects())),
                     "classes": np.bincount(split.y, minlength=real.num_classes).tolist()}
              for name, split in real.splits.items()}
    return {"real": {"name": real.meta.name, "folder": config.real, "length": real.shape[0], "channels": real.meta.channels,
                     "classes": real.meta.classes, "splits": splits},
            "synthetic": {name: {"folders": folders[name], "rows": list(map(len, parts)),
                                 "generation": [read_generation(Path(path)) for path in folders[name]]}
                          for name, parts in sets.items()},
            "hashes": {f"real {name}": split.fingerprint() for name, split in real.splits.items()}
                      | {path: part.fingerprint() for name, parts in sets.items()
                         for path, part in zip(folders[name], parts, strict=True)},
            "cost": read_costs(folders), "provenance": provenance(), "settings": to_yaml(config)}
