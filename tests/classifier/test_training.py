"""The training of a classifier: resumed ones, copies of rows, which weights are kept, small sets, users' models."""

import dataclasses
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from baseline_checks import Killed, sinusoids
from torch import nn

from classifier import train as training
from classifier.models import build_classifier
from classifier.train import expected_losses, fit_network
from tardiff.config import (
    ClassifierConfig,
    ClassifierModelConfig,
    ClassifierTrainingConfig,
    CustomModelConfig,
    RNNConfig,
    TimesNetConfig,
)
from tardiff.data.normalize import Normalizer
from tardiff.evaluation.metrics import auroc, log_loss, with_class_shares
from tardiff.influence.task import cross_entropy
from tardiff.utils.errors import UserError
from tardiff.utils.logging import open_run, read_metrics
from tardiff.utils.seeding import seed_torch

CPU = torch.device("cpu")
TINY = {
    "gru": ClassifierModelConfig(rnn=RNNConfig(hidden_size=4)),
    "timesnet": ClassifierModelConfig(name="timesnet", timesnet=TimesNetConfig(4, 4, 1, 2, 2)),
    "custom": ClassifierModelConfig(name="custom", custom=CustomModelConfig("models_of_a_user:WithBatchStatistics")),
}
CONFIG = ClassifierTrainingConfig(steps=22, batch_size=16, evaluate_every=5, min_steps=0, class_weighting="balanced")
X, Y = sinusoids(60, num_classes=3)
X = X - 10


class WithBatchStatistics(nn.Module):
    """Centres each channel, and scales it, by running statistics of batches."""

    def __init__(self, length, num_channels, num_classes):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(num_channels), nn.Linear(length * num_channels, num_classes)

    def forward(self, x):
        return self.head(self.norm(x.transpose(1, 2)).flatten(1))


@pytest.fixture(autouse=True)
def models_of_a_user(monkeypatch):
    monkeypatch.setitem(sys.modules, "models_of_a_user", SimpleNamespace(WithBatchStatistics=WithBatchStatistics))


def fit(x=X, y=Y, model="gru", config=CONFIG, run=None, selection=(X[:24], Y[:24]), **changes):
    return fit_network((x, y), selection, 3, TINY[model], dataclasses.replace(config, **changes), 0, CPU, run)


def assert_same(first, second):
    assert (first.step, first.selection_loss, first.selection_auprc) == (
        second.step, second.selection_loss, second.selection_auprc)
    assert_same_weights(first, second)


def assert_same_weights(first, second):
    one, other = first.model.state_dict(), second.model.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logged(folder):
    return [{name: value for name, value in row.items() if name != "series_per_second"}
            for row in read_metrics(folder / "metrics.jsonl")]


