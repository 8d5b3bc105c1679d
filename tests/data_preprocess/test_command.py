"""The command line and the writing that every source shares: what is refused, and what is written over."""

from pathlib import Path

import numpy as np
import pytest

from data_preprocess import command
from tardiff.data.format import Metadata, Split, read_dataset
from tardiff.utils.errors import UserError


def run(*arguments: str, work=lambda options: None):
    parser = command.source_parser("source", "One line.\n\nDetails.", None, "files", "data/source")
    command.add_split_options(parser)
    command.run(parser, ["--input", "downloads", *arguments], lambda options: Path("data", "source"), work)


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


@pytest.mark.parametrize("output", ["taken", "taken/dataset"])
def test_a_file_in_the_place_of_the_output_folder_is_named(tmp_path, monkeypatch, capsys, output):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("")
    assert "taken: is a file" in refusal(capsys, "--output", output)


def dataset(source: str, rows: int = 8) -> tuple[dict[str, Split], Metadata]:
    x = np.zeros((rows, 2, 1), dtype=np.float32)
    return {"train": Split(x, np.arange(rows) % 2)}, Metadata("mine", ["HR"], ["bpm"], ["no", "yes"], source=source)


def test_a_dataset_of_the_same_source_alone_is_written_over(tmp_path):
    command.write(tmp_path, *dataset("vitals.csv"))
    command.write(tmp_path, *dataset("vitals.csv", rows=10))
    with pytest.raises(UserError, match=r"holds a dataset of 'vitals.csv', not of 'series.csv'"):
        command.write(tmp_path, *dataset("series.csv"))
    assert len(read_dataset(tmp_path, ("train",)).train) == 10


@pytest.mark.parametrize("found", [["config.yaml", "train.npz"], ["meta.json", "provenance.json"]])
def test_a_folder_of_something_else_is_refused_before_any_reading(tmp_path, capsys, found):
    for name in found:
        (tmp_path / name).write_text("mine")
    assert "holds files that no source of data makes" in refusal(capsys, "--output", str(tmp_path))
    assert all((tmp_path / name).read_text() == "mine" for name in found)


def test_the_input_is_never_the_output(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command.write(Path("downloads"), *dataset("downloads"))
    assert "is the input" in refusal(capsys, "--output", str(tmp_path / "downloads"))


def test_the_default_output_is_used_where_none_is_given():
    seen = []
    run(work=seen.append)
    run("--output", "elsewhere", work=seen.append)
    assert [options.output for options in seen] == [Path("data/source"), Path("elsewhere")]
