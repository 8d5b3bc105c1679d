"""The two scores by trained networks: anchors, closed forms, and draws that depend on content alone."""

import numpy as np
import pytest
import torch

from tardiff.data.normalize import Normalizer
from tardiff.data.simulator import simulate_cohort
from tardiff.evaluation import learned_scores
from tardiff.evaluation.fidelity import matched_noise
from tardiff.evaluation.learned_scores import discriminative_score, predictive_score


@pytest.fixture(scope="module")
def stays():
    """Two disjoint sets of simulated stays: raw (N, 24, 7), and z-scored with the scaler of the first."""
    splits, _ = simulate_cohort(3000, seed=3, ratios=(0.45, 0.1, 0.45))
    raw = {"train": splits["train"].x, "test": splits["test"].x}
    normalizer = Normalizer.fit("zscore", raw["train"])
    return raw, normalizer, {name: normalizer.transform(x) for name, x in raw.items()}


def test_a_judge_is_tested_on_subjects_that_it_never_met():
    """Two draws of one population, each subject with its own level and 30 rows: alike, but by whose rows they hold."""
    generator = np.random.default_rng(0)

    def draw(first):
        levels = 3 * generator.standard_normal((20, 1, 1, 4))
        rows = levels + 0.1 * generator.standard_normal((20, 30, 6, 4))
        return rows.reshape(600, 6, 4).astype(np.float32), first + np.arange(600) // 30

    (real, of_real), (other, of_other) = draw(0), draw(100)
    by_rows = discriminative_score(real, other, 0, iterations=300)["score"]
    by_subjects = discriminative_score(real, other, 0, iterations=300, subjects=(of_real, of_other))["score"]
    assert by_rows > 0.4 and by_subjects < 0.25
    of_two = np.arange(600) // 300
    assert np.isnan(discriminative_score(real, other, 0, iterations=2, subjects=(of_two, of_other))["score"])


def test_the_cut_is_by_subjects_in_the_order_of_their_first_rows():
    test, validation, train = learned_scores._cut(np.array([7, 3, 7, 9, 1, 2, 3, 8, 5, 6, 4, 10]), True)
    assert np.flatnonzero(test).tolist() == [0, 1, 2, 6] and np.flatnonzero(validation).tolist() == [3]
    assert np.array_equal(train, ~(test | validation))
    parts = learned_scores._cut(np.random.default_rng(0).permutation(40), False)
    assert [np.flatnonzero(part).tolist() for part in parts] == [list(range(8)), [], list(range(8, 40))]


def white(rows, length, channels, seed):
    return np.random.default_rng(seed).standard_normal((rows, length, channels), dtype=np.float32)


def test_the_strong_judge_knows_real_noise_and_wrong_levels(stays):
    raw, normalizer, normalized = stays
    real = normalized["test"]
    alike = discriminative_score(real, normalized["train"], 0, iterations=200)
    assert alike["score"] < 0.05 and alike["rows"] == len(real)
    noise = discriminative_score(real, matched_noise(normalized["train"], 0), 0, iterations=100)
    assert noise["score"] > 0.3 and min(noise["real_recall"], noise["synthetic_recall"]) > 0.8
    higher = discriminative_score(real, normalizer.transform(raw["train"] * np.float32(1.3)), 0, iterations=100)
    assert higher["score"] > 0.45


def test_the_published_judge_sees_the_scaling_that_its_input_range_keeps(stays):
    """Data are mapped to [0, 1] by the real side, so levels that are 30 % too high stay too high."""
    raw, normalizer, normalized = stays
    higher = normalizer.transform(raw["train"] * np.float32(1.3))
    found = discriminative_score(normalized["test"], higher, 0, "timegan", iterations=150)
    assert found["score"] > 0.3


def test_shares_and_score_fit_together():
    scores = discriminative_score(white(100, 4, 2, 0), white(70, 4, 2, 1) + 0.5, 0, iterations=40)
    assert scores["rows"] == 70  # The smaller side: the classes are balanced.
    assert scores["accuracy"] == pytest.approx((scores["real_recall"] + scores["synthetic_recall"]) / 2)
    assert scores["score"] == pytest.approx(abs(scores["accuracy"] - 0.5))
    assert discriminative_score(white(100, 4, 2, 0), white(90, 4, 2, 1), 0, iterations=1, max_rows=50)["rows"] == 50


def test_too_few_rows_are_not_judged():
    assert np.isnan(discriminative_score(white(9, 4, 2, 0), white(50, 4, 2, 1), 0)["score"])
    assert np.isfinite(discriminative_score(white(10, 4, 2, 0), white(50, 4, 2, 1), 0, iterations=2)["score"])


