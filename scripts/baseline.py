"""A rival method: train it and write its synthetic dataset."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tardiff.baselines import BASELINES
from tardiff.baselines.training import Rival
from tardiff.cli import repository_path, run_stage
from tardiff.data.format import read_dataset
from tardiff.utils.distributed import resolve_device
from tardiff.utils.errors import UserError, exit_on_user_error


def run_baseline(name: str, config, dry_run: bool) -> None:
    """Fit the baseline `name` on a dataset and sample from it; both resume."""
    if dry_run and not Path(config.data).is_dir():
        resolve_device(config.device)
        print(f"settings are valid. Missing input: dataset {config.data}.")
        return
    dataset = read_dataset(config.data, ("train",))
    rival = Rival(importlib.import_module(f"tardiff.baselines.{name}"), dataset, config)
    print(f"{name}: {rival.parameters:,} parameters, budget: {config.budget}, at most "
          f"{sum(stage.steps for stage in rival.stages):,} iterations; {len(dataset.train):,} training series of shape "
          f"{dataset.shape}; {len(rival.labels):,} to make; on {rival.device}", flush=True)
    if dry_run:
        return
    rival.train(config.output)
    synthetic = config.synthetic or str(Path(config.output) / "synthetic")
    rival.write_samples(synthetic)
    print(f"written to {synthetic}")


def main() -> None:
    names = ", ".join(BASELINES)
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(f"usage: baseline.py NAME [CONFIG] [key=value ...]\n\nNAME is one of {names}. NAME --help lists its settings.")
        return
    if len(sys.argv) < 2 or sys.argv[1] not in BASELINES:
        given = f"'{sys.argv[1]}' is not a baseline" if len(sys.argv) > 1 else "no baseline is named"
        raise UserError(f"{given}. Give one of {names}, then [CONFIG] [key=value ...]; NAME --help lists its settings.")
    name = sys.argv.pop(1)
    schema = importlib.import_module(f"tardiff.baselines.{name}").Config
    run_stage(schema, lambda config, dry_run: run_baseline(name, config, dry_run),
              f"Train {name} and write its synthetic dataset.", repository_path(f"configs/baselines/{name}.yaml"))


if __name__ == "__main__":
    exit_on_user_error(main)
