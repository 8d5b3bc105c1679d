"""Splits by subject: for any cohort, nobody stands on two sides and every part looks like the whole."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tardiff.data.format import Dataset, Metadata, Split
from tardiff.data.imputation import Imputation
from tardiff.data.splits import (
    halve_validation,
    joined_subjects,
    rotated,
    split_subjects,
    split_with_target,
    subset_of_rows,
)
from tardiff.utils.errors import UserError

RATIOS = {"train": 0.6, "val": 0.2, "test": 0.2}


@st.composite
def cohorts(draw, classes=3):
    """(subject (N,), y (N,)): 8 to 40 subjects, numbers or text, of 1 to 4 rows in any order."""
    number = draw(st.integers(8, 40))
    stays = draw(st.lists(st.integers(1, 4), min_size=number, max_size=number))
    names = draw(st.permutations(range(1000, 1000 + 7 * number, 7)))
    subject = np.repeat(np.array(names), stays)
    if draw(st.booleans()):
        subject = np.array([f"patient {name}" for name in subject])
    y = draw(st.lists(st.integers(0, classes - 1), min_size=len(subject), max_size=len(subject)))
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(subject))
    return subject[order], np.array(y, dtype=np.int64)


@given(cohorts(), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_parts_cover_every_row_once_and_share_no_subject(cohort, seed):
    subject, y = cohort
    parts = split_subjects(subject, y, RATIOS, seed)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(y)))
    holders = [set(subject[rows].tolist()) for rows in parts.values()]
    assert sum(map(len, holders)) == len(set(subject.tolist()))
    assert all(np.all(np.diff(rows) > 0) for rows in parts.values())


@given(cohorts(), st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_rows_does_not_matter(cohort, seed, random):
    subject, y = cohort
    order = np.array(random.sample(range(len(y)), len(y)))
    before = split_subjects(subject, y, RATIOS, seed)
    after = split_subjects(subject[order], y[order], RATIOS, seed)
    assert all(set(subject[before[name]].tolist()) == set(subject[order][after[name]].tolist()) for name in RATIOS)


@given(cohorts(classes=2), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_each_part_has_its_share_of_each_stratum_within_one_subject(cohort, seed):
    """A subject's stratum is its highest label; sizes are the ratios of the subjects, rounded at the cuts."""
    subject, y = cohort
    stratum = {name: max(y[subject == name]) for name in np.unique(subject)}
    share = np.bincount(list(stratum.values()), minlength=2) / len(stratum)
    for name, rows in split_subjects(subject, y, RATIOS, seed).items():
        members = np.unique(subject[rows])
        counts = np.bincount([stratum[member] for member in members], minlength=2)
        assert np.all(np.abs(counts - len(members) * share) < 1 + 1e-9)
        assert abs(len(members) - RATIOS[name] * len(stratum)) <= 1


def test_many_classes_stay_in_proportion():
    y = np.repeat(np.arange(5), [400, 200, 100, 50, 25])
    for rows in split_subjects(np.arange(len(y)), y, RATIOS, 0).values():
        assert np.allclose(np.bincount(y[rows]), len(rows) * np.array([16, 8, 4, 2, 1]) / 31, atol=4)


