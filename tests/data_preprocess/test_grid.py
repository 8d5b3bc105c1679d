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
    """Two stays of each subject, of whom 36 are in train."""
    generator = np.random.default_rng(2)
    subject = np.repeat(np.arange(subjects), stays_each)
    x = generator.normal(100, 10, size=(len(subject), 5, 7)).astype(np.float32)
    x[generator.random(x.shape) < 0.5] = NAN
    return x, subject % 5 < 3


def filled(x, in_train):
    y = np.zeros(len(x), dtype=np.int64)
    return grid.fill_gaps({name: Split(x[rows], y[rows]) for name, rows in (("train", in_train), ("test", ~in_train))},
                          "forward")


def test_medians_come_from_observed_training_cells_only():
    x, in_train = random_cohort()
    _, imputation = filled(x, in_train)
    np.testing.assert_array_equal(imputation.medians, np.nanmedian(x[in_train], axis=(0, 1)))
    elsewhere_changed, train_changed = x.copy(), x.copy()
    elsewhere_changed[~in_train] += 1000
    train_changed[in_train] += 1000
    assert filled(elsewhere_changed, in_train)[1] == imputation
    assert min(filled(train_changed, in_train)[1].medians) > 1000


def test_leading_gaps_hold_the_median_and_the_mask_keeps_what_was_observed():
    x, in_train = random_cohort()
    splits, imputation = filled(x, in_train)
    for split, rows in ((splits["train"], in_train), (splits["test"], ~in_train)):
        np.testing.assert_array_equal(split.mask, ~np.isnan(x[rows]))
        np.testing.assert_array_equal(split.x[split.mask], x[rows][split.mask])
        leading = ~np.logical_or.accumulate(split.mask, axis=1)
        np.testing.assert_array_equal(split.x[leading], np.broadcast_to(imputation.medians, split.x.shape)[leading])
        assert leading.any() and np.isfinite(split.x).all() and split.x.dtype == np.float32


def test_a_channel_that_training_never_observed_is_named():
    x, in_train = random_cohort()
    x[in_train, :, 4] = NAN
    with pytest.raises(UserError, match=r"channel RR .*tables: --channels HR SBP DBP MBP Temp SpO2\)"):
        filled(x, in_train)


def test_the_share_of_a_channel_that_nobody_observed_is_0(capsys):
    x = np.zeros((2, 3, 1), dtype=np.float32)
    found = grid.summarize_channels({"train": Split(x, np.array([0, 1]), mask=x > 0)}, grid.VITALS[:1])
    assert found["HR"]["observed"] == 0 and np.isnan(found["HR"]["train_median"])
    assert "0.0%" in capsys.readouterr().out
