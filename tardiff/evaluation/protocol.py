"""TSTR, TSRTR and TRTR: does a classifier trained with synthetic series do better on real patients?

TRTR trains on real series, TSTR on synthetic ones, TSRTR on all real series and on synthetic ones, which are added at a
ratio or, as MIXED, drawn into every batch at a weight that the selection half chooses; a control (see
`tardiff.evaluation.controls`) makes more of real series alone. All share the classifier recipe, the selection half, the
normaliser (fitted on real training data) and the seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tardiff.config import CONTROLS
from tardiff.data.format import Split
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import joined
from tardiff.evaluation import controls, metrics
from tardiff.evaluation.controls import TAUGHT, Rows, subject_folds
from tardiff.evaluation.frame import (
    MIXED,
    REAL,
    SOFT,
    SUBJECT_FREEDOM,
    SUBJECT_VARIANCE,
    arm_label,
    best_control,
    long_frame,
)
from tardiff.evaluation.intervals import main_subject_variance, subject_freedom
from tardiff.utils.cache import Job, cached_jobs
from tardiff.utils.checkpoint import fingerprint
from tardiff.utils.errors import UserError
from tardiff.utils.seeding import derive_seed

METRICS: dict[str, Callable[..., np.ndarray]] = {
    "auroc": lambda y, p, positive, threshold, weights: metrics.auroc(y, p, weights),
    "auprc": lambda y, p, positive, threshold, weights: metrics.average_precision(y, p, weights, positive),
    "f1": lambda y, p, positive, threshold, weights: metrics.minority_f1(y, p, positive, None, weights),
    "f1_selected": lambda y, p, positive, threshold, weights: metrics.minority_f1(y, p, positive, threshold, weights),
    "brier": lambda y, p, positive, threshold, weights: metrics.brier(y, p, weights),
    "auprc_macro": lambda y, p, positive, threshold, weights: metrics.macro_average_precision(y, p, weights),
    "positive_rate": lambda y, p, positive, threshold, weights: metrics.predicted_share(p, positive, weights)}
"""metric(labels y (N,), probabilities p (N, K), positive class, threshold chosen for it, row weights (R, N) or None) ->
(R,)."""

WITH_GUIDANCE: dict[str, Callable[[Rows, Rows], Rows]] = {
    "guidance_rows": controls.joined_rows, "guidance_weighted": partial(controls.weighted_rows, share=0.5),
    "guidance_last": controls.ordered_rows}
"""The controls that train on the rows of both the training split and the guidance half, and how."""

FitAndPredict = Callable[[Rows, Rows, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""fit(training rows, selection rows, x to score, seed) -> probabilities (N, K) on (selection, scored)."""


@dataclass(frozen=True)
class Arm:
    """One line of the table: TRTR, TSTR, TSRTR, MIXED or a control, for the former a synthetic set and the ratio of
    synthetic to real training rows, which of the judges is trained on these rows, and toward what on the synthetic
    ones: their `own` labels, or `soft`, a teacher's probabilities. An arm with a weight is a candidate for the line of
    MIXED without one."""

    protocol: str
    synthetic: str | None = None
    ratio: float | None = None
    judge: str = ""
    targets: str = "own"
    weight: float | None = None

    @property
    def label(self) -> str:
        return arm_label(self.protocol, self.synthetic, self.weight if self.ratio is None else self.ratio, self.targets)

    @property
    def place(self) -> tuple[str, str, str]:
        """The set, the metric and the judge of the arm in the frame of results."""
        metric = " ".join([self.protocol, *([] if self.ratio is None else [str(self.ratio)]),
                           *([SOFT] if self.targets == SOFT else [])])
        return self.synthetic or REAL, metric, self.judge


