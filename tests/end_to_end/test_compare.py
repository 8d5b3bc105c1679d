"""Rival methods by their commands: training, sampling, one report, and what is refused."""

import json
import sys

import numpy as np
import pytest

from tardiff.data.format import read_dataset

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
    flagged = {name: results["privacy"][name]["train_attack"]["flagged"]["mean"] for name in ("oversample", "jitter")}
    assert flagged["oversample"] == 1, "repeated training rows are a copy"
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "methods").rglob("train.npz")}
    assert len(made) == 4
    code, printed = command(workplace, "compare", *arguments)
    assert code == 0 and all(path.stat().st_mtime_ns == time for path, time in made.items())


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
    ("compare", ["synthetic={smote: data}", "--methods", "smote"], "this is the name of a method")])
def test_a_fault_is_one_message(workplace, tmp_path, script, arguments, message):
    code, printed = command(workplace, script, *arguments, *([f"output={tmp_path / 'out'}"] if len(arguments) > 1 else []))
    assert code == 2 and message in printed and "Traceback" not in printed, printed
    assert not (tmp_path / "out" / "budget.json").exists()
