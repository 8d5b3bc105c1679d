"""Standard errors, intervals, adjusted p values and power, against their limits, published values and simulations."""

import numpy as np
import pytest
from scipy.stats import beta, norm, t, ttest_1samp

from tardiff.evaluation.frame import long_frame, summaries, utility_rows
from tardiff.evaluation.intervals import (
    hanley_mcneil_variance,
    holm,
    level_interval,
    main_subject_variance,
    p_value,
    seeds_needed,
    smallest_visible,
    standard_error,
    subject_counts,
    subject_freedom,
    visible_beforehand,
)
from tardiff.evaluation.metrics import auroc
from tardiff.evaluation.protocol import subject_weights
from tardiff.evaluation.summary import NEITHER, verdict


def level_rows(values, freedom, variance=0.0, key="auroc"):
    return [*(("set", "TSTR", "", key, None, seed, value) for seed, value in enumerate(values)),
            ("set", "TSTR", "", f"{key}_subject_variance", None, None, variance),
            ("set", "TSTR", "", "subject_freedom", None, None, freedom)]


@pytest.mark.parametrize(("shared", "own", "seed_deviation", "seeds"), [
    (0.0, 1.0, 0.3, 3), (0.0, 1.0, 0.0, 10), (1.0, 0.0, 0.3, 3), (1.0, 1.0, 0.3, 5), (1.0, 1.0, 0.0, 10)])
def test_intervals_hold_the_truth_as_often_as_they_say(shared, own, seed_deviation, seeds):
    """A mean over 100 subjects, of what all seeds make of a subject alike and of what each makes of it alone."""
    generator, rows = np.random.default_rng(0), []
    for study in range(600):
        of_subjects = shared * generator.normal(size=100) + own * generator.normal(size=(seeds, 100))
        values = of_subjects.mean(axis=1) + seed_deviation * generator.normal(size=seeds)
        drawn = generator.multinomial(100, np.full(100, 0.01), size=300) / 100
        resampled = values[:, None] + (of_subjects - of_subjects.mean(axis=1, keepdims=True)) @ drawn.T
        rows += [(study, *row[1:]) for row in (
            *level_rows([0.5], np.inf, key="f1"),
            *level_rows(values, np.inf, main_subject_variance(resampled), "f1_minus_trtr")[:-1])]
    found = [of_pair["f1_minus_trtr"] for of_pair in summaries(long_frame(rows)).values()]
    held = sum(summary["low"] <= 0 <= summary["high"] for summary in found)
    widths = [summary["high"] - summary["low"] for summary in found]
    assert 0.905 <= held / 600 <= 0.985  # With three seeds Welch and Satterthwaite are a little short.
    exact = np.sqrt(shared**2 / 100 + (seed_deviation**2 + own**2 / 100) / seeds)
    if seeds == 10:  # Not wider than it has to be, with a tenth of t in place of the normal distribution.
        assert np.mean(widths) < 1.3 * 2 * 1.96 * exact


def test_levels_stay_in_their_range():
    for freedom in (np.inf, 2):
        summary = summaries(long_frame(level_rows([0.9, 0.99, 0.95], freedom, 0.1)))["set", "TSTR", ""]["auroc"]
        assert 0 <= summary["low"] < 0.9 and 0.95 < summary["high"] <= 1


@pytest.mark.parametrize("subjects", [2, 5, 20, 200])
def test_a_ceiling_leaves_about_as_much_open_as_the_exact_interval_of_a_share(subjects):
    """That of Clopper and Pearson, of which 3 / m is the approximation."""
    summary = summaries(long_frame(level_rows([1.0, 1.0, 1.0], subjects - 1)))["set", "TSTR", ""]["auroc"]
    exact = beta.ppf(0.025, subjects, 1)
    assert summary["high"] == 1 and 1 - summary["low"] == pytest.approx(1 - exact, rel=0.35)
    floor = summaries(long_frame(level_rows([0.0], subjects - 1, key="f1")))["set", "TSTR", ""]["f1"]
    assert (floor["low"], floor["high"]) == (0, pytest.approx(1 - summary["low"]))


def test_two_arms_at_the_ceiling_are_not_known_to_be_equal():
    rows = [*level_rows([1.0, 1.0, 1.0], 4),
            *level_rows([0.0, 0.0, 0.0], 4, key="auroc_minus_trtr")[:-1]]
    found = summaries(long_frame(rows))["set", "TSTR", ""]
    assert found["auroc_minus_trtr"]["high"] == -found["auroc_minus_trtr"]["low"] == 1 - found["auroc"]["low"]
    assert found["auroc_minus_trtr"]["p"] == 1


