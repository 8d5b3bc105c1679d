"""Reverse diffusion as plain functions: from noise to series, steered by any ascent gradient.

Every series is (B, L, C) float32 in normalised units. A `cond_fn(x_t, x0_pred, t)` returns the gradient (B, L, C) of
what should grow; samplers know nothing of where it comes from, so that this file does not even name it. A sampler is a
function (predict, noise, timesteps, conditioning, callback) with an entry in SAMPLERS, SPACING and STEPS; what it has
beyond that are keywords.
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

    Under `step_size` `bayes` x0_pred moves by scale x r^2 x gradient at every step, whatever the sampler and the noise
    schedule. For a gradient in x0_pred r^2 = 1 - alpha_cumprod, the variance that x_start has given x_t where data are
    white with variance 1 (Song et al. 2023, Pseudoinverse-guided diffusion models: sigma^2 / (1 + sigma^2)). For one in
    x_t r^2 = (1 - alpha_cumprod) / sqrt(alpha_cumprod), which adds it to the score (Dhariwal & Nichol 2021, Algorithm
    2). The first takes all data for white: directions of variance 10 move a fifth as far as by Bayes' rule, those of
    0.05 3 to 6 times as far. Under `constant` scale x gradient is added to x_prev, the paper's line.

    `location` is where the gradient is taken, `x0_pred` or `x_t`; `through_denoiser` asks the sampler to track
    gradients from x_t to x0_pred, so that cond_fn can pull its own back to x_t.
    """

    cond_fn: Callable[[Tensor, Tensor, int], Tensor]
    scale: float
    step_size: str = "bayes"
    location: str = "x0_pred"
    through_denoiser: bool = False


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
            x0_pred = self.clip(x0_pred)
            eps_pred = self.process.eps_from_x0(x0_pred, x_t, t)
        return x0_pred, eps_pred

    def clip(self, x_start: Tensor) -> Tensor:
        """Return clean series (B, L, C) within the bounds, where there are any."""
        return x_start if self.bounds is None else torch.minimum(torch.maximum(x_start, self.bounds[0]), self.bounds[1])


@torch.no_grad()
def ddpm(predict: Prediction, noise: NoiseFunction, timesteps: list[int], conditioning: Conditioning | None = None,
         callback: Callback | None = None) -> Tensor:
    """Ancestral sampling; returns x_start (B, L, C).

    Ho et al. (2020), Algorithm 2; with `constant` conditioning the paper's Algorithm 1, step 3.
    """
    schedule = predict.process.schedule
    x_t = noise(0)
    for index, (t, t_prev) in enumerate(_transitions(timesteps), start=1):
        x0_pred, _, push = _guided_prediction(predict, x_t, t, conditioning, callback)
        mean, variance = schedule.posterior(x0_pred, x_t, t, t_prev)
        x_prev = mean + push
        x_t = x_prev + math.sqrt(variance) * noise(index) if t_prev >= 0 else x_prev
    return predict.clip(x_t)


@torch.no_grad()
def ddim(predict: Prediction, noise: NoiseFunction, timesteps: list[int], conditioning: Conditioning | None = None,
         callback: Callback | None = None, *, eta: float = 0.0) -> Tensor:
    """Denoising diffusion implicit sampling (Song et al. 2021, equations 12 and 16); returns x_start (B, L, C)."""
    schedule = predict.process.schedule
    x_t = noise(0)
    for index, (t, t_prev) in enumerate(_transitions(timesteps), start=1):
        x0_pred, eps_pred, push = _guided_prediction(predict, x_t, t, conditioning, callback)
        remaining_prev = schedule.alpha_cumprod(t_prev)
        _, variance = schedule.posterior(x0_pred, x_t, t, t_prev)
        variance *= eta**2
        x_prev = math.sqrt(remaining_prev) * x0_pred + math.sqrt(1 - remaining_prev - variance) * eps_pred + push
        x_t = x_prev + math.sqrt(variance) * noise(index) if variance > 0 else x_prev
    return predict.clip(x_t)


@torch.no_grad()
def dpm_solver_pp(predict: Prediction, noise: NoiseFunction, timesteps: list[int],
                  conditioning: Conditioning | None = None, callback: Callback | None = None) -> Tensor:
    """DPM-Solver++ (2M), second order, multistep, without noise; returns x_start (B, L, C).

    Lu et al. (2022), "DPM-Solver++", Algorithm 2, which is DDIM's step with D in the place of x0_pred: with lambda the
    half log-SNR, h its growth over a step and r = h of the step before / h,
        D = x0_pred + (x0_pred - x0_pred of the step before) / (2 r), both guided.
    The first step, which has none before, and the last, whose h is infinite, take D = x0_pred.
    """
    schedule = predict.process.schedule
    level = schedule.half_log_snr.tolist()
    x_t, before = noise(0), None
    for t, t_prev in _transitions(timesteps):
        x0_pred, eps_pred, push = _guided_prediction(predict, x_t, t, conditioning, callback)
        remaining, remaining_prev = schedule.alpha_cumprod(t), schedule.alpha_cumprod(t_prev)
        estimate = x0_pred
        if before is not None and t_prev >= 0:
            t_before, x0_before = before
            growth = (level[t_prev] - level[t]) / (level[t] - level[t_before])
            estimate = x0_pred + growth / 2 * (x0_pred - x0_before)
            eps_pred = (x_t - math.sqrt(remaining) * estimate) / math.sqrt(1 - remaining)
        x_t = math.sqrt(remaining_prev) * estimate + math.sqrt(1 - remaining_prev) * eps_pred + push
        before = t, x0_pred
    return predict.clip(x_t)


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpm_solver_pp": dpm_solver_pp}
SPACING = {"ddpm": "t", "ddim": "t", "dpm_solver_pp": "log_snr"}
"""How the steps of each sampler are spaced, see `NoiseSchedule.timesteps`."""
STEPS = {"ddpm": None, "ddim": 50, "dpm_solver_pp": 10}
"""How many steps keep the spread of the data; None: all of the denoiser."""


def _transitions(timesteps: list[int]) -> list[tuple[int, int]]:
    return list(zip(timesteps, [*timesteps[1:], -1], strict=True))


def _guided_prediction(predict: Prediction, x_t: Tensor, t: int, conditioning: Conditioning | None,
                       callback: Callback | None) -> tuple[Tensor, Tensor, Tensor | float]:
    """Return (x0_pred, eps_pred) at x_t, moved and clipped again under `bayes`, and what to add to x_prev: scale x
    gradient under `constant`, else 0. A scale of 0 asks for no gradient at all."""
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
    if gradient is None:
        return x0_pred, eps_pred, 0.0
    if conditioning.step_size == "constant":
        return x0_pred, eps_pred, conditioning.scale * gradient
    remaining = predict.process.schedule.alpha_cumprod(t)
    in_x_t = conditioning.through_denoiser or conditioning.location == "x_t"
    variance = (1 - remaining) / (math.sqrt(remaining) if in_x_t else 1)
    x0_pred = predict.clip(x0_pred + conditioning.scale * variance * gradient)
    return x0_pred, (x_t - math.sqrt(remaining) * x0_pred) / math.sqrt(1 - remaining), 0.0
