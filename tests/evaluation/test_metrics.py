"""Weighted metrics against scikit-learn, with ties and more than two classes, and the threshold against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score, roc_curve
from sklearn.metrics import log_loss as log_loss_of_scikit_learn
from sklearn.preprocessing import label_binarize

from tardiff.evaluation.metrics import (
    auprc,
    auroc,
    average_precision,
    best_f1_threshold,
    brier,
    log_loss,
    macro_average_precision,
    minority_f1,
    predicted_share,
    reliability_curve,
    shifted_log_loss,
    true_positive_rate,
    with_class_shares,
)


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


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [2, 3])
def test_macro_average_precision_is_that_of_scikit_learn_on_one_hot_labels(seed, classes):
    y, p, weights = predictions(seed, classes)
    one_hot = np.eye(classes, dtype=int)[y]
    expected = [average_precision_score(one_hot, p, average="macro", sample_weight=w) for w in weights]
    np.testing.assert_allclose(macro_average_precision(y, p, weights), expected, rtol=1e-12)
    np.testing.assert_allclose(macro_average_precision(y, np.full(p.shape, 0.5)), [1 / classes], rtol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("seed", range(4))
def test_the_true_positive_rate_lies_on_the_polygon_of_scikit_learn(seed, rate):
    y, p, weights = predictions(seed, 2)
    expected = []
    for w in weights:
        false, true, _ = roc_curve(y, p[:, 1], sample_weight=w, drop_intermediate=False)
        corners, inverse = np.unique(false, return_inverse=True)
        top = np.zeros(len(corners))
        np.maximum.at(top, inverse, true)
        left, right = (np.flatnonzero(corners <= rate)[-1], np.flatnonzero(corners > rate)[0])
        start_of_right = true[false == corners[right]].min()
        share = (rate - corners[left]) / (corners[right] - corners[left])
        expected.append(top[left] + share * (start_of_right - top[left]))
    np.testing.assert_allclose(true_positive_rate(y, p, rate, weights), expected, rtol=1e-9)


def test_the_true_positive_rate_of_known_curves():
    y = np.repeat([1, 0], [100, 100])
    constant = np.full((200, 2), 0.5)
    for rate in (0.0, 0.01, 0.29, 0.5):
        np.testing.assert_allclose(true_positive_rate(y, constant, rate), [rate], rtol=1e-12)
        np.testing.assert_array_equal(true_positive_rate(y, np.eye(2)[y], rate), [1])
    # 29 negatives above all positives: the curve rises at exactly 0.29, whose product with 100 is less than 29.
    score = np.concatenate([np.full(100, 0.5), np.full(29, 0.9), np.full(71, 0.1)])
    np.testing.assert_array_equal(true_positive_rate(y, np.column_stack([1 - score, score]), 0.29), [1])
    np.testing.assert_array_equal(true_positive_rate(y, np.column_stack([1 - score, score]), 0.28), [0])


@pytest.mark.parametrize("seed", range(4))
def test_the_brier_score_is_that_of_scikit_learn_and_of_a_plain_loop(seed):
    y, p, weights = predictions(seed, 2)
    np.testing.assert_allclose(brier(y, p, weights), [brier_score_loss(y, p[:, 1], sample_weight=w) for w in weights])
    y, p, weights = predictions(seed, 3)
    loss = [sum((p[row, label] - (y[row] == label)) ** 2 for label in range(3)) for row in range(len(y))]
    np.testing.assert_allclose(brier(y, p, weights), [np.average(loss, weights=w) for w in weights])
    np.testing.assert_allclose(brier(y, p), [np.mean(loss)])
    assert brier(y, np.eye(3)[y])[0] == 0 and brier(y, np.eye(3)[(y + 1) % 3])[0] == 2
    assert brier(y % 2, np.eye(2)[1 - y % 2])[0] == 1


@pytest.mark.parametrize("classes", [2, 3])
def test_the_shifted_log_loss_is_the_least_over_intercepts_of_the_classes(classes):
    y, p, weights = predictions(3, classes)

    def loss(intercepts, row_weights):
        return np.average(-log_softmax(np.log(p) + intercepts, axis=1)[np.arange(len(y)), y], weights=row_weights)

    for row_weights in (None, weights[0]):
        least = minimize(loss, np.zeros(classes), args=(row_weights,)).fun
        assert shifted_log_loss(y, p, row_weights) == pytest.approx(least, abs=1e-6)
        shares = np.average(np.eye(classes)[y], axis=0, weights=row_weights)
        found = with_class_shares(y, p, row_weights)
        np.testing.assert_allclose(np.average(found, axis=0, weights=row_weights), shares, atol=1e-5)
    moved = p * np.geomspace(0.01, 1, classes)
    moved = moved / moved.sum(axis=1, keepdims=True)
    assert shifted_log_loss(y, moved) == pytest.approx(shifted_log_loss(y, p), abs=1e-6)
    assert shifted_log_loss(y, moved) < log_loss(y, moved) - 0.1
    assert np.isfinite(shifted_log_loss(np.zeros(80, dtype=np.int64), p)), "with classes that no row has"


@pytest.mark.parametrize("classes", [2, 3])
def test_the_log_loss_is_that_of_scikit_learn_and_finite_where_the_label_has_probability_0(classes):
    y, p, weights = predictions(0, classes)
    assert log_loss(y, p) == pytest.approx(log_loss_of_scikit_learn(y, p), rel=1e-12)
    expected = log_loss_of_scikit_learn(y, p, sample_weight=weights[0])
    assert log_loss(y, p, weights[0]) == pytest.approx(expected, rel=1e-12)
    assert log_loss(y, np.eye(classes)[y - 1]) == pytest.approx(12 * np.log(10))


def test_the_predicted_share_is_that_of_the_argmax():
    _, p, weights = predictions(0, 3)
    for label in range(3):
        expected = [np.average(p.argmax(axis=1) == label, weights=w) for w in weights]
        np.testing.assert_allclose(predicted_share(p, label, weights), expected)
    assert sum(predicted_share(p, label)[0] for label in range(3)) == pytest.approx(1)


@pytest.mark.parametrize(("rows", "bins"), [(200, 10), (203, 10), (7, 10), (50, 1)])
def test_the_reliability_curve_is_that_of_a_plain_loop(rows, bins):
    generator = np.random.default_rng(0)
    score = generator.random(rows)
    y = (generator.random(rows) < score).astype(np.int64)
    curve = reliability_curve(y, np.column_stack([1 - score, score]), bins)
    ranks = np.argsort(np.argsort(score))
    parts = [np.flatnonzero((ranks + 0.5) * bins // rows == number) for number in range(bins)]
    parts = [part for part in parts if len(part)]
    assert [len(part) for part in parts] == curve["count"].tolist() and np.ptp(curve["count"]) <= 1
    np.testing.assert_allclose(curve["predicted"], [score[part].mean() for part in parts])
    np.testing.assert_allclose(curve["observed"], [y[part].mean() for part in parts])
    for number, part in enumerate(parts):
        interval = binomtest(int(y[part].sum()), len(part)).proportion_ci(method="wilson")
        assert (curve["low"][number], curve["high"][number]) == pytest.approx((interval.low, interval.high))


def test_equal_probabilities_share_a_bin_and_the_order_of_rows_does_not_matter():
    y, p, _ = predictions(1, 2)
    order = np.random.default_rng(0).permutation(len(y))
    curve, again = reliability_curve(y, p, 5), reliability_curve(y[order], p[order], 5)
    for name, values in curve.items():
        np.testing.assert_allclose(again[name], values)
    assert curve["count"].sum() == len(y) and len(curve["count"]) <= 5
    repeated = reliability_curve(y.repeat(20), p.repeat(20, axis=0), 5, subjects=np.arange(len(y)).repeat(20))
    assert all(np.allclose(repeated[key], curve[key]) for key in ("predicted", "observed", "low", "high"))
    constant = reliability_curve(y, np.full((len(y), 2), 0.5), 5)
    assert constant["count"].tolist() == [len(y)] and constant["observed"] == pytest.approx([y.mean()])
    third = reliability_curve(*predictions(1, 3)[:2], 4, label=2)
    assert np.all((third["low"] <= third["observed"]) & (third["observed"] <= third["high"]))


def test_a_resample_without_both_classes_is_nan_and_the_others_are_not():
    y, p = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    weights = np.array([[1, 1, 0], [0, 0, 2], [1, 1, 1]], dtype=float)
    np.testing.assert_array_equal(auroc(y, p, weights), [np.nan, np.nan, 1])
    np.testing.assert_array_equal(average_precision(y, p, weights), [np.nan, 1, 1])
    np.testing.assert_array_equal(minority_f1(y, p, 1, 0.9, weights), [0, 0, 0])
    np.testing.assert_array_equal(true_positive_rate(y, p, 0.1, weights), [np.nan, np.nan, 1])
    np.testing.assert_allclose(brier(y, p, weights), [0.185, 0.04, 0.41 / 3])


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