def test_an_interval_of_many_subjects_is_that_of_the_normal_distribution():
    assert level_interval(0.7, 0.001, np.inf, 9) == pytest.approx((0.7 - 0.00196, 0.7 + 0.00196), abs=1e-5)
    share, count = 0.3, 40  # Wilson's own interval of a share of independent rows.
    low, high = level_interval(share, (share * (1 - share) / count) ** 0.5, np.inf, count)
    for end in (low, high):
        assert (share - end) ** 2 == pytest.approx(norm.ppf(0.975) ** 2 * end * (1 - end) / count)


@pytest.mark.parametrize(("seeds", "positives", "shared"), [(3, 5, 0.5), (10, 5, 0.5), (3, 10, 0.5), (3, 5, 0.0)])
def test_levels_of_few_subjects_hold_the_truth_as_often_as_they_say(seeds, positives, shared):
    """Classifiers whose AUROC is known: separation 1 between classes, of scores that are alike for all seeds in part.
    scripts/study_intervals.py has more cases."""
    y, generator, held = np.repeat([0, 1], [9 * positives, positives]), np.random.default_rng(0), 0
    subjects = np.arange(len(y))
    for _ in range(300):
        scores = (y + np.sqrt(shared) * generator.normal(size=len(y))
                  + np.sqrt(1 - shared) * generator.normal(size=(seeds, len(y))))
        weights = subject_weights(subjects, 100, int(generator.integers(2**31)))
        fits = [np.column_stack([-score, score]) for score in scores]
        freedom = subject_freedom(y, subjects)
        variance = main_subject_variance(np.array([auroc(y, fit, weights) for fit in fits]), freedom)
        values = [auroc(y, fit)[0] for fit in fits]
        summary = summaries(long_frame(level_rows(values, freedom, variance)))["set", "TSTR", ""]["auroc"]
        held += summary["low"] <= norm.cdf(0.5**0.5) <= summary["high"]
    assert 0.92 <= held / 300 <= 0.99


def test_the_standard_error_against_its_limits():
    error, freedom = standard_error(0.09, 3, 0.0)
    assert (error, freedom) == pytest.approx((0.3 / 3**0.5, 2)), "seeds alone: the t-interval of three values"
    assert standard_error(0.0, 3, 0.04) == (pytest.approx(0.2), np.inf), "subjects alone: the normal one"
    assert standard_error(0.09, 3, 0.03)[1] == pytest.approx(8)
    assert standard_error(0.09, 3, 0.03, 2)[1] == pytest.approx(4), "equal parts with 2 degrees of freedom each"
    assert standard_error(0.0, 1, 0.04, 7) == (pytest.approx(0.2), 7)


def test_a_bootstrap_of_few_subjects_is_made_up_for():
    values, generator = np.array([0.0, 1.0, 5.0]), np.random.default_rng(0)
    means = values[generator.integers(3, size=(200_000, 3))].mean(axis=1)
    assert main_subject_variance(means[None], 2) == pytest.approx(values.var(ddof=1) / 3, rel=0.02)


def test_subjects_are_counted_by_class_whatever_their_rows():
    y, subjects = np.array([0, 0, 0, 1, 1, 1, 0]), np.array(list("aabbcdd"))
    assert subject_counts(y, subjects) == (0, 3, 3) and subject_freedom(y, subjects) == 2
    assert subject_counts(np.array([2, 0, 0, 1, 1]), np.arange(5)) == (2, 1, 4)
    assert subject_freedom(np.array([2, 0, 0, 1, 1]), np.arange(5)) == 1, "never none"


def test_p_is_that_of_the_t_test():
    values = np.array([0.03, 0.01, 0.05, -0.01])
    error, freedom = standard_error(values.var(ddof=1), 4, 0.0)
    assert p_value(values.mean(), error, freedom) == pytest.approx(ttest_1samp(values, 0).pvalue)
    assert p_value(0.0, 0.0, 3) == 1 and p_value(0.1, 0.0, 3) == 0


def test_holm_by_the_definition():
    p = np.array([0.04, 0.01, 0.03, 0.005])
    assert holm(p) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1] and holm(np.array([0.2])).tolist() == [0.2]


