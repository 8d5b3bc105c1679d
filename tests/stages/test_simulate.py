"""The command that writes the simulated cohort: skips what is there, restores what is damaged, refuses the rest."""

import subprocess
import sys
from pathlib import Path

import pytest

from tardiff.data.format import read_dataset
from tardiff.stages import simulate

ROOT = Path(__file__).parents[2]


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        simulate.main(arguments)
    return stop.value.code


def test_the_command_writes_prints_and_skips_on_rerun(tmp_path, capsys):
    command = ["--output", str(tmp_path / "out"), "--stays", "200", "--seed", "2", "--ratios", ".5", ".3", ".2"]
    simulate.main(command)
    written = capsys.readouterr().out
    dataset = read_dataset(tmp_path / "out")
    for name, split in dataset.splits.items():
        row = next(line for line in written.splitlines() if line.startswith(name)).split()
        assert row[1:4:2] == [str(len(split)), str(split.y.sum())]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    simulate.main(command)
    again = capsys.readouterr().out
    assert "already" in again and again.splitlines()[1:] == written.splitlines()[1:]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_the_command_restores_a_damaged_cohort(tmp_path, capsys):
    command = ["--output", str(tmp_path), "--stays", "60"]
    simulate.main(command)
    original = read_dataset(tmp_path).train.fingerprint()
    (tmp_path / "train.npz").write_bytes(b"cut")
    simulate.main(command)
    assert "already" not in capsys.readouterr().out
    assert read_dataset(tmp_path).train.fingerprint() == original


@pytest.mark.parametrize("name", ["train.npz", "meta.json", "notes.txt"])
def test_files_that_the_command_did_not_make_are_never_written_over(tmp_path, capsys, name):
    (tmp_path / name).write_text('{"name": "mine", "channels": ["a"], "units": [""], "classes": ["0", "1"]}')
    assert exit_code("--output", str(tmp_path), "--stays", "60") == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_command_refuses_a_folder_that_holds_another_dataset(tmp_path, capsys):
    simulate.main(["--output", str(tmp_path), "--stays", "60"])
    assert exit_code("--output", str(tmp_path), "--stays", "61") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "60" in error and "61" in error
    assert read_dataset(tmp_path).meta.cohort["parameters"]["num_stays"] == 60
    (tmp_path / "file").write_text("")
    assert exit_code("--output", str(tmp_path / "file")) == 2


def test_bad_arguments_exit_2_without_traceback(tmp_path):
    command = [sys.executable, "-m", "tardiff", "simulate", "--output", str(tmp_path / "out"), "--stays", "3"]
    process = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 2
    assert process.stderr.startswith("error: ") and "Traceback" not in process.stderr
    assert not (tmp_path / "out").exists()
    for bad in (["--stays", "many"], ["--unknown"], ["--ratios", "1"]):
        assert exit_code(*bad) == 2