class KilledAfter(nn.Module):
    """A loss that ends the process at its call number `steps`, 0-based."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def forward(self, logits, y):
        if self.left == 0:
            raise Killed
        self.left -= 1
        return nn.functional.cross_entropy(logits, y, reduction="none")


@pytest.mark.parametrize("model", TINY)
def test_a_killed_training_that_resumes_equals_an_uninterrupted_one(model, tmp_path, monkeypatch):
    """Killed before the first state, on a state, between two looks, and in the steps after the last but one."""
    whole = open_run(tmp_path / "whole", ClassifierConfig(), {})
    expected = fit(model=model, run=whole)
    assert [row["step"] for row in logged(tmp_path / "whole")] == [5, 10, 15, 20, 22]
    assert_same(fit(model=model), expected)
    for steps in (3, 10, 13, 21):
        folder = tmp_path / str(steps)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(training, "build_loss", lambda config, steps=steps: KilledAfter(steps))
            fit(model=model, run=open_run(folder, ClassifierConfig(), {}))
        assert_same(fit(model=model, run=open_run(folder, ClassifierConfig(), {})), expected)
        assert logged(folder) == logged(tmp_path / "whole")
    assert_same(fit(model=model, run=whole), expected)


@pytest.mark.parametrize("model", TINY)
@pytest.mark.parametrize("times", [2, 4])
def test_exact_copies_of_all_rows_appended_to_them_change_nothing(model, times):
    """torch.randint gives a random integer modulo the number of rows: with N rows doubled, what fell on row r falls on
    row r or on its copy r + N. Other numbers of rows draw other rows; nothing can be promised bit for bit then."""
    copies = fit(np.concatenate([X] * times), np.concatenate([Y] * times), model)
    assert_same(copies, fit(model=model))


def test_the_number_of_steps_does_not_depend_on_the_rows(tmp_path):
    """A set smaller than a batch takes as many full batches as a large one."""
    seen = {}
    for rows in (9, 60):
        folder = tmp_path / str(rows)
        fitted = fit(X[:rows], Y[:rows], "custom", run=open_run(folder, ClassifierConfig(), {}), keep="last")
        seen[rows] = [row["step"] for row in logged(folder)], int(fitted.model.norm.num_batches_tracked)
    assert seen[9] == seen[60] == ([5, 10, 15, 20, 22], 22)


def losses_of(folder, **changes):
    """Return what was fitted, and the log-loss of each look by step."""
    fitted = fit(run=open_run(folder, ClassifierConfig(), {}), **changes)
    return fitted, {row["step"]: row["selection_loss"] for row in logged(folder)}


def test_best_is_the_look_of_the_lowest_log_loss_from_the_least_step_on_and_last_the_last(tmp_path):
    """At this learning rate the log-loss of the looks goes up and down."""
    wild = {"learning_rate": 0.3, "steps": 40, "batch_size": 2}
    best, losses = losses_of(tmp_path / "best", **wild)
    assert best.step == min(losses, key=losses.get) < 40 and best.selection_loss == losses[best.step]
    later = [step for step in losses if step > best.step]
    floored = losses_of(tmp_path / "floored", **wild, min_steps=best.step + 1)
    assert floored[0].step == min(later, key=losses.get) and floored[1] == losses
    last, of_last = losses_of(tmp_path / "last", **wild, keep="last")
    assert (last.step, last.selection_loss, of_last) == (40, losses[40], losses)
    assert_same(fit(**wild, min_steps=1000), last)
    stopped = fit(**wild | {"steps": best.step}, keep="last")
    assert_same_weights(stopped, best)


def test_other_class_shares_on_the_selection_half_do_not_stop_the_training_early(monkeypatch):
    """A twentieth of the training rows is of class 1, half of the others: the surer the model becomes of what it has
    learned, the more a plain log-loss minds its share of class 1."""
    def cohort(count, share, seed):
        generator = np.random.default_rng(seed)
        y = (generator.random(count) < share).astype(np.int64)
        x = generator.normal(size=(count, 8, 4))
        x[:, :, 0] += 0.5 * y[:, None]
        return x.astype(np.float32), y

    train, selection, test = cohort(2000, 0.05, 0), cohort(200, 0.5, 1), cohort(1000, 0.5, 2)
    config = ClassifierTrainingConfig(steps=240, batch_size=64, learning_rate=1e-3, min_steps=0)

    def kept():
        fitted = fit_network(train, selection, 2, ClassifierModelConfig(rnn=RNNConfig(hidden_size=8)), config, 0, CPU)
        return fitted.step, auroc(test[1], fitted.predict(test[0]))[0]

    step, value = kept()
    monkeypatch.setattr(training, "shifted_log_loss", log_loss)
    early, less = kept()
    assert early < 100 < step and value > less + 0.05


def test_the_weights_are_the_average_over_the_steps_with_the_statistics_of_the_last():
    """Without a decay they are those of the last step, which give the average by hand. It starts at the first weights;
    the decay is (1 + step) / (10 + step) as long as that is less than 0.15."""
    seed_torch(0, "classifier", "initialisation")
    average = build_classifier(TINY["custom"], X.shape[1:], 3).head.weight.detach()
    for step, decay in enumerate((0.1, 0.15, 0.15, 0.15)):
        last = fit(model="custom", steps=step + 1, ema_decay=0.0, keep="last").model
        average = decay * average + (1 - decay) * last.head.weight.detach()
    averaged = fit(model="custom", steps=4, ema_decay=0.15, keep="last").model
    torch.testing.assert_close(averaged.head.weight.detach(), average)
    assert not torch.allclose(average, last.head.weight)
    assert torch.equal(averaged.norm.running_mean, last.norm.running_mean) and averaged.norm.num_batches_tracked == 4


def test_a_look_weighs_classes_as_the_training_does():
    """Balanced: the mean over classes of the mean log-loss of each; none: the mean over rows."""
    rows = np.concatenate([np.flatnonzero(Y == 0), np.flatnonzero(Y > 0)[:8]])
    selection = (X[rows], Y[rows])
    for weighting in ("none", "balanced"):
        fitted = fit(selection=selection, class_weighting=weighting)
        p = with_class_shares(selection[1], fitted.predict(selection[0]),
                              None if weighting == "none" else 1 / np.bincount(selection[1])[selection[1]])
        losses = -np.log(p[np.arange(len(rows)), selection[1]])
        of_classes = [losses[selection[1] == label].mean() for label in range(3)]
        assert fitted.selection_loss == pytest.approx(losses.mean() if weighting == "none" else np.mean(of_classes))


class Recorder(nn.Module):
    """Tells `seen` the first value of each series that it is trained on."""

    def __init__(self, length, num_channels, num_classes):
        super().__init__()
        self.head = nn.Linear(num_channels, num_classes)

    def forward(self, x):
        if self.training:
            sys.modules["models_of_a_user"].seen.append(x[:, 0, 0])
        return self.head(x[:, 0])


def test_a_row_is_drawn_as_often_as_its_share_says(monkeypatch):
    monkeypatch.setitem(sys.modules, "models_of_a_user", SimpleNamespace(WithBatchStatistics=Recorder, seen=[]))
    x = np.repeat(np.repeat([0, 1, 2], 20)[:, None, None].astype(np.float32), 2, axis=1)
    shares = np.repeat([[0.75, 0.25, 0.0], [0.0, 0.5, 0.5]], 20, axis=1) / 20
    fit_network((x, Y, shares), (x, Y), 3, TINY["custom"], dataclasses.replace(CONFIG, batch_size=500), 0, CPU)
    seen = torch.stack(sys.modules["models_of_a_user"].seen).int().numpy()
    assert seen.shape == (CONFIG.steps, 500)
    for part, expected in zip(np.split(seen, 2), ([0.75, 0.25, 0.0], [0.0, 0.5, 0.5]), strict=True):
        drawn = np.bincount(part.ravel(), minlength=3) / part.size
        assert drawn == pytest.approx(expected, abs=0.02) and not drawn[np.equal(expected, 0)].any()


def test_rows_of_the_second_part_of_the_training_correct_what_the_first_has_taught():
    """Source and target tell the class by the same value, with another sign."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(600, 4, 2)).astype(np.float32), np.arange(600) % 2
    is_target = np.arange(600) >= 400
    x[:, :, 0] += 2.0 * np.where(y == is_target, 1, -1)[:, None]
    target = x[is_target], y[is_target]
    config = ClassifierTrainingConfig(steps=120, evaluate_every=20, keep="last", learning_rate=0.02)
    for second in (True, False):
        shares = np.stack([of_part / of_part.sum() for of_part in (is_target != second, is_target == second)])
        p = fit_network((x, y, shares), target, 2, TINY["gru"], config, 0, CPU).predict(target[0])
        score = float(auroc(target[1], p)[0])
        assert (score > 0.9) if second else (score < 0.1)


