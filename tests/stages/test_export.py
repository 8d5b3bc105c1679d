"""Tables of a dataset: `tables` reads the same arrays back, and nothing of anybody else's is written over."""

import shlex
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from tardiff.data.format import Metadata, Split, read_dataset, write_dataset
from tardiff.stages import convert, export
from tardiff.utils.checkpoint import read_json

META = Metadata("ward, east", ["SpO2", "HR (mean)", "a"], ["%", "beats/min", "unknown"], ["survived", "died, late"],
                "1 h")


def drawn(part: str, num_series: int, subject: bool) -> Split:
    generator = np.random.default_rng(num_series)
    x = generator.normal(0, 1e3, (num_series, 6, 3)).astype(np.float32)
    mask = generator.random(x.shape) < 0.6
    mask[:, :, 0] |= ~mask.any(axis=2)
    mask[0, 0] = False
    owner = np.array([f"0{part}{row // 2}" for row in range(num_series)]) if subject else None
    # Of test rows no teacher has spoken.
    p = None if part == "test" else generator.dirichlet([1, 1], num_series).astype(np.float32)
    ids = np.array([f"0{num_series}.{row}" for row in range(num_series)]) if subject else None
    return Split(x, np.arange(num_series) % 2, owner, mask, p, ids)


def written(folder: Path, interval: str = "1 h", subject: bool = True, parts: tuple[str, ...] = ("train", "val", "test")
            ) -> dict[str, Split]:
    splits = {part: drawn(part, 10 + number, subject) for number, part in enumerate(parts)}
    write_dataset(folder, splits, replace(META, sampling_interval=interval))
    return splits


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        export.main(list(map(str, arguments)))
    return stop.value.code


@pytest.mark.parametrize("form", ["long", "wide"])
@pytest.mark.parametrize("file_format", ["csv", "parquet"])
@pytest.mark.parametrize(("interval", "subject"), [
    ("1 hour", True), ("5 minutes", False), ("1/256 s", True), ("1/300 s", True), ("", True)])
def test_tables_reads_the_same_arrays_back(tmp_path, monkeypatch, form, file_format, interval, subject):
    monkeypatch.setattr(export, "VALUES_IN_A_PART", 40)
    splits = written(tmp_path / "data", interval, subject)
    export.main(["--input", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--form", form,
                 "--format", file_format])
    command = shlex.split(read_json(tmp_path / "out" / "export.json")["read_back"])
    assert command[:3] == ["tardiff", "convert", "tables"]
    assert command[command.index("--output") + 1] == "data/ward, east-from-tables"
    convert.main(["tables", *command[3:command.index("--output")], "--output", str(tmp_path / "back")])
    back = read_dataset(tmp_path / "back")
    assert (back.meta.channels, back.meta.units, back.meta.classes) == (META.channels, META.units, META.classes)
    for part, expected in splits.items():
        found = back.splits[part]
        np.testing.assert_array_equal(found.x[expected.mask], expected.x[expected.mask])
        np.testing.assert_array_equal(found.mask, expected.mask)
        np.testing.assert_array_equal(found.y, expected.y)
        assert (found.p is None) == (expected.p is None) == (part == "test")
        if expected.p is not None:
            np.testing.assert_array_equal(found.p, expected.p)
        if subject:
            np.testing.assert_array_equal(found.subject, expected.subject)
        np.testing.assert_array_equal(found.id, expected.id if subject else [f"{part}-{row}"
                                                                             for row in range(len(expected))])


def test_parquet_holds_numbers_and_absent_values(tmp_path):
    written(tmp_path / "data")
    export.export(tmp_path / "data", tmp_path / "out", "long", "parquet", ["test"])
    table = duckdb.sql(f"FROM '{tmp_path}/out/series.parquet'").df()
    assert {name: str(kind) for name, kind in table.dtypes.items() if name in ("hours", "value")} == {
        "hours": "float64", "value": "float32"}
    assert len(table) == 12 * 6 * 3 and table["value"][:3].isna().all() and set(table["label"]) == set(META.classes)


