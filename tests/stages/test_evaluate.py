"""TSTR and TSRTR as functions of what is in memory, as a notebook calls them, and what they refuse."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tardiff
from tardiff.config import (
    CONTROLS,
    BoostingConfig,
    ClassifierModelConfig,
    ClassifierTrainingConfig,
    EvaluationConfig,
    RNNConfig,
    TeacherConfig,
    load_config,
)
from tardiff.data.format import Dataset, Split, read_dataset, write_dataset
from tardiff.data.series import LabelledSeries
from tardiff.data.simulator import simulate_cohort
from tardiff.data.splits import halve_validation
from tardiff.evaluation.protocol import METRICS, Arm
from tardiff.evaluation.sets import guide_kinds, require_fit
from tardiff.stages.evaluate import arms_of, evaluate_sets, few_subjects, judge_of, print_warnings, warn_beforehand
from tardiff.utils.checkpoint import write_json
from tardiff.utils.errors import UserError
from tardiff.utils.lock import LOCK
from tardiff.utils.logging import open_run

CONFIG = EvaluationConfig(ratios=[0.5], weights=[], controls=[], seeds=2, bootstrap=20, device="cpu", workers=1,
                          model=ClassifierModelConfig(rnn=RNNConfig(hidden_size=8)),
                          training=ClassifierTrainingConfig(steps=20, evaluate_every=10))


@pytest.fixture(scope="module")
def real():
    splits, meta = simulate_cohort(200, seed=0)
    return Dataset(Path("memory"), meta, splits)


def test_sets_in_memory_give_a_tidy_frame_and_fits_are_kept_where_a_folder_is_given(real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy, died = Split(real.train.x, real.train.y), real.train[real.train.y == 1]
    sets = {"copy": [copy], "died": [Split(np.repeat(died.x, 9, axis=0), np.repeat(died.y, 9))]}
    frame = evaluate_sets(real, sets, CONFIG)
    assert not list(tmp_path.iterdir()), "without a folder nothing is written"
    arms = frame[["set", "protocol", "ratio"]].drop_duplicates().astype(object).where(lambda part: part.notna(), None)
    assert arms.to_numpy().tolist() == [[None, "TRTR", None], ["copy", "TSTR", None], ["copy", "TSRTR", 0.5],
                                        ["died", "TSRTR", 0.5]], "a set that lacks a class can only be added"
    by_arm = frame.set_index(["protocol", "set", "metric"])
    assert by_arm.loc["TSTR", "copy", "auroc"]["mean"] == frame.loc[frame["metric"] == "auroc", "mean"].iloc[0]
    of_copy = by_arm.loc["TSTR", "copy", "auprc"]
    assert of_copy[["difference", "difference_low", "difference_high"]].tolist() == [0, 0, 0]
    assert frame[frame["protocol"] == "TRTR"]["difference"].isna().all()
    of_metric = frame.dropna(subset="verdict").groupby("metric")["verdict"].unique()
    assert of_metric.pop("positive_rate").tolist() == [""], "it has no better and worse"
    assert {verdict for verdicts in of_metric for verdict in verdicts} == {"too few seeds to judge"}
    assert (frame["low"] <= frame["mean"]).all() and (frame["mean"] <= frame["high"]).all()

    assert evaluate_sets(real, sets, CONFIG, tmp_path / "kept").equals(frame)
    fits = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept" / "fits").iterdir()}
    again = evaluate_sets(real, {"copy": [copy]}, replace(CONFIG, protocols=["tstr"]), tmp_path / "kept")
    assert set(again["protocol"]) == {"TRTR", "TSTR"}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept" / "fits").iterdir()} == fits


@pytest.mark.parametrize("judge", ["gru", "boosting"])
def test_certain_probabilities_give_the_scores_of_labels_and_others_do_not(real, judge):
    train = real.train
    certain = replace(train, p=np.eye(2, dtype=np.float32)[train.y])
    unsure = replace(train, p=(0.5 + certain.p) / 2)
    config = replace(CONFIG, judges=[judge], protocols=["tstr"], seeds=1, targets=["own", "soft"])
    frame = evaluate_sets(real, {"certain": [certain], "unsure": [unsure], "without": [replace(train, p=None)]}, config)
    means = {place: of_arm["mean"].tolist() for place, of_arm in frame.groupby(["set", "targets"])}
    assert means.keys() == {("certain", "own"), ("certain", "soft"), ("unsure", "own"), ("unsure", "soft"),
                            ("without", "own")}
    assert means["certain", "soft"] == means["certain", "own"] == means["unsure", "own"] == means["without", "own"]
    assert means["unsure", "soft"] != means["unsure", "own"]


@pytest.mark.parametrize("targets", [["soft"], ["own", "soft"]])
def test_soft_targets_of_sets_without_probabilities_are_refused(real, targets):
    with pytest.raises(UserError, match="synthetic set 'made' has no probabilities p"):
        evaluate_sets(real, {"made": [real.train]}, replace(CONFIG, targets=targets))


def test_a_set_of_too_few_rows_for_a_ratio_is_refused(real):
    with pytest.raises(UserError, match="'made' has 10 rows, the ratio needs 60"):
        evaluate_sets(real, {"made": [real.train[:10]]}, CONFIG)


@pytest.mark.parametrize(("settings", "fault"), [
    (["ratios=[0.2,0.2]"], "'ratios' must hold each number once"),
    (["ratios=[]", "weights=[]"], "'ratios' must hold at least one"),
    (["weights=[0.1,0.1]"], "'weights' must hold each"), (["weights=[1.0]"], "weights"),
    (["teacher=[]"], "'teacher' must name at least one"),
    (["targets=[]"], "'targets' must name own or soft"), (["targets=[soft,soft]"], "'targets' must name own or soft"),
    (["protocols=[]"], "'protocols' must name at least one"), (["protocols=[tstr,tstr]"], "'protocols' must name"),
    (["protocols=[tstr]", "ratios=[]"], None)])
def test_what_would_count_twice_or_measure_nothing_is_refused(settings, fault):
    if fault is None:
        assert load_config(EvaluationConfig, overrides=settings).protocols == ["tstr"]
    else:
        with pytest.raises(UserError, match=fault):
            load_config(EvaluationConfig, overrides=settings)


def library(real, synthetic, folder=None, **settings):
    """Call the library with the settings of CONFIG; a dataset `real` is given as it is."""
    small = {"device": "cpu", "workers": 1, "seeds": 1, "bootstrap": 20, "ratios": [0.5], "protocols": ["tstr"],
             "controls": [], "weights": [],
             "model.rnn.hidden_size": 8, "training.steps": 10}
    return tardiff.evaluate(real, synthetic, folder, **small | settings)


def test_a_folder_that_a_command_writes_is_refused_and_what_else_it_holds_stays(real, tmp_path, holder):
    sets = {"copy": (real.train.x, real.train.y)}
    with pytest.raises(UserError, match="is being written by process"):
        library(real, sets, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tstr.csv").write_text("mine")
    assert library(real, sets, tmp_path / "mine").equals(library(real, sets))
    assert (tmp_path / "mine" / "tstr.csv").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["fits", "tstr.csv"]


def test_equal_series_in_any_form_give_equal_results(real):
    train, series = real.train, LabelledSeries(Split(real.train.x, real.train.y), real.meta.of_synthetic())
    forms = {"series": series, "frame": series.to_frame(), "split": series.split, "arrays": (train.x, train.y),
             "doubles": (train.x.astype(np.float64), train.y.astype(np.int32)), "list": [(train.x, train.y)]}
    frame = library(real, forms).dropna(subset="set").set_index(["set", "metric"])["mean"].unstack()
    assert len(frame) == len(forms) and (frame.nunique() == 1).all()


def test_the_selection_half_is_scored_without_reading_test(real, tmp_path):
    write_dataset(tmp_path, {name: real.splits[name] for name in ("train", "val")}, real.meta)
    sets = {"copy": (real.train.x, real.train.y)}
    frame = library(tmp_path, sets, score_on="selection")
    assert frame.equals(library(real, sets, score_on="selection")) and not frame.equals(library(real, sets))
    with pytest.raises(UserError, match=r"test\.npz: file not found"):
        library(tmp_path, sets)
    with pytest.raises(UserError, match="has no test"):
        library(read_dataset(tmp_path, ("train", "val")), sets)


@pytest.mark.parametrize(("change", "message"), [
    (lambda series: (series.x[:, :20], series.y), r"'made': shape \(L, C\) \(20, 7\), but memory has \(24, 7\)"),
    (lambda series: (series.x, series.y + 1), "'made': array y, row .*: label 2 is outside"),
    (lambda series: (series.x, series.y / 2), r"'made': array y must be \(N,\) int64"),
    (lambda series: ([["a"]], series.y), "'made': expected arrays"), (lambda series: [], "'made': the list is empty"),
    (lambda series: [[series]], "'made': expected labelled series.* got a list"),
    (lambda series: None, "got a NoneType"), (lambda series: (series, series), "'made': "),
    (lambda series: in_units(series, "degF"), "'made': unit of Temp degF, but memory has degC"),
    (lambda series: in_units(series, "degF").to_frame(), "'made': unit of Temp degF"),
    (lambda series: series.to_frame().assign(hours=lambda frame: 60 * frame["hours"]), "'made': sampling interval"),
    (lambda series: series.to_frame().rename(columns={"Temp": "T"}), "'made': channels")])
def test_a_set_that_does_not_fit_is_refused(real, change, message):
    with pytest.raises(UserError, match=message):
        library(real, {"made": change(LabelledSeries(real.train, real.meta))})


def in_units(series, unit):
    units = [unit if channel == "Temp" else known
             for channel, known in zip(series.meta.channels, series.meta.units, strict=True)]
    return replace(series, meta=replace(series.meta, units=units))


def test_what_is_not_known_of_a_set_is_no_fault(real):
    unknown = replace(real.meta, units=["unknown"] * len(real.meta.units), sampling_interval="")
    stated = replace(real.meta, sampling_interval="60 min")
    for meta in (unknown, stated, None):
        require_fit("set", real.train, meta, real)


@pytest.mark.parametrize(("change", "message"), [
    (lambda real: {"synthetic": LabelledSeries(real.train, real.meta)}, "synthetic: expected {name: set}"),
    (lambda real: {"synthetic": {1: real.train}}, "synthetic: expected {name: set}"),
    (lambda real: {"real": LabelledSeries(real.train, real.meta).to_frame()}, "real: expected a dataset or its folder"),
    (lambda real: {"reference": "typo"}, "reference=typo: not among the sets"),
    (lambda real: {"output": "out", "name": "mine"}, "name, output: of the command alone")])
def test_what_the_library_cannot_use_is_one_message(real, change, message):
    with pytest.raises(UserError, match=message):
        library(**{"real": real, "synthetic": {"made": real.train}} | change(real))


def test_subjects_of_the_rarest_class_are_counted_and_not_their_rows():
    y, subject = np.array([0] * 60 + [1] * 30), np.concatenate([np.arange(60), 100 + np.arange(30) // 10])
    split = Split(np.zeros((90, 2, 1), dtype=np.float32), y, subject)
    assert few_subjects(split) == 3
    assert few_subjects(Split(split.x, y)) is None


def test_every_judge_is_evaluated_on_the_same_arms_and_its_fits_do_not_depend_on_the_other(real, tmp_path):
    sets = {"copy": [Split(real.train.x, real.train.y)]}
    model = replace(CONFIG.model, boosting=BoostingConfig(trees=5))
    both = evaluate_sets(real, sets, replace(CONFIG, model=model, judges=["gru", "boosting"]), tmp_path)
    arms = {judge: of_judge.drop(columns="judge").reset_index(drop=True) for judge, of_judge in both.groupby("judge")}
    assert list(dict.fromkeys(both["judge"])) == ["gru", "boosting"]
    places = ["set", "protocol", "ratio", "metric"]
    assert arms["gru"][places].equals(arms["boosting"][places])
    assert not arms["gru"]["mean"].equals(arms["boosting"]["mean"])
    fits = set((tmp_path / "fits").iterdir())
    for judge, of_judge in arms.items():
        changed = replace(model, name=judge, **{{"gru": "boosting", "boosting": "rnn"}[judge]: None})
        alone = evaluate_sets(real, sets, replace(CONFIG, model=changed), tmp_path)
        assert alone.drop(columns="judge").equals(of_judge) and set(alone["judge"]) == {judge}
    assert set((tmp_path / "fits").iterdir()) == fits


def test_controls_stand_in_the_frame_and_sets_are_compared_with_the_best_of_them(real):
    names = [name for name in CONTROLS if name != "teacher_labels"]
    frame = evaluate_sets(real, {"copy": [Split(real.train.x, real.train.y)]}, replace(CONFIG, controls=names))
    arms = frame.drop_duplicates(["protocol", "set"])
    assert arms["protocol"].tolist() == ["TRTR", *names, "TSTR", "TSRTR"]
    rows, guidance = len(real.train), len(halve_validation(real.val)[0])
    assert arms["real_rows"].tolist() == [rows, *[rows + guidance] * 3, guidance, *[rows] * 6, 0, rows]
    assert frame["difference"].notna().sum() == (len(arms) - 1) * len(METRICS)
    judged = frame[frame["control_difference"].notna()]
    assert set(judged["protocol"]) == {"TSTR", "TSRTR"} and set(judged["metric"]) == set(METRICS) - {"positive_rate"}
    means = frame.set_index(["protocol", "metric"])["mean"]
    for row in judged.itertuples():
        assert row.control_difference == pytest.approx(row.mean - means[row.control, row.metric])


def masked(split, seed, of_class_1=0.5):
    """The split with a mask that shows `of_class_1` of the values of class 1 and half of the others."""
    share = np.where(split.y == 1, of_class_1, 0.5)[:, None, None]
    return replace(split, mask=np.random.default_rng(seed).random(split.x.shape) < share)


def test_a_judge_of_values_and_masks_learns_from_the_masks_and_a_set_without_one_is_named(real):
    def evaluated(inputs, of_class_1, sets=None):
        splits = {name: masked(split, seed, of_class_1) for seed, (name, split) in enumerate(real.splits.items())}
        model = replace(CONFIG.model, inputs=inputs, boosting=BoostingConfig(trees=30, min_rows=3))
        config = replace(CONFIG, model=model, judges=["gru", "boosting"], seeds=1,
                         training=replace(CONFIG.training, steps=100, learning_rate=0.02))
        sets = {"copy": [splits["train"]]} if sets is None else sets
        # Without a rule that filled gaps normalisers take the values of all cells, and masks change nothing else.
        return evaluate_sets(replace(real, splits=splits, meta=replace(real.meta, imputation=None)), sets, config)

    def aurocs(frame, protocol):
        chosen = frame[(frame["metric"] == "auroc") & (frame["protocol"] == protocol)]
        return dict(zip(chosen["judge"], chosen["mean"], strict=True))

    told = evaluated("values+mask", of_class_1=0.8)
    values = evaluated("values", of_class_1=0.8)
    assert values.equals(evaluated("values", of_class_1=0.5))
    for protocol in ("TRTR", "TSTR"):
        assert min(aurocs(told, protocol).values()) > 0.85 > 0.75 > max(aurocs(values, protocol).values())
    bare = {"made": [masked(real.train, 0), Split(real.train.x, real.train.y)]}
    with pytest.raises(UserError, match="synthetic set 'made': has no mask, which model"):
        evaluated("values+mask", 0.5, bare)
    without = replace(CONFIG, model=replace(CONFIG.model, inputs="values+mask"))
    with pytest.raises(UserError, match=r"test\.npz: has no mask"):
        evaluate_sets(replace(real, splits=real.splits | {"test": replace(real.test, mask=None)}), {}, without)


def test_a_judge_at_chance_and_one_of_the_guides_kind_are_told_of(capsys):
    def row(judge, low, protocol="TRTR"):
        return {"judge": judge, "protocol": protocol, "auroc": {"mean": 0.6, "low": low, "high": 0.7}}

    print_warnings([row("gru", 0.51), row("gru", 0.4, "mixup"), row("boosting", 0.5)], {"guided": ["gru"]})
    chance, kind = capsys.readouterr().out.splitlines()
    assert chance.startswith("warning: trained on real data, boosting is not shown to be better than chance (AUROC 0.6")
    assert kind.startswith("guided was guided by a classifier of the same kind as the judge gru:")
    print_warnings([row("gru", 0.51)], {"guided": ["timesnet"]})
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("judges", "min_rows", "told"), [
    (["boosting"], 61, True), (["gru", "boosting"], 61, True), (["boosting"], 60, False), (["gru"], 61, False)])
def test_trees_that_cannot_split_so_few_rows_are_told_of(real, capsys, judges, min_rows, told):
    config = load_config(EvaluationConfig, overrides=[f"judges={judges}", f"model.boosting.min_rows={min_rows}"])
    assert len(real.train) == 120
    warn_beforehand(config, real.train, [])
    assert ("120 training rows" in capsys.readouterr().out) == told


@pytest.mark.parametrize(("shares", "controls", "told"), [
    ([0.5], "guidance_rows", True), ([0.0, 0.5], "guidance_rows", True), ([0.0], "guidance_rows", False),
    ([0.5], "guidance_rows, guidance_weighted", False), ([0.5], "guidance_last", False)])
def test_a_teacher_that_knows_more_than_the_controls_is_told_of(real, tmp_path, capsys, shares, controls, told):
    for number, share in enumerate(shares):
        open_run(tmp_path / str(number), load_config(TeacherConfig, overrides=[f"guidance_share={share}"]), {})
    teachers = ", ".join(str(tmp_path / str(number)) for number in range(len(shares)))
    config = load_config(EvaluationConfig, overrides=[f"teacher=[{teachers}]", f"controls=[{controls}]"])
    warn_beforehand(config, real.train, [])
    assert ("guidance_weighted" in capsys.readouterr().out) == told


@pytest.mark.parametrize(("settings", "targets", "told"), [
    ([], "soft", True), ([], "own", False), (["controls=[]"], "soft", False), (["teacher=TEACHER"], "soft", False)])
def test_soft_targets_without_their_rival_are_told_of(real, tmp_path, capsys, settings, targets, told):
    open_run(tmp_path / "teacher", load_config(TeacherConfig), {})
    config = load_config(EvaluationConfig, overrides=[
        setting.replace("TEACHER", str(tmp_path / "teacher")) for setting in settings])
    warn_beforehand(config, real.train, [Arm("TRTR"), Arm("TSTR", "guided", targets=targets)])
    assert ("teacher=RUN" in capsys.readouterr().out) == told


def test_rows_can_only_be_ordered_where_a_judge_has_steps(real):
    settings = ["controls=[guidance_last]", "judges=[boosting, gru]"]
    arms = arms_of(load_config(EvaluationConfig, overrides=settings), real.train, {})
    assert [(arm.judge, arm.protocol) for arm in arms] == [
        ("boosting", "TRTR"), ("gru", "TRTR"), ("gru", "guidance_last")]
    with pytest.raises(UserError, match="guidance_last, and boosted trees have no steps"):
        load_config(EvaluationConfig, overrides=[settings[0], "judges=[boosting]"])


@pytest.mark.parametrize(("settings", "missing"), [
    (["teacher=runs/teacher"], set()), ([], {"teacher_labels"}),
    (["training.class_weighting=balanced", "teacher=[a,b]"], {"class_weights"})])
def test_controls_are_those_that_apply(settings, missing):
    config = load_config(EvaluationConfig, overrides=settings)
    missing |= {"guidance_weighted", "guidance_last", "target_only"}
    assert config.chosen_controls == [name for name in CONTROLS if name not in missing]


def test_what_decides_the_fits_of_a_judge_is_in_its_recipe(real, monkeypatch):
    """Or those of an earlier version would be read."""
    model, cpu = ClassifierModelConfig(name="boosting"), torch.device("cpu")
    recipe = judge_of(model, CONFIG.training, real, cpu).recipe
    monkeypatch.setattr("tardiff.stages.evaluate.BINS", 255)
    assert judge_of(model, CONFIG.training, real, cpu).recipe != recipe


@pytest.mark.parametrize(("settings", "fault"), [
    (["controls=[mixup,mixup]"], "'controls' must name each"), (["controls=[smote]"], "'controls' must be one of"),
    (["controls=[mixup,class_weights]", "training.class_weighting=balanced"], "'controls' names class_weights, which"),
    (["controls=[teacher_labels]"], "'controls' names teacher_labels, which needs the teacher"),
    (["controls=[mixup]", "ensemble_size=3"], "'ensemble_size' has no effect"),
    (["judges=[gru,gru]"], "'judges' must name at least one"), (["judges=[]"], "'judges' must name at least one"),
    (["judges=[forest]"], "'judges' must be one of"),
    (["judges=[gru,boosting]", "model.custom.import_path=a:B"], "has no effect with model.name=gru, boosting"),
    (["judges=[gru,custom]", "model.custom.import_path=a:B"], None)])
def test_judges_and_controls_that_cannot_be_are_refused(settings, fault):
    if fault is None:
        assert list(load_config(EvaluationConfig, overrides=settings).judge_models) == ["gru", "custom"]
    else:
        with pytest.raises(UserError, match=fault):
            load_config(EvaluationConfig, overrides=settings)


def test_the_kind_of_the_guides_of_a_set_is_read_from_how_it_was_made(tmp_path):
    inputs = {"a0": {"guide": "gru"}, "a1": {"guide": "timesnet"}, "b": {}, "c": None}
    for name, recorded in inputs.items():
        (tmp_path / name).mkdir()
        if recorded is not None:
            write_json(tmp_path / name / "provenance.json", {"seed": 0, "inputs": recorded, "config": {}})
    folders = {"a": ["a0", "a1"], "b": ["b"], "c": ["c"]}
    assert guide_kinds({name: [str(tmp_path / part) for part in parts] for name, parts in folders.items()}) == {
        "a": ["gru", "timesnet"]}
