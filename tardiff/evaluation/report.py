"""The report: one HTML file that opens offline, first in plain words, then in tables and pictures."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tardiff.evaluation.fidelity import FIDELITY, Column
from tardiff.evaluation.privacy import PRIVACY
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
th, td { padding: .25rem .55rem; text-align: right; border-bottom: 1px solid #d8dee4; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #57606a; vertical-align: bottom; white-space: normal; max-width: 8rem; }
tr.anchor td, tr.anchor th { background: #f6f6f6; font-style: italic; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; } figcaption { color: #57606a; font-size: .9rem; }
pre { font-size: .85rem; background: #f6f8fa; padding: .8rem; overflow-x: auto; white-space: pre-wrap; }
@media print { body { max-width: none; margin: 0; font-size: 11pt; } figure, table { break-inside: avoid; }
               h2, h3 { break-after: avoid; } .scroll { overflow: visible; } th, td { padding: .15rem .4rem; white-space: normal; } }
"""


GAIN, LOSS = "a gain", "a loss"


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
    body += ['<h2 id="pictures">Pictures</h2>', *figures.get("pictures", []), reproduction(results, folder)]
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
    if "utility" not in results:
        sentences.insert(0, "Utility was not evaluated, so this report does not say whether the synthetic series help.")
    return '<div class="answer">' + "".join(f"<div>{sentence}</div>" for sentence in sentences) + "</div>"


def utility_words(utility: dict[str, Any]) -> list[str]:
    """Return the sentences on utility. What is judged is, for each set, the comparison with real data alone at the largest
    ratio, so that many ratios are not many chances."""
    rows = utility["rows"]
    trtr = next(row for row in rows if row["protocol"] == "TRTR")
    added = [row for row in rows if row["protocol"] == "TSRTR"]
    largest = max((row["ratio"] for row in added), default=None)
    judged = {row["synthetic"]: judgement(row["auprc_minus_trtr"]) for row in added if row["ratio"] == largest}
    sentences = []
    if trtr["auroc"]["low"] <= 0.5:
        sentences.append("<strong>The classifier does not beat chance when trained on real data, so this evaluation cannot "
                         "tell whether synthetic data help.</strong> Train it for longer, or choose another one.")
    elif utility["seeds"] < 3:
        sentences.append(f"<strong>No verdict: {utility['seeds']} seed(s) are too few.</strong> Use at least 3.")
    elif judged:
        sentences.append(f"<strong>{verdict(judged)}</strong> Judged is AUPRC against real data alone at ratio {largest:g}, by "
                         f"whether its 95 % interval excludes 0, once for each of {len(judged)} set(s); with several sets, "
                         "some will by chance.")
    sentences.append(f"Trained on real data alone, the classifier reaches AUROC {spread(trtr['auroc'])} and AUPRC "
                     f"{spread(trtr['auprc'])} (chance: {utility['chance_auprc']:.3f}) on {utility['scored_rows']:,} real test "
                     f"series of {utility['scored_subjects']:,} subjects; mean (standard deviation over {utility['seeds']} "
                     "seeds).")
    for name in dict.fromkeys(row["synthetic"] for row in rows if row["synthetic"]):
        sentences.append(f"<strong>{escape(name)}</strong>: {set_words(name, rows, largest)}.")
    if utility["fewest_datasets"] < 2:
        sentences.append("Some set is a single dataset: what differs between runs of its generator is not in the intervals.")
    return sentences


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
    added = []
    for row in rows:
        if row["protocol"] == "TSRTR" and row["synthetic"] == name and row["ratio"] == ratio:
            difference = row["auprc_minus_trtr"]
            seeds = difference.get("seeds_for_0.01")
            added = [f"added at ratio {ratio:g}, AUPRC changes by {interval(difference)}: {judgement(difference)}"
                     + (f" (to see a change of 0.01, some {seeds} seeds would be needed)" if seeds else "")]
    return "; ".join(alone + added)


def privacy_words(privacy: dict[str, Any], synthetic: dict[str, Any]) -> str:
    """Say for each set what the two membership attacks found, with intervals, and whether they were flagged."""
    parts = []
    for name in synthetic:
        found = []
        for attack, members in (("train_attack", "training"), ("guidance_attack", "guidance")):
            result = privacy[name][attack]
            found.append(f"{members} rows {result['auroc']['mean']:.3f} [{result['auroc_low']['mean']:.3f}, "
                         f"{result['auroc_high']['mean']:.3f}], flagged in {flags(result['flagged'])}")
        copies = privacy[name]["train_attack"]["exact_copies"]["mean"]
        warning = f"; <strong>{copies:.1%} of the training series stand in it verbatim: do not share it</strong>"
        parts.append(f"<li>{escape(name)}: {'; '.join(found)}{warning if copies > 0 else ''}</li>")
    return ("<strong>Privacy:</strong> an attacker who guesses from nearness to a synthetic series who was among the patients "
            f"behind it reaches this AUROC (0.5 is chance, 1 a copy; mean over datasets): <ul>{''.join(parts)}</ul>"
            "Flagged: the interval lies above chance, and above what the same attack finds with real series that cannot leak. Not "
            "flagged is no guarantee.")


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
    heads = ["trained on", "AUROC", "AUPRC", "F1, most probable class", "F1 at the selected threshold", "Brier", "predicted positive",
             "AUROC minus TRTR", "AUPRC minus TRTR"]
    reference = utility["reference"]
    heads += [f"AUPRC minus {reference}"] if reference else []
    rows = []
    for row in utility["rows"]:
        cells = [row["arm"], *(spread(row[key]) for key in ("auroc", "auprc", "f1", "f1_selected", "brier", "positive_rate"))]
        cells += [interval(row[key]) if key in row else ""
                  for key in ("auroc_minus_trtr", "auprc_minus_trtr", *(["auprc_minus_reference"] if reference else []))]
        rows.append((cells, row["protocol"] == "TRTR"))
    return ("<p>TRTR trains on real series, TSTR on synthetic ones, TSRTR on all real series plus synthetic ones at the given "
            "ratio. One recipe, one selection half, the same seeds; scored on real test series. Mean (standard deviation "
            "over seeds); differences with 95 % bootstrap intervals over subjects and seeds, in pairs.</p>"
            + table(heads, [cells for cells, _ in rows], "", [anchor for _, anchor in rows]))


