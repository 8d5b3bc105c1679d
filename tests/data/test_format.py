"""The dataset on disk: what is written is what is read, and every fault is named before anything is written."""

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from user_errors import contents

from tardiff.data.format import (
    ARRAYS,
    Dataset,
    Metadata,
    Split,
    class_numbers,
    interval_seconds,
    read_dataset,
    read_split,
    replace_dataset,
    split_faults,
    write_dataset,
    write_split,
    write_split_in_parts,
)
from tardiff.data.imputation import Imputation
from tardiff.utils.errors import UserError
from tardiff.utils.lock import LOCK

META = Metadata("toy", ["HR", "Temp"], ["bpm", "C"], ["alive", "dead"], "1 h", "made up", "CC0", {"dropped": 3})


def toy_split(rows=6, first_subject=0, seed=0):
    """Rows of both classes, with NaN exactly where the mask is False."""
    generator = np.random.default_rng(seed)
    mask = generator.random((rows, 4, 2)) < 0.8
    x = np.where(mask, generator.normal(size=mask.shape), np.nan).astype(np.float32)
    p = generator.dirichlet([1, 1], rows).astype(np.float32)
    subject = first_subject + np.arange(rows)
    return Split(x, np.arange(rows) % 2, subject, mask, p, 7 * subject)


def toy_dataset():
    return {"train": toy_split(6, 0, 1), "val": toy_split(4, 10, 2), "test": toy_split(2, 20, 3)}


def assert_same(first, second):
    for name in ARRAYS:
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_a_dataset_is_read_as_it_was_written(tmp_path):
    splits = toy_dataset()
    write_dataset(tmp_path / "new" / "toy", splits, META)
    dataset = read_dataset(tmp_path / "new" / "toy")
    assert dataset.meta == META and dataset.shape == (4, 2) and dataset.num_classes == 2
    for name, split in splits.items():
        assert_same(dataset.splits[name], split)
        assert dataset.splits[name].fingerprint() == split.fingerprint()


def test_the_positive_class_is_the_one_stated_else_the_rarest_of_train(tmp_path):
    splits = toy_dataset()
    rare = {**splits, "train": replace(splits["train"], y=np.array([0, 1, 1, 1, 0, 1]))}
    for name, parts, positive, expected in (("even", splits, "", 1), ("rare", rare, "", 0), ("named", rare, "dead", 1)):
        write_dataset(tmp_path / name, parts, replace(META, positive=positive))
        assert read_dataset(tmp_path / name).positive == expected
    meta = tmp_path / "named" / "meta.json"
    meta.write_text(meta.read_text().replace('"positive": "dead"', '"positive": "gone"'))
    with pytest.raises(UserError, match="positive 'gone' is not one of the classes alive, dead"):
        read_dataset(tmp_path / "named")


def test_another_dataset_in_the_folder_is_replaced_where_that_is_asked_for_alone(tmp_path):
    splits = toy_dataset()
    write_dataset(tmp_path / "toy", splits, META)
    written = contents(tmp_path)
    write_dataset(tmp_path / "toy", splits, META)
    assert contents(tmp_path) == written
    ids = {**splits, "test": replace(splits["test"], id=splits["test"].id[::-1])}
    for other, meta in (({"train": splits["train"]}, META), (ids, META), (splits, replace(META, source="elsewhere"))):
        with pytest.raises(UserError, match="holds another dataset"):
            write_dataset(tmp_path / "toy", other, meta)
    assert contents(tmp_path) == written
    replace_dataset(tmp_path / "toy", {"train": splits["train"]}, META)
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == ["meta.json", "train.npz"]


@pytest.mark.parametrize("found", ["notes.txt", "train.npz", "provenance.json"])
def test_what_is_no_dataset_stays(tmp_path, found):
    (tmp_path / found).write_text("mine")
    with pytest.raises(UserError, match="did not make"):
        write_dataset(tmp_path, toy_dataset(), META)
    assert contents(tmp_path) == {tmp_path / found: b"mine"}


def test_a_folder_that_another_process_writes_is_refused(tmp_path, holder):
    with pytest.raises(UserError, match="is being written by process"):
        write_dataset(tmp_path / "run", toy_dataset(), META)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


@pytest.mark.parametrize("missing", [("subject",), ("mask",), ("p",), ("id",), ("subject", "mask", "p", "id")])
def test_all_but_series_and_labels_may_be_unknown(tmp_path, missing):
    split = replace(toy_split(), **dict.fromkeys(missing))
    split = replace(split, x=np.nan_to_num(split.x))
    write_dataset(tmp_path, {"train": split}, META)
    dataset = read_dataset(tmp_path, ("train",))
    assert_same(dataset.train, split)
    assert not hasattr(dataset, "val")


