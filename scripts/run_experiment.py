"""All four stages on one dataset; every stage is the command that a user would type, and is printed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
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


def main(config: ExperimentConfig, dry_run: bool) -> None:
    run_stages(list(stage_commands(config)), dry_run)


def run_stages(stages: list[tuple[type, list[str], list[str]]], dry_run: bool) -> None:
    """Check the settings of all stages (schema, program, arguments), then run them one after the other."""
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


def stage_commands(config: ExperimentConfig):
    """Yield the schema, the program and the arguments of every stage, in order."""
    output = Path(config.output)
    base, classifier = f"base={output / 'base'}", f"classifier={output / 'classifier'}"
    data = f"data={config.data}"
    yield BaseConfig, [script("train.py")], [find(config.base), data, f"output={output / 'base'}"]
    yield ClassifierConfig, ["-m", "classifier.train"], [find(config.classifier), data,
                                                         f"output={output / 'classifier'}"]
    synthetic: dict[str, list[str]] = {}
    for name, arguments in config.guidance.items():
        arguments = arguments if isinstance(arguments, list) else [arguments]
        if not arguments or not all(isinstance(argument, str) for argument in arguments):
            raise UserError(f"guidance.{name}: expected a configuration file, or a list of one and of key=value "
                            f"arguments, got {arguments!r}.")
        preset, *overrides = arguments
        for seed in range(config.generation_seeds):
            leaf = name if config.generation_seeds == 1 else f"{name}-seed{seed}"
            folder = str(output / "synthetic" / leaf)
            synthetic.setdefault(name, []).append(folder)
            yield GenerationConfig, [script("generate.py")], [find(preset), data, base, classifier, f"output={folder}",
                                                              f"seed={seed}", *overrides]
    sets = yaml.safe_dump(synthetic, default_flow_style=True, sort_keys=False, width=10**6).strip()
    for protocol in ["tstr", *(["tsrtr"] if config.tsrtr else [])]:
        yield EvaluationConfig, [script(f"evaluate_{protocol}.py")], [
            find(config.evaluation), f"real={config.data}", f"synthetic={sets}", f"output={output / 'evaluation'}"]


def script(name: str) -> str:
    """Return the path of an entry point, short where the working folder is the repository."""
    return os.path.relpath(ROOT / "scripts" / name) if Path.cwd() == ROOT.resolve() else str(ROOT / "scripts" / name)


def find(path: str) -> str:
    """Return a configuration path as given, or inside this repository where it is not found."""
    return path if Path(path).exists() or not (ROOT / path).exists() else str(ROOT / path)


if __name__ == "__main__":
    run_stage(ExperimentConfig, main, "Run all four stages on one dataset.",
              repository_path("configs/experiment/simulated.yaml"))
