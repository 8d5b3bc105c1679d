"""All four stages on one dataset; every stage is the command that a user would type, and is printed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from tardiff.cli import repository_path, run_stage
from tardiff.config import (
    BaseConfig,
    ClassifierConfig,
    EvaluationConfig,
    ExperimentConfig,
    GenerationConfig,
    load_config,
)
from tardiff.utils.errors import UserError

ROOT = Path(repository_path("."))

Command = tuple[type, list[str], list[str]]
"""A stage: the schema of its settings, the program, and the program's arguments, the configuration file first."""


def main(config: ExperimentConfig, dry_run: bool) -> None:
    run_stages(list(stage_commands(config)), dry_run)


def run_stages(stages: list[Command], dry_run: bool) -> None:
    """Check the settings of all stages, then run them one after the other."""
    for schema, _, (path, *overrides) in stages:
        load_config(schema, path, overrides)  # Every fault of every stage speaks before the first one runs.
    for number, (_, program, arguments) in enumerate(stages, start=1):
        command = [*program, *arguments, *(["--dry-run"] if dry_run else [])]
        print(f"\n[{number}/{len(stages)}] {shlex.join(['python', *command])}", flush=True)
        code = subprocess.run([sys.executable, *command], check=False).returncode
        if code == 2:
            raise UserError(f"stage {number} of {len(stages)} stopped; its message stands above.")
        if code:
            sys.exit(code)


def stage_commands(config: ExperimentConfig) -> Iterator[Command]:
    """Yield every stage, in order."""
    yield from generation_commands(config)
    sets = yaml.safe_dump(synthetic_sets(config), default_flow_style=True, sort_keys=False, width=10**6).strip()
    for protocol in ["tstr", *(["tsrtr"] if config.tsrtr else [])]:
        yield EvaluationConfig, [script(f"evaluate_{protocol}.py")], [
            find(config.evaluation), f"real={config.data}", f"synthetic={sets}",
            f"output={Path(config.output) / 'evaluation'}", *device(config)]


def synthetic_sets(config: ExperimentConfig) -> dict[str, list[str]]:
    """Return the folders of the synthetic datasets of an experiment, by set, in the order of their seeds."""
    suffixes = [""] if config.generation_seeds == 1 else [f"-seed{seed}" for seed in range(config.generation_seeds)]
    if not config.guidance:
        raise UserError("guidance={}: no synthetic set is named.")
    return {str(name): [str(Path(config.output) / "synthetic" / f"{name}{suffix}") for suffix in suffixes]
            for name in config.guidance}


def generation_commands(config: ExperimentConfig) -> Iterator[Command]:
    """Yield the stages that end with the synthetic sets."""
    output, shared = Path(config.output), [f"data={config.data}", *device(config)]
    base, *base_overrides = preset("base", config.base)
    classifier, *classifier_overrides = preset("classifier", config.classifier)
    suffixes = [f"-seed{seed}" for seed in range(config.generation_seeds)] if config.train_each_seed else [""]
    for seed, suffix in enumerate(suffixes):
        seeded = [f"seed={seed}"] if config.train_each_seed else []
        yield BaseConfig, [script("train.py")], [
            base, *base_overrides, *shared, f"output={output / f'base{suffix}'}", *seeded]
        yield ClassifierConfig, ["-m", "classifier.train"], [
            classifier, *classifier_overrides, *shared, f"output={output / f'classifier{suffix}'}", *seeded]
    for (name, value), folders in zip(config.guidance.items(), synthetic_sets(config).values(), strict=True):
        guidance, *overrides = preset(f"guidance.{name}", value)
        for seed, folder in enumerate(folders):
            suffix = suffixes[seed % len(suffixes)]
            yield GenerationConfig, [script("generate.py")], [
                guidance, *overrides, *shared, f"base={output / f'base{suffix}'}",
                f"classifier={output / f'classifier{suffix}'}", f"output={folder}", f"seed={seed}"]


def device(config: ExperimentConfig) -> list[str]:
    """Return the argument that sets the device of a stage, if the experiment names one."""
    return [] if config.device is None else [f"device={config.device}"]


def preset(key: str, value: str | list[str]) -> list[str]:
    """Return a configuration file, found, and the key=value arguments after it. Raises UserError on anything else."""
    arguments = value if isinstance(value, list) else [value]
    if not arguments or not all(isinstance(argument, str) for argument in arguments):
        raise UserError(f"{key}: expected a configuration file, or a list of one and of key=value arguments, got {value!r}.")
    return [find(arguments[0]), *arguments[1:]]


def script(name: str) -> str:
    """Return the path of an entry point, short where the working folder is the repository."""
    return os.path.relpath(ROOT / "scripts" / name) if Path.cwd() == ROOT.resolve() else str(ROOT / "scripts" / name)


def find(path: str) -> str:
    """Return a configuration path as given, or inside this repository where it is not found."""
    return path if Path(path).exists() or not (ROOT / path).exists() else str(ROOT / path)


if __name__ == "__main__":
    run_stage(ExperimentConfig, main, "Run all four stages on one dataset.",
              repository_path("configs/experiment/simulated.yaml"))
