"""The report: one HTML file that opens offline, first in plain words, then in tables and pictures."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tardiff.evaluation.fidelity import FIDELITY
from tardiff.evaluation.privacy import PRIVACY
from tardiff.utils.checkpoint import write_text

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 76rem; margin: 2rem auto;
       padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; } h3 { font-size: 1.05rem; }
p, li, caption { max-width: 54rem; } .quiet { color: #57606a; }
.answer { border-left: .35rem solid #0072B2; background: #f3f7fa; padding: .6rem 1.2rem; margin: 1rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; margin: .8rem 0; }
caption { text-align: left; color: #57606a; padding-bottom: .3rem; }
th, td { padding: .25rem .55rem; text-align: right; border-bottom: 1px solid #d8dee4; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #57606a; vertical-align: bottom; white-space: normal; max-width: 8rem; }
tr.anchor td, tr.anchor th { background: #f6f6f6; font-style: italic; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; } figcaption { color: #57606a; font-size: .9rem; }
code, pre { font-size: .85rem; } pre { background: #f6f8fa; padding: .8rem; overflow-x: auto; white-space: pre-wrap; }
@media print { body { max-width: none; margin: 0; font-size: 11pt; } figure, table { break-inside: avoid; }
               h2, h3 { break-after: avoid; } .scroll { overflow: visible; } th, td { padding: .15rem .4rem; white-space: normal; } }
"""


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
    body = [f"<h1>{escape(title)}</h1>", answer(results), compared(results)]
    for part, heading, tables in (("utility", "Utility: does it help?", utility_tables), ("fidelity", "Fidelity", fidelity_tables),
                                  ("privacy", "Privacy", privacy_tables), ("influence", "Influence", influence_tables)):
        if part in results:
            body += [f'<h2 id="{part}">{heading}</h2>', tables(results[part]), *figures.get(part, [])]
    body += ['<h2 id="pictures">Pictures</h2>', *figures.get("pictures", []), reproduction(results)]
    page = (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n")
    write_text(folder / "report.html", page)
    return folder / "report.html"


def answer(results: dict[str, Any]) -> str:
    """Say in plain words whether the synthetic data helped, how sure that is, and what it costs in privacy."""
    sentences = [*utility_words(results["utility"])] if "utility" in results else []
    if "privacy" in results:
        sentences.append(privacy_words(results["privacy"], results["synthetic"]))
    if not sentences:
        sentences = ["Utility and privacy were not evaluated, so this report does not say whether the data help."]
    return '<div class="answer">' + "".join(f"<p>{sentence}</p>" for sentence in sentences) + "</div>"


def utility_words(utility: dict[str, Any]) -> list[str]:
    """Return the sentences on utility, from the rows of TRTR, TSTR and TSRTR."""
    rows = utility["rows"]
    added = [row for row in rows if row["protocol"] == "TSRTR"]
    gains = [row for row in added if row["auprc_minus_trtr"]["low"] > 0]
    losses = [row for row in added if row["auprc_minus_trtr"]["high"] < 0]
    verdict = {
        (True, False): "<strong>Adding synthetic series helped in some settings.</strong>",
        (False, True): "<strong>Adding synthetic series did not help, and in some settings it harmed.</strong>",
        (True, True): "<strong>Adding synthetic series helped in some settings and harmed in others.</strong>",
        (False, False): "<strong>No gain was shown from adding synthetic series.</strong>"}[bool(gains), bool(losses)]
    chance = f"{0.025 * len(added):.1f}"
    sentences = [
        (f"{verdict} Of {len(added)} comparisons with real data alone (sets x ratios), AUPRC rose in {len(gains)} and fell in "
        f"{len(losses)} by more than the 95 % interval allows; by chance alone about {chance} of each are to be expected. "
        f"Scored on {utility['scored_rows']:,} real test series of {utility['scored_subjects']:,} subjects, "
        f"{utility['seeds']} seeds each.")] if added else []
    trtr = next(row for row in rows if row["protocol"] == "TRTR")
    sentences.append(f"Trained on real data alone, the classifier reaches AUROC {spread(trtr['auroc'])} and AUPRC "
                     f"{spread(trtr['auprc'])}.")
    if trtr["auroc"]["low"] <= 0.5:
        sentences.insert(0, "<strong>The classifier does not beat chance when trained on real data, so this evaluation "
                            "cannot tell whether synthetic data help.</strong> Train it for longer, or choose another one.")
    for row in (row for row in rows if row["protocol"] == "TSTR"):
        mine = [other for other in added if other["synthetic"] == row["synthetic"]]
        text = (f"<strong>{escape(row['synthetic'])}</strong>: trained on it alone, AUROC {spread(row['auroc'])} "
                f"({row['auroc']['mean'] / trtr['auroc']['mean']:.0%} of real) and AUPRC {spread(row['auprc'])}")
        if mine:
            last = max(mine, key=lambda other: other["ratio"])
            difference = last["auprc_minus_trtr"]
            text += (f"; added to the real data at ratio {last['ratio']:g}, AUPRC changes by {interval(difference)}, "
                     f"{judgement(difference)}")
            if difference.get("seeds_for_0.01"):
                text += f" (to see a change of 0.01, about {difference['seeds_for_0.01']} seeds would be needed)"
        sentences.append(text + ".")
    return sentences


def privacy_words(privacy: dict[str, Any], synthetic: dict[str, Any]) -> str:
    """Return the sentence on privacy: the attack on each set, and whether it was flagged."""
    parts = []
    for name in synthetic:
        attack = privacy[name]["train_attack"]
        flags = attack["flagged"]["values"]
        parts.append(f"{escape(name)} {attack['auroc']['mean']:.3f} "
                     f"({'flagged' if any(flags) else 'not flagged'}{f' in {int(sum(flags))} of {len(flags)}' * (len(flags) > 1)})")
    return ("<strong>Privacy:</strong> an attacker who guesses from nearness to a synthetic series who was in the training data "
            f"reaches an AUROC (0.5 is chance, 1 a copy) of: {'; '.join(parts)}. Not flagged is no guarantee; it is what this "
            "attack found.")


def compared(results: dict[str, Any]) -> str:
    """Say what was compared: the real dataset and the synthetic sets."""
    real = results["real"]
    splits = table(["split", "series", "subjects", *real["classes"]],
                   [[name, f"{part['rows']:,}", f"{part['subjects']:,}", *(f"{count:,}" for count in part["classes"])]
                    for name, part in real["splits"].items()],
                   f"{real['folder']}: {real['length']} steps x {', '.join(real['channels'])}")
    sets = table(["set", "series", "datasets", "folders"],
                 [[name, f"{entry['rows']:,}", str(len(entry["folders"])), ", ".join(entry["folders"])]
                  for name, entry in results["synthetic"].items()], "Synthetic sets")
    costs = {name: cost for name, cost in results["cost"].items() if any(value is not None for value in cost.values())}
    heads = {"parameters": "parameters", "optimiser_steps": "training steps", "training_seconds": "training [s]",
             "seconds_per_series": "sampling [s per series]"}
    spent = table(["set", *heads.values()], [[name, *(_cell(cost[key]) for key in heads)] for name, cost in costs.items()],
                  "Cost, where the run folders tell: means over the datasets of a set") if costs else ""
    return f"<h2>What was compared</h2>{splits}{sets}{spent}"


def utility_tables(utility: dict[str, Any]) -> str:
    """Return the table of TRTR, TSTR and TSRTR."""
    heads = ["trained on", "AUROC", "AUPRC", "F1 at 0.5", "F1 selected", "Brier", "AUPRC minus TRTR"]
    reference = utility["reference"]
    heads += [f"AUPRC minus {reference}"] if reference else []
    rows = []
    for row in utility["rows"]:
        cells = [row["arm"], *(spread(row[key]) for key in ("auroc", "auprc", "f1", "f1_selected", "brier"))]
        cells += [interval(row[key]) if key in row else ""
                  for key in ("auprc_minus_trtr", *(["auprc_minus_reference"] if reference else []))]
        rows.append((cells, row["protocol"] == "TRTR"))
    return ("<p>TRTR trains on real series, TSTR on synthetic ones, TSRTR on all real series plus synthetic ones at the given "
            "ratio. One recipe, one selection half, the same seeds; scored on real test series. Mean (standard deviation "
            "over seeds); differences with 95 % bootstrap intervals over subjects and seeds, in pairs.</p>"
            + table(heads, [cells for cells, _ in rows], "", [anchor for _, anchor in rows]))


def fidelity_tables(fidelity: dict[str, Any]) -> str:
    """Return one table of all metrics, the anchors first, and what each means."""
    metrics = [metric for metric in FIDELITY if metric.name in next(iter(fidelity.values()))]
    columns = [(metric, column) for metric in metrics for column in metric.columns[:1]]
    anchors = list(fidelity)[:2]
    rows = [[name, *(spread(of_set[metric.name][column.key]) for metric, column in columns)]
            for name, of_set in fidelity.items()]
    meanings = "".join(f"<li><strong>{escape(metric.title)}</strong>: {escape(metric.meaning)}</li>" for metric in metrics)
    return ("<p>Against real test series, in units of the real training standard deviation. Read each value between its "
            "anchors: real training series (as good as it gets) and white noise with the same mean and deviation per "
            "channel (poor). Lower is better. Mean (standard deviation over repeats).</p>"
            + table(["set", *(column.title for _, column in columns)], rows, "", [row[0] in anchors for row in rows])
            + f"<ul>{meanings}</ul>")


def privacy_tables(privacy: dict[str, Any]) -> str:
    """Return one table per privacy metric, anchors first, and what each means."""
    parts = [("<p>Members are the series that a generator saw, non-members held-out series of other subjects. Two anchors: a "
             "copy of the training series gives everything away, fresh real series give nothing away.</p>")]
    for metric in PRIVACY:
        rows = [[name, *(spread(of_set[metric.name][column.key]) for column in metric.columns)]
                for name, of_set in privacy.items()]
        parts += [f"<h3>{escape(metric.title)}</h3><p>{escape(metric.meaning)}</p>",
                  table(["set", *(column.title for column in metric.columns)], rows, "", [number < 2 for number in range(len(rows))])]
    return "".join(parts)


def influence_tables(influence: dict[str, list[dict[str, Any]]]) -> str:
    """Return the tables of the influence analysis, by title, without the outer percentiles."""
    parts = []
    for title, rows in influence.items():
        names = [name for name in (rows[0] if rows else ()) if name not in ("p01", "p10", "p25", "p75", "p90", "p99")]
        parts.append(table([name.replace("p50", "median").replace("_", " ") for name in names],
                           [[_cell(row.get(name)) for name in names] for row in rows], title))
    return "".join(parts)


def reproduction(results: dict[str, Any]) -> str:
    """Return versions, hashes of the inputs, settings and the command."""
    record = results["provenance"]
    hashes = table(["data", "hash"], [[name, value] for name, value in results["hashes"].items()], "Content of the inputs")
    versions = ", ".join(f"{name} {record[name]}" for name in ("tardiff", "commit", "python", "torch", "numpy"))
    return (f'<h2 id="provenance">Provenance</h2><p>{escape(versions)}</p>{hashes}<p>To reproduce:</p>'
                        "<pre>python scripts/evaluate.py settings.yaml</pre><p>with these settings in the file:</p>"
            f"<pre>{escape(results['settings'])}</pre>")


def table(heads: list[str], rows: list[list[str]], caption: str, anchors: Iterable[bool] = ()) -> str:
    """Return an HTML table; rows that are anchors are set apart."""
    marks = list(anchors) or [False] * len(rows)
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(f'<tr{" class=anchor" * mark}><th scope="row">{escape(row[0])}</th>'
                   + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
                   for row, mark in zip(rows, marks, strict=True))
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def spread(summary: dict[str, Any]) -> str:
    """Return `mean (sd)`, or the mean alone where there is one value; a dash where it is not defined."""
    if summary["mean"] is None or math.isnan(summary["mean"]):
        return "-"
    return f"{summary['mean']:.3f}" + ("" if summary["sd"] is None else f" ({summary['sd']:.3f})")


def interval(difference: dict[str, Any]) -> str:
    """Return `+mean [low, high]`."""
    return f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def judgement(difference: dict[str, Any]) -> str:
    """Return what an interval says of a difference."""
    return "a gain" if difference["low"] > 0 else "a loss" if difference["high"] < 0 else "no difference that can be told from none"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def escape(text: str) -> str:
    """Return text for HTML."""
    return html.escape(str(text))
