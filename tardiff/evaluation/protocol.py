"""TSTR, TSRTR and TRTR: does a classifier trained with synthetic series do better on real patients?

TRTR trains on real series, TSTR on synthetic ones, TSRTR on all real series and a share of synthetic ones. All three
share the classifier recipe, the selection half, the normaliser (fitted on real training data) and the seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tardiff.data.format import Split
from tardiff.data.normalize import Normalizer
from tardiff.evaluation import metrics
from tardiff.evaluation.frame import REAL, SUBJECT_VARIANCE, long_frame, main_subject_variance
from tardiff.utils.cache import Job, cached_jobs
from tardiff.utils.errors import UserError
from tardiff.utils.seeding import derive_seed

METRICS = ("auroc", "auprc", "f1", "f1_selected", "brier", "auprc_macro", "positive_rate")

Rows = tuple[np.ndarray, np.ndarray]
FitAndPredict = Callable[[Rows, Rows, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""fit((x, y) train, (x, y) selection, x to score, seed) -> probabilities (N, K) on (selection, scored)."""


@dataclass(frozen=True)
class Arm:
    """One line of the table: a protocol, a synthetic set and the ratio of synthetic to real training rows, and which of
    the judges is trained on these rows."""

    protocol: str
    synthetic: str | None = None
    ratio: float | None = None
    judge: str = ""

    @property
    def label(self) -> str:
        return " ".join([self.protocol, *([self.synthetic] if self.synthetic else []),
                         *([f"{self.ratio:g}"] if self.ratio is not None else [])])

    @property
    def place(self) -> tuple[str, str, str]:
        """The set, the metric and the judge of the arm in the frame of results."""
        return (self.synthetic or REAL, self.protocol if self.ratio is None else f"{self.protocol} {self.ratio}",
                self.judge)


