"""What the report says in words, on small results made by hand."""

import re

import pytest

from tardiff.evaluation.fidelity import FIDELITY
from tardiff.evaluation.privacy import PRIVACY
from tardiff.evaluation.report import (
    answer,
    compared,
    cost_table,
    fidelity_tables,
    generation,
    missing_words,
    privacy_tables,
    privacy_words,
    set_words,
    utility_words,
    verdict,
    write_report,
)
from tardiff.evaluation.tables import GAIN, LOSS, NEITHER, TOO_FEW, judgement, number, spread

UP, DOWN, FLAT = (0.01, 0.03), (-0.03, -0.01), (-0.01, 0.02)


def summary(*values):
    return {"mean": sum(values) / len(values), "sd": 0.01 if len(values) > 1 else None, "values": list(values)}


def difference(ends, seeds=None, smallest=0.001):
    return {"mean": sum(ends) / 2, "low": ends[0], "high": ends[1], "values": 3 * [sum(ends) / 2], "seeds_for_0.01": seeds,
            "smallest_visible": smallest}


def arm(protocol, synthetic=None, ratio=None, low=0.6, **differences):
    scores = {key: summary(0.7) | {"low": low, "high": 0.8}
              for key in ("auroc", "auprc", "f1", "f1_selected", "brier", "positive_rate")}
    return {"arm": protocol, "protocol": protocol, "synthetic": synthetic, "ratio": ratio, **scores, **differences}


def added(name, ends, ratio=1.0, **power):
    return arm("TSRTR", name, ratio, auprc_minus_trtr=difference(ends, **power), auroc_minus_trtr=difference(ends))


def utility_of(rows, seeds=5, low=0.6, reference="unguided"):
    return {"rows": [arm("TRTR", low=low), *rows], "seeds": seeds, "reference": reference, "scored_rows": 1200,
            "scored_subjects": 1000, "chance_auprc": 0.1, "fewest_datasets": 3}


def attack(auroc=(0,), tpr=(0,), copies=0.0):
    """The result of an attack on as many datasets as there are flags."""
    numbers = {"auroc": 0.52, "auroc_low": 0.48, "auroc_high": 0.56, "tpr": 0.025, "tpr_low": 0.012, "tpr_high": 0.05,
               "exact_copies": copies}
    flags = {"flagged_auroc": auroc, "flagged_tpr": tpr, "flagged": map(max, auroc, tpr)}
    return {key: summary(*[value] * len(auroc)) for key, value in numbers.items()} | {
        key: summary(*values) for key, values in flags.items()}


def privacy_of(train, guidance):
    return {"guided": {"train_attack": train, "guidance_attack": guidance}}


@pytest.mark.parametrize(("ends", "expected"), [
    (UP, "gain"), (DOWN, "loss"), (FLAT, "no difference shown"), ((0, 0.1), NEITHER), ((-0.1, 0), NEITHER)])
def test_an_interval_is_a_gain_or_a_loss_only_if_it_excludes_0(ends, expected):
    assert judgement(difference(ends)) == expected
    assert judgement(difference(ends) | {"values": [0.1, 0.2]}) == TOO_FEW


@pytest.mark.parametrize(("judged", "expected"), [
    ({"a": GAIN}, "It helped: adding series of a raised AUPRC."), ({"a": NEITHER}, "No gain was shown."),
    ({"a": LOSS}, "No gain was shown. Adding series of a lowered AUPRC."),
    ({"a": GAIN, "b": NEITHER, "c": LOSS, "d": GAIN},
     "It helped: adding series of a, d raised AUPRC. Adding series of c lowered AUPRC.")])
def test_the_verdict_names_the_sets_that_gained_and_lost(judged, expected):
    assert verdict(judged) == expected


@pytest.mark.parametrize(("value", "expected"), [
    (None, "-"), (float("nan"), "-"), (0.0, "0.000"), (1e-17, "0.000"), (-0.25, "-0.250"), (0.00123, "0.0012"),
    (0.01, "0.010")])
def test_small_numbers_keep_two_figures(value, expected):
    assert number(value) == expected


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, "It helped: adding series of guided raised AUPRC."), ({"seeds": 3}, "It helped"),
    ({"seeds": 2}, "No verdict: 2 seed(s) are too few."), ({"low": 0.5}, "does not beat chance"),
    ({"low": 0.5, "seeds": 2}, "does not beat chance")])
def test_there_is_no_verdict_below_3_seeds_or_of_a_classifier_at_chance(settings, expected):
    words = " ".join(utility_words(utility_of([added("guided", UP)], **settings)))
    assert expected in words and ("It helped" in words) == (expected.startswith("It helped"))


