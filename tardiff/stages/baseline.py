"""A baseline: train it and write its synthetic dataset."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path

from tardiff.baselines import BASELINES
from tardiff.baselines.training import BaselineRun
from tardiff.cli import run_stage
from tardiff.config import BaselineConfig
from tardiff.data.format import read_dataset
from tardiff.utils.errors import UserError
from tardiff.utils.lock import sole_writer


def main(arguments: list[str], program: str) -> None:
    """Run `PROGRAM NAME [CONFIG] [key=value ...]`. Raises UserError on a name that is none."""
    names = ", ".join(BASELINES)
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: {program} NAME [CONFIG] [key=value ...]\n\nNAME is one of {names}. NAME --help lists its "
              "settings.")
        return
    if not arguments or arguments[0] not in BASELINES:
        given = f"'{arguments[0]}' is not a baseline" if arguments else "no baseline is named"
        raise UserError(f"{given}. Give one of {names}, then [CONFIG] [key=value ...]; NAME --help lists its settings.")
    name = arguments[0]
    schema = importlib.import_module(f"tardiff.baselines.{name}").Config
    run_stage(schema, partial(run, name), f"Train {name} and write its synthetic dataset.", arguments[1:],
              f"{program} {name}")


def run(name: str, config: BaselineConfig, dry_run: bool) -> None:
    """Fit the baseline `name` on a dataset and sample from it; both resume."""
    dataset = read_dataset(config.data, ("train",))
    baseline = BaselineRun(importlib.import_module(f"tardiff.baselines.{name}"), dataset, config)
    most_iterations = sum(stage.steps for stage in baseline.stages)
    print(f"{name}: {baseline.parameters:,} parameters, budget: {config.budget}, at most {most_iterations:,} "
          f"iterations; {len(dataset.train):,} training series of shape {dataset.shape}; {len(baseline.labels):,} to "
          f"sample; on {baseline.device}", flush=True)
    if dry_run:
        return
    synthetic = config.synthetic or str(Path(config.output) / "synthetic")
    with sole_writer(config.output):
        baseline.train(config.output)
        with sole_writer(synthetic):
            baseline.write_samples(synthetic)
    print(f"written to {synthetic}")
