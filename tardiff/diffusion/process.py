"""Forward process, conversions between what the denoiser may predict, and the training loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tardiff.config import DiffusionConfig
from tardiff.diffusion.gaps import learned_signals
from tardiff.diffusion.schedule import NoiseSchedule


class DiffusionProcess:
    """The diffusion of x_start into noise under a schedule, for one prediction type.

    All series are (B, L, C) float in normalised units, all steps t are (B,) int64, 0-based. with_mask: whether they are
    values and then analog bits, of which not all are learned.
    """

    def __init__(self, config: DiffusionConfig, with_mask: bool = False) -> None:
        self.schedule = NoiseSchedule.from_config(config)
        self._alphas_cumprod = self.schedule.alphas_cumprod
        self.prediction_type = config.prediction_type
        self.loss_type, self.with_mask = config.loss, with_mask

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return x_t ~ q(x_t | x_start) (Ho et al. 2020, equation 4)."""
        signal, spread = self.signal_and_spread(t, x_start)
        return signal * x_start + spread * noise

    def target(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return what the denoiser should predict: noise, x_start, or velocity (Salimans & Ho 2022, appendix D)."""
        signal, spread = self.signal_and_spread(t, x_start)
        return {"epsilon": noise, "sample": x_start}.get(self.prediction_type, signal * noise - spread * x_start)

    def predictions(self, output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x0_pred, eps_pred), both (B, L, C), that a denoiser output implies at x_t."""
        signal, spread = self.signal_and_spread(t, x_t)
        if self.prediction_type == "epsilon":
            return (x_t - spread * output) / signal, output
        if self.prediction_type == "sample":
            return output, (x_t - signal * output) / spread
        return signal * x_t - spread * output, spread * x_t + signal * output

    def eps_from_x0(self, x0_pred: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the noise (B, L, C) that leads from x0_pred to x_t."""
        signal, spread = self.signal_and_spread(t, x_t)
        return (x_t - signal * x0_pred) / spread

    def loss(self, denoiser: nn.Module, x_start: Tensor, labels: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return the mean L1 or L2 distance (scalar) between the denoiser's output and its target, which is 0 of
        signals that are not learned."""
        output = denoiser(self.q_sample(x_start, t, noise), t, labels)
        distance = F.l1_loss if self.loss_type == "l1" else F.mse_loss
        distances = distance(output.float(), self.target(x_start, t, noise), reduction="none")
        return (distances * learned_signals(x_start) if self.with_mask else distances).mean()

    def signal_and_spread(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return what x_start and the noise are multiplied by in x_t, (B, 1, 1) each, of the type of `like`."""
        if self._alphas_cumprod.device != t.device:  # Copied once; a copy in every step would stall the device.
            self._alphas_cumprod = self.schedule.alphas_cumprod.to(t.device)
        remaining = self._alphas_cumprod[t][:, None, None]
        return remaining.sqrt().to(like.dtype), (1 - remaining).sqrt().to(like.dtype)


def training_draws(x_train: Tensor, y_train: Tensor, batch_size: int, num_train_timesteps: int, label_dropout: float,
                   null_label: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw one training batch from the current generator state: x_start, labels (some hidden), t and noise."""
    device = x_train.device
    rows = torch.randint(len(x_train), (batch_size,), device=device)
    x_start = x_train[rows]
    labels = hide_labels(y_train[rows], label_dropout, null_label)
    t = torch.randint(num_train_timesteps, (batch_size,), device=device)
    return x_start, labels, t, torch.randn_like(x_start)


def hide_labels(y: Tensor, share: float, null_label: int) -> Tensor:
    """Return labels y (B,) int64, each of which is `null_label`, 'no label', with a probability of `share`."""
    return torch.where(torch.rand(len(y), device=y.device) < share, null_label, y)
