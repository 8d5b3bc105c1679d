"""Baselines by their commands: training, sampling, one report, and what is refused."""

import json
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from user_errors import assert_refused, run_command

from tardiff.config import CompareConfig, ReportConfig, load_config
from tardiff.data.format import read_dataset
from tardiff.stages import compare as compare_stage
from tardiff.stages import report
from tardiff.utils.checkpoint import load_tensors

ONE_METRIC = ["device=cpu", "fidelity_metrics=[marginal]", "repeats=1", "workers=1"]


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """Pictures take most of the time of a small report and are tested with it."""
    monkeypatch.setattr(report, "draw", lambda *given: [])


def compare(workplace, output, *arguments):
    return run_command("compare", "--real", str(workplace.folder / "data"), "--output", str(output),
                       *map(str, arguments))


def refused(capfd, message, name, *arguments):
    capfd.readouterr()
    assert_refused(run_command(name, *map(str, arguments)), capfd.readouterr().err, (message,))


def modified(paths):
    return {path: path.stat().st_mtime_ns for path in paths}


def test_rules_are_compared_in_one_report_and_done_once(workplace, tmp_path):
    arguments = ["--baselines", "oversample", "jitter", "generation_seeds=2", *ONE_METRIC, "repeats=2",
                 f"synthetic={{diffusion: {workplace.folder / 'synthetic'}}}", "sections=[fidelity,privacy]"]
    assert compare(workplace, tmp_path, *arguments) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["synthetic"]) == ["diffusion", "oversample", "jitter"]
    assert [len(entry["folders"]) for entry in results["synthetic"].values()] == [1, 2, 2]
    assert results["cost"]["jitter"]["parameters"] == 0 and results["cost"]["jitter"]["seconds_per_series"] > 0
    numbers = pd.read_csv(tmp_path / "results.csv").set_index(["set", "metric", "key"])["value"]
    assert (numbers["oversample", "train_attack", "flagged"] == 1).all(), "repeated training rows are a copy"
    sampled = modified((tmp_path / "baselines").rglob("train.npz"))
    assert len(sampled) == 4
    assert compare(workplace, tmp_path, *arguments) == 0 and modified(sampled) == sampled


def test_a_killed_comparison_of_trained_baselines_goes_on(workplace, tmp_path):
    configs, output = tmp_path / "configs", tmp_path / "out"
    configs.mkdir()
    (configs / "timevae.yaml").write_text("budget: tiny\nepochs: 1\nfilters: [4, 4]\n")
    arguments = ["--baselines", "timevae", "smote", f"configs={configs}", "generation_seeds=2", "seeds=2",
                 "controls=[]", "bootstrap=20", "ratios=[0.5]", "weights=[]", "model.rnn.hidden_size=8",
                 "training.steps=20", "training.batch_size=32", *ONE_METRIC,
                 "sections=[utility,fidelity]", "variants={again: [timevae, sample_seed=7], unmade: [timegan]}"]
    process = workplace._start(sys.executable, "-m", "tardiff", "compare", "--real", str(workplace.folder / "data"),
                               "--output", str(output), *arguments)
    finished = output / "baselines" / "timevae-seed0" / "synthetic" / "meta.json"
    while not finished.exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    printed = process.communicate()[0]
    assert finished.exists() and not (output / "results.json").exists(), printed
    sampled = modified([finished.with_name("train.npz")])
    assert compare(workplace, output, *arguments) == 0
    assert modified(sampled) == sampled
    results = json.loads((output / "results.json").read_text())
    assert pd.read_csv(output / "utility.csv")["arm"].tolist() == [
        "TRTR", "TSTR timevae", "TSTR again", "TSTR smote", "TSRTR timevae 0.5", "TSRTR again 0.5", "TSRTR smote 0.5"]
    assert results["cost"]["timevae"]["budget"] == "tiny" and results["cost"]["timevae"]["training_seconds"] > 0
    assert results["cost"]["again"]["training_seconds"] == results["cost"]["timevae"]["training_seconds"]
    assert [record["seed"] for record in results["synthetic"]["timevae"]["generation"]] == [0, 1]
    settings = yaml.safe_load((output / "baselines" / "timevae-seed0" / "config.yaml").read_text())
    assert settings["sample_seed"] is None and settings["synthetic"] is None, "a variant is another way of sampling"
    for seed in (0, 1):
        first, again = (read_dataset(output / "baselines" / folder, ("train",)).train
                        for folder in (f"timevae-seed{seed}/synthetic", f"again-seed{seed}"))
        assert not np.array_equal(first.x, again.x) and np.array_equal(np.bincount(first.y), np.bincount(again.y))


