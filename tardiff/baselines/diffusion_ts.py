"""Diffusion-TS: a transformer that predicts the clean series as trend plus season (Yuan & Qiao 2024, 'Diffusion-TS:
Interpretable diffusion for general time series generation').

One unconditional model per class, on series scaled to [-1, 1]. Its encoder reads the noisy series, and each block of
its decoder adds a cubic trend and the strongest frequencies of what is left. The cosine schedule, the posterior and
DDIM are those of `tardiff.diffusion` and `tardiff.sampling`.

Deviations from the published code:
- Layers without weights of their own are written differently and compute the same: the Fourier block keeps the
  strongest bins of the spectrum and inverts it without the factor 1/L, where the published code sums cosines.
- The embedding of the diffusion step has frequencies 10000^(-i/n) for i < n, not 10000^(-i/(n - 1)), as elsewhere here.
- The decay of the moving average starts low and rises to the published one by the rule of `tardiff.models.ema`, where
  the published code copies the weights for 100 steps and then lets it rise by another rule; so a short training works.
- With `num_inference_steps`, the steps of DDIM run from T - 1 to 0 evenly, both ends included.
- Batches are drawn with replacement, where the published code shuffles the rows of each epoch.
- The published sampler returns whole batches, more series than asked for; here exactly those asked for.
- `season_kernel` is 1 unless set, as in all published configurations but that of fMRI (50 channels), which sets 5; the
  published code itself takes 5 from 64 steps or 32 channels on where none is set.
- A series of fewer than 7 steps has no bin to keep and so no season but the residual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tardiff.baselines.interface import Baseline, Draw, PerClass, Stage
from tardiff.config import BaselineConfig, DiffusionConfig
from tardiff.diffusion.process import DiffusionProcess
from tardiff.models.ema import EMA
from tardiff.models.embeddings import timestep_embedding
from tardiff.sampling.noise import NoiseStream
from tardiff.sampling.samplers import Prediction, ddim, ddpm
from tardiff.utils.errors import UserError
from tardiff.utils.seeding import derive_seed
from tardiff.utils.settings import setting

POWERS = 3
EMA_EVERY = 10
LOWEST_RATE = 1e-5


@dataclass(frozen=True)
class Config(BaselineConfig):
    """Diffusion-TS; the defaults are those published for ETTh, which is 24 x 7 too."""

    output: str = setting("runs/${name}/baselines/diffusion_ts", "Run folder of the training.", semantic=False)
    width: int = setting(64, "Features per time step; a multiple of num_heads.", low=4)
    encoder_blocks: int = setting(3, "Blocks of the encoder.", low=1)
    decoder_blocks: int = setting(2, "Blocks of the decoder.", low=1)
    num_heads: int = setting(4, "Attention heads.", low=1)
    season_kernel: int = setting(1, "Width of the circular convolution from the season to the channels.",
                                 choices=(1, 5))
    num_train_timesteps: int = setting(500, "Diffusion steps T.", low=2)
    steps: int = setting(18_000, "Optimiser steps per class.", low=EMA_EVERY)
    batch_size: int = setting(128, "Series per batch.", low=1)
    gradient_accumulation: int = setting(2, "Batches per optimiser step.", low=1)
    learning_rate: float = setting(8e-4, "Adam learning rate after warm-up; it halves on a plateau of the training "
                                         "loss.", low=LOWEST_RATE, high=1)
    warmup_steps: int = setting(500, "Steps over which the learning rate rises linearly from 1e-5.", low=0)
    patience: int = setting(4_000, "Steps without a loss 10 % below the best after which the learning rate halves.",
                            low=0)
    gradient_clip: float = setting(1.0, "Largest global gradient norm.", low=1e-6)
    ema_decay: float = setting(0.995, "Decay of the moving average of the weights, taken every 10 steps.", low=0,
                               high=0.999999)
    num_inference_steps: int | None = setting(None, "Steps of deterministic DDIM sampling; null: the whole ancestral "
                                                    "chain, as published.", low=1, semantic=False)


class DiffusionTS(Baseline):
    """Diffusion-TS for the series of one class."""

    scaling = "symmetric"

    def __init__(self, config: Config, length: int, num_channels: int) -> None:
        super().__init__()
        self.config = config
        self.shape = (length, num_channels)
        self.process = DiffusionProcess(DiffusionConfig(num_train_timesteps=config.num_train_timesteps,
                                                        noise_schedule="cosine", prediction_type="sample"))
        self.register_buffer("step_weights", step_weights(self.process.schedule.betas), persistent=False)
        self.network = TrendSeasonTransformer(config, length, num_channels)
        self.ema = EMA(self.network, config.ema_decay)
        self.average = self.ema.module
        first_rate = LOWEST_RATE if config.warmup_steps else config.learning_rate
        optimizer = torch.optim.Adam(self.network.parameters(), lr=first_rate, betas=(0.9, 0.96))
        self.optimizers["adam"] = optimizer
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=config.patience,
                                                                  threshold=0.1, min_lr=LOWEST_RATE)

    def stages(self) -> list[Stage]:
        return [Stage("diffusion", self.config.steps, self.config.batch_size)]

    def train_step(self, stage: Stage, step: int, draw: Draw) -> dict[str, Tensor]:
        optimizer = self.optimizers["adam"]
        optimizer.zero_grad()
        total = torch.zeros((), device=self.step_weights.device)
        for _ in range(self.config.gradient_accumulation):
            x_start, _ = draw()
            t = torch.randint(self.config.num_train_timesteps, (len(x_start),), device=x_start.device)
            x_t = self.process.q_sample(x_start, t, torch.randn_like(x_start))
            loss = reconstruction_loss(self.network(x_t, t), x_start, self.step_weights[t])
            loss = loss / self.config.gradient_accumulation
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        optimizer.step()
        self._set_rate(step + 1, float(total))
        if (step + 1) % EMA_EVERY == 0:
            self.ema.update(self.network, (step + 1) // EMA_EVERY - 1)
        return {"loss": total}

    def _set_rate(self, steps_done: int, loss: float) -> None:
        """Set the learning rate of the next step."""
        if steps_done > self.config.warmup_steps:
            self.plateau.step(loss)
            return
        rise = (self.config.learning_rate - LOWEST_RATE) * steps_done / self.config.warmup_steps
        self.optimizers["adam"].param_groups[0]["lr"] = LOWEST_RATE + rise

    def extra_state(self) -> dict[str, Any]:
        return self.plateau.state_dict()

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.plateau.load_state_dict(state)

    @torch.no_grad()
    def sample(self, labels: Tensor, samples: Tensor, seed: int) -> Tensor:
        bound = torch.ones(self.shape[1], device=samples.device)
        predict = Prediction(lambda x_t, t, _: self.average(x_t, t), self.process, labels, null_label=0,
                             bounds=(-bound, bound))
        noise = NoiseStream(derive_seed(seed, "diffusion"), samples, self.shape)
        timesteps = self.process.schedule.timesteps(self.config.num_inference_steps)
        if self.config.num_inference_steps is None:
            return ddpm(predict, noise, timesteps)
        return ddim(predict, noise, timesteps, eta=0.0)


def step_weights(betas: Tensor) -> Tensor:
    """Return the weight (T,) float32 of each diffusion step in the loss, from betas (T,) float64: sqrt(alpha)
    sqrt(1 - alpha_cumprod) / (100 beta) (Yuan & Qiao 2024, equation 9)."""
    alphas = 1 - betas
    return (alphas.sqrt() * (1 - alphas.cumprod(dim=0)).sqrt() / betas / 100).float()


def reconstruction_loss(x0_pred: Tensor, x_start: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted L1 distance of two batches (B, L, C) in time and in frequency, a scalar.

    Per series: the mean of |difference| plus sqrt(L)/5 times that of the real and of the imaginary part of its Fourier
    transform over time divided by L; weights (B,). Yuan & Qiao (2024), equation 10.
    """
    difference = x0_pred - x_start
    spectrum = torch.fft.fft(difference, dim=1, norm="forward")
    strength = math.sqrt(x_start.shape[1]) / 5
    distance = difference.abs() + strength * (spectrum.real.abs() + spectrum.imag.abs())
    return (distance.mean(dim=(1, 2)) * weights).mean()


