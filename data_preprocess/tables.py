"""Your own tables: measurements in CSV, CSV.GZ or Parquet, of any size, and a table of labels.

    python -m data_preprocess.tables --input vitals.parquet --labels labels.csv --step 1h --length 24 --output data/mine

The measurements are long (one row a value: id, time, variable, value) or, with --layout wide, one row a time (id, time,
one column a variable). The table of labels has one row an id (a stay, a recording): id, label, and where known the
patient (--subject), a given split (--split, with train, val, test), the time that the series start (--origin) and a
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
- --range drops values outside a closed interval, never repairs them.
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
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from data_preprocess import command, count_tables, grid, own_data
from data_preprocess.query import (
    count_reasons,
    csv_header,
    fetch,
    identifier,
    open_engine,
    parquet_header,
    quoted,
    reason_case,
    source,
)
from tardiff.data.format import SPLIT_NAMES, UNIT_SECONDS, Metadata, Split, interval_seconds
from tardiff.data.imputation import RULES
from tardiff.data.splits import split_by_subject
from tardiff.utils.errors import UserError

UNITS = {unit: float(UNIT_SECONDS[unit] * 1_000_000) for unit in ("ms", "s", "min", "h", "d")}  # in microseconds
CLOCK_TIME = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?"
ZONED = CLOCK_TIME + r"(Z| ?UTC|[+-]\d\d(:?\d\d)?)"
# What pandas writes of the index of a frame, and reads a column without a name as.
ROW_NUMBERS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
UNZONED = CLOCK_TIME + r"|\d{4}-\d\d-\d\d"


def is_missing(text: str) -> str:
    """Return the SQL that tells whether a text stands for a missing value."""
    return f"(coalesce(lower({text}), '') IN ('', 'na', 'nan', 'null'))"


# Why a reading is left out, in order of precedence: SQL on the columns of `judge`.
REASONS = {
    "readings of ids without a label": "stay IS NULL",
    "readings of other variables": "channel IS NULL",
    "readings without a time": is_missing("time"),
    "readings without a value": is_missing("value"),
    "readings before the origin": "step < 0",
    "readings after the window": "step >= length",
    "readings out of range": "number NOT BETWEEN low AND high",
}
# What ends the run, of readings that would be used.
FAULTS = {
    what: (f"stay IS NOT NULL AND channel IS NOT NULL AND NOT {is_missing(what)} "
           f"AND coalesce(NOT isfinite({number}), true)")
    for what, number in (("time", "moment"), ("value", "TRY_CAST(number AS FLOAT)"))
}


@dataclass(frozen=True)
class Channel(grid.Vital):
    """A variable with the closed interval of its valid values."""

    includes_high: bool = True
    includes_low: bool = True

    @property
    def valid_range(self) -> str:
        """The range as text."""
        return super().valid_range if np.isfinite((self.low, self.high)).any() else "any"


@dataclass(frozen=True)
class Clock:
    """How the text of a time becomes microseconds: numbers of a unit, or timestamps all with or all without an
    offset."""

    unit: str | None
    zoned: bool = False

    def microseconds(self, text: str) -> str:
        """Return the SQL of a time as a DOUBLE, NULL where it is not of this form."""
        if self.unit is not None:
            return f"(TRY_CAST({text} AS DOUBLE) * {UNITS[self.unit]})"
        kind = "TIMESTAMPTZ" if self.zoned else "TIMESTAMP"
        # DuckDB ignores what follows the time, so that 02:00:00 PM would be read as 02:00:00.
        whole = f"regexp_full_match({text}, {quoted(ZONED if self.zoned else UNZONED)})"
        return f"CASE WHEN {whole} THEN CAST(epoch_us(TRY_CAST({text} AS {kind})) AS DOUBLE) END"

    def resolution(self, text: str) -> str:
        """Return the SQL of a unit of the last decimal in microseconds, 0 where an exponent hides it."""
        unit = UNITS[self.unit or "s"]
        return f"if(lower({text}) LIKE '%e%', 0, {unit} * pow(0.1, strlen(regexp_extract({text}, '[.]([0-9]*)', 1))))"

    @property
    def expected(self) -> str:
        """What a time should look like, for a message."""
        if self.unit is not None:
            return "a number (leave out --time-unit for timestamps)"
        offset = ("with an offset from UTC, as the first time has" if self.zoned
                  else "without an offset, as the first time is")
        return f"a timestamp such as 2024-01-31 15:00:00, {offset} (for numbers, give --time-unit)"


@dataclass(frozen=True)
class Measurements:
    """The table of measurements: its file, its columns in lower case, and how its times are written."""

    path: Path
    id: str
    time: str
    variable: str
    value: str
    wide: tuple[str, ...] | None
    clock: Clock

    def key(self, variable: str) -> str:
        """Return what tells a variable from others: its name, for a column in lower case."""
        return variable.lower() if self.wide else variable

    def times(self) -> str:
        """Return the SQL of id and time of every row."""
        return f"(SELECT trim({identifier(self.id)}) AS id, trim({identifier(self.time)}) AS time FROM " \
               f"{source(self.path, dict.fromkeys((self.id, self.time), 'VARCHAR'))})"

    def readings(self, numbered: bool = False) -> str:
        """Return the SQL of id, time, variable and value of every reading, as text; numbered: and of its row, from
        1."""
        values = tuple(map(self.key, self.wide or ())) or (self.variable, self.value)
        table = source(self.path, dict.fromkeys((self.id, self.time, *values), "VARCHAR"))
        if numbered:
            table = f"(SELECT row_number() OVER () AS \"row number\", * FROM {table})"
        if self.wide:
            table = f"{table} UNPIVOT INCLUDE NULLS (\"cell value\" FOR \"cell variable\" IN " \
                    f"({', '.join(map(identifier, values))}))"
        variable, value = ("cell variable", "cell value") if self.wide else values
        row = "\"row number\" AS row, " if numbered else ""
        return f"(SELECT {row}trim({identifier(self.id)}) AS id, trim({identifier(self.time)}) AS time, " \
               f"trim({identifier(variable)}) AS variable, trim({identifier(value)}) AS value FROM {table})"


def preprocess(options: argparse.Namespace) -> None:
    """Read both tables, print where every reading and id went, and write the dataset.

    options: those of the command line. Raises UserError before anything is written.
    """
    step = microseconds_of(options.step)
    if options.length < 1:
        raise UserError(f"--length {options.length}: expected at least 1 step.")
    columns(options.input)
    columns(options.labels)
    with open_engine(options.memory_limit, options.output) as connection:
        # Rows are numbered in messages as they stand in the file.
        connection.execute("SET preserve_insertion_order = true")
        measurements = find_measurements(connection, options)
        table = read_labels(connection, measurements.clock, options)
        stays = table[table["complete"]].reset_index(drop=True)
        register_stays(connection, stays)
        channels = find_channels(connection, measurements, options)
        shape = (len(stays), options.length, len(channels))
        require_memory(shape, options.memory_limit)
        starts, tolerance = survey_times(connection, measurements, stays, step)
        if not options.origin:
            register_stays(connection, stays.assign(start=starts))
        x, counts = grid_readings(connection, measurements, channels, shape, step, tolerance)
        kept = ~np.isnan(x).all(axis=(1, 2))
        attrition = {**counts, "ids in the table of labels": len(table),
                     "ids without a label or an origin": len(table) - len(stays),
                     "ids without a reading used": int((~kept).sum()), "ids kept": int(kept.sum())}
        count_tables.print_attrition({options.input.name: attrition})
        if not kept.any():
            raise UserError(f"{options.input}: no reading is left; the table above says where they went. Its first id "
                            f"is '{first_id(connection, measurements)}', that of {options.labels} is "
                            f"'{''.join(table['id'][:1])}'.")
    write_stays(x[kept], stays[kept], channels, attrition, options)


def write_stays(x: np.ndarray, stays: pd.DataFrame, channels: Sequence[Channel], attrition: dict[str, int],
                options: argparse.Namespace) -> None:
    """Split, fill and write the stays: x (N, L, C) float32 with NaN, `stays` with columns label, subject and split."""
    y, classes = own_data.encode_labels(stays["label"].to_numpy(dtype=str), options.classes, str(options.labels))
    if options.probabilities and len(options.probabilities) != len(classes):
        raise UserError(f"--probabilities {' '.join(options.probabilities)}: expected a column for each of the classes "
                        f"{own_data.listed(classes)}, in this order.")
    p = np.stack([stays[name] for name in options.probabilities], axis=1) if options.probabilities else None
    whole = Split(x, y, stays["subject"].to_numpy(dtype=str), p=None if p is None else p.astype(np.float32))
    if not options.subject:
        print("each id is its own subject; where a patient can have several ids, give --subject")
    if options.split:
        given = {part: whole[np.flatnonzero(stays["split"] == part)] for part in SPLIT_NAMES
                 if (stays["split"] == part).any()}
        if "train" not in given:
            raise UserError(f"{options.labels}: no id that is left has 'train' in column '{options.split}'.")
        splits = own_data.cut_validation(given, options.val_ratio, options.seed)
        rule = {"split_column": options.split, "val_ratio": None if "val" in given else options.val_ratio}
    else:
        splits = split_by_subject(whole, dict(zip(SPLIT_NAMES, options.ratios, strict=True)), options.seed)
        rule = {"ratios": list(options.ratios)}
    splits = {name: replace(part, p=None) if part.p is not None and np.isnan(part.p).all() else part
              for name, part in splits.items()}
    splits, imputation = grid.fill_gaps(splits, options.impute, channels)
    cohort = {"origin": options.origin or "first row of the id", "length": options.length, **rule, "seed": options.seed,
              "attrition": attrition, "channels": grid.summarize_channels(splits, imputation.medians, channels)}
    own_data.write(options.output, splits, Metadata(
        name=options.name or options.output.name, channels=[channel.name for channel in channels],
        units=[channel.unit for channel in channels], classes=classes, sampling_interval=options.step,
        positive=own_data.positive_class(options.positive, classes), imputation=imputation,
        source=options.input.name, licence=options.licence, cohort=cohort), "ids")


def microseconds_of(duration: str) -> float:
    """Return the microseconds of a duration such as `1h`, `30 min` or `1/256 s`. Raises UserError if it is none."""
    seconds = interval_seconds(duration)
    if seconds is None:
        raise UserError(f"--step {duration}: expected a duration above 0 such as 1h, with one of {', '.join(UNITS)}.")
    return float(seconds * 1_000_000)


def find_measurements(connection: duckdb.DuckDBPyConnection, options: argparse.Namespace) -> Measurements:
    """Find the columns of the measurements, and whether the first timestamp has an offset from UTC."""
    wide = None
    if options.layout == "wide":
        roles = {getattr(options, role) for role in ("id", "time", "label", "subject", "split", "origin")}
        named = [column for column in columns(options.input) if column.lower() not in roles]
        wide = tuple(options.channels or (column for column in named if not ROW_NUMBERS.fullmatch(column)))
        if not wide:
            raise UserError(f"{options.input}: no column is left for a variable; found "
                            f"{', '.join(columns(options.input))}.")
    measurements = Measurements(options.input, options.id, options.time, options.variable, options.value, wide,
                                Clock(options.time_unit))
    if options.time_unit is not None:
        return measurements
    first = fetch(connection, f"SELECT regexp_full_match(time, {quoted(ZONED)}) AS zoned FROM {measurements.times()} "
                              f"WHERE NOT {is_missing('time')} LIMIT 1", "first time", options.input)["zoned"]
    return replace(measurements, clock=Clock(None, bool(first.any())))


def columns(path: Path) -> list[str]:
    """Return the names of a table's columns. Raises UserError if the file is not there or no table."""
    if not path.is_file():
        state = "is not a file" if path.exists() else "file not found"
        raise UserError(f"{path}: {state}. Give a .csv, .csv.gz or .parquet file.")
    header = parquet_header(path) if path.suffix.lower() == ".parquet" else csv_header(path)
    return [column.strip() for column in header]