Predictions = dict[Arm, list[tuple[np.ndarray, np.ndarray]]]
"""Of each arm and seed the probabilities (N, K) on the selection half and on the scored split."""


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
    kept (None: none is). workers: fits at a time. positive: the class that AUPRC and F1 are of. For
    the controls: the guidance half, the judges with balanced classes, the number of classifiers in an ensemble, and
    what teachers say of the real rows out of fold, each (N, K), of which seed s takes number s modulo their number.
    with_mask: whether judges read the masks as well, which all splits then have.
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
    guidance: Split | None = None
    balanced: dict[str, Judge] = field(default_factory=dict)
    ensemble_size: int = 2
    with_mask: bool = False
    teachers: list[np.ndarray] = field(default_factory=list)

    def predictions(self, arms: list[Arm], num_seeds: int) -> Predictions:
        """Return for each arm and seed the probabilities (N, K) on the selection half and on the scored split.

        Each fit is written to the folder as it ends, so a killed evaluation resumes. Seed s of a synthetic arm uses the
        dataset s modulo their number.
        """
        pairs = [(arm, seed) for arm in arms for seed in range(num_seeds)]
        taught = dict.fromkeys((arm.judge, seed) for arm, seed in pairs if arm.protocol in TAUGHT)
        taught = dict(zip(taught, self._out_of_fold(list(taught)), strict=True))
        jobs = [self._jobs(arm, seed, taught.get((arm.judge, seed))) for arm, seed in pairs]
        found = iter(self._results([job for of_pair in jobs for job in of_pair], "utility"))
        results: Predictions = {arm: [] for arm in arms}
        for (arm, _), of_pair in zip(pairs, jobs, strict=True):
            members = [next(found) for _ in of_pair]
            results[arm].append(tuple(np.mean([member[part] for member in members], axis=0)
                                      for part in ("selection", "scored")))
        return results

    def inputs(self, split: Split) -> np.ndarray:
        """Return what judges read of a split: x (N, L, C) float32 normalised, and with masks (N, L, 2 C)."""
        return self.normalizer.inputs(split.x, split.mask if self.with_mask else None)

    def dataset_number(self, arm: Arm, seed: int) -> int | None:
        """Return which dataset of its synthetic set an arm uses; None without a set."""
        return None if arm.synthetic is None else seed % len(self.synthetic[arm.synthetic])

    def real_rows(self, arm: Arm) -> int:
        """Return how many labelled real rows the classifiers of an arm are trained on; what a generator or a teacher
        has seen is not counted."""
        if arm.protocol == "TSTR":
            return 0
        if arm.protocol == "target_only":
            return len(self.guidance)
        return len(self.real) + (len(self.guidance) if arm.protocol in WITH_GUIDANCE else 0)

    def training_rows(self, arm: Arm, seed: int, taught: np.ndarray | None = None) -> Rows:
        """Return the training rows of an arm: real, synthetic, or both with round(ratio x real rows) synthetic rows, or
        all of both where a batch is to hold a share of synthetic rows, or those of a control. taught (N, K): what
        judges that never saw them say of the real rows, for the controls TAUGHT.

        Real rows keep their labels, but beside soft targets in MIXED, where they have those of teacher_labels, if there
        is a teacher: what the arm is above this control is then due to the synthetic rows.
        """
        x, y = self._real_x, self.real.y
        if arm.synthetic is not None:
            number = self.dataset_number(arm, seed)
            part = self.synthetic[arm.synthetic][number]
            chosen = self._chosen_rows(arm, part.y, seed)
            if arm.targets == SOFT:
                is_taught = arm.protocol == MIXED and self.teachers
                y = self._teacher_labels(seed) if is_taught else np.eye(self._num_classes)[y]
                targets = part.p / part.p.sum(axis=1, keepdims=True)
            else:
                targets = part.y
            synthetic = self._synthetic_x[arm.synthetic][number][chosen], targets[chosen]
            if arm.protocol == MIXED:
                return controls.weighted_rows((x, y), synthetic, arm.weight)
            return synthetic if arm.ratio is None else controls.joined_rows((x, y), synthetic)
        if arm.protocol in WITH_GUIDANCE:
            return WITH_GUIDANCE[arm.protocol]((x, y), (self.inputs(self.guidance), self.guidance.y))
        if arm.protocol == "target_only":
            return self.inputs(self.guidance), self.guidance.y
        if arm.protocol == "teacher_labels":
            return x, self._teacher_labels(seed)
        if arm.protocol == "self_distillation":
            return x, taught
        shares, seed = np.eye(self._num_classes)[y], derive_seed(seed, arm.protocol)
        if arm.protocol == "jitter":
            values, mask = np.split(x, [self.real.x.shape[2]], axis=2)
            noisy = np.concatenate([controls.jitter(values, seed), mask], axis=2)
            return controls.joined_rows((x, shares), (noisy, taught))
        if arm.protocol in ("mixup", "cutmix"):
            return controls.joined_rows((x, shares), getattr(controls, arm.protocol)(x, shares, seed))
        return x, y

    def _jobs(self, arm: Arm, seed: int, taught: np.ndarray | None) -> list[Job]:
        """Return the fits whose mean prediction is that of an arm."""
        judge = (self.balanced if arm.protocol == "class_weights" else self.judges)[arm.judge]
        members = self.ensemble_size if arm.protocol == "ensemble" else 1
        seeds = [seed, *(derive_seed(seed, "ensemble", number) for number in range(1, members))]
        return [self._job(f"{arm.judge}: {arm.label}, seed {seed}", judge,
                          partial(self.training_rows, arm, seed, taught), self._evaluated[1], fit_seed)
                for fit_seed in seeds]

    def _out_of_fold(self, pairs: list[tuple[str, int]]) -> list[np.ndarray]:
        """Return for each judge and seed what classifiers that never saw its subject say of each real row (N, K)."""
        folds = {seed: subject_folds(self.real.subjects(), self.real.y, seed) for _, seed in pairs}
        jobs = [self._job(f"{judge}: teacher, seed {seed}", self.judges[judge], partial(self._rows_without, held_out),
                          self._real_x[held_out], seed) for judge, seed in pairs for held_out in folds[seed]]
        found = iter(self._results(jobs, "teachers"))
        taught = []
        for _, seed in pairs:
            taught.append(np.empty((len(self.real), self._num_classes)))
            for held_out in folds[seed]:
                taught[-1][held_out] = next(found)["scored"]
        return taught

    def _rows_without(self, held_out: np.ndarray) -> Rows:
        return np.delete(self._real_x, held_out, axis=0), np.delete(self.real.y, held_out)

    def _teacher_labels(self, seed: int) -> np.ndarray:
        p = self.teachers[seed % len(self.teachers)].astype(np.float64)
        return p / p.sum(axis=1, keepdims=True)

    def _chosen_rows(self, arm: Arm, y: np.ndarray, seed: int) -> np.ndarray | slice:
        """Choose the rows, of a synthetic dataset with labels y (N,), that an arm trains on. Raises UserError if it has
        too few for it."""
        if arm.ratio is not None:
            return stratified_rows(y, round(arm.ratio * len(self.real)), derive_seed(seed, "tsrtr"), arm.synthetic)
        if arm.protocol != MIXED and len(np.unique(y)) < len(np.unique(self.real.y)):
            raise UserError(f"synthetic set '{arm.synthetic}' lacks a class, so no classifier can be trained on it "
                            "alone. Evaluate it by TSRTR.")
        return slice(None)

    @property
    def pieces(self) -> list[tuple[slice, slice]]:
        """The rows of the selection half and of the scored split that are scored together: all of them."""
        return [(slice(None), slice(None))]

    @property
    def _num_classes(self) -> int:
        return int(self.real.y.max()) + 1

    @cached_property
    def _real_x(self) -> np.ndarray:
        return self.inputs(self.real)

    @cached_property
    def _synthetic_x(self) -> dict[str, list[np.ndarray]]:
        return {name: list(map(self.inputs, parts)) for name, parts in self.synthetic.items()}

    @cached_property
    def _evaluated(self) -> tuple[np.ndarray, np.ndarray]:
        """What judges read of the selection half and of the scored split."""
        return self.inputs(self.selection), self.inputs(self.scored)

    def _job(self, label: str, judge: Judge, rows: Callable[[], Rows], x_scored: np.ndarray, seed: int) -> Job:
        """Return a training of a judge with a seed on the rows that `rows` makes, to predict the selection rows and
        normalised series x_scored; it is kept by all that decides it."""
        selection = self._evaluated[0], self.selection.y
        key = ("fit", fingerprint(*rows()), fingerprint(*selection), fingerprint(x_scored), judge.recipe, seed)
        return Job(key, partial(_fitted, judge, rows, selection, x_scored, seed), label)

    def _results(self, jobs: list[Job], description: str) -> list[dict[str, np.ndarray]]:
        folder = None if self.folder is None else self.folder / "fits"
        return cached_jobs(folder, jobs, self.workers, description, "fit")


