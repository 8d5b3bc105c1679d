"""The guidance scale at which the labels of series are as easy to see as those of real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scipy.stats import norm

TRIES, TOLERANCE = 4, 0.005
"""Of scales, and of the separability found from the one that is looked for."""
GROWTH = 4
"""From a scale that is too small to the next."""


@dataclass(frozen=True)
class MatchedScale:
    """The scale of those `tried`, {scale: separability}, whose separability is nearest to the `target`."""

    target: float
    tried: dict[float, float]

    @property
    def scale(self) -> float:
        return min(self.tried, key=lambda scale: abs(self.tried[scale] - self.target))


def matched_scale(separability: Callable[[float], float], target: float) -> MatchedScale:
    """Look for the scale at which `separability(scale)`, which rises with the scale, is `target`, in at most 4 tries.

    0 where unguided series are as separable already. Else 1 is tried, larger ones until one is enough, and between the
    last that was too small and the first that was enough the crossing of the straight line (regula falsi) of the
    distance between two normal classes of such an AUROC: guidance moves them apart, and the AUROC has an upper end.
    """
    tried = {0.0: separability(0.0)}
    if tried[0.0] >= target:
        return MatchedScale(target, tried)
    aim, low, high, scale = _distance(target), 0.0, None, 1.0
    while len(tried) < TRIES:
        tried[scale] = separability(scale)
        if abs(tried[scale] - target) <= TOLERANCE:
            break
        low, high = (scale, high) if tried[scale] < target else (low, scale)
        scale = GROWTH * scale if high is None else (
            low + (high - low) * (aim - _distance(tried[low])) / (_distance(tried[high]) - _distance(tried[low])))
    return MatchedScale(target, tried)


def _distance(separability: float) -> float:
    """Return how many standard deviations two normal classes of this AUROC are apart, times 1 / sqrt(2)."""
    return float(norm.ppf(min(max(separability, 1e-6), 1 - 1e-6)))
