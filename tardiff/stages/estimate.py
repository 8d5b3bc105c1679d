"""How long a report will take, from the counts of what it does and a second of training its classifier."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import torch

from classifier.train import fit_classifier
from tardiff.config import ClassifierModelConfig, ReportConfig
from tardiff.data.format import Dataset, Split
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import halve_validation
from tardiff.evaluation.controls import FOLDS, TAUGHT
from tardiff.evaluation.fidelity import Metric
from tardiff.evaluation.learned_scores import MAX_ROWS
from tardiff.evaluation.privacy import MAX_TAUGHT
from tardiff.stages.evaluate import arms_of, scored_split
from tardiff.utils.distributed import resolve_device
from tardiff.utils.parallel import one_thread, worker_count

_TRIED_ROWS, _TRIED_TREES = 500, (20, 60)
# Measured on CinC 2012 beside the training of a GRU, whose cost of a row in a step is the unit: what a result of a
# metric that trains a network costs, and what it costs to resample a scored row and to compare a pair of series.
_TRAINED_METRIC, _RESAMPLED_ROW, _PAIR = 200_000, 0.003, 0.0007
_FOREST_ROW = 5  # Of one of the forests of the attack by probabilities.
_LOOKED_AT_ROW = 1 / 3  # Forward alone.
_SECONDS_OF_PICTURES = 2.0


def utility_minutes(config: ReportConfig, real: Dataset, sets: dict[str, list[Split]]) -> float:
    """Return the expected duration of the part utility of a report; see `estimated_minutes`."""
    return estimated_minutes(replace(config, sections=["utility"]), real, sets, [])


def told_minutes(minutes: float, beside: str) -> str:
    """Return the sentence on how long the evaluation of what is trained before will take."""
    return (f"The evaluation will take about {minutes:.0f} minutes on this machine, beside the training and sampling "
            f"of {beside}.")


def estimated_minutes(config: ReportConfig, real: Dataset, sets: dict[str, list[Split]], metrics: list[Metric]
                      ) -> float:
    """Return the expected duration of a report of which nothing is there yet, good to a factor of about two."""
    device = resolve_device(config.device)
    guidance, selection = map(len, halve_validation(real.val))
    scored, train = len(scored_split(config, real)), len(real.train)
    parts = [part for datasets in sets.values() for part in datasets]
    rows = fits = 0.0
    if "utility" in config.sections:
        arms = Counter(arm.judge for arm in arms_of(config, real.train, sets))
        further = ("ensemble" in config.chosen_controls) * (config.ensemble_size - 2)
        further += FOLDS * any(name in config.chosen_controls for name in TAUGHT)
        for judge, model in config.judge_models.items():
            repeats, of_fit = config.rotations * config.seeds, _seconds_of_fit(model, config, real, selection, device)
            fits += repeats * (arms[judge] + further) * of_fit
            rows += repeats * arms[judge] * config.bootstrap * scored * _RESAMPLED_ROW
    if "fidelity" in config.sections:
        rows += sum(metric.trains for metric in metrics) * (len(sets) + 2) * config.repeats * _TRAINED_METRIC
    if "privacy" in config.sections:
        members = min(train, scored, MAX_ROWS)
        rows += _PAIR * sum(8 * members * (len(part) + train) + 40 * members**2 for part in parts)
        rows += _FOREST_ROW * sum(2 * min(len(part), MAX_TAUGHT) + guidance + selection for part in parts
                                  if part.p is not None)
    alone = 0.0
    if "influence" in config.sections and config.classifier is not None:
        alone += config.fine_tuned * 3 * guidance + 100 * guidance + train + sum(map(len, parts))
    seconds = _seconds_per_row(ClassifierModelConfig(), config, real, device)
    workers = worker_count(config.workers, device)
    return ((fits + seconds * rows) / workers + seconds * alone + _SECONDS_OF_PICTURES * (1 + len(sets))) / 60


def _seconds_of_fit(model: ClassifierModelConfig, config: ReportConfig, real: Dataset, selection: int,
                    device: torch.device) -> float:
    """Return what a fit of a judge costs, with as many selection rows."""
    if model.name == "boosting":
        few, more = _TRIED_TREES
        seconds, longer = (_seconds_tried(replace(model, boosting=replace(model.boosting, trees=trees)), config, real,
                                          len(real.train), device) for trees in _TRIED_TREES)
        return seconds + max(longer - seconds, 0.0) / (more - few) * (model.boosting.trees - few)
    looks = math.ceil(config.training.steps / config.training.evaluate_every)
    rows = config.training.steps * config.training.batch_size + looks * selection * _LOOKED_AT_ROW
    return rows * _seconds_per_row(model, config, real, device)


def _seconds_per_row(model: ClassifierModelConfig, config: ReportConfig, real: Dataset, device: torch.device) -> float:
    """Return what a row costs in a step of the training of a network."""
    few = replace(config, training=replace(config.training, steps=4, evaluate_every=4))
    seconds = _seconds_tried(model, few, real, _TRIED_ROWS, device)
    return seconds / (4 * few.training.batch_size + min(len(real.train), _TRIED_ROWS) * _LOOKED_AT_ROW)


def _seconds_tried(model: ClassifierModelConfig, config: ReportConfig, real: Dataset, rows: int, device: torch.device
                   ) -> float:
    """Return what a fit costs on the first training rows and one of each class."""
    every_class = np.unique(real.train.y, return_index=True)[1]
    tried = real.train[np.concatenate([every_class, np.arange(min(len(real.train), rows))])]
    part = (Normalizer.fit("zscore", real.train.x).transform(tried.x), tried.y)
    with one_thread():  # As the workers do; twice, for the first time loads libraries.
        for _ in range(2):
            began = time.perf_counter()
            fit_classifier(part, part, real.num_classes, model, config.training, 0, device)
    return time.perf_counter() - began
