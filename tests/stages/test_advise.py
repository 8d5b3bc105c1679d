"""Advice by its command: from training and validation rows alone."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from user_errors import assert_refused, contents, run_command

from tardiff.config import AdviceConfig, ExperimentConfig, TeacherConfig, load_config
from tardiff.data.format import read_dataset, replace_dataset, write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.evaluation.advice import Advice
from tardiff.evaluation.frame import MIXED
from tardiff.evaluation.protocol import Arm
from tardiff.stages.advise import command_for, experiment_of, minutes_spent, words_for
from tardiff.stages.evaluate import arms_of
from tardiff.stages.run import evaluation_of, generation_steps, planned_sets
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
    assert printed.index("The evaluation will take about") < printed.index("tardiff train")
    assert advice["judge"] == "gru" and advice["train_on"] and advice["gain"]["low"] <= advice["gain"]["high"]
    assert found["fits"] == 3 * 3 * 6
    tested = [read_dataset(f"runs/advice/data/rotations/{number}/data").test.subject for number in range(3)]
    pool = [split.subject for split in read_dataset("data", ("train", "val")).splits.values()]
    assert sorted(np.concatenate(tested)) == sorted(np.concatenate(pool)) and found["rows"] == len(np.concatenate(pool))
    made = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("fits/*.npz")}
    assert run_command(*ADVISE) == 0
    assert made == {path: path.stat().st_mtime_ns for path in Path("runs").rglob("fits/*.npz")}
    again = read_json("runs/advice/data/advice.json")
    assert again["advice"] == found["advice"] and again["minutes"] > found["minutes"], "both calls together"


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


def test_a_dataset_with_a_target_of_its_own_needs_no_rotations_but_one_population(folder, capfd):
    parts = read_dataset("data", ("train", "val"))
    half = parts.val.subject % 2 == 0
    replace_dataset("data", parts.splits | {"val": replace(parts.val, guidance=half)}, parts.meta)
    code = run_command(*ADVISE)
    printed = capfd.readouterr()
    assert_refused(code, printed.err, ("data: advice needs one population", "a target of its own"))
    assert "rotations=1" not in printed.err and not printed.out


def test_minutes_are_those_of_all_calls_that_ended(tmp_path):
    path = tmp_path / "minutes.json"
    with minutes_spent(path) as spent:
        first = spent()
    kept = read_json(path)["minutes"]
    with pytest.raises(KeyboardInterrupt), minutes_spent(path) as spent:
        assert 0 <= first <= kept < spent()
        raise KeyboardInterrupt
    assert read_json(path)["minutes"] > kept


def summary(mean, low, high):
    return {"mean": mean, "low": low, "high": high}


TRTR, MIXUP, TEACHER, TSTR = Arm("TRTR"), Arm("mixup"), Arm("teacher_labels"), Arm("TSTR", "plain")
GAIN, NO_GAIN = summary(0.031, 0.012, 0.051), summary(0.002, -0.017, 0.023)
GAIN_OF_CONTROL = summary(0.125, 0.113, 0.137)


@pytest.mark.parametrize(("advice", "said", "not_said"), [
    (Advice(TSTR, TSTR, MIXUP, GAIN, GAIN_OF_CONTROL, []),
     ["use synthetic series: TSTR plain", "(mixup)", "AUPRC +0.031 [+0.012, +0.051]", ", shown"],
     ["real rows alone,", "0.125", "room", "not shown"]),
    (Advice(TSTR, TSTR, MIXUP, summary(0.031, -0.012, 0.071), GAIN_OF_CONTROL, []),
     ["use synthetic series: TSTR plain", "AUPRC +0.031 [-0.012, +0.071]", "not shown"], ["real rows alone,", "room"]),
    (Advice(MIXUP, TSTR, MIXUP, NO_GAIN, GAIN_OF_CONTROL, []),
     ["train on the real rows alone, with the control mixup", "AUPRC +0.125 [+0.113, +0.137] [95 %], shown",
      "not expected", "AUPRC +0.002 [-0.017, +0.023]", "up to 0.023"], ["use synthetic", "as they are."]),
    (Advice(TRTR, TSTR, MIXUP, NO_GAIN, summary(0.002, -0.1, 0.3), []),
     ["train on the real rows alone, as they are", "not expected", "AUPRC +0.002 [-0.017, +0.023]", "up to 0.023"],
     ["use synthetic", "mixup", "0.300"]),
    (Advice(TRTR, TSTR, TRTR, summary(-0.03, -0.05, -0.01), None, []),
     ["train on the real rows alone, as they are", "the interval shows a loss"], ["room"])],
    ids=["synthetic", "a bet", "control", "TRTR", "loss"])
def test_what_is_said_is_of_what_is_advised_with_its_own_numbers(advice, said, not_said):
    words = words_for(advice, "AUPRC")
    assert [text for text in said if text not in words] == [] == [text for text in not_said if text in words], words


def command_of(advice, *experiment):
    """The words of the command that is told after an experiment with these settings over those of tiny.yaml."""
    config = load_config(AdviceConfig, overrides=["data=data", f"experiment=[{', '.join(['tiny.yaml', *experiment])}]"])
    command = command_for(config, experiment_of(config), advice)
    return None if command is None else shlex.split(command)


def keys_of(words):
    return [word.partition("=")[0] for word in words if "=" in word]


@pytest.mark.parametrize("arm", [
    Arm("TSTR", "plain", judge="gru", targets="soft"), Arm("TSRTR", "plain", 1.0, "gru"),
    Arm(MIXED, "plain", judge="gru")])
def test_the_command_that_is_told_runs_the_advised_arm_alone_in_a_folder_of_its_own(folder, capsys, arm):
    replace_dataset("data", *simulate_cohort(250, 0))
    weights = [0.25, 0.1, 0.25] if arm.protocol == MIXED else []
    words = command_of(
        Advice(arm, arm, TRTR, {}, None, weights), "name=mine", "output=runs/mine",
        "'guidance={other: configs/guidance/none.yaml, plain: configs/guidance/none.yaml}'",
        "\"evaluation=[seeds=3, 'ratios=[0.5, 1.0]', 'weights=[0.1, 0.25, 0.5]', 'targets=[own, soft]', "
        "reference=other]\"")
    assert words[:2] == ["tardiff", "run"]
    experiment = load_config(ExperimentConfig, words[2], words[3:])
    for typed in (words, experiment.evaluation):
        assert len(set(keys_of(typed))) == len(keys_of(typed)), "each setting once"
    steps, evaluation = generation_steps(experiment), evaluation_of(experiment)
    assert all(Path(step.config.output).is_relative_to("runs/data-advised") for step in steps)
    assert evaluation.output == "runs/data-advised/report" and evaluation.seeds == 3
    part = read_dataset("data")
    arms = arms_of(evaluation, part.train, planned_sets(part, steps, evaluation))
    advised = [replace(arm, weight=weight) for weight in (0.1, 0.25)] if weights else [arm]
    assert [each for each in arms if each.synthetic is not None] == advised
    assert run_command(*words[1:], "--dry-run") == 0


def test_the_labels_of_a_teacher_are_made_by_the_teacher_of_the_experiment_in_a_folder_of_its_own(folder):
    advice = Advice(TEACHER, TSTR, TEACHER, {}, None, [])
    words = command_of(advice, "\"teacher=['members=[{model: logistic, seeds: 1}]', name=mine]\"")
    assert words[:2] == ["tardiff", "teach"] and len(set(keys_of(words))) == len(keys_of(words))
    config = load_config(TeacherConfig, overrides=words[2:])
    assert config.members == [{"model": "logistic", "seeds": 1}] and config.data == "data"
    assert config.output == "runs/data-advised/teacher"
    assert run_command(*words[1:], "--dry-run") == 0


@pytest.mark.parametrize("arm", [MIXUP, TRTR])
def test_no_command_makes_what_there_is(folder, arm):
    assert command_of(Advice(arm, TSTR, arm, {}, None, [])) is None


def test_judges_that_are_advised_apart_are_told_of_folders_apart(folder):
    judged = [command_of(Advice(replace(TSTR, judge=judge), TSTR, TRTR, {}, None, []),
                         "'evaluation=[seeds=3, \"judges=[gru, lstm]\"]'") for judge in ("gru", "lstm")]
    assert [next(word for word in words if word.startswith("output=")) for words in judged] == [
        "output=runs/data-advised-gru", "output=runs/data-advised-lstm"]


def test_a_dry_run_reads_no_test_either(folder, capsys):
    assert run_command(*ADVISE, "--dry-run") == 0
    assert "tardiff train" in capsys.readouterr().out and not Path("runs").exists()
    assert load_config(ExperimentConfig, "tiny.yaml").rotations == 1
