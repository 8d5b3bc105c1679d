"""TSTR, TSRTR and TRTR with a real classifier (logistic regression), intervals against known truth."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from tardiff.data.format import Split
from tardiff.data.normalize import Normalizer
from tardiff.evaluation.frame import DIRECTIONS, long_frame, summaries, utility_rows
from tardiff.evaluation.intervals import smallest_visible, subject_freedom
from tardiff.evaluation.metrics import auroc, average_precision
from tardiff.evaluation.protocol import (
    METRICS,
    MIXED,
    Arm,
    Judge,
    Protocol,
    Rotations,
    score_arms,
    stratified_rows,
    subject_weights,
    with_chosen_weights,
)
from tardiff.evaluation.summary import GAIN, LOSS, NO_GAIN, format_table, verdict, write_tables
from tardiff.utils.checkpoint import read_json
from tardiff.utils.errors import UserError

TRTR = Arm("TRTR")


def cohort(rows, seed, first_subject=0, shift=1.0):
    """Series whose class 1 (30 %) has a higher first channel; two rows per subject."""
    generator = np.random.default_rng(seed)
    y = (generator.random(rows) < 0.3).astype(np.int64)
    x = generator.normal(size=(rows, 3, 2))
    x[..., 0] += shift * y[:, None]
    return Split(x.astype(np.float32), y, first_subject + np.arange(rows) // 2)


class Fits:
    """A fit for `Protocol` that counts its calls; the seed draws a bootstrap sample, so seeds differ."""

    def __init__(self):
        self.calls = 0

    def __call__(self, train, selection, x_scored, seed):
        self.calls += 1
        x, y = train
        rows = np.random.default_rng(seed).integers(len(y), size=len(y))
        model = LogisticRegression().fit(x[rows].reshape(len(rows), -1), y[rows])
        return tuple(model.predict_proba(part.reshape(len(part), -1)) for part in (selection[0], x_scored))


@pytest.fixture
def protocol(tmp_path):
    real = cohort(200, 0)
    return Protocol(real, cohort(60, 1, 1000), cohort(160, 2, 2000),
                    {"poor": [cohort(220, seed, shift=0.2) for seed in (3, 4, 5)], "copy": [Split(real.x, real.y)]},
                    Normalizer.fit("zscore", real.x), {"": Judge(Fits(), {"penalty": "l2"})}, tmp_path)


def scores(protocol, arms, seeds=3, reference=None, resamples=200):
    frame = score_arms(protocol.predictions(arms, seeds), protocol, reference, resamples)
    return {row["arm"]: row for row in utility_rows(frame)}


def test_a_synthetic_set_that_equals_the_real_one_scores_exactly_alike(protocol):
    rows = scores(protocol, [TRTR, Arm("TSTR", "copy"), Arm("TSTR", "poor")])
    for name in METRICS:
        assert rows["TSTR copy"][name] == rows["TRTR"][name]
        difference = rows["TSTR copy"][f"{name}_minus_trtr"]
        assert difference["values"] == [0, 0, 0] and difference["low"] == difference["high"] == difference["sd"] == 0
    assert rows["TSTR poor"]["auroc"]["mean"] < rows["TRTR"]["auroc"]["mean"] - 0.02
    assert rows["TSTR poor"]["auroc_minus_trtr"]["high"] < 0


def test_point_values_are_the_metrics_of_the_predictions(protocol):
    results = protocol.predictions([TRTR], 2)
    (row,) = utility_rows(score_arms(results, protocol, None, 50))
    y = protocol.scored.y
    assert row["auroc"]["values"] == [auroc(y, scored)[0] for _, scored in results[TRTR]]
    assert row["auprc"]["mean"] == pytest.approx(np.mean([average_precision(y, scored) for _, scored in results[TRTR]]))
    assert row["auroc"]["sd"] == pytest.approx(np.std(row["auroc"]["values"], ddof=1)) and row["auroc"]["sd"] > 0
    for index, (_, scored) in enumerate(results[TRTR]):
        negative = average_precision(1 - y, scored[:, ::-1])[0]
        assert row["auprc_macro"]["values"][index] == pytest.approx((row["auprc"]["values"][index] + negative) / 2)
        assert row["brier"]["values"][index] == pytest.approx(np.mean((scored[:, 1] - y) ** 2))
        assert row["positive_rate"]["values"][index] == pytest.approx(np.mean(scored[:, 1] > 0.5))


def test_scores_of_the_positive_class_do_not_depend_on_its_number(protocol):
    """The labels the other way round, with class 0 positive, score alike to rounding."""
    def turned(split):
        return replace(split, y=1 - split.y)

    other = replace(protocol, real=turned(protocol.real), selection=turned(protocol.selection),
                    scored=turned(protocol.scored), positive=0, synthetic={})
    results = protocol.predictions([TRTR], 2)
    flipped = {TRTR: [(selection[:, ::-1], scored[:, ::-1]) for selection, scored in results[TRTR]]}
    (row,), (mirrored,) = (utility_rows(score_arms(*given, None, 50)) for given in
                           ((results, protocol), (flipped, other)))
    for name in METRICS:
        assert row[name]["values"] == pytest.approx(mirrored[name]["values"], rel=1e-6)
    (wrong,) = utility_rows(score_arms(flipped, replace(other, positive=1), None, 50))
    assert abs(wrong["auprc"]["mean"] - row["auprc"]["mean"]) > 0.05


def test_an_arm_has_no_difference_to_itself(protocol):
    rows = scores(protocol, [TRTR, Arm("TSTR", "poor"), Arm("TSTR", "copy")], reference="poor")
    assert "auroc_minus_trtr" not in rows["TRTR"] and "auroc_minus_reference" not in rows["TRTR"]
    assert "auroc_minus_reference" not in rows["TSTR poor"] and "auroc_minus_trtr" in rows["TSTR poor"]
    mirrored = [rows["TSTR copy"]["auprc_minus_reference"][key] for key in ("mean", "low", "high")]
    expected = [-rows["TSTR poor"]["auprc_minus_trtr"][key] for key in ("mean", "high", "low")]
    np.testing.assert_allclose(mirrored, expected)


def test_the_reference_of_an_augmented_arm_has_the_same_ratio(protocol):
    arms = [TRTR, *(Arm("TSRTR", name, ratio) for name in ("poor", "copy") for ratio in (0.5, 1.0))]
    rows = scores(protocol, arms, reference="poor")
    for ratio in ("0.5", "1"):
        own, other = rows[f"TSRTR copy {ratio}"], rows[f"TSRTR poor {ratio}"]
        expected = np.subtract(own["auroc"]["values"], other["auroc"]["values"])
        np.testing.assert_allclose(own["auroc_minus_reference"]["values"], expected)


@pytest.mark.parametrize("ratio", [0.01, 0.2, 0.333, 1.0, 1.1])
def test_training_rows_are_real_rows_and_a_share_of_synthetic_ones(protocol, ratio):
    real, synthetic = protocol.real, protocol.synthetic["poor"][1]
    x, y = protocol.training_rows(Arm("TSRTR", "poor", ratio), seed=1)
    assert len(x) == len(y) == 200 + round(ratio * 200)
    np.testing.assert_array_equal(x[:200], protocol.normalizer.transform(real.x))
    np.testing.assert_array_equal(y[:200], real.y)
    number = {row.tobytes(): index for index, row in enumerate(protocol.normalizer.transform(synthetic.x))}
    drawn = [number[row.tobytes()] for row in x[200:]]
    assert len(set(drawn)) == len(drawn)
    np.testing.assert_array_equal(synthetic.y[drawn], y[200:])


def test_training_rows_of_the_other_protocols(protocol):
    assert_rows(protocol, protocol.training_rows(TRTR, 0), protocol.real)
    for seed in range(4):
        assert_rows(protocol, protocol.training_rows(Arm("TSTR", "poor"), seed), protocol.synthetic["poor"][seed % 3])
    assert [protocol.real_rows(arm) for arm in (TRTR, Arm("TSTR", "poor"), Arm("TSRTR", "poor", 0.5))] == [200, 0, 200]


def assert_rows(protocol, rows, *splits):
    """The rows are those of the splits, one after the other, normalised."""
    np.testing.assert_array_equal(rows[0], np.concatenate([protocol.normalizer.transform(part.x) for part in splits]))
    np.testing.assert_array_equal(rows[1], np.concatenate([part.y for part in splits]))


def test_stratified_rows_keep_the_class_shares():
    y = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [160, 32, 8]))
    for count in (1, 25, 50, 100, 200):
        rows = stratified_rows(y, count, 0, "toy")
        assert len(rows) == len(set(rows.tolist())) == count
        np.testing.assert_allclose(np.bincount(y[rows], minlength=3), count * np.array([0.8, 0.16, 0.04]), atol=1)
    assert not np.array_equal(stratified_rows(y, 50, 0, "toy"), stratified_rows(y, 50, 1, "toy"))
    with pytest.raises(UserError, match="synthetic set 'toy' has 200 rows, the ratio needs 201"):
        stratified_rows(y, 201, 0, "toy")


def test_fits_are_reused_until_the_recipe_or_the_data_change(protocol):
    arms = [TRTR, Arm("TSTR", "copy"), Arm("TSTR", "poor")]
    first = protocol.predictions(arms, 2)
    assert protocol.judges[""].fit.calls == 4  # The copy has the rows of the real set, hence its fits.
    again = protocol.predictions(arms, 2)
    assert protocol.judges[""].fit.calls == 4
    for arm in arms:
        for before, after in zip(first[arm], again[arm], strict=True):
            assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    protocol.predictions([TRTR], 3)
    assert protocol.judges[""].fit.calls == 5
    real = protocol.real
    for other in (replace(protocol, judges={"": Judge(protocol.judges[""].fit, {"penalty": "l1"})}),
                  replace(protocol, scored=cohort(10, 9)),
                  replace(protocol, selection=cohort(10, 9)), replace(protocol, real=real[:150]),
                  replace(protocol, real=replace(real, y=1 - real.y)),
                  replace(protocol, normalizer=Normalizer.fit("minmax", real.x))):
        before = protocol.judges[""].fit.calls
        other.predictions([TRTR], 1)
        assert protocol.judges[""].fit.calls == before + 1


def test_subjects_are_drawn_whole_and_as_many_as_there_are():
    subjects = np.array([7, 3, 7, 5, 5, 5, 9])
    weights = subject_weights(subjects, 2000, seed=0)
    assert np.array_equal(weights[:, 0], weights[:, 2]) and np.array_equal(weights[:, 3], weights[:, 5])
    assert np.all(weights[:, [0, 1, 3, 6]].sum(axis=1) == 4)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.1)
    assert np.array_equal(weights, subject_weights(subjects, 2000, seed=0))


def scored_alone(y, scores_of_1, subject, seeds=1, resamples=200):
    """Score given predictions as one arm."""
    p = np.column_stack([1 - scores_of_1, scores_of_1])
    split = Split(np.zeros((len(y), 1, 1), dtype=np.float32), y, subject)
    protocol = Protocol(split, split, split, {}, None, {}, None)
    return utility_rows(score_arms({TRTR: [(p, p)] * seeds}, protocol, None, resamples))[0]


def test_repeated_rows_of_a_subject_do_not_narrow_its_interval():
    generator = np.random.default_rng(0)
    y = (generator.random(60) < 0.4).astype(np.int64)
    score = norm.cdf(generator.normal(size=60) + y)
    once = scored_alone(y, score, np.arange(60))
    clustered = scored_alone(np.repeat(y, 5), np.repeat(score, 5), np.repeat(np.arange(60), 5))
    apart = scored_alone(np.repeat(y, 5), np.repeat(score, 5), np.arange(300))
    for name in ("auroc", "auprc", "f1"):
        for end in ("low", "high"):
            assert clustered[name][end] == pytest.approx(once[name][end])
        assert apart[name]["high"] - apart[name]["low"] < 0.7 * (once[name]["high"] - once[name]["low"])


def test_the_interval_covers_the_known_auroc_as_often_as_it_says():
    """Scores N(0, 1) and N(1, 1) have AUROC Phi(1 / sqrt 2); 95 % of the intervals should hold it."""
    truth, covered = norm.cdf(1 / 2**0.5), 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        y = (generator.random(150) < 0.4).astype(np.int64)
        row = scored_alone(y, norm.cdf(generator.normal(size=150) + y), np.arange(150), resamples=200)
        covered += row["auroc"]["low"] <= truth <= row["auroc"]["high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_seeds_that_disagree_widen_the_interval():
    generator = np.random.default_rng(0)
    y = (generator.random(4000) < 0.5).astype(np.int64)
    split = Split(np.zeros((4000, 1, 1), dtype=np.float32), y)
    protocol = Protocol(split, split, split, {}, None, {}, None)

    def fits(separations):
        noise = generator.normal(size=4000)
        columns = [norm.cdf(noise + separation * y) for separation in separations]
        return [(np.column_stack([1 - column, column]),) * 2 for column in columns]

    agreed, disagreed = (utility_rows(score_arms({TRTR: fits(separations)}, protocol, None, 200))[0]["auroc"]
                         for separations in ([1, 1], [0.3, 1.7]))
    assert disagreed["high"] - disagreed["low"] > 3 * (agreed["high"] - agreed["low"])


def test_the_rarest_class_of_the_real_training_split_is_the_minority():
    y = np.array([0] * 2 + [1] * 8)
    p = np.column_stack([np.r_[0.9, 0.8, np.full(8, 0.1)], np.r_[0.1, 0.2, np.full(8, 0.9)]])
    real = Split(np.zeros((10, 1, 1), dtype=np.float32), y)
    protocol = Protocol(real, real, real[::-1], {}, None, {}, None)
    (row,) = utility_rows(score_arms({TRTR: [(p, p[::-1])]}, protocol, None, 20))
    assert row["f1"]["mean"] == row["f1_selected"]["mean"] == 1


def test_differences_of_auroc_and_auprc_say_how_many_seeds_they_need(protocol):
    rows = scores(protocol, [TRTR, Arm("TSTR", "poor"), Arm("TSTR", "copy")], seeds=4, reference="poor")
    for row in rows.values():
        for key, value in row.items():
            if isinstance(value, dict):
                metric, minus, _ = key.partition("_minus_")
                assert ("seeds_for_0.01" in value) == (bool(minus) and metric in ("auroc", "auprc"))
    poor = rows["TSTR poor"]["auroc_minus_trtr"]
    freedom = subject_freedom(protocol.scored.y, protocol.scored.subjects())
    assert poor["seeds_for_0.01"] is None
    assert poor["smallest_visible"] == smallest_visible(poor["subject_variance"], freedom) > 0.01
    assert rows["TSTR copy"]["auroc_minus_trtr"]["seeds_for_0.01"] is None


def test_the_tables_hold_the_numbers_and_the_verdicts(protocol, tmp_path):
    rows = list(scores(protocol, [TRTR, Arm("TSTR", "poor"), Arm("TSTR", "copy")], reference="poor").values())
    write_tables(tmp_path / "out", "tstr", rows, {"scored on": "test"})
    written = read_json(tmp_path / "out" / "tstr.json")
    assert written["scored on"] == "test"
    assert [row["arm"] for row in written["rows"]] == ["TRTR", "TSTR poor", "TSTR copy"]
    header, *lines = (tmp_path / "out" / "tstr.csv").read_text().splitlines()
    poor = dict(zip(header.split(","), lines[1].split(","), strict=True))
    assert float(poor["auroc_mean"]) == rows[1]["auroc"]["mean"] and poor["auprc_minus_reference_mean"] == ""
    assert float(poor["f1_minus_trtr_low"]) == rows[1]["f1_minus_trtr"]["low"]
    assert poor["auprc_minus_trtr_seeds_for_0.01"] == "", "160 rows cannot show a difference of 0.01"
    assert {"brier_mean", "auprc_macro_low", "positive_rate_sd"} <= set(poor) and "auroc_seeds_for_0.01" not in poor
    copy = dict(zip(header.split(","), lines[2].split(","), strict=True))
    assert copy["auprc_minus_trtr_seeds_for_0.01"] == ""
    table = format_table(rows, "poor").splitlines()
    assert "AUROC" in table[0] and "Brier" not in table[0] and max(map(len, table)) < 160
    assert f"{rows[0]['auroc']['mean']:.3f} ({rows[0]['auroc']['sd']:.3f})" in table[1]
    assert table[2].count(" loss") == 1 and table[3].count(" gain") == 1


def test_rotations_score_each_row_by_the_classifiers_that_did_not_train_on_its_fold(protocol):
    other = replace(protocol, real=cohort(200, 10, 5000), scored=cohort(80, 11, 9000), selection=cohort(60, 12, 7000),
                    synthetic={"poor": [cohort(220, 13, shift=0.2)], "copy": [cohort(200, 14)]})
    arms = [TRTR, Arm("TSTR", "poor"), Arm("TSRTR", "copy", 0.5)]
    both, first, second = Rotations([protocol, other]), protocol.predictions(arms, 2), other.predictions(arms, 2)
    pooled = both.predictions(arms, 2)
    for arm in arms:
        for seed in range(2):
            for part, y in ((0, both.selection.y), (1, both.scored.y)):
                expected = np.concatenate([first[arm][seed][part], second[arm][seed][part]])
                np.testing.assert_array_equal(pooled[arm][seed][part], expected)
                assert len(y) == len(expected)
    assert both.scored.subjects().tolist() == [*protocol.scored.subjects(), *other.scored.subjects()]
    found = scores(both, arms)["TRTR"]["auroc"]
    values = [auroc(one.scored.y, p)[0] for one in (protocol, other) for _, p in one.predictions(arms, 3)[TRTR]]
    assert found["mean"] == pytest.approx(np.mean(values)), "of each rotation, for they are not calibrated alike"
    assert found["high"] - found["low"] < min(
        row["high"] - row["low"] for row in (scores(each, arms)["TRTR"]["auroc"] for each in (protocol, other)))


def test_a_mixture_has_all_rows_and_its_share_of_synthetic_ones(protocol):
    p = np.random.default_rng(0).dirichlet([1, 1], 220).astype(np.float32)
    poor = [replace(part, p=p) for part in protocol.synthetic["poor"]]
    taught = np.random.default_rng(1).dirichlet([1, 1], 200).astype(np.float32)
    whole = replace(protocol, synthetic={"poor": poor})
    one_hot = np.eye(2)[protocol.real.y]
    for targets, teachers, real in (("own", [taught], None), ("soft", [], one_hot), ("soft", [taught], taught)):
        arm = Arm(MIXED, "poor", targets=targets, weight=0.1)
        x, y, (shares,) = replace(whole, teachers=teachers).training_rows(arm, 1)
        np.testing.assert_array_equal(x[200:], protocol.inputs(poor[1]))
        np.testing.assert_allclose(y[:200], protocol.real.y if real is None else real, atol=1e-6)
        np.testing.assert_allclose(y[200:], poor[1].y if real is None else p, atol=1e-6)
        assert shares[:200] == pytest.approx(0.9 / 200) and shares[200:] == pytest.approx(0.1 / 220)


def test_each_rotation_chooses_the_weight_that_its_own_selection_rows_like_best(protocol):
    """The candidates predict the labels of one half of the selection rows each; what they say of scored rows is marked
    and reversed, so that a choice by these would be another."""
    def said(y, sure):
        right = np.where(sure, 0.9, 0.4)
        return np.where(np.eye(2)[y] == 1, right[:, None], 1 - right[:, None])

    both = Rotations([protocol, protocol])
    selection, scored = (np.concatenate([[True] * (len(split) // 2), [False] * (len(split) // 2)])
                         for split in (both.selection, both.scored))
    arms = [Arm(MIXED, "copy", weight=weight) for weight in (0.1, 0.5)]
    results = {Arm("TRTR"): [(said(both.selection.y, selection), said(both.scored.y, scored))] * 3}
    results |= {arm: [(said(both.selection.y, selection ^ turn), said(both.scored.y, ~scored ^ turn))] * 3
                for arm, turn in zip(arms, (False, True), strict=True)}
    found, weights = with_chosen_weights(results, both)
    (mixture,) = weights
    assert mixture == Arm(MIXED, "copy") and weights[mixture] == [0.1, 0.5] and list(found) == [TRTR, mixture]
    np.testing.assert_array_equal(found[mixture][0][0], said(both.selection.y, np.ones(len(selection), bool)))
    np.testing.assert_array_equal(found[mixture][2][1], said(both.scored.y, np.zeros(len(scored), bool)))
    row = utility_rows(score_arms(results, both, None, 20))[1]
    assert (row["arm"], row["protocol"], row["weight"], row["ratio"]) == ("TSRTR mixed copy 0.3", MIXED, 0.3, None)


def test_each_rotation_has_a_threshold_of_its_own(protocol):
    """With probabilities of one rotation a tenth of the other's, one threshold for both could fit but one."""
    class Smaller(Fits):
        def __call__(self, *arguments):
            return tuple(np.column_stack([1 - p[:, 1] / 10, p[:, 1] / 10]) for p in super().__call__(*arguments))

    smaller = replace(protocol, judges={"": Judge(Smaller(), {"penalty": "smaller"})})
    alone, both = scores(protocol, [TRTR])["TRTR"], scores(Rotations([protocol, smaller]), [TRTR])["TRTR"]
    for name in ("auroc", "f1_selected"):
        assert both[name]["mean"] == pytest.approx(alone[name]["mean"])


