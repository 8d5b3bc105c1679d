"""The noise schedule, in float64 and outside of any module."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tardiff.config import DiffusionConfig
from tardiff.utils.errors import UserError

LOWEST_HALF_LOG_SNR = -5.0
"""Where steps in log-SNR begin, after the first one: there a series has 0.7 % of the amplitude of its noise."""
LAST_STEP = 0.636
"""Size of the last step in log-SNR, of that of the first; between them sizes fall evenly. With 8 to 10 steps of
DPM-Solver++ on the default schedule Gaussian data of any variance from 0.1 to 30 then keep it to 4 %; even steps add up
to 7 %."""


@dataclass(frozen=True)
class NoiseSchedule:
    """betas (T,) float64 of the forward process, and what follows from them (Ho et al. 2020, section 2)."""

    betas: Tensor

    @staticmethod
    def from_config(config: DiffusionConfig) -> NoiseSchedule:
        """Build the schedule `scaled_linear`, linear in the square root of beta, as released, or `cosine` (Nichol &
        Dhariwal 2021, equation 17), with betas capped at 0.999. Raises UserError if beta_start is above beta_end."""
        steps = config.num_train_timesteps
        if config.beta_start > config.beta_end:
            raise UserError(f"diffusion.beta_start={config.beta_start:g} is above beta_end={config.beta_end:g}; noise "
                            "must grow with the step.")
        if config.noise_schedule == "scaled_linear":
            roots = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, steps, dtype=torch.float64)
            return NoiseSchedule(roots**2)
        times = torch.arange(steps + 1, dtype=torch.float64) / steps
        remaining = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
        return NoiseSchedule((1 - remaining[1:] / remaining[:-1]).clamp(max=0.999))

    @property
    def num_train_timesteps(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        return torch.cumprod(1 - self.betas, dim=0)

    def alpha_cumprod(self, t: int) -> float:
        """Return the cumulative product of alphas up to step t; 1 for t = -1, the clean sample."""
        return float(self.alphas_cumprod[t]) if t >= 0 else 1.0

    @cached_property
    def half_log_snr(self) -> Tensor:
        """lambda_t = log(sqrt(alphas_cumprod) / sqrt(1 - alphas_cumprod)), (T,) float64, falling with t."""
        log_remaining = torch.log1p(-self.betas).cumsum(dim=0)  # Finite where the product itself would underflow.
        return (log_remaining - torch.log(-torch.expm1(log_remaining))) / 2

    def timesteps(self, num_inference_steps: int | None, spacing: str = "t") -> list[int]:
        """Return the descending steps that a sampler visits, from T - 1 to 0 (all T where None).

        spacing: `t`, evenly spaced, or `log_snr`, after T - 1 the distinct steps nearest to values of lambda_t, which
        solvers of higher order want to be spread over all of them (Lu et al. 2022, DPM-Solver, section 3.4). The lowest
        is at least LOWEST_HALF_LOG_SNR; see LAST_STEP. Raises UserError if more are asked for than the process has, and
        ValueError of another spacing.
        """
        count = num_inference_steps or self.num_train_timesteps
        if count > self.num_train_timesteps:
            raise UserError(f"num_inference_steps={count}: the denoiser was trained with {self.num_train_timesteps} "
                            "diffusion steps, so there are no more to visit.")
        last = self.num_train_timesteps - 1
        if count == 1:
            return [last]
        if spacing == "t":
            return [round(index * last / (count - 1)) for index in reversed(range(count))]
        if spacing != "log_snr":
            raise ValueError(f"spacing {spacing}: expected t or log_snr")
        levels, steps = self.half_log_snr, [last]
        lowest = levels[-1].clamp(min=LOWEST_HALF_LOG_SNR)
        sizes = torch.linspace(1, LAST_STEP, count - 1, dtype=torch.float64)
        for index, way in enumerate(sizes.cumsum(dim=0) / sizes.sum(), start=1):
            level = lowest + way * (levels[0] - lowest)
            nearest = int((levels - level).abs().argmin())
            steps.append(max(min(nearest, steps[-1] - 1), count - 1 - index))
        return steps

    def posterior(self, x0_pred: Tensor, x_t: Tensor, t: int, t_prev: int) -> tuple[Tensor, float]:
        """Return mean (B, L, C) and variance of q(x_prev | x_t, x_start = x0_pred), for x_prev at step t_prev < t.

        Ho et al. (2020), equations 6 and 7, with alpha_t replaced by the product of alphas from t_prev + 1 to t.
        """
        remaining, remaining_prev = self.alpha_cumprod(t), self.alpha_cumprod(t_prev)
        alpha = remaining / remaining_prev
        mean = (x0_pred * (math.sqrt(remaining_prev) * (1 - alpha) / (1 - remaining))
                + x_t * (math.sqrt(alpha) * (1 - remaining_prev) / (1 - remaining)))
        return mean, (1 - remaining_prev) / (1 - remaining) * (1 - alpha)
