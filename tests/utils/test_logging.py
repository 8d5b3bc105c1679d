"""Run folders: which settings may change on the way, and what a killed run leaves behind."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tardiff.config import BaseConfig, GenerationConfig, load_config
from tardiff.utils.errors import UserError
from tardiff.utils.logging import open_run, read_metrics, read_run_config
from tardiff.utils.settings import to_yaml

INPUTS = {"train": "aaaa", "val": "bbbb"}


def changed(**settings):
    """The settings of stage 1, of which some, by name in their section training or at the top, are others."""
    top = ("seed", "data", "device")
    return load_config(BaseConfig, values={name if name in top else f"training.{name}": value
                                           for name, value in settings.items()})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_run_records_settings_inputs_seed_and_versions(tmp_path):
    config = changed(seed=7)
    run = open_run(tmp_path / "run", config, INPUTS)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run.folder == tmp_path / "run" and run.latest_state() is None
    assert record["inputs"] == INPUTS and record["seed"] == 7 and record["torch"] == torch.__version__
    assert record["config"] == dataclasses.asdict(config) and record["argv"]
    assert read_run_config(tmp_path / "run", BaseConfig) == config


def test_the_same_settings_and_inputs_open_the_run_again_and_change_nothing(tmp_path):
    open_run(tmp_path, changed(), INPUTS)
    before = contents(tmp_path)
    open_run(tmp_path, changed(), INPUTS)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", "metrics.jsonl", "state-mine.pt", "dataset.json",
                                  "preview.png", "train.npz", "chunks/mine.npz", "tensorboard/mine"])
@pytest.mark.parametrize("record", ["run.json", "provenance.json"])
def test_files_of_others_stay_and_end_a_new_run(tmp_path, name, record):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds {name.partition('/')[0]}, which no run"):
        open_run(tmp_path, changed(), INPUTS, record=record)
    assert contents(tmp_path) == {Path(name).name: b"mine"}


def test_what_no_run_writes_and_what_a_kill_left_do_not_matter(tmp_path):
    (tmp_path / "slurm-1.out").write_text("mine")
    (tmp_path / "config.yaml").write_text(to_yaml(changed()))
    open_run(tmp_path, changed(), INPUTS)
    assert (tmp_path / "run.json").exists() and (tmp_path / "slurm-1.out").read_text() == "mine"


def test_a_semantic_change_is_refused_with_both_values(tmp_path):
    open_run(tmp_path, changed(learning_rate=1e-3, batch_size=64), INPUTS)
    before = contents(tmp_path)
    with pytest.raises(UserError) as error:
        open_run(tmp_path, changed(learning_rate=2e-3, batch_size=64, seed=1), INPUTS)
    assert "  - training.learning_rate: the run has 0.001, now 0.002" in str(error.value)
    assert "  - seed: the run has 0, now 1" in str(error.value)
    assert "batch_size" not in str(error.value) and contents(tmp_path) == before


def test_other_inputs_are_refused_with_the_folder_that_the_run_was_made_on(tmp_path):
    open_run(tmp_path, changed(), INPUTS)
    for config, inputs, expected in (
            (changed(), {"train": "cccc", "val": "bbbb"}, ["content of train: data/simulated has changed since"]),
            (changed(data="data/mine"), {"train": "cccc", "val": "dddd"},
             [f"content of {split}: the run was made on data/simulated, now data=data/mine" for split in INPUTS]),
            (changed(), {"train": "aaaa", "code of the model": "eeee"},
             ["content of code of the model: the run has None, now 'eeee'",
              "content of val: the run has 'bbbb', now None"])):
        with pytest.raises(UserError) as error:
            open_run(tmp_path, config, inputs)
        assert [line[4:] for line in str(error.value).splitlines()[1:-1]] == expected


def test_a_change_that_does_not_alter_the_result_is_accepted_and_recorded(tmp_path):
    open_run(tmp_path, changed(steps=100), INPUTS)
    later = changed(steps=200, log_every=7, device="cpu", data="elsewhere")
    open_run(tmp_path, later, INPUTS)
    assert read_run_config(tmp_path, BaseConfig) == later


def test_processes_other_than_the_first_write_nothing(tmp_path):
    open_run(tmp_path / "new", changed(), INPUTS, main=False)
    assert not (tmp_path / "new").exists()
    open_run(tmp_path / "run", changed(), INPUTS)
    before = contents(tmp_path)
    open_run(tmp_path / "run", changed(steps=7), INPUTS, main=False)
    assert contents(tmp_path) == before


def test_a_mixture_of_classes_survives_the_folder(tmp_path):
    first, other = (load_config(GenerationConfig, values={
        "guidance.objective": "influence", "guidance.classes": {0: share, 1: 1 - share}, "labels": [3, 4]})
        for share in (0.25, 0.5))
    for _ in range(2):
        open_run(tmp_path, first, {}, record="provenance.json")
    with pytest.raises(UserError, match=r"guidance\.classes: the run has \{0: 0.25, 1: 0.75\}, now \{0: 0.5, 1: 0.5\}"):
        open_run(tmp_path, other, {}, record="provenance.json")


def test_a_file_in_place_of_the_folder_and_a_folder_without_run_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        open_run(tmp_path / "file", changed(), INPUTS)
    with pytest.raises(UserError, match="not a run folder"):
        read_run_config(tmp_path, BaseConfig)


def test_settings_that_this_version_does_not_know_are_refused(tmp_path):
    open_run(tmp_path, changed(), INPUTS)
    (tmp_path / "config.yaml").write_text(to_yaml(changed()) + "colour: red\n")
    with pytest.raises(UserError, match=r"config\.yaml: unknown key 'colour'"):
        open_run(tmp_path, changed(), INPUTS)


def test_only_the_newest_state_is_kept_and_found(tmp_path):
    run = open_run(tmp_path, changed(), INPUTS)
    for step in (9, 10):
        run.save_state(step, {"step": step, "weight": torch.full((2,), float(step))})
    assert sorted(path.name for path in tmp_path.glob("state-*")) == ["state-10.pt"]
    assert torch.equal(open_run(tmp_path, changed(), INPUTS).latest_state()["weight"], torch.full((2,), 10.0))


def test_a_kill_between_state_and_pointer_falls_back_to_the_state_before(tmp_path):
    run = open_run(tmp_path, changed(), INPUTS)
    run.save_state(10, {"step": 10})
    (tmp_path / "state-20.pt").write_bytes(b"half a state")
    assert run.latest_state() == {"step": 10}
    run.save_state(20, {"step": 20})
    assert run.latest_state() == {"step": 20}


def test_a_damaged_state_is_named(tmp_path):
    run = open_run(tmp_path, changed(), INPUTS)
    run.save_state(10, {"step": 10})
    (tmp_path / "state-10.pt").write_bytes(b"half a state")
    with pytest.raises(UserError, match=r"state-10\.pt: damaged"):
        run.latest_state()


def test_rewinding_drops_what_was_logged_after_the_state(tmp_path):
    run = open_run(tmp_path, changed(), INPUTS)
    run.rewind(0)
    for step in (5, 10, 15):
        run.log(step, loss=1.0 / step)
    run.log(15, validation_loss=2.0)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "lo')
    resumed = open_run(tmp_path, changed(), INPUTS)
    resumed.rewind(10)
    resumed.log(15, loss=0.5)
    resumed.close()
    expected = [{"step": 5, "loss": 0.2}, {"step": 10, "loss": 0.1}, {"step": 15, "loss": 0.5}]
    assert read_metrics(tmp_path / "metrics.jsonl") == expected
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_tensorboard_shows_each_step_once_after_a_rewind(tmp_path):
    run = open_run(tmp_path, changed(), INPUTS)
    run.rewind(0)
    for step in (5, 10, 15):
        run.log(step, loss=step)
    run.rewind(10)
    run.log(15, loss=99)
    run.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(5, 5.0), (10, 10.0), (15, 99.0)]