@pytest.mark.parametrize(("small", "large", "gained"), [(UP, DOWN, False), (DOWN, UP, True)])
def test_the_largest_ratio_is_judged(small, large, gained):
    words = utility_words(utility_of([added("guided", large, 1.0), added("guided", small, 0.2)]))
    assert ("It helped" in words[0]) == gained and ("lowered AUPRC" in words[0]) != gained
    assert "at ratio 1, by" in words[0] and "at ratio 0.2" not in " ".join(words)


def test_without_real_and_synthetic_series_together_nothing_is_judged():
    words = utility_words(utility_of([arm("TSTR", "guided")]))
    assert "real and synthetic series together was not tried" in words[0] and "Judged" not in " ".join(words)
    assert "trained on it alone, AUROC 0.700" in words[2] and "added" not in words[2]


@pytest.mark.parametrize(("power", "expected"), [
    ({"seeds": 23, "smallest": 0.02}, "(to see a change of 0.01, some 23 seeds would be needed)"),
    ({"smallest": 0.0234}, "a true change below 0.023 would be missed in more than one of five"),
    ({"smallest": 0.009}, None), ({"smallest": None}, None)])
def test_a_set_says_what_more_seeds_would_show(power, expected):
    words = set_words("guided", [arm("TSTR", "guided"), arm("TSTR", "other"), added("guided", FLAT, **power)], 1.0)
    assert f"AUPRC changes by +0.005 [-0.010, +0.020]: {NEITHER}" in words and words.count("trained on it alone") == 1
    assert expected in words if expected else "seeds" not in words
    assert set_words("guided", [added("guided", DOWN, **power)], 1.0).endswith("-0.020 [-0.030, -0.010]: loss")


def test_a_set_that_lacks_a_class_says_so():
    assert set_words("guided", [arm("TSTR", "other"), added("guided", UP)], 1.0).startswith(
        "it lacks a class, so that nothing can be trained on it alone; added at ratio 1")


@pytest.mark.parametrize(("auroc", "tpr", "expected"), [
    ((0,), (0,), "flagged in 0 of 1 dataset(s)"), ((1,), (0,), "flagged in 1 of 1 dataset(s) (by AUROC in 1, by TPR in 0)"),
    ((0,), (1,), "flagged in 1 of 1 dataset(s) (by AUROC in 0, by TPR in 1)"),
    ((1, 0, 0), (1, 1, 0), "flagged in 2 of 3 dataset(s) (by AUROC in 1, by TPR in 2)")])
def test_an_attack_says_by_what_and_in_how_many_datasets_it_was_flagged(auroc, tpr, expected):
    unflagged = attack([0] * len(auroc), [0] * len(auroc))
    words = privacy_words(privacy_of(attack(auroc, tpr), unflagged), {"guided": {}})
    assert f"training rows AUROC 0.520 [0.480, 0.560], TPR 0.025 [0.012, 0.050], {expected}; guidance rows" in words
    assert f"flagged in 0 of {len(auroc)} dataset(s)</li>" in words, "the guidance rows are not flagged"
    assert words.count("of several datasets, the mean") == (len(auroc) > 1) and "verbatim" not in words


@pytest.mark.parametrize(("train", "guidance", "expected"), [
    (0.25, 0.0, ["25.0 % of the training series"]), (0.0, 0.0004, ["under 0.1 % of the guidance series"]),
    (1.0, 0.5, ["100.0 % of the training series", "50.0 % of the guidance series"])])
def test_copies_are_warned_of_for_both_groups(train, guidance, expected):
    words = privacy_words(privacy_of(attack(copies=train), attack(copies=guidance)), {"guided": {}})
    assert re.findall(r"<strong>(\S.*?) stand in it verbatim: do not share it</strong>", words.split("<ul>")[1]) == expected


def test_each_part_that_is_missing_is_said():
    none = missing_words({"synthetic": {"guided": {}}})
    assert [words.split()[0] for words in none] == ["Utility", "Fidelity", "Privacy", "Influence"]
    assert none[-1] == "Influence was not evaluated: it needs classifier=RUN."
    assert "Fidelity was not evaluated" in answer({"synthetic": {"guided": {}}, "utility": utility_of([])})


@pytest.mark.parametrize(("reference", "names", "said"), [
    (None, ["guided"], False), (None, ["guided", "unguided"], True), ("unguided", ["guided", "unguided"], False)])
def test_that_no_reference_set_was_compared_with_is_said_of_several_sets(reference, names, said):
    results = {"fidelity": {}, "privacy": {}, "influence": {}, "utility": {"reference": reference},
               "synthetic": dict.fromkeys(names)}
    words = missing_words(results)
    assert len(words) == said and all("reference=NAME" in sentence for sentence in words)


def rows_of(page):
    return [re.sub(r"<(?!/t[dh]>)[^>]*>", "", row).replace("</td>", "|").replace("</th>", "|").strip("|").split("|")
            for row in re.findall(r"<tr.*?>(.*?)</tr>", page)]


