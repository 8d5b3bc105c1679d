"""Every setting of every command, with many values, typed and from a file: taken, or refused in one message.

Slow: every key x every value x both ways; a sample of it runs always.
"""

import pytest
from user_errors import run_command

from tardiff.cli import COMMANDS
from tardiff.utils.settings import describe

VALUES = (
    "0", "1", "-1", "7", "010", "1e3", "1e-4", "0.5", "1e999", "nan", "true", "false", "null", "text", "''", "'1'",
    "[]", "[1]", "[x, 1]", "[[1]]", "{}", "{a: 1}", "{1: 0.5, a: [b]}", "${name}", "${nothing.of.this}", "${", "*a",
    "[", "9" * 5000, "\ud800", "!!python/object:os.system x", "2026-01-02")
KEYS = [(command, line.strip().partition("=")[0]) for command in COMMANDS if COMMANDS[command].schema
        for line in describe(COMMANDS[command].schema)]


@pytest.mark.parametrize("every", [197, pytest.param(1, marks=pytest.mark.slow)])
def test_any_value_of_any_setting_is_taken_or_refused_in_one_message(every, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    cases = [(command, key, value, in_file) for command, key in KEYS for value in VALUES for in_file in (False, True)]
    taken = 0
    for command, key, value, in_file in cases[::every]:
        if in_file:
            *sections, name = key.split(".")
            text = "".join(f"{'  ' * depth}{section}:\n" for depth, section in enumerate(sections))
            (tmp_path / "config.yaml").write_text(f"{text}{'  ' * len(sections)}{name}: {value}\n", "utf-8",
                                                  "surrogatepass")
        code = run_command(command, *(["config.yaml"] if in_file else [f"{key}={value}"]), "--print-config")
        said = capfd.readouterr()
        assert code in (0, 2), (command, key, value, in_file)
        taken += code == 0
        assert (code == 0) == (said.err == ""), said.err
        if code == 2:
            assert said.err.startswith("error: ") and "Traceback" not in said.err and len(said.err) < 1500, said.err
        (tmp_path / "config.yaml").unlink(missing_ok=True)
        assert not list(tmp_path.iterdir())
    assert 0.1 < taken / len(cases[::every]) < 0.9
