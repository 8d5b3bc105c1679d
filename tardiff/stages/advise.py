"""Advice for a dataset: whether synthetic series help, and in which form, from training and validation rows alone."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tardiff.config import AdviceConfig, ExperimentConfig
from tardiff.data.format import read_dataset
from tardiff.data.splits import joined
from tardiff.evaluation.advice import Advice, advise
from tardiff.evaluation.frame import Summary
from tardiff.evaluation.summary import FEWEST_SEEDS, HEADERS, counted, interval, number, seen_beforehand
from tardiff.stages.estimate import told_minutes, utility_minutes
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
    typed_over,
    write_parts,
)
from tardiff.utils.checkpoint import read_json, write_json
from tardiff.utils.errors import UserError
from tardiff.utils.logging import provenance


def run(config: AdviceConfig, dry_run: bool) -> None:
    """Train, sample and evaluate on each rotation of train and val, resuming, and say what to train on."""
    experiment = experiment_of(config)
    steps = [each for part in rotations(experiment) for each in generation_steps(part)]
    evaluation = evaluation_of(experiment)
    whole = read_dataset(config.data, ("train", "val"))
    if whole.val.guidance is not None:
        raise UserError(f"{config.data}: advice needs one population, whose rows are tested in turn, and this dataset "
                        f"has a target of its own. `tardiff run data={config.data}` evaluates on the target.")
    parts = rotated_parts(experiment, whole)
    require_usable(parts, steps, evaluation, "Advice needs more rows, or fewer rotations.")
    pool = joined(list(whole.splits.values()))
    planned = planned_sets(parts[0], steps, of_rotation(evaluation, 0))
    arms = arms_of(evaluation, parts[0].train, planned)
    fits = len(arms) * evaluation.seeds * config.rotations
    print(f"{len(pool):,} training and validation series, each scored in one of {config.rotations} rotations; test is "
          f"not read: {counted(len(arms), 'arm')} x {counted(evaluation.seeds, 'seed')}, judged by "
          f"{', '.join(evaluation.judge_models)}, {fits:,} fits in all\n"
          f"{seen_beforehand(pool.y, pool.subjects(), whole.meta.classes)}")
    print(told_minutes(utility_minutes(evaluation, parts[0], planned), f"{config.rotations} rotations"), flush=True)
    made = [str(part.path) for part in parts]
    if dry_run:
        run_steps(steps, True, made)
        return
    write_parts(parts, f"rotation of train and val of {config.data} as they are now, of {config.rotations}")
    with minutes_spent(Path(config.output) / "minutes.json") as spent:
        run_steps(steps, False, made)
        protocol = read_protocol(evaluation)
        results = protocol.predictions(arms, evaluation.seeds)
        found = [advise(results, protocol, judge, config.metric, evaluation.bootstrap) for judge in protocol.judges]
        minutes = spent()
    told = [{"judge": advice.arm.judge, **described(advice), "command": command_for(config, experiment, advice),
             "words": words_for(advice, HEADERS[config.metric])} for advice in found]
    write_json(Path(config.output) / "advice.json", {
        "metric": config.metric, "advice": told, "rows": len(pool), "fits": fits, "minutes": minutes,
        "config": asdict(config), **provenance()})
    for line in told:
        print(f"\n{line['judge']}: {line['words']}" + (f"\n  {line['command']}" if line["command"] else ""))
    if experiment.generation_seeds == 1:
        print("\nOne synthetic dataset per set and rotation: intervals do not cover the chance of generation.")
    print(f"\nThis took {fits:,} fits of judges and {minutes:.1f} minutes, all calls together; written to "
          f"{config.output}/advice.json")


@contextmanager
def minutes_spent(path: Path) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the minutes spent in here, with those of former calls that the file keeps: of all
    that ended, be it by an error or Ctrl-C, but not of one that was killed outright."""
    before = read_json(path, minutes=float)["minutes"] if path.exists() else 0.0
    began = time.perf_counter()

    def spent() -> float:
        return before + (time.perf_counter() - began) / 60

    try:
        yield spent
    finally:
        write_json(path, {"minutes": spent()})


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
            **{name: None if gain is None else {part: gain[part] for part in ("mean", "low", "high")}
               for name, gain in shown.items()}}


def words_for(advice: Advice, metric: str) -> str:
    """Return what to do, and why, in plain words."""
    def expected(gain: Summary) -> str:
        return f"{metric} {interval(gain)} [95 %], {'shown' if gain['low'] > 0 else 'not shown, for it may be chance'}."

    if advice.arm.synthetic is not None:
        return (f"use synthetic series: {advice.arm.label}. Expected gain over the best that real rows alone give "
                f"({advice.real.label}): {expected(advice.gain)}")
    room = (f"leaves room for a gain of up to {number(advice.gain['high'])}" if advice.gain["high"] > 0
            else "shows a loss")
    none = (f"Synthetic series are not expected to add to it: {metric} {interval(advice.gain)} [95 %] for the best of "
            f"them; the interval {room}.")
    if advice.arm.protocol == "TRTR":
        return f"train on the real rows alone, as they are. {none}"
    return (f"train on the real rows alone, with the control {advice.arm.label} (tardiff/evaluation/controls.py). "
            f"Expected gain over the rows as they are: {expected(advice.control_gain)} {none}")


def command_for(config: AdviceConfig, experiment: ExperimentConfig, advice: Advice) -> str | None:
    """Return the command that makes what is to be trained on of the whole dataset, in a folder of its own; None where
    that is the real rows."""
    arm, several_judges = advice.arm, len(evaluation_of(experiment).judge_models) > 1
    name = f"{config.name}-advised" + several_judges * f"-{arm.judge}"
    values = {"data": config.data, "name": name}
    if arm.protocol == "teacher_labels":
        return step("teach", "teacher", experiment.teacher, values | {"output": f"runs/{name}/teacher"}).typed
    if arm.synthetic is None:
        return None
    evaluation = {"protocols": ["tstr"], "targets": [arm.targets], "reference": None}
    if arm.protocol != "TSTR":
        evaluation |= {"protocols": ["tsrtr"], "ratios": [] if arm.ratio is None else [arm.ratio],
                       "weights": sorted(set(advice.weights))}
    values |= {"output": f"runs/{name}", "rotations": 1,
               "guidance": {arm.synthetic: experiment.guidance[arm.synthetic]},
               "evaluation": typed_over(experiment.evaluation, evaluation)}
    _, words = config_of(ExperimentConfig, "experiment", config.experiment, values)
    return shlex.join(["tardiff", "run", *words])
