"""`convert SOURCE` runs the module of that name and speaks of the command that was typed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from user_errors import run_command

from tardiff.data.format import read_dataset
from tardiff.stages import convert

ROOT = Path(__file__).parents[2]


def test_a_source_gets_the_other_arguments(tmp_path):
    np.savez(tmp_path / "all.npz", x=np.arange(240).reshape(40, 3, 2), y=np.arange(40) % 2)
    convert.main(["arrays", "--input", str(tmp_path / "all.npz"), "--output", str(tmp_path / "out")])
    assert read_dataset(tmp_path / "out").shape == (3, 2)


def test_every_source_is_a_module_and_is_listed_with_its_title(capsys):
    modules = {path.stem for path in (ROOT / "data_preprocess").glob("*.py") if "\ndef main(" in path.read_text()}
    assert modules == set(convert.SOURCES)
    convert.main(["--help"])
    listed = capsys.readouterr().out
    assert "usage: tardiff convert SOURCE" in listed
    assert all(f"\n  {source} " in f"\n{listed}" for source in convert.SOURCES) and "MIMIC-III v1.4" in listed


def test_an_unknown_source_is_refused_with_the_list(capsys):
    assert run_command("convert", "mimic4") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 'mimic4'") and "mimic3" in error


@pytest.mark.parametrize("source", convert.SOURCES)
def test_usage_names_the_command_that_was_typed(source, capsys):
    with pytest.raises(SystemExit):
        convert.main([source, "--help"])
    usage = capsys.readouterr().out
    assert usage.startswith(f"usage: tardiff convert {source}") and "python -m" not in usage


def test_nothing_of_a_source_is_imported_before_it_is_asked_for():
    code = ("import sys; from tardiff.stages import convert; convert.main(['--help']); "
            "assert not [name for name in sys.modules if name.startswith('data_preprocess.')]")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
