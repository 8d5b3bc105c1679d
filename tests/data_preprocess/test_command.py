"""The command line that every source shares: what is refused before any reading."""

from pathlib import Path

import pytest

from data_preprocess import command


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


def test_the_default_output_is_used_where_none_is_given():
    seen = []
    run(work=seen.append)
    run("--output", "elsewhere", work=seen.append)
    assert [options.output for options in seen] == [Path("data/source"), Path("elsewhere")]
