"""Attacks on sets that leak and sets that do not, against plain loops; how often the verdict is wrong is counted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tardiff.data.format import Split
from tardiff.evaluation import privacy
from tardiff.evaluation.privacy import (
    PRIVACY,
    ROC_RATES,
    PrivacyData,
    adversarial_accuracy,
    label_attack,
    membership_attack,
    mir_timediff,
    roc_curve,
)

CPU = torch.device("cpu")


def series(count, seed, shape=(3, 2), shift=0.0):
    return (np.random.default_rng(seed).normal(size=(count, *shape)) + shift).astype(np.float32)


def split(x, first_subject=0, rows_per_subject=1):
    return Split(x, np.zeros(len(x), dtype=np.int64), first_subject + np.arange(len(x)) // rows_per_subject)


def attack(members, others, synthetic, control, seed=0, resamples=100):
    return membership_attack(split(members), split(others, 10**6), synthetic, control, seed, resamples)


def distances(a, b, exclude_self=False):
    """Plain loops in float64."""
    return np.array([min(np.sqrt(((one.astype(float) - other.astype(float)) ** 2).sum())
                         for number, other in enumerate(b) if not (exclude_self and number == row))
                     for row, one in enumerate(a)])


def test_the_attack_is_that_of_a_plain_loop():
    members, others, synthetic, control = (series(40, seed) for seed in range(4))
    synthetic[:4] = members[:4]
    result = attack(members, others, synthetic, control)
    own, theirs = distances(members, synthetic), distances(others, synthetic)
    assert result["auroc"] == pytest.approx(np.mean(own[:, None] < theirs[None]))
    assert result["dcr_ratio"] == pytest.approx(np.median(own) / np.median(theirs))
    assert result["exact_copies"] == result["near_copies"] == 0.1 and result["near_copies_non_members"] == 0
    assert result["rows"] == 40
    own_control, theirs_control = distances(members, control), distances(others, control)
    assert result["control_auroc"] == pytest.approx(np.mean(own_control[:, None] < theirs_control[None]))
    assert result["excess_auroc"] == pytest.approx(result["auroc"] - result["control_auroc"])
    first = np.sort(theirs)[0]  # Below the nearest non-member the false positive rate is 0: the polygon is vertical.
    assert result["tpr"] == result["roc_0"] == np.mean(own < first)
    assert result["auroc_low"] < result["auroc"] < result["auroc_high"]
    assert result["tpr_low"] < result["tpr"] < result["tpr_high"]


def labelled(count, seed, first_subject=0, certain=False):
    """Series whose first value makes class 1 likely, or whose labels are drawn without regard to it."""
    x = series(count, seed)
    y = np.random.default_rng(seed + 1000).random(count) < (0.5 if certain else likely(x)[:, 1])
    return Split(x, y.astype(np.int64), first_subject + np.arange(count) // 2)


def likely(x):
    p = 1 / (1 + np.exp(-2 * x[:, 0, 0]))
    return np.column_stack([1 - p, p])


def remembered(train, x):
    """The label of the nearest training row: a teacher that has learned them by heart."""
    nearest = ((x[:, None] - train.x[None]) ** 2).sum(axis=(2, 3)).argmin(axis=1)
    return np.eye(2)[train.y[nearest]]


@pytest.mark.parametrize("certain", [False, True])
def test_the_labels_of_a_teacher_that_remembers_are_flagged_and_those_of_one_that_does_not_are_not(certain):
    flagged = []
    for seed in range(8):
        train, held_out, control = (labelled(300, 10 * seed + part, 1000 * part, certain) for part in range(3))
        x = series(600, 10 * seed + 3)
        knowing, unknowing = (label_attack(train, held_out, x, p, control, seed, resamples=100)
                              for p in (remembered(train, x), np.full((600, 2), 0.5) if certain else likely(x)))
        flagged.append((knowing["flagged"], unknowing["flagged"]))
        assert knowing["student"] > unknowing["student"] and 0.42 < unknowing["student"] < 0.58
        assert knowing["student_low"] < knowing["student"] < knowing["student_high"] and knowing["rows"] == 300
    known, unknown = np.sum(flagged, axis=0)
    assert known >= 7 and unknown <= 1


@pytest.mark.slow
def test_probabilities_that_know_no_single_row_are_flagged_in_under_one_of_twenty_cases():
    flagged = []
    for seed in range(200):
        train, held_out, control = (labelled(300, 10 * seed + part, 1000 * part) for part in range(3))
        x = series(600, 10 * seed + 3)
        flagged.append(label_attack(train, held_out, x, likely(x), control, seed)["flagged"])
    assert np.mean(flagged) < 0.05


def test_the_label_attack_is_that_of_a_plain_loop():
    train, held_out, control = (labelled(60, part, 1000 * part) for part in range(3))
    x, p = series(80, 3), np.random.default_rng(0).dirichlet([1, 1], 80)
    scores = []
    for part in (train, held_out):
        nearest = [np.argmin([((one - other) ** 2).sum() for other in x]) for one in part.x]
        scores.append(p[nearest, part.y])
    y = np.concatenate([train.y, held_out.y])
    both = np.concatenate(scores)
    both -= np.array([both[y == label].mean() for label in (0, 1)])[y]
    own, others = both[:60, None], both[None, 60:]
    found = label_attack(train, held_out, x, p, control, 0, resamples=20)
    assert found["nearest"] == pytest.approx(np.mean((own > others) + (own == others) / 2))
    assert found["excess_nearest"] == pytest.approx(found["nearest"] - found["control_nearest"])


def test_near_copies_are_within_a_twentieth_of_a_standard_deviation():
    members, others, control = (series(20, seed) for seed in range(3))
    for difference, share in ((0.0, 1), (0.049, 1), (0.051, 0)):
        result = attack(members, others, members + np.float32(difference), control)
        assert result["near_copies"] == share and result["exact_copies"] == (difference == 0)


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.1])
def test_copies_are_flagged_although_the_mir_of_papers_is_low(noise):
    train, heldout, control, fresh = (series(300, seed, (12, 3)).cumsum(axis=1) for seed in range(4))
    copy = train + (noise * series(300, 9, (12, 3))).astype(np.float32)
    result = attack(train, heldout, copy, control)
    assert result["flagged"] == 1 and result["auroc"] >= 0.99 and result["tpr"] >= 0.99 and result["dcr_ratio"] < 0.2
    if noise < 0.1:
        assert mir_timediff(train, heldout, copy, 0, runs=2)["mir"] < 0.1
    accuracy = adversarial_accuracy(train, heldout, copy, 0)
    assert accuracy["aa_train"] < 0.01 and accuracy["nnaa"] > 0.4
    result = attack(train, heldout, fresh, control)
    assert result["flagged"] == 0 and 0.45 < result["auroc"] < 0.55


def test_a_few_copies_among_many_rows_are_flagged():
    members, others, synthetic, control = (series(500, seed) for seed in range(4))
    assert attack(members, others, synthetic, control)["flagged"] == 0
    synthetic[:25] = members[:25]
    result = attack(members, others, synthetic, control)
    assert result["flagged"] == 1 and 0.04 < result["tpr"] < 0.08
    assert (result["flagged_auroc"], result["flagged_tpr"]) == (0, 1)
    assert result["auroc"] < 0.56


def test_fresh_draws_are_hardly_ever_flagged():
    flagged = [attack(*(series(120, (seed, part)) for part in range(4)), seed)["flagged"] for seed in range(100)]
    assert np.mean(flagged) < 0.04


def test_fresh_draws_are_hardly_ever_flagged_where_the_rows_of_a_subject_are_alike():
    """Were rows resampled one by one, six equal rows per subject would raise the alarm much more often."""
    def clustered(seed):
        return np.repeat(series(12, seed), 6, axis=0) + 0.01 * series(72, (9, seed))

    by_subject, by_row = [], []
    for seed in range(40):
        members, others, synthetic, control = (clustered(4 * seed + part) for part in range(4))
        groups = split(members, 0, 6), split(others, 10**6, 6)
        by_subject.append(membership_attack(*groups, synthetic, control, seed, 100))
        by_row.append(attack(members, others, synthetic, control, seed))
    widths = [np.mean([result["auroc_high"] - result["auroc_low"] for result in results])
              for results in (by_subject, by_row)]
    assert widths[0] > 1.8 * widths[1]
    assert np.mean([result["flagged"] for result in by_subject]) < 0.1


def test_groups_that_differ_are_not_taken_for_a_leak():
    members, control, synthetic = (series(400, seed) for seed in range(3))
    others = series(400, 3, shift=0.5)
    result = attack(members, others, synthetic, control)
    assert result["auroc_low"] > 0.55 and result["control_auroc"] > 0.55
    assert result["flagged"] == 0
    assert attack(members, others, members, control)["flagged"] == 1


def test_real_rows_that_equal_each_other_are_not_taken_for_copies():
    """A third of all real rows is one and the same, as where a stay has no measurement and is imputed."""
    sets = [series(300, seed) for seed in range(4)]
    for x in sets:
        x[::3] = 0
    result = attack(*sets)
    assert result["flagged"] == 0 and result["tpr"] == pytest.approx(0.01)
    assert result["near_copies"] == result["near_copies_non_members"] == pytest.approx(1 / 3)
    assert result["exact_copies"] == 0


def test_each_single_copy_among_all_members_is_found():
    members, others, synthetic, control = (series(count, count) for count in (900, 100, 300, 200))
    synthetic[[5, 70]] = members[[3, 899]]
    result = attack(members, others, synthetic, control)
    assert result["rows"] == 100 and result["exact_copies"] == pytest.approx(2 / 900)


def data(seed=0, rows=200):
    sets = [series(count, (seed, part)) for part, count in enumerate((rows, rows // 2, rows // 2, rows, rows))]
    return PrivacyData(*(split(x, 10**6 * number, 2) for number, x in enumerate(sets[:4])), sets[4])


def test_copied_guidance_rows_are_found_by_the_second_attack_alone():
    train_attack, guidance_attack, *_ = PRIVACY
    fresh = data()
    copied = replace(fresh, synthetic=np.concatenate([fresh.synthetic[:100], fresh.guidance.x]))
    assert [metric.compute(fresh, 0, CPU)["flagged"] for metric in (train_attack, guidance_attack)] == [0, 0]
    assert [metric.compute(copied, 0, CPU)["flagged"] for metric in (train_attack, guidance_attack)] == [0, 1]
    copied = replace(fresh, synthetic=fresh.train.x)
    assert [metric.compute(copied, 0, CPU)["flagged"] for metric in (train_attack, guidance_attack)] == [1, 0]


@pytest.mark.parametrize("metric", PRIVACY, ids=lambda metric: metric.name)
def test_every_metric_has_its_columns_and_does_not_depend_on_the_order_of_rows(metric):
    sets = replace(data(rows=60), p=np.random.default_rng(0).dirichlet([1, 1], 60))
    sets.train.x[5] = sets.train.x[40]  # Equal rows of different subjects.
    sets.heldout.x[[3, 9]] = sets.train.x[5]
    expected = metric.compute(sets, 0, CPU)
    assert all(isinstance(value, float) for value in expected.values())
    assert {column.key for column in metric.columns} <= set(expected)

    def shuffled(x, seed):
        return x[np.random.default_rng(seed).permutation(len(x))]

    parts = (sets.train, sets.guidance, sets.selection, sets.heldout, sets.synthetic)
    other = PrivacyData(*(shuffled(part, seed) for seed, part in enumerate(parts)), shuffled(sets.p, 4))
    assert metric.compute(other, 0, CPU) == expected


def test_groups_are_drawn_to_equal_size_and_the_seed_decides():
    members, others, synthetic, control = (series(count, seed) for seed, count in enumerate((90, 30, 50, 40)))
    first, again, other = (attack(members, others, synthetic, control, seed) for seed in (0, 0, 1))
    assert first["rows"] == 30 and first == again and first["auroc"] != other["auroc"]
    fewer = membership_attack(split(members), split(others), synthetic, control, 0, 10, max_rows=20)
    assert fewer["rows"] == 20


def test_a_ratio_to_nothing_is_nan():
    x = np.zeros((5, 2, 1), dtype=np.float32)
    result = attack(x, x, x, x)
    assert np.isnan(result["dcr_ratio"]) and result["auroc"] == 0.5 and result["flagged"] == 0
    assert result["tpr"] == pytest.approx(0.01)


def test_the_roc_curve_has_the_area_of_the_attack():
    members, others, control = (series(400, seed) for seed in range(3))
    result = attack(members, others, members + 0.8 * series(400, 5), control)
    false, true = roc_curve(result)
    assert false[0] == 0 and false[-1] == true[-1] == 1 and len(false) == len(ROC_RATES) + 1
    assert np.all(np.diff(true) >= 0) and np.all(np.diff(false) > 0)
    assert np.trapezoid(true, false) == pytest.approx(result["auroc"], abs=0.01)
    assert result["tpr"] == pytest.approx(np.interp(0.01, false, true), abs=1e-9)


def test_adversarial_accuracy_is_that_of_a_plain_loop():
    train, heldout, synthetic = (series(30, seed) for seed in range(3))
    synthetic[:6] = train[:6]
    train[10] = train[11]

    def accuracy(real):
        return (np.mean(distances(real, synthetic) > distances(real, real, True))
                + np.mean(distances(synthetic, real) > distances(synthetic, synthetic, True))) / 2

    result = adversarial_accuracy(train, heldout, synthetic, 0)
    assert (result["aa_train"], result["aa_heldout"]) == (accuracy(train), accuracy(heldout))
    assert result["nnaa"] == abs(accuracy(heldout) - accuracy(train)) and result["draws"] == 1


def test_adversarial_accuracy_of_independent_draws_and_of_sets_apart():
    for seed in range(3):
        train, heldout, synthetic = (series(count, (seed, count)) for count in (1250, 500, 800))
        result = adversarial_accuracy(train, heldout, synthetic, seed)
        assert result["nnaa"] < 0.05 and abs(result["aa_train"] - 0.5) < 0.05
        assert (result["rows"], result["draws"]) == (500, 3)
    apart = adversarial_accuracy(train, heldout, synthetic + 20, 0, max_rows=100)
    assert (apart["aa_train"], apart["aa_heldout"], apart["nnaa"], apart["draws"]) == (1, 1, 0, 13)
    assert np.isnan(adversarial_accuracy(train, heldout[:1], synthetic, 0)["nnaa"])


def test_calling_everybody_a_member_scores_two_thirds():
    train, heldout, synthetic = (series(50, seed) for seed in range(3))
    result = mir_timediff(train, heldout, synthetic, 0, threshold=1.0)
    assert result["mir"] == result["all_members"] == 2 / 3
    assert result["called_members"] == result["called_non_members"] == 1


def test_mir_is_that_of_a_plain_loop():
    train, heldout, synthetic = (series(40, seed, shift=seed) for seed in range(3))

    def unit(values):
        return (values - values.min(axis=(0, 1))) / (values.max(axis=(0, 1)) - values.min(axis=(0, 1)))

    def called(x):
        squared = distances(unit(x), unit(synthetic)) ** 2
        return (squared - squared.min()) / (squared.max() - squared.min()) <= 0.3

    found, alarms = called(train).sum(), called(heldout).sum()
    result = mir_timediff(train, heldout, synthetic, 0, threshold=0.3)
    assert result["mir"] == pytest.approx(found / (found + (alarms + 40 - found) / 2)) and result["mir_sd"] < 1e-12
    assert 0 < result["called_members"] == found / 40 and result["called_non_members"] == alarms / 40


def test_mir_calls_nobody_a_member_where_all_distances_are_equal():
    train, heldout = series(40, 0), series(40, 1)
    result = mir_timediff(train, heldout, train, 0)
    assert result["mir"] == result["called_members"] == 0


def test_mir_draws_equal_sizes():
    sizes = mir_timediff(*(series(count, count) for count in (90, 30, 60)), 0, runs=3)
    assert sizes["rows"] == 30 and sizes["mir_sd"] > 0
    assert mir_timediff(*(series(count, count) for count in (90, 30, 60)), 0, runs=3, max_rows=20)["rows"] == 20


@pytest.mark.slow
def test_the_share_of_false_alarms_and_of_found_copies():
    """The figures that the docstring of membership_attack gives."""
    alarms = {}
    for rows, control_rows in ((50, 50), (200, 600), (800, 400)):
        alarms[rows] = np.mean([attack(*(series(count, (seed, part)) for part, count in
                                         enumerate((rows, rows, 3 * rows, control_rows))), seed, 200)["flagged"]
                                for seed in range(200)])
    found = []
    for seed in range(60):
        members, others, synthetic, control = (series(count, (seed, part)) for part, count in
                                               enumerate((800, 800, 2000, 400)))
        synthetic[:27] = members[:27]
        found.append(attack(members, others, synthetic, control, seed, 200)["flagged"])
    print(f"false alarms {alarms}, one in thirty found {np.mean(found)}")
    assert alarms[50] < 0.06 and max(alarms[200], alarms[800]) < 0.03 and np.mean(found) > 0.85


def test_the_bootstrap_goes_by_subjects_of_each_group_in_blocks():
    groups = [split(series(30, seed), 0, 3) for seed in range(2)]
    blocks = list(privacy._subject_blocks(groups, 120, 0))
    assert [len(block) for block in blocks] == [50, 50, 20]
    weights = np.concatenate(blocks)
    assert np.all(weights[:, :30].sum(axis=1) == 30) and np.all(weights[:, 30:].sum(axis=1) == 30)
    np.testing.assert_array_equal(weights[:, 0:60:3], weights[:, 2:60:3])
    assert not np.array_equal(weights[:, :30], weights[:, 30:]) and len(np.unique(weights, axis=0)) > 110
