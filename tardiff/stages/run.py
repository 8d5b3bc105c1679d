"""All four stages on one dataset, each with the settings that its own command would have."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from classifier.teacher import folds_of
from tardiff.cli import COMMANDS
from tardiff.config import (
    ROTATION,
    BaseConfig,
    ClassifierConfig,
    EvaluationConfig,
    ExperimentConfig,
    GenerationConfig,
    ReportConfig,
    TeacherConfig,
    load_config,
    texts_in,
)
from tardiff.data.format import SPLIT_NAMES, Dataset, Split, absent_classes, is_dataset, read_dataset, write_dataset
from tardiff.data.splits import halve_validation, rotated
from tardiff.diffusion.fitted import models_mask
from tardiff.diffusion.process import DiffusionProcess
from tardiff.evaluation.sets import synthetic_folders
from tardiff.library import check_sampler
from tardiff.sampling.generate import label_plan
from tardiff.stages import report
from tardiff.stages.evaluate import of_rotation, splits_read
from tardiff.utils.errors import UserError
from tardiff.utils.plain_yaml import as_typed

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """The work of a command, `run(config, dry_run)`, with its settings, and the words that a user would type for it."""

    run: Callable[[Any, bool], None]
    config: Any
    typed: str


def step(name: str, key: str, arguments: str | list[str], values: dict[str, Any]) -> Step:
    """Return the command `tardiff NAME` for arguments as they are typed and, over them, settings by dotted name.

    Raises UserError that names the setting `key` behind the arguments where these cannot be used.
    """
    command = COMMANDS[name]
    return step_of(command.run, command.schema, [name], key, arguments, values)


def step_of(run: Callable[[Any, bool], None], schema: type, words: list[str], key: str, arguments: str | list[str],
             values: dict[str, Any]) -> Step:
    """Return the stage of a function and the schema of its settings; the words name its command."""
    config, typed = config_of(schema, key, arguments, values)
    return Step(run, config, shlex.join(["tardiff", *words, *typed]))


def config_of(schema: type[T], key: str, arguments: str | list[str], values: dict[str, Any]) -> tuple[T, list[str]]:
    """Return the settings that arguments and, over them, values stand for, and the words that a user would type for
    them.

    Raises UserError that names the setting `key` behind the arguments where these cannot be used.
    """
    given = [arguments] if isinstance(arguments, str) else arguments
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise UserError(f"{key}: expected a configuration file, or a list of one and of key=value, got {arguments!r}.")
    files, overrides = ([text for text in given if ("=" in text) == is_override] for is_override in (False, True))
    if len(files) > 1:
        raise UserError(f"{key}: give one configuration file, not {len(files)}: {', '.join(files)}.")
    try:
        config = load_config(schema, files[0] if files else None, overrides, values)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    return config, typed_over([*files, *overrides], values)


def typed_over(arguments: str | list[str], values: dict[str, Any]) -> list[str]:
    """Return arguments as they are typed with settings by dotted name, in place of those that they hold."""
    given = [arguments] if isinstance(arguments, str) else arguments
    kept = [text for text in given if "=" not in text or text.partition("=")[0] not in values]
    return [*kept, *(f"{name}={as_typed(value)}" for name, value in values.items())]


def run(config: ExperimentConfig, dry_run: bool) -> None:
    """Run all stages, each of which resumes and skips what is done; the settings of all are checked before the first.

    Raises UserError as the stages do.
    """
    evaluation = evaluation_of(config)
    steps = [step for rotation in rotations(config) for step in generation_steps(rotation)]
    several = config.rotations > 1
    parts = rotated_parts(config, read_dataset(config.data, SPLIT_NAMES if several else splits_read(evaluation)))
    require_usable(parts, steps, evaluation, "Give fewer rotations, or rotations=1." if several else "")
    if several and not dry_run:
        write_parts(parts, f"rotation of {config.data} as it is now, of {config.rotations}")
    run_steps([*steps, report_step(config)], dry_run, [str(part.path) for part in parts])


def require_usable(parts: Sequence[Dataset], steps: Sequence[Step], evaluation: EvaluationConfig, hint: str) -> None:
    """Raise UserError, before hours of training, on what a later stage would refuse of datasets, each of which goes
    through the stages with the settings of the steps: a class is missing where series are guided, weights chosen or
    results computed, there are too few subjects for the folds of a teacher, sets will be too small for a ratio, or
    masks are to be read that no denoiser would generate. hint: what to do where rows are missing."""
    faults = [fault for part in parts for fault in _faults(part, steps)]
    faults += [hint] if faults and hint else []
    faults += mask_faults(parts, [*(step.config for step in steps), evaluation])
    if faults:
        raise UserError("\n".join(faults))
    for number, part in enumerate(parts):
        planned = planned_sets(part, steps, of_rotation(evaluation, number))
        report.check_rows(evaluation, part, {name: [split.y for split in sets] for name, sets in planned.items()})


def mask_faults(parts: Sequence[Dataset], settings: Sequence[Any]) -> list[str]:
    """Return a fault if guides or judges are to read masks and a denoiser would generate none of a dataset, among the
    settings of stages that each of the datasets goes through."""
    readers = [name for name, schema in (("classifier", ClassifierConfig), ("evaluation", EvaluationConfig))
               if any(isinstance(config, schema) and config.model.reads_mask for config in settings)]
    bases = [config for config in settings if isinstance(config, BaseConfig)]
    if not readers or all(models_mask(base, part) for part in parts for base in bases):
        return []
    return [f"{readers[0]}: model.inputs=values+mask needs sets with masks, and none would be generated: base has "
            f"mask=false, or {parts[0].path} has no gaps, or does not say how they were filled."]


def planned_sets(part: Dataset, steps: Sequence[Step], evaluation: EvaluationConfig) -> dict[str, list[Split]]:
    """Return synthetic sets as the steps will make them of a dataset: their labels, and where there will be any,
    probabilities; what else they hold is not known yet."""
    settings = {step.config.output: step.config for step in steps if isinstance(step.config, GenerationConfig)}

    def planned(config: GenerationConfig) -> Split:
        y = label_plan(config.labels, config.num_samples, part.train.y, part.meta.classes)
        p = None if config.teacher is None else np.empty((len(y), part.num_classes))
        return Split(np.empty((len(y), *part.shape), np.float32), y, p=p)

    return {name: [planned(settings[path]) for path in paths] for name, paths in synthetic_folders(evaluation).items()}


def _faults(part: Dataset, steps: Sequence[Step]) -> list[str]:
    teachers = {step.config.seed for step in steps if isinstance(step.config, TeacherConfig)}
    try:
        guidance, selection = halve_validation(part.val)
        named = {"train": part.train, "the guidance half": guidance, "the selection half": selection}
        faults = [fault for what, rows in (named | {"test": part.splits.get("test")}).items() if rows is not None
                  for fault in absent_classes(rows, part.meta, f"{what} of {part.meta.name}")]
    except UserError as error:
        return [f"{part.meta.name}: {error}"]
    try:
        for seed in sorted(teachers) if not faults else []:
            folds_of(part, seed)
    except UserError as error:
        faults.append(f"{part.meta.name}: {error} teacher=null runs without a teacher.")
    return faults


def rotations(config: ExperimentConfig) -> list[ExperimentConfig]:
    """Return the experiment on each rotation of the split, in a folder of its own; itself where there is one split."""
    if config.rotations == 1:
        return [config]
    folders = [Path(config.output) / "rotations" / str(number) for number in range(config.rotations)]
    return [replace(config, data=str(folder / "data"), output=str(folder), rotations=1) for folder in folders]


def rotated_parts(config: ExperimentConfig, whole: Dataset) -> list[Dataset]:
    """Return the dataset of each rotation of an experiment, under the path where its stages look for it. Raises
    UserError if a dataset cannot be rotated."""
    if config.rotations == 1:
        return [whole]
    return [replace(rotated(whole, number, config.rotations), path=Path(rotation.data))
            for number, rotation in enumerate(rotations(config))]


def write_parts(parts: Sequence[Dataset], what: str) -> None:
    """Write datasets where they are not there yet.

    Raises UserError, before the first is written, if another dataset is there, which is no `what`.
    """
    is_there = [is_dataset(part.path) for part in parts]
    for part in itertools.compress(parts, is_there):
        there = read_dataset(part.path)
        if there.meta != part.meta or any(there.splits[name].fingerprint() != split.fingerprint()
                                          for name, split in part.splits.items()):
            raise UserError(f"{part.path}: is no {what}. Choose another output, or delete {part.path.parent.parent}.")
    for part, done in zip(parts, is_there, strict=True):
        if not done:
            write_dataset(part.path, part.splits, part.meta)


def run_steps(steps: Sequence[Step], dry_run: bool, made: Iterable[str] = ()) -> None:
    """Run stages one after the other, and print what a user would type for each.

    made: folders that will be there before the first stage. Of a stage that awaits what others make, a dry run checks
    the settings alone.
    """
    made, sets = set(made), set()
    for number, each in enumerate(steps, start=1):
        print(f"\n[{number}/{len(steps)}] {each.typed}{' --dry-run' * dry_run}", flush=True)
        paths = dict.fromkeys(text.replace(ROTATION, "0") for text in texts_in(asdict(each.config)))
        awaited = [path for path in paths if path in made
                   and not (is_dataset(path) if path in sets else Path(path).exists())]
        if dry_run and awaited:
            print(f"settings are valid. Earlier steps make {', '.join(awaited)}.")
        else:
            each.run(each.config, dry_run)
        made.add(each.config.output)
        if isinstance(each.config, GenerationConfig):
            sets.add(each.config.output)


def generation_steps(config: ExperimentConfig) -> list[Step]:
    """Return the stages that end with the synthetic sets."""
    output, shared = Path(config.output), _shared(config)
    suffixes, labelled_by = _training_suffixes(config), teachers(config)
    steps, denoisers = [], []
    for seed, suffix in enumerate(suffixes):
        values = shared | ({"seed": seed} if config.train_each_seed else {})
        denoisers.append(step("train", "base", config.base, values | {"output": str(output / f"base{suffix}")}))
        steps += [
            denoisers[-1],
            step("guide", "classifier", config.classifier, values | {"output": str(output / f"classifier{suffix}")})]
        if labelled_by:
            steps.append(step("teach", "teacher", config.teacher, values | {"output": labelled_by[seed]}))
    for name, folders in synthetic_sets(config).items():
        for seed, folder in enumerate(folders):
            suffix = suffixes[seed % len(suffixes)]
            steps.append(step("generate", f"guidance.{name}", config.guidance[name], shared | {
                "base": str(output / f"base{suffix}"), "classifier": str(output / f"classifier{suffix}"),
                **({"teacher": labelled_by[seed % len(labelled_by)]} if labelled_by else {}),
                "output": folder, "seed": seed}))
            base = denoisers[seed % len(denoisers)].config
            try:  # Before hours of training.
                check_sampler(steps[-1].config.sampler, DiffusionProcess(base.diffusion),
                              base.training.label_dropout > 0)
            except UserError as error:
                raise UserError(f"guidance.{name}: {error}") from None
    return steps


def report_step(config: ExperimentConfig) -> Step:
    """Return the last stage: the report on all synthetic sets."""
    first, output = "-seed0" if config.train_each_seed else "", Path(config.output)
    values = {key: value for key, value in _shared(config).items() if key not in ("data", "name")}
    values |= {"real": config.data, "output": str(output / "report")}
    if config.rotations > 1:
        output = output / "rotations" / "{rotation}"
        values |= {"real": str(output / "data"), "rotations": config.rotations}
    return step("report", "evaluation", config.evaluation, values | {
        "synthetic": synthetic_sets(replace(config, output=str(output))),
        **({} if config.teacher is None else {"teacher": teachers(replace(config, output=str(output)))}),
        "classifier": str(output / f"classifier{first}")})


def evaluation_of(config: ExperimentConfig) -> ReportConfig:
    """Return the settings of the last stage as they count. Raises UserError on sets that no report can be made of."""
    evaluation = report.quick_settings(report_step(config).config)
    report.check_settings(evaluation, synthetic_folders(evaluation))
    return evaluation


def teachers(config: ExperimentConfig) -> list[str]:
    """Return the run folders of the teachers of an experiment, in the order of their seeds."""
    if config.teacher is None:
        return []
    return [str(Path(config.output) / f"teacher{suffix}") for suffix in _training_suffixes(config)]


def _training_suffixes(config: ExperimentConfig) -> list[str]:
    """Return how the names of the runs of each training end, in the order of their seeds."""
    return [f"-seed{seed}" for seed in range(config.generation_seeds)] if config.train_each_seed else [""]


def synthetic_sets(config: ExperimentConfig) -> dict[str, list[str]]:
    """Return the folders of the synthetic datasets of an experiment, by set, in the order of their seeds."""
    if not config.guidance:
        raise UserError("guidance={}: no synthetic set is named.")
    suffixes = [""] if config.generation_seeds == 1 else [f"-seed{seed}" for seed in range(config.generation_seeds)]
    return {name: [str(Path(config.output) / "synthetic" / f"{name}{suffix}") for suffix in suffixes]
            for name in map(str, config.guidance)}


def _shared(config: ExperimentConfig) -> dict[str, Any]:
    device = {} if config.device is None else {"device": config.device}
    return {"data": config.data, "name": config.name, **device}
