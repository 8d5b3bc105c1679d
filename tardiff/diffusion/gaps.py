"""What a denoiser learns of series with gaps: their mask beside their values, nothing of channels never observed; and
what is read of those that it makes."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from tardiff.utils.seeding import derive_seed

NEIGHBOURS = 5
"""Series that one which never observed a channel may have it of."""


def borrowed(x: np.ndarray, mask: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Return x (N, L, C) float32, normalised, where a series that never observed a channel has that of another one.

    mask (N, L, C) bool, y (N,) int64. The other one observed it, and is drawn by the seed from the NEIGHBOURS whose
    levels, means over time, in the other channels are nearest, another class being as far as sqrt(2) of their standard
    deviations (a hot deck: Andridge & Little 2010, 'A Review of Hot Deck Imputation for Survey Non-response').

    A constant would teach that values vary little while it is not known yet whether they will be observed (CinC 2012:
    28 % of stays observe RR, whose 5 to 95 % range came out as 15 to 24 in place of 12 to 30), and that of any other
    series that the channel has nothing to do with the others.
    """
    result, observes = x.copy(), mask.any(axis=1)
    levels = (x * mask).sum(axis=1) / mask.sum(axis=1).clip(min=1)
    levels = (levels - levels.mean(axis=0)) / levels.std(axis=0).clip(min=1e-6)
    generator = np.random.default_rng(derive_seed(seed, "borrowed"))
    for channel in np.flatnonzero(~observes.all(axis=0) & observes.any(axis=0)):
        owners, lacking = (np.flatnonzero(of_rows) for of_rows in (observes[:, channel], ~observes[:, channel]))
        others = np.column_stack([np.delete(levels, channel, axis=1), np.eye(y.max() + 1)[y]])
        count = min(NEIGHBOURS, len(owners))
        nearest = NearestNeighbors(n_neighbors=count).fit(others[owners]).kneighbors(others[lacking],
                                                                                    return_distance=False)
        chosen = nearest[np.arange(len(lacking)), generator.integers(count, size=len(lacking))]
        result[lacking, :, channel] = x[owners[chosen], :, channel]
    return result


def analog_bits(mask: np.ndarray) -> Tensor:
    """Return a mask (N, L, C) bool as signals (N, L, C) float32: 1 where observed, -1 where not (Chen et al. 2023,
    'Analog Bits')."""
    return 2 * torch.from_numpy(mask).float() - 1


def learned_signals(signals: Tensor) -> Tensor:
    """Return which of signals (B, L, 2C), values and then analog bits, are learned, (B, 1, 2C) bool: all bits, and the
    values of channels that were observed at least once, for those that were not are borrowed."""
    observed = (signals[..., signals.shape[2] // 2:] > 0).any(dim=1, keepdim=True)
    return torch.cat([observed, torch.ones_like(observed)], dim=2)


def filled(values: Tensor, observed: Tensor, rule: str, medians: Tensor) -> Tensor:
    """Return values (B, L, C) as `Imputation.fill` fills gaps, where observed (B, L, C) bool is False: by a rule of
    `RULES`, and with the medians (C,) where it leaves one.

    Gradients flow to the observed values that gaps are filled with; values in gaps have none.
    """
    length = values.shape[1]
    steps = torch.arange(length, device=values.device)[:, None]
    own = torch.where(observed, steps, -1)
    before = own.cummax(dim=1).values
    after = torch.where(observed, steps, length).flip(1).cummin(dim=1).values.flip(1)
    start, end = {"forward": (before, before), "median": (own, own),
                  "linear": (torch.where(before < 0, after, before), torch.where(after == length, before, after)),
                  }[rule]
    is_known = (start >= 0) & (start < length)
    first, last = (values.gather(1, step.clamp(0, length - 1)) for step in (start, end))
    share = (steps - start) / (end - start).clamp(min=1)
    return torch.where(is_known, torch.where(end > start, first + share * (last - first), first), medians)
