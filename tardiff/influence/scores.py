"""How much each finished sample would help: influence as a number per sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tardiff.influence.guidance import Neighbours
from tardiff.influence.task import DownstreamTask, full_precision


@torch.no_grad()
def influence_scores(task: DownstreamTask, direction: Mapping[str, Tensor], x: Tensor, y: Tensor,
                     batch_size: int = 1024) -> Tensor:
    """Return the influence G . grad_phi loss(z) of each sample (N,) float64, on the CPU, for x (N, L, C), y (N,).

    Give a float64 task, direction and x: of an overfitted classifier the two losses that are subtracted differ by less
    than float32 resolves, and a tenth of the signs came out wrong.
    The derivative of loss(z; phi + e G) in e at 0, by central difference: two forward passes and no gradient. Positive
    means that training on the sample lowers the guidance loss (paper, section 'Estimates of Influence').
    """
    neighbours, scores = Neighbours.along(task, direction), []
    for part in zip(x.split(batch_size), y.split(batch_size), strict=True):
        rows = [values.to(task.device) for values in part]
        with full_precision():
            difference = task.losses(*rows, neighbours.above).double() - task.losses(*rows, neighbours.below).double()
        scores.append((difference / (2 * neighbours.step)).cpu())
    return torch.cat(scores)
