"""The teacher: what it says of rows that it never saw, resuming, members that are fitted again, and refusals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from user_errors import assert_refused, contents, interrupted_after, run_command

from classifier import summary_models, teacher
from classifier.boosting import summaries
from classifier.teacher import Member, Teacher, ensemble_mean, members_of, teach
from classifier.train import normalized_splits
from tardiff.config import TeacherConfig, load_config
from tardiff.data.format import Dataset, Metadata, Split, read_dataset, replace_dataset, write_dataset
from tardiff.data.splits import halve_validation
from tardiff.evaluation.controls import subject_folds
from tardiff.evaluation.metrics import auroc, calibration_error
from tardiff.utils import cache
from tardiff.utils.checkpoint import load_arrays, read_json
from tardiff.utils.errors import UserError
from tardiff.utils.logging import open_run

CPU = torch.device("cpu")
META = Metadata("toy", ["a", "b"], ["", ""], ["no", "yes"])
MEMBERS = [{"model": "gru", "seeds": 2}, {"model": "boosting", "seeds": 1}, {"model": "forest", "seeds": 1},
           {"model": "logistic", "seeds": 1}]
SMALL = ["data=data", "output=out", "device=cpu", "workers=1", f"members={MEMBERS}", "model.rnn.hidden_size=4",
         "model.boosting.trees=5", "training.steps=20", "training.min_steps=0", "training.batch_size=32"]


@pytest.fixture(autouse=True, scope="module")
def _few_trees():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary_models, "TREES", 10)
        yield


def rows(count, seed, first_subject=0):
    """Series whose first channel is higher in class 1; subjects have two rows each."""
    generator = np.random.default_rng(seed)
    y = (np.arange(count) // 2 % 3 == 0).astype(np.int64)
    x = generator.normal(size=(count, 5, 2)) + [1.0, 0] * y[:, None, None]
    return Split(x.astype(np.float32), y, first_subject + np.arange(count) // 2)


SPLITS = {"train": rows(120, 0), "val": rows(80, 1, 1000)}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset("data", SPLITS, META)
    return tmp_path


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A finished teacher, which is only read."""
    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_dataset("data", SPLITS, META)
        assert run_command("teach", *SMALL) == 0
    return folder


def test_a_killed_teaching_goes_on_and_ends_as_an_uninterrupted_one(taught, workplace, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cache, "save_arrays", interrupted_after(7, cache.save_arrays))
        assert run_command("teach", *SMALL) == 130
    kept = {path: path.stat().st_mtime_ns for path in Path("out/fits").glob("*.npz")}
    assert len(kept) == 7 and not Path("out/model.safetensors").exists()
    assert run_command("teach", *SMALL) == 0
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in Path("out/fits").glob("*.npz")}.items()
    for name in ("model.safetensors", "out_of_fold.npz", "scores.json"):
        assert Path("out", name).read_bytes() == (taught / "out" / name).read_bytes()
    before = contents(workplace)
    assert run_command("teach", *SMALL) == 0 and contents(workplace) == before


def test_it_says_of_each_row_what_members_without_its_subject_say(taught, capsys):
    """Each fold, member by member, fitted here again on the rows of other subjects alone."""
    dataset = read_dataset(taught / "data", ("train", "val"))
    config = load_config(TeacherConfig, overrides=SMALL)
    _, parts = normalized_splits(dataset, config.normalizer)
    (x, y), subjects = parts["train"], dataset.train.subject
    p = load_arrays(taught / "out" / "out_of_fold.npz")["p"]
    assert p.shape == (120, 2) and p.dtype == np.float32
    held_out = subject_folds(subjects, y, config.seed)[3]
    others = ~np.isin(subjects, subjects[held_out])
    assert others.sum() + len(held_out) == len(y)
    found = [member.fit((x[others], y[others]), parts["selection"], 2, config, CPU).predict(x[held_out])
             for member in members_of(config)]
    gru = (found[0] + found[1]) / 2
    np.testing.assert_allclose(p[held_out], (gru + found[2] + found[3] + found[4]) / 4, atol=1e-6)