def fidelity_tables(fidelity: dict[str, Any]) -> str:
    """Return a table of the headline of every metric, the anchors first, and one of all columns for each metric."""
    metrics = [metric for metric in FIDELITY if metric.name in next(iter(fidelity.values()))]
    marks = [position < 2 for position in range(len(fidelity))]
    rows = [[name, *(spread(of_set[metric.name][metric.columns[0].key]) for metric in metrics)]
            for name, of_set in fidelity.items()]
    parts = [("<p>Against real test series, in units of the real training standard deviation. Read each value between its "
             "anchors: real training series (as good as it gets) and white noise with the same mean and deviation per "
             "channel (poor). Lower is better. Mean (standard deviation over repeats). Values of sets of different size compare "
             "only where the rows used are equal.</p>"),
             table(["set", *(metric.columns[0].title for metric in metrics)], rows, "", marks)]
    for metric in metrics:
        keys = [(column.key, column.title) for column in metric.columns] + [("rows", "rows used")]
        keys = [(key, title) for key, title in keys if key in next(iter(fidelity.values()))[metric.name]]
        rows = [[name, *(f"{of_set[metric.name][key]['mean']:,.0f}" if key == "rows" else spread(of_set[metric.name][key])
                         for key, _ in keys)] for name, of_set in fidelity.items()]
        parts += [f"<h3>{escape(metric.title)}</h3><p>{escape(metric.meaning)}</p>",
                  table(["set", *(title for _, title in keys)], rows, ideals(metric.columns), marks)]
    return "".join(parts)


def privacy_tables(privacy: dict[str, Any]) -> str:
    """Return one table per privacy metric, anchors first, and what each means."""
    parts = [("<p>Members are the series that a generator saw, non-members held-out series of other subjects. Two anchors: a "
             "copy of the training series gives away everything of these, fresh real series give nothing away.</p>")]
    for metric in PRIVACY:
        rows = [[name, *(privacy_cell(column.key, of_set[metric.name]) for column in metric.columns)]
                for name, of_set in privacy.items()]
        parts += [f"<h3>{escape(metric.title)}</h3><p>{escape(metric.meaning)}</p>",
                  table(["set", *(column.title for column in metric.columns)], rows, ideals(metric.columns),
                        [position < 2 for position in range(len(rows))])]
    return "".join(parts)


def ideals(columns: Iterable[Column]) -> str:
    """Return what a perfect generator would score, for the columns that have such a value."""
    known = [f"{column.title} {column.perfect:g}" for column in columns if column.perfect is not None]
    return f"Perfect: {', '.join(known)}" if known else ""


def privacy_cell(key: str, result: dict[str, Any]) -> str:
    """Return a number, with its interval where it has one; of flags, in how many datasets."""
    if key == "flagged":
        return flags(result[key])
    if f"{key}_low" in result:
        return f"{number(result[key]['mean'])} [{number(result[f'{key}_low']['mean'])}, {number(result[f'{key}_high']['mean'])}]"
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
    """Return versions, hashes of the inputs, settings and the command."""
    record = results["provenance"]
    hashes = table(["data", "hash"], [[name, value] for name, value in results["hashes"].items()], "Content of the inputs")
    versions = ", ".join(f"{name} {record[name]}" for name in ("tardiff", "commit", "python", "torch", "numpy"))
    return (f'<h2 id="provenance">Provenance</h2><p>{escape(versions)}</p>{hashes}<p>To reproduce:</p>'
            f"<pre>python scripts/evaluate.py {escape(folder / 'settings.yaml')}</pre><p>The settings in that file:</p>"
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


def number(value: float | None) -> str:
    """Return three decimals, or more where a small value has none of them; a dash where it is not defined."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def spread(summary: dict[str, Any]) -> str:
    """Return `mean (sd)`, or the mean alone where there is one value."""
    return number(summary["mean"]) + ("" if summary["sd"] is None else f" ({number(summary['sd'])})")


def flags(summary: dict[str, Any]) -> str:
    """Return in how many datasets a flag is set."""
    return f"{int(sum(summary['values']))} of {len(summary['values'])}"


def interval(difference: dict[str, Any]) -> str:
    """Return `+mean [low, high]`."""
    return f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def judgement(difference: dict[str, Any]) -> str:
    """Return what an interval says of a difference."""
    return GAIN if difference["low"] > 0 else LOSS if difference["high"] < 0 else "no difference that can be told from none"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def escape(text: object) -> str:
    """Return text for HTML."""
    return html.escape(str(text))
