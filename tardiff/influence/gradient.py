"""The guidance gradient G: the mean loss gradient of the guidance set at the fitted classifier, kept per class.

Adding a sample z to training moves the parameters by -eta grad loss(z), so the guidance loss falls by
eta G . grad loss(z): influence is + G . grad loss(z) (paper, Algorithm 1, step 2).
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tardiff.influence.task import DownstreamTask, full_precision, norm
from tardiff.utils.cache import cached_where_writable
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
    if isinstance(classes, str):
        weights = {"all": {label: counts[label] for label in present},
                   "minority": {min(present, key=counts.__getitem__): 1},
                   "majority": {max(present, key=counts.__getitem__): 1},
                   "balanced": dict.fromkeys(present, 1)}.get(classes, {})
    else:
        weights = classes if isinstance(classes, dict) else {
            label: counts[label] if label in present else 0 for label in classes}
    if not weights or weights.keys() - present or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise UserError(f"guidance.classes={classes!r}: use all, minority, majority, balanced, or classes with "
                        f"guidance rows {present} and positive weights.")
    return {label: float(weight) for label, weight in weights.items()}


def compute_guidance_gradient(task: DownstreamTask, x: Tensor, y: Tensor, num_classes: int, num_train: int,
                              group: ProcessGroup, batch_size: int = 512) -> GuidanceGradient:
    """Stream the guidance set x (N, L, C) float32 normalised, y (N,) int64 once and sum its loss gradients per class.

    The gradient of a summed loss does not depend on the batch size, and memory does not grow with N. Sums are
    accumulated in float64 and over all processes, each of which takes its share of the batches.
    """
    sums = summed_gradients(task, x, y, y, num_classes, group, torch.float64, batch_size)
    of_class = [{name: value[label].float() for name, value in sums.items()} for label in range(num_classes)]
    return GuidanceGradient(of_class, torch.bincount(y, minlength=num_classes).tolist(), num_train,
                            guidance_key(task, x, y, num_classes, num_train))


def summed_gradients(task: DownstreamTask, x: Tensor, y: Tensor, part: Tensor, num_parts: int, group: ProcessGroup,
                     dtype: torch.dtype, batch_size: int = 512) -> dict[str, Tensor]:
    """Return the loss gradients summed over the rows of each part, on the CPU, by parameter name (num_parts, ...).

    x (N, L, C) float32 normalised, y (N,) int64, part (N,) int64 below num_parts. The rows are streamed once, and sums
    are taken over all processes, each of which takes its share of the batches.
    """
    sums = {name: torch.zeros(num_parts, *value.shape, dtype=dtype) for name, value in task.parameters.items()}
    parameters = {name: value.clone().requires_grad_() for name, value in task.parameters.items()}
    batches = [(number, rows) for number in range(num_parts)
               for rows in torch.split(torch.nonzero(part == number)[:, 0], batch_size) if len(rows)]
    own_batches = batches[group.rank::group.world_size]
    with progress("guidance gradient", len(own_batches), "part", shown=group.is_main) as bar:
        for number, rows in own_batches:
            with full_precision():
                loss = task.losses(x[rows].to(group.device), y[rows].to(group.device), parameters).sum()
                gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    sums[name][number] += gradient.to("cpu", dtype)
            bar.update()
    return {name: group.sum(value) for name, value in sums.items()}


def guidance_key(task: DownstreamTask, x: Tensor, y: Tensor, num_classes: int, num_train: int) -> str:
    """Return the fingerprint of everything that G depends on: weights, code of model and loss, rows and counts."""
    return fingerprint(task.fingerprint(), source_fingerprint(task.model), source_fingerprint(task.loss_function), x, y,
                       num_classes, num_train)


def cached_guidance_gradient(folder: str | Path, task: DownstreamTask, x: Tensor, y: Tensor, num_classes: int,
                             num_train: int, group: ProcessGroup) -> GuidanceGradient:
    """Return G, read from `folder` where it is kept, else computed and kept there by the first process.

    Several processes compute it together each time, for some might find the file and others not. In a folder that may
    not be written nothing is kept. Raises UserError if the file is damaged.
    """
    def compute() -> dict[str, np.ndarray]:
        gradient = compute_guidance_gradient(task, x, y, num_classes, num_train, group)
        return {f"{label}/{name}": value.numpy() for label, total in enumerate(gradient.sums)
                for name, value in total.items()}

    key = guidance_key(task, x, y, num_classes, num_train)
    kept = functools.partial(cached_where_writable, folder, ("guidance_gradient", key))
    found = kept(compute) if group.world_size == 1 else compute()
    if group.world_size > 1 and group.is_main:
        kept(lambda: found)
    sums = [{name: torch.as_tensor(found[f"{label}/{name}"], dtype=torch.float32) for name in task.parameters}
            for label in range(num_classes)]
    return GuidanceGradient(sums, torch.bincount(y, minlength=num_classes).tolist(), num_train, key)
