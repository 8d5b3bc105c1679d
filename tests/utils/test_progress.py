"""What long work says where its output goes to a file."""

import itertools

import pytest

from tardiff.utils import progress as module
from tardiff.utils.progress import FIRST_LINE, NEXT_LINE, progress


@pytest.fixture
def clock(monkeypatch):
    """Let every look at the clock be a second after the one before."""
    seconds = itertools.count()
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))


def test_a_file_has_lines_on_how_far_the_work_is_and_no_bar(clock, capsys):
    with progress("training", 200, "step") as bar:
        for _ in range(200):
            bar.update()
    captured = capsys.readouterr()
    *lines, last = captured.out.splitlines()
    assert captured.err == "" and "200 steps in" in last
    assert [line.split(",")[0] for line in lines] == [f"training: {step} of 200 steps"
                                                      for step in range(FIRST_LINE, 200, NEXT_LINE)]
    assert "about 190 s left" not in lines[0] and "about 3 min left" in lines[0]
    assert bar.n == 200


def test_resumed_work_reckons_with_what_it_does_itself(clock, capsys):
    with progress("training", 1000, "step", initial=900) as bar:
        for _ in range(20):
            bar.update()
        bar.total = 920
    resumed, line, last = capsys.readouterr().out.splitlines()
    assert "900 of 1,000" in resumed and "910 of 1,000 steps, about 90 s left" in line and "20 steps in" in last


def test_work_that_is_not_shown_is_silent(clock, capsys):
    with progress("training", 200, "step", shown=False) as bar:
        for _ in range(200):
            bar.update()
    assert capsys.readouterr() == ("", "")
