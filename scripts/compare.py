"""Rival methods on one dataset: every method is trained and sampled by its own command, and all go into one report.

    python scripts/compare.py --real data/X --methods all --output report
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import yaml
from run_experiment import find, run_stages, script
from utility_table import inputs_exist, synthetic_folders

from tardiff.baselines import BASELINES
from tardiff.baselines.rules import RULES
from tardiff.cli import Flag, folder_flag, repository_path, run_stage
from tardiff.config import CompareConfig, ReportConfig
from tardiff.utils.checkpoint import require_folder, write_text
from tardiff.utils.errors import UserError

METHODS = (*(name for name in BASELINES if name != "rules"), *RULES)


def main(config: CompareConfig, dry_run: bool) -> None:
    require_folder(config.output)
    methods = METHODS if config.methods == ["all"] else config.methods
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise UserError(f"methods: '{unknown[0]}' is none of {', '.join(METHODS)}, or all.")
    if not Path(find(config.configs)).is_dir():
        raise UserError(f"configs: folder {config.configs} not found.")
    taken = [name for name in methods if name in config.synthetic]
    if taken:
        raise UserError(f"synthetic.{taken[0]}: this is the name of a method. Choose another.")
    if not dry_run:
        inputs_exist(config, synthetic_folders(config), dry_run)
    runs = {name: [Path(config.output) / "methods" / f"{name}-seed{seed}" for seed in range(config.generation_seeds)]
            for name in methods}
    stages = [training(config, name, folder, seed) for name, folders in runs.items() for seed, folder in enumerate(folders)]
    settings = Path(config.output) / "evaluation.yaml"
    if not dry_run:
        write_text(settings, evaluation_settings(config, runs))
        stages.append((ReportConfig, [script("evaluate.py")], [str(settings)]))
    run_stages(stages, dry_run)


def training(config: CompareConfig, name: str, folder: Path, seed: int) -> tuple[type, list[str], list[str]]:
    """Return the schema, the program and the arguments that train and sample a method."""
    module = "rules" if name in RULES else name
    preset = Path(config.configs) / f"{module}.yaml"
    path = find(str(preset if Path(find(str(preset))).exists() else Path("configs/baselines") / f"{module}.yaml"))
    arguments = [path, f"data={config.real}", f"output={folder}", f"seed={seed}", f"device={config.device}",
                 *([f"rule={name}"] if name in RULES else [])]
    return importlib.import_module(f"tardiff.baselines.{module}").Config, [script("baseline.py"), module], arguments


def evaluation_settings(config: CompareConfig, runs: dict[str, list[Path]]) -> str:
    """Return the settings of `evaluate.py` for the given sets and those of the methods, as YAML."""
    own = {field.name for field in dataclasses.fields(ReportConfig)}
    values = {name: value for name, value in dataclasses.asdict(config).items() if name in own}
    values["synthetic"] = config.synthetic | {name: [str(folder / "synthetic") for folder in folders]
                                              for name, folders in runs.items()}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


if __name__ == "__main__":
    run_stage(CompareConfig, main, "Train and sample rival methods, and evaluate them in one report.",
              repository_path("configs/evaluation/comparison.yaml"), (
                  folder_flag("real", "real dataset folder"), folder_flag("output", "folder of the runs and the report"),
                  Flag("--methods", "methods, or all", lambda values: f"methods=[{', '.join(values)}]", many=True)))
