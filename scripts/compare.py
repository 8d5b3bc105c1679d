"""Rival methods, and TarDiff, on one dataset: each is trained and sampled by its own command, and all go into one report.

    python scripts/compare.py --real data/X --methods all --output report
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

from compared_methods import compared_sets
from run_experiment import Command, find, generation_commands, run_stages, script, synthetic_sets

from tardiff.cli import Flag, repository_path, run_stage
from tardiff.config import BaselineConfig, CompareConfig, ExperimentConfig, GenerationConfig, ReportConfig, load_config
from tardiff.data.format import read_dataset
from tardiff.evaluation.sections import fidelity_metrics
from tardiff.evaluation.sets import inputs_exist, read_sets, synthetic_folders
from tardiff.sampling.generate import label_plan
from tardiff.stages.flags import EVALUATION_FLAGS
from tardiff.stages.report import check_classifier, check_rows, check_settings
from tardiff.stages.utility import build_protocol
from tardiff.utils.checkpoint import require_folder, write_text
from tardiff.utils.distributed import resolve_device
from tardiff.utils.errors import UserError
from tardiff.utils.settings import to_yaml


def main(config: CompareConfig, dry_run: bool) -> None:
    require_folder(config.output)
    experiment = None if config.experiment is None else load_config(
        ExperimentConfig, find(config.experiment), [
            f"data={config.real}", f"output={Path(config.output) / 'experiment'}", f"device={config.device}",
            f"generation_seeds={config.generation_seeds}", "train_each_seed=true"])
    sets = {} if experiment is None else synthetic_sets(experiment)
    compared = compared_sets(config)
    names = [*synthetic_folders(config), *sets, *compared]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"two sets are named '{twice[0]}'. Names under synthetic, under guidance of the experiment and under "
                        "variants, and methods, must differ.")
    folders = synthetic_folders(config) | sets | {name: list(commands) for name, commands in compared.items()}
    report = ReportConfig(**{field.name: getattr(config, field.name) for field in dataclasses.fields(ReportConfig)}
                          | {"synthetic": folders})
    stages = [*(generation_commands(experiment) if experiment is not None else []),
              *(command for commands in compared.values() for command in commands.values())]
    check_report(config, report, stages, dry_run)
    if not dry_run:
        write_text(Path(config.output) / "evaluation.yaml", to_yaml(report))
        stages.append((ReportConfig, [script("evaluate.py")], [str(Path(config.output) / "evaluation.yaml")]))
    run_stages(stages, dry_run)
    if dry_run:
        parts = [part for part in report.sections if part != "influence" or report.classifier is not None]
        print(f"\nthen scripts/evaluate.py on {', '.join(report.synthetic)}: {', '.join(parts)}, with {report.seeds} seeds and "
              f"ratios {report.ratios}")


def check_report(config: CompareConfig, report: ReportConfig, stages: list[Command], dry_run: bool) -> None:
    """Raise UserError, before hours of training, on methods that cannot be built and on what the report would refuse."""
    fidelity_metrics(report.fidelity_metrics)
    check_settings(report, synthetic_folders(report))
    given = synthetic_folders(config)
    if inputs_exist(config, given, dry_run):
        real = read_dataset(config.real)
        check_classifier(report, real, resolve_device(config.device))
        sets = read_sets(given, real)
        build_protocol(report, real, sets, None)
        labels = {name: [part.y for part in parts] for name, parts in sets.items()}
        for schema, _, (path, *overrides) in stages:
            stage = load_config(schema, path, overrides)
            if isinstance(stage, BaselineConfig):
                importlib.import_module(schema.__module__).build(stage, *real.shape, real.num_classes)
            if isinstance(stage, (BaselineConfig, GenerationConfig)):
                made = getattr(stage, "synthetic", None) or stage.output
                plan = label_plan(stage.labels, stage.num_samples, real.train.y, real.meta.classes, stage.seed)
                labels[Path(made).name] = [plan]
        check_rows(report, real, labels)


if __name__ == "__main__":
    run_stage(CompareConfig, main, "Train and sample rival methods, and TarDiff, and evaluate them in one report.",
              repository_path("configs/evaluation/comparison.yaml"), (
                  *EVALUATION_FLAGS,
                  Flag("--methods", "methods, or all", lambda values: f"methods=[{', '.join(values)}]", many=True, value="NAME")))
