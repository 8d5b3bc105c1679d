"""Write RESULTS.md of the studies in docs/results, each a folder of tables (CSV) and words.md, which says with a line
{NAME.csv} where each table stands.

    python scripts/results.py
    python scripts/results.py --report runs/mine/report --name mine
    python scripts/results.py --map runs/map/mine --name mine_map

The second command first takes the tables of a finished report into docs/results/mine, the third those of a gain map and
its figure. Words that are there stay.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tardiff.evaluation.fidelity import FIDELITY
from tardiff.evaluation.frame import summaries, utility_rows
from tardiff.evaluation.privacy import PRIVACY
from tardiff.evaluation.summary import GAIN, HEADERS, interval, number, shown_verdict, spread, write_csv
from tardiff.utils.checkpoint import read_json, write_text
from tardiff.utils.errors import UserError, exit_on_user_error

PLACE = re.compile(r"^\{(.+\.csv)\}$", flags=re.MULTILINE)


def results_page(studies: Path) -> str:
    """Return RESULTS.md: the words of `studies`, then those of each study, in order of its folder's name."""
    folders = [studies, *sorted(path for path in studies.iterdir() if path.is_dir())]
    return "\n".join(with_tables(folder) for folder in folders)


def with_tables(folder: Path) -> str:
    """Return words.md with the table of each {NAME.csv}. Raises UserError if words or a table are not there."""
    words, tables = folder / "words.md", {path.name for path in folder.glob("*.csv")}
    text = words.read_text(encoding="utf-8") if words.is_file() else ""
    if not text or set(PLACE.findall(text)) != tables:
        raise UserError(f"{words}: expected words with one line {{NAME.csv}} for each table beside it: "
                        f"{', '.join(sorted(tables)) or 'none'}.")
    return PLACE.sub(lambda place: markdown_table(folder / place[1]), text)


