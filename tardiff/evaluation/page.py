"""The report: one HTML file that opens offline. Plain values are prepared here; words and layout stand in
report.html."""

from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from tardiff.config import CONTROLS
from tardiff.evaluation.fidelity import FIDELITY
from tardiff.evaluation.frame import MIXED, NOISE, REAL, SOFT, Summary, best_control, by_set, shown_set, utility_rows
from tardiff.evaluation.pictures import Picture
from tardiff.evaluation.privacy import PRIVACY
from tardiff.evaluation.summary import (
    ADJUSTED,
    FEWEST_SEEDS,
    GAIN,
    LOSS,
    at_chance,
    interval,
    number,
    spread,
    verdict,
)
from tardiff.utils.checkpoint import write_text

ATTACKS = {"train_attack": "training", "guidance_attack": "guidance"}
"""The membership attacks and whom they are after."""

TITLES = {"compared": "What was compared", "utility": "Utility: does it help?",
          "fidelity": "Fidelity and plausibility: are they like real series?",
          "privacy": "Privacy: what do they give away?", "influence": "Influence: what would a step on each do?",
          "provenance": "Provenance"}
"""The headings by the anchor of their part."""

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
                            "assignments": assignments, "implausible": implausible, "zip": zip}
    fidelity, privacy = (by_set(frames[part]) if part in frames else {} for part in ("fidelity", "privacy"))
    measured_fidelity = next(iter(fidelity.values()), {})
    costs = {name: cost for name, cost in description["cost"].items()
             if any(value is not None for value in cost.values())}
    several_datasets = any(len(of_set[attack]["flagged"]["values"]) > 1
                           for of_set in privacy.values() for attack in ATTACKS)
    classes = description["real"]["classes"]
    positive = classes[description["utility"]["reliability_class"]] if "utility" in frames else None
    always = {"compared", "fidelity", "provenance"}  # Pictures of the series stand under fidelity.
    return environment.get_template("page.html").render(
        **description | {"cost": costs},
        titles={part: title for part, title in TITLES.items() if part in always or part in frames},
        positive=positive, auprc=f"AUPRC of {positive}" if len(classes) == 2 else "AUPRC (mean over classes)",
        anchors=[REAL, NOISE],
        influence_of_sets=[line for lines in influence.values() for line in lines if "guide_auroc" in line],
        settings_file=settings_file, figures=figures, parts=[*frames],
        fidelity=fidelity, privacy=privacy, influence=influence,
        soft=SOFT, outcomes=utility_outcomes(frames["utility"], description["utility"]) if "utility" in frames else [],
        fidelity_metrics=[metric for metric in FIDELITY if metric.name in measured_fidelity],
        privacy_metrics=[metric for metric in PRIVACY if metric.name in next(iter(privacy.values()), {})],
        attacks=ATTACKS, adjusted=ADJUSTED, several_datasets=several_datasets, outer_percentiles=OUTER_PERCENTILES)


def utility_outcomes(frame: pd.DataFrame, utility: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the report says of utility for each judge, all of it of one arm a set, so that many are not many
    chances: that of MIXED, where it was tried, else the one at the largest ratio.

    `judge`; `blocks`, its rows by heading: TRTR (without), controls, sets; `trtr`, that of real data alone;
    `best_control` by AUPRC, or None; `ratio`, None where MIXED is judged; `sets`: for each its row `alone` and `added`,
    or None, and what the verdicts make of it, its `standing`; `kind`: why there is no verdict (`chance`: the classifier
    does no better on real data; `no_tsrtr`; `few_seeds`), or `judged`, with the names of the sets that `gained` and
    `lost` against TRTR, and of those that gained against the best control as well, and so are `needed`.
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
    return {"judge": judge, "blocks": blocks, "trtr": trtr, "ratio": ratio, "kind": kind, "judged": len(verdicts),
            "best_control": best_control("auprc", {row["protocol"]: row["auprc"]["mean"] for row in controls}),
            "gained": gained, "needed": [name for name in gained if rivals.get(name) == GAIN],
            "lost": [name for name, found in verdicts.items() if found == LOSS],
            "sets": [{"name": name, "alone": alone.get(name), "added": added.get(name),
                      "standing": _standing(verdicts[name], rivals.get(name)) if kind == "judged" and name in verdicts
                      else ""} for name in names]}


def _standing(against_trtr: str, against_control: str | None) -> str:
    """Return what the two verdicts on a set make of it; None: there is no control."""
    if against_trtr != GAIN:
        return "harms" if against_trtr == LOSS else "is not shown to help"
    return {None: "helps", GAIN: "helps and is needed"}.get(against_control, "helps, but is not shown to be needed")


def implausible(result: dict[str, Summary], channels: list[str]) -> str:
    """Return what a result of the metric `extremes` says, and of its worst channel."""
    shares = {key: summary["mean"] for key, summary in result.items()}
    worst = max(range(len(channels)), key=lambda channel: shares[f"outside_{channel}"])
    return (f"{shares['outside']:.2%} of its values lie outside the range of 99.8 % of the real ones (most in "
            f"{channels[worst]}, {shares[f'outside_{worst}']:.2%}), {shares['at_bound']:.2%} stand at its own largest "
            "or smallest value")


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
    """Return text for HTML that may wrap within a path or a long name, with intervals, which only wrap in print,
    marked."""
    return Markup(re.sub(r"(\[.*?\])", r"<span>\1</span>", re.sub(r"([/_])", r"\1<wbr>", str(escape(text)))))
