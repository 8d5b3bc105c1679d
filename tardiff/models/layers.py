"""Layers of the denoiser on features (B, C, 1, L), with the parameters of the PyTorch layers that they derive from.

On a CPU features lie channels-last in memory, where convolutions need no reordering, and what PyTorch does slowly with
many short series is written out. Other devices keep features contiguous and use PyTorch's own kernels for all but short
attention.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHORT_SERIES, SHORT_ON_GPU = 64, 24
"""Up to these lengths attention is written out: the fused CPU kernel takes series and heads one by one, which costs
more than their products, and those of a GPU work on tiles of 64 steps and more. On a GPU longer ones were not tried."""


def channels_last(x: Tensor) -> bool:
    """Return whether features on this device are kept channels-last, and the layers here take their own way."""
    return x.device.type == "cpu"


def features(x: Tensor) -> Tensor:
    """Return series (B, L, C) as features (B, C, 1, L), laid out as the layers here want them on this device."""
    x = x.transpose(1, 2)[:, :, None]
    return x.contiguous(memory_format=torch.channels_last if channels_last(x) else torch.contiguous_format)


def zeroed(layer: nn.Module) -> nn.Module:
    """Return a layer with all parameters 0, so that what it adds begins as nothing, and a residual branch as the
    identity (Dhariwal & Nichol 2021)."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Convolution(nn.Conv1d):
    """A convolution over time."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, inputs, 1, L) -> (B, outputs, 1, L)."""
        return F.conv2d(x, self.weight[:, :, None], self.bias, padding=(0, self.padding[0]))


class GroupNorm(nn.GroupNorm):
    """Group normalisation over the channels of a group and time, with an optional scale and shift of each series."""

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """x (B, C, 1, L) -> the same; scale and shift (B, C): the result times 1 + scale, plus shift."""
        if not channels_last(x):
            x = super().forward(x)
            return x if scale is None else torch.addcmul(shift[..., None, None], x, 1 + scale[..., None, None])
        gain, offset = self.weight.expand(len(x), -1), self.bias.expand(len(x), -1)
        if scale is not None:
            gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
        rows = x[:, :, 0].transpose(1, 2)
        return _Normalise.apply(rows, gain, offset, self.num_groups, self.eps).transpose(1, 2)[:, :, None]


class _Normalise(torch.autograd.Function):
    """Group normalisation of rows (B, L, C) with gain and offset (B, C) of each series and channel.

    PyTorch's own for this layout is several times slower where groups are of few channels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, offset: Tensor, num_groups: int, eps: float) -> Tensor:
        # The mean comes off before squaring: where it is far above the spread, float32 would lose the spread in it.
        centred = x - _group_means(x.sum(dim=1) / x.shape[1], num_groups)[:, None]
        variance = _group_means((centred * centred).sum(dim=1) / x.shape[1], num_groups)
        inverse = (variance + eps).rsqrt()
        ctx.save_for_backward(centred, gain, inverse)
        ctx.num_groups = num_groups
        return torch.addcmul(offset[:, None], centred, (gain * inverse)[:, None])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, gain, inverse = ctx.saved_tensors
        offset_gradient = gradient.sum(dim=1)
        gain_gradient = (gradient * centred).sum(dim=1) * inverse
        # What normalising takes out of the gradient: its mean over the group, and its part along the normalised x.
        level, slope = _group_means(torch.stack([gain * offset_gradient, gain * gain_gradient]) / centred.shape[1],
                                    ctx.num_groups)
        x_gradient = torch.addcmul((-level * inverse)[:, None], gradient, (gain * inverse)[:, None])
        x_gradient.addcmul_(centred, (slope * inverse * inverse)[:, None], value=-1)
        return x_gradient, gain_gradient, offset_gradient, None, None


def _group_means(values: Tensor, num_groups: int) -> Tensor:
    """Return values (..., C) with each channel replaced by the mean of its group."""
    channels = values.shape[-1]
    means = values.unflatten(-1, (num_groups, -1)).mean(dim=-1)
    return means.repeat_interleave(channels // num_groups, dim=-1)


def attention(projected: Tensor) -> Tensor:
    """Return the scaled dot-product attention (B, heads, L, D) of queries, keys and values (3, B, heads, L, D)."""
    _, batch, heads, length, dim = projected.shape
    if length > (SHORT_SERIES if channels_last(projected) else SHORT_ON_GPU):
        # Fused attention kernels need the last axis contiguous.
        return F.scaled_dot_product_attention(*projected.contiguous())
    query, key, value = projected.reshape(3, batch * heads, length, dim)
    if not channels_last(projected):
        weights = torch.bmm(query / math.sqrt(dim), key.transpose(1, 2)).softmax(dim=-1)
        return torch.bmm(weights, value).view(batch, heads, length, dim)
    # Keys before queries, and powers of 2: so products and exponentials are fastest.
    scores = torch.bmm(key, (query * (math.log2(math.e) / math.sqrt(dim))).transpose(1, 2))
    weights = scores.sub_(_largest_of_keys(scores.detach())).exp2_()
    attended = torch.bmm(value.transpose(1, 2), weights) / weights.sum(dim=1, keepdim=True)
    return attended.view(batch, heads, dim, length).transpose(2, 3)


def _largest_of_keys(scores: Tensor) -> Tensor:
    """Return the maximum (N, 1, queries) of scores (N, keys, queries), by halves: over so few queries PyTorch's own is
    not vectorised."""
    while (keys := scores.shape[1]) > 1:
        half = (keys + 1) // 2
        scores = torch.maximum(scores[:, :half], scores[:, keys - half:])
    return scores
