"""The controls: their rows against plain loops, teachers that never saw a subject, resuming, and the best of them."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tardiff.baselines.rules import Config
from tardiff.config import CONTROLS
from tardiff.data.format import Split
from tardiff.data.normalize import Normalizer
from tardiff.evaluation import controls
from tardiff.evaluation.controls import FOLDS, cutmix, jitter, mixup, subject_folds
from tardiff.evaluation.frame import shown_set, utility_rows
from tardiff.evaluation.protocol import METRICS, Arm, Judge, Protocol, score_arms
from tardiff.evaluation.summary import format_table, write_tables
from tardiff.utils.seeding import derive_seed

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(400, 12, 2)).astype(np.float32)
SHARES = np.eye(3)[GENERATOR.integers(3, size=400)]


def test_a_mixed_row_is_one_row_and_a_share_of_another_and_so_are_its_labels():
    x, shares = mixup(X, SHARES, seed=3)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    own = []
    for row in range(len(X)):
        fits = []
        for other in range(len(X)):
            direction = (X[row] - X[other]).ravel()
            weight = 1.0 if other == row else (x[row] - X[other]).ravel() @ direction / (direction @ direction)
            residual = np.abs(x[row] - weight * X[row] - (1 - weight) * X[other]).max()
            fits.append((residual, weight, other))
        residual, weight, other = min(fits)
        assert residual < 1e-5 and -1e-5 <= weight <= 1 + 1e-5
        np.testing.assert_allclose(shares[row], weight * SHARES[row] + (1 - weight) * SHARES[other], atol=1e-4)
        own.append(weight)
    # Beta(0.2, 0.2): mean 1/2, variance 1 / (4 * 1.4).
    assert np.mean(own) == pytest.approx(0.5, abs=0.07) and np.var(own) == pytest.approx(1 / 5.6, abs=0.03)


def test_a_cut_row_holds_one_piece_of_another_and_its_length_of_the_label():
    x, shares = cutmix(X, SHARES, seed=3)
    lengths = []
    for row in range(len(X)):
        pasted = np.flatnonzero((x[row] != X[row]).any(axis=1))
        lengths.append(len(pasted))
        if len(pasted) == 0:
            np.testing.assert_array_equal(shares[row], SHARES[row])
            continue
        assert np.array_equal(pasted, np.arange(pasted[0], pasted[-1] + 1))
        (other,) = [other for other in range(len(X)) if np.array_equal(x[row][pasted], X[other][pasted])]
        own = 1 - len(pasted) / 12
        np.testing.assert_allclose(shares[row], own * SHARES[row] + (1 - own) * SHARES[other])
    assert set(lengths) == set(range(13)) and np.mean(lengths) == pytest.approx(6, abs=0.6)


def test_jitter_is_noise_of_the_strength_of_the_rule_in_deviations_of_each_channel():
    x = X * np.float32([1, 50])
    noise = jitter(x, seed=1) - x
    np.testing.assert_allclose(noise.std(axis=(0, 1)), Config().strength * x.std(axis=(0, 1)), rtol=0.03)
    assert x.dtype == noise.dtype == np.float32 and np.array_equal(jitter(x, seed=1), noise + x)


@pytest.mark.parametrize("seed", range(3))
def test_no_subject_stands_in_two_folds_and_classes_are_spread(seed):
    subjects = np.random.default_rng(seed).permutation(np.repeat(np.arange(100), 3))
    y = (subjects < 15).astype(np.int64)
    folds = subject_folds(subjects, y, seed)
    assert sorted(np.concatenate(folds)) == list(range(300)) and len(folds) == FOLDS
    owners = [set(subjects[fold]) for fold in folds]
    assert sum(map(len, owners)) == 100
    assert all(len(owner) == 20 and sum(subject < 15 for subject in owner) == 3 for owner in owners)


class Teacher:
    """A logistic regression that remembers what it was trained on; soft targets are weighted rows."""

    def __init__(self):
        self.calls = []

    def __call__(self, train, selection, x_scored, seed):
        x, targets, *of_rows = train
        self.calls.append((x, targets, x_scored, seed))
        shares = np.eye(2)[targets] if targets.ndim == 1 else targets
        for share in of_rows:
            shares = shares * share.mean(axis=0)[:, None] * len(x)
        row, label = np.nonzero(shares)
        model = LogisticRegression(C=1 / (1 + seed % 7)).fit(x.reshape(len(x), -1)[row], label, shares[row, label])
        return tuple(model.predict_proba(part.reshape(len(part), -1)) for part in (selection[0], x_scored))


def cohort(rows, seed, first_subject=0):
    generator = np.random.default_rng(seed)
    y = (generator.random(rows) < 0.3).astype(np.int64)
    x = generator.normal(size=(rows, 3, 2))
    x[..., 0] += y[:, None]
    return Split(x.astype(np.float32), y, first_subject + np.arange(rows) // 2)


@pytest.fixture
def protocol(tmp_path):
    real = cohort(200, 0)
    return Protocol(real, cohort(60, 1, 1000), cohort(160, 2, 2000), {"made": [cohort(200, 3)]},
                    Normalizer.fit("zscore", real.x), {"": Judge(Teacher(), {})}, tmp_path,
                    guidance=cohort(50, 4, 3000), balanced={"": Judge(Teacher(), {"balanced": True})}, ensemble_size=3,
                    teachers=list(np.random.default_rng(5).dirichlet([1, 1], (2, 200)).astype(np.float32)))


def calls(protocol):
    return protocol.judges[""].fit.calls


def test_teachers_never_saw_the_subjects_of_what_they_label(protocol):
    protocol.predictions([Arm("self_distillation")], 2)
    *teachers, first, second = calls(protocol)
    assert len(teachers) == 2 * FOLDS
    x, subjects = protocol.normalizer.transform(protocol.real.x), protocol.real.subjects()
    subject_of = {row.tobytes(): subject for row, subject in zip(x, subjects, strict=True)}
    for seed, student in enumerate((first, second)):
        taught = np.full((200, 2), np.nan)
        for trained_on, targets, held_out, fit_seed in teachers[seed * FOLDS:][:FOLDS]:
            trained, held = ({subject_of[row.tobytes()] for row in part} for part in (trained_on, held_out))
            assert fit_seed == seed and not trained & held and len(trained | held) == 100 and targets.ndim == 1
            rows = [index for index, row in enumerate(x) if subject_of[row.tobytes()] in held]
            model = LogisticRegression(C=1 / (1 + seed)).fit(trained_on.reshape(len(trained_on), -1), targets)
            taught[rows] = model.predict_proba(x[rows].reshape(len(rows), -1))
        np.testing.assert_array_equal(student[0], x)
        np.testing.assert_allclose(student[1], taught, atol=1e-6)


def test_each_control_trains_on_the_rows_that_it_says(protocol):
    real, x, taught = protocol.real, protocol.normalizer.transform(protocol.real.x), np.full((200, 2), 0.5)
    one_hot = np.eye(2)[real.y]

    def rows(name):
        return protocol.training_rows(Arm(name), 1, taught)

    of_target = rows("target_only")
    assert len(of_target[0]) == 50 and np.array_equal(of_target[1], protocol.guidance.y)
    guided = rows("guidance_rows")
    np.testing.assert_array_equal(guided[0][200:], protocol.normalizer.transform(protocol.guidance.x))
    np.testing.assert_array_equal(guided[1], np.concatenate([real.y, protocol.guidance.y]))
    for name, shares in (("guidance_weighted", [[1 / 400] * 200 + [1 / 100] * 50]),
                         ("guidance_last", [[1 / 200] * 200 + [0] * 50, [0] * 200 + [1 / 50] * 50])):
        for part, expected in zip(rows(name), (*guided, shares), strict=True):
            np.testing.assert_allclose(part, expected, rtol=1e-12)
    for name in ("ensemble", "class_weights"):
        np.testing.assert_array_equal(rows(name)[0], x)
        np.testing.assert_array_equal(rows(name)[1], real.y)
    np.testing.assert_array_equal(rows("teacher_labels")[0], x)
    np.testing.assert_allclose(rows("teacher_labels")[1], protocol.teachers[1], atol=1e-6)
    for name in ("jitter", "mixup", "cutmix"):
        found = rows(name)
        np.testing.assert_array_equal(found[0][:200], x)
        np.testing.assert_array_equal(found[1][:200], one_hot)
        assert len(found[0]) == len(found[1]) == 400
    np.testing.assert_array_equal(rows("jitter")[1][200:], taught)
    np.testing.assert_array_equal(rows("mixup")[0][200:], controls.mixup(x, one_hot, derive_seed(1, "mixup"))[0])
    assert [protocol.real_rows(Arm(name)) for name in CONTROLS] == [250, 250, 250, 50, *[200] * 7]


def test_masks_are_further_channels_which_jitter_leaves_alone(protocol):
    def masked(split):
        return replace(split, mask=np.random.default_rng(0).random(split.x.shape) < 0.5)

    names = ("real", "selection", "scored", "guidance")
    whole = replace(protocol, with_mask=True, **{name: masked(getattr(protocol, name)) for name in names})
    for name in ("TRTR", "guidance_rows", "jitter"):
        taught = np.full((200, 2), 0.5)
        x, plain = (each.training_rows(Arm(name), 0, taught)[0] for each in (whole, protocol))
        assert x.shape == (*plain.shape[:2], 4)
        np.testing.assert_array_equal(x[..., :2], plain)
    np.testing.assert_array_equal(x[..., 2:], np.concatenate([whole.real.mask] * 2))


def test_an_ensemble_is_the_mean_of_as_many_seeds_of_which_the_first_is_that_of_the_arm(protocol):
    results = protocol.predictions([Arm("TRTR"), Arm("ensemble")], 2)
    seeds = [seed for *_, seed in calls(protocol)]
    assert len(seeds) == len(set(seeds)) == 2 * 3, "the classifier of TRTR is not trained again"
    judge = replace(protocol, folder=None).judges[""]
    x, y = protocol.training_rows(Arm("TRTR"), 0)
    evaluated = [protocol.normalizer.transform(part.x) for part in (protocol.selection, protocol.scored)]
    members = [judge.fit((x, y), (evaluated[0], protocol.selection.y), evaluated[1], seed)
               for seed in (0, derive_seed(0, "ensemble", 1), derive_seed(0, "ensemble", 2))]
    for part in (0, 1):
        np.testing.assert_allclose(results[Arm("ensemble")][0][part], np.mean([one[part] for one in members], axis=0))


def test_class_weights_are_those_of_the_balanced_judge(protocol):
    protocol.predictions([Arm("class_weights")], 2)
    assert not calls(protocol) and len(protocol.balanced[""].fit.calls) == 2


def test_a_killed_evaluation_of_controls_goes_on_after_its_last_fit(protocol):
    arms, teacher = [*map(Arm, CONTROLS)], protocol.judges[""].fit

    def killed(*arguments):
        if len(teacher.calls) == 3:
            raise KeyboardInterrupt
        return teacher(*arguments)

    with pytest.raises(KeyboardInterrupt):
        replace(protocol, judges={"": Judge(killed, {})}).predictions(arms, 1)
    resumed = protocol.predictions(arms, 1)
    # 5 teachers, 3 members, one each of guidance rows with others, weighted, last and alone, teacher's labels,
    # self-distillation, jitter, mixup and cutmix.
    assert len(teacher.calls) == 5 + 3 + 9
    whole = replace(protocol, folder=None).predictions(arms, 1)
    for arm in arms:
        for one, other in zip(resumed[arm][0], whole[arm][0], strict=True):
            np.testing.assert_array_equal(one, other)


def test_soft_targets_are_the_probabilities_and_real_rows_keep_their_labels(protocol):
    made = protocol.synthetic["made"][0]
    p = np.random.default_rng(0).dirichlet([1, 1], len(made)).astype(np.float32)
    soft = replace(protocol, synthetic={"made": [replace(made, p=p * np.float32(0.9995))]})
    x, targets = soft.training_rows(Arm("TSTR", "made", targets="soft"), 0)
    np.testing.assert_allclose(targets, p, atol=1e-6)
    own_x, own_y = soft.training_rows(Arm("TSRTR", "made", 0.5), 0)
    x, targets = soft.training_rows(Arm("TSRTR", "made", 0.5, targets="soft"), 0)
    np.testing.assert_array_equal(x, own_x)
    np.testing.assert_array_equal(targets[:200], np.eye(2)[protocol.real.y])
    rows = {series.tobytes(): number for number, series in enumerate(soft.inputs(made))}
    np.testing.assert_allclose(targets[200:], p[[rows[series.tobytes()] for series in x[200:]]], atol=1e-6)
    assert np.array_equal(own_y[:200], protocol.real.y) and own_y.shape == (300,)


def test_soft_and_own_stand_side_by_side_and_certain_probabilities_change_nothing(protocol):
    made = protocol.synthetic["made"][0]
    certain = replace(protocol, synthetic={"made": [replace(made, p=np.eye(2, dtype=np.float32)[made.y])]})
    arms = [Arm("TRTR"), *(Arm("TSTR", "made", targets=targets) for targets in ("own", "soft")),
            *(Arm("TSRTR", "made", 0.5, targets=targets) for targets in ("own", "soft"))]
    frame = score_arms(certain.predictions(arms, 2), certain, "made", 20)
    assert list(dict.fromkeys(frame["metric"])) == ["TRTR", "TSTR", "TSTR soft", "TSRTR 0.5", "TSRTR 0.5 soft"]
    rows = utility_rows(frame)
    assert [row["arm"] for row in rows] == [
        "TRTR", "TSTR made", "TSTR made, soft", "TSRTR made 0.5", "TSRTR made 0.5, soft"]
    assert [row["targets"] for row in rows] == [None, "own", "soft", "own", "soft"]
    assert [row["ratio"] for row in rows] == [None, None, None, 0.5, 0.5]
    assert [shown_set(row) for row in rows[1:]] == ["made", "made (soft)"] * 2
    for own, soft in (rows[1:3], rows[3:5]):
        assert all(own[metric]["values"] == soft[metric]["values"] for metric in METRICS)
        assert own["auroc_minus_trtr"]["values"] == soft["auroc_minus_trtr"]["values"]
    assert not any(key.endswith("_minus_reference") for row in rows for key in row)


def test_a_set_is_compared_with_the_best_control_of_its_judge_metric_by_metric(protocol, tmp_path):
    names = ["guidance_rows", "mixup", "class_weights"]
    arms = [Arm("TRTR"), *map(Arm, names), Arm("TSTR", "made"), Arm("TSRTR", "made", 0.5)]
    rows = {row["arm"]: row for row in utility_rows(score_arms(protocol.predictions(arms, 3), protocol, None, 50))}
    assert list(rows) == ["TRTR", *(f"control {name}" for name in names), "TSTR made", "TSRTR made 0.5"]
    assert [row["real_rows"] for row in rows.values()] == [200, 250, 200, 200, 0, 200]
    for arm in ("TSTR made", "TSRTR made 0.5"):
        assert "positive_rate_minus_control" not in rows[arm]
        for metric in set(METRICS) - {"positive_rate"}:
            sign = -1 if metric == "brier" else 1
            best = max(names, key=lambda name: sign * rows[f"control {name}"][metric]["mean"])
            difference = rows[arm][f"{metric}_minus_control"]
            assert difference["control"] == best
            expected = np.subtract(rows[arm][metric]["values"], rows[f"control {best}"][metric]["values"])
            np.testing.assert_allclose(difference["values"], expected)
            assert difference["low"] < difference["mean"] < difference["high"]
    for name in names:
        assert "auroc_minus_control" not in rows[f"control {name}"] and "auroc_minus_trtr" in rows[f"control {name}"]
    best = rows["TSTR made"]["auprc_minus_control"]["control"]
    table = format_table(list(rows.values()), None).splitlines()
    assert "AUPRC - best control [95 %]" in table[0] and "real rows" in table[0] and "reference" not in table[0]
    assert table[-1] == f"best control of : {best}" and "250" in table[2]
    write_tables(tmp_path / "out", "utility", list(rows.values()), {})
    header, *lines = (tmp_path / "out" / "utility.csv").read_text().splitlines()
    of_set = dict(zip(header.split(","), lines[4].split(","), strict=True))
    assert of_set["auprc_minus_control_control"] == best and of_set["real_rows"] == "0"
