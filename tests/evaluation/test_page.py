"""What the page says, on small results made by hand: each sentence once, on a page that holds it and on one that does
not."""

import re

import numpy as np
import pytest

from tardiff.evaluation.fidelity import FIDELITY
from tardiff.evaluation.frame import NOISE, REAL, long_frame, utility_rows
from tardiff.evaluation.page import render, utility_outcomes
from tardiff.evaluation.privacy import PRIVACY
from tardiff.evaluation.protocol import METRICS
from tardiff.evaluation.sections import COPY, FRESH

RECORD = {"seed": 0, "command": "python scripts/generate.py", "inputs": {"denoiser": "fd26"},
          "settings": {"seed": 0, "labels": "train", "num_samples": None, "guidance": {"scale": 2.0}}}
REAL_DATA = {"name": "simulated", "folder": "data/x", "length": 24, "channels": ["HR", "Temp"],
             "classes": ["no", "yes"], "splits": {"train": {"rows": 1200, "subjects": 1000, "classes": [1100, 100]}}}
COSTS = dict.fromkeys(["budget", "parameters", "optimiser_steps", "training_seconds", "seconds_per_series"])


def arm(synthetic, metric, auprc_change=None, seeds=3, chance=False, subject_variance=1e-6):
    """The rows of an arm: AUROC 0.7 or 0.5, all else 0.7, seed by seed, and with a change, differences of about that
    size."""
    keys = {key: [0.5 if chance and key == "auroc" else 0.7] * seeds for key in METRICS}
    if auprc_change is not None:
        keys |= {f"{key}_minus_trtr": auprc_change + 0.001 * np.arange(seeds) for key in ("auroc", "auprc")}
    return [*((synthetic, metric, "gru", key, None, seed, value) for key, values in keys.items()
              for seed, value in enumerate(values)),
            *((synthetic, metric, "gru", f"{key}_subject_variance", None, None, subject_variance) for key in keys)]


def utility(*arms, seeds=3, chance=False, reference="guided", fewest=3, few=None,
            controls=(), protocols=("tstr", "tsrtr")):
    frame = long_frame([row for rows in (arm(REAL, "TRTR", None, seeds, chance), *arms) for row in rows])
    return frame, {"seeds": seeds, "reference": reference, "scored_rows": 1200, "scored_subjects": 1000,
                   "few_subjects": few, "rotations": 1, "reliability_class": 1,
                   "seen_beforehand": "On these 1,000 subjects",
                   "guide_kinds": {}, "controls": list(controls), "targets": ["own"],
                   "scored_class": "AUPRC and F1 are of the class 'yes'.",
                   "chance_auprc": 0.1, "fewest_datasets": fewest, "protocols": list(protocols)}


def attack(auroc=(0,), tpr=(0,), copies=0.0):
    """The result of an attack on as many datasets as there are flags."""
    numbers = {"auroc": 0.52, "auroc_low": 0.48, "auroc_high": 0.56, "tpr": 0.025, "tpr_low": 0.012, "tpr_high": 0.05,
               "exact_copies": copies}
    flags = {"flagged_auroc": auroc, "flagged_tpr": tpr, "flagged": list(map(max, auroc, tpr))}
    return {key: [value] * len(auroc) for key, value in numbers.items()} | flags


def privacy(train, guidance, name="guided", labels=None):
    """labels: what the attack by probabilities finds; None where the set has none."""
    rows = []
    for candidate in (COPY, FRESH, name):
        for metric in (metric for metric in PRIVACY if labels is not None or not metric.needs_p):
            result = {column.key: [0.3] for column in metric.columns if not column.key.startswith("flagged")}
            result |= {"train_attack": train, "guidance_attack": guidance, "label_attack": labels}.get(
                metric.name, {})
            rows += [(candidate, metric.name, "", key, number, 0, value) for key, values in result.items()
                     for number, value in enumerate(values)]
    return long_frame(rows)


