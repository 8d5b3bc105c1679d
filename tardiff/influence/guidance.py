"""The influence gradient J of a batch: grad_x [G . grad_phi loss(x, y; phi)], and the objectives built from it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tardiff.config import GuidanceConfig
from tardiff.influence.task import DownstreamTask, dot, full_precision, layer_parameters, norm
from tardiff.utils.errors import UserError

# Truncation grows with the square of the step, rounding with its inverse; in float32 the two meet near this share of
# the parameter norm (measured for GRU, LSTM and TimesNet: 1e-4 relative error of J; 1e-3 at three times the step).
RELATIVE_STEP = 3e-4


def exact_gradients(task: DownstreamTask, direction: Mapping[str, Tensor], x: Tensor, y: Tensor
                    ) -> tuple[Tensor, Tensor]:
    """Return (J, grad_x loss), each (B, L, C), by double backward.

    direction: G by parameter name. x (B, L, C), y (B,) int64. The losses of a batch are summed and each depends on its
    own sample, so row i of J is the influence gradient of sample i alone (paper, Algorithm 1, step 3b).
    Raises UserError where a layer has no second derivative (cuDNN recurrent layers).
    """
    with torch.enable_grad(), full_precision():
        x = x.detach().requires_grad_()
        parameters = {name: value.clone().requires_grad_() for name, value in task.parameters.items()}
        loss = task.losses(x, y, parameters).sum()
        *gradients, loss_gradient = torch.autograd.grad(loss, [*parameters.values(), x], create_graph=True,
                                                        allow_unused=True)
        by_name = {name: value for name, value in zip(parameters, gradients, strict=True) if value is not None}
        try:
            influence = dot(by_name, direction)
            (influence_gradient,) = torch.autograd.grad(influence, x)
        except RuntimeError as error:
            raise UserError("guidance.method=exact needs second derivatives, which this classifier lacks on this "
                            f"device ({error}). Use guidance.method=central_difference.") from None
    return influence_gradient, loss_gradient.detach()


@dataclass(frozen=True)
class Neighbours:
    """The parameters phi + e G and phi - e G, and the step e between them and phi."""

    step: float
    above: Mapping[str, Tensor]
    below: Mapping[str, Tensor]

    @staticmethod
    def along(task: DownstreamTask, direction: Mapping[str, Tensor]) -> Neighbours:
        """Return those along G, by parameter name, at RELATIVE_STEP of the parameter norm."""
        step = RELATIVE_STEP * norm(task.parameters) / max(norm(direction), 1e-30)
        return Neighbours(step, task.shifted(direction, step), task.shifted(direction, -step))


def central_difference_gradients(task: DownstreamTask, neighbours: Neighbours, x: Tensor, y: Tensor
                                 ) -> tuple[Tensor, Tensor]:
    """Return (J, grad_x loss), each (B, L, C), from two ordinary backward passes, for x (B, L, C), y (B,) int64.

    J is the derivative of grad_x loss(x; phi + e G) in e at 0, taken between phi + e G and phi - e G; the mean of the
    two passes is grad_x loss up to O(e^2).
    """
    with full_precision():
        above, below = (input_gradient(task, x, y, parameters) for parameters in (neighbours.above, neighbours.below))
    return (above - below) / (2 * neighbours.step), (above + below) / 2


def head_gradient(task: DownstreamTask, direction: Mapping[str, Tensor], x: Tensor, y: Tensor, influence_weight: float,
                  loss_weight: float) -> Tensor:
    """Return the gradient (B, L, C) of influence_weight x influence + loss_weight x loss, for a G of the head alone.

    direction: G of weight and bias of the layer `task.head`, by parameter name. Of logits W h + b the loss gradient is
    d loss/d logits times (h, 1), so influence is d loss/d logits . (G_W h + G_b): one backward pass, no difference.
    """
    layer = next(iter(direction)).rpartition(".")[0]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        hidden, logits = task.inputs_and_logits(x, layer)
        loss = task.loss_function(logits, y).sum()
        (slopes,) = torch.autograd.grad(loss, logits, create_graph=True)
        weight, bias = (direction.get(name) for name in layer_parameters(layer))
        influence = (slopes * F.linear(hidden, weight, bias)).sum()
        (gradient,) = torch.autograd.grad(influence_weight * influence + loss_weight * loss, x)
    return gradient


def input_gradient(task: DownstreamTask, x: Tensor, y: Tensor, parameters: Mapping[str, Tensor] | None = None
                   ) -> Tensor:
    """Return grad_x loss (B, L, C) at `parameters` (default: the fitted ones).

    One gradient by itself bears TF32; callers that take differences of gradients need `full_precision`.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(task.losses(x, y, parameters).sum(), x)
    return gradient


def guidance_function(task: DownstreamTask, direction: Mapping[str, Tensor] | None, y: Tensor, config: GuidanceConfig,
                      read: Callable[[Tensor], Tensor] = lambda signals: signals
                      ) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Return `cond_fn(x_t, x0_pred, t)` for samplers: the ascent gradient (B, L, S) for labels y (B,) int64.

    It is that of `objective_function` at x0_pred or x_t, of whose signals (B, L, S) the classifier is given what `read`
    makes of them, (B, L, C) with C <= S, differentiable; pulled back from x0_pred to x_t where `through_denoiser`, and
    scaled per sample where `unit_rms`, to RMS 1 of the first C signals. Each row depends on its own sample.
    """
    objective = objective_function(task, direction, config)

    def cond_fn(x_t: Tensor, x0_pred: Tensor, t: int) -> Tensor:
        with torch.enable_grad():
            signals = (x_t if config.location == "x_t" else x0_pred).detach().requires_grad_()
            inputs = read(signals)
        (gradient,) = torch.autograd.grad(inputs, signals, grad_outputs=objective(inputs.detach(), y))
        if config.through_denoiser:
            (gradient,) = torch.autograd.grad(x0_pred, x_t, grad_outputs=gradient)
        if config.unit_rms:
            of_read = gradient[..., :inputs.shape[2]]
            gradient = gradient / of_read.pow(2).mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-12)
        return gradient

    return cond_fn


def objective_function(task: DownstreamTask, direction: Mapping[str, Tensor] | None, config: GuidanceConfig
                       ) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `gradient(x, y)`: the ascent gradient (B, L, C) of the objective at x (B, L, C) for labels y (B,) int64.

    `influence`: J; `classifier`: grad_x log p(y | x), minus the loss gradient; `anchored`: the latter plus
    `influence_weight` times J. direction: G by parameter name, of the parameters that count (None: the objective does
    not use it).
    """
    if config.objective == "classifier":
        return lambda x, y: -input_gradient(task, x, y)
    influence_weight, loss_weight = {"influence": (1.0, 0.0),
                                     "anchored": (config.influence_weight, -1.0)}[config.objective]
    if config.parameters == "head":
        return lambda x, y: head_gradient(task, direction, x, y, influence_weight, loss_weight)
    if config.method == "exact":
        gradients = functools.partial(exact_gradients, task, direction)
    else:  # Made once: their norms are numbers that a device would have to be waited for in every step.
        gradients = functools.partial(central_difference_gradients, task, Neighbours.along(task, direction))

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        influence_gradient, loss_gradient = gradients(x, y)
        return influence_weight * influence_gradient + loss_weight * loss_gradient

    return gradient