@pytest.fixture
def experiment(workplace, tmp_path):
    """An experiment of tiny models with one set; its device and its number of seeds give way to those of the
    comparison."""
    settings = {"base": [*workplace.settings("base"), "training.steps=6"],
                "classifier": [*workplace.settings("classifier"), "training.steps=2"],
                "teacher": ["members=[{model: logistic, seeds: 1}]", "workers=1"],
                "guidance": {"diffusion": [*workplace.settings("synthetic"), "num_samples=20", "batch_size=20",
                                           "sampler.num_inference_steps=4"]},
                "device": "cuda"}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "experiment.yaml"


def test_tardiff_is_trained_for_each_seed_and_compared_as_baselines_are(workplace, tmp_path, experiment):
    assert compare(workplace, tmp_path / "out", "--baselines", "oversample", "generation_seeds=2",
                   f"experiment={experiment}", "sections=[fidelity]", *ONE_METRIC) == 0
    runs = tmp_path / "out" / "experiment"
    for run in ("base", "classifier"):
        weights = [load_tensors(runs / f"{run}-seed{seed}" / "model.safetensors")[0] for seed in (0, 1)]
        assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["synthetic"]) == ["diffusion", "oversample"]
    generation = results["synthetic"]["diffusion"]["generation"]
    assert [[record["seed"], *(record["settings"][key] for key in ("base", "classifier", "device"))]
            for record in generation] == [
        [seed, str(runs / f"base-seed{seed}"), str(runs / f"classifier-seed{seed}"), "cpu"] for seed in (0, 1)]
    assert results["cost"]["diffusion"]["optimiser_steps"] == 6
    settings = load_config(ReportConfig, tmp_path / "out" / "settings.yaml")
    assert settings.teacher == [record["settings"]["teacher"] for record in generation]
    assert settings.teacher == [str(runs / f"teacher-seed{seed}") for seed in (0, 1)]


def test_a_variant_is_sampled_from_its_baseline_after_it(tmp_path):
    """As it stands, BioDiffusion is sampled without the extra weight of its guidance too."""
    sets = compare_stage.baseline_steps(load_config(CompareConfig, values={
        "output": str(tmp_path), "baselines": ["smote", "biodiffusion"], "generation_seeds": 2}))
    runs = tmp_path / "baselines"
    assert {name: list(stages) for name, stages in sets.items()} == {
        "smote": [str(runs / f"smote-seed{seed}" / "synthetic") for seed in (0, 1)],
        "biodiffusion": [str(runs / f"biodiffusion-seed{seed}" / "synthetic") for seed in (0, 1)],
        "biodiffusion-scale1": [str(runs / f"biodiffusion-scale1-seed{seed}") for seed in (0, 1)]}
    configs = {name: [stage.config for stage in stages.values()] for name, stages in sets.items()}
    assert [config.seed for config in configs["smote"]] == [0, 1] and configs["smote"][0].rule == "smote"
    for trained, variant, folder in zip(configs["biodiffusion"], configs["biodiffusion-scale1"],
                                        sets["biodiffusion-scale1"], strict=True):
        assert (variant.output, variant.seed, variant.synthetic, variant.cfg_scale) == (
            trained.output, trained.seed, folder, 1)
        assert trained.synthetic is None and trained.cfg_scale > 1


def test_names_of_sets_are_given_once(workplace, tmp_path, experiment, capfd):
    for setting, name in (("synthetic={diffusion: data}", "diffusion"), ("synthetic={smote: data}", "smote"),
                          ("variants={diffusion: [timevae]}", "diffusion")):
        refused(capfd, f"two sets are named '{name}'", "compare", "--real", workplace.folder / "data", "--output",
                tmp_path / "out", f"experiment={experiment}", "baselines=[smote,timevae]", setting, "device=cpu")
    assert not (tmp_path / "out").exists()


