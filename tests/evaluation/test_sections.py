"""How results of fidelity are asked for and gathered: which rows go where, which subjects, which repeat sees which
dataset."""

import json

import numpy as np
import torch

from tardiff.data.format import Split
from tardiff.evaluation.fidelity import Column, Metric
from tardiff.evaluation.frame import NOISE, REAL, by_set
from tardiff.evaluation.sections import evaluate_fidelity
from tardiff.evaluation.sets import read_costs, read_generation

CPU = torch.device("cpu")


def split(level, rows):
    return Split(np.full((rows, 2, 1), level, np.float32), np.zeros(rows, np.int64), np.arange(rows) // 2)


def spy(seen):
    def compute(data, seed, device):
        seen.append((float(data.real.mean()), float(data.synthetic.mean()),
                     [owner is not None for owner in data.subjects], seed, data.encoder))
        return {"level": float(data.synthetic.mean()) + seed}
    return Metric("spy", "Spy", "What it was given.", (Column("level", "level", 0.0),), compute)


def test_sets_are_measured_against_held_out_rows_and_repeats_take_their_datasets_in_turn(tmp_path):
    seen = []
    sets = {"two": [np.full((6, 2, 1), level, np.float32) for level in (10, 20)],
            "one": [np.full((6, 2, 1), 7, np.float32)]}
    arguments = (split(1, 8), split(5, 4), sets, [spy(seen)], 3, tmp_path, 1, CPU)
    results = evaluate_fidelity(*arguments)
    assert {real for real, *_ in seen} == {5}, "always measured against the held-out rows"
    assert {name: of_set["spy"]["level"]["values"] for name, of_set in by_set(results).items()} == {
        REAL: [1, 2, 3], NOISE: [1, 2, 3], "two": [10, 21, 12], "one": [7, 8, 9]}
    two = results[results["set"] == "two"]
    assert two["dataset"].tolist() == [0, 1, 0] and two["repeat"].tolist() == [0, 1, 2]
    assert by_set(results)["two"]["spy"]["level"]["mean"] == 43 / 3
    assert {tuple(subjects) for _, level, subjects, *_ in seen if level >= 7} == {(True, False)}
    both = [subjects for *_, subjects, _, _ in seen].count([True, True])
    assert both == 3, "the real anchor has patients on both sides"
    assert all(encoder is None for *_, encoder in seen)
    calls = len(seen)
    assert evaluate_fidelity(*arguments).equals(results) and len(seen) == calls
    moved = Split(np.full((4, 2, 1), 5, np.float32), np.zeros(4, np.int64), np.arange(4))
    evaluate_fidelity(split(1, 8), moved, *arguments[2:])
    assert len(seen) == 2 * calls, "other subjects, other results"


def test_costs_are_medians_and_those_of_a_denoiser_are_read_from_its_run(tmp_path):
    for seed, seconds in enumerate((100.0, 900.0, 120.0)):
        folder = tmp_path / f"rival-seed{seed}" / "synthetic"
        folder.mkdir(parents=True)
        (folder.parent / "budget.json").write_text(json.dumps({"budget": "reduced", "training_seconds": seconds,
                                                               "optimiser_steps": 7, "parameters": 3, "stages": []}))
        (folder / "runtime.json").write_text(json.dumps({"seconds_per_series": 0.5}))
    again = tmp_path / "rival-seed0" / "again" / "balanced"
    again.mkdir(parents=True)
    (again / "provenance.json").write_text(json.dumps({"config": {"output": str(tmp_path / "rival-seed0")}}))
    bare = tmp_path / "bare"
    bare.mkdir()
    costs = read_costs({"rival": [str(tmp_path / f"rival-seed{seed}" / "synthetic") for seed in range(3)],
                        "bare": [str(bare)]})
    assert costs["rival"] == {"budget": "reduced", "training_seconds": 120, "optimiser_steps": 7, "parameters": 3,
                              "seconds_per_series": 0.5}
    assert read_costs({"again": [str(again)]})["again"]["training_seconds"] == 100
    assert set(costs["bare"].values()) == {None} and read_generation(bare) is None
