"""A baseline: train it and write its synthetic dataset."""

from __future__ import annotations

import importlib
from pathlib import Path

from tardiff.baselines.training import BaselineRun
from tardiff.config import BaselineConfig
from tardiff.data.format import read_dataset
from tardiff.utils.distributed import resolve_device


def run(name: str, config: BaselineConfig, dry_run: bool) -> None:
    """Fit the baseline `name` on a dataset and sample from it; both resume."""
    if dry_run and not Path(config.data).is_dir():
        resolve_device(config.device)
        print(f"settings are valid. Missing input: dataset {config.data}.")
        return
    dataset = read_dataset(config.data, ("train",))
    baseline = BaselineRun(importlib.import_module(f"tardiff.baselines.{name}"), dataset, config)
    most_iterations = sum(stage.steps for stage in baseline.stages)
    print(f"{name}: {baseline.parameters:,} parameters, budget: {config.budget}, at most {most_iterations:,} "
          f"iterations; {len(dataset.train):,} training series of shape {dataset.shape}; {len(baseline.labels):,} to "
          f"sample; on {baseline.device}", flush=True)
    if dry_run:
        return
    baseline.train(config.output)
    synthetic = config.synthetic or str(Path(config.output) / "synthetic")
    baseline.write_samples(synthetic)
    print(f"written to {synthetic}")
