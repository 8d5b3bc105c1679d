"""The measurements of your own tables: where they stand, how their times are written, and their means on a grid."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from data_preprocess.own_data import Channel, listed
from data_preprocess.query import (
    count_reasons,
    fetch,
    identifier,
    quoted,
    reason_case,
    source,
    table_columns,
)
from tardiff.data.format import UNIT_SECONDS
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
    "readings without a value": f"({is_missing('value')} OR stands_for_missing)",
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
        return f"a timestamp such as 2024-01-31 15:00:00, {offset} (of numbers give the unit, such as --time-unit h)"


@dataclass(frozen=True)
class Measurements:
    """The table of measurements: its file, its columns in lower case, how its times are written, and the numbers that
    stand for a missing value."""

    path: Path
    id: str
    time: str
    variable: str
    value: str
    wide: tuple[str, ...] | None
    clock: Clock
    missing: tuple[float, ...]

    def key(self, variable: str) -> str:
        """Return what tells a variable from others: its name, for a column in lower case."""
        return variable.lower() if self.wide else variable

    def times(self) -> str:
        """Return the SQL of id and time of every row."""
        return f"(SELECT trim({identifier(self.id)}) AS id, trim({identifier(self.time)}) AS time FROM " \
               f"{source(self.path, dict.fromkeys((self.id, self.time), 'VARCHAR'), self.id)})"

    def readings(self, numbered: bool = False) -> str:
        """Return the SQL of id, time, variable and value of every reading, as text; numbered: and of its row, from
        1."""
        values = tuple(map(self.key, self.wide or ())) or (self.variable, self.value)
        table = source(self.path, dict.fromkeys((self.id, self.time, *values), "VARCHAR"), self.id)
        if numbered:
            table = f"(SELECT row_number() OVER () AS \"row number\", * FROM {table})"
        if self.wide:
            table = f"{table} UNPIVOT INCLUDE NULLS (\"cell value\" FOR \"cell variable\" IN " \
                    f"({', '.join(map(identifier, values))}))"
        variable, value = ("cell variable", "cell value") if self.wide else values
        row = "\"row number\" AS row, " if numbered else ""
        return f"(SELECT {row}trim({identifier(self.id)}) AS id, trim({identifier(self.time)}) AS time, " \
               f"trim({identifier(variable)}) AS variable, trim({identifier(value)}) AS value FROM {table})"


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
                                Clock(options.time_unit), tuple(options.missing))
    if options.time_unit is not None:
        return measurements
    first = fetch(connection, f"SELECT regexp_full_match(time, {quoted(ZONED)}) AS zoned FROM {measurements.times()} "
                              f"WHERE NOT {is_missing('time')} LIMIT 1", "first time", options.input)["zoned"]
    return replace(measurements, clock=Clock(None, bool(first.any())))


def columns(path: Path) -> list[str]:
    """Return the names of a table's columns. Raises UserError if the file is not there or no table."""
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: file not found. Give a .csv, .csv.gz or .parquet file.")
    return [column.strip() for column, _ in table_columns(path)]


