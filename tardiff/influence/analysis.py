"""What influence says of real and synthetic series: gradient norms per class, its distribution, a check by fine-tuning.

Influence here is + G . grad_phi loss(z) with G the mean over the guidance rows: the fall of the mean guidance loss per
unit of learning rate when the classifier takes one plain gradient step on z alone (paper, 'Estimates of Influence').
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from tardiff.config import InfluenceAnalysisConfig
from tardiff.influence.gradient import GuidanceGradient, cached_guidance_gradient
from tardiff.influence.scores import influence_scores
from tardiff.influence.task import DownstreamTask, full_precision, norm
from tardiff.utils.cache import cached
from tardiff.utils.distributed import ProcessGroup
from tardiff.utils.errors import UserError
from tardiff.utils.parallel import one_thread
from tardiff.utils.progress import progress
from tardiff.utils.seeding import derive_seed

Series = tuple[Tensor, Tensor]
"""x (N, L, C) float32 normalised, and y (N,) int64."""

QUANTILES = (1, 10, 25, 50, 75, 90, 99)


@dataclass(frozen=True)
class InfluenceStudy:
    """A classifier with its guidance rows, and a folder in which each finished measurement is kept.

    `task` computes in float64. A measurement is found again by the fingerprint of classifier, guidance rows and
    series, so a killed analysis goes on where it was and nothing stale is ever read.
    """

    task: DownstreamTask
    guidance: Series
    gradient: GuidanceGradient
    folder: Path
    device: torch.device

    @staticmethod
    def open(folder: str | Path, task: DownstreamTask, x: Tensor, y: Tensor, num_classes: int, num_train: int,
             device: torch.device) -> InfluenceStudy:
        """Compute G of the guidance rows x (N, L, C), y (N,), or read it from `folder`.

        Raises UserError if the logits of a sample depend on the other samples of its batch, or if the model or the loss
        cannot compute in float64.
        """
        task.check_independence(x[:8].to(device))
        precise = in_float64(task, x.to(device))
        gradient = cached_guidance_gradient(folder, task, x, y, num_classes, num_train, ProcessGroup(0, 1, device))
        return InfluenceStudy(precise, (x, y), gradient, Path(folder), device)

    def gradient_norms(self) -> np.ndarray:
        """Return the norm of the loss gradient of each guidance row (N,) float64."""
        return self._kept("gradient_norms", (), lambda: gradient_norms(self.task, *self._in_float64(*self.guidance)))

    def scores(self, x: Tensor, y: Tensor) -> np.ndarray:
        """Return the influence of each series (N,) float64, for x (N, L, C) float32 normalised and y (N,) int64."""
        def compute() -> np.ndarray:
            direction = {name: value.to(self.device).double()
                         for name, value in self.gradient.direction("all", "guidance_size").items()}
            return influence_scores(self.task, direction, x.double(), y).numpy()
        return self._kept("influence", (x, y), compute)

    def loss_falls(self, x: Tensor, y: Tensor, learning_rates: list[float]) -> np.ndarray:
        """Return `loss_falls` of each series (N, R) float64 on the guidance rows, measured in float64."""
        return self._kept("loss_falls", (x, y, learning_rates), lambda: loss_falls(
            self.task, self._in_float64(*self.guidance), *self._in_float64(x, y), learning_rates))

    def _in_float64(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.to(self.device).double(), y.to(self.device)

    def _kept(self, measurement: str, inputs: tuple, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return a measurement (N, ...) of the rows in `inputs`, made once."""
        key = (measurement, self.gradient.key, *inputs)
        return cached(self.folder / "measurements", key, lambda: {"values": compute()})["values"]


def in_float64(task: DownstreamTask, x: Tensor) -> DownstreamTask:
    """Return a copy of the task that computes in float64, tried on the first of x (N, L, C).

    Raises UserError if the model or the loss insists on another precision.
    """
    doubled = DownstreamTask(copy.deepcopy(task.model).double(), task.loss_function)
    try:
        with torch.no_grad():
            doubled.losses(x[:1].double(), torch.zeros(1, dtype=torch.int64, device=x.device))
    except RuntimeError as error:
        raise UserError(f"the classifier or its loss cannot compute in float64 ({error}). Let model.custom follow the "
                        "type of its input: no .float(), and weights of the loss cast to the type of the logits."
                        ) from None
    return doubled


