"""Rival methods, and TarDiff, on one dataset: each is trained and sampled by its own command, and all go into one report.

    python scripts/compare.py --real data/X --methods all --output report
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

from report_inputs import check_classifier, check_rows, check_settings
from run_experiment import Command, find, generation_commands, run_stages, script, synthetic_sets
from synthetic_sets import inputs_exist, read_sets, synthetic_folders
from utility_table import build_protocol

from tardiff.baselines import BASELINES
from tardiff.baselines.rules import RULES
from tardiff.cli import Flag, folder_flag, repository_path, run_stage
from tardiff.config import BaselineConfig, CompareConfig, ExperimentConfig, GenerationConfig, ReportConfig, load_config
from tardiff.data.format import read_dataset
from tardiff.evaluation.sections import fidelity_metrics
from tardiff.sampling.generate import label_plan
from tardiff.utils.checkpoint import require_folder, write_text
from tardiff.utils.distributed import resolve_device
from tardiff.utils.errors import UserError
from tardiff.utils.settings import to_yaml

METHODS = (*(name for name in BASELINES if name != "rules"), *RULES)


def main(config: CompareConfig, dry_run: bool) -> None:
    require_folder(config.output)
    methods = METHODS if "all" in config.methods else config.methods
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise UserError(f"methods: '{unknown[0]}' is none of {', '.join(METHODS)}, or all.")
    experiment = None if config.experiment is None else load_config(
        ExperimentConfig, find(config.experiment), [
            f"data={config.real}", f"output={Path(config.output) / 'experiment'}", f"device={config.device}",
            f"generation_seeds={config.generation_seeds}", "train_each_seed=true"])
    sets = {} if experiment is None else synthetic_sets(experiment)
    names = [*synthetic_folders(config), *sets, *dict.fromkeys(methods)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"two sets are named '{twice[0]}'. Names under synthetic, names under guidance of the experiment and "
                        "methods must differ.")
    configs = folder_of_configs(config)
    runs = {name: [Path(config.output) / "methods" / f"{name}-seed{seed}" for seed in range(config.generation_seeds)]
            for name in methods}
    made = {name: [str(folder / "synthetic") for folder in folders] for name, folders in runs.items()}
    report = ReportConfig(**{field.name: getattr(config, field.name) for field in dataclasses.fields(ReportConfig)}
                          | {"synthetic": synthetic_folders(config) | sets | made})
    stages = [*(generation_commands(experiment) if experiment is not None else []),
              *(training(config, configs, name, folder, seed)
                for name, folders in runs.items() for seed, folder in enumerate(folders))]
    check_report(config, report, stages, dry_run)
    if not dry_run:
        write_text(Path(config.output) / "evaluation.yaml", to_yaml(report))
        stages.append((ReportConfig, [script("evaluate.py")], [str(Path(config.output) / "evaluation.yaml")]))
    run_stages(stages, dry_run)
    if dry_run:
        parts = [part for part in report.sections if part != "influence" or report.classifier is not None]
        print(f"\nthen scripts/evaluate.py on {', '.join(report.synthetic)}: {', '.join(parts)}, with {report.seeds} seeds and "
              f"ratios {report.ratios}")


def folder_of_configs(config: CompareConfig) -> str:
    """Return the folder with the settings of the methods: the given one, or that of the dataset, or the general one."""
    if config.configs is not None:
        if not Path(find(config.configs)).is_dir():
            raise UserError(f"configs: folder {config.configs} not found.")
        return config.configs
    own = f"configs/baselines/{Path(config.real).resolve().name}"
    if Path(find(own)).is_dir():
        return own
    print("configs/baselines: budgets for the simulated cohort on 2 CPU cores are used, for want of settings for "
          f"{config.real}. Others: configs=FOLDER.")
    return "configs/baselines"


def check_report(config: CompareConfig, report: ReportConfig, stages: list[Command], dry_run: bool) -> None:
    """Raise UserError, before hours of training, on methods that cannot be built and on what the report would refuse."""
    fidelity_metrics(report.fidelity_metrics)
    check_settings(report, synthetic_folders(report))
    given = synthetic_folders(config)
    if inputs_exist(config, given, dry_run):
        real = read_dataset(config.real)
        check_classifier(report, real, resolve_device(config.device))
        sets = read_sets(given, real)
        build_protocol(report, real, sets)
        labels = {name: [part.y for part in parts] for name, parts in sets.items()}
        for schema, _, (path, *overrides) in stages:
            stage = load_config(schema, path, overrides)
            if isinstance(stage, BaselineConfig):
                importlib.import_module(schema.__module__).build(stage, *real.shape, real.num_classes)
            if isinstance(stage, (BaselineConfig, GenerationConfig)):
                plan = label_plan(stage.labels, stage.num_samples, real.train.y, real.num_classes, stage.seed)
                labels[Path(stage.output).name] = [plan]
        check_rows(report, real, labels)


def training(config: CompareConfig, configs: str, name: str, folder: Path, seed: int) -> Command:
    """Return the schema, the program and the arguments that train and sample a method."""
    module = "rules" if name in RULES else name
    preset = find(str(Path(configs) / f"{module}.yaml"))
    if not Path(preset).exists() and module != "rules":
        raise UserError(f"configs: {configs} has no {module}.yaml. Write one, or leave {name} out of methods.")
    arguments = [preset if Path(preset).exists() else find("configs/baselines/rules.yaml"), f"data={config.real}",
                 f"output={folder}", "synthetic=null", f"seed={seed}", "sample_seed=null", f"device={config.device}",
                 *([f"rule={name}"] if name in RULES else [])]
    return importlib.import_module(f"tardiff.baselines.{module}").Config, [script("baseline.py"), module], arguments


if __name__ == "__main__":
    run_stage(CompareConfig, main, "Train and sample rival methods, and TarDiff, and evaluate them in one report.",
              repository_path("configs/evaluation/comparison.yaml"), (
                  folder_flag("real", "real dataset folder"), folder_flag("output", "folder of the runs and the report"),
                  Flag("--methods", "methods, or all", lambda values: f"methods=[{', '.join(values)}]", many=True, value="NAME")))
