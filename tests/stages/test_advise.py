"""Advice by its command: from training and validation rows alone."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from user_errors import assert_refused, contents, run_command

from tardiff.config import AdviceConfig, ExperimentConfig, load_config
from tardiff.data.format import read_dataset, write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.evaluation.advice import Advice
from tardiff.evaluation.frame import MIXED
from tardiff.evaluation.protocol import Arm
from tardiff.stages.advise import command_for, experiment_of
from tardiff.stages.run import evaluation_of
from tardiff.utils.checkpoint import read_json

TINY = """
base: [training.steps=2, model.base_channels=8, "model.channel_multipliers=[1, 1]", training.preview_every=0]
classifier: [training.steps=2, model.rnn.hidden_size=4]
teacher: ["members=[{model: logistic, seeds: 1}]", workers=1]
guidance: {plain: [configs/guidance/none.yaml, sampler.num_inference_steps=2]}
evaluation: [seeds=3, "controls=[teacher_labels]", "ratios=[1.0]", "weights=[]", bootstrap=20, training.steps=2,
             workers=1, model.rnn.hidden_size=4]
"""
ADVISE = ["advise", "data=data", "experiment=tiny.yaml", "rotations=3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset whose test no one can read."""
    folder = tmp_path_factory.mktemp("advise")
    write_dataset(folder / "data", *simulate_cohort(250, 0))
    (folder / "data" / "test.npz").write_text("not to be read")
    return folder / "data"


@pytest.fixture
def folder(data, tmp_path, monkeypatch):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_advice_never_reads_test_and_goes_on_where_it_was(folder, capsys):
    assert run_command(*ADVISE) == 0
    printed = capsys.readouterr().out
    found = read_json("runs/advice/data/advice.json")
    (advice,) = found["advice"]
    assert advice["words"] in printed and "test is not read" in printed
    assert advice["judge"] == "gru" and advice["train_on"] and advice["gain"]["low"] <= advice["gain"]["high"]
    assert found["fits"] == 3 * 3 * 6
    tested = [read_dataset(f"runs/advice/data/rotations/{number}/data").test.subject for number in range(3)]
    pool = [split.subject for split in read_dataset("data", ("train", "val")).splits.values()]
    assert sorted(np.concatenate(tested)) == sorted(np.concatenate(pool)) and found["rows"] == len(np.concatenate(pool))
    made = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("fits/*.npz")}
    assert run_command(*ADVISE) == 0
    assert made == {path: path.stat().st_mtime_ns for path in Path("runs").rglob("fits/*.npz")}
    assert read_json("runs/advice/data/advice.json")["advice"] == found["advice"]


@pytest.mark.parametrize(("arguments", "expected"), [
    (["experiment=[tiny.yaml, 'evaluation=[seeds=2]']"], ("seeds=2 classifiers are too few",)),
    (["experiment=[tiny.yaml, 'evaluation=[score_on=selection]']"], ("score_on=test",)),
    (["rotations=2"], ("'rotations' must be at least 3",)),
    (["rotations=20"], ("no row of class", "Advice needs more rows"))])
def test_what_gives_no_advice_is_refused_before_anything_trains(folder, capfd, arguments, expected):
    before = contents(folder)
    capfd.readouterr()
    code = run_command(*ADVISE, *arguments)
    assert_refused(code, capfd.readouterr().err, expected)
    assert contents(folder) == before


@pytest.mark.parametrize(("arm", "asked"), [
    (Arm("TSTR", "plain", targets="soft"), {"protocols": ["tstr"], "targets": ["soft"]}),
    (Arm("TSRTR", "plain", 1.0), {"protocols": ["tsrtr"], "targets": ["own"], "ratios": [1.0], "weights": []}),
    (Arm(MIXED, "plain"), {"protocols": ["tsrtr"], "targets": ["own"], "ratios": [], "weights": [0.1, 0.25]})])
def test_the_command_that_is_told_makes_the_set_and_trains_on_it_as_advised(folder, arm, asked):
    config = load_config(AdviceConfig, overrides=[
        "data=data", "experiment=[tiny.yaml, 'guidance={other: configs/guidance/none.yaml, plain: "
        "configs/guidance/none.yaml}']"])
    advice = Advice(arm, arm, Arm("TRTR"), {}, None, [0.25, 0.1, 0.25] if arm.protocol == MIXED else [])
    program, command, *words = shlex.split(command_for(config, experiment_of(config), advice))
    assert (program, command) == ("tardiff", "run")
    experiment = load_config(ExperimentConfig, words[0], words[1:])
    assert list(experiment.guidance) == ["plain"] and experiment.data == "data" and experiment.rotations == 1
    evaluation = evaluation_of(experiment)
    assert {name: getattr(evaluation, name) for name in asked} == asked


def test_a_dry_run_reads_no_test_either(folder, capsys):
    assert run_command(*ADVISE, "--dry-run") == 0
    assert "tardiff train" in capsys.readouterr().out and not Path("runs").exists()
    assert load_config(ExperimentConfig, "tiny.yaml").rotations == 1
