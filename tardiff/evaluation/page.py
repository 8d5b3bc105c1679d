"""The report: one HTML file that opens offline. Plain values are prepared here; words and layout stand in
page.html."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from tardiff.config import CONTROLS
from tardiff.evaluation.fidelity import FIDELITY, Metric, is_conspicuous
from tardiff.evaluation.frame import MIXED, NOISE, REAL, SOFT, Summary, best_control, by_set, shown_set, utility_rows
from tardiff.evaluation.pictures import Picture
from tardiff.evaluation.privacy import PRIVACY
from tardiff.evaluation.summary import (
    ADJUSTED,
    FEWEST_SEEDS,
    GAIN,
    LOSS,
    NEITHER,
    at_chance,
    counted,
    interval,
    number,
    spread,
    verdict,
)
from tardiff.utils.checkpoint import write_text

ATTACKS = {"train_attack": "training", "guidance_attack": "guidance"}
"""The membership attacks and whom they are after."""
ATTACK_TITLES = {"train_attack": "by the attack on training rows", "guidance_attack": "by that on guidance rows",
                 "label_attack": "by that on the teacher's probabilities"}

STANDINGS = ("Help", "Help, and are needed", "Help, but are not shown to be needed", "Not shown to help", "Harm", "")
"""What the verdicts on sets make of them, in the order of the page; the last: not judged."""

TITLES = {"compared": "What was compared", "utility": "Utility: does it help?",
          "fidelity": "Fidelity and plausibility: are they like real series?",
          "privacy": "Privacy: what do they give away?", "influence": "Influence: what would a step on each do?",
          "provenance": "Provenance"}
"""The headings by the anchor of their part."""

OUTSIDE, AT_ENDS = "Outside the range of 99.8 % of the real values", "At an end of the training range or beyond"
"""The shares of values that tell of implausible series."""

OUTER_PERCENTILES = ("p01", "p10", "p25", "p75", "p90", "p99")


def write_report(folder: str | Path, description: dict[str, Any], frames: dict[str, pd.DataFrame],
                 influence: dict[str, list[dict[str, Any]]], pictures: list[Picture]) -> Path:
    """Write `report.html` to `folder`, with the pictures inside, and return its path.

    description: the content of `results.json`. frames: the results of each part that was evaluated, as long frames.
    influence: the tables of that part by title.
    """
    folder = Path(folder)
    figures: dict[str, list[dict[str, str]]] = {}
    for picture in pictures:
        data = base64.b64encode((folder / picture.file).read_bytes()).decode()
        figures.setdefault(picture.part, []).append({"text": picture.text, "data": data})
    write_text(folder / "report.html", render(description, frames, influence, figures, folder / "settings.yaml"))
    return folder / "report.html"


def render(description: dict[str, Any], frames: dict[str, pd.DataFrame], influence: dict[str, list[dict[str, Any]]],
           figures: dict[str, list[dict[str, str]]], settings_file: str | Path) -> str:
    """Return the page; figures: by part, each with `text` and base64 `data` of a PNG. See `write_report`."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("tardiff.evaluation", "."), autoescape=True,
                                     trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"spread": spread, "interval": interval, "number": number, "verdict": verdict,
                            "breakable": breakable, "cell": cell, "flags": flags, "measured": measured,
                            "assignments": assignments, "counted": counted, "percent": percent, "zip": zip}
    fidelity, privacy = (by_set(frames[part]) if part in frames else {} for part in ("fidelity", "privacy"))
    metrics, privacy_metrics = ([metric for metric in table if metric.name in next(iter(results.values()), {})]
                                for table, results in ((FIDELITY, fidelity), (PRIVACY, privacy)))
    costs = {name: cost for name, cost in description["cost"].items()
             if any(value is not None for value in cost.values())}
    several_datasets = any(len(of_set[attack]["flagged"]["values"]) > 1
                           for of_set in privacy.values() for attack in ATTACKS)
    classes = description["real"]["classes"]
    positive = classes[description["utility"]["reliability_class"]] if "utility" in frames else None
    single = [name for name, entry in description["synthetic"].items()
              if "utility" in frames and min(description["utility"]["seeds"], len(entry["rows"])) < 2]
    always = {"compared", "fidelity", "provenance"}  # Pictures of the series stand under fidelity.
    return environment.get_template("page.html").render(
        **description | {"cost": costs},
        titles={part: title for part, title in TITLES.items() if part in always or part in frames},
        positive=positive, auprc=f"AUPRC of {positive}" if len(classes) == 2 else "AUPRC (mean over classes)",
        headline=headline(metrics[0], fidelity) if metrics else None, single=single,
        plausibility=plausibility(description, fidelity), AT_ENDS=AT_ENDS,
        leaks=leaks(privacy, description["synthetic"]),
        influence_of_sets=[line for lines in influence.values() for line in lines if "guide_auroc" in line],
        settings_file=settings_file, figures=figures, parts=[*frames],
        fidelity=fidelity, privacy=privacy, influence=influence,
        soft=SOFT, outcomes=utility_outcomes(frames["utility"], description["utility"]) if "utility" in frames else [],
        fidelity_metrics=metrics, privacy_metrics=privacy_metrics,
        attacks=ATTACKS, adjusted=ADJUSTED, several_datasets=several_datasets, outer_percentiles=OUTER_PERCENTILES)


