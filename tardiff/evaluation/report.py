"""The report: one HTML file that opens offline, first in plain words, then in tables and pictures."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from tardiff.evaluation.fidelity import FIDELITY, Column
from tardiff.evaluation.privacy import PRIVACY
from tardiff.evaluation.tables import FEWEST_SEEDS, GAIN, LOSS, interval, judgement, number, spread
from tardiff.utils.checkpoint import write_text

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 76rem; margin: 2rem auto;
       padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; } h3 { font-size: 1.05rem; }
p, li, caption, .answer div { max-width: 58rem; } .answer div { margin: .6rem 0; }
.answer { border-left: .35rem solid #0072B2; background: #f3f7fa; padding: .6rem 1.2rem; margin: 1rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; margin: .8rem 0; }
caption { text-align: left; color: #57606a; padding-bottom: .3rem; }
th, td { padding: .25rem .55rem; text-align: right; border-bottom: 1px solid #d8dee4; }
td span { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #57606a; vertical-align: bottom; max-width: 8rem; }
tr.anchor td, tr.anchor th { background: #f6f6f6; font-style: italic; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; } figcaption { color: #57606a; font-size: .9rem; }
pre { font-size: .85rem; background: #f6f8fa; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media print { body { max-width: none; margin: 0; font-size: 11pt; } figure, tr { break-inside: avoid; }
               h2, h3, caption { break-after: avoid; } .scroll { overflow: visible; } table { font-size: 8pt; }
               th, td { padding: .15rem .35rem; } td span { white-space: normal; } }
"""

ATTACKS = {"train_attack": "training", "guidance_attack": "guidance"}
"""The membership attacks and whom they are after."""

NNAA_NOTE = ("Only as many training series are drawn as there are held-out ones. Where there are more training series, few "
             "of those drawn meet their copy, and AA train lies well above 0 even for a copy of the training rows.")


