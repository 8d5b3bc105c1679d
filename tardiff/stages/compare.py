"""Baselines, and TarDiff, on one dataset: trained and sampled as by their own commands, and all in one report."""

from __future__ import annotations

import dataclasses
import importlib
from functools import partial
from pathlib import Path
from typing import Any

from tardiff.baselines import BASELINES
from tardiff.baselines.rules import RULES
from tardiff.baselines.training import sampling_settings
from tardiff.config import (
    CONFIGS,
    BaselineConfig,
    CompareConfig,
    ExperimentConfig,
    GenerationConfig,
    ReportConfig,
    load_config,
)
from tardiff.data.format import read_dataset
from tardiff.evaluation.sections import fidelity_metrics
from tardiff.evaluation.sets import read_sets, require_datasets, synthetic_folders
from tardiff.sampling.generate import label_plan
from tardiff.stages import baseline, report
from tardiff.stages.evaluate import build_protocol, splits_read
from tardiff.stages.run import Step, generation_steps, mask_faults, run_steps, step_of, synthetic_sets, teachers
from tardiff.utils.distributed import resolve_device
from tardiff.utils.errors import UserError

TRAINED = [name for name in BASELINES if name != "rules"]
NAMES = [*TRAINED, *RULES]


def run(config: CompareConfig, dry_run: bool) -> None:
    """Train, sample and report, resuming; all settings and what the report would refuse are checked before the first
    training."""
    experiment = None if config.experiment is None else load_config(ExperimentConfig, config.experiment, values={
        "data": config.real, "name": config.name, "output": str(Path(config.output) / "experiment"),
        "device": config.device, "generation_seeds": config.generation_seeds, "train_each_seed": True})
    given = config
    if experiment is not None and config.teacher is None:
        config = dataclasses.replace(config, teacher=teachers(experiment) or None)
    config = report.quick_settings(config)
    own_sets = {} if experiment is None else synthetic_sets(experiment)
    steps_of = baseline_steps(config)
    names = [*synthetic_folders(config), *own_sets, *steps_of]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"two sets are named '{twice[0]}'. Names under synthetic, under guidance of the experiment and "
                        "under variants, and baselines, must differ.")
    folders = synthetic_folders(config) | own_sets | {name: list(steps) for name, steps in steps_of.items()}
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(ReportConfig)}
    report_config = ReportConfig(**settings | {"synthetic": folders})
    steps = [*(generation_steps(experiment) if experiment is not None else []),
              *(step for of_set in steps_of.values() for step in of_set.values())]
    _check_report(given, report_config, steps)
    run_steps(steps, dry_run)
    if dry_run:
        parts = [part for part in config.sections if part != "influence" or config.classifier is not None]
        print(f"\nthen a report on {', '.join(folders)}: {', '.join(parts)}, with {config.seeds} seeds and ratios "
              f"{config.ratios}")
        return
    print("\nreport", flush=True)
    report.run(report_config, dry_run=False)


def baseline_steps(config: CompareConfig) -> dict[str, dict[str, Step]]:
    """Return the steps that make the datasets of each set, by set and folder: of each baseline, and of its variants.

    Raises UserError on a baseline that does not exist or has no settings, and on a variant that is not one.
    """
    wanted = NAMES if "all" in config.baselines else list(dict.fromkeys(config.baselines))
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise UserError(f"baselines: '{unknown[0]}' is none of {', '.join(NAMES)}, or all.")
    variants = {str(name): value for name, value in config.variants.items()}
    for name, value in variants.items():
        if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
            raise UserError(f"variants.{name}: expected a baseline and its settings, [NAME, key=value, ...], got "
                            f"{value!r}.")
        if value[0] not in TRAINED:
            raise UserError(f"variants.{name}: '{value[0]}' is none of {', '.join(TRAINED)}, which are trained.")
        if name in NAMES:
            raise UserError(f"variants.{name}: this is the name of a baseline. Choose another.")
    folder, seeds, sets = _folder_of_configs(config), range(config.generation_seeds), {}
    for name in wanted:
        trained = {str(_folder(config, name, seed) / "synthetic"): _step(config, folder, name, seed) for seed in seeds}
        sets[name] = trained
        for variant, (sampled, *changes) in variants.items():
            if sampled == name:
                sets[variant] = {str(_folder(config, variant, seed)):
                                 _step(config, folder, name, seed, variant, changes) for seed in seeds}
                _check_variant(variant, name, changes, next(iter(trained.values())))
    return sets


