"""Advice for a dataset: whether synthetic series help, and in which form, from training and validation rows alone."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tardiff.config import AdviceConfig, ExperimentConfig
from tardiff.data.format import read_dataset
from tardiff.data.splits import joined
from tardiff.evaluation.advice import Advice, advise
from tardiff.evaluation.summary import FEWEST_SEEDS, HEADERS, counted, interval, number, seen_beforehand
from tardiff.stages.evaluate import arms_of, of_rotation, read_protocol
from tardiff.stages.run import (
    config_of,
    evaluation_of,
    generation_steps,
    planned_sets,
    require_usable,
    rotated_parts,
    rotations,
    run_steps,
    step,
    write_parts,
)
from tardiff.utils.checkpoint import require_folder, write_json
from tardiff.utils.errors import UserError
from tardiff.utils.logging import provenance


def run(config: AdviceConfig, dry_run: bool) -> None:
    """Train, sample and evaluate on each rotation of train and val, resuming, and say what to train on."""
    require_folder(config.output)
    began, experiment = time.perf_counter(), experiment_of(config)
    steps = [each for part in rotations(experiment) for each in generation_steps(part)]
    evaluation = evaluation_of(experiment)
    if dry_run and not Path(config.data).is_dir():
        print(f"settings are valid. Missing input: dataset {config.data}.")
        return
    whole = read_dataset(config.data, ("train", "val"))
    parts = rotated_parts(experiment, whole)
    require_usable(parts, steps, evaluation, "Advice needs more rows, or fewer rotations.")
    pool = joined(list(whole.splits.values()))
    arms = arms_of(evaluation, parts[0].train, planned_sets(parts[0], steps, of_rotation(evaluation, 0)))
    fits = len(arms) * evaluation.seeds * config.rotations
    print(f"{len(pool):,} training and validation series, each scored in one of {config.rotations} rotations; test is "
          f"not read: {counted(len(arms), 'arm')} x {counted(evaluation.seeds, 'seed')}, judged by "
          f"{', '.join(evaluation.judge_models)}, {fits:,} fits in all\n"
          f"{seen_beforehand(pool.y, pool.subjects(), whole.meta.classes)}", flush=True)
    if not dry_run:
        write_parts(parts, f"rotation of train and val of {config.data} as they are now, of {config.rotations}")
    run_steps(steps, dry_run, [str(part.path) for part in parts])
    if dry_run:
        return
    protocol = read_protocol(evaluation)
    results = protocol.predictions(arms_of(evaluation, protocol.real, protocol.synthetic), evaluation.seeds)
    found = [advise(results, protocol, judge, config.metric, evaluation.bootstrap) for judge in protocol.judges]
    minutes = (time.perf_counter() - began) / 60
    told = [{"judge": advice.arm.judge, **described(advice), "command": command_for(config, experiment, advice),
             "words": words_for(advice, HEADERS[config.metric])} for advice in found]
    write_json(Path(config.output) / "advice.json", {
        "metric": config.metric, "advice": told, "rows": len(pool), "fits": fits, "minutes": minutes,
        "config": asdict(config), **provenance()})
    for line in told:
        print(f"\n{line['judge']}: {line['words']}" + (f"\n  {line['command']}" if line["command"] else ""))
    if experiment.generation_seeds == 1:
        print("\nOne synthetic dataset per set and rotation: intervals do not cover the chance of generation.")
    print(f"\nThis took {fits:,} fits of judges and {minutes:.1f} minutes, less what was there already; written to "
          f"{config.output}/advice.json")


def experiment_of(config: AdviceConfig) -> ExperimentConfig:
    """Return the experiment whose rotations are of train and val. Raises UserError on settings that give no advice."""
    device = {} if config.device is None else {"device": config.device}
    experiment, _ = config_of(ExperimentConfig, "experiment", config.experiment, {
        "data": config.data, "name": config.name, "output": config.output, "rotations": config.rotations, **device})
    evaluation = evaluation_of(experiment)
    if evaluation.score_on != "test":
        raise UserError("experiment: every row is tested by a rotation. Give score_on=test.")
    if evaluation.seeds < FEWEST_SEEDS:
        raise UserError(f"experiment: seeds={evaluation.seeds} classifiers are too few to judge a gain by. Give at "
                        f"least {FEWEST_SEEDS}.")
    return experiment


def described(advice: Advice) -> dict[str, Any]:
    """Return the advice as JSON holds it."""
    shown = {"gain": advice.gain, "control_gain": advice.control_gain}
    return {"train_on": advice.arm.label, "targets": advice.arm.targets, "weights": advice.weights,
            "best_with_synthetic_series": advice.synthetic.label, "best_without": advice.real.label,
            **{name: None if gain is None else {part: gain[part] for part in ("mean", "low", "high",
                                                                              "smallest_visible")}
               for name, gain in shown.items()}}


def words_for(advice: Advice, metric: str) -> str:
    """Return what to do, and why, in plain words."""
    gain = f"{metric} {interval(advice.gain)} [95 %]"
    if advice.arm.synthetic is not None:
        return (f"use synthetic series: {advice.arm.label}. Expected gain over the best that real rows alone give "
                f"({advice.real.label}): {gain}.")
    not_shown = (f"Synthetic series are not shown to add to it: {gain} for the best of them. A true gain below about "
                 f"{number(advice.gain['smallest_visible'])} would be missed on so many patients.")
    if advice.arm.protocol == "TRTR":
        return f"train on the real rows alone, as they are. {not_shown}"
    return (f"train on the real rows alone, with the control {advice.arm.label} (tardiff/evaluation/controls.py). "
            f"Expected gain over the rows as they are: {metric} {interval(advice.control_gain)} [95 %]. {not_shown}")


def command_for(config: AdviceConfig, experiment: ExperimentConfig, advice: Advice) -> str | None:
    """Return the command that makes what is to be trained on of the whole dataset; None where that is the real rows."""
    arm = advice.arm
    if arm.protocol == "teacher_labels":
        return step("teach", "teacher", experiment.teacher, {"data": config.data, "name": config.name}).typed
    if arm.synthetic is None:
        return None
    ratios, weights = [arm.ratio] if arm.ratio is not None else [], sorted(set(advice.weights))
    protocol = ["protocols=[tstr]"] if arm.protocol == "TSTR" else [
        "protocols=[tsrtr]", f"ratios={ratios}", f"weights={weights}"]
    given = experiment.evaluation
    evaluation = [*([given] if isinstance(given, str) else given), *protocol, f"targets=[{arm.targets}]"]
    _, words = config_of(ExperimentConfig, "experiment", config.experiment, {
        "data": config.data, "name": config.name, "guidance": {arm.synthetic: experiment.guidance[arm.synthetic]},
        "evaluation": evaluation})
    return shlex.join(["tardiff", "run", *words])