def test_the_loss_of_soft_targets_is_the_expected_one_over_the_classes():
    """Against torch's cross-entropy with probabilities, by hand with weights of the classes, and with a user's loss."""
    logits, p = torch.randn(7, 3, dtype=torch.float64), torch.rand(7, 3, dtype=torch.float64).softmax(dim=1)
    weights, ones = torch.tensor([0.5, 1.0, 3.0]), torch.ones(3)
    torch.testing.assert_close(expected_losses(cross_entropy, logits, p, ones),
                               nn.functional.cross_entropy(logits, p, reduction="none"))
    by_hand = [sum(-float(p[row, k] * weights[k] * logits[row].log_softmax(0)[k]) for k in range(3))
               for row in range(7)]
    torch.testing.assert_close(expected_losses(cross_entropy, logits, p, weights), torch.tensor(by_hand).double())

    def absolute(logits, y):
        return (1 - logits.softmax(dim=1)[torch.arange(len(y)), y]).abs()

    torch.testing.assert_close(expected_losses(absolute, logits, p, ones), 1 - (p * logits.softmax(dim=1)).sum(dim=1))
    labels = torch.from_numpy(Y[:7])
    torch.testing.assert_close(expected_losses(cross_entropy, logits, nn.functional.one_hot(labels, 3), weights),
                               expected_losses(cross_entropy, logits, labels, weights))


@pytest.mark.parametrize("model", TINY)
def test_certain_shares_train_as_labels_do_and_uncertain_ones_are_learnt_as_they_are(model):
    labels, certain = (fit(y=y, model=model).predict(X) for y in (Y, np.eye(3)[Y]))
    np.testing.assert_allclose(certain, labels, atol=1e-4)
    shares, longer = [0.7, 0.2, 0.1], {"keep": "last", "steps": 120, "learning_rate": 0.03, "class_weighting": "none"}
    found = fit(y=np.tile(shares, (60, 1)), model=model, **longer).predict(X)
    np.testing.assert_allclose(found.mean(axis=0), shares, atol=0.05)


def test_a_log_loss_that_is_not_finite_is_refused(tmp_path):
    """Series beyond any that were trained on can overflow."""
    run = open_run(tmp_path, ClassifierConfig(), {})
    with pytest.raises(UserError, match=re.escape("not finite at step 5 of 'classifier' (selection_loss)")):
        fit(model="custom", run=run, selection=(np.full_like(X, np.inf), Y))
    assert not list(tmp_path.glob("state-*"))


def test_a_small_set_ends_far_above_chance_where_one_epoch_does_not():
    """360 rows of three classes; an epoch of them is one or two steps."""
    x, y = sinusoids(360, length=12, num_classes=3)
    selection = sinusoids(90, length=12, num_classes=3, seed=1)
    normalizer = Normalizer.fit("zscore", x)
    parts = [(normalizer.transform(series), labels) for series, labels in ((x, y), selection)]
    enough, epoch = (fit_network(*parts, 3, ClassifierModelConfig(), ClassifierTrainingConfig(steps=steps), 0, CPU)
                     for steps in (100, 2))
    assert enough.selection_auprc > 0.95 > 0.75 > epoch.selection_auprc
    assert enough.selection_loss < 0.3 < 1 < epoch.selection_loss
