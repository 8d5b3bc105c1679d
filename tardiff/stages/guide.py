"""Stage 2: train the downstream classifier that guides."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from classifier.models import build_classifier, custom_source
from classifier.train import fit_classifier, normalized_splits, save_classifier
from tardiff.config import ClassifierConfig
from tardiff.data.format import read_dataset
from tardiff.utils.distributed import resolve_device
from tardiff.utils.logging import open_run


def run(config: ClassifierConfig, dry_run: bool) -> None:
    """Train the classifier of a run folder, resuming. Raises UserError if dataset and settings do not fit."""
    device = resolve_device(config.device)
    if dry_run and not Path(config.data).is_dir():
        print(f"settings are valid. Missing input: dataset {config.data}.")
        return
    dataset = read_dataset(config.data, ("train", "val"))
    normalizer, parts = normalized_splits(dataset, config.normalizer)
    model = build_classifier(config.model, dataset.shape, dataset.num_classes)
    size = sum(parameter.numel() for parameter in model.parameters())
    for section in config.model.without_effect():
        print(f"note: model.{section} has no effect with model.name={config.model.name}.")
    print(f"{config.model.name}: {size:,} parameters; {len(dataset.train):,} training and "
          f"{len(parts['selection'][1]):,} selection series of shape {dataset.shape}; on {device}")
    if dry_run:
        return
    inputs = {"train": dataset.train.fingerprint(), "val": dataset.val.fingerprint(), **custom_source(config.model)}
    run_folder = open_run(config.output, config, inputs)
    fitted = fit_classifier(parts["train"], parts["selection"], dataset.num_classes, config.model, config.training,
                            config.seed, device, run_folder)
    save_classifier(run_folder.folder, config, fitted, normalizer, dataset)
    run_folder.close()
    y = parts["selection"][1]
    chance = np.mean(y == 1) if dataset.num_classes == 2 else 1 / dataset.num_classes
    print(f"selection AUPRC {fitted.selection_auprc:.4f} (chance: {chance:.4f}), log-loss {fitted.selection_loss:.4f}, "
          f"at step {fitted.step}; written to {config.output}")
