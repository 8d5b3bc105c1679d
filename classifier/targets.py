"""What a classifier is trained toward: labels, or a probability of each class."""

from __future__ import annotations

import numpy as np


def class_shares(targets: np.ndarray, num_classes: int, row_shares: np.ndarray | None = None) -> np.ndarray:
    """Return (N, K) float64: labels (N,) int64 as one-hot rows, probabilities as they are.

    row_shares (P, N), where rows do not count alike, are those of parts of the training, each of sum 1; rows then sum
    to N times their mean share, not to 1.
    """
    shares = np.eye(num_classes)[targets] if targets.ndim == 1 else targets.astype(np.float64)
    return shares if row_shares is None else shares * (len(shares) * row_shares.mean(axis=0))[:, None]


def class_weights(shares: np.ndarray, weighting: str) -> np.ndarray:
    """Return the weight of each class (K,) in a loss: 1, or with `balanced` the inverse of its share of the rows, which
    are `class_shares` (N, K), divided by K."""
    num_rows, num_classes = shares.shape
    counts = np.maximum(shares.sum(axis=0), 1)
    return num_rows / (num_classes * counts) if weighting == "balanced" else np.ones(num_classes)
