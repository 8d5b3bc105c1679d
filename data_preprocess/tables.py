"""Your own tables: measurements in CSV, CSV.GZ or Parquet, of any size, and a table of labels.

    python -m data_preprocess.tables --input vitals.parquet --labels labels.csv --step 1h --length 24 --output data/mine

The measurements are long (one row a value: id, time, variable, value) or, with --layout wide, one row a time (id, time,
one column a variable). A folder of such tables with the same columns is read as one; where they have no column of the
id, the name of the file is it. The table of labels has one row an id (a stay, a recording): id, label, and where known
the patient (--subject), a given split (--split, with train, val, test), the time that the series start (--origin) and a
teacher's probability of each class (--probabilities, in the order of the classes). Names of columns may be in any case.
The measurements are read out of core, so that they need not fit into memory (--memory-limit).

Decisions:
- Step h averages the valid values in [origin + h, origin + h + 1) steps. A time is known to one unit of the last
  decimal of all times (of float32: to its rounding), and a step that it may have reached counts as reached, unless a
  unit is more than half a step: regular times fill every step whatever rounded them.
- The origin is the id's first row in the measurements, whatever it measures, unless --origin names a column. Where
  times are numbers, a first row before 0 is refused without --origin: one wrong row would shift the series.
- Times are ISO timestamps such as 2024-01-31 15:00:00, or with --time-unit numbers. Timestamps with an offset from UTC
  (Z, UTC, +05:30) are compared as instants; a mix of those with and without an offset is refused, and so is AM or PM.
- Missing are empty fields, NA, NaN and NULL, in any case. Any other text where a number is expected is refused.
- --missing names numbers that stand for a missing value, such as -999; --range drops values outside a closed interval.
  Neither repairs them.
- Gaps are filled as --impute says, and with the median of the observed training cells where a series has no value for
  it.
- Labels become 0..K-1 in their sorted order (as text, or by value where all are whole numbers) and stay as class names,
  unless --classes gives another order or other names (--classes 0=survived 1=died). Rows of ids without a
  label, rows outside the window and ids without a value in it are left out and counted.
- Splits are by subject. Without --subject, each id is its own; give it wherever a patient can have several ids.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from data_preprocess import command, count_tables, own_data, target
from data_preprocess.measurements import (
    UNITS,
    Clock,
    Measurements,
    columns,
    find_measurements,
    first_id,
    grid_readings,
    is_missing,
    survey_times,
)
from data_preprocess.query import fetch, identifier, memory_bytes, open_engine, source
from tardiff.data.format import SPLIT_NAMES, Metadata, Split, interval_seconds
from tardiff.data.imputation import RULES
from tardiff.data.splits import split_with_target
from tardiff.utils.errors import UserError


def preprocess(options: argparse.Namespace) -> tuple[dict[str, Split], Metadata]:
    """Read both tables and print where every reading and id went; return the splits and their description.

    options: those of the command line. Raises UserError.
    """
    step = microseconds_of(options.step)
    if options.length < 1:
        raise UserError(f"--length {options.length}: expected at least 1 step.")
    roles = ["time", *(("variable", "value") if options.layout == "long" else ())]
    if not (options.input.is_dir() and options.id not in map(str.lower, columns(options.input))):
        roles.insert(0, "id")
    require_columns(options.input, roles, options)
    if options.labels.is_dir():
        raise UserError(f"{options.labels}: is a folder; expected a .csv, .csv.gz or .parquet file with the labels.")
    require_columns(options.labels, ("id", "label", "subject", "split", "origin"), options)
    if target.conditions(options) and options.split:
        raise UserError("--target: the rows of a target are split by --ratios; leave out --split.")
    with open_engine(options.memory_limit, options.output) as connection:
        # Rows are numbered in messages as they stand in the file.
        connection.execute("SET preserve_insertion_order = true")
        measurements = find_measurements(connection, options)
        table = read_labels(connection, measurements.clock, options)
        stays = table[table["complete"]]
        of_kept_class = own_data.of_kept_classes(stays["label"].to_numpy(dtype=str), options.drop_class,
                                                 str(options.labels))
        dropped, stays = int((~of_kept_class).sum()), stays[of_kept_class].reset_index(drop=True)
        stays["start"], tolerance = survey_times(connection, measurements, stays, step, options.length)
        # Let SQL join the stays: id, stay (the row, from 0) and start.
        connection.register("stays", stays[["id", "start"]].assign(stay=np.arange(len(stays))))
        channels = find_channels(connection, measurements, options)
        shape = (len(stays), options.length, len(channels))
        require_memory(shape, options.memory_limit)
        x, counts = grid_readings(connection, measurements, channels, shape, step, tolerance)
        kept = ~np.isnan(x).all(axis=(1, 2))
        attrition = {**counts, "ids in the table of labels": len(table),
                     "ids without a label or an origin": int((~table["complete"]).sum()),
                     **({"ids of classes left out": dropped} if dropped else {}),
                     "ids without a reading used": int((~kept).sum()), "ids kept": int(kept.sum())}
        count_tables.print_attrition({options.input.name: attrition})
        if not kept.any():
            raise UserError(f"{options.input}: no reading is left; the table above says where they went. Its first id "
                            f"is '{first_id(connection, measurements)}', that of {options.labels} is "
                            f"'{''.join(table['id'][:1])}'.")
    return dataset_of_stays(x[kept], stays[kept], channels, attrition, options)


def require_columns(path: Path, roles: Sequence[str], options: argparse.Namespace) -> None:
    """Raise UserError if a table lacks the column of a role, which the option of the same name gives."""
    found = columns(path)
    missing = [role for role in roles if getattr(options, role) is not None
               and getattr(options, role) not in map(str.lower, found)]
    if missing:
        wide = " Where each variable has a column of its own, give --layout wide." if "value" in missing else ""
        names = " ".join(f"--{role} COLUMN" for role in missing)
        raise UserError(f"{path}: column '{getattr(options, missing[0])}' not found; the file has: "
                        f"{', '.join(found)[:500]}. Name the columns that stand for it: {names}.{wide}")


def dataset_of_stays(x: np.ndarray, stays: pd.DataFrame, channels: Sequence[own_data.Channel],
                     attrition: dict[str, int], options: argparse.Namespace) -> tuple[dict[str, Split], Metadata]:
    """Split and fill the stays: x (N, L, C) float32 with NaN, `stays` with columns id, label, subject and split."""
    y, classes = own_data.encode_labels(stays["label"].to_numpy(dtype=str), options.classes, str(options.labels))
    if options.probabilities and len(options.probabilities) != len(classes):
        raise UserError(f"--probabilities {' '.join(options.probabilities)}: expected a column for each of the classes "
                        f"{own_data.listed(classes)}, in this order.")
    p = stays[options.probabilities].to_numpy(np.float32) if options.probabilities else None
    subject = stays["subject"].to_numpy(dtype=str)
    kept, is_target, of_target = target.divided(options, target.condition_columns(options, stays), subject)
    whole = Split(x, y, subject, p=p, id=stays["id"].to_numpy(dtype=str))
    if not options.subject:
        print("each id is its own subject; where a patient can have several ids, give --subject")
    if options.split:
        part_of = stays["split"].to_numpy()
        given = {part: whole[part_of == part] for part in SPLIT_NAMES if part in part_of}
        if "train" not in given:
            raise UserError(f"{options.labels}: no id that is left has 'train' in column '{options.split}'.")
        splits = own_data.cut_validation(given, options.val_ratio, options.seed)
        rule = {"split_column": options.split, "val_ratio": None if "val" in given else options.val_ratio}
    else:
        shares = dict(zip(SPLIT_NAMES, options.ratios, strict=True))
        splits = split_with_target(whole if is_target is None else whole[kept], is_target, shares, options.seed)
        rule = {"ratios": list(options.ratios)}
    splits = {name: replace(part, p=None) if part.p is not None and np.isnan(part.p).all() else part
              for name, part in splits.items()}
    cohort = {"origin": options.origin or "first row of the id", "length": options.length, **rule, **of_target,
              "seed": options.seed, "attrition": attrition}
    return own_data.dataset_of(options, splits, channels, classes, options.step, cohort, "ids", averaged=True)


def microseconds_of(duration: str) -> float:
    """Return the microseconds of a duration such as `1h`, `30 min` or `1/256 s`. Raises UserError if it is none."""
    seconds = interval_seconds(duration)
    if seconds is None:
        raise UserError(f"--step {duration}: expected a duration above 0 such as 1h, with one of {', '.join(UNITS)}.")
    return float(seconds * 1_000_000)


def read_labels(connection: duckdb.DuckDBPyConnection, clock: Clock, options: argparse.Namespace) -> pd.DataFrame:
    """Read the table of labels: id, label, subject, split, origin and, under target.CONDITION_COLUMN, the columns of
    conditions, all text, '' where missing; start (microseconds), the columns of --probabilities (both NaN where
    missing), and whether the row is `complete`, with a label and an origin.

    Raises UserError on an id that is missing or there twice, and on a subject, split or origin that cannot be used.
    """
    path = options.labels
    roles = {"id": options.id, "label": options.label, "subject": options.subject or options.id,
             "split": options.split or options.id, "origin": options.origin or options.id,
             **{target.CONDITION_COLUMN.format(name): name for name in target.columns_named(options)}}
    of_classes = options.probabilities or []
    table = source(path, {**dict.fromkeys(roles.values(), "VARCHAR"), **dict.fromkeys(of_classes, "DOUBLE")})
    # A condition may name a column of probabilities.
    texts = {role: f"trim(CAST({identifier(column)} AS VARCHAR))" for role, column in roles.items()}
    fields = ", ".join([*(f"CASE WHEN {is_missing(text)} THEN '' ELSE {text} END AS {identifier(role)}"
                          for role, text in texts.items()), *map(identifier, of_classes)])
    stays = pd.DataFrame(fetch(connection, f"SELECT *, {clock.microseconds('origin')} AS start FROM "
                                           f"(SELECT {fields} FROM {table})", "labels", path))
    if not options.origin:
        stays["start"] = np.nan
    complete = (stays["label"] != "") & (stays["origin"] != "")
    for wrong, what in (
        (stays["id"] == "", "no id"),
        (stays["id"].duplicated(), "id '{id}' stands in an earlier row as well; expected one row an id"),
        (complete & (stays["subject"] == ""), "id '{id}' has no subject in column '{0.subject}'"),
        (complete & ~stays["split"].isin(SPLIT_NAMES) & bool(options.split),
         "id '{id}' has '{split}' in column '{0.split}'; expected train, val or test"),
        (complete & stays["start"].isna() & bool(options.origin),
         "the origin '{origin}' of id '{id}' is not {1.expected}"),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            fault = what.format(options, clock, **stays.iloc[row])
            raise UserError(f"{path}, row {row + 1}: {fault} ({int(wrong.sum())} such rows).")
    return stays.assign(complete=complete)


def find_channels(connection: duckdb.DuckDBPyConnection, measurements: Measurements,
                  options: argparse.Namespace) -> list[own_data.Channel]:
    """Return the channels in order: those asked for, or every variable of a labelled id, sorted by name.

    Raises UserError on a variable that is named twice or not there, and on a --range that is none or of another
    variable.
    """
    path = measurements.path
    if measurements.wide:
        present = [column for column in columns(path) if column.lower() not in (measurements.id, measurements.time)]
    else:
        variables = (f"SELECT DISTINCT variable FROM {measurements.readings()} JOIN stays USING (id) "
                     f"WHERE NOT {is_missing('variable')}")
        present = sorted(fetch(connection, variables, "variables", path)["variable"].tolist())
    if not present:
        labelled = fetch(connection, "SELECT min(id) AS id FROM stays", "labelled id", path)["id"][0]
        raise UserError(f"{path}: no row is of an id in {options.labels} that has a label. Its first id is "
                        f"'{first_id(connection, measurements)}'; one with a label is '{labelled}'.")
    names = measurements.wide or options.channels or present
    there, seen = set(map(measurements.key, present)), set()
    for channel, key in zip(names, map(measurements.key, names), strict=True):
        if key in seen:
            raise UserError(f"--channels: {channel} is there more than once.")
        seen.add(key)
        if key not in there:
            raise UserError(f"--channels: {path} has no variable '{channel}' of an id with a label; found "
                            f"{', '.join(present)[:500]}.")
    return own_data.channels_of(names, None, options, str(path))


def require_memory(shape: tuple[int, int, int], memory_limit: str) -> None:
    """Raise UserError if x of the shape (N, L, C) float32 alone is larger than the memory limit, such as `8GB`."""
    needed = 4 * math.prod(shape)
    if needed > memory_bytes(memory_limit):
        raise UserError(f"--length {shape[1]}: {shape[0]} ids x {shape[1]} steps x {shape[2]} variables need "
                        f"{needed / 1e9:,.1f} GB, more than the memory limit of {memory_limit}. Give a smaller "
                        "--length, fewer --channels or a larger --memory-limit.")


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line."""
    parser = command.source_parser("tables", __doc__, prog,
                                   "measurements: .csv, .csv.gz or .parquet, or a folder of them", "data/<input>")
    parser.add_argument("--labels", type=Path, required=True, help="table of labels: .csv, .csv.gz or .parquet")
    parser.add_argument("--layout", choices=("long", "wide"), default="long",
                        help="of the measurements (default: long)")
    for column, what in (("id", "the series that a row belongs to, in both tables"), ("time", "the time of a row"),
                         ("variable", "what a row measures (long)"), ("value", "the measured value (long)"),
                         ("label", "the class of an id")):
        parser.add_argument(f"--{column}", type=column_name, default=column, metavar="COLUMN",
                            help=f"column with {what} (default: {column})")
    for column, what in (("subject", "patient (default: each id is its own)"),
                         ("split", "given split: train, val, test (default: split by --ratios)"),
                         ("origin", "time that the series start (default: the id's first row in the measurements)")):
        parser.add_argument(f"--{column}", type=column_name, metavar="COLUMN",
                            help=f"column of the labels with the {what}")
    parser.add_argument("--probabilities", nargs="+", type=column_name, metavar="COLUMN",
                        help="columns of the labels with a teacher's probability of each class, in their order")
    parser.add_argument("--time-unit", choices=UNITS, help="times are numbers of this unit (default: ISO timestamps)")
    parser.add_argument("--step", default="1h", help="length of a step, such as 30min or '1/256 s' (default: 1h)")
    parser.add_argument("--length", type=int, default=24, help="number of steps from the origin on (default: 24)")
    parser.add_argument("--channels", nargs="+", type=str.strip, metavar="VARIABLE",
                        help="variables to keep, in order (default: all)")
    parser.add_argument("--impute", choices=RULES, default="forward",
                        help="forward fill, straight lines, or the training "
                        "median; the median also where a series has none (default: forward)")
    parser.add_argument("--memory-limit", default="8GB", help="memory for reading the tables (default: 8GB)")
    own_data.add_options(parser)
    target.add_options(parser, "those of the table of labels")
    command.run(parser, arguments, lambda options: Path("data", options.input.name.split(".")[0]), preprocess)


def column_name(text: str) -> str:
    """Return the name of a column as `query.source` wants it."""
    return text.strip().lower()


if __name__ == "__main__":
    main()
