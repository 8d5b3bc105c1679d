"""One counter-based stream of Gaussian noise per sample.

The noise of sample i at step s is a function of (seed, i, s) alone, so a sample does not depend on batch size,
chunking, resuming or the number of processes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Return four int64 tensors of 32-bit random words: Philox4x32-10 (Salmon et al. 2011, 'Parallel random numbers: as
    easy as 1, 2, 3').

    counter: four int64 tensors of one shape, and key: two integers, all in 0..2^32 - 1.
    """
    first, second, third, fourth = counter
    key_low, key_high = key
    for _ in range(10):
        # int64 products wrap around; the masked words are right all the same, as in unsigned arithmetic.
        product_low, product_high = first * _MULTIPLIERS[0], third * _MULTIPLIERS[1]
        first, second, third, fourth = (
            ((product_high >> 32) & _MASK) ^ second ^ key_low, product_high & _MASK,
            ((product_low >> 32) & _MASK) ^ fourth ^ key_high, product_low & _MASK)
        key_low, key_high = (key_low + _WEYL[0]) & _MASK, (key_high + _WEYL[1]) & _MASK
    return first, second, third, fourth


class NoiseStream:
    """Standard normal noise for a batch of samples, one draw per sampler step.

    seed: up to 64 bits. samples (B,) int64: the numbers i of the samples in the synthetic dataset. shape: (L, C).
    """

    def __init__(self, seed: int, samples: Tensor, shape: tuple[int, int]) -> None:
        self.key = (seed & _MASK, (seed >> 32) & _MASK)
        self.samples = samples
        self.shape = shape

    def __call__(self, step: int) -> Tensor:
        """Return noise (B, L, C) float32 for sampler step `step`; 0 is the initial x_T."""
        size = math.prod(self.shape)
        blocks = torch.arange((size + 3) // 4, device=self.samples.device).expand(len(self.samples), -1)
        sample = self.samples[:, None].expand_as(blocks)
        words = philox((blocks, torch.full_like(blocks, step), sample & _MASK, (sample >> 32) & _MASK), self.key)
        # Box-Muller in float64: one pair of uniforms in (0, 1) gives one pair of normals.
        uniform = [(word.double() + 0.5) / 2.0**32 for word in words]
        pairs = [(-2 * radius.log()).sqrt() * wave(2 * math.pi * angle)
                 for radius, angle in (uniform[:2], uniform[2:]) for wave in (torch.cos, torch.sin)]
        return torch.stack(pairs, dim=2).reshape(len(self.samples), -1)[:, :size].float().view(-1, *self.shape)
