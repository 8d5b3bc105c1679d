"""The dataset-independent steps of preprocessing, against plain loops and hand-made numbers."""

import numpy as np
import pytest

from data_preprocess import grid
from tardiff.data.format import Split
from tardiff.utils.errors import UserError

NAN = np.nan


@pytest.mark.parametrize(("name", "valid", "invalid"), [
    ("HR", [0.5, 299.9], [-1, 0, 300, NAN]),
    ("SBP", [0.5, 399.9], [0, 400]),
    ("DBP", [0.5, 299.9], [0, 300]),
    ("MBP", [0.5, 299.9], [0, 300]),
    ("RR", [0.5, 69.9], [0, 70]),
    ("Temp", [10.1, 49.9], [-17.8, 10, 50, 98.6]),
    ("SpO2", [0.5, 100], [0, 100.1, np.inf]),
])
def test_valid_ranges_are_those_of_mimic_code(name, valid, invalid):
    channel = [vital.name for vital in grid.VITALS].index(name)
    values = np.array(valid + invalid, dtype=float)
    expected = [True] * len(valid) + [False] * len(invalid)
    assert grid.in_range(np.full(len(values), channel), values).tolist() == expected


def test_channels_stand_in_the_order_of_the_paper():
    assert [vital.name for vital in grid.VITALS] == ["HR", "SBP", "DBP", "MBP", "RR", "Temp", "SpO2"]


def test_a_dropped_row_counts_once_under_its_first_reason():
    kept, counts = grid.drop_rows({"first": np.array([True, True, False, False]),
                                   "second": np.array([True, False, True, False])})
    assert kept.tolist() == [False, False, False, True]
    assert counts == {"first": 2, "second": 1}


def test_grid_means_agree_with_a_loop():
    generator = np.random.default_rng(0)
    shape = (4, 6, 3)
    stay, hour, channel = (generator.integers(size, size=40) for size in shape)
    value = generator.normal(100, 30, size=40)
    expected = np.full(shape, NAN, dtype=np.float32)
    for cell in set(zip(stay, hour, channel, strict=True)):
        members = [v for *where, v in zip(stay, hour, channel, value, strict=True) if tuple(where) == cell]
        expected[cell] = sum(members) / len(members)
    means = grid.grid_means(stay, hour, channel, value, shape)
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, expected, rtol=1e-6)
    assert np.isnan(expected).any() and (~np.isnan(expected)).any()


def random_cohort(subjects=60, stays_each=2):
    generator = np.random.default_rng(2)
    subject = np.repeat(np.arange(subjects), stays_each)
    x = generator.normal(100, 10, size=(len(subject), 5, 7)).astype(np.float32)
    x[generator.random(x.shape) < 0.5] = NAN
    return x, (subject % 3 == 0).astype(np.int64), subject


def test_no_subject_stands_in_two_splits_and_every_row_in_one():
    x, y, subject = random_cohort()
    splits, _ = grid.split_and_impute(Split(x, y, subject), (0.6, 0.2, 0.2), seed=0)
    of = {name: set(split.subject.tolist()) for name, split in splits.items()}
    assert not of["train"] & of["val"] and not of["train"] & of["test"] and not of["val"] & of["test"]
    assert sum(map(len, splits.values())) == len(subject)
    assert {name: len(members) for name, members in of.items()} == {"train": 36, "val": 12, "test": 12}


def test_medians_come_from_observed_training_cells_only():
    x, y, subject = random_cohort()
    splits, imputation = grid.split_and_impute(Split(x, y, subject), (0.6, 0.2, 0.2), seed=0)
    in_train = np.isin(subject, splits["train"].subject)
    medians = np.nanmedian(x[in_train], axis=(0, 1))
    np.testing.assert_array_equal(imputation.medians, medians)

    elsewhere_changed, train_changed = x.copy(), x.copy()
    elsewhere_changed[~in_train] += 1000
    train_changed[in_train] += 1000
    assert grid.split_and_impute(Split(elsewhere_changed, y, subject), (0.6, 0.2, 0.2), seed=0)[1] == imputation
    assert min(grid.split_and_impute(Split(train_changed, y, subject), (0.6, 0.2, 0.2), seed=0)[1].medians) > 1000


def test_leading_gaps_hold_the_median_and_the_mask_keeps_what_was_observed():
    x, y, subject = random_cohort()
    splits, imputation = grid.split_and_impute(Split(x, y, subject), (0.6, 0.2, 0.2), seed=0)
    for split in splits.values():
        members = np.isin(subject, split.subject)
        np.testing.assert_array_equal(split.mask, ~np.isnan(x[members]))
        np.testing.assert_array_equal(split.x[split.mask], x[members][split.mask])
        leading = ~np.logical_or.accumulate(split.mask, axis=1)
        np.testing.assert_array_equal(split.x[leading], np.broadcast_to(imputation.medians, split.x.shape)[leading])
        assert leading.any() and np.isfinite(split.x).all() and split.x.dtype == np.float32


def test_a_channel_that_training_never_observed_is_named():
    x, y, subject = random_cohort()
    x[..., 4] = NAN
    with pytest.raises(UserError, match="channel RR"):
        grid.split_and_impute(Split(x, y, subject), (0.6, 0.2, 0.2), seed=0)
