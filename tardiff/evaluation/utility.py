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
import scipy.stats

from tardiff.data.format import Split
from tardiff.data.normalize import Normalizer
from tardiff.evaluation import metrics
from tardiff.utils.checkpoint import DAMAGED_ARRAYS, atomic_path, fingerprint
from tardiff.utils.errors import UserError
from tardiff.utils.parallel import run_jobs
from tardiff.utils.seeding import derive_seed

METRICS = ("auroc", "auprc", "f1", "f1_selected", "brier", "auprc_macro", "positive_rate")

Rows = tuple[np.ndarray, np.ndarray]
FitAndPredict = Callable[[Rows, Rows, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""fit((x, y) train, (x, y) selection, x to score, seed) -> probabilities (N, K) on (selection, scored)."""


@dataclass(frozen=True)
class Arm:
    """One line of the table: a protocol, a synthetic set and the ratio of synthetic to real training rows."""

    protocol: str
    synthetic: str | None = None
    ratio: float | None = None

    @property
    def label(self) -> str:
        return " ".join([self.protocol, *([self.synthetic] if self.synthetic else []),
                         *([f"{self.ratio:g}"] if self.ratio is not None else [])])


@dataclass(frozen=True)
class Protocol:
    """Everything that the arms share.

    real: the training split. selection: its selection half. scored: the split that results are computed on. synthetic:
    for each name the training splits of its datasets, one per generation seed. fit: trains and predicts; `recipe` is
    its settings, which with the data decide whether a cached fit in `folder` is reused. processes: fits at a time.
    """

    real: Split
    selection: Split
    scored: Split
    synthetic: dict[str, list[Split]]
    normalizer: Normalizer
    fit: FitAndPredict
    recipe: dict[str, Any]
    folder: Path
    processes: int = 1

    def predictions(self, arms: list[Arm], num_seeds: int) -> dict[Arm, list[tuple[np.ndarray, np.ndarray]]]:
        """Return for each arm and seed the probabilities (N, K) on the selection half and on the scored split.

        Each fit is written to the folder as it ends, so a killed evaluation resumes. Seed s of a synthetic arm uses the
        dataset s modulo their number.
        """
        jobs = [(arm, seed) for arm in arms for seed in range(num_seeds)]
        paths = [self._path(arm, seed) for arm, seed in jobs]
        missing = {path: job for path, job in zip(paths, jobs, strict=True) if not path.exists()}
        run_jobs([(f"{arm.label}, seed {seed}", partial(self._store, path, arm, seed))
                  for path, (arm, seed) in missing.items()], self.processes, "utility", "fit")
        results: dict[Arm, list[tuple[np.ndarray, np.ndarray]]] = {arm: [] for arm in arms}
        for (arm, _), path in zip(jobs, paths, strict=True):
            results[arm].append(_read_fit(path))
        return results

    def training_rows(self, arm: Arm, seed: int) -> Split:
        """Return the training rows of an arm: real, synthetic, or both with round(ratio x real rows) synthetic rows."""
        if arm.synthetic is None:
            return self.real
        chosen = self._synthetic_set(arm, seed)[self._chosen_rows(arm, seed)]
        if arm.ratio is None:
            return Split(chosen.x, chosen.y)
        return Split(np.concatenate([self.real.x, chosen.x]), np.concatenate([self.real.y, chosen.y]))

    def _synthetic_set(self, arm: Arm, seed: int) -> Split:
        datasets = self.synthetic[arm.synthetic]
        return datasets[seed % len(datasets)]

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

    def _path(self, arm: Arm, seed: int) -> Path:
        """Return where the predictions of a fit are kept, by all that decides them."""
        train = self.training_rows(arm, seed)
        key = fingerprint(Split(train.x, train.y).fingerprint(), *self._evaluated[2], self.normalizer.fingerprint(),
                          self.recipe, seed)
        return self.folder / "fits" / f"{key}.npz"

    def _store(self, path: Path, arm: Arm, seed: int) -> None:
        """Fit, predict and write the predictions."""
        train, (x_selection, x_scored, _) = self.training_rows(arm, seed), self._evaluated
        selection, scored = self.fit((self.normalizer.transform(train.x), train.y), (x_selection, self.selection.y),
                                     x_scored, seed)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, selection=selection, scored=scored)


def stratified_rows(y: np.ndarray, count: int, seed: int, name: str) -> np.ndarray:
    """Return `count` row numbers, drawn without replacement and with the class shares of y (N,).

    Raises UserError if y has fewer rows, naming the synthetic set `name`.
    """
    if count > len(y):
        raise UserError(f"synthetic set '{name}' has {len(y)} rows, the ratio needs {count}. Generate more series or "
                        "lower ratios.")
    order = np.random.default_rng(seed).permutation(len(y))
    labels, inverse, counts = np.unique(y[order], return_inverse=True, return_counts=True)
    rank = np.empty(len(y))
    for label in range(len(labels)):
        members = inverse == label
        rank[members] = (np.arange(counts[label]) + 0.5) / counts[label]
    return order[np.argsort(rank, kind="stable")[:count]]


def score_arms(results: dict[Arm, list[tuple[np.ndarray, np.ndarray]]], protocol: Protocol, reference: str | None,
               resamples: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row of results per arm: for each metric its values by seed, mean, standard deviation and 95 % interval,
    and the paired differences to TRTR and to the same protocol on the synthetic set `reference`. `positive_rate` is the
    share of rows predicted to be of the minority class. Differences of AUROC and AUPRC say in `seeds_for_0.01` how many
    seeds would show one of 0.01, and in `smallest_visible` what no number of seeds would (see `seeds_needed`).

    Intervals are mean +- t x standard error, with both sources of chance in the error: `subject_variance`, from a bootstrap
    over the subjects of the scored split with the same draws for all arms, and the variance between seeds (see
    `standard_error`; percentiles of three resampled seeds would miss the truth in a quarter of cases). Differences are paired
    by subject and by seed. With a single seed, what differs between seeds is not in the interval.
    """
    weights = subject_weights(protocol.scored.subjects(), resamples, seed)
    minority = minority_class(protocol.real.y)
    tables = {arm: _metric_table(fits, protocol, minority, weights) for arm, fits in results.items()}
    rows = []
    for arm, table in tables.items():
        row: dict[str, Any] = {"arm": arm.label, "protocol": arm.protocol, "synthetic": arm.synthetic, "ratio": arm.ratio}
        baselines = {"trtr": Arm("TRTR"), "reference": Arm(arm.protocol, reference, arm.ratio)}
        for name in METRICS:
            row[name] = _summary(*table[name])
            for key, baseline in baselines.items():
                if baseline in tables and baseline != arm:
                    difference = [mine - theirs for mine, theirs in zip(table[name], tables[baseline][name], strict=True)]
                    row[f"{name}_minus_{key}"] = summary = _summary(*difference)
                    if name in ("auroc", "auprc"):
                        summary["seeds_for_0.01"] = seeds_needed(difference[0], summary["subject_variance"])
                        summary["smallest_visible"] = smallest_visible(summary["subject_variance"])
        rows.append(row)
    return rows


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


def seeds_needed(differences: np.ndarray, subject_variance: float = 0.0, effect: float = 0.01, power: float = 0.8
                 ) -> int | None:
    """Return the number of paired seeds with which a true mean difference of `effect` is found with probability `power`.

    Found: the 95 % interval of `score_arms` lies on the right side of 0, the standard deviation between seeds being that of
    differences (S,), one per seed, and `subject_variance` what more seeds do not lessen. The power is that of the
    noncentral t distribution. None for fewer than three seeds, where they differ by no more than rounding, and where the
    effect is below `smallest_visible`. From three to five seeds, take it as an order of magnitude.
    """
    if len(differences) < 3 or np.std(differences) <= 1e-6 * effect or effect <= smallest_visible(subject_variance, power):
        return None
    seed_variance = float(np.var(differences, ddof=1))

    def enough(seeds: int) -> bool:
        error, freedom = standard_error(seed_variance, seeds, subject_variance)
        return scipy.stats.nct.sf(scipy.stats.t.ppf(0.975, freedom), freedom, effect / error) >= power

    # With the normal distribution in place of t the number has a closed form; the t-test always needs a few more.
    quantiles = scipy.stats.norm.ppf([0.975, power]).sum()
    seeds = max(2, int(np.ceil(seed_variance / ((effect / quantiles) ** 2 - subject_variance))))
    while not enough(seeds):
        seeds += 1
    return seeds


def smallest_visible(subject_variance: float, power: float = 0.8) -> float:
    """Return the smallest true difference that infinitely many seeds find with probability `power` on these subjects."""
    return float(scipy.stats.norm.ppf([0.975, power]).sum() * np.sqrt(subject_variance))


def standard_error(seed_variance: float, num_seeds: int, subject_variance: float) -> tuple[float, float]:
    """Return the standard error of a mean over seeds, from the variance between them and that over subjects, and its
    degrees of freedom (Welch-Satterthwaite; infinite where seeds do not vary)."""
    between = seed_variance / num_seeds
    freedom = (between + subject_variance) ** 2 / (between**2 / (num_seeds - 1)) if between > 0 else np.inf
    return float(np.sqrt(between + subject_variance)), float(freedom)


def _read_fit(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as cached:
            return cached["selection"], cached["scored"]
    except (*DAMAGED_ARRAYS, TypeError) as error:  # TypeError: a .npy file under this name.
        raise UserError(f"{path}: damaged ({error}). Delete it, and the same command makes it again.") from None


def _metric_table(fits: list[tuple[np.ndarray, np.ndarray]], protocol: Protocol, minority: int, weights: np.ndarray
                  ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each metric its values (S,) by seed, and (S, R) by seed and resample."""
    y = protocol.scored.y
    blocks = np.array_split(weights, max(len(weights) // 50, 1))  # Metrics copy their weights several times.
    points: dict[str, list] = {name: [] for name in METRICS}
    resampled: dict[str, list] = {name: [] for name in METRICS}
    for selection, scored in fits:
        threshold = metrics.best_f1_threshold(protocol.selection.y, selection, minority)
        for values, parts in ((points, [None]), (resampled, blocks)):
            values["auroc"].append(_over(parts, metrics.auroc, y, scored))
            values["auprc"].append(_over(parts, metrics.average_precision, y, scored))
            values["f1"].append(_over(parts, metrics.minority_f1, y, scored, minority, None))
            values["f1_selected"].append(_over(parts, metrics.minority_f1, y, scored, minority, threshold))
            values["brier"].append(_over(parts, metrics.brier, y, scored))
            values["auprc_macro"].append(_over(parts, metrics.macro_average_precision, y, scored))
            values["positive_rate"].append(_over(parts, metrics.predicted_share, scored, minority))
    return {name: (np.concatenate(points[name]), np.stack(resampled[name])) for name in METRICS}


def _over(blocks: list, metric: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
    return np.concatenate([metric(*arguments, weights=block) for block in blocks])


def _summary(values: np.ndarray, resampled: np.ndarray) -> dict[str, Any]:
    """Summarise values (S,) by seed, and (S, R) by seed and resample of the subjects."""
    mean, subject_variance = float(values.mean()), float(np.nanvar(resampled.mean(axis=0)))
    error, freedom = standard_error(float(values.var(ddof=1)) if len(values) > 1 else 0.0, len(values), subject_variance)
    half = float(scipy.stats.t.ppf(0.975, freedom)) * error
    return {"values": values.tolist(), "mean": mean, "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
            "low": mean - half, "high": mean + half, "subject_variance": subject_variance}
