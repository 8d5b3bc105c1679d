"""Reverse diffusion as plain functions: from noise to series, steered by any ascent gradient.

Every series is (B, L, C) float32 in normalised units. A `cond_fn(x_t, x0_pred, t)` returns the gradient (B, L, C) of
what should grow; samplers know nothing of where it comes from, so that this file does not even name it. A sampler is a
function (predict, noise, timesteps, conditioning, callback) with an entry in SAMPLERS; what it has beyond that are
keywords.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tardiff.diffusion.process import DiffusionProcess

NoiseFunction = Callable[[int], Tensor]
Callback = Callable[[int, Tensor, Tensor, "Tensor | None"], None]
"""callback(t, x_t, x0_pred, gradient), once a step for tracing: all (B, L, C), the gradient None where unguided."""


@dataclass(frozen=True)
class Conditioning:
    """An ascent gradient and how strongly to follow it.

    `step_size` is `posterior_variance` (the Bayes form) or `constant` (scale times the gradient is added to the mean,
    the paper's line). `through_denoiser` asks the sampler to track gradients from x_t to x0_pred.
    """

    cond_fn: Callable[[Tensor, Tensor, int], Tensor]
    scale: float
    step_size: str = "posterior_variance"
    through_denoiser: bool = False

    def __post_init__(self) -> None:
        if self.step_size not in ("posterior_variance", "constant"):
            raise ValueError(f"step_size {self.step_size!r}")


@dataclass(frozen=True)
class Prediction:
    """The denoiser with its labels: x_t to (x0_pred, eps_pred).

    denoiser(x_t (B, L, C), t (B,), labels (B,)) -> (B, L, C). With `cfg_scale` s other than 1 the output is
    unconditional + s (conditional - unconditional) (Ho & Salimans 2022), with `null_label` for the unconditional one.
    `bounds`, two (C,) tensors, clips x0_pred.
    """

    denoiser: Callable[[Tensor, Tensor, Tensor], Tensor]
    process: DiffusionProcess
    labels: Tensor
    null_label: int
    cfg_scale: float = 1.0
    bounds: tuple[Tensor, Tensor] | None = None

    def __call__(self, x_t: Tensor, step: int) -> tuple[Tensor, Tensor]:
        t = torch.full((len(x_t),), step, dtype=torch.int64, device=x_t.device)
        output = self.denoiser(x_t, t, self.labels).to(x_t.dtype)
        if self.cfg_scale != 1.0:
            unconditional = self.denoiser(x_t, t, torch.full_like(self.labels, self.null_label)).to(x_t.dtype)
            output = unconditional + self.cfg_scale * (output - unconditional)
        x0_pred, eps_pred = self.process.predictions(output, x_t, t)
        if self.bounds is not None:
            x0_pred = torch.minimum(torch.maximum(x0_pred, self.bounds[0]), self.bounds[1])
            eps_pred = self.process.eps_from_x0(x0_pred, x_t, t)
        return x0_pred, eps_pred


@torch.no_grad()
def ddpm(predict: Prediction, noise: NoiseFunction, timesteps: list[int], conditioning: Conditioning | None = None,
         callback: Callback | None = None) -> Tensor:
    """Ancestral sampling; returns x_start (B, L, C).

    Ho et al. (2020), Algorithm 2, and with conditioning the paper's Algorithm 1, step 3: the mean of each transition
    moves by scale x (posterior variance or 1) x gradient (Dhariwal & Nichol 2021, Algorithm 1).
    """
    schedule = predict.process.schedule
    x_t = noise(0)
    for index, (t, t_prev) in enumerate(_transitions(timesteps), start=1):
        x0_pred, _, gradient = _predict_with_gradient(predict, x_t, t, conditioning, callback)
        mean, variance = schedule.posterior(x0_pred, x_t, t, t_prev)
        if gradient is not None:
            strength = variance if conditioning.step_size == "posterior_variance" else 1.0
            mean = mean + conditioning.scale * strength * gradient
        x_t = mean + math.sqrt(variance) * noise(index) if t_prev >= 0 else mean
    return x_t


@torch.no_grad()
def ddim(predict: Prediction, noise: NoiseFunction, timesteps: list[int], conditioning: Conditioning | None = None,
         callback: Callback | None = None, *, eta: float = 0.0) -> Tensor:
    """Denoising diffusion implicit sampling; returns x_start (B, L, C).

    Song et al. (2021), equations 12 and 16. Under the Bayes form the gradient is added to the score, so that eps_pred
    falls by sqrt(1 - alpha_cumprod) x scale x gradient (Dhariwal & Nichol 2021, Algorithm 2). For a gradient
    at x_t, pulled back through the denoiser, that is Bayes' rule for every eta; one at x0_pred, taken as it is, moves
    series further, and the more so the less noise. Under `constant` scale x gradient is added to x_prev.
    """
    schedule = predict.process.schedule
    x_t = noise(0)
    for index, (t, t_prev) in enumerate(_transitions(timesteps), start=1):
        x0_pred, eps_pred, gradient = _predict_with_gradient(predict, x_t, t, conditioning, callback)
        remaining, remaining_prev = schedule.alpha_cumprod(t), schedule.alpha_cumprod(t_prev)
        if gradient is not None and conditioning.step_size == "posterior_variance":
            eps_pred = eps_pred - math.sqrt(1 - remaining) * conditioning.scale * gradient
            x0_pred = (x_t - math.sqrt(1 - remaining) * eps_pred) / math.sqrt(remaining)
        _, variance = schedule.posterior(x0_pred, x_t, t, t_prev)
        variance *= eta**2
        x_prev = math.sqrt(remaining_prev) * x0_pred + math.sqrt(1 - remaining_prev - variance) * eps_pred
        if gradient is not None and conditioning.step_size == "constant":
            x_prev = x_prev + conditioning.scale * gradient
        x_t = x_prev + math.sqrt(variance) * noise(index) if variance > 0 else x_prev
    return x_t


SAMPLERS = {"ddpm": ddpm, "ddim": ddim}


def _transitions(timesteps: list[int]) -> list[tuple[int, int]]:
    return list(zip(timesteps, [*timesteps[1:], -1], strict=True))


def _predict_with_gradient(predict: Prediction, x_t: Tensor, t: int, conditioning: Conditioning | None,
                           callback: Callback | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return (x0_pred, eps_pred, ascent gradient or None) at x_t, the first two as predicted; a scale of 0 asks for no
    gradient at all."""
    gradient = None
    if conditioning is None or conditioning.scale == 0:
        x0_pred, eps_pred = predict(x_t, t)
    else:
        with torch.set_grad_enabled(conditioning.through_denoiser):
            x_t = x_t.detach().requires_grad_(conditioning.through_denoiser)
            x0_pred, eps_pred = predict(x_t, t)
            gradient = conditioning.cond_fn(x_t, x0_pred, t)
        x_t, x0_pred, eps_pred, gradient = (tensor.detach() for tensor in (x_t, x0_pred, eps_pred, gradient))
    if callback is not None:
        callback(t, x_t, x0_pred, gradient)
    return x0_pred, eps_pred, gradient
