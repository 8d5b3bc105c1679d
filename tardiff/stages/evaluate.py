"""TSTR and TSRTR against real-only training: one table, as a command and as a function."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
import torch

from classifier.boosting import BINS
from classifier.models import build_classifier, custom_source
from classifier.teacher import out_of_fold
from classifier.train import fit_classifier
from tardiff.config import ROTATION, ClassifierModelConfig, ClassifierTrainingConfig, EvaluationConfig, TeacherConfig
from tardiff.data.format import Dataset, Split, absent_classes, absent_masks, read_dataset, read_metadata
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import halve_validation
from tardiff.evaluation.frame import MIXED, SOFT, utility_rows
from tardiff.evaluation.intervals import FEW_SUBJECTS, subject_counts
from tardiff.evaluation.metrics import chance_average_precision, reliability_curve
from tardiff.evaluation.protocol import Arm, Judge, Protocol, Rotations, score_arms
from tardiff.evaluation.sets import (
    guide_kinds,
    read_generation,
    read_sets,
    reference_of,
    require_datasets,
    synthetic_folders,
)
from tardiff.evaluation.summary import (
    ADJUSTED,
    at_chance,
    counted,
    format_table,
    seen_beforehand,
    tidy_table,
    write_tables,
)
from tardiff.utils.distributed import resolve_device
from tardiff.utils.errors import UserError
from tardiff.utils.logging import provenance, read_run_config
from tardiff.utils.parallel import worker_count

SCORED_ON = {"test": "test", "selection": "the selection half, for choosing settings and somewhat optimistic"}

FEWEST_ROWS_OF_BIN = 20
"""Of a reliability curve."""


def run(config: EvaluationConfig, dry_run: bool) -> None:
    """Run the protocols, print the table, and write it as JSON and CSV to the output folder: as `utility`, or under the
    name of the protocol where it is one alone."""
    folders = synthetic_folders(of_rotation(config, 0))
    reference = reference_of(config, folders)
    require_all_datasets(config)
    protocol = read_protocol(config)
    arms = arms_of(config, protocol.real, protocol.synthetic)
    print(f"{counted(len(arms), 'arm')} x {counted(config.seeds, 'seed')}, judged by {', '.join(protocol.judges)}: "
          f"{len(protocol.real):,} real training, {len(protocol.selection):,} selection and "
          f"{len(protocol.scored):,} {config.score_on} series")
    classes = read_metadata(Path(of_rotation(config, 0).real) / "meta.json").classes
    print(seen_beforehand(protocol.scored.y, protocol.scored.subjects(), classes))
    warn_beforehand(config, protocol.real, arms)
    if dry_run:
        return
    name = config.protocols[0] if len(config.protocols) == 1 else "utility"
    rows = utility_rows(score_arms(protocol.predictions(arms, config.seeds), protocol, reference, config.bootstrap))
    kinds = guide_kinds(folders)
    write_tables(config.output, name, rows, {"scored on": config.score_on, "guide_kinds": kinds,
                                             "config": asdict(config), **provenance()})
    title = " and ".join(config.protocols).upper()
    print(f"\n{title}, scored on {SCORED_ON[config.score_on]}: mean (sd over {counted(config.seeds, 'seed')})")
    print(f"{format_table(rows, reference)}\n{ADJUSTED}")
    print_warnings(rows, kinds)
    if (few := few_subjects(protocol.scored)) is not None:
        print(f"Only {counted(few, 'subject')} of the rarest class are scored: intervals are wide, and rough near "
              "0 and 1.")
    if single := [name for name, paths in folders.items() if min(len(paths), config.seeds) < 2]:
        print(f"One dataset alone of {', '.join(single)}: sd and intervals do not cover the chance of generation.")
    print(f"\nwritten to {Path(config.output) / name}.json and .csv")


def of_rotation(config: EvaluationConfig, number: int) -> EvaluationConfig:
    """Return the settings of the evaluation of one rotation, whose number stands for {rotation} in paths."""
    def numbered(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: numbered(paths) for name, paths in value.items()}
        if isinstance(value, list):
            return [numbered(path) for path in value]
        return value.replace(ROTATION, str(number)) if isinstance(value, str) else value

    paths = {name: numbered(getattr(config, name)) for name in ("real", "synthetic", "teacher", "classifier")
             if getattr(config, name, None) is not None}
    return replace(config, **paths) if config.rotations > 1 else config


def require_all_datasets(config: EvaluationConfig) -> None:
    """Raise UserError if a dataset of a rotation is not there, or not finished."""
    for number in range(config.rotations):
        require_datasets(of_rotation(config, number))


def read_protocol(config: EvaluationConfig) -> Protocol | Rotations:
    """Read the datasets, of all rotations where there are several, and return what the arms share."""
    protocols = []
    for number in range(config.rotations):
        rotation = of_rotation(config, number)
        real = read_dataset(rotation.real, splits_read(config))
        sets = read_sets(synthetic_folders(rotation), real)
        check_teachers(rotation, real)
        protocols.append(build_protocol(rotation, real, sets, Path(config.output)))
    return Rotations(protocols) if len(protocols) > 1 else protocols[0]


def check_teachers(config: EvaluationConfig, real: Dataset) -> None:
    """Raise UserError if a teacher was not taught the training rows, or is not the one that labelled the dataset which
    a seed takes beside it: it would be no rival of it."""
    teachers = [(folder, out_of_fold(folder, real)[1]) for folder in config.teachers]
    pairs = {(paths[seed % len(paths)], teachers[seed % len(teachers)]) for paths in synthetic_folders(config).values()
             for seed in range(config.seeds) if teachers}
    for path, (folder, own) in sorted(pairs):
        if (read_generation(Path(path)) or {"inputs": {}})["inputs"].get("teacher", own) != own:
            raise UserError(f"{path}: was labelled by another teacher than {folder}. Give the one that its "
                            "provenance.json names, teacher=RUN, or one for each folder of a set, in their order.")


def splits_read(config: EvaluationConfig) -> tuple[str, ...]:
    """Return the names of the real splits that an evaluation reads."""
    return ("train", "val", "test") if config.score_on == "test" else ("train", "val")


def scored_split(config: EvaluationConfig, real: Dataset) -> Split:
    """Return the real rows that results are computed on: test, or the selection half of val."""
    return real.test if config.score_on == "test" else halve_validation(real.val)[1]


def evaluate_sets(real: Dataset, sets: dict[str, list[Split]], config: EvaluationConfig,
                  folder: str | Path | None = None) -> pd.DataFrame:
    """Evaluate synthetic sets that are in memory and return a tidy frame, one row for each judge, arm and metric.

    real: a dataset with the splits that `splits_read` names. sets: for each name the rows of its datasets, one per
    generation seed, x (N, L, C) in raw units, which fit the real ones. Of the settings, `real`, `name`, `synthetic`
    and `output` are not read. folder: where finished fits are kept, so that the same call goes on where it was; None
    keeps none.

    Columns: `judge`, `set` (None without synthetic rows), `protocol` (TRTR, TSTR, TSRTR, TSRTR mixed or a control),
    `targets` on synthetic rows (own, soft), `ratio` of synthetic to real rows (TSRTR), `weight` of the synthetic rows
    (TSRTR mixed), `real_rows`, the labelled real rows trained on, `metric` (auroc, auprc, f1, f1_selected, brier,
    auprc_macro, positive_rate), `mean` and `sd` over seeds, `low` and `high`, the 95 % interval over test subjects and
    seeds; the same of the difference to TRTR, paired by subject and seed, in `difference`, `difference_sd`,
    `difference_low`, `difference_high`, and `verdict` on that difference, its p adjusted over all arms (gain, loss;
    none on positive_rate, and of the Brier score less is better); of sets, `control`, the best one by that metric, and
    the same of the difference to it in `control_difference` and so on, and where a teacher is given, of that to the
    control teacher_labels in `teacher_difference`, and where `reference` names a set, of the same arm with the others
    to that in `reference_difference`.
    Raises UserError if a set has too few rows for a ratio, or none of them probabilities for soft targets, or if the
    teacher was taught other rows.
    """
    reference = reference_of(config, sets)
    protocol = build_protocol(config, real, sets, None if folder is None else Path(folder))
    results = protocol.predictions(arms_of(config, real.train, sets), config.seeds)
    return tidy_table(utility_rows(score_arms(results, protocol, reference, config.bootstrap)))


def arms_of(config: EvaluationConfig, real: Split, sets: dict[str, list[Split]]) -> list[Arm]:
    """Return the lines of the table, judge by judge: TRTR, the controls of the judge and the sets, of MIXED its
    candidates. A set that lacks a class can only be added to real rows: beside TSRTR it has no TSTR.

    Raises UserError where soft targets are asked for and no set has probabilities, or one has no other arms.
    """
    of_sets: list[Arm] = []
    with_p = [name for name, parts in sets.items() if all(part.p is not None for part in parts)]
    wanted = ["own", SOFT] if config.targets is None else config.targets
    targets_of = {name: [targets for targets in wanted if targets != SOFT or name in with_p] for name in sets}
    if sets and config.targets is not None and SOFT in wanted and (not with_p or not all(targets_of.values())):
        missing = next(name for name in sets if name not in with_p)
        raise UserError(f"targets=[{', '.join(config.targets)}]: synthetic set '{missing}' has no probabilities p. "
                        "Generate it with teacher=RUN, of tardiff teach, or give targets=[own].")
    if "tstr" in config.protocols:
        classes = set(real.y)
        complete = [name for name, parts in sets.items() if all(set(part.y) == classes for part in parts)]
        of_sets += [Arm("TSTR", name, targets=targets) for name in (complete if "tsrtr" in config.protocols else sets)
                 for targets in targets_of[name]]
    if "tsrtr" in config.protocols:
        for name in sets:
            for targets in targets_of[name]:
                of_sets += [Arm("TSRTR", name, ratio, targets=targets) for ratio in config.ratios]
                of_sets += [Arm(MIXED, name, targets=targets, weight=weight) for weight in config.weights]
    return [replace(arm, judge=judge) for judge in config.judge_models
            for arm in (Arm("TRTR"), *map(Arm, config.controls_of(judge)), *of_sets)]


def warn_beforehand(config: EvaluationConfig, real: Split, arms: list[Arm]) -> None:
    """Warn of boosted trees that cannot split so few training rows, so that they give the shares of the classes, of
    soft targets without their rival, and of a teacher whose labels know rows that no control is trained on."""
    fewest = 2 * config.model.boosting.min_rows
    if "boosting" in config.judge_models and len(real) < fewest:
        print(f"warning: boosting cannot tell apart {counted(len(real), 'training row')}, with "
              f"model.boosting.min_rows={config.model.boosting.min_rows} in each leaf. Lower that, or choose another "
              "judge.")
    if config.controls is None and not config.teachers and any(arm.targets == SOFT for arm in arms):
        print("warning: the sets have a teacher's probabilities, and no control has: real rows with the teacher's "
              "labels may do as well. Give the teacher, teacher=RUN.")
    if not {"guidance_weighted", "guidance_last"} & {*config.chosen_controls} and any(
            read_run_config(path, TeacherConfig).guidance_share for path in of_rotation(config, 0).teachers):
        print("warning: the teacher was taught the guidance half, which no control draws as often. Add "
              "guidance_weighted to controls.")


def report_utility(config: EvaluationConfig, real: Dataset) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run the protocols and print the table; return the frame of results, and what else the report says of utility,
    such as the reliability of TRTR and TSTR with the first judge. real: the dataset, or its first rotation."""
    protocol = read_protocol(config)
    sets, scored = protocol.synthetic, protocol.scored
    seen = seen_beforehand(scored.y, scored.subjects(), real.meta.classes)
    print(seen, flush=True)
    reference = reference_of(config, sets)
    arms = arms_of(config, protocol.real, sets)
    warn_beforehand(config, protocol.real, arms)
    results = protocol.predictions(arms, config.seeds)
    frame = score_arms(results, protocol, reference, config.bootstrap)
    kinds = guide_kinds(synthetic_folders(of_rotation(config, 0)))
    rows = utility_rows(frame)
    print(f"{scored_class(real)}\n\n{format_table(rows, reference)}\n{ADJUSTED}")
    print_warnings(rows, kinds)
    curves, bins = {}, max(1, min(10, len(scored) // FEWEST_ROWS_OF_BIN))
    first = next(iter(protocol.judges))
    for arm in (arm for arm in results if arm.protocol in ("TRTR", "TSTR") and arm.judge == first):
        p = np.mean([of_scored for _, of_scored in results[arm]], axis=0)
        curve = reliability_curve(scored.y, p, bins, real.positive, scored.subjects())
        curves[arm.label] = {key: values.tolist() for key, values in curve.items()}
    return frame, {
        "seeds": config.seeds, "rotations": config.rotations, "judges": list(protocol.judges), "guide_kinds": kinds,
        "controls": config.chosen_controls, "protocols": config.protocols,
        "targets": list(dict.fromkeys(arm.targets for arm in arms if arm.synthetic is not None)),
        "reference": reference, "scored_rows": len(scored),
        "scored_subjects": len(np.unique(scored.subjects())), "few_subjects": few_subjects(scored),
        "reliability_class": real.positive, "scored_class": scored_class(real),
        "seen_beforehand": seen,
        "chance_auprc": chance_average_precision(scored.y, real.num_classes, real.positive),
        "reliability": curves}


def scored_class(real: Dataset) -> str:
    """Return the sentence that names the class which the scores are of."""
    positive = real.meta.classes[real.positive]
    return (f"AUPRC and F1 are of the class '{positive}'." if real.num_classes == 2
            else f"AUPRC is the mean over all classes; F1 is of the class '{positive}'.")


def few_subjects(scored: Split) -> int | None:
    """Return the number of subjects that have rows of the rarest class, where it is below FEW_SUBJECTS, else None."""
    _, count, _ = subject_counts(scored.y, scored.subjects())
    return count if count < FEW_SUBJECTS else None


def build_protocol(config: EvaluationConfig, real: Dataset, sets: dict[str, list[Split]], folder: Path | None
                   ) -> Protocol:
    """Return what the arms share. Raises UserError if a class is missing where weights are chosen or results
    computed."""
    guidance, selection = halve_validation(real.val)
    faults = absent_classes(selection, real.meta, f"the selection half of {real.path}/val.npz")
    if config.score_on == "test":
        faults += absent_classes(real.test, real.meta, f"{real.path}/test.npz")
    with_mask = config.model.reads_mask
    if with_mask:
        splits = [*((f"{real.path}/{name}.npz", real.splits[name]) for name in splits_read(config)),
                  *((f"synthetic set '{name}'", part) for name, parts in sets.items() for part in parts)]
        faults += absent_masks(splits)
    if faults:
        raise UserError("\n".join(faults))
    device = resolve_device(config.device)
    judges, balanced = ({name: judge_of(model, training, real, device) for name, model in config.judge_models.items()}
                        for training in (config.training, replace(config.training, class_weighting="balanced")))
    return Protocol(real.train, selection, scored_split(config, real), sets,
                    Normalizer.fit(config.normalizer, real.observed), judges, folder,
                    worker_count(config.workers, device), real.positive, guidance, balanced, config.ensemble_size,
                    with_mask, [out_of_fold(folder, real)[0] for folder in config.teachers])


def judge_of(model: ClassifierModelConfig, training: ClassifierTrainingConfig, real: Dataset, device: torch.device
             ) -> Judge:
    """Return the judge with these settings. Raises UserError if it cannot be built for the data."""
    if model.name == "boosting":
        code = {"scikit-learn": sklearn.__version__, "bins": BINS}
    else:
        build_classifier(model, model.input_shape(real.shape), real.num_classes)
        code = custom_source(model)

    def fit(train, chosen_on, x_scored, seed):
        fitted = fit_classifier(train, chosen_on, real.num_classes, model, training, seed, device)
        return fitted.predict(chosen_on[0]), fitted.predict(x_scored)

    return Judge(fit, {"model": model.name, model.section: asdict(getattr(model, model.section)),
                       "training": asdict(training), **code, "device": device.type})


def print_warnings(rows: list[dict[str, Any]], kinds: dict[str, list[str]]) -> None:
    """Tell of judges that do no better than chance on real data, and of those of the kind of a classifier that guided a
    set: they may be pleased by what no other model is."""
    judges = list(dict.fromkeys(row["judge"] for row in rows))
    for row in rows:
        if row["protocol"] == "TRTR" and at_chance(row):
            print(f"warning: trained on real data, {row['judge']} is not shown to be better than chance (AUROC "
                  f"{row['auroc']['mean']:.3f} [{row['auroc']['low']:.3f}, {row['auroc']['high']:.3f}]), so it cannot "
                  "tell whether synthetic data help. Train it for longer or on more patients, or choose another judge.")
    for name, of_set in kinds.items():
        if akin := [judge for judge in judges if judge in of_set]:
            print(f"{name} was guided by a classifier of the same kind as the judge {', '.join(akin)}: a gain counts "
                  "if another kind of judge sees it, too.")