def utility_outcomes(frame: pd.DataFrame, utility: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the report says of utility for each judge, all of it of one arm a set, so that many are not many
    chances: that of MIXED, where it was tried, else the one at the largest ratio.

    `judge`; `blocks`, its rows by heading: TRTR (without), controls, sets; `trtr`, that of real data alone;
    `best_control` by AUPRC, and its row `control`, or None; `ratio`, None where MIXED is judged; `standings`: the sets
    by what the verdicts make of them, each with its `name` and its rows `alone` and `added`, or None; `kind`: why there
    is no verdict (`chance`: the classifier does no better on real data; `no_tsrtr`; `few_seeds`), or `judged`, with the
    names of the sets that `gained` and `lost` against TRTR, and of those that gained against the best control as well,
    and so are `needed`; `room`, the lowest and the highest end of the intervals of those without gain or loss; and the
    sets by the verdict on them `alone`.
    """
    rows = utility_rows(frame)
    return [_outcome(judge, [row for row in rows if row["judge"] == judge], utility)
            for judge in dict.fromkeys(row["judge"] for row in rows)]


def _outcome(judge: str, rows: list[dict[str, Any]], utility: dict[str, Any]) -> dict[str, Any]:
    trtr = next(row for row in rows if row["protocol"] == "TRTR")
    is_mixed = any(row["protocol"] == MIXED for row in rows)
    ratio = None if is_mixed else max((row["ratio"] for row in rows if row["protocol"] == "TSRTR"), default=None)
    alone = {shown_set(row): row for row in rows if row["protocol"] == "TSTR"}
    added = {shown_set(row): row for row in rows
             if row["protocol"] == (MIXED if is_mixed else "TSRTR") and row["ratio"] == ratio}
    names = list(dict.fromkeys(shown_set(row) for row in rows if row["synthetic"]))
    verdicts, rivals = ({name: verdict(row[f"auprc_minus_{key}"]) for name, row in added.items()
                         if f"auprc_minus_{key}" in row} for key in ("trtr", "control"))
    gained = [name for name, found in verdicts.items() if found == GAIN]
    controls = [row for row in rows if row["protocol"] in CONTROLS]
    blocks = {"": [trtr], "Controls: real rows alone, used otherwise": controls,
              "With synthetic series": [row for row in rows if row["synthetic"] is not None]}
    kind = ("chance" if at_chance(trtr) else "no_tsrtr" if not added
            else "few_seeds" if utility["seeds"] < FEWEST_SEEDS else "judged")
    best = best_control("auprc", {row["protocol"]: row["auprc"]["mean"] for row in controls})
    unshown = [added[name]["auprc_minus_trtr"] for name, found in verdicts.items() if found == NEITHER]
    standings: dict[str, list[dict[str, Any]]] = {standing: [] for standing in STANDINGS}
    alone_by: dict[str, list[str]] = {}
    for name in names:
        standing = _standing(verdicts[name], rivals.get(name)) if kind == "judged" and name in verdicts else ""
        standings[standing].append({"name": name, "alone": alone.get(name), "added": added.get(name)})
        if kind == "judged" and "auprc_minus_trtr" in alone.get(name, {}):
            alone_by.setdefault(verdict(alone[name]["auprc_minus_trtr"]), []).append(name)
    return {"judge": judge, "blocks": blocks, "trtr": trtr, "ratio": ratio, "kind": kind, "judged": len(verdicts),
            "best_control": best, "control": next((row for row in controls if row["protocol"] == best), None),
            "gained": gained, "needed": [name for name in gained if rivals.get(name) == GAIN],
            "lost": [name for name, found in verdicts.items() if found == LOSS],
            "room": (min(one["low"] for one in unshown), max(one["high"] for one in unshown)) if unshown else None,
            "alone": alone_by,
            "standings": {standing: sets for standing, sets in standings.items() if sets}}


def _standing(against_trtr: str, against_control: str | None) -> str:
    """Return which of STANDINGS the two verdicts on a set make; None: there is no control."""
    if against_trtr != GAIN:
        return "Harm" if against_trtr == LOSS else "Not shown to help"
    return {None: "Help", GAIN: "Help, and are needed"}.get(against_control, "Help, but are not shown to be needed")


def headline(metric: Metric, fidelity: dict[str, dict[str, dict[str, Summary]]]) -> dict[str, Any] | None:
    """Return the first column of a metric for the summary: what it is of real rows and of noise with their moments, and
    the sets from the nearest to the farthest; None of the shares of implausible values, which have words of their own.
    """
    column = metric.columns[0]
    values = {name: of_set[metric.name][column.key]["mean"] for name, of_set in fidelity.items()}
    sets = sorted(((name, value) for name, value in values.items() if name not in (REAL, NOISE)),
                  key=lambda pair: (math.isnan(pair[1]), abs(pair[1] - (column.perfect or 0))))
    return None if metric.name == "extremes" else {
        "metric": metric, "meaning": metric.meaning.split(". ")[0], "perfect": column.perfect, "of_real": values[REAL],
        "of_noise": values.get(NOISE), "sets": sets}


def plausibility(description: dict[str, Any], fidelity: dict[str, dict[str, dict[str, Summary]]]
                 ) -> dict[str, dict[str, Any]]:
    """Return what is known of implausible values, OUTSIDE and AT_ENDS: `shares` per channel, by set, real training rows
    first; `range`, the smallest and the largest share of a set, and `of_real`, that of real training rows, as text;
    `conspicuous`: by set, channel, share and that of real rows; and the sets of which it is `unknown`."""
    channels, synthetic = description["real"]["channels"], description["synthetic"]
    outside = {name: [of_set["extremes"][f"outside_{channel}"]["mean"] for channel in range(len(channels))]
               for name, of_set in fidelity.items() if "extremes" in of_set and name != NOISE}
    recorded = {name: entry["at_bounds"] for name, entry in synthetic.items() if entry["at_bounds"] is not None}
    at_ends = {name: found["synthetic"] for name, found in recorded.items()}
    if recorded:
        at_ends = {REAL: next(iter(recorded.values()))["train"], **at_ends}
    return {title: _shares(shares, channels, [*synthetic])
            for title, shares in ((OUTSIDE, outside), (AT_ENDS, at_ends))}


def _shares(shares: dict[str, list[float]], channels: list[str], names: list[str]) -> dict[str, Any]:
    known = [name for name in names if name in shares]
    conspicuous = {name: [found for found in zip(channels, shares[name], shares[REAL], strict=True)
                          if is_conspicuous(*found[1:])] for name in known}
    means = [sum(shares[name]) / len(channels) for name in known]
    return {"shares": shares, "range": list(dict.fromkeys(map(percent, (min(means), max(means))))) if means else [],
            "of_real": percent(sum(shares[REAL]) / len(channels)) if means else None,
            "conspicuous": {name: found for name, found in conspicuous.items() if found},
            "unknown": [name for name in names if name not in shares]}


def leaks(privacy: dict[str, dict[str, dict[str, Summary]]], names: Iterable[str]) -> dict[str, Any]:
    """Return what attacks found: `flagged`, sets by the attacks that flag them, the `unflagged` others, and `copies`:
    by set, of which rows which share stands in it."""
    flagged: dict[str, list[str]] = {}
    unflagged, copies = [], {}
    for name in names if privacy else ():
        found = [title for attack, title in ATTACK_TITLES.items()
                 if attack in privacy[name] and any(privacy[name][attack]["flagged"]["values"])]
        (flagged.setdefault(" and ".join(found), []) if found else unflagged).append(name)
        shares = {members: privacy[name][attack]["exact_copies"]["mean"] for attack, members in ATTACKS.items()}
        if any(shares.values()):
            copies[name] = {members: share for members, share in shares.items() if share}
    return {"flagged": flagged, "unflagged": unflagged, "copies": copies}


def percent(share: float) -> str:
    """Return a share in [0, 1] in per cent, with one decimal."""
    return "0\u00a0%" if share == 0 else "<0.1\u00a0%" if share < 0.001 else f"{100 * share:.1f}\u00a0%"


def measured(key: str, result: dict[str, Summary]) -> str:
    """Return a number of a result of PRIVACY, with its interval where it has one; of flags, in how many datasets."""
    if key.startswith("flagged"):
        return flags(result[key])
    if f"{key}_low" in result:
        low, high = (number(result[f"{key}_{end}"]["mean"]) for end in ("low", "high"))
        return f"{number(result[key]['mean'])} [{low}, {high}]"
    return spread(result[key])


def flags(summary: Summary) -> str:
    """Return in how many datasets a flag is set."""
    return f"{int(sum(summary['values']))} of {len(summary['values'])}"


def assignments(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """Return nested settings as `key=value` texts, as they are given on a command line."""
    texts = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            texts += assignments(value, f"{prefix}{key}.")
        else:
            texts.append(f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return texts


def cell(value: Any) -> str:
    """Return a value of a table as text; a dash where it is not defined."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def breakable(text: object) -> Markup:
    """Return text for HTML that may wrap within a path or a long name, with what stands in brackets marked, which does
    not."""
    return Markup(re.sub(r"(\[.*?\]|\(.*?\))", r"<span>\1</span>", re.sub(r"([/_])", r"\1<wbr>", str(escape(text)))))