def sample_gradient(task: DownstreamTask, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return grad_phi loss of one series x (L, C) with label y (), by parameter name; zeros where the loss does not
    depend on a parameter."""
    parameters = {name: value.clone().requires_grad_() for name, value in task.parameters.items()}
    with full_precision():
        gradients = torch.autograd.grad(task.losses(x[None], y[None], parameters).sum(), list(parameters.values()),
                                        allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))


def gradient_norms(task: DownstreamTask, x: Tensor, y: Tensor) -> np.ndarray:
    """Return the Euclidean norm of grad_phi loss of each series (N,) float64, for x (N, L, C), y (N,) int64."""
    norms = np.empty(len(x))
    # Several threads would wait for each other: single series took 4 to 40 times as long on two.
    with one_thread(), progress("gradient norms", len(x), "row") as bar:
        for number, row in enumerate(zip(x, y, strict=True)):
            norms[number] = norm(sample_gradient(task, *row))
            bar.update()
    return norms


@torch.no_grad()
def mean_loss(task: DownstreamTask, x: Tensor, y: Tensor, parameters: Mapping[str, Tensor] | None = None,
              batch_size: int = 1024) -> float:
    """Return the mean loss over x (N, L, C), y (N,) int64 at `parameters` (default: the fitted ones)."""
    with full_precision():
        return sum(float(task.losses(*part, parameters).sum())
                   for part in zip(x.split(batch_size), y.split(batch_size), strict=True)) / len(x)


def loss_falls(task: DownstreamTask, guidance: Series, x: Tensor, y: Tensor, learning_rates: list[float]
               ) -> np.ndarray:
    """Fine-tune on each series alone by one plain gradient step, and return how far the mean guidance loss falls.

    x (N, L, C), y (N,) int64. Returns (N, R) float64 for R learning rates, each fall divided by its rate, so that it
    tends to the influence of the series as the rate goes to 0. Give a float64 task: at small rates the falls drown in
    float32.
    """
    before = mean_loss(task, *guidance)
    falls = np.empty((len(x), len(learning_rates)))
    with one_thread(), progress("fine-tuning", len(x), "row") as bar:
        for number, row in enumerate(zip(x, y, strict=True)):
            gradient = sample_gradient(task, *row)
            for column, rate in enumerate(learning_rates):
                falls[number, column] = (before - mean_loss(task, *guidance, task.shifted(gradient, -rate))) / rate
            bar.update()
    return falls


def influence_tables(study: InfluenceStudy, sets: Mapping[str, Series], subjects: Mapping[str, np.ndarray],
                     classes: list[str], config: InfluenceAnalysisConfig) -> dict[str, list[dict[str, Any]]]:
    """Return the tables of the analysis by name, each a list of rows, for named sets of series and their subjects (N,).

    gradient_norms: `gradient_norm_rows`. influence_distribution: `influence_rows` of each set. fine_tuned_series: the
    series fine-tuned on, {set, row, class, influence, fall_at_RATE ...}. fine_tuning: `agreement_rows` of these. The
    last two are left out where no series is to be fine-tuned on.
    """
    norms = gradient_norm_rows(study.gradient_norms(), study.gradient, study.guidance[1].numpy(), classes)
    scores = {name: study.scores(*rows) for name, rows in sets.items()}
    distribution = [row for name, (_, y) in sets.items()
                    for row in influence_rows(name, scores[name], y.numpy(), subjects[name], classes, config.bootstrap,
                                              config.seed)]
    series = []
    for name, chosen in rows_to_fine_tune_on(sets, config.fine_tuned, config.seed).items():
        x, y = (part[chosen] for part in sets[name])
        measured = study.loss_falls(x, y, config.learning_rates)
        series += [{"set": name, "row": int(row), "class": classes[label], "influence": float(scores[name][row]),
                    **dict(zip(map(fall_name, config.learning_rates), falls.tolist(), strict=True))}
                   for row, label, falls in zip(chosen, y, measured, strict=True)]
    checked = {"fine_tuned_series": series, "fine_tuning": agreement_rows(series, config.learning_rates)}
    return {"gradient_norms": norms, "influence_distribution": distribution, **(checked if series else {})}


def gradient_norm_rows(norms: np.ndarray, gradient: GuidanceGradient, y: np.ndarray, classes: list[str]
                       ) -> list[dict[str, Any]]:
    """Return one row per class that has guidance rows: the norm of its mean gradient, and its rows' own norms.

    norms (N,), y (N,) int64. `mean` and `sd` over rows are the paper's table ('Mean gradient norms'); gradients of a
    class that point apart cancel in `norm_of_mean`, which is what steers generation.
    """
    return [{"class": classes[label], "rows": int((y == label).sum()), "norm_of_mean": gradient.norms()[label],
             "mean": float(values.mean()), "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
             **_percentiles(values, (10, 50, 90))}
            for label, values in enumerate(norms[y == label] for label in range(len(classes))) if len(values)]


def influence_rows(name: str, scores: np.ndarray, y: np.ndarray, subjects: np.ndarray, classes: list[str],
                   resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return `influence_summary` of a set, over all of its rows and over those of each class; scores (N,), y (N,)
    int64, subjects (N,)."""
    groups = [("all", slice(None)), *((classes[label], y == label) for label in range(len(classes)))]
    return [{"set": name, "class": group, **influence_summary(scores[rows], subjects[rows], resamples, seed)}
            for group, rows in groups if len(scores[rows])]


def influence_summary(scores: np.ndarray, subjects: np.ndarray, resamples: int, seed: int) -> dict[str, float]:
    """Return mean, its 95 % bootstrap interval over subjects, share of positive rows and percentiles of scores (N,),
    for the subject (N,) of each.

    The order of rows does not matter.
    """
    ordered = np.sort(scores)
    _, owner = np.unique(subjects, return_inverse=True)
    sums = np.column_stack([np.bincount(owner, scores), np.bincount(owner)])
    sums = sums[np.lexsort(sums.T)]
    generator = np.random.default_rng(derive_seed(seed, "influence"))
    draws = [sums[generator.integers(len(sums), size=len(sums))].sum(axis=0) for _ in range(resamples)]
    low, high = np.percentile([total / rows for total, rows in draws], [2.5, 97.5])
    return {"rows": len(ordered), "mean": float(ordered.mean()), "mean_low": float(low), "mean_high": float(high),
            "share_positive": float((ordered > 0).mean()), **_percentiles(ordered, QUANTILES)}


def rows_to_fine_tune_on(sets: Mapping[str, Series], count: int, seed: int) -> dict[str, np.ndarray]:
    """Choose about `count` row numbers, evenly over the classes of each set (x (N, L, C), y (N,)); few rows give all.

    The choice depends on the content of the rows, not on their order.
    """
    cells = [(name, label) for name, (_, y) in sets.items() for label in np.unique(y)]
    chosen: dict[str, list[np.ndarray]] = {name: [] for name in sets}
    for number, (name, label) in enumerate(cells):
        x, y = sets[name]
        rows = np.flatnonzero(y.numpy() == label)
        content = np.ascontiguousarray(x.numpy()[rows]).reshape(len(rows), -1)
        rows = rows[np.argsort(content.view(f"V{content.shape[1] * content.itemsize}")[:, 0], kind="stable")]
        generator = np.random.default_rng(derive_seed(seed, "fine-tuning", name, int(label)))
        share = count // len(cells) + (number < count % len(cells))
        chosen[name].append(generator.permutation(rows)[:share])
    return {name: np.concatenate(parts) for name, parts in chosen.items()}


def agreement(influence: np.ndarray, falls: np.ndarray) -> dict[str, float | None]:
    """Compare influence (N,) with measured falls (N,): Spearman and Pearson correlation, the share of equal signs, and
    the slope of the least-squares line of falls on influence (1 where influence is exact). None for fewer than 3 series
    or constant values."""
    defined = len(influence) > 2 and np.ptp(influence) > 0 and np.ptp(falls) > 0
    measured = {"spearman": scipy.stats.spearmanr(influence, falls).statistic,
                "pearson": scipy.stats.pearsonr(influence, falls).statistic,
                "slope": scipy.stats.linregress(influence, falls).slope} if defined else {}
    return {"series": len(influence), **{name: float(measured[name]) if defined else None
                                         for name in ("spearman", "pearson", "slope")},
            "same_sign": float((np.sign(influence) == np.sign(falls)).mean()) if len(influence) else None}


def agreement_rows(series: list[dict[str, Any]], learning_rates: list[float]) -> list[dict[str, Any]]:
    """Return `agreement` at each learning rate over all series and over those of each set.

    Each series is {set, influence, fall_at_RATE ...}.
    """
    names = ["all", *dict.fromkeys(one["set"] for one in series)]
    members = {name: [one for one in series if name in ("all", one["set"])] for name in names}
    return [{"learning_rate": rate, "set": name,
             **agreement(np.array([one["influence"] for one in members[name]]),
                         np.array([one[fall_name(rate)] for one in members[name]]))}
            for rate in learning_rates for name in names]


def fall_name(learning_rate: float) -> str:
    """Return the name of the column that holds the fall measured at a learning rate, per unit of it."""
    return f"fall_at_{learning_rate:g}"


def _percentiles(values: np.ndarray, percents: tuple[int, ...]) -> dict[str, float]:
    return {f"p{percent:02d}": float(value)
            for percent, value in zip(percents, np.percentile(values, percents), strict=True)}
