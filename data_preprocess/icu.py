"""What the ICU databases MIMIC-III and eICU share: options, labels and tables with a key."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from data_preprocess import command, grid, query, target
from tardiff.data.format import Metadata, Split
from tardiff.utils.errors import UserError

# Label -> what a dataset of it is called.
TASKS = {"mortality": "mortality", "length_of_stay": "icu_stay"}
CREDENTIALED = "PhysioNet Credentialed Health Data License 1.5.0"
OPEN = "ODbL 1.0"


@dataclass(frozen=True)
class Edition:
    """A publication of a database: its title, its address, its licence and its published counts by attrition step."""

    title: str
    url: str
    licence: str
    published: Mapping[str, int]


def icu_parser(module: str, docstring: str, prog: str | None, files: str, cohorts: Sequence[str],
               columns: str) -> argparse.ArgumentParser:
    """Return the parser of an ICU database, with the first of the cohorts as default. columns: what the condition of a
    target may name."""
    outputs = " or ".join(f"data/{module}_{task}" for task in TASKS.values())
    parser = command.source_parser(module, docstring, prog, files, outputs)
    parser.add_argument("--label", choices=TASKS, default="mortality", help="default: mortality")
    parser.add_argument("--days", type=float, default=3, help="length_of_stay: class 1 stays longer (default: 3)")
    parser.add_argument("--cohort", choices=cohorts, default=cohorts[0], help=f"see below (default: {cohorts[0]})")
    parser.add_argument("--memory-limit", default="8GB", metavar="SIZE",
                        help="memory of the query; what does not fit goes to disk beside the output (default: 8GB)")
    command.add_split_options(parser)
    target.add_options(parser, columns)
    return parser


def class_names(label: str, days: float) -> list[str]:
    """Return the names of class 0 and class 1. Raises UserError if `days` is not a positive number."""
    if not 0 < days < np.inf:
        raise UserError(f"--days {days:g}: expected a number above 0.")
    return {"mortality": ["survived", "died in hospital"],
            "length_of_stay": [f"at most {days:g} days", f"more than {days:g} days"]}[label]


def read_table(connection: duckdb.DuckDBPyConnection, folder: Path, name: str,
               columns: Mapping[str, str]) -> pd.DataFrame:
    """Read these columns of a table that fits in memory; the first of them is its key, in whose order the rows come.

    Raises UserError where the table is missing, damaged or empty, and on a key that is missing or not unique.
    """
    path = query.find_table(folder, name)
    table = pd.DataFrame(query.fetch(connection, f"FROM {query.source(path, columns)}", name, path))
    key = next(iter(columns))
    if len(table) == 0:
        raise UserError(f"{path}: no row below the header. {query.AGAIN}")
    if table[key].isna().any():
        raise UserError(f"{path}: a row without {key}. {query.AGAIN}")
    if table[key].duplicated().any():
        raise UserError(f"{path}: {key} {table[key][table[key].duplicated()].iloc[0]} has more than one row, expected "
                        f"one. {query.AGAIN}")
    return table.sort_values(key, ignore_index=True)


def look_up(table: pd.DataFrame, name: str, wanted: pd.Series) -> pd.DataFrame:
    """Return the rows of the table `name` whose key the series `wanted` (R,) names, in its order and with its index.

    Raises UserError if one is not there.
    """
    key = str(wanted.name)
    unknown = wanted[~wanted.isin(table[key])]
    if len(unknown):
        raise UserError(f"table {name}: no row with {key} {unknown.iloc[0]}, which another table names "
                        f"({len(unknown)} such rows). All tables must be of one release. {query.AGAIN}")
    return table.set_index(key).loc[wanted].set_index(wanted.index)


def with_condition_columns(connection: duckdb.DuckDBPyConnection, options: argparse.Namespace, stays: pd.DataFrame,
                           name: str, names: Sequence[str]) -> pd.DataFrame:
    """Return the stays with the columns `names` of the table `name`, whose key is the first column of stays, as text
    under target.CONDITION_COLUMN; '' where missing."""
    if not names:
        return stays
    key = str(stays.columns[0])
    table = read_table(connection, options.input, name, {key: "INTEGER", **{
        column: "VARCHAR" for column in names if column != key}})
    found = look_up(table, name, stays[key])
    return stays.assign(**{target.CONDITION_COLUMN.format(column): (
        stays[key] if column == key else found[column].fillna("")).astype(str) for column in names})


def dataset_of_stays(options: argparse.Namespace, module: str, x: np.ndarray, stays: pd.DataFrame, stay: str,
                     patient: str, vitals: Sequence[grid.Vital], edition: Edition, classes: list[str], interval: str,
                     cohort: dict) -> tuple[dict[str, Split], Metadata]:
    """Split the stays by patient; return the splits and their description.

    x (N, L, C) float32 with NaN, `stays` with the columns y, `stay` (the id) and `patient`. cohort: what `meta.json`
    says of the stays beside the rule and the label. Raises UserError as `grid.dataset_of_stays` does.
    """
    subject = stays[patient].to_numpy()
    subject = subject if subject.dtype.kind == "i" else subject.astype(str)
    kept, is_target, of_target = target.divided(options, target.condition_columns(options, stays), subject)
    meta = Metadata(
        name=f"{module}_{TASKS[options.label]}", channels=[vital.name for vital in vitals],
        units=[vital.unit for vital in vitals], classes=classes, sampling_interval=interval,
        source=f"{edition.title}, {edition.url}", licence=edition.licence,
        cohort={"rule": options.cohort, "label": classes[1], **cohort, **of_target})
    rows = Split(x, stays["y"].to_numpy(np.int64), subject, id=stays[stay].to_numpy(np.int64))[kept]
    return grid.dataset_of_stays(rows, options.ratios, options.seed, meta, vitals, is_target)