def read_labels(connection: duckdb.DuckDBPyConnection, clock: Clock, options: argparse.Namespace) -> pd.DataFrame:
    """Read the table of labels: id, label (None where missing), subject, split, origin (microseconds, NaN) and the
    columns of --probabilities (NaN where missing) by row.

    Raises UserError on an id that is missing or there twice, and on a subject, split or origin that cannot be used.
    """
    path = options.labels
    roles = {"id": options.id, "label": options.label, "subject": options.subject or options.id,
             "split": options.split or options.id, "origin": options.origin or options.id}
    of_classes = options.probabilities or []
    table = source(path, {**dict.fromkeys(roles.values(), "VARCHAR"), **dict.fromkeys(of_classes, "DOUBLE")})
    trimmed = {role: f"trim({identifier(column)})" for role, column in roles.items()}
    texts = ", ".join(f"CASE WHEN {is_missing(text)} THEN '' ELSE {text} END AS {role}"
                      for role, text in trimmed.items())
    texts = ", ".join([texts, *map(identifier, of_classes)])
    stays = pd.DataFrame(fetch(connection, f"SELECT *, {clock.microseconds('origin')} AS start FROM "
                                           f"(SELECT {texts} FROM {table})", "labels", path))
    if not options.origin:
        stays["start"] = np.nan
    complete = (stays["label"] != "") & (stays["origin"] != "")
    for wrong, what in (
        (stays["id"] == "", "no id"),
        (stays["id"].duplicated(), "id '{id}' stands in an earlier row as well; expected one row an id"),
        (complete & (stays["subject"] == ""), f"id '{{id}}' has no subject in column '{options.subject}'"),
        (complete & ~stays["split"].isin(SPLIT_NAMES) & bool(options.split),
         f"id '{{id}}' has '{{split}}' in column '{options.split}'; expected train, val or test"),
        (complete & stays["start"].isna() & bool(options.origin),
         f"the origin '{{origin}}' of id '{{id}}' is not {clock.expected}"),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            raise UserError(f"{path}, row {row + 1}: {what.format(**stays.iloc[row])} ({int(wrong.sum())} such rows).")
    return stays.assign(complete=complete)


def find_channels(connection: duckdb.DuckDBPyConnection, measurements: Measurements,
                  options: argparse.Namespace) -> list[Channel]:
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
        raise UserError(f"{path}: no row is of an id in {options.labels} that has a label. The first id there is "
                        f"'{first_id(connection, measurements)}'.")
    names = measurements.wide or options.channels or present
    there, seen = set(map(measurements.key, present)), set()
    for channel, key in zip(names, map(measurements.key, names), strict=True):
        if key in seen:
            raise UserError(f"--channels: {channel} is there more than once.")
        seen.add(key)
        if key not in there:
            raise UserError(f"--channels: {path} has no variable '{channel}' of an id with a label; found "
                            f"{', '.join(present)[:500]}.")
    ranges = dict(parse_range(text, names) for text in options.range)
    names, units = own_data.channel_names(None, options.units, names, str(path))
    return [Channel(channel, unit, *ranges.get(channel, (-np.inf, np.inf)))
            for channel, unit in zip(names, units, strict=True)]


def parse_range(text: str, names: Sequence[str]) -> tuple[str, tuple[float, float]]:
    """Return the variable and the bounds of a --range such as `HR=25:225`. Raises UserError if it is none."""
    channel, _, bounds = text.rpartition("=")
    parts = re.fullmatch(r"(-?[\d.]+(?:[eE]-?\d+)?):(-?[\d.]+(?:[eE]-?\d+)?)", bounds)
    try:
        low, high = map(float, parts.groups() if parts else ())
    except ValueError:
        low, high = 0.0, 0.0
    if channel not in names or not low < high:
        raise UserError(f"--range {text}: expected VARIABLE=LOW:HIGH with LOW < HIGH and one of the variables "
                        f"{', '.join(names)}.")
    return channel, (low, high)


def register_stays(connection: duckdb.DuckDBPyConnection, stays: pd.DataFrame) -> None:
    """Let SQL join the stays: id, stay (the row, from 0) and start."""
    connection.register("stays", stays[["id", "start"]].assign(stay=np.arange(len(stays))))


def survey_times(connection: duckdb.DuckDBPyConnection, measurements: Measurements, stays: pd.DataFrame,
                 step: float) -> tuple[np.ndarray, str]:
    """Return the first time (N,) of each stay in the measurements in microseconds, NaN where it has none, and the SQL
    of the error that a time may have.

    stays: with the start of each where origins are given. Raises UserError if none is given, times are numbers, and a
    first one is below 0.
    """
    time, unit = measurements.clock.microseconds("time"), measurements.clock.unit
    as_single = "CAST(CAST(TRY_CAST(time AS FLOAT) AS VARCHAR) AS DOUBLE)"
    survey = fetch(connection, f"""
        SELECT stay, min({time}) AS start, min({measurements.clock.resolution("time")}) AS resolution,
               bool_and({as_single} IS NOT DISTINCT FROM TRY_CAST(time AS DOUBLE)) AS single
        FROM {measurements.times()} JOIN stays USING (id) WHERE NOT {is_missing("time")} GROUP BY stay""",
                   "times", measurements.path)
    starts = np.full(len(stays), np.nan)
    starts[survey["stay"]] = survey["start"]
    early = np.flatnonzero(starts < 0)
    if unit is not None and stays["start"].isna().all() and len(early):
        raise UserError(f"{measurements.path}: the first time of id '{stays['id'][early[0]]}' is "
                        f"{starts[early[0]] / UNITS[unit]:g} {unit}, below 0 ({len(early)} such ids), and would start "
                        "its series. Correct or remove such rows, or give --origin, a column of the labels with the "
                        "time that the series start.")
    resolution = float(survey["resolution"].min(initial=step))
    # The time and the origin may each be off by half a unit. A whole one is off by a full unit in truth.
    tolerance = max(0.5, 0.999 * resolution) if 2 * resolution <= step else 0.5
    if unit is not None and survey["single"].all():
        # Time and origin are each rounded to float32, and to its shortest text.
        rounding = f"abs(moment) * {2 * float(np.finfo(np.float32).eps)}"
        return starts, f"greatest({tolerance}, least({rounding}, {step / 4}))"
    return starts, str(tolerance)


def require_memory(shape: tuple[int, int, int], memory_limit: str) -> None:
    """Raise UserError if x of the shape (N, L, C) float32 alone is larger than the memory limit, such as `8GB`."""
    number, prefix, binary = re.fullmatch(r"([\d.]+) ?([KMGT])(i?)B", memory_limit, re.IGNORECASE).groups()
    allowed = float(number) * (1024 if binary else 1000) ** (1 + "KMGT".index(prefix.upper()))
    needed = 4 * math.prod(shape)
    if needed > allowed:
        raise UserError(f"--length {shape[1]}: {shape[0]} ids x {shape[1]} steps x {shape[2]} variables need "
                        f"{needed / 1e9:,.1f} GB, more than the memory limit of {memory_limit}. Give a smaller "
                        "--length, fewer --channels or a larger --memory-limit.")


def grid_readings(connection: duckdb.DuckDBPyConnection, measurements: Measurements, channels: Sequence[Channel],
                  shape: tuple[int, int, int], step: float, tolerance: str) -> tuple[np.ndarray, dict[str, int]]:
    """Average the readings of each cell in one pass: x (N, L, C) float32 with NaN, and the readings of each reason.

    shape: (N, L, C). step: in microseconds. tolerance: as from `survey_times`. The connection knows the `stays` (id,
    stay, start). Raises UserError naming the row of the first reading whose time or value is not a number.
    """
    connection.register("channels", pd.DataFrame({
        "variable": [measurements.key(channel.name) for channel in channels], "channel": np.arange(len(channels)),
        "low": [channel.low for channel in channels], "high": [channel.high for channel in channels]}))
    judged = judge(measurements, step, shape[1], tolerance)
    used, sound = f"reason = {len(REASONS)}", len(FAULTS)
    # Compensated sums: the order of the rows, which threads change, must not change a mean.
    cells = fetch(connection, f"""
        SELECT fault, reason, stay, channel, step, count(*) AS readings, favg(number) AS mean FROM (
            SELECT fault, reason, if({used}, stay, 0) AS stay, if({used}, channel, 0) AS channel,
                   if({used} AND fault = {sound}, CAST(step AS BIGINT), 0) AS step, if({used}, number, 0) AS number
            FROM {judged(measurements.readings())})
        GROUP BY fault, reason, stay, channel, step""", "readings", measurements.path)
    if (cells["fault"] < sound).any():
        raise UserError(fault_of(connection, measurements, judged(measurements.readings(numbered=True))))
    kept = cells["reason"] == len(REASONS)
    x = np.full(shape, np.nan, dtype=np.float32)
    x[cells["stay"][kept], cells["step"][kept], cells["channel"][kept]] = cells["mean"][kept]
    warn_of_gaps(*(cells[name][kept] for name in ("stay", "channel", "step", "readings")), shape)
    counts = count_reasons(REASONS, cells["reason"], cells["readings"])
    return x, {what.replace("rows", "readings"): count for what, count in counts.items()}


def warn_of_gaps(stay: np.ndarray, channel: np.ndarray, step: np.ndarray, readings: np.ndarray,
                 shape: tuple[int, int, int]) -> None:
    """Warn on stderr where series with about one reading a step leave more than a tenth of their steps empty.

    stay, channel, step, readings (R,) int of the cells that are filled, in the shape (N, L, C).
    """
    series, size = stay.astype(np.int64) * shape[2] + channel, shape[0] * shape[2]
    first, last = np.full(size, shape[1]), np.full(size, -1)
    np.minimum.at(first, series, step)
    np.maximum.at(last, series, step)
    filled, read = np.bincount(series, minlength=size), np.bincount(series, readings, size)
    steps = np.maximum(last - first + 1, 1)
    regular = (steps > 2) & (np.abs(read - steps) <= np.maximum(1, 0.1 * steps))
    empty = 1 - filled[regular].sum() / max(steps[regular].sum(), 1)
    if regular.any() and empty > 0.1:
        print(f"warning: {empty:.0%} of the steps of {regular.sum():,} series are empty, although each has about as "
              "many readings as steps. If its times are regular, they fall to either side of the starts of steps: "
              "round them, give another --step, or with --origin a start that lies between two readings.",
              file=sys.stderr)


def judge(measurements: Measurements, step: float, length: int, tolerance: str) -> Callable[[str], str]:
    """Return a function that extends the SQL of readings by number, stay, channel, step, fault and reason, the last two
    as positions."""
    time, number = measurements.clock.microseconds("time"), "TRY_CAST(value AS DOUBLE)"
    return lambda readings: f"""(
        SELECT *, {reason_case(FAULTS)} AS fault, {reason_case(REASONS)} AS reason FROM (
            SELECT *, floor((moment - start + {tolerance}) / {step}) AS step, {length} AS length FROM (
                SELECT readings.*, stay, start, channel, low, high, {time} AS moment, {number} AS number
                FROM {readings} AS readings LEFT JOIN stays USING (id) LEFT JOIN channels USING (variable))))"""


def fault_of(connection: duckdb.DuckDBPyConnection, measurements: Measurements, judged: str) -> str:
    """Return the message on the first row whose time or value is not a number."""
    fault = fetch(connection, f"SELECT row, id, variable, time, value, fault FROM {judged} "
                              f"WHERE fault < {len(FAULTS)} ORDER BY row LIMIT 1", "fault", measurements.path)
    row, stay, variable, time, value, position = (fault[column][0] for column in fault)
    what = list(FAULTS)[position]
    expected = "a number" if what == "value" else measurements.clock.expected
    return (f"{measurements.path}, row {row} below the header: the {what} of id '{stay}', variable '{variable}'"
            f"{f', time {time}' * (what == 'value')}, is '{value if what == 'value' else time}'; expected {expected}.")


def first_id(connection: duckdb.DuckDBPyConnection, measurements: Measurements) -> str:
    """Return the id of the first measurement, empty where there is none."""
    return "".join(fetch(connection, f"SELECT id FROM {measurements.times()} LIMIT 1", "first id",
                         measurements.path)["id"])


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line."""
    parser = command.source_parser("tables", __doc__, prog, "measurements: .csv, .csv.gz or .parquet", "data/<input>")
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
    parser.add_argument("--channels", nargs="+", metavar="VARIABLE", help="variables to keep, in order (default: all)")
    parser.add_argument("--range", action="append", default=[], metavar="VARIABLE=LOW:HIGH",
                        help="drop values of a variable outside this closed interval; may be repeated")
    parser.add_argument("--impute", choices=RULES, default="forward",
                        help="forward fill, straight lines, or the training "
                        "median; the median also where a series has none (default: forward)")
    parser.add_argument("--memory-limit", default="8GB", help="memory for reading the tables (default: 8GB)")
    own_data.add_options(parser)
    command.run(parser, arguments, lambda options: Path("data", options.input.name.split(".")[0]), preprocess)


def column_name(text: str) -> str:
    """Return the name of a column as `query.source` wants it."""
    return text.strip().lower()


if __name__ == "__main__":
    main()