@pytest.mark.parametrize("subject", [["s1", "s10", "s2", "s3", "s4", "s5"], ["Ærø", "日本", "é", "z", "ü", "s"]])
def test_subjects_may_be_text_in_any_script(tmp_path, subject):
    split = replace(toy_split(), subject=np.array(subject))
    write_dataset(tmp_path, {"train": split}, META)
    read = read_dataset(tmp_path, ("train",)).train
    assert_same(read, split)
    assert read.fingerprint() == split.fingerprint()
    assert read.fingerprint() != replace(split, subject=split.subject[::-1]).fingerprint()


def test_the_fingerprint_depends_on_content_only():
    split = toy_split()
    text = replace(split, subject=np.array(["a", "b", "c", "d", "e", "f"]))
    copies = [
        (split, replace(split, x=np.asfortranarray(split.x))),
        (split, Split(*[np.repeat(array, 2, axis=0)[::2] for array in split.arrays().values()])),
        (text, replace(text, subject=text.subject.astype("U40"))),
        (split, replace(split, id=split.id[::-1])), (split, replace(split, id=None))]
    assert all(first.fingerprint() == second.fingerprint() for first, second in copies)


def test_the_fingerprint_changes_with_any_value_and_with_the_order_of_rows():
    split = toy_split()
    others = [
        split, split[::-1], split[:5], replace(split, mask=None), replace(split, subject=None),
        replace(split, p=None), with_value(split, "p", 5, 0.5),
        replace(split, subject=split.subject.astype(str)), with_value(split, "x", (5, 3, 1), 0.5),
        with_value(split, "y", 5, 0), with_value(split, "subject", 5, 6),
        with_value(split, "mask", (5, 3, 1), not split.mask[5, 3, 1])]
    assert len({other.fingerprint() for other in others}) == len(others)


def with_value(split, name, index, value):
    array = getattr(split, name).copy()
    array[index] = value
    return replace(split, **{name: array})


@pytest.mark.parametrize("sizes", [[7], [3, 4], [1] * 7, [0, 5, 0, 2]])
def test_a_split_written_in_parts_reads_as_one_written_whole(tmp_path, sizes):
    split = Split(np.random.default_rng(0).normal(size=(7, 4, 2)).astype(np.float32), np.arange(7) % 2)
    edges = np.cumsum([0, *sizes])
    parts = [np.asfortranarray(split.x[start:end]) for start, end in itertools.pairwise(edges)]
    write_split(tmp_path / "whole.npz", split)
    write_split_in_parts(tmp_path / "parts.npz", lambda: iter(parts), split.x.shape, split.y)
    assert_same(read_split(tmp_path / "parts.npz", META), read_split(tmp_path / "whole.npz", META))
    assert_same(read_split(tmp_path / "parts.npz", META), split)


def test_gaps_are_written_as_a_mask_and_filled(tmp_path):
    x = np.random.default_rng(0).normal(size=(7, 4, 2)).astype(np.float32)
    x[np.random.default_rng(1).random(x.shape) < 0.5] = np.nan
    imputation = Imputation("forward", [5.0, 6.0])
    y = np.arange(7) % 2
    write_split_in_parts(tmp_path / "train.npz", lambda: iter([x[:3], x[3:]]), x.shape, y, imputation)
    assert_same(read_split(tmp_path / "train.npz", META), Split(imputation.fill(x), y, mask=~np.isnan(x)))


def test_probabilities_are_of_the_filled_series_in_their_order(tmp_path):
    def probabilities(part):
        share = 1 / (1 + np.exp(-part.mean(axis=(1, 2), dtype=np.float32)))
        return np.stack([1 - share, share], axis=1)

    x = np.random.default_rng(0).normal(size=(7, 4, 2)).astype(np.float32)
    x[2, 1:] = np.nan
    imputation = Imputation("forward", [5.0, 6.0])
    write_split_in_parts(tmp_path / "train.npz", lambda: iter([x[:3], x[3:]]), x.shape, np.arange(7) % 2, imputation,
                         probabilities)
    np.testing.assert_array_equal(read_split(tmp_path / "train.npz", META).p, probabilities(imputation.fill(x)))


