"""guidance.scale=auto: what is searched, kept and shared; and guides that read masks."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from user_errors import run_command, run_tiny

import tardiff
from classifier import teacher
from tardiff.config import ClassifierTrainingConfig
from tardiff.data.format import read_dataset, write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.data.splits import halve_validation
from tardiff.stages import generate
from tardiff.utils.checkpoint import read_json
from tardiff.utils.errors import UserError

INDEPENDENT, FITTED = generate.independent_classifier, teacher.fit_summary_model
OTHER_TRAINING = ClassifierTrainingConfig(class_weighting="balanced")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A cohort, a denoiser that has learnt hardly anything, a guide, and one that reads masks."""
    folder = tmp_path_factory.mktemp("runs")
    write_dataset(folder / "data", *simulate_cohort(2000, seed=0))
    assert run_tiny("train", f"data={folder / 'data'}", f"output={folder / 'base'}", "training.steps=30") == 0
    assert run_tiny("guide", f"data={folder / 'data'}", f"output={folder / 'classifier'}", "training.steps=150") == 0
    assert run_tiny("guide", f"data={folder / 'data'}", f"output={folder / 'masks'}", "training.steps=60",
                    "model.inputs=values+mask") == 0
    return folder


@pytest.fixture
def place(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate, "SEARCHED", 300)
    for name in ("data", "base", "classifier", "masks"):
        shutil.copytree(runs / name, name)


def made(output, *settings):
    steps = "sampler.num_inference_steps=10"  # In fewer all series of a class are much alike.
    assert run_tiny("generate", f"output={output}", "num_samples=30", steps, *settings) == 0
    return read_dataset(output, ("train",), every_class=False).train.x


def fail(*arguments):
    raise AssertionError("searched again")


def classifier_of_sharp_real_series(folder, dataset, device):
    """The independent classifier, to which real labels are easier to see, AUROC 0.86, than any denoiser makes them."""
    predict, (_, selection) = INDEPENDENT(folder, dataset, device), halve_validation(dataset.val)
    score = selection.y + np.random.default_rng(0).normal(0, 0.65, len(selection))
    return lambda x, mask: np.stack([-score, score], axis=1) if np.array_equal(x, selection.x) else predict(x, mask)


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


def test_what_a_teacher_refuses_is_told_before_anything_is_sampled(place, capfd, monkeypatch):
    members = "members=[{model: logistic, seeds: 1}]"
    assert run_command("teach", "data=data", "output=teacher", members, "workers=1") == 0
    monkeypatch.setattr(teacher, "fit_summary_model", lambda *arguments: FITTED(*arguments[:-2], OTHER_TRAINING, 1))
    monkeypatch.setattr(generate, "generate_dataset", fail)
    assert run_tiny("generate", "output=made", "teacher=teacher") == 2
    assert "logistic-0, fitted again on the same rows, differs by" in capfd.readouterr().err
    assert not Path("made").exists()


def test_labels_that_nobody_can_tell_need_no_guidance(place, monkeypatch):
    monkeypatch.setattr(generate, "independent_classifier", lambda *_: lambda x, mask: np.full((len(x), 2), 0.5))
    assert np.array_equal(made("auto", "guidance.scale=auto"), made("unguided", "guidance.objective=none"))
    assert read_json("auto/provenance.json")["guidance_scale"] == {"scale": 0.0, "target": 0.5, "tried": {"0.0": 0.5}}


@pytest.mark.parametrize("settings", [
    {"objective": "classifier"}, {"objective": "anchored", "parameters": "head", "unit_rms": True},
    {"objective": "influence", "through_denoiser": True}])
def test_a_guide_that_reads_masks_moves_them(place, settings):
    base, guide = tardiff.load_denoiser("base", "cpu"), tardiff.load_guide("masks", "cpu")
    found = []
    guidance = tardiff.Guidance(guide, **settings)

    def sample(count, guidance, batch_size=512):
        found.clear()
        return base.sample({"died": count}, steps=4, guidance=guidance, batch_size=batch_size,
                           callback=lambda *seen: found.append(seen[3]))

    plain = sample(6, None)
    off = sample(6, tardiff.Guidance(guide, **settings, scale=0.0))
    assert np.array_equal(off.x, plain.x) and np.array_equal(off.split.mask, plain.split.mask)
    whole = sample(6, guidance)
    assert all(bool((gradient[..., 7:] != 0).any()) for gradient in found)
    np.testing.assert_allclose(sample(6, guidance, batch_size=4).x, whole.x, rtol=1e-4, atol=1e-3)
    if settings["objective"] == "classifier":
        steered = sample(6, guidance.at_scale(20.0))
        of_plain, of_steered = (guide.predict(series.x, series.split.mask)[:, 1] for series in (plain, steered))
        assert (of_steered > of_plain).all() and not np.array_equal(steered.split.mask, plain.split.mask)
        with pytest.raises(UserError, match=r"masks: reads masks .*, and these series have none"):
            guide.predict(plain.x)


def test_a_guide_that_reads_masks_goes_through_all_commands(place):
    made("out", "classifier=masks")
    assert run_tiny("influence", "classifier=masks", "synthetic={guided: out}", "output=influence", "fine_tuned=4") == 0
    guide, val = tardiff.load_guide("masks", "cpu"), read_dataset("data", ("train", "val")).val
    assert guide.reads_mask and not tardiff.load_guide("classifier", "cpu").reads_mask
    whole = next(row for row in read_json("influence/influence.json")["influence_distribution"]
                 if row["set"] == "real selection" and row["class"] == "all")
    selection = halve_validation(val)[1]
    p = guide.predict(selection.x, selection.mask)[:, 1]
    assert whole["guide_auroc"] == pytest.approx(roc_auc_score(selection.y, p))
    assert not np.array_equal(p, guide.predict(selection.x, ~selection.mask)[:, 1])
    independent = INDEPENDENT("masks", read_dataset("data", ("train", "val")), torch.device("cpu"))
    assert not np.array_equal(independent(val.x, val.mask), independent(val.x, ~val.mask))


def test_another_word_is_refused(place, capsys):
    assert run_tiny("generate", "guidance.scale=automatic") == 2
    assert "'guidance.scale' must be a number or auto" in capsys.readouterr().err
