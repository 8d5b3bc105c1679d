"""A target of its own: what conditions say, and datasets that train on a source and test on a target."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_preprocess import target
from tardiff.data.format import Dataset, read_dataset, write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.data.splits import halve_validation
from tardiff.utils.errors import UserError

TEXTS = np.array(["2", "4", "", "2.0", "Medical ICU", "-1.5"])


@pytest.mark.parametrize(("condition", "rows"), [
    ("ICUType in (2, 4)", [0, 1, 3]), ("icutype=2", [0, 3]), ("icutype != 2", [1, 4, 5]),
    ("icutype not in (2)", [1, 4, 5]),
    ("icutype = 'Medical ICU'", [4]), ('icutype IN ("Medical ICU" , 4)', [1, 4]), ("icutype in ('')", []),
    ("icutype = 2 and other = b", [3]), ("other in (a,b) AND icutype = 4", [1]), ("other = '2; DROP TABLE stays'", []),
])
def test_a_condition_holds_of_these_rows(condition, rows):
    columns = {"icutype": TEXTS, "other": np.array(["a", "a", "a", "b", "b", "b"])}
    holds = np.all([term.holds(columns[term.column]) for term in target.parse("target", condition)], axis=0)
    assert np.flatnonzero(holds).tolist() == rows


@pytest.mark.parametrize("relation", ["<", "<=", ">", ">="])
def test_order_is_that_of_numbers(relation):
    values = np.random.default_rng(0).integers(-20, 120, size=200)
    (term,) = target.parse("target", f"age {relation} 9")
    expected = pd.DataFrame({"age": values}).query(f"age {relation} 9").index.tolist()
    assert np.flatnonzero(term.holds(values.astype(str))).tolist() == expected
    with pytest.raises(UserError, match="holds 'old'"):
        term.holds(np.array(["1", "old"]))


@pytest.mark.parametrize("condition", [
    "", "age", "age in", "age in ()", "age in (1", "age = 1 or age = 2", "age < old", "age = 1 and", "age = 1; x", "1",
    "age in (1, 2) age = 3", "age = '1", "age == 1", "f(age) = 1", "and and and"])
def test_anything_else_is_refused_with_an_example(condition):
    with pytest.raises(UserError, match="expected a condition such as"):
        target.parse("target", condition)


def test_two_dataset_folders_become_one(tmp_path, monkeypatch, refusal, check_composed):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("A", 0), ("B", 1)):
        splits, meta = simulate_cohort(200, seed=seed)
        write_dataset(name, splits, meta)
    arguments = ["--input", "A", "--target", "B", "--output", "C"]
    assert "stands in train and in" in refusal(target.main, *arguments)  # Both number their patients from 0.
    target.main([*arguments, "--other-patients"])
    source, other, made = (read_dataset(name) for name in "ABC")
    check_composed(made, lambda own: own.startswith("target "), str)
    np.testing.assert_array_equal(made.train.x, source.train.x)
    guidance, selection = halve_validation(made.val)
    for found, expected in ((guidance, other.train), (selection, other.val), (made.test, other.test)):
        np.testing.assert_array_equal(found.mask, expected.mask)
        np.testing.assert_array_equal(found.x[found.mask], expected.x[expected.mask])
        np.testing.assert_array_equal(found.y, expected.y)
    late = ~made.test.mask[:, 0]
    assert late.any()  # What nothing came before has the median of the source.
    for row, channel in np.argwhere(late):
        assert made.test.x[row, 0, channel] == np.float32(source.meta.imputation.medians[channel])
    write_dataset("D", other.splits, replace(other.meta, channels=[*other.meta.channels[:-1], "other"]))
    assert "channels: A has" in refusal(target.main, "--input", "A", "--target", "D", "--output", Path("E"))


def test_patients_of_one_folder_are_kept_where_the_other_knows_none():
    """Or rows of one test patient would be resampled as several patients."""
    (first, meta), (second, _) = (simulate_cohort(200, seed=seed) for seed in (0, 1))
    nobody = {name: replace(split, subject=None) for name, split in first.items()}
    for source, other in ((nobody, second), (second, nobody)):
        splits, _ = target.composed(Dataset(Path("A"), meta, source), Dataset(Path("B"), meta, other), False)
        np.testing.assert_equal(splits["train"].subject, source["train"].subject)
        np.testing.assert_equal(splits["test"].subject, other["test"].subject)