def _step(config: CompareConfig, folder: Path, name: str, seed: int, variant: str | None = None,
           changes: list[str] = ()) -> Step:
    """Return the step that trains and samples a baseline, or samples a variant of it into a folder of its own."""
    module = "rules" if name in RULES else name
    preset = folder / f"{module}.yaml"
    if not preset.exists() and name not in RULES:
        raise UserError(f"configs: {folder} has no {module}.yaml. Write one, or leave {name} out of baselines.")
    values: dict[str, Any] = {
        "data": config.real, "name": config.name, "output": str(_folder(config, name, seed)), "seed": seed,
        "device": config.device, **({"rule": name} if name in RULES else {}),
        "synthetic": None if variant is None else str(_folder(config, variant, seed))}
    arguments = [*([str(preset)] if preset.exists() else []), "sample_seed=null", *changes]
    schema = importlib.import_module(f"tardiff.baselines.{module}").Config
    words, key = ["baseline", module], f"variants.{variant}"
    return step_of(partial(baseline.run, module), schema, words, key, arguments, values)


def _folder(config: CompareConfig, name: str, seed: int) -> Path:
    """Return the run folder of a baseline, or the dataset folder of a variant."""
    return Path(config.output) / "baselines" / f"{name}-seed{seed}"


def _check_variant(variant: str, name: str, changes: list[str], trained: Step) -> None:
    """Raise UserError if a variant changes more than the sampling of the baseline that it is sampled from."""
    settings = sampling_settings(trained.config)
    keys = [text.partition("=")[0] for text in changes]
    other = [key for key in keys if key.partition(".")[0] not in settings]
    if other:
        raise UserError(f"variants.{variant}: {other[0]} is not a setting of sampling, and a variant is sampled from "
                        f"{name} as it was trained. Those are: {', '.join(settings)}.")


def _folder_of_configs(config: CompareConfig) -> Path:
    """Return the folder with the settings of the baselines: the given one, that of the dataset, or the general one."""
    if config.configs is not None:
        found = next((path for path in (Path(config.configs), CONFIGS.parent / config.configs) if path.is_dir()), None)
        if found is None:
            raise UserError(f"configs: folder {config.configs} not found.")
        return found
    own = CONFIGS / "baselines" / Path(config.real).resolve().name
    if own.is_dir():
        return own
    print("configs/baselines: budgets for the simulated cohort on 2 CPU cores are used, for want of settings for "
          f"{config.real}. Others: configs=FOLDER.")
    return CONFIGS / "baselines"


def _check_report(config: CompareConfig, report_config: ReportConfig, steps: list[Step]) -> None:
    """Raise UserError, before hours of training, on baselines that cannot be built and what the report would refuse."""
    fidelity_metrics(report_config.fidelity_metrics)
    report.check_settings(report_config, synthetic_folders(report_config))
    require_datasets(config)
    given = synthetic_folders(config)
    real = read_dataset(config.real, splits_read(config))
    if faults := mask_faults([real], [step.config for step in steps]):
        raise UserError(faults[0])
    sets = read_sets(given, real)
    guide = report.guide_of(report_config, real, sets, resolve_device(config.device))
    if guide is not None and guide.reads_mask and any(isinstance(step.config, BaselineConfig) for step in steps):
        raise UserError(f"classifier: {config.classifier} reads masks (model.inputs=values+mask), and baselines "
                        "generate none. Give a guide with model.inputs=values, or leave influence out of sections.")
    build_protocol(dataclasses.replace(report_config, teacher=config.teacher), real, sets, None)
    labels = {name: [part.y for part in parts] for name, parts in sets.items()}
    for settings in (step.config for step in steps):
        if isinstance(settings, BaselineConfig):
            importlib.import_module(type(settings).__module__).build(settings, *real.shape, real.num_classes)
        if isinstance(settings, (BaselineConfig, GenerationConfig)):
            folder = getattr(settings, "synthetic", None) or settings.output
            plan = label_plan(settings.labels, settings.num_samples, real.train.y, real.meta.classes)
            labels[Path(folder).name] = [plan]
    report.check_rows(report_config, real, labels)