@pytest.mark.parametrize("datasets", [2, 3])
def test_intervals_hold_the_truth_where_seeds_share_datasets(datasets):
    """What a dataset does to all its seeds alike is as large as what a seed does."""
    generator, held, places = np.random.default_rng(0), 0, ("set", "TSTR", "")
    for _ in range(500):
        values = generator.normal(size=datasets)[np.arange(10) % datasets] + generator.normal(size=10)
        rows = [(*places, "auroc_minus_trtr", seed % datasets, seed, value) for seed, value in enumerate(values)]
        frame = long_frame([*rows, (*places, "auroc_minus_trtr_subject_variance", None, None, 0.0),
                            (*places, "auroc", None, None, 0.5)])
        summary = summaries(frame)[places]["auroc_minus_trtr"]
        held += summary["low"] <= 0 <= summary["high"]
    assert 0.92 <= held / 500 <= 0.98


def test_a_set_below_the_best_control_is_not_called_a_loss():
    below = {"values": [-0.1, -0.1, -0.1], "mean": -0.1, "p_adjusted": 0.001}
    assert verdict(below) == LOSS and verdict(below | {"control": "mixup"}) == NO_GAIN
    assert verdict(below, DIRECTIONS["brier"]) == GAIN and verdict(below, DIRECTIONS["positive_rate"]) == ""
    assert verdict(below | {"mean": 0.1, "control": "mixup"}) == GAIN