def test_metrics_per_channel_show_the_names_of_the_channels():
    marginal = next(metric for metric in FIDELITY if metric.name == "marginal")
    values = {"ks": 0.5, "ks_0": 0.1, "ks_1": 0.2, "wasserstein": 0.6, "wasserstein_0": 0.3, "wasserstein_1": 0.4}
    of_set = {marginal.name: {key: summary(value) for key, value in values.items()}}
    page = fidelity_tables({"real": of_set, "noise": of_set, "guided": of_set}, ["HR", "Temp"])
    ks, wasserstein = (rows_of(page.split(f"{title} per channel</caption>")[1].split("</table>")[0])
                       for title in ("KS", "Wasserstein-1"))
    assert ks == [["channel", "real", "noise", "guided"], ["HR", *["0.100"] * 3], ["Temp", *["0.200"] * 3]]
    assert wasserstein[1:] == [["HR", *["0.300"] * 3], ["Temp", *["0.400"] * 3]]


def test_the_costs_are_shown_where_they_are_known():
    nothing = dict.fromkeys(["budget", "parameters", "optimiser_steps", "training_seconds", "seconds_per_series"])
    assert cost_table({"copy": nothing}) == ""
    page = cost_table({"copy": nothing, "guided": nothing | {"budget": "reduced", "parameters": 1_100_000.0,
                                                             "training_seconds": 61.5}})
    assert rows_of(page)[0][:3] == ["set", "budget", "parameters"]
    assert rows_of(page)[1:] == [["guided", "reduced", "1,100,000", "-", "61.5", "-"]]
    assert "medians over the datasets" in page


RECORD = {"seed": 0, "command": "python scripts/generate.py", "inputs": {"denoiser": "fd26"},
          "settings": {"seed": 0, "labels": "train", "num_samples": None, "guidance": {"scale": 2.0}}}
REAL = {"name": "simulated", "folder": "data/x", "length": 24, "channels": ["HR"], "classes": ["no", "yes"], "splits": {}}


def test_each_dataset_says_how_it_was_made():
    later = RECORD | {"seed": 1, "settings": RECORD["settings"] | {"seed": 1}}
    page = generation({"folders": ["a", "b", "c"], "generation": [RECORD, later, None]})
    assert "a, seed 0:" in page and "settings: seed=0 labels=train num_samples=null guidance.scale=2.0</pre>" in page
    assert "b, seed 1:" in page and "settings that differ from the first dataset: seed=1</pre>" in page
    assert "inputs: denoiser fd26" in page and "c: it has no record" in page and "python scripts/generate.py" in page


@pytest.mark.parametrize(("rows", "expected"), [([1794, 1794], "1,794"), ([1794, 900], "1,794; 900")])
def test_the_rows_of_every_dataset_are_shown(rows, expected):
    page = compared({"real": REAL, "synthetic": {"guided": {"folders": ["a", "b"], "rows": rows}}, "cost": {}})
    assert ["guided", expected, "2", "a, b"] in rows_of(page)


def test_nnaa_says_why_the_copy_is_far_from_0():
    of_set = {metric.name: attack() | {column.key: summary(0.3) for column in metric.columns} for metric in PRIVACY}
    page = privacy_tables({"copy": of_set, "fresh": of_set})
    assert "AA train lies well above 0 even for a copy" in page.split("adversarial accuracy</h3>")[1].split("<table>")[0]


def test_a_page_with_one_part_is_written_and_escapes_names(tmp_path):
    record = dict.fromkeys(["tardiff", "commit", "python", "torch", "numpy"], "1")
    synthetic = {"<guided>": {"folders": ["a"], "rows": [10], "generation": [RECORD]}}
    utility = utility_of([added("<guided>", UP)], reference=None)
    page = write_report(tmp_path, {"real": REAL, "synthetic": synthetic, "cost": {}, "hashes": {}, "provenance": record,
                                   "settings": "seeds: 5", "utility": utility}, []).read_text()
    assert "It helped: adding series of &lt;guided&gt;" in page and "<guided>" not in page
    assert "Privacy was not evaluated" in page and "mean ± t x standard error" in page and "bootstrap intervals" not in page


@pytest.mark.parametrize(("mean", "sd", "shown"), [
    (0.722, 0.0097, "0.722 (0.010)"), (0.0021, 0.00004, "0.0021 (4e-05)"), (0.5, None, "0.500"), (float("nan"), 0.1, "-"),
    (None, None, "-"), (0.3, 1e-17, "0.300 (0.000)")])
def test_mean_and_deviation_have_decimals_alike(mean, sd, shown):
    assert spread({"mean": mean, "sd": sd}) == shown
