"""The guidance gradient G: the mean loss gradient of the guidance set at the fitted classifier, kept per class.

Adding a sample z to training moves the parameters by -eta grad loss(z), so the guidance loss falls by
eta G . grad loss(z): influence is + G . grad loss(z) (paper, Algorithm 1, step 2).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tardiff.influence.task import DownstreamTask, full_precision, norm
from tardiff.utils.cache import cached
from tardiff.utils.checkpoint import fingerprint, source_fingerprint
from tardiff.utils.distributed import ProcessGroup
from tardiff.utils.errors import UserError
from tardiff.utils.progress import progress


@dataclass(frozen=True)
class GuidanceGradient:
    """Summed loss gradients of the guidance rows of each class.

    `sums[k]` maps parameter names to float32 tensors, on the CPU; `counts[k]` is the number of guidance rows of class
    k; `num_train` the number of training rows; `key` the fingerprint of what the gradient was computed from.
    """

    sums: list[dict[str, Tensor]]
    counts: list[int]
    num_train: int
    key: str

    def direction(self, classes: str | list[int] | dict[int, float] = "all", divide_by: str = "guidance_size",
                  parameters: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return G as named tensors, for a choice of classes and what their summed gradients are divided by.

        `classes`: `all`, `minority`, `majority` (by guidance counts), `balanced` (equal weight per class), a list of
        classes, or a mixture {class: weight}. `divide_by`: `guidance_size`, the number of chosen rows, for their mean;
        `train_size`, the number of training rows (paper); `l2_norm`, the Euclidean norm. `parameters`: the names that G
        is restricted to, before it is divided by its norm; None for all.
        Raises UserError on an unknown class, one without guidance rows, or a gradient that vanishes.
        """
        weights = class_weights(classes, self.counts)
        rows = sum(self.counts[label] for label in weights)
        total = sum(weights.values())
        mean = {name: sum(weight / total / self.counts[label] * self.sums[label][name]
                          for label, weight in weights.items())
                for name in (self.sums[0] if parameters is None else parameters)}
        factor = {"guidance_size": 1.0, "train_size": rows / self.num_train}.get(divide_by)
        if factor is None:
            length = norm(mean)
            if not 0 < length < float("inf"):
                raise UserError(f"the guidance gradient has norm {length} and cannot be scaled to unit norm; the "
                                "classifier is at a stationary point of the guidance loss, or diverged.")
            factor = 1 / length
        return {name: value * factor for name, value in mean.items()}

    def norms(self) -> list[float]:
        """Return the Euclidean norm of the mean gradient of each class; 0 for a class without rows."""
        return [norm(total) / max(count, 1) for total, count in zip(self.sums, self.counts, strict=True)]


def class_weights(classes: str | list[int] | dict, counts: list[int]) -> dict[int, float]:
    """Return the weight of each class that `classes` chooses, given the guidance rows `counts` of each class.

    Raises UserError on an unknown choice, or on a class without guidance rows.
    """
    present = [label for label, count in enumerate(counts) if count]
    if isinstance(classes, dict):
        numeric = all(isinstance(label, int) and isinstance(weight, (int, float)) and weight >= 0
                      for label, weight in classes.items())
        weights = {label: float(weight) for label, weight in classes.items()} if numeric else {}
    elif isinstance(classes, list):
        weights = {label: float(counts[label]) for label in classes if 0 <= label < len(counts)}
        weights |= {label: 1.0 for label in classes if not 0 <= label < len(counts)}
    else:
        weights = {"all": {label: float(counts[label]) for label in present},
                   "minority": {min(present, key=counts.__getitem__): 1.0},
                   "majority": {max(present, key=counts.__getitem__): 1.0},
                   "balanced": dict.fromkeys(present, 1.0)}.get(classes, {})
    absent = [label for label in weights if label not in present]
    if absent or not weights or sum(weights.values()) <= 0:
        raise UserError(f"guidance.classes={classes!r}: use all, minority, majority, balanced, or classes with "
                        f"guidance rows {present} and positive weights.")
    return weights


def compute_guidance_gradient(task: DownstreamTask, x: Tensor, y: Tensor, num_classes: int, num_train: int,
                              group: ProcessGroup, batch_size: int = 512) -> GuidanceGradient:
    """Stream the guidance set x (N, L, C) float32 normalised, y (N,) int64 once and sum its loss gradients per class.

    The gradient of a summed loss does not depend on the batch size, and memory does not grow with N. Sums are
    accumulated in float64 and over all processes, each of which takes its share of the batches.
    """
    sums = [{name: torch.zeros_like(value, dtype=torch.float64) for name, value in task.parameters.items()}
            for _ in range(num_classes)]
    parameters = {name: value.clone().requires_grad_() for name, value in task.parameters.items()}
    batches = [(label, rows) for label in range(num_classes)
               for rows in torch.split(torch.nonzero(y == label)[:, 0], batch_size) if len(rows)]
    own_batches = batches[group.rank::group.world_size]
    with progress("guidance gradient", len(own_batches), "part", shown=group.is_main) as bar:
        for label, rows in own_batches:
            with full_precision():
                loss = task.losses(x[rows].to(group.device), y[rows].to(group.device), parameters).sum()
                gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    sums[label][name] += gradient.double()
            bar.update()
    reduced = [{name: group.sum(value).float().cpu() for name, value in total.items()} for total in sums]
    counts = [int((y == label).sum()) for label in range(num_classes)]
    return GuidanceGradient(reduced, counts, num_train, guidance_key(task, x, y, num_classes, num_train))


def guidance_key(task: DownstreamTask, x: Tensor, y: Tensor, num_classes: int, num_train: int) -> str:
    """Return the fingerprint of everything that G depends on: weights, code of model and loss, rows and counts."""
    return fingerprint(task.fingerprint(), source_fingerprint(task.model), source_fingerprint(task.loss_function), x, y,
                       num_classes, num_train)


def cached_guidance_gradient(folder: str | Path, task: DownstreamTask, x: Tensor, y: Tensor, num_classes: int,
                             num_train: int, group: ProcessGroup) -> GuidanceGradient:
    """Return G, computed once for a classifier and its rows by `compute_guidance_gradient` and then read from `folder`.

    Several processes compute it together each time, for some might find the file and others not, and the first keeps
    it. One that may not write to the folder computes it, too. Raises UserError if the file is damaged.
    """
    is_writable = os.access(folder, os.W_OK) or not Path(folder).exists()
    together = None
    if group.world_size > 1 or not is_writable:
        together = compute_guidance_gradient(task, x, y, num_classes, num_train, group)
    if together is not None and not (group.is_main and is_writable):
        return together
    key = guidance_key(task, x, y, num_classes, num_train)

    def compute() -> dict[str, np.ndarray]:
        sums = (together or compute_guidance_gradient(task, x, y, num_classes, num_train, group)).sums
        return {f"{label}/{name}": value.numpy() for label, total in enumerate(sums) for name, value in total.items()}

    arrays = cached(folder, ("guidance_gradient", key), compute)
    sums = [{name: torch.as_tensor(arrays[f"{label}/{name}"], dtype=torch.float32) for name in task.parameters}
            for label in range(num_classes)]
    return GuidanceGradient(sums, [int((y == label).sum()) for label in range(num_classes)], num_train, key)
