"""Exponential moving average of weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """Keep `module`, a copy of a model whose weights average those of the model over its training steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards `model` after optimiser step `step` (0-based).

        The decay ramps up as (1 + step) / (10 + step), so that the initial weights are soon forgotten.
        """
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averages, values = list(self.module.parameters()), [value.detach() for value in model.parameters()]
        torch._foreach_lerp_(averages, values, weight)
        # Some change as well, such as the running means of a normalisation in a model of the user's own.
        for average, value in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(value)
