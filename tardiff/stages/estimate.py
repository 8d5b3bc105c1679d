"""How long a report will take, from the counts of what it does and a few seconds of trying each kind of work."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from classifier.train import fit_classifier
from tardiff.config import ReportConfig
from tardiff.data.format import Dataset, Split
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import halve_validation
from tardiff.evaluation.fidelity import FidelityData, FidelityMetric
from tardiff.evaluation.learned_scores import MAX_ROWS, discriminative_score, predictive_score
from tardiff.evaluation.metrics import auroc
from tardiff.evaluation.neighbours import nearest
from tardiff.evaluation.privacy import membership_attack
from tardiff.evaluation.ts2vec import train_encoder
from tardiff.utils.parallel import one_thread, worker_count

_ROWS = 300  # tried of each split
_TRIED = 10  # iterations
_TRAINED = {"discriminative": (partial(discriminative_score, judge="strong"), 2000),
            "discriminative_timegan": (partial(discriminative_score, judge="timegan"), 2000),
            "predictive": (predictive_score, 5000),
            "predictive_timegan": (partial(predictive_score, form="timegan"), 5000)}
"""What the metrics that train a network train, and for how many iterations."""


def estimated_minutes(config: ReportConfig, real: Dataset, sets: dict[str, list[Split]], metrics: list[FidelityMetric],
                      device: torch.device) -> float:
    """Return the expected duration of a report of which nothing is there yet, good to a factor of about two."""
    scaler = Normalizer.fit("zscore", real.train.x)
    train, test = (dataclasses.replace(split[:_ROWS], x=scaler.transform(split.x[:_ROWS]))
                   for split in (real.train, real.test))
    workers = worker_count(config.workers, device)
    with one_thread():  # As the workers do.
        row_seconds = _seconds_per_row(config, real, train, device)
        shared = 0.0
        if "utility" in config.sections:
            shared += _utility_seconds(config, real, sets, row_seconds)
        if "fidelity" in config.sections:
            shared += _fidelity_seconds(config, real, sets, metrics, train, test, device)
        if "privacy" in config.sections:
            shared += _privacy_seconds(real, sets, train, test, device)
    guidance, selection = map(len, halve_validation(real.val))
    alone = 3.0 + 1.5 * len(sets)  # Reading and pictures.
    if "influence" in config.sections and config.classifier is not None:
        scored = len(real.train) + selection + sum(len(part) for parts in sets.values() for part in parts)
        alone += row_seconds * (config.fine_tuned * (3 * guidance + 100) + 100 * guidance + scored)
    return (shared / workers + alone) / 60


def _seconds_per_row(config: ReportConfig, real: Dataset, train: Split, device: torch.device) -> float:
    """Return what a row costs in an epoch of the classifier's training."""
    every_class = np.unique(real.train.y, return_index=True)[1]
    y = np.concatenate([real.train.y[every_class], train.y])
    x = np.concatenate([train.x[:1].repeat(len(every_class), axis=0), train.x])
    once = dataclasses.replace(config.training, epochs=1)
    fit = partial(fit_classifier, (x, y), (x, y), real.num_classes, config.model, once, 0, device)
    fit()
    return _seconds(fit) / len(x)


def _utility_seconds(config: ReportConfig, real: Dataset, sets: dict[str, list[Split]], row_seconds: float) -> float:
    selection, scored, rows = len(real.val) / 2, len(real.test), [len(real.train)]
    if "tstr" in config.protocols:
        rows += [len(parts[0]) for parts in sets.values()]
    if "tsrtr" in config.protocols:
        rows += [(1 + ratio) * len(real.train) for ratio in config.ratios for _ in sets]
    epochs = (config.training.epochs + min(config.training.patience, config.training.epochs)) / 2
    weights = np.ones((50, scored), dtype=np.uint16)
    p = np.random.default_rng(0).random((scored, 2))
    resampling = 6 * _seconds(lambda: auroc(real.test.y > 0, p, weights)) * config.bootstrap / 50
    return config.seeds * sum(epochs * row_seconds * (count + selection / 3) + resampling for count in rows)


def _fidelity_seconds(config: ReportConfig, real: Dataset, sets: dict[str, list[Split]], metrics: list[FidelityMetric],
                      train: Split, test: Split, device: torch.device) -> float:
    rows, total = min(len(real.test), MAX_ROWS), 0.0
    data = FidelityData(test.x, train.x)
    for metric in metrics:
        results = (len(sets) + 2) * config.repeats if metric.seeded else 2 + sum(map(len, sets.values()))
        if metric.name in _TRAINED:
            score, iterations = _TRAINED[metric.name]
            score(test.x, train.x, 0, iterations=1, device=device)
            step = _seconds(lambda score=score: score(test.x, train.x, 0, iterations=_TRIED, device=device)) / _TRIED
            total += results * step * iterations
        elif metric.name == "context_fid":
            step = _seconds(lambda: train_encoder(train.x, 0, iterations=_TRIED, device=device)) / _TRIED
            # Of a series of a batch of 8, encoding costs about a tenth of what training costs.
            total += config.repeats * 600 * step + results * (1 + 2 * rows * step / 80)
        else:
            tried = _seconds(lambda metric=metric: metric.compute(data, 0, device))
            growth = rows / min(len(test), len(train))
            total += results * tried * (growth**2 if metric.name == "mmd" else growth)
    return total


def _privacy_seconds(real: Dataset, sets: dict[str, list[Split]], train: Split, test: Split, device: torch.device
                     ) -> float:
    attack = _seconds(lambda: membership_attack(train, test, train.x, test.x, 0, resamples=50, device=device))
    pair = _seconds(lambda: nearest(train.x, test.x, device=device)) / (len(train) * len(test))
    members = min(len(real.train), len(real.test), MAX_ROWS)
    sizes = [len(real.train), len(real.test) / 2, *(len(part) for parts in sets.values() for part in parts)]
    return sum(2 * attack * 20 * members / min(len(train), len(test)) + 40 * pair * min(members, 5000) ** 2
               + 8 * pair * members * (size + len(real.train)) for size in sizes)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