class TrendSeasonTransformer(nn.Module):
    """Map noisy series (B, L, C) and steps t (B,) int64 to the predicted clean series (B, L, C).

    Position tables and the convolutions across time tie it to one length.
    """

    def __init__(self, config: Config, length: int, num_channels: int) -> None:
        super().__init__()
        width = config.width
        self.entry = nn.Conv1d(num_channels, width, 3, padding=1)
        self.encoder_positions = nn.Parameter(torch.empty(length, width).uniform_(-0.02, 0.02))
        self.decoder_positions = nn.Parameter(torch.empty(length, width).uniform_(-0.02, 0.02))
        self.encoder = nn.ModuleList(EncoderBlock(width, config.num_heads) for _ in range(config.encoder_blocks))
        self.decoder = nn.ModuleList(DecoderBlock(length, num_channels, width, config.num_heads)
                                     for _ in range(config.decoder_blocks))
        self.residual = nn.Conv1d(width, num_channels, 3, padding=1)
        self.season = nn.Conv1d(width, num_channels, config.season_kernel, padding=config.season_kernel // 2,
                                padding_mode="circular", bias=False)
        self.mean = nn.Conv1d(config.decoder_blocks, 1, 1, bias=False)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        trend, season = self.trend_and_season(x_t, t)
        return trend + season

    def trend_and_season(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two parts, each (B, L, C), whose sum is the prediction."""
        entry = _over_time(self.entry, x_t)
        encoded = entry + self.encoder_positions
        for block in self.encoder:
            encoded = block(encoded, t)
        hidden = entry + self.decoder_positions
        means, trends, seasons = [], [], []
        for block in self.decoder:
            hidden, mean, trend, season = block(hidden, encoded, t)
            means.append(mean)
            trends.append(trend)
            seasons.append(season)
        residual = _over_time(self.residual, hidden)
        level = residual.mean(dim=1, keepdim=True)
        trend = sum(trends) + self.mean(torch.cat(means, dim=1)) + level
        return trend, _over_time(self.season, sum(seasons)) + residual - level


class EncoderBlock(nn.Module):
    """Self-attention and a perceptron, both residual, on (B, L, width)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm = StepNorm(width)
        self.attention = Attention(width, num_heads)
        self.perceptron = _perceptron(width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        normed = self.norm(x, t)
        x = x + self.attention(normed, normed)
        return x + self.perceptron(x)


class DecoderBlock(nn.Module):
    """Attention to itself and to the encoder, from which a trend and a season split off."""

    def __init__(self, length: int, num_channels: int, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm_self, self.norm_cross = StepNorm(width), StepNorm(width)
        self.attention_self, self.attention_cross = Attention(width, num_heads), Attention(width, num_heads)
        self.split = nn.Conv1d(length, 2 * length, 1)
        self.trend = TrendBlock(length, num_channels, width)
        self.perceptron = _perceptron(width)
        self.mean = nn.Linear(width, num_channels)

    def forward(self, x: Tensor, encoded: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x, encoded (B, L, width) -> what is left (B, L, width) without its mean over time, that mean (B, 1, C), trend
        (B, L, C) and season (B, L, width)."""
        normed = self.norm_self(x, t)
        x = x + self.attention_self(normed, normed)
        x = x + self.attention_cross(self.norm_cross(x, t), encoded)
        for_trend, for_season = self.split(x).chunk(2, dim=1)
        x = x + self.perceptron(x)
        mean = x.mean(dim=1, keepdim=True)
        return x - mean, self.mean(mean), self.trend(for_trend), strongest_frequencies(for_season)


class TrendBlock(nn.Module):
    """A cubic without constant term per channel, whose coefficients follow from (B, L, width)."""

    def __init__(self, length: int, num_channels: int, width: int) -> None:
        super().__init__()
        self.across_time = nn.Conv1d(length, POWERS, 3, padding=1)
        self.across_features = nn.Conv1d(width, num_channels, 3, padding=1)
        time = torch.arange(1, length + 1) / (length + 1)
        self.register_buffer("powers", torch.stack([time**power for power in range(1, POWERS + 1)]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the trend (B, L, C)."""
        coefficients = self.across_features(F.gelu(self.across_time(x)).transpose(1, 2))
        return (coefficients @ self.powers).transpose(1, 2)


def strongest_frequencies(x: Tensor) -> Tensor:
    """Return L times the part of x (B, L, D) at its strongest frequencies, chosen for each series and feature.

    Of the n bins of the Fourier transform over time, without those of the mean and, where L is even, of period 2, the
    floor(ln n) of largest magnitude are kept.
    """
    length = x.shape[1]
    spectrum = torch.fft.rfft(x, dim=1)
    magnitude = spectrum.detach().abs()[:, 1:(length + 1) // 2]
    count = int(math.log(max(magnitude.shape[1], 1)))
    kept = torch.zeros_like(spectrum.real).scatter(1, 1 + magnitude.topk(count, dim=1).indices, 1.0)
    return torch.fft.irfft(spectrum * kept, n=length, dim=1, norm="forward")


class StepNorm(nn.Module):
    """Layer normalisation whose scale and shift follow from the diffusion step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.scale_shift = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B, L, width), t (B,) -> (B, L, width)."""
        scale, shift = self.scale_shift(timestep_embedding(t, self.width))[:, None].chunk(2, dim=2)
        return F.layer_norm(x, (self.width,)) * (1 + scale) + shift


class Attention(nn.Module):
    """Multi-head attention of one sequence (B, L, width) to another."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise UserError(f"width={width} cannot be divided among num_heads={num_heads}; change one of them.")
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        query, key, value = (rearrange(part, "b l (h d) -> b h l d", h=self.num_heads)
                             for part in (self.query(x), self.key(other), self.value(other)))
        return self.output(rearrange(F.scaled_dot_product_attention(query, key, value), "b h l d -> b l (h d)"))


def _perceptron(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def _over_time(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x.transpose(1, 2)).transpose(1, 2)


def build(config: Config, length: int, num_channels: int, num_classes: int) -> PerClass:
    """Return one model per class. Raises UserError where width is not a multiple of num_heads, and where the series are
    too short for the season kernel."""
    if config.season_kernel // 2 > length:
        raise UserError(f"season_kernel={config.season_kernel}: series have {length} time step, fewer than the "
                        "circular convolution needs. Use season_kernel=1.")
    return PerClass([DiffusionTS(config, length, num_channels) for _ in range(num_classes)])