def test_what_the_report_would_refuse_is_refused_before_the_training(workplace, tmp_path, capfd):
    unbuildable = tmp_path / "unbuildable"
    unbuildable.mkdir()
    (unbuildable / "timevae.yaml").write_text("filters: []\n")
    for setting, message in (
            ("ratios=[0.5,0.5]", "each number once"),
            ("ratios=[2.0]", "the ratio needs"), ("fidelity_metrics=[fid]", "'fid' is not one of"),
            ("reference=nobody", "reference=nobody"), ("configs=nowhere", "folder nowhere not found"),
            ("variants={more: timevae}", "variants.more: expected a baseline and its settings"),
            ("variants={smote: [timevae]}", "variants.smote: this is the name of a baseline"),
            ("variants={more: [smote]}", "variants.more: 'smote' is none of"),
            *((f"variants={{more: [timevae, {key}=3]}}", f"variants.more: {key} is not a setting of sampling")
              for key in ("epochs", "output", "data", "synthetic")),
            ("variants={more: [timevae, epoch=3]}", "unknown key 'epoch'"),
            ("variants={more: [timevae, num_samples=5]}", "'more-seed0' has 5 rows"),
            (f"configs={tmp_path}", "has no timevae.yaml"), (f"configs={unbuildable}", "'filters' is empty")):
        refused(capfd, message, "compare", "--real", workplace.folder / "data", "--baselines", "timevae", "--output",
                tmp_path / "out", "device=cpu", setting)
        assert not (tmp_path / "out").exists()


def test_masks_that_nobody_makes_are_told_of_before_the_training(workplace, tmp_path, experiment, capfd):
    guide, settings = tmp_path / "masks", yaml.safe_load(experiment.read_text())
    workplace.run("classifier", guide, "model.inputs=values+mask", "training.steps=2")
    settings["base"] += ["mask=false"]
    settings["classifier"] += ["model.inputs=values+mask"]
    experiment.write_text(yaml.safe_dump(settings))
    for setting, message in ((f"classifier={guide}", "masks reads masks (model.inputs=values+mask), and baselines"),
                             (f"experiment={experiment}", "classifier: model.inputs=values+mask needs sets")):
        refused(capfd, message, "compare", "--real", workplace.folder / "data", "--baselines", "oversample", "--output",
                tmp_path / "out", "device=cpu", setting)
        assert not (tmp_path / "out").exists()


def test_a_dry_run_announces_what_the_quick_report_does(workplace, tmp_path, capfd):
    assert compare(workplace, tmp_path, "--baselines", "smote", "quick=true", "seeds=5", "device=cpu", "--dry-run") == 0
    assert "with 3 seeds and ratios [1.0]" in capfd.readouterr().out


def test_a_baseline_writes_its_dataset_and_what_it_cost(workplace, tmp_path):
    assert run_command("baseline", "timevae", f"data={workplace.folder / 'data'}", f"output={tmp_path}", "device=cpu",
                       "labels=[7, 4]", "epochs=1", "filters=[4,4]", "checkpoint_every=5") == 0
    sampled = read_dataset(tmp_path / "synthetic", ("train",)).train
    assert np.bincount(sampled.y).tolist() == [7, 4] and np.isfinite(sampled.x).all()
    budget = json.loads((tmp_path / "budget.json").read_text())
    assert budget["optimiser_steps"] > 0 and budget["training_seconds"] > 0 and budget["parameters"] > 0
    record = json.loads((tmp_path / "synthetic" / "provenance.json").read_text())
    assert record["config"]["labels"] == [7, 4] and record["inputs"]


@pytest.mark.parametrize(("name", "arguments", "message"), [
    ("baseline", [], "no baseline is named"), ("baseline", ["timegam"], "'timegam' is not a baseline"),
    ("baseline", ["timevae", "latent=3"], "latent"),
    ("baseline", ["timevae", "data=nowhere"], "dataset folder not found"),
    ("baseline", ["rules", "rule=smoke"], "rule"), ("compare", ["--baselines", "smoke"], "'smoke' is none of"),
    ("compare", ["synthetic={smote: data}", "--baselines", "smote"], "two sets are named 'smote'")])
def test_a_fault_is_one_message(tmp_path, capfd, name, arguments, message):
    refused(capfd, message, name, *arguments, *([f"output={tmp_path / 'out'}"] if len(arguments) > 1 else []))
    assert not (tmp_path / "out").exists()
