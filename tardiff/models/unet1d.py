"""The denoiser: a label-conditional 1-D U-Net (paper, appendix 'Model Structure and Implementation Details')."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tardiff.config import UNetConfig
from tardiff.models.embeddings import timestep_embedding
from tardiff.models.layers import Convolution, GroupNorm, attention, features, zeroed
from tardiff.utils.errors import UserError


class UNet1d(nn.Module):
    """Map noisy series, diffusion steps and labels to the predicted noise, sample or velocity.

    Any length: the series is padded with its edge values to a multiple of 2^(levels - 1), and the output is cropped.
    The label embedding is added to the time embedding; label `num_classes` means 'no label' (classifier-free guidance).
    Raises UserError if there is no level, or if an attention width is not divisible by the number of heads.
    """

    def __init__(self, num_channels: int, num_classes: int, config: UNetConfig) -> None:
        super().__init__()
        if not config.channel_multipliers:
            raise UserError("model.channel_multipliers=[]: expected at least one level.")
        self.num_classes = num_classes
        self.width = config.base_channels
        self.divisor = 2 ** (len(config.channel_multipliers) - 1)
        embedding_dim = 4 * config.base_channels
        self.time_embedding = nn.Sequential(nn.Linear(self.width, embedding_dim), nn.SiLU(),
                                            nn.Linear(embedding_dim, embedding_dim))
        self.label_embedding = nn.Embedding(num_classes + 1, embedding_dim)
        self.stem = Convolution(num_channels, self.width, 3, padding=1)

        def block(inputs: int, outputs: int, downsampling: int) -> Block:
            heads = config.num_heads if downsampling in config.attention_downsampling else 0
            return Block(inputs, outputs, embedding_dim, config.dropout, heads)

        widths = [config.base_channels * multiplier for multiplier in config.channel_multipliers]
        channels, skips = self.width, [self.width]
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                self.down.append(block(channels, width, 2**level))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.down.append(ResBlock(channels, channels, embedding_dim, config.dropout, resample="down"))
                skips.append(channels)
        self.middle = nn.ModuleList([Block(channels, channels, embedding_dim, config.dropout, config.num_heads),
                                     ResBlock(channels, channels, embedding_dim, config.dropout)])
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.num_res_blocks + 1):
                self.up.append(block(channels + skips.pop(), width, 2**level))
                channels = width
            if level > 0:
                self.up.append(ResBlock(channels, channels, embedding_dim, config.dropout, resample="up"))
        self.head = nn.Sequential(_norm(channels), nn.SiLU(), zeroed(Convolution(channels, num_channels, 3, padding=1)))

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return the prediction (B, L, C) for x_t (B, L, C) float in normalised units, t (B,) int64, 0-based, and
        labels (B,) int64 in 0..num_classes."""
        length = x_t.shape[1]
        short = -length % self.divisor
        x = features(x_t)
        if short:
            x = F.pad(x, (short // 2, short - short // 2, 0, 0), mode="replicate")
        embedding = self.time_embedding(timestep_embedding(t, self.width)) + self.label_embedding(labels)
        x = self.stem(x)
        skips = [x]
        for layer in self.down:
            x = layer(x, embedding)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, embedding)
        for layer in self.up:
            resamples = isinstance(layer, ResBlock)
            x = layer(x if resamples else torch.cat([x, skips.pop()], dim=1), embedding)
        x = self.head(x)[..., short // 2:short // 2 + length]
        return rearrange(x, "b c 1 l -> b l c")


class ResBlock(nn.Module):
    """Residual block with scale-shift GroupNorm from the embedding (Dhariwal & Nichol 2021, section 3), optionally
    halving or doubling the length inside the block."""

    def __init__(self, inputs: int, outputs: int, embedding_dim: int, dropout: float, resample: str = "none") -> None:
        super().__init__()
        self.before = nn.Sequential(_norm(inputs), nn.SiLU())
        self.resample = {"none": nn.Identity(), "down": nn.AvgPool2d((1, 2)),
                         "up": nn.Upsample(scale_factor=(1, 2), mode="nearest")}[resample]
        self.first = Convolution(inputs, outputs, 3, padding=1)
        self.scale_shift = nn.Sequential(nn.SiLU(), nn.Linear(embedding_dim, 2 * outputs))
        self.norm = _norm(outputs)
        self.second = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), zeroed(Convolution(outputs, outputs, 3, padding=1)))
        self.skip = nn.Identity() if inputs == outputs else Convolution(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, inputs, 1, L), embedding (B, embedding_dim) -> (B, outputs, 1, L, L / 2 or 2 L)."""
        scale, shift = self.scale_shift(embedding).chunk(2, dim=1)
        hidden = self.first(self.resample(self.before(x)))
        hidden = self.second(self.norm(hidden, scale, shift))
        return self.skip(self.resample(x)) + hidden


class Attention(nn.Module):
    """Residual multi-head self-attention over time."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        if channels % num_heads:
            raise UserError(f"model: {channels} channels cannot be divided among num_heads={num_heads}; "
                            "change base_channels or num_heads.")
        self.num_heads = num_heads
        self.norm = _norm(channels)
        self.project_in = Convolution(channels, 3 * channels, 1)
        self.project_out = zeroed(Convolution(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, 1, L) -> (B, channels, 1, L)."""
        projected = rearrange(self.project_in(self.norm(x)), "b (three h d) 1 l -> three b h l d", three=3,
                              h=self.num_heads)
        attended = attention(projected)
        return x + self.project_out(rearrange(attended, "b h l d -> b (h d) 1 l"))


class Block(nn.Module):
    """A residual block, followed by self-attention where `num_heads` > 0."""

    def __init__(self, inputs: int, outputs: int, embedding_dim: int, dropout: float, num_heads: int) -> None:
        super().__init__()
        self.residual = ResBlock(inputs, outputs, embedding_dim, dropout)
        self.attention = Attention(outputs, num_heads) if num_heads else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, inputs, 1, L), embedding (B, embedding_dim) -> (B, outputs, 1, L)."""
        return self.attention(self.residual(x, embedding))


def _norm(channels: int) -> GroupNorm:
    """At most 32 groups, of at least 4 channels (Karras et al. 2022): a channel normalised alone over time would lose
    the level of its series."""
    possible = (groups for groups in range(1, min(32, channels // 4) + 1) if channels % groups == 0)
    return GroupNorm(max(possible), channels)
