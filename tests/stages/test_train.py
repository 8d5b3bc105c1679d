"""The preview of a training: it never ends it, whatever names and errors it meets."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from user_errors import run_tiny

from tardiff.data.format import write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.stages import train
from tardiff.utils.figures import channel_bands

UNFINISHED_FORMULA = r"$\frac{a"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A dataset whose names no typesetter of formulas could read, in the working folder."""
    monkeypatch.chdir(tmp_path)
    splits, meta = simulate_cohort(60, seed=0)
    write_dataset("data", splits, dataclasses.replace(
        meta, channels=[f"{name} {UNFINISHED_FORMULA}" for name in meta.channels],
        classes=[f"{UNFINISHED_FORMULA} {name}" for name in meta.classes], positive=""))


def test_a_preview_is_drawn_of_few_series_whatever_their_names(data, monkeypatch):
    drawn, sample = [], train.sample_series
    monkeypatch.setattr(train, "sample_series", lambda *arguments: drawn.append(arguments[1]) or sample(*arguments))
    monkeypatch.setattr(train, "PREVIEWED", 6)
    assert run_tiny("train", "training.preview_every=2") == 0
    assert (Path("out") / "preview.png").stat().st_size > 0
    assert [labels.tolist() for labels in drawn] == [[0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("error", [MemoryError("no memory"), ValueError("a fault"), RuntimeError("CUDA error")])
def test_an_error_of_the_preview_is_a_warning(data, monkeypatch, capsys, error):
    def fails(*arguments):
        raise error

    monkeypatch.setattr(train, "sample_series", fails)
    assert run_tiny("train", "training.preview_every=1") == 0
    said = capsys.readouterr().out
    assert said.count(f"warning: no preview at step 1: {error}") == 1
    assert (Path("out") / "model.safetensors").exists()


def test_names_are_drawn_as_they_are():
    x, y = np.random.default_rng(0).normal(size=(8, 4, 1)), np.arange(8) % 2
    figure = channel_bands({UNFINISHED_FORMULA: (x, y)}, [UNFINISHED_FORMULA], [UNFINISHED_FORMULA],
                           ["$a", UNFINISHED_FORMULA], (np.arange(4), UNFINISHED_FORMULA))
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
