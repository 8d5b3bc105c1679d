"""A rival method: train it and write its synthetic dataset."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import numpy as np
import torch

from tardiff.baselines import BASELINES
from tardiff.baselines.interface import Scaler
from tardiff.baselines.training import chunk_sampler, train_baseline
from tardiff.cli import repository_path, run_stage
from tardiff.data.format import read_dataset
from tardiff.data.normalize import Normalizer
from tardiff.sampling.generate import generate_dataset, label_plan
from tardiff.utils.distributed import Processes, resolve_device
from tardiff.utils.errors import UserError, exit_on_user_error
from tardiff.utils.logging import open_run
from tardiff.utils.seeding import seed_torch


def run_baseline(name: str, config, dry_run: bool) -> None:
    """Fit the baseline `name` on a dataset and sample from it, into one run folder; both resume."""
    method = importlib.import_module(f"tardiff.baselines.{name}")
    device = resolve_device(config.device)
    if dry_run and not Path(config.data).is_dir():
        print(f"settings are valid. Missing input: dataset {config.data}.")
        return
    dataset = read_dataset(config.data, ("train",))
    length, num_channels = dataset.shape
    seed_torch(config.seed, "baseline", "initialisation")
    model = method.build(config, length, num_channels, dataset.num_classes)
    labels = label_plan(config.labels, config.num_samples, dataset.train.y, dataset.num_classes, config.seed)
    print(f"{name}: {sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad):,} parameters, "
          f"budget: {config.budget}; {len(dataset.train):,} training series of shape {dataset.shape}; {len(labels):,} to make; "
          f"on {device}")
    if dry_run:
        return
    run = open_run(config.output, config, {"train": dataset.train.fingerprint()})
    fill = Normalizer.fit("zscore", dataset.train.x).fill.astype(np.float32)
    x = np.where(np.isnan(dataset.train.x), fill, dataset.train.x)
    scaler = Scaler(model.scaling, length, num_channels)
    train_baseline(model, scaler, x, dataset.train.y, config, run, device)
    synthetic = Path(config.output) / "synthetic"
    open_run(synthetic, dataclasses.replace(config, output=str(synthetic)), {"train": dataset.train.fingerprint()},
             record="provenance.json")
    generate_dataset(chunk_sampler(model, scaler, config.seed, device), labels, config.sampling_batch_size, synthetic,
                     dataset.shape, dataset.meta, Processes(0, 1, torch.device(device)))
    print(f"written to {synthetic}")


def main() -> None:
    names = ", ".join(BASELINES)
    if len(sys.argv) < 2 or sys.argv[1] not in BASELINES:
        given = f"'{sys.argv[1]}' is not a baseline" if len(sys.argv) > 1 else "no baseline is named"
        raise UserError(f"{given}. Give one of {names}, then [CONFIG] [key=value ...]; NAME --help lists its settings.")
    name = sys.argv.pop(1)
    schema = importlib.import_module(f"tardiff.baselines.{name}").Config
    run_stage(schema, lambda config, dry_run: run_baseline(name, config, dry_run),
              f"Train {name} and write its synthetic dataset.", repository_path(f"configs/baselines/{name}.yaml"))


if __name__ == "__main__":
    exit_on_user_error(main)
