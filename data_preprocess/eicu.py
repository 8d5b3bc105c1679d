"""eICU v2.0: 5-minute vital signs of the first day in the ICU, labelled by in-hospital death or length of stay.

    python -m data_preprocess.eicu --input DIR --output data/eicu_mortality

DIR holds the tables `patient` and `vitalPeriodic` (.csv, .csv.gz or .parquet, names and headers in any case) as
published at https://physionet.org/content/eicu-crd/2.0/. They are under credentialed access: sign the PhysioNet
Credentialed Health Data Use Agreement 1.5.0, and publish nothing derived from single records. The open demo,
https://physionet.org/content/eicu-crd-demo/2.0/, is recognised by its 2,520 unit stays.

The channels are HR, RR and SpO2 from heartrate, respiration and sao2, which is pulse oximetry. The table holds medians
of 5 minutes, not validated by staff. Valid are, as in eicu-code and with both bounds, 25 <= HR <= 225, 0 <= RR <= 60
and 0 <= SpO2 <= 100; other values are dropped, never repaired. Rows of one step are averaged.

Cohorts:
- complete (default): a row in each of the 288 steps of the first 24 hours, step = observationoffset // 5 for 0 <=
  observationoffset < 1440, and each channel observed at least once. A row may lack a channel; the mask tells. The paper
  names 288 steps and 31,065 stays, of which 3,173 died and 13,206 stayed over 3 days, and not its rule; this one is the
  natural candidate, and the counts are compared.
- timediff, after TimeDiff (62,453 stays): a row at or before minute 60 and one at or after minute 1440, and between
  them observationoffsets exactly 5 minutes apart. The 276 steps are 60 <= observationoffset < 1440. TimeDiff splits by
  stay, so that patients leak; here the split is by patient. A stay without a valid value is left out.

Labels: `mortality` is hospitaldischargestatus, Expired or Alive; a stay without it is left out. `length_of_stay` is
unitdischargeoffset > 4320 minutes, 3 days (`--days`). The split is by patient (uniquepid).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from data_preprocess import command, count_tables, grid, icu, query, target
from tardiff.data.format import Metadata, Split
from tardiff.utils.errors import UserError

STEP_MINUTES = 5
END_MINUTE = 24 * 60
VITALS = (
    grid.Vital("HR", "beats/min", 25, 225, "<=", "<="),
    grid.Vital("RR", "breaths/min", 0, 60, "<=", "<="),
    grid.Vital("SpO2", "%", 0, 100, "<=", "<="),
)
CHANNELS = [vital.name for vital in VITALS]
COLUMNS = ("heartrate", "respiration", "sao2")
HOSPITAL = ("numbedscategory", "teachingstatus", "region")
"""Columns of the table hospital."""

FULL = icu.Edition("eICU v2.0", "https://physionet.org/content/eicu-crd/2.0/", icu.CREDENTIALED, {
    "patients": 139_367, "stays read": 200_859, "rows read": 146_671_642})
DEMO = icu.Edition("eICU Demo v2.0", "https://physionet.org/content/eicu-crd-demo/2.0/", icu.OPEN, {
    "patients": 1841, "stays read": 2520})


@dataclass(frozen=True)
class Cohort:
    """A rule for stays: the first minute of its steps, its published counts by attrition step, and whether it asks for
    rows 5 minutes apart that begin by the first minute and go on to the end."""

    start: int
    published: Mapping[str, int]
    regular: bool

    @property
    def steps(self) -> int:
        return (END_MINUTE - self.start) // STEP_MINUTES


COHORTS = {
    "complete": Cohort(0, {"stays kept": 31_065, "deaths among them": 3_173, "over 3 days among them": 13_206},
                       regular=False),
    "timediff": Cohort(60, {"stays kept": 62_453}, regular=True),
}


def preprocess(options: argparse.Namespace) -> tuple[dict[str, Split], Metadata]:
    """Read the tables and print where every stay and row went; return the splits and their description.

    Raises UserError.
    """
    classes = icu.class_names(options.label, options.days)
    cohort = COHORTS[options.cohort]
    with query.open_engine(options.memory_limit, options.output) as connection:
        vital_periodic = query.find_table(options.input, "vitalPeriodic")
        stays, counts = read_stays(connection, options.input, options.label, options.days)
        stays = with_condition_columns(connection, options, stays)
        labelled, label_counts = grid.drop_rows({"stays without a label": stays["y"].isna().to_numpy()})
        stays = stays[labelled].reset_index(drop=True)
        row_counts = scan(connection, vital_periodic, stays, cohort)
        kept, stay_counts = grid.drop_rows(cohort_rules(connection, vital_periodic, cohort))
        stays = stays[kept].reset_index(drop=True)
        x = read_cells(connection, vital_periodic, np.flatnonzero(kept), cohort.steps)

    attrition = {**counts, **label_counts, **row_counts, **stay_counts, "stays kept": len(stays),
                 "deaths among them": int((stays["hospitaldischargestatus"] == "Expired").sum()),
                 "over 3 days among them": int((stays["unitdischargeoffset"] > 3 * 24 * 60).sum())}
    edition = DEMO if counts["stays read"] == DEMO.published["stays read"] else FULL
    count_tables.print_attrition({edition.title: attrition})
    cohort_counts = cohort.published if edition is FULL else {}
    count_tables.compare_with_published({**edition.published, **cohort_counts}, attrition)
    return icu.dataset_of_stays(
        options, "eicu", x, stays, "patientunitstayid", "uniquepid", VITALS, edition, classes,
        f"{STEP_MINUTES} minutes", {"minutes": [cohort.start, END_MINUTE], "attrition": {edition.title: attrition}})


def read_stays(connection: duckdb.DuckDBPyConnection, folder: Path, label: str, days: float
               ) -> tuple[pd.DataFrame, dict[str, int]]:
    """Read every unit stay with its patient and its label `y` (NaN if unknown), and the published counts.

    Raises UserError on a stay that stands there twice, that names no patient, or with another hospital discharge status
    than Expired, Alive or none.
    """
    stays = icu.read_table(connection, folder, "patient", {
        "patientunitstayid": "INTEGER", "uniquepid": "VARCHAR", "hospitaldischargestatus": "VARCHAR",
        "unitdischargeoffset": "INTEGER"})
    status = stays["hospitaldischargestatus"].fillna("")
    for column, wrong, expected in (("uniquepid", stays["uniquepid"].isna(), "the code of a patient"),
                                    ("hospitaldischargestatus", ~status.isin(["Expired", "Alive", ""]),
                                     "Expired, Alive or nothing")):
        if wrong.any():
            row = stays[wrong].iloc[0]
            raise UserError(f"table patient: {column} of patientunitstayid {row['patientunitstayid']} is "
                            f"'{row[column]}', expected {expected}. {query.AGAIN}")
    minutes = pd.Series(stays["unitdischargeoffset"], dtype=float)
    value, threshold, known = {
        "mortality": (status == "Expired", 0, status != ""),
        "length_of_stay": (minutes, days * 24 * 60, minutes.notna()),
    }[label]
    stays["y"] = (value > threshold).astype(float).where(known)
    return stays, {"patients": stays["uniquepid"].nunique(), "stays read": len(stays)}


def with_condition_columns(connection: duckdb.DuckDBPyConnection, options: argparse.Namespace, stays: pd.DataFrame
                           ) -> pd.DataFrame:
    """Return the stays with the columns that the condition of a target names, of their rows in the table patient, and
    of their hospitals where they are in HOSPITAL."""
    names = target.columns_named(options)
    of_hospital = [name for name in names if name in HOSPITAL]
    of_stay = [name for name in names if name not in HOSPITAL]
    stays = icu.with_condition_columns(connection, options, stays, "patient",
                                       list(dict.fromkeys([*of_stay, *["hospitalid"] * bool(of_hospital)])))
    if not of_hospital:
        return stays
    hospitals = pd.to_numeric(stays[target.CONDITION_COLUMN.format("hospitalid")]).rename("hospitalid").to_frame()
    found = icu.with_condition_columns(connection, options, hospitals, "hospital", of_hospital)
    return stays.join(found.drop(columns="hospitalid"))


def scan(connection: duckdb.DuckDBPyConnection, vital_periodic: Path, stays: pd.DataFrame,
         cohort: Cohort) -> dict[str, int]:
    """Read all rows once, make the table `cells` of (reason, stay, step, rows, first, last, HR, RR, SpO2), and count
    rows.

    stays: by position. `first` and `last` are minutes, the vitals are means of valid values or NULL. Rows outside the
    window have no step and stand in one group a stay.
    """
    connection.register("stays", pd.DataFrame({
        "stay": np.arange(len(stays), dtype=np.int32), "patientunitstayid": stays["patientunitstayid"]}))
    reasons = {
        "rows of stays without a label": "stay IS NULL",
        f"rows outside minutes {cohort.start} to {END_MINUTE}":
            f"(minute >= {cohort.start} AND minute < {END_MINUTE}) IS NOT TRUE",
    }
    table = query.source(vital_periodic, {"patientunitstayid": "INTEGER", "observationoffset": "INTEGER",
                                          **dict.fromkeys(COLUMNS, "DOUBLE")})
    # A sum in fixed point does not depend on the order in which threads add.
    means = ", ".join(f"avg(CAST(IF({vital.condition(column)}, {column}, NULL) AS DECIMAL(18, 9))) AS {vital.name}"
                      for vital, column in zip(VITALS, COLUMNS, strict=True))
    query.fetch(connection, f"""
        CREATE TEMP TABLE cells AS
        SELECT reason, stay, step, count(*) AS rows, min(minute) AS first, max(minute) AS last, {means}
        FROM (SELECT *, observationoffset AS minute, {query.reason_case(reasons)} AS reason,
                     IF(reason = {len(reasons)}, (minute - {cohort.start}) // {STEP_MINUTES}, NULL) AS step
              FROM {table} LEFT JOIN stays USING (patientunitstayid))
        GROUP BY reason, stay, step""", "vitalPeriodic", vital_periodic)
    return query.count_rows(connection, reasons, "cells", vital_periodic)


def cohort_rules(connection: duckdb.DuckDBPyConnection, vital_periodic: Path, cohort: Cohort) -> dict[str, np.ndarray]:
    """Return the rules of a cohort and the stays (N,) bool that each drops, from the tables of the last scan."""
    # Two minutes in one step, or steps that begin at different minutes, are not 5 minutes apart.
    found = query.fetch(connection, f"""
        SELECT count(step) AS steps,
               coalesce(min(first) <= {cohort.start} AND max(last) >= {END_MINUTE}, false) AS begins_and_ends,
               coalesce(bool_and(first = last) FILTER (step IS NOT NULL), false)
               AND count(DISTINCT first % {STEP_MINUTES}) FILTER (step IS NOT NULL) = 1 AS regular,
               {', '.join(f'count({name}) AS {name}' for name in CHANNELS)}
        FROM stays LEFT JOIN cells USING (stay) GROUP BY stay ORDER BY stay""", "stays", vital_periodic)
    absent = np.stack([found[name] == 0 for name in CHANNELS])
    incomplete = {"stays without a row in each 5 minutes": found["steps"] < cohort.steps}
    if not cohort.regular:
        return {**incomplete, "stays without one of the channels": absent.any(axis=0)}
    return {**incomplete, "stays that begin late or end early": ~found["begins_and_ends"],
            "stays with rows not 5 minutes apart": ~found["regular"],
            "stays without a vital sign in the window": absent.all(axis=0)}


def read_cells(connection: duckdb.DuckDBPyConnection, vital_periodic: Path, kept: np.ndarray, steps: int) -> np.ndarray:
    """Return the means of the kept stays, given by position (N,): (N, steps, 3) float32, NaN where unobserved."""
    connection.register("kept", pd.DataFrame({"stay": kept.astype(np.int32), "position": np.arange(len(kept))}))
    cells = query.fetch(connection, f"""
        SELECT position, step, {', '.join(f'{name}::FLOAT AS {name}' for name in CHANNELS)}
        FROM cells JOIN kept USING (stay) WHERE step IS NOT NULL""", "5-minute means", vital_periodic)
    x = np.full((len(kept), steps, len(CHANNELS)), np.nan, dtype=np.float32)
    for channel, name in enumerate(CHANNELS):
        x[cells["position"], cells["step"], channel] = cells[name]
    return x


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line."""
    parser = icu.icu_parser("eicu", __doc__, prog, "folder with the tables of eICU", tuple(COHORTS),
                            "those of patient, such as hospitalid or unittype, and of hospital, such as region")
    command.run(parser, arguments, lambda options: Path("data", f"eicu_{icu.TASKS[options.label]}"), preprocess)


if __name__ == "__main__":
    main()