def test_any_false_verdict_is_as_rare_for_ten_sets_as_for_one():
    """Ten arms without effect, compared with the same TRTR, whose seeds and subjects they share."""
    generator, false, unadjusted = np.random.default_rng(0), 0, 0
    for _ in range(300):
        of_trtr = generator.normal(size=3) + generator.normal()
        rows = []
        for number in range(10):
            values = generator.normal(size=3) + generator.normal() - of_trtr
            rows += [(f"set {number}", "TSTR", "gru", "auprc_minus_trtr", None, seed, value)
                     for seed, value in enumerate(values)]
            rows += [(f"set {number}", "TSTR", "gru", "auprc", None, 0, 0.5),
                     (f"set {number}", "TSTR", "gru", "auprc_minus_trtr_subject_variance", None, None, 2.0)]
        differences = [row["auprc_minus_trtr"] for row in utility_rows(long_frame(rows))]
        false += any(verdict(difference) != NEITHER for difference in differences)
        unadjusted += any(difference["p"] < 0.05 for difference in differences)
    assert false / 300 < 0.08 and unadjusted / 300 > 0.15


def test_the_variance_of_hanley_and_mcneil():
    """Of their negative exponential model, whose AUROC is shape / (1 + shape)."""
    generator, shape = np.random.default_rng(0), 3.0
    negatives, positives = generator.exponential(size=(3000, 1, 40)), shape * generator.exponential(size=(3000, 15, 1))
    areas = (positives > negatives).mean(axis=(1, 2))
    assert hanley_mcneil_variance(0.75, 15, 40) == pytest.approx(np.var(areas), rel=0.1)


def test_what_is_visible_beforehand_shrinks_with_subjects_of_both_classes():
    def visible(positives, negatives):
        y = np.repeat([1, 0], [positives, negatives])
        return visible_beforehand(y, np.arange(len(y)))

    assert visible(222, 1352) == pytest.approx(
        smallest_visible(0.2 * hanley_mcneil_variance(0.75, 222, 1352), 221))
    assert visible(222, 1352) < visible(222, 300) < visible(50, 300)


@pytest.mark.parametrize("freedom", [1, 4, 30])
def test_few_subjects_show_less_as_in_a_t_test(freedom):
    generator = np.random.default_rng(0)
    effect = smallest_visible(1 / (freedom + 1), freedom)
    draws = generator.normal(effect, 1, size=(20_000, freedom + 1))
    found = (ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    assert found == pytest.approx(0.8, abs=0.01)
    assert smallest_visible(1.0, freedom) > smallest_visible(1.0)


@pytest.mark.parametrize(("standardised", "expected"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_the_seeds_needed_are_those_of_published_power_tables(standardised, expected):
    """Two-sided paired t-test at 5 % with power 80 %."""
    differences = np.array([-1.0, 0.0, 1.0]) * 0.01 / standardised
    assert seeds_needed(differences) == seeds_needed(differences + 3) == expected


@pytest.mark.parametrize("sd", [0.006, 0.02])
def test_as_many_seeds_as_said_reach_the_power_in_simulation(sd):
    seeds = seeds_needed(np.array([-sd, 0.0, sd]))
    draws = np.random.default_rng(0).normal(0.01, sd, size=(20_000, seeds))
    found = [np.mean(ttest_1samp(draws[:, :count], 0, axis=1).pvalue < 0.05) for count in (seeds, seeds - 1)]
    assert found[0] > 0.8 - 0.009 and found[1] < 0.8 + 0.009


def test_what_patients_hide_no_number_of_seeds_shows():
    differences, visible = np.array([-0.01, 0.0, 0.01]), smallest_visible(0.003**2)
    assert visible == pytest.approx(2.8016 * 0.003, rel=1e-3)
    assert seeds_needed(differences, 0.004**2) is None
    assert seeds_needed(differences, 0.003**2) > seeds_needed(differences)
    seeds, generator = seeds_needed(differences, 0.003**2), np.random.default_rng(0)
    found = 0
    for _ in range(4000):
        values = 0.01 + generator.normal(0, 0.003) + generator.normal(0, 0.01, seeds)
        error, freedom = standard_error(values.var(ddof=1), seeds, 0.003**2)
        found += values.mean() > t.ppf(0.975, freedom) * error
    assert found / 4000 == pytest.approx(0.8, abs=0.025)


def test_no_number_of_seeds_follows_from_two_or_from_equal_ones():
    assert seeds_needed(np.array([0.01, 0.03])) is None
    assert seeds_needed(np.full(5, 0.02)) is None and seeds_needed(np.array([0.1, 0.1 + 1e-17, 0.1 - 2e-17])) is None
    assert seeds_needed(np.array([0.02, 0.02, 0.0201])) == 2


