"""guidance.scale=auto: what is searched, kept and shared."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from user_errors import run_tiny

from tardiff.data.format import read_dataset, write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.stages import generate
from tardiff.utils.checkpoint import read_json

INDEPENDENT = generate.independent_classifier


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A cohort, a denoiser that has learnt hardly anything, and a guide."""
    folder = tmp_path_factory.mktemp("runs")
    write_dataset(folder / "data", *simulate_cohort(2000, seed=0))
    assert run_tiny("train", f"data={folder / 'data'}", f"output={folder / 'base'}", "training.steps=30") == 0
    assert run_tiny("guide", f"data={folder / 'data'}", f"output={folder / 'classifier'}", "training.steps=150") == 0
    return folder


@pytest.fixture
def place(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate, "SEARCHED", 300)
    for name in ("data", "base", "classifier"):
        shutil.copytree(runs / name, name)


def made(output, *settings):
    steps = "sampler.num_inference_steps=10"  # In fewer all series of a class are much alike.
    assert run_tiny("generate", f"output={output}", "num_samples=30", steps, *settings) == 0
    return read_dataset(output, ("train",), every_class=False).train.x


def fail(*arguments):
    raise AssertionError("searched again")


def classifier_of_sharp_real_series(folder, dataset, device):
    """The independent classifier, to which real labels are easier to see, AUROC 0.86, than any denoiser makes them."""
    predict, val = INDEPENDENT(folder, dataset, device), dataset.val
    score = val.y + np.random.default_rng(0).normal(0, 0.65, len(val))
    return lambda x: np.stack([-score, score], axis=1) if np.array_equal(x, val.x) else predict(x)


def test_the_scale_that_was_found_is_recorded_kept_and_shared(place, capsys, monkeypatch):
    monkeypatch.setattr(generate, "independent_classifier", classifier_of_sharp_real_series)
    found = made("auto", "guidance.scale=auto")
    record = read_json("auto/provenance.json")
    assert record["config"]["guidance"]["scale"] == "auto"
    search = record["guidance_scale"]
    assert search["tried"][str(search["scale"])] == pytest.approx(search["target"], abs=0.03)
    assert search["tried"]["0.0"] < search["target"] - 0.03 and 1 < len(search["tried"]) <= 4
    assert f"guidance.scale=auto: {search['scale']:.3g};" in capsys.readouterr().out
    assert np.array_equal(found, made("typed", f"guidance.scale={search['scale']!r}"))
    monkeypatch.setattr(generate, "_search", fail)
    Path("auto/meta.json").unlink()  # As if killed before the end.
    assert np.array_equal(made("auto", "guidance.scale=auto"), found)
    assert not np.array_equal(made("other", "guidance.scale=auto", "seed=1"), found)
    assert read_json("other/provenance.json")["guidance_scale"] == search


def test_labels_that_nobody_can_tell_need_no_guidance(place, monkeypatch):
    monkeypatch.setattr(generate, "independent_classifier", lambda *_: lambda x: np.full((len(x), 2), 0.5))
    assert np.array_equal(made("auto", "guidance.scale=auto"), made("unguided", "guidance.objective=none"))
    assert read_json("auto/provenance.json")["guidance_scale"] == {"scale": 0.0, "target": 0.5, "tried": {"0.0": 0.5}}


def test_another_word_is_refused(place, capsys):
    assert run_tiny("generate", "guidance.scale=automatic") == 2
    assert "'guidance.scale' must be a number or auto" in capsys.readouterr().err
