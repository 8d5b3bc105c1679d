"""TimeVAE: a variational autoencoder whose decoder adds level, trend, seasons and a convolutional residual.

Desai, Freeman, Wang and Beaver 2021, 'TimeVAE: a variational auto-encoder for multivariate time series generation'.
Unconditional: one model per class. Sizes, loss and schedule are those of the official Keras code, whose shipped
settings are level and residual without trend or seasons; differences:

- Convolutions pad as Keras does ('same' with stride 2 puts the odd zero at the end), so lengths round up when they
  halve and the dense layer after the residual brings back any length.
- Trend and seasons are submodules that train; a later PyTorch port makes them anew in every call.
- The official pipeline sets a tenth of the rows aside without using them; here all rows of the class train.
- Batches are drawn with replacement, each of full size, and an epoch is as many of them as cover the rows.
- As meant by the official code, the training loss, not a validation loss, stops the training and halves the learning
  rate, and the last weights stay. There, both wait for a loss by the name `total_loss`, while its training step reports
  `loss`, so they may never act: `stopping_patience` and `halving_patience` as large as `epochs` turn them off.

Samples are smoother and narrower than the data, as published: they are decoded means, and beside the published weight
of the reconstruction, 3, a direction of the data whose variance is below 1 / (2 x 3) in scaled units is not worth a
latent.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tardiff.baselines.interface import Baseline, Draw, PerClass, Stage
from tardiff.config import BaselineConfig
from tardiff.sampling.noise import NoiseStream
from tardiff.utils.errors import UserError
from tardiff.utils.seeding import derive_seed
from tardiff.utils.settings import setting

STOPPING_IMPROVEMENT = 1e-2
HALVING_IMPROVEMENT = 1e-4


@dataclass(frozen=True)
class Config(BaselineConfig):
    """TimeVAE."""

    output: str = setting("runs/${name}/baselines/timevae", "Run folder of the training.", semantic=False)
    latent_size: int = setting(8, "Dimensions of the latent space.", low=1)
    filters: list[int] = setting([50, 100, 200], "Channels of the encoder's convolutions, each of which halves the "
                                                 "length.", low=1)
    trend_degree: int = setting(0, "Degree of the trend polynomial; 0 for none, as published.", low=0)
    seasons: list[list[int]] = setting([], "Seasonal terms [number of seasons, steps per season]; none, as published.")
    reconstruction_weight: float = setting(3.0, "Weight of the reconstruction beside the KL divergence.", low=0)
    epochs: int = setting(1000, "Most epochs; the training loss may stop the training earlier.", low=1)
    stopping_patience: int = setting(50, "Epochs without a loss 0.01 below the best that end the training.", low=1)
    halving_patience: int = setting(30, "Epochs without a loss 0.0001 below the best that halve the learning rate.",
                                    low=1)
    steps: int | None = setting(None, "Most optimiser steps of each class; null: as many as the epochs take.", low=1)
    batch_size: int = setting(16, "Series per step.", low=1)
    learning_rate: float = setting(1e-3, "Adam learning rate.", low=1e-8, high=1)


class SameConvolution(nn.Conv1d):
    """A convolution of width 3 and stride 2 from (B, C, L) to (B, C', ceil(L / 2)), padded as Keras does."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        odd = x.shape[2] % 2
        return super().forward(F.pad(x, (odd, 1)))


class SameTransposedConvolution(nn.ConvTranspose1d):
    """The transpose of `SameConvolution` on even lengths: (B, C, L) to (B, C', 2 L)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, :-1]


class Level(nn.Module):
    """A constant per channel: latent (B, D) to (B, L, C)."""

    def __init__(self, latent_size: int, length: int, num_channels: int) -> None:
        super().__init__()
        self.length = length
        self.layers = _perceptron(latent_size, num_channels)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)[:, None].expand(-1, self.length, -1)


class Trend(nn.Module):
    """A polynomial per channel, without constant term, in time from 0 to 1: latent (B, D) to (B, L, C)."""

    def __init__(self, latent_size: int, length: int, num_channels: int, degree: int) -> None:
        super().__init__()
        self.layers = _perceptron(latent_size, num_channels * degree)
        time = torch.arange(length) / length
        self.register_buffer("powers", torch.stack([time**power for power in range(1, degree + 1)]), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        coefficients = self.layers(z).unflatten(1, (-1, len(self.powers)))
        return (coefficients @ self.powers).transpose(1, 2)


class Seasonality(nn.Module):
    """One value per season and channel, in turn and over again: latent (B, D) to (B, L, C)."""

    def __init__(self, latent_size: int, length: int, num_channels: int, num_seasons: int, steps: int) -> None:
        super().__init__()
        self.values = nn.Linear(latent_size, num_channels * num_seasons)
        self.num_channels = num_channels
        self.register_buffer("season", torch.arange(length) // steps % num_seasons, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        return self.values(z).unflatten(1, (self.num_channels, -1))[:, :, self.season].transpose(1, 2)


class Residual(nn.Module):
    """Transposed convolutions that mirror the encoder, then a dense layer over all steps and channels: latent (B, D) to
    (B, L, C)."""

    def __init__(self, latent_size: int, length: int, num_channels: int, filters: list[int]) -> None:
        super().__init__()
        self.shape = (length, num_channels)
        encoded = halved(length, len(filters))
        self.entry = nn.Sequential(nn.Linear(latent_size, filters[-1] * encoded), nn.ReLU())
        self.width = filters[-1]
        widths = [*reversed(filters), num_channels]
        self.convolutions = nn.Sequential(*(layer for inputs, outputs in itertools.pairwise(widths)
                                            for layer in (SameTransposedConvolution(inputs, outputs), nn.ReLU())))
        self.exit = nn.Linear(num_channels * encoded * 2 ** len(filters), length * num_channels)

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.convolutions(self.entry(z).unflatten(1, (self.width, -1)))
        return self.exit(hidden.flatten(1)).unflatten(1, self.shape)


class TimeVAE(Baseline):
    """The model of one class, of series (B, L, C) with every time step and channel scaled to [0, 1]; samples are not
    clipped to it."""

    scaling = "unit_per_step"

    def __init__(self, config: Config, length: int, num_channels: int) -> None:
        super().__init__()
        self.config = config
        latent, widths = config.latent_size, [num_channels, *config.filters]
        self.encoder = nn.Sequential(*(layer for inputs, outputs in itertools.pairwise(widths)
                                       for layer in (SameConvolution(inputs, outputs), nn.ReLU())), nn.Flatten())
        encoded = config.filters[-1] * halved(length, len(config.filters))
        self.latent_mean, self.latent_log_variance = nn.Linear(encoded, latent), nn.Linear(encoded, latent)
        self.decoders = nn.ModuleList([Level(latent, length, num_channels)])
        if config.trend_degree:
            self.decoders.append(Trend(latent, length, num_channels, config.trend_degree))
        self.decoders.extend(Seasonality(latent, length, num_channels, *pair) for pair in config.seasons)
        self.decoders.append(Residual(latent, length, num_channels, config.filters))
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Conv1d, nn.ConvTranspose1d)):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        optimizer = torch.optim.Adam(self.parameters(), lr=config.learning_rate, eps=1e-7)
        self.optimizers = {"adam": optimizer}
        # Torch waits for more epochs than its patience, Keras for as many.
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=config.halving_patience - 1, threshold=HALVING_IMPROVEMENT,
            threshold_mode="abs")
        self.steps_per_epoch = 1
        self.epoch_loss, self.best_loss, self.epochs_without_improvement = 0.0, math.inf, 0

    def observe(self, x: Tensor, y: Tensor) -> None:
        self.steps_per_epoch = math.ceil(len(x) / self.config.batch_size)

    def stages(self) -> list[Stage]:
        steps = self.config.epochs * self.steps_per_epoch
        return [Stage("train", min(steps, self.config.steps or steps), self.config.batch_size)]

    def train_step(self, stage: Stage, step: int, draw: Draw) -> dict[str, Tensor]:
        reconstruction, divergence = self.loss_terms(draw()[0])
        loss = self.config.reconstruction_weight * reconstruction + divergence
        self.optimizers["adam"].zero_grad()
        loss.backward()
        self.optimizers["adam"].step()
        self.epoch_loss += loss.item()
        if (step + 1) % self.steps_per_epoch == 0:
            self._end_epoch(self.epoch_loss / self.steps_per_epoch)
        return {"loss": loss, "reconstruction_loss": reconstruction, "divergence": divergence}

    def finished(self, stage: Stage) -> bool:
        return self.epochs_without_improvement >= self.config.stopping_patience

    def extra_state(self) -> dict[str, Any]:
        return {"schedule": self.schedule.state_dict(), "epoch_loss": self.epoch_loss, "best_loss": self.best_loss,
                "epochs_without_improvement": self.epochs_without_improvement}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state["schedule"])
        self.epoch_loss, self.best_loss = state["epoch_loss"], state["best_loss"]
        self.epochs_without_improvement = state["epochs_without_improvement"]

    def sample(self, labels: Tensor, samples: Tensor, seed: int) -> Tensor:
        return self.decode(NoiseStream(derive_seed(seed, "timevae"), samples, (1, self.config.latent_size))(0)[:, 0])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance of the latent, each (B, D), of series x (B, L, C)."""
        hidden = self.encoder(x.transpose(1, 2))
        return self.latent_mean(hidden), self.latent_log_variance(hidden)

    def decode(self, z: Tensor) -> Tensor:
        """Return series (B, L, C) of latents z (B, D)."""
        return sum(decoder(z) for decoder in self.decoders)

    def loss_terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction error of x (B, L, C), before its weight, and the KL divergence of the latent from
        the standard normal, both summed over the batch."""
        mean, log_variance = self.encode(x)
        x_hat = self.decode(mean + (log_variance / 2).exp() * torch.randn_like(mean))
        return reconstruction_error(x_hat, x), gaussian_divergence(mean, log_variance)

    def _end_epoch(self, loss: float) -> None:
        self.schedule.step(loss)
        improved = loss < self.best_loss - STOPPING_IMPROVEMENT
        self.epochs_without_improvement = 0 if improved else self.epochs_without_improvement + 1
        self.best_loss = loss if improved else self.best_loss
        self.epoch_loss = 0.0


def reconstruction_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the sum of squared errors of (B, L, C), plus that of the means over channels at each time step."""
    return (x_hat - x).pow(2).sum() + (x_hat - x).mean(dim=2).pow(2).sum()


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the KL divergence of diagonal Gaussians (B, D) from the standard normal, summed over the batch."""
    return (mean.pow(2) + log_variance.exp() - 1 - log_variance).sum() / 2


def halved(length: int, times: int) -> int:
    """Return the length after halving it so many times, rounded up."""
    return math.ceil(length / 2**times)


def _perceptron(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))


def build(config: Config, length: int, num_channels: int, num_classes: int) -> PerClass:
    """Return one TimeVAE per class. Raises UserError for no filters and for seasonal terms that are not pairs of
    positive whole numbers."""
    if not config.filters:
        raise UserError("'filters' is empty; give at least one number of channels, such as filters=[50,100,200].")
    wrong = [pair for pair in config.seasons if len(pair) != 2 or min(pair) < 1]
    if wrong:
        raise UserError(f"'seasons' holds {wrong[0]}; expected pairs of positive whole numbers, [number of seasons, "
                        "steps per season], such as seasons=[[4,6]].")
    return PerClass([TimeVAE(config, length, num_channels) for _ in range(num_classes)])
