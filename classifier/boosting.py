"""Gradient boosting of trees on whole series: a judge, and a teacher, that is no neural network.

Friedman 2001, 'Greedy function approximation: a gradient boosting machine', in scikit-learn's histogram form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from classifier.targets import class_shares, class_weights
from tardiff.config import BoostingConfig, ClassifierTrainingConfig
from tardiff.evaluation.controls import Rows
from tardiff.evaluation.metrics import shifted_log_loss

BINS = 64
"""Of each feature. On CinC 2012, 255 are no better (AUROC 0.739 against 0.736, sd 0.005 over seeds), and with weights
scikit-learn takes seconds to find them."""


@dataclass(frozen=True)
class FittedBoosting:
    """Boosted trees, of which the first `step` of each class count."""

    model: HistGradientBoostingClassifier
    num_classes: int
    step: int

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities (N, K) float64 for normalised series x (N, L, C)."""
        with threadpool_limits(1):
            return next(islice(_looks(self.model, x, self.num_classes), self.step - 1, None))


def fit_boosting(train: Rows, selection: Rows, num_classes: int, config: BoostingConfig,
                 training: ClassifierTrainingConfig, seed: int) -> FittedBoosting:
    """Fit on `train` and keep the trees up to the lowest `shifted_log_loss` on `selection`, or all, as `training.keep`
    says.

    Both sets are (x (N, L, C) float32 normalised, targets), see `fit_classifier`. Equal series are one row, whose
    weight for each class is its share of all targets of that series: copies of all rows change nothing. The share of a
    row in a batch is its weight here, the mean over the parts of the training. The draw of features depends on the seed
    alone.
    """
    shares = class_shares(train[1], num_classes, *train[2:])
    shares = shares * class_weights(shares, training.class_weighting)
    # Sorted by content, so that the order of rows changes nothing either.
    table, row_of = np.unique(features(train[0]), axis=0, return_inverse=True)
    weights = np.zeros((len(table), num_classes))
    np.add.at(weights, row_of, shares)
    row, label = np.nonzero(weights)
    weight = weights[row, label] * (len(table) / weights.sum())
    weight = None if np.ptp(weight) < 1e-9 else weight  # The same trees, and scikit-learn bins several times as fast.
    model = HistGradientBoostingClassifier(
        learning_rate=config.learning_rate, max_iter=config.trees, max_leaf_nodes=config.max_leaves,
        # A series with a share in several classes counts once for each.
        min_samples_leaf=round(config.min_rows * len(row) / len(table)), l2_regularization=config.l2,
        max_features=config.feature_share, max_bins=BINS, early_stopping=False, random_state=seed % 2**32)
    selection_weights = class_weights(class_shares(selection[1], num_classes), training.class_weighting)[selection[1]]
    with threadpool_limits(1):
        model.fit(table[row], label, sample_weight=weight)
        losses = [shifted_log_loss(selection[1], p, selection_weights)
                  for p in _looks(model, selection[0], num_classes)]
    kept = int(np.argmin(losses)) if training.keep == "best" else len(losses) - 1
    return FittedBoosting(model, num_classes, kept + 1)


def _looks(model: HistGradientBoostingClassifier, x: np.ndarray, num_classes: int) -> Iterator[np.ndarray]:
    """Yield the class probabilities (N, K) of the first tree, of the first two, and so on; 0 for classes that no
    training row has."""
    for found in model.staged_predict_proba(features(x)):
        p = np.zeros((len(x), num_classes))
        p[:, model.classes_] = found
        yield p


def features(x: np.ndarray) -> np.ndarray:
    """Return (N, (L + 7) C) of series x (N, L, C): all values, and of each channel mean, standard deviation, least,
    greatest, first and last value, and the slope of a least-squares line over time in [-1, 1]."""
    return np.concatenate([x.reshape(len(x), -1), summaries(x)], axis=1)


def summaries(x: np.ndarray) -> np.ndarray:
    """Return (N, 7 C), what `features` adds to the values."""
    time = np.linspace(-1, 1, x.shape[1], dtype=x.dtype)
    slope = np.einsum("nlc,l->nc", x, time) / max(float(time @ time), 1e-12)
    return np.concatenate([x.mean(axis=1), x.std(axis=1), x.min(axis=1), x.max(axis=1), x[:, 0], x[:, -1], slope],
                          axis=1)