def test_a_loaded_teacher_says_what_it_said_and_its_scores_are_of_the_selection_half(taught):
    dataset = read_dataset(taught / "data", ("train", "val"))
    _, selection = halve_validation(dataset.val)
    p = Teacher.load(taught / "out", dataset, CPU).predict(selection.x)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    scores = read_json(taught / "out" / "scores.json")["selection half"]
    assert scores["auroc"] == pytest.approx(auroc(selection.y, p)[0], abs=1e-6) and scores["auroc"] > 0.85
    assert scores["calibration_error"] == pytest.approx(calibration_error(selection.y, p), abs=1e-5)
    assert Teacher.load(taught / "out", dataset, CPU).fingerprint() == Teacher.load(
        taught / "out", dataset, CPU).fingerprint()


def test_logistic_is_that_of_scikit_learn_on_standardised_summaries():
    x, y = SPLITS["train"].x, SPLITS["train"].y
    table = summaries(x)
    table = (table - table.mean(axis=0)) / table.std(axis=0)
    expected = LogisticRegression(C=0.1, max_iter=2000).fit(table, y).predict_proba(table)
    config = load_config(TeacherConfig, overrides=SMALL)
    found = Member("logistic", 0).fit((x, y), (x, y), 2, config, CPU).predict(x)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_rows_of_other_shares_are_weighted_rows():
    """Of whole numbers: as many copies of a row."""
    x, y = SPLITS["train"].x, SPLITS["train"].y
    counts = 1 + np.arange(len(y)) % 3
    config = load_config(TeacherConfig, overrides=SMALL)

    def said(*train):
        return Member("logistic", 0).fit(train, (x, y), 2, config, CPU).predict(x)

    table = summaries(x)
    table = (table - table.mean(axis=0)) / table.std(axis=0)
    copied = LogisticRegression(C=0.1 * len(y) / counts.sum(), max_iter=2000).fit(
        np.repeat(table, counts, axis=0), np.repeat(y, counts))
    np.testing.assert_allclose(said(x, y, counts[None] / counts.sum()), copied.predict_proba(table), atol=1e-4)
    assert np.abs(said(x, y, counts[None] / counts.sum()) - said(x, y)).max() > 0.01