def _fitted(judge: Judge, rows: Callable[[], Rows], selection: Rows, x_scored: np.ndarray, seed: int
            ) -> dict[str, np.ndarray]:
    """Return the probabilities (N, K) on the selection rows and on the scored ones."""
    of_selection, scored = judge.fit(rows(), selection, x_scored, seed)
    return {"selection": of_selection, "scored": scored}


class Rotations:
    """The protocols of several rotations of a split, so that all rows are scored, each by the classifiers of the
    rotation that tests it, which have not seen it.

    Scores are the means of those of the rotations: classifiers that were trained apart are not calibrated alike, so
    that a ranking of all rows by all of them would lose some of every classifier's own, and a threshold belongs to its
    own selection half. It stands in the place of a `Protocol`; `real` and `synthetic` are those of the first rotation.
    """

    def __init__(self, protocols: list[Protocol]) -> None:
        first = protocols[0]
        self.protocols, self.judges, self.positive = protocols, first.judges, first.positive
        self.real, self.synthetic = first.real, first.synthetic
        self.real_rows, self.dataset_number = first.real_rows, first.dataset_number
        self.selection, self.scored = (joined([getattr(protocol, part) for protocol in protocols])
                                       for part in ("selection", "scored"))
        ends = np.cumsum([[0, 0], *([len(protocol.selection), len(protocol.scored)] for protocol in protocols)], axis=0)
        self.pieces = [tuple(map(slice, start, end)) for start, end in pairwise(ends)]

    def predictions(self, arms: list[Arm], num_seeds: int) -> Predictions:
        """Return those of all protocols, one after the other; see `Protocol.predictions`."""
        of_rotations = [protocol.predictions(arms, num_seeds) for protocol in self.protocols]
        return {arm: [tuple(map(np.concatenate, zip(*parts, strict=True)))
                      for parts in zip(*(found[arm] for found in of_rotations), strict=True)] for arm in arms}