@pytest.mark.parametrize("judge", ["timegan", "strong"])
def test_a_judge_reports_the_recall_of_each_side(judge):
    """A tenth of the synthetic rows lies far off, the rest is like the real ones: nothing else can be told apart."""
    real, synthetic = white(2000, 4, 2, 0), white(2000, 4, 2, 1)
    synthetic[:200] += 8
    scores = discriminative_score(real, synthetic, 0, judge, iterations=300, batch_size=64)
    assert scores["real_recall"] + scores["synthetic_recall"] == pytest.approx(1.1, abs=0.1)


@pytest.mark.parametrize("judge", ["timegan", "strong"])
def test_the_order_of_rows_and_the_state_of_the_generators_change_nothing(judge):
    real, synthetic = white(120, 5, 2, 0), 1.5 * white(150, 5, 2, 1)
    expected = discriminative_score(real, synthetic, 4, judge, iterations=50)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    order = np.random.default_rng(0).permutation(150)
    again = discriminative_score(real[::-1], synthetic[order], 4, judge, iterations=50)
    assert again == expected
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("judge", ["timegan", "strong"])
def test_one_channel_one_step_and_constant_channels_are_judged(judge):
    for shape in [(1, 1), (9, 1), (3, 2)]:
        scores = discriminative_score(np.zeros((20, *shape), np.float32), np.ones((20, *shape), np.float32), 0, judge,
                                      iterations=3)
        assert 0 <= scores["score"] <= 0.5


def test_predicting_the_mean_of_gaussian_data_scores_0_80():
    """E|z| = sqrt(2 / pi) = 0.798 (acceptance: 0.80 +- 0.01); white noise leaves nothing better to learn."""
    score = predictive_score(white(2000, 6, 4, 0), white(3000, 6, 4, 1), 0, iterations=500, batch_size=64)["score"]
    assert score == pytest.approx(np.sqrt(2 / np.pi), abs=0.01)


def test_the_predictor_learns_what_can_be_foretold():
    """Levels that last, with steps of 0.1, can be foretold to 0.08; the mean alone leaves E|level|, about 0.8."""
    def walks(rows, seed):
        generator = np.random.default_rng(seed)
        steps = 0.1 * generator.standard_normal((rows, 6, 4))
        return (generator.standard_normal((rows, 1, 1)) + steps.cumsum(axis=1)).astype(np.float32)

    real = walks(300, 0)
    assert 0.07 < predictive_score(real, walks(500, 1), 0, iterations=700, batch_size=64)["score"] < 0.4
    assert predictive_score(real, white(500, 6, 4, 1), 0, iterations=100)["score"] > 0.6


def test_the_published_predictor_forecasts_the_last_channel_in_0_to_1():
    """The last channel repeats the first one step later, so it can be foretold; one that does not, cannot."""
    generator = np.random.default_rng(0)
    x = generator.random((800, 5, 2), dtype=np.float32)
    follows = x.copy()
    follows[:, 1:, 1] = x[:, :-1, 0]
    scores = [predictive_score(5 * series[:400] - 2, 5 * series[400:] - 2, 0, "timegan", iterations=800, batch_size=64)
              for series in (x, follows)]
    assert scores[0]["score"] == pytest.approx(0.25, abs=0.01)  # E|u - 1/2| of a uniform u, on data mapped to [0, 1].
    assert scores[1]["score"] < 0.8 * scores[0]["score"]


def test_the_predictor_does_not_depend_on_the_order_of_rows():
    real, synthetic = white(60, 5, 3, 0), white(80, 5, 3, 1)
    for form in ("timegan", "all_features"):
        expected = predictive_score(real, synthetic, 2, form, iterations=30)["score"]
        again = predictive_score(real[::-1], synthetic[::-1], 2, form, iterations=30)["score"]
        assert again == pytest.approx(expected, rel=1e-6)
        assert predictive_score(real, synthetic, 3, form, iterations=30)["score"] != expected


def test_without_a_channel_to_read_or_a_next_step_there_is_no_predictive_score():
    assert np.isnan(predictive_score(white(9, 5, 1, 0), white(9, 5, 1, 1), 0, "timegan")["score"])
    assert np.isnan(predictive_score(white(9, 1, 2, 0), white(9, 1, 2, 1), 0)["score"])
    assert np.isfinite(predictive_score(white(9, 5, 1, 0), white(9, 5, 1, 1), 0, iterations=2)["score"])


@pytest.mark.slow
def test_published_lengths_reach_the_anchors(stays):
    """Acceptance items 3 and 4 at full length: a model trained on real series forecasts best."""
    _, _, normalized = stays
    real, train = normalized["test"], normalized["train"]
    noise = matched_noise(train, 0)
    for judge, least in (("timegan", 0.1), ("strong", 0.3)):
        assert discriminative_score(real, train, 0, judge)["score"] < 0.05
        assert discriminative_score(real, noise, 0, judge)["score"] > least
    for form in ("timegan", "all_features"):
        assert predictive_score(real, train, 0, form)["score"] < predictive_score(real, noise, 0, form)["score"]