@pytest.mark.parametrize("model", ["boosting", "logistic", "gru"])
def test_balanced_classes_are_those_of_the_rows_as_they_count(model):
    """Series of noise, so that what is said is the share of a class: half and half, whatever the shares of rows are."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(1200, 5, 2)).astype(np.float32)
    y = np.concatenate([np.arange(600) % 2, np.arange(600) % 20 == 0]).astype(np.int64)
    shares = np.repeat([0.05 / 600, 0.95 / 600], 600)[None]
    config = load_config(TeacherConfig, overrides=[*SMALL, "training.class_weighting=balanced"])
    fitted = Member(model, 0).fit((x, y, shares), (x, y), 2, config, CPU)
    said = fitted.predict(generator.normal(size=(500, 5, 2)).astype(np.float32))
    assert said[:, 1].mean() == pytest.approx(0.5, abs=0.06)


def test_a_forest_weighs_balanced_classes_by_the_rows_as_they_count():
    x, y = SPLITS["train"].x, SPLITS["train"].y
    counts = 1 + np.arange(len(y)) % 3
    config = load_config(TeacherConfig, overrides=[*SMALL, "training.class_weighting=balanced"])
    found = Member("forest", 0).fit((x, y, counts[None] / counts.sum()), (x, y), 2, config, CPU)
    forest = RandomForestClassifier(10, min_samples_leaf=5, random_state=found.model.random_state)
    of_class = counts.sum() / (2 * np.bincount(y, weights=counts))
    forest.fit(summaries(x), y, sample_weight=counts / counts.mean() * of_class[y])
    np.testing.assert_allclose(found.predict(x), forest.predict_proba(summaries(x)), atol=1e-9)


def test_a_target_of_its_own_is_taught_by_its_rows_as_much_as_they_count(workplace):
    """The first channel is lower in class 1 of the target, and higher in that of the source."""
    replace_dataset("data", {"train": rows(120, 0), "val": replace(rows(160, 1, 1000), x=-rows(160, 1, 1000).x)}, META)
    dataset = read_dataset("data", ("train", "val"))
    _, selection = halve_validation(dataset.val)
    found = []
    for share in (0.0, 0.5, 0.95):
        arguments = [f"guidance_share={share}", f"output=share-{share}"]
        assert run_command("teach", *SMALL, *arguments) == 0
        found.append(auroc(selection.y, Teacher.load(f"share-{share}", dataset, CPU).predict(selection.x))[0])
    assert found[0] < 0.3 < found[1] < found[2] and found[2] > 0.7
    config = load_config(TeacherConfig, overrides=[*SMALL, *arguments])
    _, parts = normalized_splits(dataset, config.normalizer)
    (x, y), (of_guidance, its_y) = parts["train"], parts["guidance"]
    held_out = subject_folds(dataset.train.subject, y, config.seed)[2]
    others = np.setdiff1d(np.arange(len(y)), held_out)
    shares = [0.05 / len(others)] * len(others) + [0.95 / len(its_y)] * len(its_y)
    train = np.concatenate([x[others], of_guidance]), np.concatenate([y[others], its_y]), np.array([shares])
    said = [member.fit(train, parts["selection"], 2, config, CPU).predict(x[held_out]) for member in members_of(config)]
    np.testing.assert_allclose(load_arrays(f"share-{share}/out_of_fold.npz")["p"][held_out],
                               ensemble_mean(members_of(config), said), atol=1e-6)


class Perfect:
    def predict(self, x):
        return np.eye(2)[(x[:, 0, 0] > 0).astype(int)]


def test_a_perfect_teacher_is_told_as_one(workplace, monkeypatch, capsys):
    splits = {name: replace(part, x=np.where(part.y == 1, np.float32(1), np.float32(-1))[:, None, None] + 0 * part.x)
              for name, part in SPLITS.items()}
    replace_dataset("data", splits, META)
    monkeypatch.setattr(Member, "fit", lambda *_: Perfect())
    config = load_config(TeacherConfig, overrides=[*SMALL, "members=[{model: forest, seeds: 1}]"])
    dataset = read_dataset("data", ("train", "val"))
    open_run("out", config, {})
    found = teach(config, dataset, CPU, 1)
    np.testing.assert_array_equal(found["out_of_fold"], np.eye(2)[dataset.train.y])
    np.testing.assert_array_equal(load_arrays("out/out_of_fold.npz")["p"], np.eye(2)[dataset.train.y])
    assert calibration_error(dataset.train.y, found["out_of_fold"]) == 0


def test_an_architecture_counts_alike_whatever_its_seeds():
    members = [Member("gru", 0), Member("gru", 1), Member("forest", 0)]
    parts = [np.full((3, 2), value) for value in (0.1, 0.3, 0.6)]
    np.testing.assert_allclose(ensemble_mean(members, parts), 0.4)


def test_what_cannot_be_fitted_again_is_refused(taught, monkeypatch):
    dataset = read_dataset(taught / "data", ("train", "val"))
    other = Dataset(Path("other"), META, {**dataset.splits, "train": dataset.train[:100]})
    with pytest.raises(UserError, match="taught other train rows than those of other"):
        Teacher.load(taught / "out", other, CPU)
    with monkeypatch.context() as patch:
        patch.setattr(sklearn, "__version__", "0.1")
        with pytest.raises(UserError, match=r"here is 0\.1, which may fit other models"):
            Teacher.load(taught / "out", dataset, CPU)
    monkeypatch.setattr(teacher, "fit_summary_model", lambda *_: Perfect())
    with pytest.raises(UserError, match="forest-0, fitted again on the same rows, differs by"):
        Teacher.load(taught / "out", dataset, CPU).predict(dataset.val.x)


@pytest.mark.parametrize(("setting", "expected"), [
    ("members=[]", "must hold at least one model"), ("members=[{model: gru}]", "holds {'model': 'gru'}; expected"),
    ("members=[{model: grus, seeds: 1}]", "expected {model: NAME, seeds: NUMBER}"),
    ("members=[{model: gru, seeds: 0}]", "a whole number from 1 on"),
    ("members=[{model: gru, seeds: 1}, {model: gru, seeds: 2}]", "each once"),
    ("members=[{model: logistic, seeds: 2}]", "must give logistic one seed"), ("model.name=lstm", "has no effect"),
    ("members=[gru]", "'members' must be a list"), ("model.inputs=values+mask", "a teacher reads values")])
def test_settings_that_cannot_apply_are_refused(workplace, capfd, setting, expected):
    before = contents(workplace)
    assert_refused(run_command("teach", *SMALL, setting), capfd.readouterr().err, (expected,))
    assert contents(workplace) == before


def test_a_class_in_one_fold_is_refused(workplace, capfd):
    y = np.zeros(120, dtype=np.int64)
    y[:2] = 1
    replace_dataset("data", {**SPLITS, "train": replace(SPLITS["train"], y=y)}, META)
    assert_refused(run_command("teach", *SMALL), capfd.readouterr().err, ("without fold", "no row of class 1 (yes)"))