def test_the_seed_decides_the_parts():
    subject, y = np.arange(50), np.arange(50) % 2
    first, again, other = (split_subjects(subject, y, RATIOS, seed)["test"] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize(("ratios", "seed", "message"), [
    ({"train": 0.5, "test": 0.4}, 0, "sum to 1"), ({"train": 1.5, "test": -0.5}, 0, "positive"),
    ({"train": float("nan"), "test": 1.0}, 0, "sum to 1"), (RATIOS, -1, "0 or more"),
    ({"train": 0.99, "test": 0.01}, 0, "'test' would be empty")])
def test_impossible_splits_are_refused(ratios, seed, message):
    with pytest.raises(UserError, match=message):
        split_subjects(np.arange(10), np.zeros(10, dtype=np.int64), ratios, seed)


@given(cohorts(classes=2))
@settings(max_examples=40, deadline=None)
def test_the_halves_of_validation_share_no_subject_and_lose_no_row(cohort):
    subject, y = cohort
    x = np.arange(len(y), dtype=np.float32)[:, None, None]
    guidance, selection = halve_validation(Split(x, y, subject, np.ones(x.shape, dtype=bool)))
    assert not np.intersect1d(guidance.subject, selection.subject).size
    assert sorted([*guidance.x.ravel(), *selection.x.ravel()]) == list(range(len(y)))
    for half in (guidance, selection):
        rows = half.x.ravel().astype(int)
        assert np.array_equal(half.y, y[rows]) and np.array_equal(half.subject, subject[rows])
        assert len(half.mask) == len(half)


def test_without_subjects_each_row_is_its_own():
    split = Split(np.zeros((20, 1, 1), dtype=np.float32), np.repeat([0, 1], [14, 6]))
    assert [np.bincount(half.y).tolist() for half in halve_validation(split)] == [[7, 3], [7, 3]]


def test_joined_subjects_keep_rows_of_a_subject_together_and_parts_apart():
    first = Split(np.zeros((4, 1, 1), np.float32), np.zeros(4, np.int64), np.array(["b", "a", "b", "a"]))
    second = Split(np.zeros((2, 1, 1), np.float32), np.zeros(2, np.int64), None)
    assert joined_subjects([first, second, first]).tolist() == [1, 0, 1, 0, 2, 3, 5, 4, 5, 4]


def dataset_of(subject, y, with_subjects=True):
    """Three splits, a subject on one side alone, whose x tells the row."""
    x = np.arange(len(y), dtype=np.float32)[:, None, None] * np.ones((1, 2, 1), dtype=np.float32)
    p = np.float32(1 / (2 + x[:, 0])) * np.ones((1, 3), dtype=np.float32)
    splits = {name: Split(x[rows], y[rows], subject[rows] if with_subjects else None, x[rows] % 2 == 0, p[rows], rows)
              for name, rows in split_subjects(subject, y, RATIOS, 0).items()}
    return Dataset(None, Metadata("a", ["c"], [""], ["0", "1", "2"]), splits)


@given(cohorts(), st.sampled_from([3, 5]))
@settings(max_examples=30, deadline=None)
def test_rotations_test_every_row_once_and_keep_each_subject_on_one_side(cohort, count):
    subject, y = cohort
    turns = [rotated(dataset_of(subject, y), number, count) for number in range(count)]
    tested = np.concatenate([turn.test.x[:, 0, 0] for turn in turns])
    assert np.array_equal(np.sort(tested), np.arange(len(y)))
    for number, turn in enumerate(turns):
        assert sum(map(len, turn.splits.values())) == len(y)
        assert sum(len(set(part.subject.tolist())) for part in turn.splits.values()) == len(set(subject.tolist()))
        assert np.array_equal(turn.val.x, turns[(number + 1) % count].test.x)
        for part in turn.splits.values():
            rows = part.x[:, 0, 0].astype(int)
            assert np.array_equal(part.y, y[rows]) and np.array_equal(part.subject, subject[rows])
            assert np.array_equal(part.id, rows)
            assert np.array_equal(part.mask, part.x % 2 == 0)
            assert np.array_equal(part.p[:, 0], np.float32(1 / (2 + part.x[:, 0, 0])))


def test_rows_without_subjects_are_rotated_as_subjects_of_their_own():
    y = np.tile(np.arange(3), 20)
    turn = rotated(dataset_of(np.arange(60), y, with_subjects=False), 0, 5)
    assert [len(part) for part in turn.splits.values()] == [36, 12, 12]
    assert len(set(np.concatenate([part.subject for part in turn.splits.values()]))) == 60


@given(cohorts(classes=2), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_target_is_split_as_if_it_were_alone_and_the_source_trains(cohort, seed):
    subject, y = cohort
    names = np.unique(subject)
    is_target = np.isin(subject, names[:len(names) * 3 // 4])
    whole = Split(np.arange(len(y), dtype=np.float32)[:, None, None], y, subject)
    splits = split_with_target(whole, is_target, RATIOS, seed)
    alone = split_subjects(subject[is_target], y[is_target], RATIOS, seed)
    rows = np.flatnonzero(is_target)
    guidance, selection = halve_validation(splits["val"])
    for found, expected in ((splits["train"], np.flatnonzero(~is_target)), (guidance, rows[alone["train"]]),
                            (selection, rows[alone["val"]]), (splits["test"], rows[alone["test"]])):
        assert found.x[:, 0, 0].tolist() == expected.tolist() and found.y.tolist() == y[expected].tolist()


def test_a_rotation_fills_gaps_with_the_medians_of_its_own_training_rows():
    generator = np.random.default_rng(0)
    readings, mask = generator.normal(size=(40, 3, 2)).astype(np.float32), generator.random((40, 3, 2)) < 0.4
    y, original = np.tile([0, 1], 20), Imputation("forward", [100.0, -100.0])
    x = original.fill(np.where(mask, readings, np.float32(np.nan)))
    splits = {name: Split(x[rows], y[rows], rows, mask[rows])
              for name, rows in split_subjects(np.arange(40), y, RATIOS, 0).items()}
    turn = rotated(Dataset(None, Metadata("a", ["b", "c"], ["", ""], ["0", "1"], imputation=original), splits), 1, 4)
    of_training = [np.median(turn.train.x[..., channel][turn.train.mask[..., channel]]) for channel in range(2)]
    assert turn.meta.imputation.medians == pytest.approx(of_training)
    for part in turn.splits.values():
        assert np.array_equal(part.mask, mask[part.subject])
        assert np.array_equal(part.x[part.mask], readings[part.subject][part.mask])
        first = ~part.mask[:, 0]
        assert np.allclose(part.x[:, 0][first], np.broadcast_to(of_training, first.shape)[first])


@pytest.mark.parametrize("with_halves", [False, True])
def test_a_subset_has_n_rows_of_train_and_val_by_subject_and_holds_the_smaller_ones(with_halves):
    generator = np.random.default_rng(0)
    y = (generator.random(1000) < 0.2).astype(np.int64)
    splits = {name: Split(np.zeros((len(rows), 1, 1), np.float32), y[rows], rows) for name, rows in
              {"train": np.arange(600), "val": np.arange(600, 800), "test": np.arange(800, 1000)}.items()}
    if with_halves:
        splits["val"] = replace(splits["val"], guidance=np.arange(200) < 80)
    whole = Dataset(None, Metadata("a", ["b"], [""], ["0", "1"]), splits)
    found = {(n, number): subset_of_rows(whole, n, number, seed=3) for n in (100, 400, 800) for number in range(4)}
    for (n, number), part in found.items():
        assert len(part.train) == n * 0.75 and len(part.val) == n / 4
        assert abs(part.train.y.mean() - y[:600].mean()) < 2 / len(part.train)
        assert part.test is splits["test"] and part.positive == 1
        for name in ("train", "val"):
            assert set(part.splits[name].subject) <= set(splits[name].subject)
            assert set(found[100, number].splits[name].subject) <= set(part.splits[name].subject)
        if with_halves:
            assert part.val.guidance.sum() == n / 10
            assert (part.val.guidance == (part.val.subject < 680)).all()
    for first, second in itertools.combinations(range(4), 2):
        shared = np.intersect1d(*(found[100, number].train.subject for number in (first, second)))
        assert len(shared) <= 12, "of 75; the points are 0, 0.62, 0.24 and 0.85 of the way round"
    again, other = (subset_of_rows(whole, 100, 0, seed) for seed in (3, 4))
    assert again.train.fingerprint() == found[100, 0].train.fingerprint() != other.train.fingerprint()


@pytest.mark.parametrize("sizes", [(37, 20, 29), (23, 11, 7), (50, 13, 14)])
def test_a_subset_with_one_row_more_keeps_all_that_it_had(sizes):
    train, guidance, selection = sizes
    y = np.tile([0, 0, 1], 50)
    splits = {"train": Split(np.zeros((train, 1, 1), np.float32), y[:train], np.arange(train)),
              "val": Split(np.zeros((guidance + selection, 1, 1), np.float32), y[:guidance + selection],
                           1000 + np.arange(guidance + selection), guidance=np.arange(guidance + selection) < guidance)}
    whole, held = Dataset(None, Metadata("a", ["b"], [""], ["0", "1"]), splits), set()
    for rows in range(1, sum(sizes) + 1):
        part = subset_of_rows(whole, rows, 1, 0)
        now = {*part.train.subject, *part.val.subject}
        assert len(now) == rows and held < now
        assert abs(part.val.guidance.sum() - rows * guidance / sum(sizes)) <= 1
        held = now


def test_rows_that_train_is_not_of_are_not_rotated():
    y = np.tile([0, 1], 20)
    whole = Split(np.zeros((40, 1, 1), np.float32), y, np.arange(40))
    splits = split_with_target(whole, np.arange(40) >= 20, RATIOS, 0)
    with pytest.raises(UserError, match=r"a target of its own.*Give rotations=1"):
        rotated(Dataset(None, Metadata("a", ["b"], [""], ["0", "1"]), splits), 0, 3)


def test_a_subset_takes_whole_subjects():
    subject = np.repeat(np.arange(40), 5)
    splits = {name: Split(np.zeros((200, 1, 1), np.float32), np.arange(40)[subject % 40] % 2, subject + start)
              for name, start in (("train", 0), ("val", 100))}
    part = subset_of_rows(Dataset(None, Metadata("a", ["b"], [""], ["0", "1"]), splits), 104, 1, 0)
    assert len(part.train) == len(part.val) == 50, "52 are more than 10 subjects have"
    assert (np.unique(part.train.subject, return_counts=True)[1] == 5).all()
    with pytest.raises(UserError, match="train and val have 400 rows, a subset was to have 401"):
        subset_of_rows(Dataset(None, Metadata("a", ["b"], [""], ["0", "1"]), splits), 401, 0, 0)
