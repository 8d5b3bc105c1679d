"""Fidelity: how near synthetic series come to real ones, and the table of all such metrics that the report iterates
over.

All series are (N, L, C) float32 without NaN, z-scored with the scaler of the real training data. `real` is what a set
is measured against, as a rule held-out rows; the same metric of real training rows and of `matched_noise` in place of
the synthetic set gives two anchors, a perfect generator and one that knows means and deviations alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
import torch

from tardiff.evaluation.learned_scores import discriminative_score, predictive_score
from tardiff.evaluation.neighbours import CPU, drawn_rows
from tardiff.evaluation.ts2vec import TS2Vec, context_fid
from tardiff.utils.seeding import derive_seed

_BLOCK = 4096  # rows at a time in Fourier transforms
_MOST_QUANTILES = 200_000
_NO_VARIANCE = 1e-12  # of z-scored values; what rounding alone may leave
_BANDWIDTH_ROWS = 1000


def matched_noise(real: np.ndarray, seed: int) -> np.ndarray:
    """Return white Gaussian noise with the shape, and the mean and standard deviation per channel, of real (N, L,
    C)."""
    noise = np.random.default_rng(derive_seed(seed, "matched-noise")).standard_normal(real.shape, dtype=np.float32)
    noise *= real.std(axis=(0, 1), dtype=np.float64).astype(np.float32)
    noise += real.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return noise


def correlational_score(real: np.ndarray, synthetic: np.ndarray, seed: int, subsets: int = 5) -> dict[str, float]:
    """Return how far the correlations between channels differ: `score` as published, and its mean per pair of channels.

    Published (Liao et al. 2020; Diffusion-TS): a tenth of the summed absolute differences of the lag-0 correlations of
    all pairs of channels, each set standardised by its own moments, the mean over 5 random subsets, with replacement,
    of N / 5 windows. The tenth is a constant, so `score` grows with C; `per_pair` does not. N is the smaller of the
    two. For C = 1 there is no pair: NaN. A channel that is constant is taken as uncorrelated.
    """
    rows = max(min(len(real), len(synthetic)) // subsets, 1)
    channels = real.shape[2]
    if channels == 1:
        return {"score": float("nan"), "per_pair": float("nan"), "rows": rows}
    lower = np.tril_indices(channels)
    generator = np.random.default_rng(derive_seed(seed, "correlational"))
    sides = [x[drawn_rows(x, len(x), seed, "correlational")] for x in (real, synthetic)]
    totals = []
    for _ in range(subsets):
        matrices = [_correlations(x[generator.integers(len(x), size=rows)]) for x in sides]
        totals.append(np.abs(matrices[0] - matrices[1])[lower].sum())
    total = float(np.mean(totals))
    return {"score": total / 10, "per_pair": total / (channels * (channels - 1) / 2), "rows": rows}


def _correlations(x: np.ndarray) -> np.ndarray:
    values = x.reshape(-1, x.shape[2]).astype(np.float64)
    values -= values.mean(axis=0)
    lengths = np.sqrt((values**2).sum(axis=0))
    values /= np.where(lengths > 0, lengths, 1)
    matrix = values.T @ values
    np.fill_diagonal(matrix, 1)  # Also of a constant channel, which is no difference between the sets.
    return matrix


def autocorrelation_distance(real: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
    """Return the mean absolute difference of the autocorrelation functions over lags 1 to L // 2: `distance`, the mean
    over channels, and `distance_<c>` of channel c.

    The autocorrelation at a lag is the autocovariance around each window's own mean, summed over all windows, over the
    variance so summed; windows that hardly vary hardly count. A channel that never varies within a window has 0 at all
    lags. Series shorter than two steps have no lag: NaN.
    """
    difference = np.abs(_autocorrelations(real) - _autocorrelations(synthetic))
    distances = difference.mean(axis=0) if len(difference) else np.full(real.shape[2], np.nan)
    return _with_channels("distance", distances)


def _autocorrelations(x: np.ndarray) -> np.ndarray:
    """Return the autocorrelation (L // 2, C) at lags 1 to L // 2."""
    length = x.shape[1]
    power = np.zeros((length + 1, x.shape[2]))
    for start in range(0, len(x), _BLOCK):
        part = x[start:start + _BLOCK].astype(np.float64)
        part -= part.mean(axis=1, keepdims=True)
        power += (np.abs(np.fft.rfft(part, 2 * length, axis=1)) ** 2).sum(axis=0)
    covariances = np.fft.irfft(power, axis=0)
    varies = covariances[0] > _NO_VARIANCE * length * len(x)
    return np.where(varies, covariances[1:length // 2 + 1] / np.where(varies, covariances[0], 1), 0)


def marginal_distances(real: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
    """Return the distances between the distributions of single values, pooled over rows and steps: `ks`
    (Kolmogorov-Smirnov) and `wasserstein` (Wasserstein-1, in standard deviations of the real training data), each the
    mean over channels, and `ks_<c>`, `wasserstein_<c>` of channel c.

    A channel with more than 200,000 values is represented by as many of its quantiles.
    """
    ks, wasserstein = [], []
    for channel in range(real.shape[2]):
        sides = [_quantiles(x[..., channel]) for x in (real, synthetic)]
        ks.append(scipy.stats.ks_2samp(*sides, method="asymp").statistic)
        wasserstein.append(scipy.stats.wasserstein_distance(*sides))
    return _with_channels("ks", np.array(ks)) | _with_channels("wasserstein", np.array(wasserstein))


def _quantiles(values: np.ndarray) -> np.ndarray:
    """Return all values, sorted, or the middles of _MOST_QUANTILES equal shares of them."""
    ordered = np.sort(values, axis=None)
    if len(ordered) <= _MOST_QUANTILES:
        return ordered
    return ordered[((np.arange(_MOST_QUANTILES) + 0.5) * len(ordered) / _MOST_QUANTILES).astype(np.int64)]


def _with_channels(name: str, values: np.ndarray) -> dict[str, float]:
    return {name: float(values.mean()), **{f"{name}_{channel}": float(value) for channel, value in enumerate(values)}}


def extremes(real: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
    """Return which shares of single synthetic values are implausible: `outside` the 0.1 to 99.9 % range of the real
    ones, and `at_bound`, equal to the largest or smallest value of the set, as clipping leaves them; each the mean over
    channels, and `outside_<c>`, `at_bound_<c>` of channel c. All in [0, 1].
    """
    low, high = np.quantile(real, [0.001, 0.999], axis=(0, 1))
    outside = ((synthetic < low) | (synthetic > high)).mean(axis=(0, 1))
    bounds = synthetic.min(axis=(0, 1)), synthetic.max(axis=(0, 1))
    at_bound = ((synthetic == bounds[0]) | (synthetic == bounds[1])).mean(axis=(0, 1))
    return _with_channels("outside", outside) | _with_channels("at_bound", at_bound)


def is_conspicuous(share: float, of_real: float) -> bool:
    """Tell whether a share of implausible values, in [0, 1], is far above that of real rows."""
    return share > 2 * of_real + 0.01


def maximum_mean_discrepancy(real: np.ndarray, synthetic: np.ndarray, seed: int, max_rows: int = 5000,
                             block_size: int = 1000, device: torch.device = CPU) -> dict[str, float]:
    """Return the unbiased squared maximum mean discrepancy of flattened windows under a Gaussian kernel: `mmd2`, and
    the number of `rows` used of each side, min(N real, N synthetic, max_rows).

    The kernel is exp(-d^2 / (2 m^2)) with m the median distance among 1,000 real rows, so that all sets that are
    compared with the same real rows share it. Sets of one distribution give 0 on average, with either sign. Needs at
    least two rows: else NaN. (Gretton et al. 2012, lemma 6.)
    """
    rows = min(len(real), len(synthetic), max_rows)
    if rows < 2:
        return {"mmd2": float("nan"), "rows": rows}
    first, second = (torch.from_numpy(x[drawn_rows(x, rows, seed, "mmd")].reshape(rows, -1)).to(device)
                     for x in (real, synthetic))
    bandwidth = float(torch.pdist(first[:_BANDWIDTH_ROWS]).median()) or 1.0

    def total(left: torch.Tensor, right: torch.Tensor) -> float:
        return sum(float(torch.exp(-torch.cdist(block, part) ** 2 / (2 * bandwidth**2)).sum(dtype=torch.float64))
                   for block in left.split(block_size) for part in right.split(block_size))

    within = (total(first, first) + total(second, second) - 2 * rows) / (rows * (rows - 1))
    return {"mmd2": within - 2 * total(first, second) / rows**2, "rows": rows}


@dataclass(frozen=True)
class FidelityData:
    """What a metric compares: real and synthetic x (N, L, C), the subjects (N,) of the rows of each (None: each row is
    its own), and the encoder of context-FID (None: not needed)."""

    real: np.ndarray
    synthetic: np.ndarray
    subjects: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    encoder: TS2Vec | None = None


@dataclass(frozen=True)
class Column:
    """One figure of a metric: `key` in its result, heading, and `perfect`, the value of a perfect generator (None: that
    of the real-vs-real anchor, or no such value)."""

    key: str
    title: str
    perfect: float | None


@dataclass(frozen=True)
class Metric:
    """One entry of FIDELITY or of PRIVACY. The first column is the headline. `meaning` says what is measured and, of
    fidelity, which direction is better and what the anchors are worth.

    compute(data, seed, device), of FidelityData or PrivacyData, returns a flat dict of numbers with the keys of the
    columns, with `rows` where the sides are subsampled, and with `<key>_<c>` for channel c where `per_channel`. NaN:
    not defined for these data. `seeded` is False where the seed changes nothing, so that one repeat is enough; `trains`
    is True where a network is trained; where it `needs_p`, it is of sets with probabilities alone.
    """

    name: str
    title: str
    meaning: str
    columns: tuple[Column, ...]
    compute: Callable[[Any, int, torch.device], dict[str, float]]
    seeded: bool = True
    trains: bool = False
    per_channel: bool = False
    needs_p: bool = False


def _judge_columns(title: str) -> tuple[Column, ...]:
    return (Column("score", title, 0.0), Column("real_recall", "recall of real", 0.5),
            Column("synthetic_recall", "recall of synthetic", 0.5))


FIDELITY = (
    Metric(
        "discriminative", "Discriminative score, strong judge",
        "How far a convolutional judge beats chance at telling real from synthetic series. Lower is better, 0 to 0.5 "
        "(it always can); real training rows show what chance leaves, matched noise the most.",
        _judge_columns("DS strong"),
        lambda data, seed, device: discriminative_score(data.real, data.synthetic, seed, device=device,
                                                        subjects=data.subjects),
        trains=True),
    Metric(
        "discriminative_timegan", "Discriminative score, TimeGAN protocol",
        "The same with the published judge, a GRU of C // 2 units, which is too weak to find much. Lower is better; "
        "where matched noise is low as well, the judge saw nothing.",
        _judge_columns("DS TimeGAN"),
        lambda data, seed, device: discriminative_score(data.real, data.synthetic, seed, "timegan", device=device,
                                                        subjects=data.subjects),
        trains=True),
    Metric(
        "predictive", "Predictive score, all features",
        "Mean absolute error on real series, in standard deviations, of a one-step forecast learnt from the synthetic "
        "ones. Lower is better. Real training rows are no floor: smoother series may teach as good a forecast. Matched "
        "noise teaches to forecast the mean.",
        (Column("score", "PS", None),),
        lambda data, seed, device: predictive_score(data.real, data.synthetic, seed, device=device),
        trains=True),
    Metric(
        "predictive_timegan", "Predictive score, TimeGAN protocol",
        "The published form: the last channel alone, from the others, on data mapped to [0, 1]. Lower is better; "
        "where the others tell little of the last, all sets are near matched noise.",
        (Column("score", "PS TimeGAN", None),),
        lambda data, seed, device: predictive_score(data.real, data.synthetic, seed, "timegan", device=device),
        trains=True),
    Metric(
        "context_fid", "Context-FID",
        "Frechet distance between TS2Vec representations of real and synthetic series. Lower is better, from real "
        "training rows (what sampling leaves, above 0) to matched noise, which may be passed; compare only at equal "
        "rows.",
        (Column("fid", "context-FID", 0.0),),
        lambda data, seed, device: context_fid(data.encoder, data.real, data.synthetic, seed),
        trains=True),
    Metric(
        "correlational", "Correlational score",
        "Difference of the correlations between channels, summed and divided by 10 as published, and the mean per "
        "pair. Lower is better. The channels of matched noise are independent: poor where real ones are correlated, "
        "and passed by sets with wrong correlations.",
        (Column("score", "correlational", 0.0), Column("per_pair", "per pair", 0.0)),
        lambda data, seed, device: correlational_score(data.real, data.synthetic, seed)),
    Metric(
        "autocorrelation", "Autocorrelation distance",
        "Mean absolute difference of the autocorrelation functions over lags up to half a window. Lower is better. "
        "The steps of matched noise are independent: poor where real ones are not.",
        (Column("distance", "ACF distance", 0.0),),
        lambda data, seed, device: autocorrelation_distance(data.real, data.synthetic),
        seeded=False, per_channel=True),
    Metric(
        "marginal", "Marginal distances",
        "Distances between the distributions of single values, pooled over rows and steps, per channel. Lower is "
        "better. Matched noise has the real means and deviations by construction, so that it is no poor anchor here: "
        "compare with real training rows.",
        (Column("ks", "KS", 0.0), Column("wasserstein", "Wasserstein-1", 0.0)),
        lambda data, seed, device: marginal_distances(data.real, data.synthetic),
        seeded=False, per_channel=True),
    Metric(
        "extremes", "Implausible values",
        "Share of single values outside the range that holds 99.8 % of the real ones (0.1 to 99.9 % quantile of the "
        "channel), and share equal to the largest or smallest value of their own set, as clipping leaves them. Compare "
        "with real training rows; far less than theirs means that rare values are missing. Matched noise has no heavy "
        "tails, and so is no poor anchor.",
        (Column("outside", "outside real range", 0.002), Column("at_bound", "at own bound", None)),
        lambda data, seed, device: extremes(data.real, data.synthetic),
        seeded=False, per_channel=True),
    Metric(
        "mmd", "Maximum mean discrepancy",
        "Squared distance between the mean kernel embeddings of whole windows. Lower is better; around 0, with either "
        "sign, where sets are alike, and far above 0 for matched noise.",
        (Column("mmd2", "MMD²", 0.0),),
        lambda data, seed, device: maximum_mean_discrepancy(data.real, data.synthetic, seed, device=device)),
)
