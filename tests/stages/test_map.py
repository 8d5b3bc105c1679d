"""The gain map by its command: what a cell is made of, that it resumes, and what is refused before anything trains."""

import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from user_errors import USER_MODELS, assert_refused, contents, run_command

from tardiff.config import CONFIGS, GenerationConfig, MapConfig, load_config
from tardiff.data.format import read_dataset, write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.stages.map import cells_of, experiment_of
from tardiff.stages.run import generation_steps
from tardiff.utils.cache import result_path
from tardiff.utils.errors import UserError

TINY = """
base: [training.steps=2, model.base_channels=8, "model.channel_multipliers=[1, 1]", training.preview_every=0]
classifier: [training.steps=2, model.rnn.hidden_size=4]
teacher: ["members=[{model: logistic, seeds: 1}]", workers=1]
guidance: {plain: [configs/guidance/none.yaml, num_samples=180, sampler.num_inference_steps=2]}
evaluation: [seeds=2, "controls=[teacher_labels]", "ratios=[1.0]", "weights=[]", bootstrap=20, training.steps=2,
             workers=1, model.rnn.hidden_size=4]
"""
MAP = ["map", "data=data", "sizes=[140, 200]", "subsets=2", "experiment=tiny.yaml"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_dataset("data", *simulate_cohort(300, 0))
        Path("tiny.yaml").write_text(TINY)
        assert run_command(*MAP, "workers=2") == 0
    return folder


def test_a_cell_has_n_labelled_rows_of_train_and_val_and_the_test_of_the_dataset(finished):
    whole = read_dataset(finished / "data")
    for n in (140, 200):
        for number in range(2):
            part = read_dataset(finished / f"runs/map/data/cells/n{n}-subset{number}/data")
            assert n - 3 <= len(part.train) + len(part.val) <= n, "as many as whole patients have"
            assert part.test.fingerprint() == whole.test.fingerprint()
            assert set(part.train.subject) <= set(whole.train.subject)
            assert set(part.val.subject) <= set(whole.val.subject)


def test_the_table_has_every_arm_of_every_n(finished):
    table = pd.read_csv(finished / "runs/map/data/map.csv")
    assert set(table["n"]) == {140, 200} and set(table["subsets"]) == {2} and set(table["denoisers"]) == {1}
    arms = ["TRTR", "control teacher_labels", "TSTR plain", "TSTR plain, soft", "TSRTR plain 1", "TSRTR plain 1, soft"]
    assert table[table["metric"] == "auroc"]["arm"].tolist() == 2 * arms
    of_sets = table[table["set"] == "plain"]
    assert set(of_sets["control"].dropna()) == {"teacher_labels"} and (finished / "runs/map/data/map.png").exists()
    judged = of_sets.loc[of_sets["metric"] != "positive_rate", "verdict"]
    assert (judged == "too few seeds to judge").all(), "two subsets are two repeats"


def test_a_map_goes_on_where_it_was_to_the_same_bytes(folder, capsys):
    output = folder / "runs/map/data"
    before = contents(output)
    last_cell = cells_of(load_config(MapConfig, overrides=MAP[1:]), read_dataset("data"))[-1]
    for path in [output / "map.csv", output / "map.png", result_path(output / "scores", last_cell.key)]:
        path.unlink()
    again = output / "cells" / "n200-subset1"
    for name in ("base", "classifier", "teacher", "synthetic", "report"):
        shutil.rmtree(again / name)
    made = {path: path.stat().st_mtime_ns for path in output.rglob("base/model.safetensors")}
    assert len(made) == 3
    logs = [path.read_text() for path in output.glob("cells/*/log.txt")]
    assert len(logs) == 4 and all("trained for 2 steps" in log for log in logs)
    capsys.readouterr()
    assert run_command(*MAP, "workers=1") == 0
    printed = capsys.readouterr().out
    assert "no gain is judged" in printed
    assert "trained for" not in printed and "resumes" not in printed
    assert "4 cells, 3 of them finished" in printed and "chance of generation" not in printed
    after = contents(output)
    results = {path for path in before if Path(path).suffix in (".csv", ".png", ".npz", ".safetensors")}
    assert {path: after.get(path) for path in results} == {path: before[path] for path in results}
    assert made == {path: path.stat().st_mtime_ns for path in made}


def test_more_subsets_are_added_to_those_there_are(folder, capsys):
    assert run_command(*MAP, "subsets=3", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "6 cells, 4 of them finished" in printed and "no gain is judged" not in printed
    assert run_command(*MAP, "sizes=[140]") == 0, "the same subsets, of fewer sizes"
    assert set(pd.read_csv("runs/map/data/map.csv")["n"]) == {140}
    code = run_command(*MAP, "seed=1")
    assert_refused(code, capsys.readouterr().err, ("n140-subset0/data: is no subset of data as it is now",))


@pytest.mark.parametrize(("arguments", "expected"), [
    (["sizes=[140, 5000]"], ("train and val have 237 rows, a subset was to have 5,000", "sizes=",)),
    (["sizes=[20]"], ("no row of class", "sizes: 20 rows are too few")),
    (["sizes=[]"], ("'sizes' must hold at least one",)), (["sizes=[200, 200]"], ("each once",)),
    (["experiment=[tiny.yaml, rotations=3]"], ("experiment: ", "rotations=1")),
    (["experiment=[tiny.yaml, 'evaluation=[score_on=selection]']"], ("experiment: ", "score_on=test")),
    (["experiment=[tiny.yaml, 'guidance={a: num_samples=20}']"], ("'a' has 20 rows, the ratio needs",)),
    (["experiment=[tiny.yaml, 'base=[training.stepz=3]']"], ("base: 1 fault", "training.stepz"))])
def test_what_a_cell_would_refuse_is_refused_before_the_first(finished, tmp_path, monkeypatch, capfd, arguments,
                                                              expected):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "data", "data")
    Path("tiny.yaml").write_text(TINY)
    before = contents(tmp_path)
    capfd.readouterr()
    code = run_command(*MAP, *arguments)
    assert_refused(code, capfd.readouterr().err, expected)
    assert contents(tmp_path) == before


def test_what_fails_in_a_cell_is_told_with_its_log(folder, monkeypatch, capfd):
    def fail(*_, **__):
        print("step 3 of 5")
        raise UserError("the training loss is not finite")

    monkeypatch.setattr("tardiff.stages.map.run_steps", fail)
    code = run_command(*MAP, "subsets=3", "sizes=[140]", "workers=1")
    log = "runs/map/data/cells/n140-subset2/log.txt"
    assert_refused(code, capfd.readouterr().err, (f"{log}: the training loss is not finite",))
    assert Path(log).read_text() == "step 3 of 5\n"


@pytest.mark.parametrize("path", sorted((CONFIGS / "map").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_name_an_experiment_whose_stages_are_valid(path):
    config = load_config(MapConfig, path)
    experiment = experiment_of(config, Path(config.output) / "cells" / "all")
    assert any(isinstance(step.config, GenerationConfig) for step in generation_steps(experiment))


def test_all_rows_are_one_subset_whose_repeats_are_seeds_and_another_experiment_is_computed_anew(folder, capsys):
    whole = [*MAP, "sizes=[null]"]

    def interval_of(judge):
        table = pd.read_csv("runs/map/data/map.csv")
        assert set(table["n"]) == {237} and set(table["subsets"]) == {1} and set(table["judge"]) == {judge}
        assert table[table["arm"] == "TRTR"]["sd"].notna().all(), "of two seeds; means over seeds have none"
        return table[(table["set"] == "plain") & (table["metric"] == "auroc")][["difference_low", "difference_high"]]

    assert run_command(*whole, "--dry-run") == 0
    assert "237 (1 subset)" in capsys.readouterr().out
    assert run_command(*whole) == 0
    assert "Of 237 rows" in (printed := capsys.readouterr().out) and "not cover the chance of generation" in printed
    first = interval_of("gru")
    cell = Path("runs/map/data/cells/all")
    denoiser, fits = (cell / "base/model.safetensors").stat().st_mtime_ns, set(cell.rglob("fits/*.npz"))
    for changed, judge in (("bootstrap=30", "gru"), ("bootstrap=20, model.name=lstm", "lstm")):
        Path("tiny.yaml").write_text(TINY.replace("bootstrap=20", changed))
        assert run_command(*whole) == 0
        assert "1 cell, 0 of them finished" in capsys.readouterr().out
        assert not interval_of(judge).equals(first)
        assert (set(cell.rglob("fits/*.npz")) == fits) == (judge == "gru"), "fits count as far as they are the same"
    assert (cell / "base/model.safetensors").stat().st_mtime_ns == denoiser


@pytest.mark.parametrize(("stage", "settings"), [
    ("teacher", "['members=[{model: custom, seeds: 1}]', "), ("classifier", "[model.name=custom, "),
    ("evaluation", "[model.name=custom, 'controls=[]', 'weights=[]', ")])
def test_a_model_of_the_users_own_that_was_edited_makes_another_cell(finished, tmp_path, monkeypatch, stage, settings):
    monkeypatch.chdir(finished)
    monkeypatch.syspath_prepend(tmp_path)
    experiment = f"experiment=[tiny.yaml, \"{stage}={settings}'model.custom.import_path=edited_models:Linear']\"]"
    keys = []
    for edit in ("", "", "\nWIDTH = 3\n"):
        (tmp_path / "edited_models.py").write_text(USER_MODELS + edit)
        monkeypatch.delitem(sys.modules, "edited_models", raising=False)
        config = load_config(MapConfig, overrides=["data=data", "sizes=[140]", "subsets=1", experiment])
        keys.append(cells_of(config, read_dataset("data"))[0].key)
    assert keys[0] == keys[1] != keys[2]