def write_report(folder: str | Path, results: dict[str, Any], pictures: list[tuple[str, str, str]]) -> Path:
    """Write `report.html` to `folder`, with the pictures inside, and return its path.

    results: the content of `results.json`. pictures: (part of the report, PNG file in `folder`, text that describes it).
    """
    folder = Path(folder)
    figures: dict[str, list[str]] = {}
    for part, name, text in pictures:
        data = base64.b64encode((folder / name).read_bytes()).decode()
        figures.setdefault(part, []).append(
            f'<figure><img alt="{escape(text)}" src="data:image/png;base64,{data}"><figcaption>{escape(text)}</figcaption>'
            "</figure>")
    title = f"Evaluation of synthetic data: {results['real']['name']}"
    per_channel = partial(fidelity_tables, channels=results["real"]["channels"])
    body = [f"<h1>{escape(title)}</h1>", answer(results), compared(results)]
    for part, heading, tables in (("utility", "Utility: does it help?", utility_tables),
                                  ("fidelity", "Fidelity", per_channel), ("privacy", "Privacy", privacy_tables),
                                  ("influence", "Influence", influence_tables)):
        if part in results:
            body += [f'<h2 id="{part}">{heading}</h2>', tables(results[part]), *figures.get(part, [])]
    body += ['<h2 id="pictures">Pictures</h2>', *figures.get("pictures", []), reproduction(results, folder)]
    page = (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n")
    write_text(folder / "report.html", page)
    return folder / "report.html"


def answer(results: dict[str, Any]) -> str:
    """Say in plain words whether the synthetic data helped, how sure that is, what it costs in privacy, and what this report
    does not tell."""
    sentences = [*utility_words(results["utility"])] if "utility" in results else []
    if "privacy" in results:
        sentences.append(privacy_words(results["privacy"], results["synthetic"]))
    sentences += missing_words(results)
    return '<div class="answer">' + "".join(f"<div>{sentence}</div>" for sentence in sentences) + "</div>"


def missing_words(results: dict[str, Any]) -> list[str]:
    """Return a sentence for each part that was not evaluated, and for a reference set that nothing was compared with."""
    reasons = {"utility": "so this report does not say whether the synthetic series help",
               "fidelity": "so this report does not say how near the synthetic series come to real ones",
               "privacy": "so this report does not say what the synthetic series give away"}
    sentences = [f"{part.capitalize()} was not evaluated, {reason}."
                 for part, reason in reasons.items() if part not in results]
    if "influence" not in results:
        sentences.append("Influence was not evaluated: it needs classifier=RUN.")
    if "utility" in results and results["utility"]["reference"] is None and len(results["synthetic"]) > 1:
        sentences.append("The sets were compared with real data alone, with no reference set: that needs reference=NAME.")
    return sentences


def utility_words(utility: dict[str, Any]) -> list[str]:
    """Return the sentences on utility, the verdict first."""
    rows = utility["rows"]
    trtr = next(row for row in rows if row["protocol"] == "TRTR")
    largest = max((row["ratio"] for row in rows if row["protocol"] == "TSRTR"), default=None)
    sentences = [judged_words(utility, trtr, largest)]
    sentences.append(f"Trained on real data alone, the classifier reaches AUROC {spread(trtr['auroc'])} and AUPRC "
                     f"{spread(trtr['auprc'])} (chance: {utility['chance_auprc']:.3f}) on {utility['scored_rows']:,} real "
                     f"test series of {utility['scored_subjects']:,} subjects; mean (standard deviation over "
                     f"{utility['seeds']} seeds).")
    for name in dict.fromkeys(row["synthetic"] for row in rows if row["synthetic"]):
        sentences.append(f"<strong>{escape(name)}</strong>: {set_words(name, rows, largest)}.")
    if utility["fewest_datasets"] < 2:
        sentences.append("Some set is a single dataset: what differs between runs of its generator is not in the intervals.")
    return sentences


def judged_words(utility: dict[str, Any], trtr: dict[str, Any], largest: float | None) -> str:
    """Return the verdict, or why there is none. What is judged is, for each set, the comparison with real data alone at the
    largest ratio, so that many ratios are not many chances."""
    if trtr["auroc"]["low"] <= 0.5:
        return ("<strong>The classifier does not beat chance when trained on real data, so this evaluation cannot tell "
                "whether synthetic data help.</strong> Train it for longer, or choose another one.")
    if largest is None:
        return "<strong>No verdict: training on real and synthetic series together was not tried.</strong>"
    if utility["seeds"] < FEWEST_SEEDS:
        return f"<strong>No verdict: {utility['seeds']} seed(s) are too few.</strong> Use at least 3."
    judged = {row["synthetic"]: judgement(row["auprc_minus_trtr"]) for row in utility["rows"]
              if row["protocol"] == "TSRTR" and row["ratio"] == largest}
    return (f"<strong>{verdict(judged)}</strong> Judged is AUPRC against real data alone at ratio {largest:g}, by whether "
            f"its 95 % interval excludes 0, once for each of {len(judged)} set(s); with several sets, some will by chance.")


def verdict(judged: dict[str, str]) -> str:
    """Return the answer in a sentence or two, from the judgement of each set."""
    gained, lost = (escape(", ".join(name for name, found in judged.items() if found == what)) for what in (GAIN, LOSS))
    return " ".join([f"It helped: adding series of {gained} raised AUPRC." if gained else "No gain was shown.",
                     *([f"Adding series of {lost} lowered AUPRC."] if lost else [])])


def set_words(name: str, rows: list[dict[str, Any]], ratio: float | None) -> str:
    """Say what a set does alone, and what it adds to the real data at a ratio."""
    alone = [f"trained on it alone, AUROC {spread(row['auroc'])} and AUPRC {spread(row['auprc'])}"
             for row in rows if row["protocol"] == "TSTR" and row["synthetic"] == name]
    if not alone:
        alone = ["it lacks a class, so that nothing can be trained on it alone"]
    added = [f"added at ratio {ratio:g}, AUPRC changes by {interval(row['auprc_minus_trtr'])}: "
             f"{judgement(row['auprc_minus_trtr'])}{power_words(row['auprc_minus_trtr'])}"
             for row in rows if row["protocol"] == "TSRTR" and row["synthetic"] == name and row["ratio"] == ratio]
    return "; ".join(alone + added)


def power_words(difference: dict[str, Any]) -> str:
    """Say, where no difference is shown, how many seeds would show one of 0.01, or that no number of them would."""
    seeds, smallest = difference["seeds_for_0.01"], difference["smallest_visible"]
    if judgement(difference) in (GAIN, LOSS):
        return ""
    if seeds is not None:
        return f" (to see a change of 0.01, some {seeds} seeds would be needed)"
    if smallest is not None and smallest >= 0.01:
        return (f" (however many the seeds, a true change below {smallest:.3f} would be missed in more than one of five studies "
                "with as many test patients)")
    return ""


def privacy_words(privacy: dict[str, Any], synthetic: dict[str, Any]) -> str:
    """Say for each set what the two membership attacks found, with intervals, and by what they were flagged."""
    parts = [f"<li>{escape(name)}: "
             + "; ".join(attack_words(privacy[name][attack], members) for attack, members in ATTACKS.items()) + "</li>"
             for name in synthetic]
    several = any(len(privacy[name][attack]["flagged"]["values"]) > 1 for name in synthetic for attack in ATTACKS)
    means = "; of several datasets, the mean of the values and of both ends of their intervals" if several else ""
    return ("<strong>Privacy:</strong> an attacker guesses from nearness to a synthetic series who was among the patients "
            "behind it. AUROC: how well members are told from others (0.5 is chance, 1 a copy). TPR: the share of members "
            f"found where 1 % of the others are taken for members (0.01 is chance). With 95 % intervals{means}."
            f"<ul>{''.join(parts)}</ul>Flagged: for the AUROC or for the TPR, the interval lies above chance, and above "
            "what the same attack finds with real series that cannot leak. Not flagged is no guarantee.")


def attack_words(result: dict[str, Any], members: str) -> str:
    """Say what one attack found on its members, and warn of those that stand in the set verbatim."""
    words = (f"{members} rows AUROC {privacy_cell('auroc', result)}, TPR {privacy_cell('tpr', result)}, flagged in "
             f"{flags(result['flagged'])} dataset(s)")
    if any(result["flagged"]["values"]):
        by_auroc, by_tpr = (int(sum(result[f"flagged_{name}"]["values"])) for name in ("auroc", "tpr"))
        words += f" (by AUROC in {by_auroc}, by TPR in {by_tpr})"
    copies = result["exact_copies"]["mean"]
    share = f"{100 * copies:.1f} %" if copies >= 0.001 else "under 0.1 %"
    warning = f", <strong>{share} of the {members} series stand in it verbatim: do not share it</strong>"
    return words + (warning if copies > 0 else "")


def compared(results: dict[str, Any]) -> str:
    """Say what was compared: the real dataset and the synthetic sets."""
    real = results["real"]
    splits = table(["split", "series", "subjects", *real["classes"]],
                   [[name, f"{part['rows']:,}", f"{part['subjects']:,}", *(f"{count:,}" for count in part["classes"])]
                    for name, part in real["splits"].items()],
                   f"{real['folder']}: {real['length']} steps x {', '.join(real['channels'])}")
    sets = table(["set", "series per dataset", "datasets", "folders"],
                 [[name, "; ".join(f"{rows:,}" for rows in shown(entry["rows"])), str(len(entry["folders"])),
                   ", ".join(entry["folders"])] for name, entry in results["synthetic"].items()], "Synthetic sets")
    return f"<h2>What was compared</h2>{splits}{sets}{cost_table(results['cost'])}"


def shown(rows: list[int]) -> list[int]:
    """Return one number in place of several equal ones."""
    return rows[:1] if len(set(rows)) == 1 else rows


def cost_table(costs: dict[str, dict[str, Any]]) -> str:
    """Return the table of what each set cost, or nothing where no run folder tells."""
    known = {name: cost for name, cost in costs.items() if any(value is not None for value in cost.values())}
    heads = {"budget": "budget", "parameters": "parameters", "optimiser_steps": "optimiser steps",
             "training_seconds": "training [s]", "seconds_per_series": "sampling [s per series]"}
    return table(["set", *heads.values()], [[name, *(_cell(cost[key]) for key in heads)] for name, cost in known.items()],
                 "Cost, where the run folders tell: medians over the datasets of a set; for sets of TarDiff, training is "
                 "that of their denoiser, which several sets may share") if known else ""


def utility_tables(utility: dict[str, Any]) -> str:
    """Return the table of TRTR, TSTR and TSRTR."""
    heads = ["trained on", "AUROC", "AUPRC", "F1, most probable class", "F1 at the selected threshold", "Brier",
             "predicted positive", "AUROC minus TRTR", "AUPRC minus TRTR"]
    reference = utility["reference"]
    heads += [f"AUPRC minus {reference}"] if reference else []
    rows = []
    for row in utility["rows"]:
        cells = [row["arm"], *(spread(row[key]) for key in ("auroc", "auprc", "f1", "f1_selected", "brier",
                                                            "positive_rate"))]
        cells += [interval(row[key]) if key in row else ""
                  for key in ("auroc_minus_trtr", "auprc_minus_trtr", *(["auprc_minus_reference"] if reference else []))]
        rows.append((cells, row["protocol"] == "TRTR"))
    return ("<p>TRTR trains on real series, TSTR on synthetic ones, TSRTR on all real series plus synthetic ones at the "
            "given ratio. One recipe, one selection half, the same seeds; scored on real test series. Mean (standard "
            "deviation over seeds). Differences are paired by subject and by seed, with 95 % intervals: mean ± t x standard "
            "error, the error being that of a bootstrap over test subjects together with the variation between seeds. TSRTR takes more "
            "optimiser steps per epoch than TRTR, whatever is added: copies of real rows (the rule oversample) tell how much of a "
            "difference that makes.</p>"
            + table(heads, [cells for cells, _ in rows], "", [anchor for _, anchor in rows]))


def fidelity_tables(fidelity: dict[str, Any], channels: list[str]) -> str:
    """Return a table of the headline of every metric, the anchors first, and for each metric one of all its columns and,
    where it has them, those of its values per channel."""
    metrics = [metric for metric in FIDELITY if metric.name in next(iter(fidelity.values()))]
    marks = [position < 2 for position in range(len(fidelity))]
    rows = [[name, *(spread(of_set[metric.name][metric.columns[0].key]) for metric in metrics)]
            for name, of_set in fidelity.items()]
    parts = [("<p>Against real test series, in units of the real training standard deviation. Read each value between its "
             "anchors: real training series (as good as it gets) and white noise with the same mean and deviation per "
             "channel (poor). Lower is better. Mean (standard deviation over repeats). Values of sets of different size "
             "compare only where the rows used are equal.</p>"),
             table(["set", *(metric.columns[0].title for metric in metrics)], rows, "", marks)]
    for metric in metrics:
        keys = [(column.key, column.title) for column in metric.columns] + [("rows", "rows used")]
        keys = [(key, title) for key, title in keys if key in next(iter(fidelity.values()))[metric.name]]
        rows = [[name, *(f"{of_set[metric.name][key]['mean']:,.0f}" if key == "rows" else spread(of_set[metric.name][key])
                         for key, _ in keys)] for name, of_set in fidelity.items()]
        parts += [f"<h3>{escape(metric.title)}</h3><p>{escape(metric.meaning)}</p>",
                  table(["set", *(title for _, title in keys)], rows, ideals(metric.columns), marks)]
        if metric.per_channel:
            parts += [channel_table(fidelity, metric.name, column, channels) for column in metric.columns]
    return "".join(parts)


def channel_table(fidelity: dict[str, Any], metric: str, column: Column, channels: list[str]) -> str:
    """Return a table of the values of one column of a metric per channel (rows) and set (columns)."""
    rows = [[channel, *(spread(of_set[metric][f"{column.key}_{position}"]) for of_set in fidelity.values())]
            for position, channel in enumerate(channels)]
    return table(["channel", *fidelity], rows, f"{column.title} per channel")


def privacy_tables(privacy: dict[str, Any]) -> str:
    """Return one table per privacy metric, anchors first, and what each means."""
    parts = [("<p>Members are the series that a generator saw, non-members held-out series of other subjects. Two anchors: "
             "a copy of the training series gives away everything of these, fresh real series give nothing away.</p>")]
    for metric in PRIVACY:
        rows = [[name, *(privacy_cell(column.key, of_set[metric.name]) for column in metric.columns)]
                for name, of_set in privacy.items()]
        note = f" {NNAA_NOTE}" if metric.name == "nnaa" else ""
        parts += [f"<h3>{escape(metric.title)}</h3><p>{escape(metric.meaning + note)}</p>",
                  table(["set", *(column.title for column in metric.columns)], rows, ideals(metric.columns),
                        [position < 2 for position in range(len(rows))])]
    return "".join(parts)


def ideals(columns: Iterable[Column]) -> str:
    """Return what a perfect generator would score, for the columns that have such a value."""
    known = [f"{column.title} {column.perfect:g}" for column in columns if column.perfect is not None]
    return f"Perfect: {', '.join(known)}" if known else ""


def privacy_cell(key: str, result: dict[str, Any]) -> str:
    """Return a number, with its interval where it has one; of flags, in how many datasets."""
    if key.startswith("flagged"):
        return flags(result[key])
    if f"{key}_low" in result:
        low, high = (number(result[f"{key}_{end}"]["mean"]) for end in ("low", "high"))
        return f"{number(result[key]['mean'])} [{low}, {high}]"
    return spread(result[key])


def influence_tables(influence: dict[str, list[dict[str, Any]]]) -> str:
    """Return the tables of the influence analysis, by title, without the outer percentiles."""
    parts = []
    for title, rows in influence.items():
        names = [name for name in (rows[0] if rows else ()) if name not in ("p01", "p10", "p25", "p75", "p90", "p99")]
        parts.append(table([name.replace("p50", "median").replace("_", " ") for name in names],
                           [[_cell(row.get(name)) for name in names] for row in rows], title))
    return "".join(parts)


def reproduction(results: dict[str, Any], folder: Path) -> str:
    """Return versions, hashes of the inputs, how the sets were made, settings and the command."""
    record = results["provenance"]
    hashes = table(["data", "hash"], [[name, value] for name, value in results["hashes"].items()], "Content of the inputs")
    versions = ", ".join(f"{name} {record[name]}" for name in ("tardiff", "commit", "python", "torch", "numpy"))
    made = "".join(f"<h3>How {escape(name)} was made</h3>{generation(entry)}"
                   for name, entry in results["synthetic"].items())
    return (f'<h2 id="provenance">Provenance</h2><p>{escape(versions)}</p>{hashes}<p>To reproduce this report:</p>'
            f"<pre>python scripts/evaluate.py {escape(folder / 'settings.yaml')}</pre><p>The settings in that file:</p>"
            f"<pre>{escape(results['settings'])}</pre>{made}")


def generation(entry: dict[str, Any]) -> str:
    """Return how each dataset of a set was made: seed, command, inputs, and settings where they differ from the first's."""
    parts, first = [], None
    for folder, record in zip(entry["folders"], entry["generation"], strict=True):
        if record is None:
            parts.append(f"<p>{escape(folder)}: it has no record of how it was made.</p>")
            continue
        settings = assignments(record["settings"])
        new = [text for text in settings if first is None or text not in first]
        inputs = ", ".join(f"{name} {value}" for name, value in record["inputs"].items())
        text = (f"{record['command']}\ninputs: {inputs or 'none'}\n"
                f"settings{'' if first is None else ' that differ from the first dataset'}: {' '.join(new) or 'none'}")
        parts.append(f"<p>{escape(folder)}, seed {escape(record['seed'])}:</p><pre>{escape(text)}</pre>")
        first = first or settings
    return "".join(parts)


def assignments(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """Return nested settings as `key=value` texts, as they are given on a command line."""
    texts = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            texts += assignments(value, f"{prefix}{key}.")
        else:
            texts.append(f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return texts


def table(heads: list[str], rows: list[list[str]], caption: str, anchors: Iterable[bool] = ()) -> str:
    """Return an HTML table; rows that are anchors are set apart."""
    marks = list(anchors) or [False] * len(rows)
    head = "".join(f'<th scope="col">{breakable(text)}</th>' for text in heads)
    body = "".join(f'<tr{" class=anchor" * mark}><th scope="row">{breakable(row[0])}</th>'
                   + "".join(f"<td>{breakable(cell)}</td>" for cell in row[1:]) + "</tr>"
                   for row, mark in zip(rows, marks, strict=True))
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def flags(summary: dict[str, Any]) -> str:
    """Return in how many datasets a flag is set."""
    return f"{int(sum(summary['values']))} of {len(summary['values'])}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def escape(text: object) -> str:
    """Return text for HTML."""
    return html.escape(str(text))


def breakable(text: object) -> str:
    """Return text for HTML that may wrap within a path or a long name, with intervals, which only wrap in print, marked."""
    return re.sub(r"(\[.*?\])", r"<span>\1</span>", re.sub(r"([/_])", r"\1<wbr>", escape(text)))
