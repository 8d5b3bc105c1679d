"""Rival methods by their commands: training, sampling, one report, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from user_errors import assert_refused, run_script

from tardiff.data.format import read_dataset
from tardiff.utils.checkpoint import load_tensors

TINY_TIMEVAE = ["epochs=1", "filters=[4,4]", "checkpoint_every=5"]


def command(workplace, script, *arguments):
    process = workplace._start(sys.executable, f"scripts/{script}.py", *map(str, arguments))
    with process:
        printed = process.communicate(timeout=240)[0]
    return process.returncode, printed


def test_rules_are_compared_in_one_report_and_done_once(workplace, tmp_path):
    arguments = ["--real", workplace.folder / "data", "--methods", "oversample", "jitter", "--output", tmp_path / "out",
                 "generation_seeds=2", f"synthetic={{diffusion: {workplace.folder / 'synthetic'}}}", "device=cpu",
                 "sections=[fidelity,privacy]", "fidelity_metrics=[marginal]", "repeats=2"]
    code, printed = command(workplace, "compare", *arguments)
    assert code == 0, printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["synthetic"]) == ["diffusion", "oversample", "jitter"]
    assert [len(entry["folders"]) for entry in results["synthetic"].values()] == [1, 2, 2]
    assert results["cost"]["jitter"]["parameters"] == 0 and results["cost"]["jitter"]["seconds_per_series"] > 0
    numbers = pd.read_csv(tmp_path / "out" / "results.csv").set_index(["set", "metric", "key"])["value"]
    assert (numbers["oversample", "train_attack", "flagged"] == 1).all(), "repeated training rows are a copy"
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "methods").rglob("train.npz")}
    assert len(made) == 4
    code, printed = command(workplace, "compare", *arguments)
    assert code == 0 and all(path.stat().st_mtime_ns == time for path, time in made.items())


def test_a_killed_comparison_of_trained_methods_goes_on(workplace, tmp_path):
    configs, output = tmp_path / "configs", tmp_path / "out"
    configs.mkdir()
    (configs / "timevae.yaml").write_text("budget: tiny\nepochs: 1\nfilters: [4, 4]\n")
    arguments = ["--real", workplace.folder / "data", "--methods", "timevae", "smote", "--output", output, "device=cpu",
                 f"configs={configs}", "generation_seeds=2", "seeds=2", "bootstrap=20", "ratios=[0.5]",
                 "model.rnn.hidden_size=8", "training.epochs=2", "sections=[utility,fidelity]", "fidelity_metrics=[marginal]",
                 "variants={again: [timevae, sample_seed=7], unmade: [timegan]}"]
    process = workplace._start(sys.executable, "scripts/compare.py", *map(str, arguments))
    finished, deadline = output / "methods" / "timevae-seed0" / "synthetic" / "meta.json", time.monotonic() + 120
    while not finished.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert finished.exists() and not (output / "results.json").exists()
    made = finished.with_name("train.npz").stat().st_mtime_ns
    code, printed = command(workplace, "compare", *arguments)
    assert code == 0, printed
    assert finished.with_name("train.npz").stat().st_mtime_ns == made
    results = json.loads((output / "results.json").read_text())
    assert pd.read_csv(output / "utility.csv")["arm"].tolist() == [
        "TRTR", "TSTR timevae", "TSTR again", "TSTR smote", "TSRTR timevae 0.5", "TSRTR again 0.5", "TSRTR smote 0.5"]
    assert results["cost"]["timevae"]["budget"] == "tiny" and results["cost"]["timevae"]["training_seconds"] > 0
    assert results["cost"]["again"]["training_seconds"] == results["cost"]["timevae"]["training_seconds"]
    assert [record["seed"] for record in results["synthetic"]["timevae"]["generation"]] == [0, 1]
    settings = yaml.safe_load((output / "methods" / "timevae-seed0" / "config.yaml").read_text())
    assert settings["sample_seed"] is None and settings["synthetic"] is None, "a variant is not how the method was sampled"
    for seed in (0, 1):
        first, again = (read_dataset(output / "methods" / folder, ("train",)).train
                        for folder in (f"timevae-seed{seed}/synthetic", f"again-seed{seed}"))
        assert not np.array_equal(first.x, again.x) and np.array_equal(np.bincount(first.y), np.bincount(again.y))


@pytest.fixture
def experiment(workplace, tmp_path):
    """An experiment of tiny models with one set; its device and its number of seeds give way to those of the comparison."""
    settings = {"base": [*workplace.settings("base"), "training.steps=6"],
                "classifier": [*workplace.settings("classifier"), "training.epochs=1"],
                "guidance": {"diffusion": workplace.settings("synthetic")}, "device": "cuda"}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "experiment.yaml"


def test_tardiff_is_trained_for_each_seed_and_compared_as_its_rivals_are(workplace, tmp_path, experiment):
    output = tmp_path / "out"
    code, printed = command(workplace, "compare", "--real", workplace.folder / "data", "--methods", "oversample", "--output",
                            output, "device=cpu", "generation_seeds=2", f"experiment={experiment}", "sections=[fidelity]",
                            "fidelity_metrics=[marginal]")
    assert code == 0, printed
    made = output / "experiment"
    for run in ("base", "classifier"):
        weights = [load_tensors(made / f"{run}-seed{seed}" / "model.safetensors")[0] for seed in (0, 1)]
        assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    results = json.loads((output / "results.json").read_text())
    assert list(results["synthetic"]) == ["diffusion", "oversample"]
    generation = results["synthetic"]["diffusion"]["generation"]
    assert [[record["seed"], *(record["settings"][key] for key in ("base", "classifier", "device"))]
            for record in generation] == [
        [seed, str(made / f"base-seed{seed}"), str(made / f"classifier-seed{seed}"), "cpu"] for seed in (0, 1)]
    assert results["cost"]["diffusion"]["optimiser_steps"] == 6


@pytest.fixture
def started(monkeypatch):
    """The commands of the stages that a script starts; none of them runs."""
    commands, run = [], subprocess.run

    def record(command, **options):
        if command[0] == "git":
            return run(command, **options)
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", record)
    return commands


def refused(capfd, message, script, *arguments):
    capfd.readouterr()
    assert_refused(run_script(f"scripts/{script}.py", *map(str, arguments)), capfd.readouterr().err, (message,))


def test_a_variant_is_sampled_from_its_method_after_it(workplace, tmp_path, started):
    """As it stands, BioDiffusion is sampled without the extra weight of its guidance too."""
    assert run_script("scripts/compare.py", "--real", str(workplace.folder / "data"), "--methods", "smote", "biodiffusion",
                      "--output", str(tmp_path / "out"), "generation_seeds=2", "device=cpu") == 0
    made = tmp_path / "out" / "methods"
    settings = [dict(argument.split("=", 1) for argument in command[3:]) for command in started[:-1]]
    assert [(one["output"], one["seed"], one["synthetic"], one.get("cfg_scale")) for one in settings] == [
        (str(made / f"{method}-seed{seed}"), str(seed), synthetic.format(seed), scale)
        for method, synthetic, scale in (("smote", "null", None), ("biodiffusion", "null", None),
                                         ("biodiffusion", str(made / "biodiffusion-scale1-seed{}"), "1")) for seed in (0, 1)]
    assert Path(started[-1][0]).name == "evaluate.py"
    report = yaml.safe_load((tmp_path / "out" / "evaluation.yaml").read_text())
    assert list(report["synthetic"]) == ["smote", "biodiffusion", "biodiffusion-scale1"]
    assert report["synthetic"]["biodiffusion-scale1"] == [str(made / f"biodiffusion-scale1-seed{seed}") for seed in (0, 1)]


def test_names_of_sets_are_given_once(workplace, tmp_path, experiment, capfd, started):
    for setting, name in (("synthetic={diffusion: data}", "diffusion"), ("synthetic={smote: data}", "smote"),
                          ("variants={diffusion: [timevae]}", "diffusion")):
        refused(capfd, f"two sets are named '{name}'", "compare", "--real", workplace.folder / "data", "--output",
                tmp_path / "out", f"experiment={experiment}", "methods=[smote,timevae]", setting)
    assert not (tmp_path / "out").exists() and not started


def test_what_the_report_would_refuse_is_refused_before_the_training(workplace, tmp_path, capfd, started):
    unbuildable = tmp_path / "unbuildable"
    unbuildable.mkdir()
    (unbuildable / "timevae.yaml").write_text("filters: []\n")
    for setting, message in (
            ("score_on=selection", "score_on=selection"), ("ratios=[0.5,0.5]", "each once"),
            ("ratios=[2.0]", "the ratio needs"), ("fidelity_metrics=[fid]", "'fid' is not one of"),
            ("reference=nobody", "reference=nobody"), ("configs=nowhere", "folder nowhere not found"),
            ("variants={more: timevae}", "variants.more: expected a method and its settings"),
            ("variants={smote: [timevae]}", "variants.smote: this is the name of a method"),
            ("variants={more: [vae]}", "variants.more: 'vae' is none of"),
            ("variants={more: [smote]}", "variants.more: 'smote' is none of"),
            ("variants={more: [timevae, epochs=3]}", "variants.more: epochs is not a setting of sampling"),
            ("variants={more: [timevae, output=x]}", "variants.more: output is not a setting of sampling"),
            ("variants={more: [timevae, data=x]}", "variants.more: data is not a setting of sampling"),
            ("variants={more: [timevae, synthetic=x]}", "variants.more: synthetic is not a setting of sampling"),
            ("variants={more: [timevae, epoch=3]}", "variants.more: 1 fault"),
            ("variants={more: [timevae, num_samples=5]}", "'more-seed0' has 5 rows"),
            (f"configs={tmp_path}", "has no timevae.yaml"), (f"configs={unbuildable}", "'filters' is empty")):
        refused(capfd, message, "compare", "--real", workplace.folder / "data", "--methods", "timevae", "--output",
                tmp_path / "out", setting)
        assert not (tmp_path / "out").exists() and not started


def test_a_baseline_writes_its_dataset_and_what_it_cost(workplace, tmp_path):
    arguments = ["timevae", f"data={workplace.folder / 'data'}", f"output={tmp_path / 'run'}", "device=cpu",
                 "labels=[7, 4]", *TINY_TIMEVAE]
    code, printed = command(workplace, "baseline", *arguments)
    assert code == 0, printed
    made = read_dataset(tmp_path / "run" / "synthetic", ("train",)).train
    assert np.bincount(made.y).tolist() == [7, 4] and np.isfinite(made.x).all()
    budget = json.loads((tmp_path / "run" / "budget.json").read_text())
    assert budget["optimiser_steps"] > 0 and budget["training_seconds"] > 0 and budget["parameters"] > 0
    record = json.loads((tmp_path / "run" / "synthetic" / "provenance.json").read_text())
    assert record["config"]["labels"] == [7, 4] and record["inputs"]


@pytest.mark.parametrize(("script", "arguments", "message"), [
    ("baseline", [], "no baseline is named"), ("baseline", ["timegam"], "'timegam' is not a baseline"),
    ("baseline", ["timevae", "latent=3"], "latent"), ("baseline", ["timevae", "data=nowhere"], "dataset folder not found"),
    ("baseline", ["rules", "rule=smoke"], "rule"), ("compare", ["--methods", "smoke"], "methods: 'smoke' is none of"),
    ("compare", ["synthetic={smote: data}", "--methods", "smote"], "two sets are named 'smote'")])
def test_a_fault_is_one_message(tmp_path, capfd, started, script, arguments, message):
    refused(capfd, message, script, *arguments, *([f"output={tmp_path / 'out'}"] if len(arguments) > 1 else []))
    assert not (tmp_path / "out" / "budget.json").exists()
