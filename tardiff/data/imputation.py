"""Values for unobserved cells, from the same series' own past."""

from __future__ import annotations

import numpy as np


def forward_fill(x: np.ndarray) -> np.ndarray:
    """Carry the last observed value of each series and channel forward in time; gaps before the first one stay NaN.

    x (N, L, C) float, NaN where unobserved -> (N, L, C) of the same type. No value passes from one series to another or
    back in time.
    """
    steps = np.arange(x.shape[1])[None, :, None]
    last_observed = np.maximum.accumulate(np.where(np.isnan(x), 0, steps), axis=1)
    return np.take_along_axis(x, last_observed, axis=1)