def survey_times(connection: duckdb.DuckDBPyConnection, measurements: Measurements, stays: pd.DataFrame, step: float,
                 length: int) -> tuple[np.ndarray, str]:
    """Return the start (N,) of each stay in microseconds, NaN where it has none, and the SQL of the error that a time
    may have.

    stays: with starts where origins are given; else the start is the first time of the id in the measurements. step: in
    microseconds. Warns on stderr of ids that differ in spelling alone, and of a first time that stands alone in the
    `length` steps from it on. Raises UserError if no origins are given, times are numbers, and a first one is below 0.
    """
    time, unit = measurements.clock.microseconds("time"), measurements.clock.unit
    as_single = "CAST(CAST(TRY_CAST(time AS FLOAT) AS VARCHAR) AS DOUBLE)"
    # The second time is looked for among so many first ones, for several variables may have the first one.
    survey = pd.DataFrame(fetch(connection, f"""
        SELECT id, min(moment) AS first, list_sort(list_distinct(min(moment, 64)))[2] AS second,
               min({measurements.clock.resolution("time")}) AS resolution,
               bool_and({as_single} IS NOT DISTINCT FROM TRY_CAST(time AS DOUBLE)) AS single
        FROM (SELECT *, {time} AS moment FROM {measurements.times()} WHERE NOT {is_missing("time")})
        WHERE id IS NOT NULL GROUP BY id""", "times", measurements.path))
    warn_of_spellings(survey["id"], stays["id"], measurements.path)
    survey = survey.set_index("id").reindex(stays["id"])
    starts = stays["start"].to_numpy()
    if np.isnan(starts).all():
        starts = survey["first"].to_numpy(dtype=np.float64)
        early = np.flatnonzero(starts < 0)
        if unit is not None and len(early):
            raise UserError(f"{measurements.path}: the first time of id '{stays['id'][early[0]]}' is "
                            f"{starts[early[0]] / UNITS[unit]:g} {unit}, below 0 ({len(early)} such ids), and would "
                            "start its series. Correct or remove such rows, or give --origin, a column of the labels "
                            "with the time that the series start.")
        alone = stays["id"][(survey["second"].to_numpy(dtype=np.float64) - starts >= length * step)]
        if len(alone):
            print(f"warning: {measurements.path}: the first time of {len(alone):,} ids ({listed(list(alone))}) is "
                  "followed by none in the whole window, so that all later rows are left out. Correct a wrong date, or "
                  "give --origin, a column of the labels with the time that the series start.", file=sys.stderr)
    resolution = float(survey["resolution"].min())
    # The time and the origin may each be off by half a unit. A whole one is off by a full unit in truth.
    tolerance = max(0.5, 0.999 * resolution) if 2 * resolution <= step else 0.5
    if unit is not None and survey["single"].dropna().all():
        # Time and origin are each rounded to float32, and to its shortest text.
        rounding = f"abs(moment) * {2 * float(np.finfo(np.float32).eps)}"
        return starts, f"greatest({tolerance}, least({rounding}, {step / 4}))"
    return starts, str(tolerance)


def warn_of_spellings(measured: pd.Series, labelled: pd.Series, path: Path) -> None:
    """Warn on stderr of ids of the labels without a row in the file `path`, which has theirs in another spelling."""
    def plain(ids: pd.Series) -> pd.Series:
        return ids.str.lower().str.replace(r"^0+(?=.)|\.0*$", "", regex=True)

    unmeasured, unlabelled = labelled[~labelled.isin(measured)], measured[~measured.isin(labelled)]
    spelt = dict(zip(plain(unlabelled), unlabelled, strict=True))
    pairs = [(label, spelt[key]) for label, key in zip(unmeasured, plain(unmeasured), strict=True) if key in spelt]
    if pairs:
        examples = listed([f"'{label}' and '{found}'" for label, found in pairs][:4])
        print(f"warning: {len(pairs):,} ids of the labels have no row in {path}, whose ids differ from them in zeros, "
              f"case or '.0' alone: {examples}. Spell ids alike, or these are left out.", file=sys.stderr)


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
        SELECT fault, reason, stay, channel, step, code, count(*) AS readings, favg(number) AS mean FROM (
            SELECT fault, reason, if(stands_for_missing, number, NULL) AS code,
                   if({used}, stay, 0) AS stay, if({used}, channel, 0) AS channel,
                   if({used} AND fault = {sound}, CAST(step AS BIGINT), 0) AS step, if({used}, number, 0) AS number
            FROM {judged(measurements.readings())})
        GROUP BY fault, reason, stay, channel, step, code""", "readings", measurements.path)
    if (cells["fault"] < sound).any():
        raise UserError(fault_of(connection, measurements, judged(measurements.readings(numbered=True))))
    if unread := sorted({*measurements.missing} - {*cells["code"][~np.isnan(cells["code"])]}):
        print(f"warning: --missing {' '.join(f'{code:g}' for code in unread)}: no reading of {measurements.path} has "
              "such a value.", file=sys.stderr)
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
    codes = ", ".join(f"CAST('{code}' AS DOUBLE)" for code in (*measurements.missing, "nan"))
    return lambda readings: f"""(
        SELECT *, {reason_case(FAULTS)} AS fault, {reason_case(REASONS)} AS reason FROM (
            SELECT *, floor((moment - start + {tolerance}) / {step}) AS step, {length} AS length,
                   coalesce(number IN ({codes}), false) AS stands_for_missing FROM (
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