def test_parts_are_written_one_at_a_time_and_a_failure_leaves_no_file(tmp_path):
    def parts():
        yield np.zeros((2, 4, 2), dtype=np.float32)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_split_in_parts(tmp_path / "train.npz", parts, (4, 4, 2), np.zeros(4, dtype=np.int64))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("change", "faults"), [
    (lambda s: replace(s, x=s.x.astype(np.float64)), ["array x must be (N, L, C) float32, got (6, 4, 2) float64"]),
    (lambda s: replace(s, x=s.x[..., 0], y=s.y.astype(np.int32)), ["array x must be", "array y must be (N,) int64"]),
    (lambda s: s[:0], ["the split is empty"]),
    (lambda s: replace(s, x=s.x[:, :0], mask=s.mask[:, :0]), ["length 0"]),
    (lambda s: replace(s, x=s.x[..., :1], mask=s.mask[..., :1]), ["1 channels, meta.json names 2"]),
    (lambda s: with_value(s, "y", 3, 2), ["array y, row 3: label 2 is outside 0..1 (1 such rows)"]),
    (lambda s: with_value(s, "y", slice(4, 6), -1), ["array y, row 4: label -1 is outside 0..1 (2 such rows)"]),
    (lambda s: replace(s, subject=s.subject[:5]), ["array subject has 5 rows, array x has 6"]),
    (lambda s: replace(s, subject=s.subject.astype(float)), ["array subject must be (N,) integers or text"]),
    (lambda s: replace(s, id=s.id.astype(float)), ["array id must be (N,) integers or text"]),
    (lambda s: with_value(s, "id", slice(3, 5), 7), ["array id, row 3: '7' stands in row 1 as well (2 such rows)"]),
    (lambda s: replace(s, mask=s.mask.astype(int)), ["array mask must be (6, 4, 2) bool"]),
    (lambda s: replace(s, p=s.p[:, :1]), ["array p must be (N, 2) float32, the probability of each class, got (6, 1)"]),
    (lambda s: replace(s, p=s.p.astype(float)), ["array p must be (N, 2) float32"]),
    (lambda s: replace(s, p=s.p[:4]), ["array p has 4 rows, array x has 6"]),
    (lambda s: with_value(s, "p", (3, 1), np.nan), ["array p, row 3: "]),
    (lambda s: with_value(s, "p", slice(1, 3), [-0.5, 1.5]), ["row 1: [-0.5, 1.5] are no probabilities; expected"]),
    (lambda s: with_value(s, "p", 5, [0.5, 0.502]), ["that sum to 1 (1 such rows)"]),
    (lambda s: replace(s, guidance=np.ones(6, dtype=bool)), ["array guidance must be (6,) bool with rows of both"]),
    (lambda s: replace(s, guidance=np.arange(6)), ["array guidance must be (6,) bool with rows of both halves"]),
    (lambda s: replace(s, guidance=np.ones(5, dtype=bool)), ["array guidance has 5 rows, array x has 6"]),
    (lambda s: replace(s, guidance=s.y == 1, subject=np.array([5, 6, 7, 8, 9, 5])),
     ["array guidance: subject 5 stands in both halves (1 such subjects)"]),
    (lambda s: replace(s, mask=None), ["nan is not a finite number and there is no mask"]),
    (lambda s: with_value(with_value(s, "mask", (2, 1, 0), True), "x", (2, 1, 0), np.nan),
     ["array x, row 2, step 1, channel 0: nan is not a finite number (1 such rows)"]),
    (lambda s: with_value(with_value(s, "mask", (5, 3, 1), False), "x", (5, 3, 1), np.inf),
     ["array x, row 5, step 3, channel 1: inf"]),
    (lambda s: with_value(replace(s, subject=s.subject[:5]), "y", 0, 7),
     ["array subject has 5 rows", "row 0: label 7"])])
def test_every_fault_of_a_split_is_named_with_its_array_and_row(tmp_path, change, faults):
    split = change(toy_split())
    found = split_faults(split, META)
    assert len(found) == len(faults)
    assert all(expected in message for expected, message in zip(faults, found, strict=True))
    with pytest.raises(UserError, match="train: "):
        write_dataset(tmp_path / "toy", {"train": split}, META)
    assert not (tmp_path / "toy").exists()


def test_a_sound_split_has_no_fault():
    assert split_faults(toy_split(), META) == []
    assert split_faults(with_value(toy_split(), "p", 0, [0.5, 0.5009]), META) == []


