"""Values for unobserved cells, from the same series, and from training medians where it has none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def forward_fill(x: np.ndarray) -> np.ndarray:
    """Carry the last observed value of each series and channel forward in time; gaps before the first one stay NaN.

    x (N, L, C) float, NaN where unobserved -> (N, L, C) of the same type. No value passes from one series to another or
    back in time.
    """
    steps = np.arange(x.shape[1])[None, :, None]
    last_observed = np.maximum.accumulate(np.where(np.isnan(x), 0, steps), axis=1)
    return np.take_along_axis(x, last_observed, axis=1)


def interpolate(x: np.ndarray) -> np.ndarray:
    """Draw straight lines between the observations of each series and channel; before the first and after the last one
    stands the nearest. A channel that a series never observed stays NaN.

    x (N, L, C) float, NaN where unobserved -> (N, L, C) of the same type. Values pass back in time.
    """
    everywhere = np.arange(x.shape[1], dtype=x.dtype)[None, :, None]
    steps = np.where(np.isnan(x), np.nan, everywhere)
    before, after = forward_fill(x), backward_fill(x)
    start, end = forward_fill(steps), backward_fill(steps)
    share = np.divide(everywhere - start, end - start, out=np.zeros_like(x), where=end > start)
    line = before + share * (after - before)
    return np.where(np.isnan(before), after, np.where(np.isnan(after), before, line))


def backward_fill(x: np.ndarray) -> np.ndarray:
    """Carry the next observed value of each series and channel back in time; gaps after the last one stay NaN.

    x (N, L, C) float, NaN where unobserved -> (N, L, C) of the same type.
    """
    return forward_fill(x[:, ::-1])[:, ::-1]


RULES = {"forward": forward_fill, "linear": interpolate, "median": np.copy}


@dataclass(frozen=True)
class Imputation:
    """How the gaps of a dataset were filled: by a rule of `RULES`, and with the channel's median of the observed
    training cells (C floats, in raw units) where the rule leaves one."""

    rule: str
    medians: list[float]

    def fill(self, x: np.ndarray) -> np.ndarray:
        """Fill x (N, L, C) float, NaN where unobserved. Returns (N, L, C) of the same type."""
        filled = RULES[self.rule](x)
        return np.where(np.isnan(filled), np.array(self.medians, dtype=x.dtype), filled)
