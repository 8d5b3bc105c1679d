"""Weighted metrics against scikit-learn, with ties and more than two classes, and the threshold against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.preprocessing import label_binarize

from tardiff.evaluation.metrics import auprc, auroc, average_precision, best_f1_threshold, minority_f1


def predictions(seed, classes, rows=80, levels=6):
    """Labels, tied probabilities, and weights (5, rows) with many zeros, all classes kept."""
    generator = np.random.default_rng(seed)
    y = np.append(np.arange(classes), generator.integers(classes, size=rows - classes))
    scores = generator.integers(1, levels, size=(rows, classes)).astype(float)
    scores[np.arange(rows), y] += generator.integers(0, 3, size=rows)
    weights = generator.poisson(1.0, size=(5, rows)).astype(float)
    weights[:, :classes] += 1
    return y, scores / scores.sum(axis=1, keepdims=True), weights


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("classes", [2, 3])
def test_auroc_is_that_of_scikit_learn(seed, classes):
    y, p, weights = predictions(seed, classes)
    options = {"y_score": p[:, 1]} if classes == 2 else {"y_score": p, "multi_class": "ovr", "average": "macro"}
    expected = [roc_auc_score(y, sample_weight=w, **options) for w in weights]
    np.testing.assert_allclose(auroc(y, p, weights), expected, rtol=1e-12)
    np.testing.assert_allclose(auroc(y, p), [roc_auc_score(y, **options)], rtol=1e-12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("classes", [2, 3])
def test_average_precision_is_that_of_scikit_learn(seed, classes):
    y, p, weights = predictions(seed, classes)
    actual, score = (y, p[:, 1]) if classes == 2 else (label_binarize(y, classes=range(classes)), p)
    expected = [average_precision_score(actual, score, average="macro", sample_weight=w) for w in weights]
    np.testing.assert_allclose(average_precision(y, p, weights), expected, rtol=1e-12)
    np.testing.assert_allclose(auprc(y, p), average_precision_score(actual, score, average="macro"), rtol=1e-12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("classes", "threshold"), [(2, None), (2, 0.3), (3, None), (3, 0.25)])
def test_f1_of_the_minority_is_that_of_scikit_learn(seed, classes, threshold):
    y, p, weights = predictions(seed, classes)
    minority = classes - 1
    predicted = p.argmax(axis=1) == minority if threshold is None else p[:, minority] >= threshold
    expected = [f1_score(y == minority, predicted, sample_weight=w) for w in weights]
    np.testing.assert_allclose(minority_f1(y, p, minority, threshold, weights), expected, rtol=1e-12)
    np.testing.assert_allclose(minority_f1(y, p, minority, threshold), [f1_score(y == minority, predicted)], rtol=1e-12)


def test_integer_weights_are_repeated_rows():
    y, p, weights = predictions(0, 2)
    repeated = np.repeat(np.arange(len(y)), weights[0].astype(int))
    for metric in (auroc, average_precision, lambda *a: minority_f1(*a[:2], 1, None, *a[2:])):
        np.testing.assert_allclose(metric(y, p, weights[:1]), metric(y[repeated], p[repeated]), rtol=1e-12)


def test_a_resample_without_both_classes_is_nan_and_the_others_are_not():
    y, p = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    weights = np.array([[1, 1, 0], [0, 0, 2], [1, 1, 1]], dtype=float)
    np.testing.assert_array_equal(auroc(y, p, weights), [np.nan, np.nan, 1])
    np.testing.assert_array_equal(average_precision(y, p, weights), [np.nan, 1, 1])
    np.testing.assert_array_equal(minority_f1(y, p, 1, 0.9, weights), [0, 0, 0])


def test_worthless_and_perfect_scores():
    y = np.array([0, 1, 0, 1, 0])
    constant, perfect = np.full((5, 2), 0.5), np.eye(2)[y]
    assert auroc(y, constant)[0] == 0.5 and auprc(y, constant) == pytest.approx(0.4)
    assert auroc(y, perfect)[0] == auprc(y, perfect) == minority_f1(y, perfect, 1, None)[0] == 1
    assert auroc(1 - y, perfect)[0] == 0


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_the_best_threshold_is_the_best_of_all(rows):
    score, actual = np.array([row[0] for row in rows]) / 8, np.array([row[1] for row in rows], dtype=int)
    p = np.column_stack([1 - score, score])
    chosen = best_f1_threshold(actual, p, 1)
    best = max(f1_score(actual, score >= threshold, zero_division=0) for threshold in np.unique(score))
    assert chosen in score
    assert minority_f1(actual, p, 1, chosen)[0] == pytest.approx(best, abs=1e-12)


def test_the_threshold_reads_the_minority_column_whatever_its_number():
    y, p, _ = predictions(3, 3)
    order = [2, 0, 1]
    assert best_f1_threshold(y, p, 2) == best_f1_threshold(np.array([1, 2, 0])[y], p[:, order], 0)
