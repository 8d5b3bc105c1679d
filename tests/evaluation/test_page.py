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

RECORD = {"seed": 0, "command": "tardiff generate", "inputs": {"denoiser": "fd26"},
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
    return [(synthetic, metric, "gru", "real_rows", None, None, 1200),
            *((synthetic, metric, "gru", key, None, seed, value) for key, values in keys.items()
              for seed, value in enumerate(values)),
            *((synthetic, metric, "gru", f"{key}_subject_variance", None, None, subject_variance) for key in keys)]


def utility(*arms, seeds=3, chance=False, reference="guided", few=None, controls=(), protocols=("tstr", "tsrtr")):
    frame = long_frame([row for rows in (arm(REAL, "TRTR", None, seeds, chance), *arms) for row in rows])
    return frame, {"seeds": seeds, "reference": reference, "scored_rows": 1200, "scored_subjects": 1000,
                   "few_subjects": few, "rotations": 1, "reliability_class": 1,
                   "seen_beforehand": "On these 1,000 subjects",
                   "guide_kinds": {}, "controls": list(controls), "targets": ["own"],
                   "scored_class": "AUPRC and F1 are of the class 'yes'.",
                   "chance_auprc": 0.1, "protocols": list(protocols)}


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


def page(frames=None, sets=("guided",), influence=None, figures=None, bounds=None, **description):
    """bounds: what is recorded of values at the ends of the training range, by set."""
    synthetic = {name: {"folders": ["a", "b"], "rows": [1794, 1794], "generation": [RECORD, None],
                        "at_bounds": (bounds or {}).get(name)} for name in sets}
    everything = {"real": REAL_DATA, "synthetic": synthetic, "cost": dict.fromkeys(sets, COSTS), "hashes": {},
                  "scored_on": "test", "quick": False, "settings": "seeds: 5",
                  "provenance": dict.fromkeys(["tardiff", "commit", "python", "torch", "numpy"], "1")}
    return render(everything | description, frames or {}, influence or {}, figures or {}, "out/settings.yaml")


def words(html):
    """The text of a page, without tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html))


def rows_of(html, caption=None):
    """The cells of a table, found by its caption, or of the first."""
    body = (html.split(caption)[1] if caption else html).split("<tbody>")[1].split("</tbody>")[0]
    return [[words(text) for text in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
            for row in re.findall(r"<tr.*?</tr>", body)]


def short(html):
    """The lines for a reader in a hurry, by their heading."""
    lines = html.split('<dl class="short">')[1].split("</dl>")[0]
    return dict(re.findall(r"(Do they help|Are they realistic|Is privacy kept)\?(.*?)(?=Are they|Is privacy|$)",
                           words(lines)))


def fold(html, title):
    """What stands in the fold of this title."""
    return html.split(f"<summary>{title}</summary>")[1].split("</details>")[0]


def utility_page(*arms, sets=("guided",), **settings):
    frame, description = utility(*arms, **settings)
    return page({"utility": frame}, sets, utility=description)


def helps(*arms, **settings):
    return short(utility_page(*arms, **settings))["Do they help"]


@pytest.mark.parametrize(("changes", "gained", "lost"), [
    ({"a": 0.02}, ["a"], []), ({"a": 0.0}, [], []), ({"a": -0.02}, [], ["a"]),
    ({"a": 0.02, "b": 0.0, "c": -0.02, "d": 0.02}, ["a", "d"], ["c"])])
def test_the_verdict_names_the_sets_that_gained_and_lost_at_the_largest_ratio(changes, gained, lost):
    arms = [arm(name, f"TSRTR {ratio}", sign * change) for name, change in changes.items()
            for ratio, sign in ((1.0, 1), (0.2, -1))]
    (outcome,) = utility_outcomes(*utility(*arms))
    assert (outcome["kind"], outcome["ratio"], outcome["gained"], outcome["lost"]) == ("judged", 1.0, gained, lost)
    text = helps(*arms, sets=tuple(changes))
    assert (f"{', '.join(gained)} raised AUPRC of yes" in text) == bool(gained)
    assert ("no set is shown to raise AUPRC of yes" in text) == (not gained)
    assert (f"{', '.join(lost)} lowered it" in text) == bool(lost)
    details = words(fold(utility_page(*arms, sets=tuple(changes)), "Utility, set by set"))
    assert "at ratio 1, once" in details and "at ratio 0.2" not in details
    assert f"once for each of {len(changes)} set{'s' * (len(changes) > 1)}," in details


@pytest.mark.parametrize(("settings", "kind", "said"), [
    ({"seeds": 2}, "few_seeds", "No verdict, as 2 seeds are too few."),
    ({"seeds": 1}, "few_seeds", "No verdict, as 1 seed is too few."),
    ({"chance": True}, "chance", "does not beat chance when trained on real data. Train it for longer"),
    ({"chance": True, "few": 7}, "chance", "does not beat chance when trained on real data. More patients are needed"),
    ({"chance": True, "seeds": 2}, "chance", "does not beat chance")])
def test_there_is_no_verdict_below_3_seeds_or_of_a_classifier_at_chance(settings, kind, said):
    change = arm("guided", "TSRTR 1.0", 0.02, settings.get("seeds", 3))
    assert utility_outcomes(*utility(change, **settings))[0]["kind"] == kind
    html = utility_page(change, **settings)
    assert said in short(html)["Do they help"] and "raised" not in short(html)["Do they help"]
    assert "Judged is" not in html and "1 seeds" not in html


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
    assert "Above the best control as well, jitter (0.800), and so needed: a." in short(html)["Do they help"]
    details = fold(html, "Utility, set by set")
    assert [row[0] for row in rows_of(details)] == ["Help, and are needed", "a",
                                                    "Help, but are not shown to be needed", "b"]
    assert "minus best control, jitter" in words(details)
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
    line = short(html)["Do they help"]
    assert "Judged by gru" in line and "Judged by boosting" in line
    assert rows_of(html, "Judge: gru")[-1][0] == rows_of(html, "Judge: boosting")[-1][0] == "TSRTR a 1"


def test_without_real_and_synthetic_series_together_nothing_is_judged():
    html = utility_page(arm("guided", "TSTR"), protocols=["tstr"])
    assert "real and synthetic series together was not tried" in short(html)["Do they help"]
    details = fold(html, "Utility, set by set")
    assert "Judged is" not in details and rows_of(details)[0][:3] == ["guided", "0.700 (0.000)", "0.700 (0.000)"]


def test_sets_that_share_a_verdict_are_named_together():
    """A table of the sets, and a line whose length is that of their names."""
    names = [f"s{number}" for number in range(8)]
    arms = [part for name in names for part in (arm(name, "TSTR", -0.02), arm(name, "TSRTR 1.0", 0.0))]
    html = utility_page(*arms, sets=names)
    line = short(html)["Do they help"]
    assert f"In place of real series: below real data are {', '.join(names)}." in line and len(line) < 600
    assert [row[0] for row in rows_of(fold(html, "Utility, set by set"))] == ["Not shown to help", *names]


def test_a_set_says_what_it_does_and_what_more_seeds_or_patients_would_show():
    arms = (arm("guided", "TSTR"), arm("guided", "TSRTR 0.5", 0.0),
            arm("other", "TSRTR 0.5", 0.0, subject_variance=1e-3))
    html = utility_page(*arms, sets=("guided", "other"))
    heading, guided, other = rows_of(fold(html, "Utility, set by set"))
    assert heading == ["Not shown to help"] and guided[:3] == ["guided", "0.700 (0.000)", "0.700 (0.000)"]
    assert other[:3] == ["other", "-", "-"] and "it lacks a class" in words(html).replace("the set lacks", "it lacks")
    assert re.fullmatch(r"\+0.001 \[-0.00\d, \+0.00\d\]", guided[3]) and re.fullmatch(r"\d+", guided[5])
    assert other[4:] == ["0.089", "-"]
    assert re.search(r"leave room for changes from -0\.0[5-9]\d to \+0\.0[5-9]\d\.", short(html)["Do they help"])
    assert "AUPRC of yes 0.700 (0.000) (chance: 0.100) on 1,200 real test series of 1,000 subjects" in words(html)


@pytest.mark.parametrize(("rows", "seeds", "named"), [
    ({"a": [5, 5], "b": [5, 5]}, 3, None), ({"a": [5], "b": [5, 5]}, 3, "a"), ({"a": [5], "b": [5]}, 3, "each set"),
    ({"a": [5, 5], "b": [5, 5]}, 1, "each set")])
def test_sets_of_one_dataset_are_named(rows, seeds, named):
    frame, description = utility(arm("a", "TSTR", seeds=seeds), arm("b", "TSTR", seeds=seeds), seeds=seeds)
    synthetic = {name: {"folders": ["f"] * len(of_set), "rows": of_set, "generation": [None] * len(of_set),
                        "at_bounds": None} for name, of_set in rows.items()}
    text = words(page({"utility": frame}, synthetic=synthetic, utility=description))
    assert re.findall(r"Of ([\w ]+) one dataset alone", text) == ([] if named is None else [named])


def test_words_that_a_newcomer_may_not_know_are_explained_where_they_are_used():
    frame, description = utility(arm("guided", "TSTR soft"))
    soft = page({"utility": frame}, utility=description | {"targets": ["soft"]})
    assert "guided (soft)" in words(fold(soft, "Utility, set by set"))
    assert "soft: with the teacher&#39;s probabilities" in soft or "soft: with the teacher's probabilities" in soft
    assert "<dt>soft</dt>" in fold(soft, "Words used here") and "<dt>student</dt>" not in soft
    assert "<dt>soft</dt>" not in utility_page(arm("guided", "TSTR"))
    attacked = page({"privacy": privacy(attack(), attack(), labels={"flagged": [0.0]})})
    assert "<dt>student</dt>" in fold(attacked, "Words used here")


def test_an_attack_says_by_what_and_in_how_many_datasets_it_was_flagged_and_warns_of_copies():
    html = page({"privacy": privacy(attack((1, 0, 0), (1, 1, 0), copies=0.25), attack(copies=0.0004))})
    line, details = short(html)["Is privacy kept"].replace("\xa0", " "), fold(html, "Privacy, set by set")
    assert "guided: flagged, by the attack on training rows." in line and "No attack" not in line
    assert "Of the training series 25.0 % and of the guidance series &lt;0.1 % stand in guided verbatim: do not" in line
    assert rows_of(details, "Attack on the training rows") == [
        ["guided", "0.520 [0.480, 0.560]", "0.025 [0.012, 0.050]", "2 of 3", "1", "2", "25.0 %"]]
    assert rows_of(details, "Attack on the guidance rows")[0][3] == "0 of 1"
    assert "of several datasets, the mean" in words(details)
    none = page({"privacy": privacy(attack(), attack())})
    assert "verbatim:" not in words(none) and "of several datasets" not in none
    assert "No attack flagged a set. Not to be flagged is no guarantee." in short(none)["Is privacy kept"]


@pytest.mark.parametrize(("reference", "sets", "said"), [
    (None, ["guided"], False), (None, ["guided", "other"], True), ("guided", ["guided", "other"], False)])
def test_what_is_missing_is_said(reference, sets, said):
    frame, description = utility(arm("guided", "TSTR"), reference=reference)
    text = words(page({"utility": frame}, sets, utility=description))
    assert "Fidelity was not evaluated" in text and "Privacy was not evaluated" in text
    assert "Utility was not" not in text and "Do they help?" in text
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
    assert rows_of(html, f'<h3 id="of-marginal">{marginal.title}')[2] == ["guided", "0.500", "0.600"]
    assert "<caption>Perfect: KS 0, Wasserstein-1 0</caption>" in html and html.count('class="anchor"') == 4


def extremes(**outside):
    """Shares of values outside the real range of the two channels, by set."""
    ends, nothing = ("", "_0", "_1"), (0.0, 0.0, 0.0)
    return long_frame([(name, "extremes", "", key + end, 0, 0, value) for name, shares in outside.items()
                       for key, values in (("outside", (np.mean(shares), *shares)), ("at_bound", nothing))
                       for end, value in zip(ends, values, strict=True)])


def test_shares_outside_the_real_range_are_told_of_each_set_and_channel_and_conspicuous_ones_at_once():
    frame = extremes(**{REAL: (0.002, 0.003), NOISE: (0.9, 0.9), "guided": (0.001, 0.059), "other": (0.004, 0.002)})
    html = page({"fidelity": frame}, ("guided", "other")).replace("\xa0", " ")
    line = short(html)["Are they realistic"]
    assert "lie 0.3 % to 3.0 % of the values (of real training rows 0.2 %), conspicuously many" in line
    assert "guided (Temp 5.9 %, of real ones 0.3 %)." in line
    assert "other" not in line and "training range" not in line
    assert rows_of(fold(html, "Fidelity and plausibility, set by set"), "Outside the range") == [
        [REAL, "0.2 %", "0.2 %", "0.3 %"], ["guided", "3.0 %", "0.1 %", "5.9 %"], ["other", "0.3 %", "0.4 %", "0.2 %"]]
    calm = page({"fidelity": extremes(**{REAL: (0.002, 0.003), NOISE: (0.9, 0.9), "guided": (0.004, 0.006)})})
    assert "in no channel conspicuously many." in short(calm)["Are they realistic"]


def test_shares_at_the_clip_bound_are_told_of_sets_that_record_them():
    bounds = {"guided": {"synthetic": [0.0, 0.2], "train": [0.0, 0.001]},
              "calm": {"synthetic": [0.0004, 0.0], "train": [0.0, 0.001]}}
    frame = extremes(**{REAL: (0.002, 0.003), NOISE: (0.9, 0.9), **dict.fromkeys(("guided", "calm", "copy"), (0, 0))})
    html = page({"fidelity": frame}, ("guided", "calm", "copy"), bounds=bounds).replace("\xa0", " ")
    line = short(html)["Are they realistic"]
    assert "conspicuously many of guided (Temp 20.0 %, of real ones 0.1 %)." in line and "calm" not in line
    assert rows_of(html.split("Values at the clip bound</h3>")[1]) == [
        [REAL, "&lt;0.1 %", "0 %", "0.1 %"], ["guided", "10.0 %", "0 %", "20.0 %"],
        ["calm", "&lt;0.1 %", "&lt;0.1 %", "0 %"]]
    calm = page({"fidelity": frame}, ("calm",), bounds=bounds)
    assert short(calm)["Are they realistic"].count("in no channel conspicuously many.") == 2
    assert "clip bound" not in page({"fidelity": frame}, ("copy",))


def test_the_first_metric_is_told_of_all_sets_from_the_nearest_to_the_farthest():
    values = {REAL: 0.01, NOISE: 0.9, "far": 0.5, "near": 0.02, "odd": float("nan")}
    frame = long_frame([(name, "correlational", "", key, 0, 0, value) for name, value in values.items()
                        for key in ("score", "per_pair")])
    html = page({"fidelity": frame}, ("far", "near", "odd"))
    line = short(html)["Are they realistic"]
    assert ("real training rows 0.010, matched noise 0.900; from the nearest set to the farthest near 0.020, "
            "far 0.500, odd -.") in line
    assert "Difference of the correlations" in line
    assert "Difference of the correlations" in fold(html, "Fidelity and plausibility, set by set")


def test_what_probabilities_give_away_is_told_of_sets_that_have_them():
    found = {"student": [0.57], "student_low": [0.53], "student_high": [0.61], "flagged": [1.0]}
    html = page({"privacy": privacy(attack(), attack(), labels=found)})
    text = words(html)
    assert rows_of(html, "Attack by the probabilities") == [
        ["guided", "0.570 [0.530, 0.610]", "0.300", "1 of 1"]]
    assert "guided: flagged, by that on the teacher" in short(html)["Is privacy kept"]
    assert "Membership attack by the teacher's probabilities" in text.replace("&#39;", "'")
    without = words(page({"privacy": privacy(attack(), attack())}))
    assert "Attack by the probabilities" not in without and "Probabilities of a teacher" not in without


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
    assert "AUPRC" in heads and "F1 and the share predicted: of yes; AUPRC of yes" in words(table)
    three = page({"utility": frame}, utility=description, real=REAL_DATA | {"classes": ["no", "yes", "maybe"]})
    assert "AUPRC (mean over classes)" in three


def test_costs_and_rows_stand_where_they_are_known():
    assert "Cost, where" not in page()
    known = COSTS | {"budget": "reduced", "parameters": 1_100_000.0, "training_seconds": 61.5}
    html = page(cost={"copy": COSTS, "guided": known})
    assert rows_of(html, "Cost, where") == [["guided", "1,100,000", "-", "61.5", "-", "reduced"]]
    assert rows_of(html, "Synthetic sets") == [["guided", "1,794", "2", "a, b"]]
    uneven = {"guided": {"folders": ["a", "b"], "rows": [1794, 900], "generation": [None, None],
                         "at_bounds": None}}
    assert rows_of(page(synthetic=uneven), "Synthetic sets") == [["guided", "1,794; 900", "2", "a, b"]]


def test_each_dataset_says_how_it_was_made():
    later = RECORD | {"seed": 1, "settings": RECORD["settings"] | {"seed": 1}, "inputs": {}}
    entry = {"folders": ["a", "b", "c"], "rows": [1, 1, 1], "generation": [RECORD, later, None], "at_bounds": None}
    html = page(synthetic={"guided": entry})
    assert ("<p>a, seed 0:</p><pre>tardiff generate\ninputs: denoiser fd26\n"
            "settings: seed=0 labels=train num_samples=null guidance.scale=2.0</pre>") in html
    assert "inputs: none\nsettings that differ from the first dataset: seed=1</pre>" in html
    assert "c: it has no record" in html and "tardiff report out/settings.yaml" in html


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
    assert "&lt;guided&gt; raised" in html and "<guided>" not in html
    assert html.startswith("<!doctype html>") and "mean ± t x standard error" in html


def test_few_subjects_of_the_rarest_class_are_told_of():
    frame, description = utility(arm("guided", "TSRTR 1", 0.0), few=7)
    assert "Only 7 subjects of the rarest" in page({"utility": frame}, utility=description)
    frame, description = utility(arm("guided", "TSRTR 1", 0.0))
    assert "of the rarest class" not in page({"utility": frame}, utility=description)
