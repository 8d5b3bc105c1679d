"""All stages by one command: what a later stage would refuse is refused before the first one starts."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from user_errors import assert_refused, contents, run_command

from tardiff.config import (
    CONFIGS,
    CompareConfig,
    ExperimentConfig,
    GenerationConfig,
    ReportConfig,
    load_config,
)
from tardiff.data.format import read_dataset, replace_dataset, write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.stages.compare import NAMES
from tardiff.stages.run import evaluation_of, generation_steps, synthetic_sets, teachers


@pytest.mark.parametrize(("arguments", "expected"), [
    (["base=[diffusion.num_train_timesteps=5]", "guidance={unguided: sampler.num_inference_steps=10}"],
     ("guidance.unguided: num_inference_steps=10", "5 diffusion steps")),
    (["base=[training.label_dropout=0]", "guidance={a: sampler.cfg_scale=2}"], ("guidance.a: sampler.cfg_scale=2",)),
    (["guidance={real: configs/guidance/none.yaml}"], ("synthetic.real: this name stands for other rows",)),
    (["evaluation=[reference=typo]"], ("reference=typo",)),
    (["base=[training.stepz=3]"], ("base: 1 fault", "training.stepz", "Did you mean 'training.steps'")),
    (["base.training.steps=3"], ("'base.training.steps'", "'base=[training.steps=...]'")),
    (["classifier=[a.yaml, b.yaml]"], ("classifier: give one configuration file",)),
    (["guidance={}"], ("no synthetic set is named",)), (["rotations=2"], ("'rotations' must be 1, or at least 3",)),
    (["evaluation=[rotations=3]"], ("evaluation: ", "'rotations' is above 1", "{rotation}"))])
def test_faults_of_all_stages_speak_before_the_first(tmp_path, monkeypatch, capfd, arguments, expected):
    monkeypatch.chdir(tmp_path)
    write_dataset("data", *simulate_cohort(200, 0))
    before = contents(tmp_path)
    capfd.readouterr()
    code = run_command("run", "data=data", *arguments)
    assert_refused(code, capfd.readouterr().err, expected)
    assert contents(tmp_path) == before


def test_a_teacher_of_a_run_labels_all_its_sets(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_dataset("data", *simulate_cohort(150, 0))
    assert run_command("run", "data=data", "generation_seeds=2", "train_each_seed=true", "--dry-run",
                       "teacher=['members=[{model: forest, seeds: 1}]']") == 0
    printed = capsys.readouterr().out
    assert "'teacher=[runs/data/teacher-seed0, runs/data/teacher-seed1]'" in printed.splitlines()[-2]
    for seed in range(2):
        assert f"tardiff teach 'members=[{{model: forest, seeds: 1}}]' data=data name=data seed={seed}" in printed
        assert printed.count(f"teacher=runs/data/teacher-seed{seed} output=runs/data/synthetic") == 2


def test_a_dry_run_misses_what_nobody_makes_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in ("run", "train", "guide", "teach", "generate", "map", "advise"):
        assert_refused(run_command(command, "data=data", "--dry-run"), capsys.readouterr().err,
                       ("data: dataset folder not found",))
    for command in ("evaluate", "report", "compare"):
        assert_refused(run_command(command, "real=data", "--dry-run"), capsys.readouterr().err,
                       ("no finished dataset at:\n  - data",))
    write_dataset("data", *simulate_cohort(200, 0))
    for settings in ((), ("rotations=3",)):
        assert run_command("run", "data=data", "--dry-run", *settings) == 0
        printed = capsys.readouterr().out
        awaited = " ".join(line for line in printed.splitlines() if line.startswith("settings are valid. Earlier"))
        assert all(f"{'runs/data/rotations/0' if settings else 'runs/data'}/{folder}" in awaited
                   for folder in ("base", "classifier", "synthetic/unguided"))


def test_a_dry_run_awaits_a_set_that_was_cut_off(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_dataset("data", *simulate_cohort(200, 0))
    (tmp_path / "runs" / "data" / "synthetic" / "guided").mkdir(parents=True)
    assert run_command("run", "data=data", "--dry-run") == 0
    assert "runs/data/synthetic/guided" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("experiment/*.yaml")), ids=lambda path: path.stem)
def test_the_experiments_that_come_with_it_are_valid(path):
    config = load_config(ExperimentConfig, path)
    sets = [step.config.output for step in generation_steps(config) if isinstance(step.config, GenerationConfig)]
    assert sorted(sets) == sorted(folder for folders in synthetic_sets(config).values() for folder in folders)
    assert evaluation_of(config).sections


def test_the_presets_of_evaluation_are_valid():
    report = load_config(ReportConfig, CONFIGS / "evaluation" / "cinc2012_mortality.yaml")
    experiment = load_config(ExperimentConfig, CONFIGS / "experiment" / "cinc2012_mortality.yaml")
    assert report.synthetic == synthetic_sets(experiment) and report.teachers == teachers(experiment)
    compared = load_config(CompareConfig, CONFIGS / "evaluation" / "cinc2012_comparison.yaml")
    assert set(compared.baselines) < set(NAMES) and Path(compared.experiment).stem == "cinc2012_mortality"


def test_a_dataset_too_small_for_a_teacher_is_told_of_before_the_first_stage(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    splits, meta = simulate_cohort(200, 0)
    train = splits["train"]
    write_dataset("data", splits | {"train": train[np.flatnonzero((train.y == 0) | (np.cumsum(train.y) <= 1))]}, meta)
    before = contents(tmp_path)
    capfd.readouterr()
    code = run_command("run", "data=data")
    assert_refused(code, capfd.readouterr().err, ("without fold", "teacher=null runs without a teacher"))
    assert contents(tmp_path) == before
    assert run_command("run", "data=data", "teacher=null", "--dry-run") == 0


def test_rotations_are_trained_each_and_scored_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_dataset("data", *simulate_cohort(150, 0))
    arguments = [
        "run", "data=data", "rotations=3", "guidance={plain: configs/guidance/none.yaml}",
        "base=[training.steps=2, model.base_channels=8, training.preview_every=0]",
        "classifier=[training.steps=2, model.rnn.hidden_size=4]", "teacher=['members=[{model: logistic, seeds: 1}]']",
        "evaluation=[seeds=1, 'controls=[teacher_labels]', 'weights=[0.25]', 'sections=[utility]', "
        "'ratios=[1.0]', bootstrap=20, training.steps=2, "
        "workers=1, model.rnn.hidden_size=4]"]
    assert run_command(*arguments) == 0
    whole, folder = read_dataset("data"), tmp_path / "runs" / "data"
    parts = [read_dataset(folder / "rotations" / str(number) / "data") for number in range(3)]
    tested = np.concatenate([part.test.subject for part in parts])
    assert sorted(tested) == sorted(np.concatenate([split.subject for split in whole.splits.values()]))
    assert len({(folder / f"rotations/{number}/base/model.safetensors").read_bytes() for number in range(3)}) == 3
    table = pd.read_csv(folder / "report" / "utility.csv")
    assert table["arm"].tolist() == [
        "TRTR", "control teacher_labels", "TSTR plain", "TSTR plain, soft", "TSRTR plain 1", "TSRTR mixed plain 0.25",
        "TSRTR plain 1, soft", "TSRTR mixed plain 0.25, soft"]
    settings = load_config(ReportConfig, folder / "report" / "settings.yaml")
    assert settings.rotations == 3 and settings.real.endswith("rotations/{rotation}/data")
    assert "mean over 3 rotations" in re.sub(r"\s+", " ", (folder / "report" / "report.html").read_text())
    written = contents(tmp_path / "runs" / "data" / "rotations")
    capsys.readouterr()
    assert run_command(*arguments) == 0, "what is done is kept"
    assert contents(tmp_path / "runs" / "data" / "rotations") == written
    splits, meta = simulate_cohort(150, 0)
    for other in ((splits, replace(meta, positive="survived")), simulate_cohort(150, 1)):
        replace_dataset("data", *other)
        code = run_command(*arguments)
        assert_refused(code, capsys.readouterr().err, ("rotations/0/data: is no rotation of data as it is now",))


def test_a_dataset_with_a_target_of_its_own_is_not_rotated(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    splits, meta = simulate_cohort(200, 0)
    half = splits["val"].subject % 2 == 0
    write_dataset("data", splits | {"val": replace(splits["val"], guidance=half)}, meta)
    before = contents(tmp_path)
    capfd.readouterr()
    code = run_command("run", "data=data", "rotations=3")
    assert_refused(code, capfd.readouterr().err, ("data: has a target of its own", "Give rotations=1."))
    assert contents(tmp_path) == before


def test_a_class_that_a_rotation_lacks_is_told_of_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    splits, meta = simulate_cohort(200, 0)
    few = {name: split[np.flatnonzero((split.y == 0) | (np.cumsum(split.y) <= 2))] for name, split in splits.items()}
    write_dataset("data", few, meta)
    code = run_command("run", "data=data", "rotations=8")
    assert_refused(code, capsys.readouterr().err, ("rotation", "no row of class", "Give fewer rotations"))
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("meta.json"))
