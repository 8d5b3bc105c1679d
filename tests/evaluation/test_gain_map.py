"""The gain map: intervals over subsets against known truth, and what counts as a repeat."""

import numpy as np
import pytest

from tardiff.evaluation.gain_map import map_rows, map_table, mean_over_seeds, packed, unpacked
from tardiff.evaluation.intervals import holm
from tardiff.evaluation.plots import gain_curves
from tardiff.evaluation.protocol import METRICS, Arm, ArmScores
from tardiff.utils.cache import cached

TRTR, TSTR, CONTROLS = Arm("TRTR"), Arm("TSTR", "made"), (Arm("mixup"), Arm("ensemble"))
SUBJECTS = 100


def of_arm(of_subjects, draws, metrics=("auroc",)):
    """Return the scores of an arm whose value is the mean over subjects, of values (S, subjects) by repeat."""
    table = {name: (of_subjects.mean(axis=1), of_subjects @ draws.T) for name in metrics}
    return ArmScores(table, 100, SUBJECTS - 1, [None] * len(of_subjects), [])


def drawn(generator, count=200):
    return generator.multinomial(SUBJECTS, np.full(SUBJECTS, 1 / SUBJECTS), size=count) / SUBJECTS


@pytest.mark.parametrize(("subsets", "of_subset", "of_subject"), [
    (3, 0.03, 0.1), (5, 0.03, 0.1), (5, 0.0, 0.3)])
def test_a_gain_holds_the_truth_as_often_as_it_says(subsets, of_subset, of_subject, gain=0.02, studies=300):
    """What a subset gains is the truth, a part of its own, and for each of 3 fits a part of that; what a subject makes
    of the gain is alike for all subsets, with a part for each fit."""
    generator, held, widths = np.random.default_rng(0), 0, []
    for _ in range(studies):
        draws, shared = drawn(generator), of_subject * generator.normal(size=SUBJECTS)
        cells = []
        for _ in range(subsets):
            level = 0.7 + 0.3 * generator.normal(size=SUBJECTS) + 0.02 * generator.normal()
            own = gain + of_subset * generator.normal() + 0.02 * generator.normal(size=(3, 1))
            own = own + shared + 0.1 * generator.normal(size=(3, SUBJECTS))
            cells.append({TRTR: of_arm(np.tile(level, (3, 1)), draws), TSTR: of_arm(level + own, draws)})
        found = next(row for row in map_rows({100: cells}) if row["arm"] == "TSTR made")["auroc_minus_trtr"]
        held += found["low"] <= gain <= found["high"]
        widths.append(found["high"] - found["low"])
    assert 0.915 <= held / studies <= 0.985
    error = np.sqrt((of_subset**2 + 0.02**2 / 3 + 0.1**2 / 3 / SUBJECTS) / subsets + of_subject**2 / SUBJECTS)
    if subsets == 5:  # As wide as the quantile of t with 4 degrees of freedom makes it, at most.
        assert 2 * 1.9 * error < np.mean(widths) < 2 * 2.9 * error


def cells_of(levels, count, seed=0):
    """Return subsets with arms of these levels, (count,) numbers each, which all subjects have alike."""
    generator = np.random.default_rng(seed)
    draws = drawn(generator)
    return [{arm: of_arm(level[number] + 0.01 * generator.normal(size=(2, SUBJECTS)), draws, METRICS)
             for arm, level in levels.items()} for number in range(count)]


def test_the_best_control_is_the_best_on_the_mean_over_subsets():
    levels = {TRTR: [0.5, 0.5, 0.5], CONTROLS[0]: [0.9, 0.4, 0.4], CONTROLS[1]: [0.6, 0.6, 0.6], TSTR: [0.65, 0.7, 0.6]}
    rows = map_rows({100: cells_of(levels, 3), 400: cells_of(levels | {CONTROLS[0]: [0.7, 0.7, 0.7]}, 3)})
    made = {row["n"]: row for row in rows if row["arm"] == "TSTR made"}
    assert {n: row["auprc_minus_control"]["control"] for n, row in made.items()} == {100: "ensemble", 400: "mixup"}
    assert made[100]["auprc_minus_control"]["mean"] == pytest.approx(0.05, abs=0.005)
    assert made[100]["auprc_minus_trtr"]["mean"] == pytest.approx(0.15, abs=0.005)
    gains = [row["auroc_minus_control"] for row in made.values()]
    assert [gain["p_adjusted"] for gain in gains] == holm(np.array([gain["p"] for gain in gains])).tolist()
    table = map_table(rows, 2)
    assert len(table) == 2 * 4 * len(METRICS) and set(table["n"]) == {100, 400} and set(table["denoisers"]) == {2}
    line = table.set_index(["n", "arm", "metric"]).loc[(400, "TSTR made", "auprc")]
    assert line["control"] == "mixup" and line["control_difference"] == made[400]["auprc_minus_control"]["mean"]
    figure = gain_curves(rows, {"auroc": "AUROC", "auprc": "AUPRC"})
    assert [axis.get_title() for axis in figure.axes] == [": AUROC", ": AUPRC"]
    middle = figure.axes[1].containers[0][0].get_ydata()
    assert middle.tolist() == [made[n]["auprc_minus_control"]["mean"] for n in (100, 400)]


def test_sets_are_compared_with_the_reference():
    other = Arm("TSTR", "other", targets="own")
    cells = cells_of({TRTR: [0.5, 0.5, 0.5], TSTR: [0.65, 0.7, 0.6], other: [0.6, 0.65, 0.55]}, 3)
    table = map_table(map_rows({100: cells}, "other"), 1).set_index(["arm", "metric"])["reference_difference"]
    assert table["TSTR made", "auroc"] == pytest.approx(0.05, abs=0.01)
    assert table.drop("TSTR made").isna().all()


def test_subsets_are_the_repeats_and_one_alone_keeps_its_own():
    cells = cells_of({TRTR: [0.5, 0.6], TSTR: [0.6, 0.8]}, 2)
    (several, alone), (values, single) = (
        [next(row for row in map_rows({100: given}) if row["arm"] == "TSTR made") for given in (cells, cells[:1])],
        [[cell[TSTR].table["auroc"][0] for cell in cells], cells[0][TSTR].table["auroc"][0]])
    assert several["auroc"]["values"] == pytest.approx([value.mean() for value in values])
    assert alone["auroc"]["values"] == single.tolist()
    assert (several["subsets"], alone["subsets"]) == (2, 1)


def test_scores_come_back_from_a_file_as_they_were(tmp_path):
    cell = cells_of({TRTR: [0.5], Arm("TSRTR mixed", "made", targets="soft"): [0.6]}, 1)[0]
    for given in (cell, {arm: mean_over_seeds(own) for arm, own in cell.items()}):
        found = unpacked(cached(tmp_path, ("cell", len(given[TRTR].datasets)), lambda given=given: packed(given)))
        assert list(found) == list(given)
        for arm, own in given.items():
            assert (found[arm].datasets, found[arm].freedom) == (own.datasets, own.freedom)
            for name in METRICS:
                assert all(np.array_equal(*pair) for pair in zip(found[arm].table[name], own.table[name], strict=True))