def with_chosen_weights(results: Predictions, protocol: Protocol | Rotations
                        ) -> tuple[Predictions, dict[Arm, list[float]]]:
    """Return the results with one arm of MIXED in place of its candidates, and the weights that it chose.

    It predicts as the candidate of lowest `shifted_log_loss` on the selection half, the mean over the seeds; each piece
    of the protocol chooses on selection rows of its own, for these are test rows of other rotations.
    """
    candidates: dict[Arm, list[Arm]] = {}
    for arm in results:
        candidates.setdefault(replace(arm, weight=None), []).append(arm)
    found, weights = {}, {}
    for line, arms in candidates.items():
        chosen = [min(arms, key=partial(_selection_loss, results, protocol.selection.y, rows))
                  for rows, _ in protocol.pieces]
        found[line] = piecewise(results, chosen, protocol)
        if line.protocol == MIXED:
            weights[line] = [arm.weight for arm in chosen]
    return found, weights


def piecewise(results: Predictions, chosen: list[Arm], protocol: Protocol | Rotations
              ) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the predictions of each seed that are those of another arm on every piece of the protocol."""
    return [tuple(np.concatenate([results[arm][seed][part][piece[part]]
                                  for arm, piece in zip(chosen, protocol.pieces, strict=True)]) for part in (0, 1))
            for seed in range(len(results[chosen[0]]))]


def _selection_loss(results: Predictions, y: np.ndarray, rows: slice, arm: Arm) -> float:
    return float(np.mean([metrics.shifted_log_loss(y[rows], selection[rows]) for selection, _ in results[arm]]))


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


MetricTable = dict[str, tuple[np.ndarray, np.ndarray]]
"""Of each metric the values (S,) by repeat, and (S, R) by repeat and draw of the scored subjects."""


@dataclass(frozen=True)
class ArmScores:
    """What an arm scores, by repeat: a seed of the classifiers. The draws of subjects are those of all arms.

    real_rows: the labelled real rows trained on. freedom: that of a variance over subjects. datasets: the number of the
    synthetic dataset of each repeat, None where there is none. weights: of MIXED, those that the rotations chose.
    """

    table: MetricTable
    real_rows: int
    freedom: int
    datasets: list[int | None]
    weights: list[float]


def scores_of(results: Predictions, protocol: Protocol | Rotations, resamples: int) -> dict[Arm, ArmScores]:
    """Return what each arm scores, with one arm of MIXED in place of its candidates (see `with_chosen_weights`)."""
    results, chosen = with_chosen_weights(results, protocol)
    subjects = protocol.scored.subjects()
    weights, freedom = subject_weights(subjects, resamples, 0), subject_freedom(protocol.scored.y, subjects)
    return {arm: ArmScores(_metric_table(fits, protocol, weights), protocol.real_rows(arm), freedom,
                           [protocol.dataset_number(arm, number) for number in range(len(fits))], chosen.get(arm, []))
            for arm, fits in results.items()}


def score_arms(results: Predictions, protocol: Protocol | Rotations, reference: str | None, resamples: int
               ) -> pd.DataFrame:
    """Return the results of all arms as a long frame, by classifier seed; see `scores_frame`."""
    return scores_frame(scores_of(results, protocol, resamples), reference)


def scores_frame(scores: dict[Arm, ArmScores], reference: str | None = None) -> pd.DataFrame:
    """Return what arms score as a long frame (see `tardiff.evaluation.frame`), by repeat.

    Keys: `real_rows`, the labelled real rows trained on; each of METRICS, where `positive_rate` is the share of rows
    predicted to be of the positive class; `<metric>_minus_trtr`, `<metric>_minus_reference` and, of arms with synthetic
    rows, `<metric>_minus_control`, the differences, paired by repeat, to TRTR, to the same protocol on the synthetic
    set `reference` and to the judge's `best_control`, chosen on the scored rows themselves, which favours the control
    and makes a gain harder to claim, never easier; `<metric>_minus_teacher`, to the control teacher_labels, whichever
    is the best; for each of these `<key>_subject_variance`, the `main_subject_variance` of a bootstrap over the
    subjects of the scored split; and once per arm the `subject_freedom` of all of these. Of MIXED, `weight`, the one
    that each rotation chose (see `with_chosen_weights`).
    """
    rows = []
    for arm, own in scores.items():
        rows += [(*arm.place, SUBJECT_FREEDOM, None, None, own.freedom),
                 (*arm.place, "real_rows", None, None, own.real_rows),
                 *((*arm.place, "weight", None, None, weight) for weight in own.weights)]
        for name in own.table:
            keys = {name: own.table[name]}
            means = {other: of_other.table[name][0].mean() for other, of_other in scores.items()
                     if other.judge == arm.judge and other.protocol in CONTROLS}
            baselines = {"trtr": Arm("TRTR", judge=arm.judge),
                         "reference": Arm(arm.protocol, reference, arm.ratio, arm.judge, arm.targets),
                         "control": best_control(name, means) if arm.synthetic is not None else None,
                         "teacher": Arm("teacher_labels", judge=arm.judge) if arm.synthetic is not None else None}
            for key, baseline in baselines.items():
                if baseline in scores and baseline != arm:
                    keys[f"{name}_minus_{key}"] = tuple(
                        one - other for one, other in zip(own.table[name], scores[baseline].table[name], strict=True))
            for key, (values, resampled) in keys.items():
                rows += [(*arm.place, key, *repeat, value)
                         for *repeat, value in zip(own.datasets, range(len(values)), values, strict=True)]
                rows.append((*arm.place, key + SUBJECT_VARIANCE, None, None,
                             main_subject_variance(resampled, own.freedom)))
    return long_frame(rows)


def subject_weights(subjects: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return (resamples, N) row weights: how often each row's subject was drawn."""
    unique, inverse = np.unique(subjects, return_inverse=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=resamples)
    return drawn.astype(np.uint16)[:, inverse]


def _metric_table(fits: list[tuple[np.ndarray, np.ndarray]], protocol: Protocol | Rotations, weights: np.ndarray
                  ) -> MetricTable:
    """Return what an arm scores: means over the protocol's pieces."""
    y, positive = protocol.scored.y, protocol.positive
    points: dict[str, list] = {name: [] for name in METRICS}
    resampled: dict[str, list] = {name: [] for name in METRICS}
    for selection, scored in fits:
        of_pieces: tuple[list, list] = ([], [])
        for chosen, tested in protocol.pieces:
            threshold = metrics.best_f1_threshold(protocol.selection.y[chosen], selection[chosen], positive)
            blocks = np.array_split(weights[:, tested], max(len(weights) // 50, 1))  # Metrics copy their weights.
            for found, parts in zip(of_pieces, ([None], blocks), strict=True):
                found.append({name: np.concatenate([metric(y[tested], scored[tested], positive, threshold, part)
                                                    for part in parts]) for name, metric in METRICS.items()})
        for values, found in zip((points, resampled), of_pieces, strict=True):
            for name in METRICS:
                values[name].append(np.mean([of_piece[name] for of_piece in found], axis=0))
    return {name: (np.concatenate(points[name]), np.stack(resampled[name])) for name in METRICS}