def page(frames=None, sets=("guided",), influence=None, figures=None, **description):
    synthetic = {name: {"folders": ["a", "b"], "rows": [1794, 1794], "generation": [RECORD, None]} for name in sets}
    everything = {"real": REAL_DATA, "synthetic": synthetic, "cost": dict.fromkeys(sets, COSTS), "hashes": {},
                  "scored_on": "test", "quick": False, "settings": "seeds: 5",
                  "provenance": dict.fromkeys(["tardiff", "commit", "python", "torch", "numpy"], "1")}
    return render(everything | description, frames or {}, influence or {}, figures or {}, "out/settings.yaml")


def words(html):
    """The text of a page, without tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html))


def rows_of(html, caption=""):
    """The cells of a table, found by its caption."""
    body = html.split(caption)[1].split("<tbody>")[1].split("</tbody>")[0]
    return [[words(text) for text in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
            for row in re.findall(r"<tr.*?</tr>", body)]


def utility_words(*arms, sets=("guided",), **settings):
    frame, description = utility(*arms, **settings)
    return words(page({"utility": frame}, sets, utility=description).split('class="answer">')[1].split("<h2>")[0])


@pytest.mark.parametrize(("changes", "gained", "lost", "said"), [
    ({"a": 0.02}, ["a"], [], "adding series of a raised AUPRC of yes."), ({"a": 0.0}, [], [], "no gain was shown."),
    ({"a": -0.02}, [], ["a"], "no gain was shown. Adding series of a lowered it."),
    ({"a": 0.02, "b": 0.0, "c": -0.02, "d": 0.02}, ["a", "d"], ["c"],
     "adding series of a, d raised AUPRC of yes. Adding series of c lowered it.")])
def test_the_verdict_names_the_sets_that_gained_and_lost_at_the_largest_ratio(changes, gained, lost, said):
    arms = [arm(name, f"TSRTR {ratio}", sign * change) for name, change in changes.items()
            for ratio, sign in ((1.0, 1), (0.2, -1))]
    (outcome,) = utility_outcomes(*utility(*arms))
    assert (outcome["kind"], outcome["ratio"], outcome["gained"], outcome["lost"]) == ("judged", 1.0, gained, lost)
    text = utility_words(*arms, sets=tuple(changes))
    assert f"{said} Judged is AUPRC of yes against real data alone at ratio 1, once" in text
    assert "at ratio 0.2" not in text
    assert f"once for each of {len(changes)} set(s)" in text


@pytest.mark.parametrize(("settings", "kind", "said"), [
    ({"seeds": 2}, "few_seeds", "no verdict, as 2 seed(s) are too few."),
    ({"chance": True}, "chance", "does not beat chance"),
    ({"chance": True, "seeds": 2}, "chance", "does not beat chance")])
def test_there_is_no_verdict_below_3_seeds_or_of_a_classifier_at_chance(settings, kind, said):
    change = arm("guided", "TSRTR 1.0", 0.02, settings.get("seeds", 3))
    assert utility_outcomes(*utility(change, **settings))[0]["kind"] == kind
    text = utility_words(change, **settings)
    assert said in text and "raised AUPRC" not in text and "Judged" not in text


def against_control(synthetic, change, judge="gru"):
    """The rows of an arm that is above TRTR by 0.02 and above the best control by `change`."""
    rows = arm(synthetic, "TSRTR 1.0", 0.02)
    for key, values in (("auprc_minus_control", change + 0.001 * np.arange(3)),
                        ("auprc_minus_control_subject_variance", [1e-6])):
        rows += [(synthetic, "TSRTR 1.0", judge, key, None, seed, value) for seed, value in enumerate(values)]
    return rows


def test_what_is_above_real_data_is_needed_only_if_it_is_above_the_best_control_too():
    better = [(*row[:6], 0.8) if row[3] == "auprc" else row for row in arm(REAL, "jitter", 0.01)]
    frame, description = utility(arm(REAL, "mixup", 0.01), better,
                                 against_control("a", 0.02), against_control("b", 0.0), controls=["mixup", "jitter"])
    (outcome,) = utility_outcomes(frame, description)
    assert (outcome["gained"], outcome["needed"], outcome["best_control"]) == (["a", "b"], ["a"], "jitter")
    html = page({"utility": frame}, ("a", "b"), utility=description)
    first = [row[0] for row in rows_of(html, "Judge: gru")]
    assert first == ["TRTR", "Controls: real rows alone, used otherwise", "control mixup", "control jitter (best)",
                     "With synthetic series", "TSRTR a 1", "TSRTR b 1"]
    answer = words(html.split('class="answer"')[1].split("<nav")[0])
    assert "Above the best control, too, and so needed: a." in answer
    assert "a helps and is needed:" in answer and "b helps, but is not shown to be needed:" in answer
    assert answer.count("against the best control (jitter) by") == 2
    without = words(page({"utility": utility(arm("a", "TSRTR 1.0", 0.02))[0]}, ("a",), utility=utility()[1]))
    assert "best control" not in without


def test_each_judge_has_its_answer_and_its_table_and_a_family_of_its_own():
    rows = [row for judge in ("gru", "boosting") for part in (arm(REAL, "TRTR"), arm("a", "TSRTR 1.0", 0.02))
            for row in ((*row[:2], judge, *row[3:]) for row in part)]
    frame, description = long_frame(rows), utility()[1]
    assert [outcome["judge"] for outcome in utility_outcomes(frame, description)] == ["gru", "boosting"]
    for row in utility_rows(frame):
        if row["synthetic"]:
            assert row["auprc_minus_trtr"]["p_adjusted"] == row["auprc_minus_trtr"]["p"]
    html = page({"utility": frame}, ("a",), utility=description)
    answer = words(html.split('class="answer"')[1].split("<nav")[0])
    assert "judged by gru" in answer and "judged by boosting" in answer and answer.count("What could be seen") == 1
    assert rows_of(html, "Judge: gru")[-1][0] == rows_of(html, "Judge: boosting")[-1][0] == "TSRTR a 1"


def test_without_real_and_synthetic_series_together_nothing_is_judged():
    text = utility_words(arm("guided", "TSTR"), protocols=["tstr"])
    assert "real and synthetic series together was not tried" in text and "Judged" not in text
    assert "guided: trained on it alone, AUROC 0.700 (0.000) and AUPRC 0.700 (0.000)." in text


def test_a_set_says_what_it_does_and_what_more_seeds_or_patients_would_show():
    text = utility_words(arm("guided", "TSTR"), arm("guided", "TSRTR 0.5", 0.0),
                         arm("other", "TSRTR 0.5", 0.0, subject_variance=1e-3))
    assert ("guided is not shown to help: trained on it alone, AUROC 0.700 (0.000) and AUPRC 0.700 (0.000); added at "
            "ratio 0.5") in text
    assert re.search(r"AUPRC changes by \+0.001 \[-0.00\d, \+0.00\d\]: no difference shown \(to see a change of 0.01 "
                     r"apart from all others, some \d seeds would be needed", text)
    assert ("other is not shown to help: it lacks a class, so that nothing can be trained on it alone; added at ratio "
            "0.5, AUPRC") in text
    assert "(however many the seeds, a true change below 0.089 would be missed in more than one of five studies" in text
    assert "AUPRC of yes 0.700 (0.000) (chance: 0.100) on 1,200 real test series of 1,000 subjects" in text
    assert "single dataset" not in text and "single dataset" in utility_words(arm("guided", "TSTR"), fewest=1)


def test_an_attack_says_by_what_and_in_how_many_datasets_it_was_flagged_and_warns_of_copies():
    frames = {"privacy": privacy(attack((1, 0, 0), (1, 1, 0), copies=0.25), attack(copies=0.0004))}
    text = words(page(frames))
    assert "training rows AUROC 0.520 [0.480, 0.560], TPR 0.025 [0.012, 0.050], flagged in 2 of 3 dataset(s)" in text
    assert "(by AUROC in 1, by TPR in 2), 25.0 % of the training series stand in it verbatim: do not share it" in text
    assert "flagged in 0 of 1 dataset(s), under 0.1 % of the guidance series stand in it verbatim" in text
    assert "of several datasets, the mean" in text
    none = words(page({"privacy": privacy(attack(), attack())}))
    assert "verbatim" not in none and "of several datasets" not in none and "(by AUROC" not in none


@pytest.mark.parametrize(("reference", "sets", "said"), [
    (None, ["guided"], False), (None, ["guided", "other"], True), ("guided", ["guided", "other"], False)])
def test_what_is_missing_is_said(reference, sets, said):
    frame, description = utility(arm("guided", "TSTR"), reference=reference)
    text = words(page({"utility": frame}, sets, utility=description))
    assert "Fidelity was not evaluated" in text and "Privacy was not evaluated" in text
    assert "Utility was not" not in text
    assert "Influence was not evaluated: it needs classifier=RUN." in text
    assert ("reference=NAME" in text) == said and "A first look" not in text
    assert "Utility was not evaluated" in words(page()) and "A first look" in words(page(quick=True))


def test_the_rows_that_are_scored_are_said():
    frame, description = utility(arm("guided", "TSTR"))
    on_test, on_selection = (words(page({"utility": frame}, utility=description, scored_on=rows))
                             for rows in ("test", "selection"))
    assert "Scored on the selection half: for choosing settings" in on_selection and "test series" not in on_selection
    assert "1,200 real test series" in on_test and "selection half: for choosing" not in on_test


def test_metrics_show_their_anchors_and_channels():
    marginal = next(metric for metric in FIDELITY if metric.name == "marginal")
    values = {"ks": 0.5, "ks_0": 0.1, "ks_1": 0.2,
              "wasserstein": 0.6, "wasserstein_0": 0.3, "wasserstein_1": float("nan")}
    frame = long_frame([(name, "marginal", "", key, 0, 0, value) for name in (REAL, NOISE, "guided")
                        for key, value in values.items()])
    html = page({"fidelity": frame})
    assert rows_of(html, "KS per channel") == [["HR", *["0.100"] * 3], ["Temp", *["0.200"] * 3]]
    assert rows_of(html, "Wasserstein-1 per channel")[1] == ["Temp", "-", "-", "-"]
    assert rows_of(html, f"<h3>{marginal.title}")[2] == ["guided", "0.500", "0.600"]
    assert "<caption>Perfect: KS 0, Wasserstein-1 0</caption>" in html and html.count('class="anchor"') == 4


def test_plausibility_stands_in_the_answer_beside_real_rows_and_names_the_worst_channel():
    shares = {"outside": 0.03, "outside_0": 0.001, "outside_1": 0.059, "at_bound": 0.02, "at_bound_0": 0.0,
              "at_bound_1": 0.04}
    frame = long_frame([(name, "extremes", "", key, 0, 0, value / 10 if name == REAL else value)
                        for name in (REAL, NOISE, "guided") for key, value in shares.items()])
    html = page({"fidelity": frame})
    items = [words(item) for item in re.findall(r"<li>(.*?)</li>", html.split('class="answer"')[1].split("<nav")[0],
                                                flags=re.DOTALL)]
    assert [item.partition(":")[0] for item in items] == [REAL, "guided"]
    assert "3.00%" in items[1] and "Temp, 5.90%" in items[1] and "2.00%" in items[1] and "0.30%" in items[0]


def test_what_probabilities_give_away_is_told_of_sets_that_have_them():
    found = {"student": [0.57], "student_low": [0.53], "student_high": [0.61], "flagged": [1.0]}
    text = words(page({"privacy": privacy(attack(), attack(), labels=found)}))
    assert "by its probabilities AUROC 0.570 [0.530, 0.610] with a student, 0.300" in text
    assert "with the nearest series, flagged in 1 of 1 dataset(s)" in text
    assert "Membership attack by the teacher's probabilities" in text.replace("&#39;", "'")
    without = words(page({"privacy": privacy(attack(), attack())}))
    assert "by its probabilities" not in without and "Probabilities of a teacher" not in without


def test_pictures_stand_in_their_part_and_the_contents_lead_to_every_part():
    frame, description = utility(arm("guided", "TSTR"))
    figures = {part: [{"text": f"picture of {part}", "data": ""}] for part in ("utility", "fidelity", "privacy")}
    html = page({"utility": frame, "privacy": privacy(attack(), attack())}, utility=description, figures=figures)
    contents = re.findall(r'href="#(\w+)"', html)
    assert contents == re.findall(r'<h2 id="(\w+)"', html)
    assert contents == ["compared", "utility", "fidelity", "privacy", "provenance"]
    for part in figures:
        assert f"picture of {part}" in html.split(f'<h2 id="{part}"')[1].split("<h2")[0]
    assert html.index('class="answer"') < html.index("<nav") < html.index("<h2") and "<details>" in html


def test_metrics_of_one_class_name_it():
    frame, description = utility(arm("guided", "TSTR"))
    table = page({"utility": frame}, utility=description).split('id="utility"')[1]
    heads = re.findall(r'<th scope="col">(.*?)</th>', table)
    assert "AUPRC of yes" in heads and "F1 of yes, most probable class" in heads
    three = page({"utility": frame}, utility=description, real=REAL_DATA | {"classes": ["no", "yes", "maybe"]})
    assert "AUPRC (mean over classes)" in three


def test_costs_and_rows_stand_where_they_are_known():
    assert "Cost, where" not in page()
    known = COSTS | {"budget": "reduced", "parameters": 1_100_000.0, "training_seconds": 61.5}
    html = page(cost={"copy": COSTS, "guided": known})
    assert rows_of(html, "Cost, where") == [["guided", "reduced", "1,100,000", "-", "61.5", "-"]]
    assert rows_of(html, "Synthetic sets") == [["guided", "1,794", "2", "a, b"]]
    uneven = {"guided": {"folders": ["a", "b"], "rows": [1794, 900], "generation": [None, None]}}
    assert rows_of(page(synthetic=uneven), "Synthetic sets") == [["guided", "1,794; 900", "2", "a, b"]]


def test_each_dataset_says_how_it_was_made():
    later = RECORD | {"seed": 1, "settings": RECORD["settings"] | {"seed": 1}, "inputs": {}}
    entry = {"folders": ["a", "b", "c"], "rows": [1, 1, 1], "generation": [RECORD, later, None]}
    html = page(synthetic={"guided": entry})
    assert ("<p>a, seed 0:</p><pre>python scripts/generate.py\ninputs: denoiser fd26\n"
            "settings: seed=0 labels=train num_samples=null guidance.scale=2.0</pre>") in html
    assert "inputs: none\nsettings that differ from the first dataset: seed=1</pre>" in html
    assert "c: it has no record" in html and "scripts/evaluate.py out/settings.yaml" in html


def test_influence_is_shown_without_the_outer_percentiles():
    shared = {"mean": 0.5, "p10": 0.1, "p50": 0.2}
    lines = [{"set": "guided", "class": "all", "rows": 1234.0, **shared, "guide_auroc": float("nan")},
             {"set": "guided", "class": "yes", "rows": 34.0, **shared}]
    html = page({"influence": long_frame([])}, influence={"Influence of rows": lines})
    assert rows_of(html, "Influence of rows") == [["guided", "all", "1,234", "0.5", "0.2", "-"],
                                                  ["guided", "yes", "34", "0.5", "0.2", "-"]]
    assert "<th scope=\"col\">median</th>" in html and "p10" not in html


def test_names_are_escaped():
    frame, description = utility(arm("<guided>", "TSRTR 1.0", 0.02))
    frames = {"utility": frame, "privacy": privacy(attack(), attack(), "<guided>")}
    html = page(frames, ["<guided>"], utility=description)
    assert "adding series of &lt;guided&gt;" in html and "<guided>" not in html
    assert html.startswith("<!doctype html>") and "mean ± t x standard error" in html


def test_few_subjects_of_the_rarest_class_are_told_of():
    frame, description = utility(arm("guided", "TSRTR 1", 0.0), few=7)
    assert "Only 7 subjects of the rarest class" in page({"utility": frame}, utility=description)
    frame, description = utility(arm("guided", "TSRTR 1", 0.0))
    assert "of the rarest class" not in page({"utility": frame}, utility=description)
