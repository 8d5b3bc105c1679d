"""BioDiffusion: a 1-D U-Net that predicts noise, with classifier-free guidance by class (Li et al. 2024, 'BioDiffusion:
A versatile diffusion model for biomedical signal synthesis'); the variant for labelled signals.

One model of all classes, on series scaled to [-1, 1]. The cosine schedule, the L1 loss on the noise, the posterior,
DDIM and the guidance are those of `tardiff.diffusion` and `tardiff.sampling`.

Deviations from the published code:
- Its sampler leaves the class dropout of training on, so that the conditional half of the guidance is, at random, the
  unconditional one in half of the calls, and a scale of 3 acts on average as one of 1.5. Here it is always conditional,
  as published in words.
- It needs a length that 8 divides. Here a series is padded at both ends with its edge values to the next multiple of 2
  to the number of halvings, and the predicted noise is cropped: 300 steps become 304.
- It counts 300 epochs, of any number of steps; here `steps` says how many, and batches are drawn with replacement.
- The embedding of the diffusion step has frequencies 10000^(-i/n) for i < n, not 10000^(-i/(n - 1)), as elsewhere here.
- The learned vector of 'no class' is one more row of the class table, drawn from the same distribution.
- With `num_inference_steps`, the steps of DDIM run from T - 1 to 0 evenly, both ends included, and the noise is derived
  again from the clipped series, where the published code keeps the raw prediction. The presets of few steps leave out
  its noise (`eta: 0`), which would cost spread: after 50 steps, the level of a CinC 2012 series varied by 0.7 of what
  it should.

A guidance scale of 3 with half of the labels hidden makes series less diverse and classes further apart than in the
data; compare with `cfg_scale=1`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tardiff.baselines.interface import Baseline, Draw, Stage
from tardiff.config import BaselineConfig, DiffusionConfig
from tardiff.diffusion.process import DiffusionProcess, hide_labels
from tardiff.models.embeddings import timestep_embedding
from tardiff.sampling.noise import NoiseStream
from tardiff.sampling.samplers import Prediction, ddim, ddpm
from tardiff.utils.errors import UserError
from tardiff.utils.seeding import derive_seed
from tardiff.utils.settings import setting

NUM_HEADS, HEAD_WIDTH = 4, 32
NUM_GROUPS = 8


@dataclass(frozen=True)
class Config(BaselineConfig):
    """BioDiffusion; the steps are 300 epochs of the 20,920 series of MIMIC-III."""

    output: str = setting("runs/${name}/baselines/biodiffusion", "Run folder of the training.", semantic=False)
    base_channels: int = setting(64, "Channels at full resolution; a multiple of 8.", low=8)
    channel_multipliers: list[int] = setting(
        [1, 2, 4, 8], "Channels per level, as multiples of base_channels; each level but the last halves the length.",
        low=1)
    num_train_timesteps: int = setting(1000, "Diffusion steps T.", low=2)
    steps: int = setting(98_000, "Optimiser steps.", low=1)
    batch_size: int = setting(64, "Series per step.", low=1)
    learning_rate: float = setting(3e-4, "AdamW learning rate.", low=1e-8, high=1)
    label_dropout: float = setting(0.5, "Share of labels hidden in training.", low=0, high=0.9)
    cfg_scale: float = setting(3.0, "Classifier-free guidance: unconditional + scale x (conditional - unconditional).",
                               low=0, semantic=False)
    num_inference_steps: int | None = setting(None, "Steps of DDIM sampling; null: the whole ancestral chain.", low=1,
                                              semantic=False)
    eta: float = setting(1.0, "Noise of DDIM, without effect on the whole chain: 1 as published, with which series "
                              "made in few steps vary less; 0 for none.", low=0, high=1, semantic=False)


class BioDiffusion(Baseline):
    """The class-conditional noise predictor and its training."""

    scaling = "symmetric"

    def __init__(self, config: Config, length: int, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.shape = (length, num_channels)
        self.num_classes = num_classes
        self.process = DiffusionProcess(DiffusionConfig(num_train_timesteps=config.num_train_timesteps,
                                                        noise_schedule="cosine", prediction_type="epsilon", loss="l1"))
        self.network = ClassUNet(config, num_channels, num_classes)
        self.optimizers["adamw"] = torch.optim.AdamW(self.network.parameters(), lr=config.learning_rate)

    def stages(self) -> list[Stage]:
        return [Stage("diffusion", self.config.steps, self.config.batch_size)]

    def train_step(self, stage: Stage, step: int, draw: Draw) -> dict[str, Tensor]:
        x_start, y = draw()
        labels = hide_labels(y, self.config.label_dropout, self.num_classes)
        t = torch.randint(self.config.num_train_timesteps, (len(y),), device=y.device)
        loss = self.process.loss(self.network, x_start, labels, t, torch.randn_like(x_start))
        optimizer = self.optimizers["adamw"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    @torch.no_grad()
    def sample(self, labels: Tensor, samples: Tensor, seed: int) -> Tensor:
        bound = torch.ones(self.shape[1], device=samples.device)
        predict = Prediction(self.network, self.process, labels, null_label=self.num_classes,
                             cfg_scale=self.config.cfg_scale, bounds=(-bound, bound))
        noise = NoiseStream(derive_seed(seed, "diffusion"), samples, self.shape)
        timesteps = self.process.schedule.timesteps(self.config.num_inference_steps)
        if self.config.num_inference_steps is None:
            return ddpm(predict, noise, timesteps)
        return ddim(predict, noise, timesteps, eta=self.config.eta)


class ClassUNet(nn.Module):
    """Map noisy series, diffusion steps and labels to the predicted noise; label `num_classes` means 'no label'.

    Raises UserError if there is no level, or if base_channels is not a multiple of 8.
    """

    def __init__(self, config: Config, num_channels: int, num_classes: int) -> None:
        super().__init__()
        if not config.channel_multipliers:
            raise UserError("channel_multipliers=[]: expected at least one level.")
        if config.base_channels % NUM_GROUPS:
            raise UserError(f"base_channels={config.base_channels} is not a multiple of {NUM_GROUPS}.")
        base = config.base_channels
        self.base_channels = base
        self.divisor = 2 ** (len(config.channel_multipliers) - 1)
        self.stem = nn.Conv1d(num_channels, base, 7, padding=3)
        self.time_embedding = _embedding_layers(base)
        self.label_table = nn.Embedding(num_classes + 1, base)
        self.label_embedding = _embedding_layers(base)
        embedding_width = 8 * base
        pairs = list(itertools.pairwise([base, *(base * multiplier for multiplier in config.channel_multipliers)]))
        self.down = nn.ModuleList()
        for level, (inputs, outputs) in enumerate(pairs):
            halve = level < len(pairs) - 1
            resize = nn.Conv1d(inputs, outputs, 4, 2, 1) if halve else nn.Conv1d(inputs, outputs, 3, padding=1)
            self.down.append(Level(inputs, inputs, embedding_width, resize))
        widest = pairs[-1][1]
        self.middle = nn.ModuleList([ResBlock(widest, widest, embedding_width), Attention(widest),
                                     ResBlock(widest, widest, embedding_width)])
        self.up = nn.ModuleList()
        for level, (outputs, inputs) in reversed(list(enumerate(pairs))):
            resize = nn.Conv1d(inputs, outputs, 3, padding=1)
            if level > 0:
                resize = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), resize)
            self.up.append(Level(inputs + outputs, inputs, embedding_width, resize))
        self.last = ResBlock(2 * base, base, embedding_width)
        self.head = nn.Conv1d(base, num_channels, 1)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return the noise (B, L, C) predicted for x_t (B, L, C), t (B,) int64, 0-based, and labels (B,) int64 in
        0..num_classes."""
        length = x_t.shape[1]
        short = -length % self.divisor
        x = self.stem(F.pad(x_t.transpose(1, 2), (short // 2, short - short // 2), mode="replicate"))
        embedding = torch.cat([self.time_embedding(timestep_embedding(t, self.base_channels)),
                               self.label_embedding(self.label_table(labels))], dim=1)
        first, skips = x, []
        for level in self.down:
            x = level.first(x, embedding)
            skips.append(x)
            x = level.attention(level.second(x, embedding))
            skips.append(x)
            x = level.resize(x)
        before, attention, after = self.middle
        x = after(attention(before(x, embedding)), embedding)
        for level in self.up:
            x = level.first(torch.cat([x, skips.pop()], dim=1), embedding)
            x = level.second(torch.cat([x, skips.pop()], dim=1), embedding)
            x = level.resize(level.attention(x))
        x = self.head(self.last(torch.cat([x, first], dim=1), embedding))
        return x[..., short // 2:short // 2 + length].transpose(1, 2)


class Level(nn.Module):
    """The layers of one resolution, which the U-Net joins: two blocks from `inputs` to `outputs` channels, attention
    and the way to the next resolution."""

    def __init__(self, inputs: int, outputs: int, embedding_width: int, resize: nn.Module) -> None:
        super().__init__()
        self.first = ResBlock(inputs, outputs, embedding_width)
        self.second = ResBlock(inputs, outputs, embedding_width)
        self.attention = LinearAttention(outputs)
        self.resize = resize


class ResBlock(nn.Module):
    """Two weight-standardised convolutions around a shortcut; the embedding scales and shifts the first."""

    def __init__(self, inputs: int, outputs: int, embedding_width: int) -> None:
        super().__init__()
        self.scale_shift = nn.Sequential(nn.SiLU(), nn.Linear(embedding_width, 2 * outputs))
        self.first = nn.Sequential(StandardisedConvolution(inputs, outputs, 3, padding=1),
                                   nn.GroupNorm(NUM_GROUPS, outputs))
        self.second = nn.Sequential(StandardisedConvolution(outputs, outputs, 3, padding=1),
                                    nn.GroupNorm(NUM_GROUPS, outputs), nn.SiLU())
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, inputs, L), embedding (B, embedding_width) -> (B, outputs, L)."""
        scale, shift = self.scale_shift(embedding)[..., None].chunk(2, dim=1)
        return self.shortcut(x) + self.second(F.silu(self.first(x) * (1 + scale) + shift))


class StandardisedConvolution(nn.Conv1d):
    """A convolution whose weights have mean 0 and variance 1 for each output channel (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.layer_norm(self.weight, self.weight.shape[1:])
        return F.conv1d(x, weight, self.bias, padding=self.padding)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B, channels, L), with a scale and no shift."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class LinearAttention(nn.Module):
    """Residual attention over time at a cost that grows with L, not L^2 (Shen et al. 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = Heads(channels)
        self.output = nn.Sequential(nn.Conv1d(NUM_HEADS * HEAD_WIDTH, channels, 1), ChannelNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, L) -> (B, channels, L)."""
        query, key, value = self.heads(x)
        context = key.softmax(dim=3) @ value.transpose(2, 3)
        attended = context.transpose(2, 3) @ query.softmax(dim=2) * HEAD_WIDTH**-0.5
        return x + self.output(rearrange(attended, "b h d l -> b (h d) l"))


class Attention(nn.Module):
    """Residual multi-head attention over time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = Heads(channels)
        self.output = nn.Conv1d(NUM_HEADS * HEAD_WIDTH, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, L) -> (B, channels, L)."""
        # Fused attention kernels need the last axis contiguous.
        query, key, value = (part.transpose(2, 3).contiguous() for part in self.heads(x))
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.output(rearrange(attended, "b h l d -> b (h d) l"))


class Heads(nn.Module):
    """Normalise (B, channels, L) and project it to query, key and value, each (B, heads, width, L)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.project = nn.Conv1d(channels, 3 * NUM_HEADS * HEAD_WIDTH, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.project(self.norm(x)), "b (three h d) l -> three b h d l", three=3, h=NUM_HEADS)


def _embedding_layers(base: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(base, 4 * base), nn.GELU(), nn.Linear(4 * base, 4 * base))


def build(config: Config, length: int, num_channels: int, num_classes: int) -> BioDiffusion:
    """Return the model of all classes. Raises UserError as `ClassUNet` does, and where cfg_scale needs what is not
    trained."""
    if config.label_dropout == 0 and config.cfg_scale != 1:
        raise UserError(f"cfg_scale={config.cfg_scale:g}: with label_dropout=0 there is no unconditional prediction. "
                        "Use cfg_scale=1, or label_dropout above 0.")
    return BioDiffusion(config, length, num_channels, num_classes)
