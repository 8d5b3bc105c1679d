"""Stage 2: fit the teacher, the ensemble of classifiers whose probabilities label synthetic series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import sklearn

from classifier.models import build_classifier, custom_source
from classifier.teacher import OUT_OF_FOLD, REFITTED, SELECTION, members_of, teach
from tardiff.config import TeacherConfig
from tardiff.data.format import Dataset, read_dataset
from tardiff.data.splits import halve_validation
from tardiff.evaluation.controls import FOLDS
from tardiff.evaluation.metrics import auprc, auroc, brier, calibration_error, chance_average_precision
from tardiff.utils.checkpoint import write_json
from tardiff.utils.distributed import resolve_device
from tardiff.utils.logging import open_run
from tardiff.utils.parallel import worker_count

SCORES = "scores.json"


def run(config: TeacherConfig, dry_run: bool) -> None:
    """Fit the members of a run folder, resuming. Raises UserError if dataset and settings do not fit."""
    device = resolve_device(config.device)
    dataset = read_dataset(config.data, ("train", "val"))
    members = members_of(config)
    models = {member.model: member.settings(config) for member in members}
    for name, model in models.items():
        if name not in REFITTED:
            build_classifier(model, dataset.shape, dataset.num_classes)
    ensemble = " + ".join(f"{entry['seeds']} {entry['model']}" for entry in config.members)
    guidance, selection = halve_validation(dataset.val)
    also = f" and {len(guidance):,} of the guidance half" if config.guidance_share else ""
    print(f"{ensemble}: {len(members) * (FOLDS + 1)} fits, of all rows and without each of {FOLDS} folds; "
          f"{len(dataset.train):,} training series{also} of shape {dataset.shape}; on {device}")
    if dry_run:
        return
    inputs = {"train": dataset.train.fingerprint(), "val": dataset.val.fingerprint()}
    if models.keys() & set(REFITTED):
        inputs["scikit-learn"] = sklearn.__version__
    for model in models.values():
        inputs |= custom_source(model)
    open_run(config.output, config, inputs)
    found = teach(config, dataset, device, worker_count(config.workers, device))
    scores = {"selection half": scores_of(selection.y, found[SELECTION], dataset),
              "training rows, out of fold": scores_of(dataset.train.y, found["out_of_fold"], dataset)}
    write_json(Path(config.output) / SCORES, scores)
    for what, values in scores.items():
        print(f"{what}: AUROC {values['auroc']:.4f}, AUPRC {values['auprc']:.4f} (chance: "
              f"{values['chance_auprc']:.4f}), Brier {values['brier']:.4f}, calibration error "
              f"{values['calibration_error']:.4f}")
    print(f"The selection half has chosen the steps of the members, so its numbers are somewhat optimistic. Written to "
          f"{config.output}, the probabilities out of fold to {OUT_OF_FOLD} in it.")


def scores_of(y: np.ndarray, p: np.ndarray, dataset: Dataset) -> dict[str, float]:
    """Return how well probabilities p (N, K) rank and say how likely the labels y (N,) are."""
    return {"auroc": float(auroc(y, p)[0]), "auprc": auprc(y, p, dataset.positive),
            "chance_auprc": chance_average_precision(y, dataset.num_classes, dataset.positive),
            "brier": float(brier(y, p)[0]), "calibration_error": calibration_error(y, p, dataset.positive)}
