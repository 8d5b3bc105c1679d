"""Boosting as a judge: against scikit-learn itself, copies and order of rows, shares of classes, the kept trees."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from baseline_checks import sinusoids
from sklearn.ensemble import HistGradientBoostingClassifier

from classifier.boosting import features, fit_boosting
from classifier.train import fit_classifier
from tardiff.config import BoostingConfig, ClassifierModelConfig, ClassifierTrainingConfig
from tardiff.evaluation.metrics import shifted_log_loss

SMALL = BoostingConfig(trees=30, min_rows=5, learning_rate=0.2, feature_share=0.5)
TRAINING = ClassifierTrainingConfig()


def noisy(rows, seed, num_classes=3):
    x, y = sinusoids(rows, num_classes=num_classes)
    noise = np.random.default_rng(seed).normal(0, 3, x.shape)
    return (x + noise).astype(np.float32), y


TRAIN, SELECTION, TEST = (noisy(rows, seed) for seed, rows in enumerate((150, 60, 50)))


def fit(train=TRAIN, config=SMALL, seed=0, num_classes=3, **changes):
    return fit_boosting(train, SELECTION, num_classes, config, replace(TRAINING, **changes), seed)


def test_features_are_the_values_and_their_summaries():
    x = TRAIN[0][:4]
    found = features(x)
    for row, series in enumerate(x):
        time = np.linspace(-1, 1, len(series))
        slopes = [np.polyfit(time, channel, 1)[0] for channel in series.T]
        expected = [series.ravel(), series.mean(0), series.std(0), series.min(0), series.max(0), series[0], series[-1],
                    slopes]
        np.testing.assert_allclose(found[row], np.concatenate(expected), rtol=1e-4, atol=1e-5)


def test_it_is_the_model_of_scikit_learn_with_the_trees_of_the_lowest_log_loss():
    fast = replace(SMALL, learning_rate=0.6)
    fitted, losses = fit(config=fast), []
    for trees in range(1, SMALL.trees + 1):
        model = HistGradientBoostingClassifier(
            learning_rate=0.6, max_iter=trees, max_leaf_nodes=8, min_samples_leaf=5, l2_regularization=1.0,
            max_features=0.5, max_bins=64, early_stopping=False, random_state=0).fit(*sorted_rows(*TRAIN))
        losses.append(shifted_log_loss(SELECTION[1], model.predict_proba(features(SELECTION[0]))))
        if trees == fitted.step:
            np.testing.assert_allclose(fitted.predict(TEST[0]), model.predict_proba(features(TEST[0])), atol=1e-12)
    assert fitted.step == np.argmin(losses) + 1 < SMALL.trees
    assert fit(config=fast, keep="last").step == SMALL.trees


def sorted_rows(x, y):
    table = features(x)
    order = np.lexsort(table.T[::-1])
    return table[order], y[order]


@pytest.mark.parametrize("class_weighting", ["none", "balanced"])
def test_copies_of_all_rows_and_another_order_change_nothing(class_weighting):
    x, y = TRAIN
    expected = fit(class_weighting=class_weighting).predict(TEST[0])
    order = np.random.default_rng(0).permutation(np.tile(np.arange(len(y)), 3))
    copies = fit((x[order], y[order]), class_weighting=class_weighting).predict(TEST[0])
    np.testing.assert_allclose(copies, expected, atol=1e-6)
    assert not np.allclose(fit((x[:140], y[:140]), class_weighting=class_weighting).predict(TEST[0]), expected)


def test_a_share_of_a_class_counts_as_that_part_of_a_row():
    """Each series three times, twice with one label and once with another, is a series with shares 2/3 and 1/3."""
    x, y = TRAIN
    shares = np.zeros((len(y), 3))
    shares[np.arange(len(y)), y], shares[np.arange(len(y)), (y + 1) % 3] = 2 / 3, 1 / 3
    repeated = np.concatenate([x, x, x]), np.concatenate([y, y, (y + 1) % 3])
    np.testing.assert_allclose(fit((x, shares)).predict(TEST[0]), fit(repeated).predict(TEST[0]), atol=1e-6)
    one_hot = np.eye(3)[y]
    assert np.array_equal(fit((x, one_hot)).predict(TEST[0]), fit().predict(TEST[0]))


def test_the_share_of_a_row_in_a_batch_is_its_weight():
    x, y = TRAIN
    times = np.random.default_rng(0).integers(1, 4, size=len(y))
    copied, weighted = fit((np.repeat(x, times, axis=0), np.repeat(y, times))), fit((x, y, times[None] / times.sum()))
    np.testing.assert_allclose(weighted.predict(TEST[0]), copied.predict(TEST[0]), atol=1e-9)
    assert not np.allclose(weighted.predict(TEST[0]), fit().predict(TEST[0]), atol=1e-3)


def test_the_seed_decides_and_balanced_classes_are_wanted():
    assert np.array_equal(fit(seed=1).predict(TEST[0]), fit(seed=1).predict(TEST[0]))
    assert not np.array_equal(fit(seed=1).predict(TEST[0]), fit(seed=2).predict(TEST[0]))
    rare = TRAIN[1] > 0
    rare[:100] = True
    few = TRAIN[0][rare], TRAIN[1][rare]
    plain, balanced = (fit(few, class_weighting=weighting).predict(TEST[0]) for weighting in ("none", "balanced"))
    assert balanced[:, 0].mean() > plain[:, 0].mean()


def test_probabilities_are_of_all_classes_and_better_than_chance():
    model = ClassifierModelConfig(name="boosting", boosting=SMALL)
    p = fit_classifier(TRAIN, SELECTION, 3, model, TRAINING, 0, torch.device("cpu")).predict(TEST[0])
    assert p.shape == (50, 3) and p.dtype == np.float64
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (p.argmax(axis=1) == TEST[1]).mean() > 0.5


@pytest.mark.parametrize("class_weighting", ["none", "balanced"])
def test_a_class_without_a_training_row_has_probability_0(class_weighting):
    x, y = TRAIN
    kept = y != 1
    p = fit((x[kept], y[kept]), class_weighting=class_weighting).predict(TEST[0])
    assert p.shape == (50, 3) and (p[:, 1] == 0).all() and (p[:, [0, 2]] > 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)
