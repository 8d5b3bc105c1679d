"""Quick settings, the expected duration of a report, and what it removes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from user_errors import run_command

from tardiff.config import ClassifierModelConfig, ClassifierTrainingConfig, ReportConfig, load_config
from tardiff.data.format import Dataset, write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.evaluation.sections import fidelity_metrics
from tardiff.evaluation.sets import read_at_bounds
from tardiff.stages import estimate
from tardiff.stages.estimate import estimated_minutes
from tardiff.stages.report import expected_duration, quick_settings, remove_report
from tardiff.utils.checkpoint import write_json
from tardiff.utils.errors import UserError


def test_a_quick_report_has_fewer_of_everything_and_trains_no_networks_for_fidelity():
    config = ReportConfig(ratios=[0.2, 1.0, 0.5])
    assert quick_settings(config) is config
    quick = quick_settings(replace(config, quick=True))
    assert (quick.seeds, quick.ratios, quick.repeats, quick.bootstrap, quick.fine_tuned) == (3, [1.0], 1, 100, 0)
    assert quick.training.steps == 200 and quick_settings(quick) == quick
    assert quick.controls == ["guidance_rows", "class_weights"] and quick.weights == []
    assert quick_settings(replace(config, quick=True, teacher="runs/teacher")).controls == [
        "guidance_rows", "teacher_labels", "class_weights"]
    assert quick_settings(replace(config, quick=True, controls=["jitter"])).controls == ["jitter"]
    assert quick.fidelity_metrics == ["correlational", "autocorrelation", "marginal", "extremes", "mmd"]
    fewer = quick_settings(replace(config, quick=True, seeds=2, fidelity_metrics=["mmd", "predictive"]))
    assert fewer.seeds == 2 and fewer.fidelity_metrics == ["mmd"]


def test_the_expected_duration_grows_with_the_work(monkeypatch):
    splits, meta = simulate_cohort(200, seed=0)
    real, sets = Dataset(Path("memory"), meta, splits), {"copy": [splits["train"]]}
    cpu = torch.device("cpu")
    tried = estimate._seconds_per_row(ClassifierModelConfig(), ReportConfig(), real, cpu)
    assert tried > 0
    # One and the same for all that is compared, whatever else the machine does.
    monkeypatch.setattr(estimate, "_seconds_per_row", lambda *_: 2e-4)

    def minutes(**changes):
        config = replace(ReportConfig(workers=1, sections=["utility", "fidelity"], controls=[], weights=[]),
                         **changes)
        return estimated_minutes(config, real, sets, fidelity_metrics(config.fidelity_metrics))

    cheap = minutes(fidelity_metrics=["marginal"], seeds=1)
    assert 0 < cheap < minutes(fidelity_metrics=["marginal"], seeds=50)
    assert minutes(fidelity_metrics=["predictive"], seeds=1) > 4 * cheap
    assert minutes(workers=4) < 0.6 * minutes()
    assert minutes(fidelity_metrics=["marginal"], controls=["jitter"]) > 1.5 * minutes(fidelity_metrics=["marginal"])
    boosted = minutes(fidelity_metrics=["marginal"], judges=["gru", "boosting"])
    assert boosted > minutes(fidelity_metrics=["marginal"])
    assert minutes(fidelity_metrics=["marginal"], weights=[0.1, 0.5]) > 1.2 * minutes(fidelity_metrics=["marginal"])
    alone = minutes(fidelity_metrics=["marginal"])
    soft = replace(splits["train"], p=np.eye(2, dtype=np.float32)[splits["train"].y])
    monkeypatch.setitem(sets, "copy", [soft])
    assert minutes(fidelity_metrics=["marginal"]) > 1.7 * alone
    assert minutes(fidelity_metrics=["marginal"], targets=["own"]) == alone
    longer = ClassifierTrainingConfig(steps=2000)
    assert minutes(fidelity_metrics=["marginal"], training=longer) > 2 * minutes(fidelity_metrics=["marginal"])


def test_what_is_kept_is_said_beside_the_expected_duration(tmp_path):
    assert "328 minutes" in expected_duration(tmp_path, 328) and "kept" not in expected_duration(tmp_path, 328)
    (tmp_path / "fits").mkdir()
    (tmp_path / "fits" / "fit-1.npz").touch()
    assert "1 result of an earlier one is kept" in expected_duration(tmp_path, 1)


def test_values_at_the_clip_bound_are_read_where_all_datasets_of_a_set_record_them(tmp_path):
    def write(name, **changes):
        (tmp_path / name).mkdir(exist_ok=True)
        record = {"channels": ["HR", "Temp"], "synthetic": [0.1, 0.0], "train": [0.01, 0.02], **changes}
        write_json(tmp_path / name / "at_bounds.json", record)
        return str(tmp_path / name)

    sets = [write("a"), write("b", synthetic=[0.3, 0.5])]
    assert read_at_bounds(sets, ["HR", "Temp"]) == {"synthetic": pytest.approx([0.2, 0.25]), "train": [0.01, 0.02]}
    assert read_at_bounds([*sets, str(tmp_path / "baseline")], ["HR", "Temp"]) is None
    for fault in ({"channels": ["HR"]}, {"train": [0.1]}, {"synthetic": ["x", 0.1]}, {"synthetic": 3}):
        with pytest.raises(UserError, match=r"at_bounds\.json"):
            read_at_bounds([write("a", **fault)], ["HR", "Temp"])


def test_privacy_is_not_measured_where_members_and_others_are_of_two_populations(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    splits, meta = simulate_cohort(200, seed=0)
    write_dataset("made", {"train": splits["train"]}, meta)
    val = replace(splits["val"], guidance=np.arange(len(splits["val"])) % 2 == 0, subject=None)
    write_dataset("data", splits | {"val": val}, meta)
    assert run_command("report", "real=data", "synthetic={made: made}", "output=report", "device=cpu", "workers=1",
                       "reference=null", "sections=[fidelity, privacy]", "repeats=1",
                       "fidelity_metrics=[marginal]") == 0
    assert "privacy is not measured" in capsys.readouterr().out
    assert Path("report/fidelity.csv").exists() and not Path("report/privacy.csv").exists()


def test_a_report_without_parts_is_refused():
    for settings, fault in (({"sections": []}, "'sections' must name"), ({"ratios": [1.0, 1.0]}, "'ratios' must hold"),
                            ({"sections": ["influence"]}, "needs the classifier that guided")):
        with pytest.raises(UserError, match=fault):
            load_config(ReportConfig, values=settings)


def test_what_an_earlier_report_left_is_removed_but_finished_results_and_other_files_stay(tmp_path):
    stale = ["report.html", "results.csv", "results.json", "settings.yaml", "utility.csv", "utility.json",
             "fidelity.csv", "privacy.csv", "attack.png", "bands-guided.png", "influence/fine_tuning.png",
             "influence/fine_tuned_series.csv", "influence/influence.json"]
    kept = ["metrics/1.npz", "fits/1.npz", "mine.png", "influence/measurements/1.npz"]
    for name in (*stale, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    remove_report(tmp_path)
    remove_report(tmp_path / "new")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
