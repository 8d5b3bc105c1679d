"""The command line and the writing that every source shares: what is refused, and what is written over."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_preprocess import command
from tardiff.data.format import Metadata, Split, read_dataset, write_dataset


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def dataset(rows: int = 8) -> tuple[dict[str, Split], Metadata]:
    x = np.zeros((rows, 2, 1), dtype=np.float32)
    return {"train": Split(x, np.arange(rows) % 2)}, Metadata("mine", ["HR"], ["bpm"], ["no", "yes"])


def run(*arguments: str, work=lambda options: dataset()):
    parser = command.source_parser("source", "One line.\n\nDetails.", None, "files", "data/source")
    command.add_split_options(parser)
    command.run(parser, ["--input", ".", *arguments], lambda options: Path("data", "source"), work)


def refusal(capsys, *arguments: str) -> str:
    def work(options):
        raise AssertionError("began to read")

    with pytest.raises(SystemExit) as stop:
        run(*arguments, work=work)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("ratios", [("0.7", "0.2", "0.2"), ("0.7", "0.3", "0"), ("1.2", "-0.1", "-0.1"),
                                    ("nan", "0.5", "0.5")])
def test_ratios_that_are_no_shares_are_refused(capsys, ratios):
    assert "positive shares that sum to 1" in refusal(capsys, "--ratios", *ratios)


def test_a_negative_seed_is_refused(capsys):
    assert "seed -1" in refusal(capsys, "--seed", "-1")


def test_an_input_that_is_not_there_or_would_never_end_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "train.npz")
    assert "nowhere: not found" in refusal(capsys, "--input", str(tmp_path / "nowhere"))
    assert "train.npz: a named pipe; expected a file" in refusal(capsys, "--input", str(tmp_path))


@pytest.mark.parametrize("output", ["taken", "taken/dataset"])
def test_a_file_in_the_place_of_the_output_folder_is_named(capsys, output):
    Path("taken").write_text("")
    assert "taken: is a file" in refusal(capsys, "--output", output)


def test_a_dataset_of_the_same_command_alone_is_written_over(tmp_path, monkeypatch, capsys):
    run("--output", "out")
    assert read_dataset("out", ("train",)).meta.cohort["command"] == {
        "source": "source", "input": str(tmp_path), "ratios": [0.6, 0.2, 0.2], "seed": 0}
    run("--output", "out", work=lambda options: dataset(10))
    assert len(read_dataset("out", ("train",)).train) == 10
    refused = refusal(capsys, "--output", "out", "--seed", "1")
    assert "holds another dataset, made with seed=0; asked for seed=1." in refused
    write_dataset("other", *dataset(10))
    assert "holds another dataset, which another command made." in refusal(capsys, "--output", "other")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "holds another dataset" in refusal(capsys, "--output", "../out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "other", "elsewhere"}


def test_a_fault_of_the_dataset_leaves_what_was_there(tmp_path, capsys):
    run("--output", "out")
    splits, meta = dataset()
    faulty = {"train": replace(splits["train"], y=splits["train"].y * 0)}
    with pytest.raises(SystemExit):
        run("--output", "out", work=lambda options: (faulty, meta))
    assert "out/train.npz: no row of class 1 (yes)" in capsys.readouterr().err
    assert len(read_dataset("out", ("train",)).train) == 8 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("found", [["config.yaml", "train.npz"], ["meta.json", "provenance.json"], ["train.npz"],
                                   ["test.npz", "train.npz"]])
def test_a_folder_of_something_else_is_refused_before_any_reading(tmp_path, capsys, found):
    for name in found:
        (tmp_path / name).write_text("mine")
    assert "holds files that this command did not make" in refusal(capsys, "--output", str(tmp_path))
    assert all((tmp_path / name).read_text() == "mine" for name in found)


@pytest.mark.parametrize("rare", [1, 20])
def test_a_class_that_the_selection_half_lacks_is_warned_of(tmp_path, capsys, rare):
    """A single row is in the guidance half or in the selection half: of two classes with one, one is lacking."""
    y = np.repeat([0, 1, 2], [rare, rare, 40])
    splits = {name: Split(np.zeros((len(y), 2, 1), dtype=np.float32), y) for name in ("train", "val")}
    meta = Metadata("mine", ["HR"], ["bpm"], ["no", "yes", "maybe"])
    run("--output", str(tmp_path / "out"), work=lambda options: (splits, meta))
    assert ("warning: the selection half of val: no row of class" in capsys.readouterr().err) == (rare == 1)


def test_the_default_output_is_used_where_none_is_given():
    seen = []

    def work(options):
        seen.append(options)
        return dataset()

    run(work=work)
    run("--output", "elsewhere", work=work)
    assert [options.output for options in seen] == [Path("data/source"), Path("elsewhere")]