def test_ids_are_numbers_where_those_of_all_splits_are(tmp_path):
    splits = {part: drawn(part, 4 + number, subject=False) for number, part in enumerate(("train", "test"))}
    for name, ids in (("numbers", np.arange(5)), ("mixed", np.array(list("abcde")))):
        write_dataset(tmp_path / name, {"train": replace(splits["train"], id=200_000 + np.arange(4)),
                                        "test": replace(splits["test"], id=ids)}, META)
        export.export(tmp_path / name, tmp_path / f"{name}-out", file_format="parquet")
        for table in ("series", "labels"):
            found = duckdb.sql(f"FROM '{tmp_path}/{name}-out/{table}.parquet'").df()["id"]
            assert (found.dtype.kind == "i") == (name == "numbers")
            assert found.unique().tolist() == [*(200_000 + np.arange(4)).astype(ids.dtype.type), *ids.tolist()]


@pytest.mark.parametrize("splits", [["val", "test"], ["train"]])
def test_without_train_and_val_no_command_reads_the_tables_back(tmp_path, capsys, splits):
    written(tmp_path / "data")
    export.main(["--input", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--split", *splits])
    assert "convert" not in capsys.readouterr().out
    assert read_json(tmp_path / "out" / "export.json")["read_back"] is None


def test_a_synthetic_set_without_some_class_is_written(tmp_path):
    split = drawn("train", 4, subject=False)
    write_dataset(tmp_path / "data", {"train": replace(split, y=np.ones(4, dtype=np.int64), mask=None, p=None)}, META,
                  every_class=False)
    export.export(tmp_path / "data", tmp_path / "out")
    assert (tmp_path / "out" / "labels.csv").read_text().splitlines()[:2] == ["id,label,split",
                                                                             'train-0,"died, late",train']


def test_the_same_command_again_skips_and_another_refuses(tmp_path, capsys):
    written(tmp_path / "data")
    command = ["--input", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    export.main(command)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    export.main(command)
    assert "nothing to do" in capsys.readouterr().out
    assert exit_code(*command, "--form", "long") == 2
    assert "another export" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(("arguments", "words"), [
    (("--output", "taken"), "holds files that are no export"), (("--output", "data"), "holds files that are no export"),
    (("--output", "taken/notes.txt"), "is a file"), (("--output", "new", "--input", "absent"), "not found"),
    (("--output", "new", "--split", "test"), "test.npz")])
def test_a_refusal_writes_nothing(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    written(Path("data"), parts=("train", "val"))
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert exit_code("--input", "data", *arguments) == 2
    assert words in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before and Path("taken/notes.txt").read_text() == "mine"


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    written(tmp_path / "data")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "label_table", full)
    before = sorted(tmp_path.rglob("*"))
    assert exit_code("--input", tmp_path / "data", "--output", tmp_path / "out") == 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "@SUM(1)", "+cmd|' /C calc'!A0", "-2+3", "\tx"])
@pytest.mark.parametrize("what", ["channel", "class", "subject", "id"])
def test_names_that_spreadsheets_would_run_are_refused_as_csv(tmp_path, capsys, what, name):
    split = drawn("train", 10, True)
    if what == "subject":
        split = replace(split, subject=np.where(np.arange(10) < 2, name, split.subject))
    if what == "id":
        split = replace(split, id=np.where(np.arange(10) < 1, name, split.id))
    meta = replace(META, channels=[name, "b", "c"] if what == "channel" else META.channels,
                   classes=["no", name] if what == "class" else ["-1", "+1.5"])
    write_dataset(tmp_path / "data", {"train": split}, meta)
    arguments = ["--input", tmp_path / "data", "--output", tmp_path / "out"]
    assert exit_code(*arguments) == 2
    assert f"{what} '{name}' begins as a formula does" in capsys.readouterr().err and not (tmp_path / "out").exists()
    export.main(list(map(str, [*arguments, "--format", "parquet"])))