def markdown_table(path: Path) -> str:
    """Return a CSV file as a table, its cells as they are."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    lines = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def take_report(report: Path, folder: Path) -> None:
    """Write the tables and settings of a finished report to the folder of a study, and words.md where there is none.

    Raises UserError if the report is unfinished, or not scored on test.
    """
    if not (report / "report.html").is_file():
        raise UserError(f"{report}: no finished report. Give the folder that holds report.html.")
    description = read_json(report / "results.json")
    if description.get("scored_on") == "selection":
        raise UserError(f"{report}: scored on the selection half. Results are those on test: score_on=test.")
    # Names are text, whatever they look like; only numbers may be absent.
    frame = pd.read_csv(report / "results.csv", dtype=dict.fromkeys(("set", "metric", "judge", "key"), str),
                        keep_default_na=False, na_values=dict.fromkeys(("dataset", "repeat", "value"), ""))
    if "judge" not in frame:
        raise UserError(f"{report / 'results.csv'}: has no column judge; an earlier version made this report. Make it "
                        "again.")
    commit = description["provenance"]["commit"]
    is_utility = frame["judge"] != ""
    reference = description.get("utility", {}).get("reference")
    tables = {"utility": utility_table(frame[is_utility], reference), "quality": quality_table(frame[~is_utility])}
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(report / "settings.yaml", folder / "settings.yaml")
    _write_study(folder, {name: table for name, table in tables.items() if len(table)},
                 f"By `tardiff report {folder / 'settings.yaml'}` at commit {commit}.")


def take_map(made: Path, folder: Path) -> None:
    """Write the tables and the figure of a finished gain map to the folder of a study, and words.md where there is
    none. Raises UserError if the map is unfinished."""
    if not (made / "map.csv").is_file():
        raise UserError(f"{made}: no finished map. Give the folder that holds map.csv.")
    names = ("arm", "judge", "set", "protocol", "metric", "control", "control_verdict", "reference_verdict")
    frame = pd.read_csv(made / "map.csv", dtype=dict.fromkeys(names, str), keep_default_na=False, na_values=[""])
    frame = frame.fillna(dict.fromkeys(names, ""))
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made / "map.png", folder / "map.png")
    _write_study(folder, {f"gain_{metric}": gain_table(frame[frame["metric"] == metric]) for metric in HEADERS},
                 f"![Gain over the best control against the number of labelled rows]({folder / 'map.png'})")


def _write_study(folder: Path, tables: dict[str, pd.DataFrame], words: str) -> None:
    for name, table in tables.items():
        write_csv(folder / f"{name}.csv", table)
    if not (folder / "words.md").exists():
        places = "".join(f"\n{{{name}.csv}}\n" for name in tables)
        write_text(folder / "words.md", f"## {folder.name}\n\n{words}\n{places}")


def gain_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per judge and arm and one column per number of labelled rows, of the rows of a map of one metric:
    the mean of TRTR and of the best control, the difference of each arm with synthetic series to that, and of the same
    arm with two sets, that to the reference."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in frame.to_dict("records"):
        column = f"n = {row['n']:,}"
        if row["protocol"] == "TRTR":
            lines.setdefault((row["judge"], "TRTR"), {})[column] = number(row["mean"])
        elif row["set"] and row["control"]:
            of_control = frame[(frame["n"] == row["n"]) & (frame["judge"] == row["judge"])
                               & (frame["protocol"] == row["control"])]
            lines.setdefault((row["judge"], "best control"), {})[column] = (
                f"{number(of_control['mean'].item())} ({row['control']})")
            lines.setdefault((row["judge"], row["arm"]), {})[column] = _gain_cell(row, "control")
        if pd.notna(row["reference_difference"]):
            arm = f"{row['arm']}, minus reference"
            lines.setdefault((row["judge"], arm), {})[column] = _gain_cell(row, "reference")
    cells = pd.DataFrame([{"judge": judge, "arm": arm, **cells} for (judge, arm), cells in lines.items()])
    return cells.fillna("").sort_values("judge", kind="stable")


def _gain_cell(row: dict, key: str) -> str:
    found = {part: row[f"{key}_difference_{part}"] for part in ("low", "high")}
    gain = f" {GAIN}" if row[f"{key}_verdict"] == GAIN else ""
    return interval({"mean": row[f"{key}_difference"], **found}) + gain


def utility_table(frame: pd.DataFrame, reference: str | None) -> pd.DataFrame:
    """Return one row per arm: AUROC and AUPRC as mean (sd over seeds), and their differences to TRTR and, where there
    are such, to the best control and to the arm of the set `reference`, with 95 % interval and what is judged."""
    lines = []
    for row in utility_rows(frame):
        line = {"arm": row["arm"], "judge": row["judge"]}
        line |= {header: spread(row[metric]) for metric, header in HEADERS.items()}
        for key, name in (("trtr", "TRTR"), ("control", "best control"), ("reference", reference)):
            differences = {header: row[f"{metric}_minus_{key}"] for metric, header in HEADERS.items()
                           if f"{metric}_minus_{key}" in row}
            line |= {f"{header} minus {name}": f"{interval(difference)} {shown_verdict(difference)}".strip()
                     for header, difference in differences.items()}
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def quality_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per set with the first figure of each metric of fidelity and privacy that was measured."""
    found, cells = summaries(frame), {}
    for metric in (*FIDELITY, *PRIVACY):
        figure = metric.columns[0]
        measured = {name: spread(keys[figure.key]) for (name, metric_name, _), keys in found.items()
                    if metric_name == metric.name}
        if measured:
            cells[metric.title if metric in PRIVACY else figure.title] = measured
    return pd.DataFrame(cells).rename_axis("set").reset_index()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one message and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    taken = parser.add_mutually_exclusive_group()
    taken.add_argument("--report", type=Path, help="folder of a finished report to take in")
    taken.add_argument("--map", type=Path, help="folder of a finished gain map to take in")
    parser.add_argument("--name", help="folder of its study below --studies (default: the name of the report's real "
                                       "dataset, or of the folder of the map)")
    parser.add_argument("--studies", type=Path, default=Path("docs/results"), help="default: docs/results")
    parser.add_argument("--page", type=Path, default=Path("RESULTS.md"), help="default: RESULTS.md")
    exit_on_user_error(lambda: _write(parser.parse_args(arguments)))


def _write(options: argparse.Namespace) -> None:
    if options.report is not None:
        name = options.name or read_json(options.report / "results.json")["real"]["name"]
        take_report(options.report, options.studies / name)
    if options.map is not None:
        take_map(options.map, options.studies / (options.name or f"{options.map.name}_map"))
    write_text(options.page, results_page(options.studies))
