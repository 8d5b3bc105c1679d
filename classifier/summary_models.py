"""Random forest and logistic regression on summaries of each channel: members of teachers, which are no networks.

Breiman 2001, 'Random Forests'; both as scikit-learn has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from classifier.boosting import summaries
from classifier.targets import class_shares, class_weights
from tardiff.config import ClassifierTrainingConfig
from tardiff.evaluation.controls import Rows

TREES, MIN_ROWS = 300, 5
"""Of the forest: its trees, and the least rows in a leaf."""
INVERSE_PENALTY = 0.1
"""Of the logistic regression, whose inputs have unit variance."""


@dataclass(frozen=True)
class FittedSummaryModel:
    """A model of scikit-learn that reads the summaries of a series."""

    model: ClassifierMixin

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities (N, K) float64 for normalised series x (N, L, C)."""
        with threadpool_limits(1):
            return self.model.predict_proba(summaries(x))


def fit_summary_model(name: str, train: Rows, training: ClassifierTrainingConfig, seed: int) -> FittedSummaryModel:
    """Fit `forest` or `logistic` on (x (N, L, C) float32 normalised, labels y (N,) int64), which has every class, and
    where rows do not count alike the share of each in P parts of the training, (P, N) float64, whose mean counts.

    Of the settings of training they read class_weighting alone.
    """
    x, y, *row_shares = train
    # Of the shares, which the weights that scikit-learn has for balanced classes do not count.
    shares = class_shares(y, y.max() + 1, *row_shares)
    weights = shares.sum(axis=1) * class_weights(shares, training.class_weighting)[y]
    if name == "forest":
        parameter = "sample_weight"
        model = RandomForestClassifier(TREES, min_samples_leaf=MIN_ROWS, random_state=seed % 2**32)
    else:
        parameter = "logisticregression__sample_weight"
        model = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=2000))
    with threadpool_limits(1):
        return FittedSummaryModel(model.fit(summaries(x), y, **{parameter: weights}))