def test_faults_between_splits_are_named_together(tmp_path):
    splits = toy_dataset()
    splits["train"] = with_value(splits["train"], "y", slice(None), 0)
    splits["val"] = with_value(splits["val"], "subject", slice(0, 2), 5)
    splits["test"] = replace(splits["test"], x=splits["test"].x[:, :3], mask=splits["test"].mask[:, :3],
                             id=np.array(["07", "35"]))
    for name, split in splits.items():
        write_split(tmp_path / f"{name}.npz", split)
    write_dataset(tmp_path / "other", toy_dataset(), META)
    (tmp_path / "other" / "meta.json").rename(tmp_path / "meta.json")
    with pytest.raises(UserError) as error:
        read_dataset(tmp_path)
    for expected in ("splits differ in (length, channels)", "no row of class 1 (dead)",
                     "subject 5 stands in train and in val (1 such subjects)",
                     "id 35 stands in train and in test (1 such ids)"):
        assert expected in str(error.value)


def test_arrays_of_objects_are_never_loaded(tmp_path):
    write_dataset(tmp_path, toy_dataset(), META)
    np.savez(tmp_path / "train.npz", x=np.array([{"code": print}], dtype=object), y=np.zeros(1, dtype=np.int64))
    with pytest.raises(UserError, match=r"train\.npz: .*Python objects, which are never loaded"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_archive_is_named(tmp_path, share):
    write_dataset(tmp_path, toy_dataset(), META)
    content = (tmp_path / "val.npz").read_bytes()
    (tmp_path / "val.npz").write_bytes(content[:int(share * len(content))])
    with pytest.raises(UserError, match=r"val\.npz: not a readable"):
        read_dataset(tmp_path)


def test_a_damaged_archive_is_refused_or_as_it_was(tmp_path):
    generator, split = np.random.default_rng(0), toy_split()
    write_split(tmp_path / "train.npz", split)
    content, refused = np.frombuffer((tmp_path / "train.npz").read_bytes(), dtype=np.uint8), 0
    for _ in range(300):
        damaged = content.copy()
        damaged[generator.integers(len(content), size=4)] = generator.integers(256, size=4)
        (tmp_path / "train.npz").write_bytes(damaged.tobytes())
        try:
            read = read_split(tmp_path / "train.npz", META)
        except UserError as error:
            refused += "train.npz: " in str(error)
        else:
            np.testing.assert_array_equal(read.x, split.x)
            np.testing.assert_array_equal(read.y, split.y)
    assert refused > 200


def test_a_missing_array_is_named(tmp_path):
    write_dataset(tmp_path, toy_dataset(), META)
    np.savez(tmp_path / "test.npz", x=toy_split(2, 20).x)
    with pytest.raises(UserError, match=r"test\.npz: array y missing"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(("text", "seconds"), [
    ("1 hour", 3600), ("1h", 3600), ("5 minutes", 300), ("30 min", 1800), ("1/256 s", Fraction(1, 256)), ("10ms", 0.01),
    ("0.5 s", 0.5), ("2d", 172800), ("", None), ("hourly", None), ("0 h", None), ("1/0 s", None), ("1 hs", None),
    ("-1 h", None)])
def test_intervals(text, seconds):
    assert interval_seconds(text) == (None if seconds is None else pytest.approx(seconds))


def test_classes_by_name_and_by_number():
    assert class_numbers(["died", "survived", "1", 0, np.int64(1)], ["survived", "died"]) == [1, 0, 1, 0, 1]
    assert class_numbers(["0", 0, "2"], ["2", "1", "0"]) == [2, 0, 0]


@pytest.mark.parametrize("given", ["dead", "2", 2, -1, "", "-1", "x" * 10_000])
def test_an_unknown_class_is_refused_with_the_list(given):
    with pytest.raises(UserError, match=r"survived \(0\), died \(1\)") as error:
        class_numbers([given], ["survived", "died"])
    assert ("Did you mean died?" in str(error.value)) == (given == "dead") and len(str(error.value)) < 400


def test_normalisers_are_fitted_on_what_was_observed():
    x, mask = np.arange(24, dtype=np.float32).reshape(4, 3, 2), np.zeros((4, 3, 2), dtype=bool)
    mask[::2] = True
    meta = Metadata("a", ["b", "c"], ["", ""], ["0", "1"], imputation=Imputation("median", [0.0, 0.0]))
    dataset = Dataset(None, meta, {"train": Split(x, np.tile([0, 1], 2), mask=mask)})
    assert np.array_equal(np.isnan(dataset.observed), ~mask) and np.array_equal(dataset.observed[mask], x[mask])
    assert np.array_equal(replace(dataset, meta=replace(meta, imputation=None)).observed, x)
