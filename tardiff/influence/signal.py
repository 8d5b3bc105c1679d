"""How much of the guidance gradient G is signal: does it come out again of other patients?

The guidance rows are cut by subject into blocks. G of one half of the blocks is compared, by its cosine, with G of the
other half, over many halvings; and with G of as many training rows, for what the classifier was fitted to needs no
guidance rows. Were the mean gradient 0, every block's mean could as well have the other sign: the same cosine under
drawn signs is what chance gives. Memory holds one gradient a block and class; all cosines follow from their inner
products.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tardiff.data.format import Split
from tardiff.data.splits import split_subjects
from tardiff.influence.gradient import class_weights, guidance_key, summed_gradients
from tardiff.influence.task import DownstreamTask
from tardiff.utils.cache import cached_where_writable
from tardiff.utils.distributed import ProcessGroup

BLOCKS, FEWEST_BLOCKS = 16, 8
"""Fewer than 8 blocks have too few signs for a range of 95 %."""
HALVINGS, SIGNS = 20, 1000


@dataclass(frozen=True)
class Agreement:
    """Mean cosine of the G of two halves of the guidance rows, the 95 % range of it that chance gives, and the mean
    cosine of the G of a half and of as many training rows (NaN where these lack a class)."""

    halves: float
    chance_low: float
    chance_high: float
    training: float

    @property
    def is_chance(self) -> bool:
        return self.halves <= self.chance_high


@dataclass(frozen=True)
class GuidanceSignal:
    """Mean loss gradients of blocks of rows, as their inner products.

    products: by parameter name (2, M, K, 2, M, K) float64, over guidance (0) and training rows (1), M blocks and K
    classes. counts: rows (2, M, K) int64.
    """

    products: Mapping[str, np.ndarray]
    counts: np.ndarray

    def agreement(self, classes: str | list[int] | dict[int, float], parameters: Collection[str] | None = None
                  ) -> Agreement | None:
        """Return how far G agrees with itself, for a choice of classes and parameters as `GuidanceGradient.direction`
        takes them; None where fewer than 8 blocks have rows of all chosen classes.

        A block counts by the weighted mean of its class means, whose expectation is that of G.
        """
        weights = class_weights(classes, self.counts[0].sum(axis=0).tolist())
        chosen, shares = list(weights), np.array(list(weights.values())) / sum(weights.values())
        has_all = (self.counts[..., chosen] > 0).all(axis=2)
        blocks = np.flatnonzero(has_all[0])[:has_all[0].sum() // 2 * 2]
        if len(blocks) < FEWEST_BLOCKS:
            return None
        products = sum(self.products[name] for name in (self.products if parameters is None else parameters))
        products = np.einsum("sakubl,k,l->saub", products[:, :, chosen][..., chosen], shares, shares)
        generator = np.random.default_rng(0)
        halves = (generator.random((HALVINGS, len(blocks))).argsort(axis=1) < len(blocks) // 2).astype(float)
        signs = generator.choice([-1.0, 1.0], size=(SIGNS, 1, len(blocks)))
        of_guidance = products[0][blocks][:, 0][:, blocks]
        chance = _cosines(halves * signs, (1 - halves) * signs, of_guidance).mean(axis=1)
        training = float("nan")
        if has_all[1][blocks].all():
            whole = products[:, blocks][..., blocks].reshape(2 * len(blocks), -1)
            absent = np.zeros_like(halves)
            training = _cosines(np.hstack([halves, absent]), np.hstack([absent, halves[::-1]]), whole).mean()
        low, high = np.percentile(chance, [2.5, 97.5])
        return Agreement(float(_cosines(halves, 1 - halves, of_guidance).mean()), float(low), float(high),
                         float(training))


def _cosines(first: np.ndarray, second: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Return the cosine (...) of two sums with coefficients (..., R) of vectors with inner products (R, R)."""
    inner, own, other = (((a @ products) * b).sum(axis=-1) for a, b in ((first, second), (first, first),
                                                                        (second, second)))
    return inner / np.sqrt(np.maximum(own * other, np.finfo(float).tiny))


