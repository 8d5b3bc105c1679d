"""What a denoiser learns of series with gaps: their mask beside their values, nothing of channels never observed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tardiff.utils.seeding import derive_seed


def borrowed(x: np.ndarray, mask: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Return x (N, L, C) float32 where a series that never observed a channel has that of another one, which did.

    mask (N, L, C) bool. The other one is drawn by the seed, of the same class y (N,) int64 where there is one. A
    constant in its place would teach that values vary little while it is not known yet whether they will be observed
    (CinC 2012: 28 % of stays observe RR, whose 5 to 95 % range came out as 15 to 24 in place of 12 to 30).
    """
    x, observes = x.copy(), mask.any(axis=1)
    generator = np.random.default_rng(derive_seed(seed, "borrowed"))
    for channel, label in np.ndindex(x.shape[2], int(y.max()) + 1):
        owners = np.flatnonzero(observes[:, channel])
        alike = owners[y[owners] == label]
        lacking = np.flatnonzero(~observes[:, channel] & (y == label))
        if len(owners) and len(lacking):
            chosen = generator.choice(alike if len(alike) else owners, len(lacking))
            x[lacking, :, channel] = x[chosen, :, channel]
    return x


def analog_bits(mask: np.ndarray) -> Tensor:
    """Return a mask (N, L, C) bool as signals (N, L, C) float32: 1 where observed, -1 where not (Chen et al. 2023,
    'Analog Bits')."""
    return 2 * torch.from_numpy(mask).float() - 1


def learned_signals(signals: Tensor) -> Tensor:
    """Return which of signals (B, L, 2C), values and then analog bits, are learned, (B, 1, 2C) bool: all bits, and the
    values of channels that were observed at least once, for those that were not are borrowed."""
    observed = (signals[..., signals.shape[2] // 2:] > 0).any(dim=1, keepdim=True)
    return torch.cat([observed, torch.ones_like(observed)], dim=2)
