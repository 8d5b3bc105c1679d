"""TSTR and TSRTR as a function of arrays, as a notebook calls it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tardiff.config import ClassifierModelConfig, ClassifierTrainingConfig, EvaluationConfig, RNNConfig
from tardiff.data.format import Dataset, Split
from tardiff.data.simulator import simulate_cohort
from tardiff.stages.evaluate import evaluate_sets
from tardiff.utils.errors import UserError

CONFIG = EvaluationConfig(ratios=[0.5], seeds=2, bootstrap=20, device="cpu", workers=1,
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
    assert set(frame["verdict"].dropna()) == {"too few seeds to judge"}
    assert (frame["low"] <= frame["mean"]).all() and (frame["mean"] <= frame["high"]).all()

    assert evaluate_sets(real, sets, CONFIG, tmp_path / "kept").equals(frame)
    fits = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept" / "fits").iterdir()}
    again = evaluate_sets(real, {"copy": [copy]}, replace(CONFIG, protocols=["tstr"]), tmp_path / "kept")
    assert set(again["protocol"]) == {"TRTR", "TSTR"}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept" / "fits").iterdir()} == fits


@pytest.mark.parametrize(("change", "message"), [
    (lambda split: Split(split.x[:, :20], split.y), r"'made': series of shape \(20, 7\)"),
    (lambda split: Split(split.x, split.y + 1), r"with labels \[1, 2\], but the real ones"),
    (lambda split: split[:10], "'made' has 10 rows, the ratio needs 60")])
def test_a_set_that_does_not_fit_is_refused(real, change, message):
    with pytest.raises(UserError, match=message):
        evaluate_sets(real, {"made": [change(real.train)]}, CONFIG)
