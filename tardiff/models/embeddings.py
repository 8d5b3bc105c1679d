"""Embeddings of the diffusion step."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Return sinusoidal embeddings (B, dim) float32 of steps t (B,) int64.

    Frequencies fall geometrically from 1 to 1 / 10,000 (Vaswani et al. 2017, section 3.5; Ho et al. 2020).
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
    return torch.nn.functional.pad(embedding, (0, dim - 2 * half))