@dataclass(frozen=True)
class Judge:
    """A classifier that is trained anew for every arm and seed: `fit` trains and predicts, and `recipe` is its
    settings, which with the data decide whether a kept fit is reused."""

    fit: FitAndPredict
    recipe: dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """Everything that the arms share.

    real: the training split. selection: its selection half. scored: the split that results are computed on. synthetic:
    for each name the training splits of its datasets, one per generation seed. judges: by name. folder: where fits are
    kept (None: none is). workers: fits at a time. positive: the class that AUPRC and F1 are of.
    """

    real: Split
    selection: Split
    scored: Split
    synthetic: dict[str, list[Split]]
    normalizer: Normalizer
    judges: dict[str, Judge]
    folder: Path | None = None
    workers: int = 1
    positive: int = 1

    def predictions(self, arms: list[Arm], num_seeds: int) -> dict[Arm, list[tuple[np.ndarray, np.ndarray]]]:
        """Return for each arm and seed the probabilities (N, K) on the selection half and on the scored split.

        Each fit is written to the folder as it ends, so a killed evaluation resumes. Seed s of a synthetic arm uses the
        dataset s modulo their number.
        """
        fits = [(arm, seed) for arm in arms for seed in range(num_seeds)]
        jobs = [Job(self._key(arm, seed), partial(self._fit, arm, seed), f"{arm.judge}: {arm.label}, seed {seed}")
                for arm, seed in fits]
        folder = None if self.folder is None else self.folder / "fits"
        results: dict[Arm, list[tuple[np.ndarray, np.ndarray]]] = {arm: [] for arm in arms}
        for (arm, _), found in zip(fits, cached_jobs(folder, jobs, self.workers, "utility", "fit"), strict=True):
            results[arm].append((found["selection"], found["scored"]))
        return results

    def dataset_number(self, arm: Arm, seed: int) -> int | None:
        """Return which dataset of its synthetic set an arm uses; None without a set."""
        return None if arm.synthetic is None else seed % len(self.synthetic[arm.synthetic])

    def training_rows(self, arm: Arm, seed: int) -> Split:
        """Return the training rows of an arm: real, synthetic, or both with round(ratio x real rows) synthetic rows."""
        if arm.synthetic is None:
            return self.real
        chosen = self._synthetic_set(arm, seed)[self._chosen_rows(arm, seed)]
        if arm.ratio is None:
            return Split(chosen.x, chosen.y)
        return Split(np.concatenate([self.real.x, chosen.x]), np.concatenate([self.real.y, chosen.y]))

    def _synthetic_set(self, arm: Arm, seed: int) -> Split:
        return self.synthetic[arm.synthetic][self.dataset_number(arm, seed)]

    def _chosen_rows(self, arm: Arm, seed: int) -> np.ndarray | slice:
        """Choose the rows of the synthetic set that an arm trains on. Raises UserError if it has too few for it."""
        if arm.synthetic is None:
            return slice(0)
        y = self._synthetic_set(arm, seed).y
        if arm.ratio is not None:
            return stratified_rows(y, round(arm.ratio * len(self.real)), derive_seed(seed, "tsrtr"), arm.synthetic)
        if len(np.unique(y)) < len(np.unique(self.real.y)):
            raise UserError(f"synthetic set '{arm.synthetic}' lacks a class, so no classifier can be trained on it "
                            "alone. Evaluate it by TSRTR.")
        return slice(None)

    @cached_property
    def _evaluated(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Normalised x of the selection half and of the scored split, and the fingerprints of the two."""
        splits = (self.selection, self.scored)
        return (*(self.normalizer.transform(split.x) for split in splits),
                [Split(split.x, split.y).fingerprint() for split in splits])

    def _key(self, arm: Arm, seed: int) -> tuple:
        """Return all that decides the predictions of a fit."""
        train = self.training_rows(arm, seed)
        return ("fit", Split(train.x, train.y).fingerprint(), *self._evaluated[2], self.normalizer.fingerprint(),
                self.judges[arm.judge].recipe, seed)

    def _fit(self, arm: Arm, seed: int) -> dict[str, np.ndarray]:
        """Fit and predict."""
        train, (x_selection, x_scored, _) = self.training_rows(arm, seed), self._evaluated
        selection, scored = self.judges[arm.judge].fit((self.normalizer.transform(train.x), train.y),
                                                       (x_selection, self.selection.y), x_scored, seed)
        return {"selection": selection, "scored": scored}


def stratified_rows(y: np.ndarray, count: int, seed: int, name: str) -> np.ndarray:
    """Return `count` row numbers, drawn without replacement and with the class shares of y (N,).

    Raises UserError if y has fewer rows, naming the synthetic set `name`.
    """
    if count > len(y):
        raise UserError(f"synthetic set '{name}' has {len(y)} rows, the ratio needs {count}. Generate more series or "
                        "lower ratios.")
    # scikit-learn's train_test_split(stratify=y) refuses a class of one row and a draw of all rows.
    order = np.random.default_rng(seed).permutation(len(y))
    labels, inverse, counts = np.unique(y[order], return_inverse=True, return_counts=True)
    rank = np.empty(len(y))
    for label in range(len(labels)):
        members = inverse == label
        rank[members] = (np.arange(counts[label]) + 0.5) / counts[label]
    return order[np.argsort(rank, kind="stable")[:count]]


def score_arms(results: dict[Arm, list[tuple[np.ndarray, np.ndarray]]], protocol: Protocol, reference: str | None,
               resamples: int, seed: int = 0) -> pd.DataFrame:
    """Return the results of all arms as a long frame (see `tardiff.evaluation.frame`), by classifier seed.

    Keys: each of METRICS, where `positive_rate` is the share of rows predicted to be of the positive class;
    `<metric>_minus_trtr` and `<metric>_minus_reference`, the differences, paired by seed, to TRTR and to the same
    protocol on the synthetic set `reference`; and for each of these `<key>_subject_variance`, the
    `main_subject_variance` of a bootstrap over the subjects of the scored split, with the same draws for all arms.
    """
    weights = subject_weights(protocol.scored.subjects(), resamples, seed)
    tables = {arm: _metric_table(fits, protocol, weights) for arm, fits in results.items()}
    rows = []
    for arm, table in tables.items():
        baselines = {"trtr": Arm("TRTR", judge=arm.judge),
                     "reference": Arm(arm.protocol, reference, arm.ratio, arm.judge)}
        for name in METRICS:
            keys = {name: table[name]}
            for key, baseline in baselines.items():
                if baseline in tables and baseline != arm:
                    keys[f"{name}_minus_{key}"] = tuple(
                        own - other for own, other in zip(table[name], tables[baseline][name], strict=True))
            for key, (values, resampled) in keys.items():
                rows += [(*arm.place, key, protocol.dataset_number(arm, number), number, value)
                         for number, value in enumerate(values)]
                rows.append((*arm.place, key + SUBJECT_VARIANCE, None, None, main_subject_variance(resampled)))
    return long_frame(rows)


def minority_class(y: np.ndarray) -> int:
    """Return the rarest class among the labels y (N,) int64."""
    labels, counts = np.unique(y, return_counts=True)
    return int(labels[np.argmin(counts)])


def subject_weights(subjects: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return (resamples, N) row weights: how often each row's subject was drawn."""
    unique, inverse = np.unique(subjects, return_inverse=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=resamples)
    return drawn.astype(np.uint16)[:, inverse]


def _metric_table(fits: list[tuple[np.ndarray, np.ndarray]], protocol: Protocol, weights: np.ndarray
                  ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each metric its values (S,) by seed, and (S, R) by seed and resample."""
    y, positive = protocol.scored.y, protocol.positive
    blocks = np.array_split(weights, max(len(weights) // 50, 1))  # Metrics copy their weights several times.
    points: dict[str, list] = {name: [] for name in METRICS}
    resampled: dict[str, list] = {name: [] for name in METRICS}
    for selection, scored in fits:
        threshold = metrics.best_f1_threshold(protocol.selection.y, selection, positive)
        for values, parts in ((points, [None]), (resampled, blocks)):
            values["auroc"].append(_over(parts, metrics.auroc, y, scored))
            values["auprc"].append(_over(parts, partial(metrics.average_precision, positive=positive), y, scored))
            values["f1"].append(_over(parts, metrics.minority_f1, y, scored, positive, None))
            values["f1_selected"].append(_over(parts, metrics.minority_f1, y, scored, positive, threshold))
            values["brier"].append(_over(parts, metrics.brier, y, scored))
            values["auprc_macro"].append(_over(parts, metrics.macro_average_precision, y, scored))
            values["positive_rate"].append(_over(parts, metrics.predicted_share, scored, positive))
    return {name: (np.concatenate(points[name]), np.stack(resampled[name])) for name in METRICS}


def _over(blocks: list, metric: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
    return np.concatenate([metric(*arguments, weights=block) for block in blocks])
