"""The library: what a notebook loads and samples is what the commands train and write."""

import dataclasses
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from user_errors import run_command, run_tiny

import tardiff
from tardiff.data.format import read_dataset, write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.sampling import generate
from tardiff.utils.errors import UserError

STEPS = 4
GUIDED = {"objective": "anchored", "scale": 3.0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a tiny cohort `data`, other ones, and finished runs on it."""
    folder = tmp_path_factory.mktemp("library")
    write_dataset(folder / "data", *simulate_cohort(200, 0))
    write_dataset(folder / "other_data", *simulate_cohort(200, 1))
    for command, output, data in (("train", "base", "data"), ("guide", "classifier", "data"),
                                  ("guide", "other_classifier", "other_data")):
        assert run_tiny(command, f"data={folder / data}", f"output={folder / output}") == 0
    return folder


@pytest.fixture(scope="module")
def base(runs):
    return tardiff.load_denoiser(runs / "base", device="cpu")


@pytest.fixture(scope="module")
def guide(runs):
    return tardiff.load_guide(runs / "classifier", device="cpu")


def test_classes_are_given_by_name_or_number(base):
    series = base.sample({"died": 3, 0: 2}, seed=1, steps=STEPS)
    assert series.x.shape == (5, 24, 7) and series.x.dtype == np.float32 and np.isfinite(series.x).all()
    assert series.y.tolist() == [1, 1, 1, 0, 0] and series.labels.tolist() == ["died"] * 3 + ["survived"] * 2
    assert np.array_equal(series.x, base.sample({1: 3, "survived": 2}, seed=1, steps=STEPS).x)
    assert not np.array_equal(series.x, base.sample({1: 3, "survived": 2}, seed=2, steps=STEPS).x)


def test_a_teacher_labels_what_is_sampled_and_a_frame_carries_it(runs, base):
    for name in ("data", "other_data"):
        assert run_command("teach", f"data={runs / name}", f"output={runs / name / 'teacher'}", "workers=1",
                           "device=cpu", "members=[{model: logistic, seeds: 1}]") == 0
    teacher = tardiff.load_teacher(runs / "data" / "teacher", device="cpu")
    series = base.sample({"died": 3, "survived": 2}, seed=1, steps=STEPS, teacher=teacher)
    plain = base.sample({"died": 3, "survived": 2}, seed=1, steps=STEPS)
    assert plain.split.p is None and np.array_equal(plain.x, series.x)
    np.testing.assert_array_equal(series.split.p, teacher.predict(series.x))
    frame = series.to_frame()
    np.testing.assert_array_equal(frame.groupby("id")["p_died"].first(), series.split.p[:, 1])
    np.testing.assert_array_equal(tardiff.LabelledSeries.from_frame(frame).split.p, series.split.p)
    with pytest.raises(UserError, match=r"its train rows are not those that .*base was trained on"):
        base.sample({"died": 1}, teacher=tardiff.load_teacher(runs / "other_data" / "teacher", device="cpu"))
    with pytest.raises(UserError, match="taught other train rows"):
        tardiff.load_teacher(runs / "data" / "teacher", runs / "other_data", device="cpu")
    with pytest.raises(UserError, match="expected tardiff"):
        base.sample({"died": 1}, teacher="teacher")


def test_series_of_data_with_gaps_have_gaps_of_their_own_filled_by_the_same_rule(base, guide):
    for guidance in (None, tardiff.Guidance(guide, **GUIDED)):
        series = base.sample({"died": 8}, steps=STEPS, guidance=guidance)
        mask, imputation = series.split.mask, series.meta.imputation
        assert 0 < mask.mean() < 1 and imputation == read_dataset(guide.data, ("train",)).meta.imputation
        np.testing.assert_array_equal(imputation.fill(np.where(mask, series.x, np.float32(np.nan))), series.x)


@pytest.mark.parametrize("settings", [
    {}, {"name": "ddpm"}, {"guidance": GUIDED}, {"sampler": "ddim", "eta": 1.0, "guidance": GUIDED},
    {"guidance": {**GUIDED, "parameters": "head"}}])
def test_a_series_depends_on_seed_number_and_label_alone(base, guide, settings):
    if "guidance" in settings:
        settings = settings | {"guidance": tardiff.Guidance(guide, **settings["guidance"])}
    whole = base.sample({"died": 7}, steps=STEPS, **settings)
    np.testing.assert_allclose(base.sample({"died": 7}, steps=STEPS, batch_size=3, **settings).x, whole.x, rtol=1e-4,
                               atol=1e-3)
    np.testing.assert_allclose(base.sample({"died": 4}, steps=STEPS, **settings).x, whole.x[:4], rtol=1e-4, atol=1e-3)


def test_guidance_steers_and_scale_0_is_bit_for_bit_the_unguided_sampler(base, guide):
    plain = base.sample({"died": 6}, steps=STEPS)
    for off in ({"scale": 0.0}, {"objective": "none"}, {"objective": "anchored", "scale": 0.0}):
        unguided = base.sample({"died": 6}, steps=STEPS, guidance=tardiff.Guidance(guide, **off))
        assert np.array_equal(unguided.x, plain.x)
    steered = base.sample({"died": 6}, steps=STEPS, guidance=tardiff.Guidance(guide, scale=20.0))
    assert (guide.predict(steered.x)[:, 1] > guide.predict(plain.x)[:, 1]).all()


def test_a_cpu_samples_in_passes_of_so_many_time_steps_whatever_the_batch(base, guide, monkeypatch):
    guidance, sizes = tardiff.Guidance(guide), []
    whole = base.sample({"died": 5}, steps=STEPS, guidance=guidance)
    monkeypatch.setattr(generate, "STEPS_PER_PASS", 2 * 24)
    parts = base.sample({"died": 5}, steps=STEPS, guidance=guidance, callback=lambda t, x_t, *_: sizes.append(len(x_t)))
    assert sizes == [2] * STEPS + [2] * STEPS + [1] * STEPS
    np.testing.assert_allclose(parts.x, whole.x, rtol=1e-4, atol=1e-3)


def test_the_callback_sees_every_step_of_every_batch(base, guide):
    seen = []

    def note(t, x_t, x0_pred, gradient):
        strongest = None if gradient is None else gradient.abs().max()
        seen.append((int(t), tuple(x_t.shape), tuple(x0_pred.shape), strongest))

    traced = base.sample({"died": 5}, steps=STEPS, batch_size=3, callback=note)
    assert [shape for _, shape, _, _ in seen] == [(3, 24, 14)] * STEPS + [(2, 24, 14)] * STEPS
    assert all(shape == predicted and gradient is None for _, shape, predicted, gradient in seen)
    assert [t for t, *_ in seen[:STEPS]] == sorted({t for t, *_ in seen}, reverse=True)
    assert np.array_equal(traced.x, base.sample({"died": 5}, steps=STEPS, batch_size=3).x)
    seen.clear()
    base.sample({"died": 5}, steps=STEPS, guidance=tardiff.Guidance(guide), callback=note)
    assert len(seen) == STEPS and all(gradient > 0 for *_, gradient in seen)


@pytest.mark.parametrize("settings", [{"objective": "none"}, GUIDED])
def test_the_command_writes_the_same_series(base, guide, runs, tmp_path, settings):
    """A plan of one class puts the same label on every sample number."""
    assert run_tiny("generate", f"data={runs / 'data'}", f"base={runs / 'base'}", f"classifier={runs / 'classifier'}",
                    f"output={tmp_path}", "labels={died: 9}", "seed=5", f"sampler.num_inference_steps={STEPS}",
                    *(f"guidance.{name}={value}" for name, value in settings.items())) == 0
    sampled = base.sample({"died": 9}, seed=5, steps=STEPS, guidance=tardiff.Guidance(guide, **settings))
    written = read_dataset(tmp_path, ("train",), every_class=False)
    assert np.array_equal(written.train.x, sampled.x) and np.array_equal(written.train.y, sampled.y)
    assert written.meta == sampled.meta


def test_values_at_the_ends_of_the_training_range_are_counted_and_told_of(runs, tmp_path, capsys):
    """Guided far too strongly, series end there."""
    shares = {}
    for name, scale in (("unguided", 0), ("guided", 1e6)):
        capsys.readouterr()
        assert run_tiny("generate", f"data={runs / 'data'}", f"base={runs / 'base'}", f"output={tmp_path / name}",
                        f"classifier={runs / 'classifier'}", f"guidance.scale={scale}", "num_samples=20") == 0
        shares[name] = json.loads((tmp_path / name / "at_bounds.json").read_text())
        warned = "lie at an end of the training range or beyond" in capsys.readouterr().out
        assert warned == (name == "guided")
    assert np.mean(shares["guided"]["synthetic"]) > 0.2 > 0.05 > np.mean(shares["unguided"]["synthetic"])
    x = read_dataset(runs / "data").train.x
    ends = (x == np.nanmin(x, axis=(0, 1))) | (x == np.nanmax(x, axis=(0, 1)))
    assert shares["guided"]["train"] == shares["unguided"]["train"] == pytest.approx(ends.mean(axis=(0, 1)), rel=0.2)


def test_influence_finds_its_guidance_rows_by_the_record_of_the_guide(guide, runs):
    """The folder that the guide was trained on is read by itself; the same dataset given gives the same G."""
    own, given = tardiff.Guidance(guide, **GUIDED), tardiff.Guidance(guide, read_dataset(runs / "data"), **GUIDED)
    assert guide.data == str(runs / "data") and own.gradient.counts == given.gradient.counts
    assert sum(own.gradient.counts) < len(read_dataset(runs / "data").val)
    directions = own.gradient.direction(), given.gradient.direction()
    assert all(torch.equal(directions[0][name], directions[1][name]) for name in directions[0])
    with pytest.raises(UserError, match=r"other_data: its train and val rows are not those that .*classifier was"):
        tardiff.Guidance(guide, runs / "other_data", **GUIDED).gradient.norms()


def test_a_frame_has_the_channels_in_their_units(base):
    frame = base.sample({"died": 2}, steps=STEPS).to_frame()
    channels = base.fitted.meta.channels
    assert list(frame.columns) == ["id", "hours", *channels, "label"] and len(frame) == 2 * 24
    assert frame["hours"].tolist() == [*range(24)] * 2 and set(frame["label"]) == {"died"}
    assert frame.attrs["units"] == dict(zip(channels, base.fitted.meta.units, strict=True))


@pytest.mark.parametrize(("counts", "settings", "message"), [
    ({"dead": 3}, {}, "'dead' is not a class; the classes are survived .0., died .1."),
    ({2: 3}, {}, "'2' is not a class"), ({}, {}, "not all 0"), ({"died": 0}, {}, "not all 0"),
    ({"died": -1}, {}, "at least 0"), ({"died": 2.5}, {}, "number of series"),
    ({"died": 1}, {"steps": 201}, "201"), ({"died": 1}, {"steps": 0}, "at least 1"),
    ({"died": 1}, {"sampler": "nonesuch"}, f"must be one of {', '.join(generate.SAMPLERS)}, got 'nonesuch'"),
    ({"died": 1}, {"name": "ddpm", "eta": 1.0}, "eta.* no effect")])
def test_a_fault_of_sampling_is_one_message(base, counts, settings, message):
    with pytest.raises(UserError, match=message):
        base.sample(counts, **settings)


def test_a_guide_of_other_data_and_unfit_settings_are_refused(base, guide, runs):
    other = tardiff.load_guide(runs / "other_classifier", device="cpu")
    with pytest.raises(UserError, match="other_classifier: trained with another normaliser than the denoiser"):
        base.sample({"died": 1}, steps=STEPS, guidance=tardiff.Guidance(other))
    for settings, message in (({"scal": 1}, "unknown key 'scal'. Did you mean 'scale'?"),
                              ({"objective": "classifier", "classes": ["died"]},
                               "classes has no effect with objective=classifier"),
                              ({**GUIDED, "classes": ["dead"]}, "'dead' is not a class")):
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            base.sample({"died": 1}, steps=STEPS, guidance=tardiff.Guidance(guide, **settings))
    for load in (tardiff.load_denoiser, tardiff.load_guide):
        with pytest.raises(UserError, match="data: not a run folder"):
            load(runs / "data", device="cpu")


def test_what_does_not_fit_the_record_of_a_run_is_refused(base, guide, runs):
    """Test rows in the place of the guidance rows would leak into G."""
    dataset = tardiff.read_dataset(runs / "data")
    leaking = dataclasses.replace(dataset, splits={**dataset.splits, "val": dataset.splits["test"]})
    with pytest.raises(UserError, match="its val rows are not those that"):
        base.sample({"died": 1}, steps=STEPS, guidance=tardiff.Guidance(guide, leaking, objective="influence"))
    for wrong, message in (({"counts": {"died": 1, 1: 2}}, "given twice"), ({"counts": 3}, "counts=3"),
                           ({"seed": 2**70}, "seed="), ({"seed": 1.5}, "seed="), ({"batch_size": 0}, "batch_size=0"),
                           ({"guidance": "entropy"}, "guidance='entropy'")):
        with pytest.raises(UserError, match=message):
            base.sample(**{"counts": {"died": 1}, "steps": STEPS, **wrong})


def test_numbers_of_numpy_and_whole_weights_are_settings(base, guide, runs):
    guidance = tardiff.Guidance(runs / "classifier", scale=np.float32(0.5), objective="influence", classes={"died": 1})
    assert len(base.sample({"died": 1}, steps=np.int64(STEPS), guidance=guidance)) == 1


def test_the_study_of_samplers_measures_each_and_resumes(runs, tmp_path, monkeypatch, capsys):
    command = ["study_samplers.py", "--base", str(runs / "base"), "--data", str(runs / "data"), "--output",
               str(tmp_path), "--samplers", "ddim", "dpm_solver_pp", "--series", "40", "--quick", "--steps", "2"]
    tables = []
    for more in ([], ["4"]):
        monkeypatch.setattr(sys, "argv", command + more)
        runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "study_samplers.py"), run_name="__main__")
        tables.append(pd.read_csv(tmp_path / "samplers.csv").set_index(["sampler", "steps"]))
    assert len(tables[0]) == 3 and len(tables[1]) == 5 and (tmp_path / "samplers.png").is_file()
    assert (tables[0].loc[("ddim", 2)] == tables[1].loc[("ddim", 2)]).all()  # The seconds as well: sampled once.
    assert tables[1][["level", "within", "ks"]].notna().all(axis=None)
