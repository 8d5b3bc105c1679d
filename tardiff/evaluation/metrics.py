"""Classification metrics, vectorised over row weights so that one formula serves point estimates and the bootstrap.

Every metric takes labels y (N,) int64, probabilities p (N, K) float64, and weights (R, N) of R resamples (None: one
resample with weight 1), and returns (R,) float64; a resample without both classes gives NaN.
"""

from __future__ import annotations

import numpy as np


def auroc(y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve of the positive class; for K > 2 the macro mean of one-vs-rest."""
    return _one_vs_rest(_binary_auroc, y, p, weights)


def average_precision(y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """AUPRC as the step-wise sum of (R_k - R_{k-1}) P_k, positive class; for K > 2 the macro mean of one-vs-rest."""
    return _one_vs_rest(_binary_average_precision, y, p, weights)


def auprc(y: np.ndarray, p: np.ndarray) -> float:
    """Return the average precision of one set of predictions."""
    return float(average_precision(y, p)[0])


def minority_f1(y: np.ndarray, p: np.ndarray, minority: int, threshold: float | None,
                weights: np.ndarray | None = None) -> np.ndarray:
    """F1 of the class `minority`, predicted where its probability is at least `threshold`, or by argmax where None.

    For two classes, argmax is the threshold 0.5.
    """
    weights = np.ones((1, len(y))) if weights is None else weights
    predicted = p.argmax(axis=1) == minority if threshold is None else p[:, minority] >= threshold
    actual = y == minority
    weights = weights.astype(float)
    hits = weights @ (predicted & actual)
    total = weights @ predicted.astype(float) + weights @ actual.astype(float)
    return np.divide(2 * hits, total, out=np.zeros(len(weights)), where=total > 0)


def best_f1_threshold(y: np.ndarray, p: np.ndarray, minority: int) -> float:
    """Return the threshold on the probability of `minority` with the highest F1 on these rows (the selection half)."""
    order = np.argsort(-p[:, minority], kind="stable")
    score, actual = p[order, minority], (y == minority)[order]
    hits = np.cumsum(actual)
    f1 = 2 * hits / (np.arange(1, len(y) + 1) + max(hits[-1], 1))
    last_of_tie = np.append(score[:-1] != score[1:], True)
    return float(score[np.argmax(np.where(last_of_tie, f1, -1))])


def _one_vs_rest(metric, y: np.ndarray, p: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    weights = np.ones((1, len(y))) if weights is None else weights
    classes = [1] if p.shape[1] == 2 else range(p.shape[1])
    return np.mean([metric(y == label, p[:, label], weights) for label in classes], axis=0)


def _binary_auroc(actual: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of (positive, negative) pairs in the right order, ties counting one half."""
    positive, negative = _grouped(actual, score, weights)
    below = np.cumsum(negative[:, ::-1], axis=1)[:, ::-1] - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    ordered = (positive * (below + negative / 2)).sum(axis=1)
    return np.divide(ordered, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def _binary_average_precision(actual: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    positive, negative = _grouped(actual, score, weights)
    hits = np.cumsum(positive, axis=1)
    called = hits + np.cumsum(negative, axis=1)
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    total = hits[:, -1]
    return np.divide((positive * precision).sum(axis=1), total, out=np.full(len(weights), np.nan), where=total > 0)


def _grouped(actual: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of positives and of negatives at each distinct score, from the highest score down."""
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    weights, actual = weights[:, order].astype(float), actual[order]
    return np.add.reduceat(weights * actual, starts, axis=1), np.add.reduceat(weights * ~actual, starts, axis=1)
