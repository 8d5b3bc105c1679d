"""One invertible normaliser per dataset, fitted on the training split only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.special

from tardiff.utils.checkpoint import fingerprint, read_json, write_json
from tardiff.utils.errors import UserError

_MAX_KNOTS = 2049


@dataclass(frozen=True)
class Normalizer:
    """A monotone, piecewise linear map per channel, from raw units to normalised units and back.

    A value that training rows hold many times, such as one that was imputed, takes up a share of the normalised range
    under an ECDF. It maps to the middle of that share, and all of the share maps back to it, so that series keep their
    point masses: the inverse of `ecdf` is the empirical quantile function, linear between the sorted training values.

    `kind` is `zscore` (mean 0, standard deviation 1), `minmax` (training range to [-1, 1]), `ecdf` (mid-rank of the
    training values of the channel, to [-1, 1]), `normal_ecdf` (the standard normal quantile of the mid-rank, so that
    tails keep their room) or `global_ecdf` (one ECDF over all channels, as in the original release). `raw[c] (K,)` and
    `normalized[c] (K,)` are the knots of channel c, `share[c] (K, 2)` the ends of what maps back to each; between knots
    the map is linear. z-score and min-max extend beyond the outer knots; an ECDF saturates there, because beyond the
    training range it is flat.
    `fill (C,)`, the training median, replaces unobserved NaN; `low`, `high (C,)` are the normalised training range.
    """

    kind: str
    raw: list[np.ndarray]
    normalized: list[np.ndarray]
    share: list[np.ndarray]
    fill: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @staticmethod
    def fit(kind: str, x: np.ndarray) -> Normalizer:
        """Fit on the training values x (N, L, C) in raw units; NaN is ignored. Raises UserError on a channel that is
        never observed."""
        by_channel = np.moveaxis(x, 2, 0).reshape(x.shape[2], -1)
        channels = [values[np.isfinite(values)].astype(np.float64) for values in by_channel]
        for number, values in enumerate(channels):
            if len(values) == 0:
                raise UserError(f"channel {number} has no observed value in the training split.")
        if kind == "global_ecdf":
            maps = [_ecdf_knots(np.concatenate(channels))] * len(channels)
        else:
            knots = {"zscore": _zscore_knots, "minmax": _minmax_knots, "ecdf": _ecdf_knots,
                     "normal_ecdf": _normal_ecdf_knots}[kind]
            maps = [knots(values) for values in channels]
        raw, normalized, share = [list(part) for part in zip(*maps, strict=True)]
        fill = np.array([np.median(values) for values in channels])
        extremes = np.array([[values.min(), values.max()] for values in channels])
        partial = Normalizer(kind, raw, normalized, share, fill, extremes[:, 0], extremes[:, 1])
        low, high = partial.transform(extremes.T[:, None, :].astype(np.float64))[:, 0].astype(np.float64)
        return Normalizer(kind, raw, normalized, share, fill, low, high)

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Map x (N, L, C) from raw to normalised units, float32; NaN becomes the training median first."""
        self._check_channels(x)
        filled = np.where(np.isnan(x), self.fill, x)
        return self._map(filled, self.raw, self.normalized)

    def inputs(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Return what a classifier reads of x (N, L, C) in raw units: (N, L, C) float32 normalised, and with a mask
        (N, L, C) bool behind them 1 where observed, else 0: (N, L, 2C)."""
        values = self.transform(x)
        return values if mask is None else np.concatenate([values, mask.astype(np.float32)], axis=2)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """Map x (N, L, C) from normalised to raw units, float32."""
        self._check_channels(x)
        return self._map(x, [ends.ravel() for ends in self.share], [np.repeat(knots, 2) for knots in self.raw])

    def _check_channels(self, x: np.ndarray) -> None:
        if x.ndim != 3 or x.shape[2] != len(self.raw):
            raise UserError(f"expected data of shape (N, L, {len(self.raw)}) for this normaliser, got {x.shape}.")

    def _map(self, x: np.ndarray, source: list[np.ndarray], target: list[np.ndarray]) -> np.ndarray:
        result = np.empty(x.shape, dtype=np.float32)
        for channel, (knots, values) in enumerate(zip(source, target, strict=True)):
            if self.kind in ("zscore", "minmax"):
                slope = (values[-1] - values[0]) / (knots[-1] - knots[0])
                result[..., channel] = values[0] + (x[..., channel].astype(np.float64) - knots[0]) * slope
            else:
                result[..., channel] = np.interp(x[..., channel], knots, values)
        return result

    def fingerprint(self) -> str:
        """Return a hash that two normalisers share only if they map alike."""
        return fingerprint(self.kind, *self.raw, *self.normalized, *self.share, self.fill, self.low, self.high)

    def save(self, path: str | Path) -> None:
        """Write the normaliser as JSON."""
        write_json(path, {
            "kind": self.kind, "fingerprint": self.fingerprint(), "fill": self.fill.tolist(), "low": self.low.tolist(),
            "high": self.high.tolist(), "raw": [knots.tolist() for knots in self.raw],
            "normalized": [knots.tolist() for knots in self.normalized],
            "share": [ends.tolist() for ends in self.share]})

    @staticmethod
    def load(path: str | Path) -> Normalizer:
        """Read a normaliser. Raises UserError if the file is missing, malformed or was altered."""
        content = read_json(path)
        try:
            normalizer = Normalizer(
                content["kind"], *([np.array(of_channel) for of_channel in content[name]]
                                   for name in ("raw", "normalized", "share")),
                *(np.array(content[name]) for name in ("fill", "low", "high")))
            intact = content["fingerprint"] == normalizer.fingerprint()
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a TarDiff normaliser ({error!r}).") from None
        if not intact:
            raise UserError(f"{path}: the content does not match its fingerprint; the file was altered.")
        return normalizer


def _zscore_knots(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _line(np.array([values.mean(), values.mean() + (values.std() or 1.0)]), np.array([0.0, 1.0]))


def _minmax_knots(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, high = values.min(), values.max()
    return _line(np.array([low, high if high > low else low + 1.0]), np.array([-1.0, 1.0]))


def _line(raw: np.ndarray, normalized: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return raw, normalized, np.stack([normalized, normalized], axis=1)


def _ecdf_knots(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    knots, ranks, _ = _ranks(values)
    lowest, highest = ranks[[0, -1], 1]
    return _thinned(knots, 2 * (ranks - lowest) / (highest - lowest) - 1)


def _normal_ecdf_knots(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    knots, ranks, size = _ranks(values)
    return _thinned(knots, scipy.special.ndtri(ranks / size))


def _ranks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the distinct values (K,), the ranks (K, 3) of the first copy of each, of their middle and of the last, the
    smallest value of all having rank 0.5, and the size."""
    knots, counts = np.unique(values, return_counts=True)
    if len(knots) == 1:
        knots, counts = np.array([knots[0], knots[0] + 1.0]), np.array([1, 1])
    last = np.cumsum(counts) - 0.5
    first = last - counts + 1
    return knots, np.stack([first, (first + last) / 2, last], axis=1), int(counts.sum())


def _thinned(knots: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the knots, their positions and the ends of their shares, for positions (K, 3) of first copy, middle and
    last copy: at most _MAX_KNOTS, evenly spread over the normalised range, both ends among them."""
    middle = positions[:, 1]
    if len(knots) > _MAX_KNOTS:
        kept = np.searchsorted(middle, np.linspace(middle[0], middle[-1], _MAX_KNOTS)).clip(0, len(knots) - 1)
        kept = np.unique(kept)
        knots, positions = knots[kept], positions[kept]
    return knots, positions[:, 1], positions[:, [0, 2]]