def agreement_words(found: Agreement | None, classes: str, rows: int) -> list[str]:
    """Return what to print of the agreement of the G of a choice of classes over a number of guidance rows: the figures
    and, where one is due, a warning."""
    what = f"G of {classes} ({rows:,} guidance rows)"
    if found is None:
        return [f"warning: how much of {what} is signal cannot be told: too few patients of one of its classes."]
    lines = [f"{what}: cosine between two halves {found.halves:.2f} (chance: {found.chance_low:.2f} to "
             f"{found.chance_high:.2f}), between a half and as many training rows {found.training:.2f}"]
    if found.is_chance:
        lines.append(f"warning: {what} cannot be told from chance: influence along it follows noise. Give more "
                     "guidance rows, or guidance.objective=classifier.")
    elif found.training > 0.9 * found.halves:
        lines.append(f"note: {what} says hardly more than the training rows do, which the classifier is fitted to.")
    return lines


def guidance_signal(task: DownstreamTask, guidance: Split, training: Split, num_classes: int, device: torch.device
                    ) -> GuidanceSignal | None:
    """Stream the guidance rows and as many training rows, drawn by subject, their x normalised; None where there are
    fewer than 8 subjects.

    Memory holds 2 x 16 x K float32 copies of the classifier's parameters.
    """
    sides = [guidance, training[some_rows(training, len(guidance))]]
    count = min(BLOCKS, *(len(np.unique(rows.subjects())) for rows in sides))
    if count < FEWEST_BLOCKS:
        return None
    sums, counts = [], []
    for rows in sides:
        block = torch.empty(len(rows), dtype=torch.int64)
        parts = {str(number): 1 / count for number in range(count)}
        for name, members in split_subjects(rows.subjects(), rows.y, parts, seed=0).items():
            block[members] = int(name)
        x, y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)
        part = block * num_classes + y
        sums.append(summed_gradients(task, x, y, part, count * num_classes, ProcessGroup(0, 1, device), torch.float32))
        counts.append(torch.bincount(part, minlength=count * num_classes))
    shape = (2, count, num_classes)
    rows_of = torch.cat(counts)
    products = {}
    for name in task.parameters:
        means = torch.cat([of_side[name] for of_side in sums]).flatten(1).double() / rows_of.clamp(min=1)[:, None]
        products[name] = (means @ means.T).reshape(*shape, *shape).numpy()
    return GuidanceSignal(products, rows_of.reshape(shape).numpy())


def some_rows(rows: Split, size: int, seed: int = 0) -> np.ndarray:
    """Return the numbers of about `size` rows, of drawn subjects; of all rows where there are no more."""
    subjects, share = rows.subjects(), size / len(rows)
    count = len(np.unique(subjects))
    if not 0.5 < share * count < count - 0.5:
        return np.arange(len(rows))
    return split_subjects(subjects, rows.y, {"drawn": share, "rest": 1 - share}, seed)["drawn"]


def cached_guidance_signal(folder: str | Path, task: DownstreamTask, guidance: Split, training: Split, num_classes: int,
                           device: torch.device) -> GuidanceSignal | None:
    """Return `guidance_signal`, read from `folder` where it is kept, else computed and, where it may be written, kept
    there. Raises UserError if the file is damaged."""
    def compute() -> dict[str, np.ndarray]:
        signal = guidance_signal(task, guidance, training, num_classes, device)
        return {} if signal is None else {
            "counts": signal.counts, **{f"products/{name}": values for name, values in signal.products.items()}}

    key = ("guidance_signal", BLOCKS, *(part for rows in (guidance, training) for part in (
        guidance_key(task, rows.x, rows.y, num_classes, len(training)), rows.subjects())))
    found = cached_where_writable(folder, key, compute)
    if not found:
        return None
    return GuidanceSignal({name: found[f"products/{name}"] for name in task.parameters}, found["counts"])
