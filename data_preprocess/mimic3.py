"""MIMIC-III v1.4: hourly vital signs of the first day in the ICU, labelled by in-hospital death or length of stay.

    python -m data_preprocess.mimic3 --input DIR --output data/mimic3_mortality

DIR holds the tables CHARTEVENTS, ICUSTAYS, ADMISSIONS and PATIENTS (.csv, .csv.gz or .parquet, names and headers in any
case) as published at https://physionet.org/content/mimiciii/1.4/. They are under credentialed access: sign the
PhysioNet Credentialed Health Data Use Agreement 1.5.0, and publish nothing derived from single records. The open demo,
https://physionet.org/content/mimiciii-demo/1.4/, is recognised by its 100 patients.

The channels are HR, SBP, DBP, MBP, RR, Temp and SpO2, from the item ids of mimic-code and 225309, 225310. All items of
a channel count alike, so invasive and non-invasive pressures are averaged, as mimic-code does. Items in Fahrenheit are
known by their id, checked against 70 < F < 120 and converted. Values outside the ranges are dropped, never repaired; an
SpO2 charted as a fraction lies in the range of mimic-code and stays as it is. VALUENUM is read, VALUE is not.

Cohorts:
- clean (default): CareVue and MetaVision; patients of 18 years or more at admission to the ICU (those over 89 have a
  shifted date of birth and count as adults); their first ICU stay; at least 24 hours; rows with error = 1 are dropped.
  Hour h averages the valid values in [intime + h, intime + h + 1), h = 0..23.
- timediff, after TimeDiff (26,150 stays; the paper's 20,920 training stays are 80 % of them, of which 1,680 died, 8.0
  %): MetaVision items; every stay that has such rows, with no rule of age or length, several stays a patient; the error
  flag is not checked. Rows of one chart time are averaged. Time 0 is the first chart time of these items, valid or not.
  A chart time belongs to its nearest hour (a half hour to the next one), and each hour keeps the nearest chart time
  alone, the earlier of two equally near. TimeDiff publishes hours 0..24, the paper 24 of them: here hours 0..23.
  TimeDiff splits by stay, so that patients leak; here too the split is by patient. A stay without a valid value is left
  out.

Labels: `mortality` is ADMISSIONS.hospital_expire_flag of the admission of the stay, where TimeDiff takes it from the
patient's admission that is listed first, so that its deaths are compared as a share alone. `length_of_stay` is
ICUSTAYS.los > 3 days (`--days`). The paper's 2,869 of 20,920 stays over 3 days (13.7 %) are not compared: they
contradict its own results, whose chance level of AUPRC, 0.34, is the share of stays over 3 days in MIMIC-III.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from data_preprocess import command, count_tables, grid, icu, query, target
from tardiff.data.format import Metadata, Split

HOURS = 24
CHANNELS = [vital.name for vital in grid.VITALS]
COHORTS = ("clean", "timediff")

# Channel -> item ids of CareVue and of MetaVision.
ITEMS = {
    "HR": ((211,), (220045,)),
    "SBP": ((51, 442, 455, 6701), (220050, 220179, 225309)),
    "DBP": ((8368, 8440, 8441, 8555), (220051, 220180, 225310)),
    "MBP": ((52, 443, 456, 6702), (220052, 220181, 225312)),
    "RR": ((615, 618), (220210, 224690)),
    "Temp": ((676, 678), (223762, 223761)),
    "SpO2": ((646,), (220277,)),
}
FAHRENHEIT_ITEMS = (678, 223761)
FAHRENHEIT = grid.Vital("Temp", "degrees Fahrenheit", 70, 120)

# Why a row counts for no stay, and why it holds no value: reason -> SQL condition.
OUTSIDE = {"rows without an ICU stay": "icustay_id IS NULL", "rows of stays outside the cohort": "stay IS NULL"}
INVALID = {"rows without a number": "valuenum IS NULL", "rows out of range": "NOT valid"}

FULL = icu.Edition("MIMIC-III v1.4", "https://physionet.org/content/mimiciii/1.4/", icu.CREDENTIALED, {
    "patients": 46_520, "admissions": 58_976, "stays read": 61_532, "rows read": 330_712_483})
DEMO = icu.Edition("MIMIC-III Demo v1.4", "https://physionet.org/content/mimiciii-demo/1.4/", icu.OPEN, {
    "patients": 100, "admissions": 129, "stays read": 136, "rows read": 758_355})
TIMEDIFF = {"stays kept": 26_150, "deaths in 100 stays": 8}  # 1,680 of the 20,920 training stays


def preprocess(options: argparse.Namespace) -> tuple[dict[str, Split], Metadata]:
    """Read the tables and print where every stay and row went; return the splits and their description.

    Raises UserError.
    """
    classes = icu.class_names(options.label, options.days)
    with query.open_engine(options.memory_limit, options.output) as connection:
        chartevents = query.find_table(options.input, "CHARTEVENTS")
        stays, counts = read_stays(connection, options.input, options.label, options.days)
        stays = icu.with_condition_columns(connection, options, stays, "ICUSTAYS", target.columns_named(options))
        clean = options.cohort == "clean"
        rules = clean_rules(stays) if clean else {"stays without a label": stays["y"].isna()}
        kept, stay_counts = grid.drop_rows(rules)
        stays = stays[kept].reset_index(drop=True)
        cells, row_counts = (clean_cells if clean else timediff_cells)(connection, chartevents, stays)

    x = np.full((len(stays), HOURS, len(CHANNELS)), np.nan, dtype=np.float32)
    x[cells["stay"], cells["hour"], cells["channel"]] = cells["mean"]
    kept = ~np.isnan(x).all(axis=(1, 2))
    attrition = {**counts, **stay_counts, **row_counts, "stays without a vital sign in the window": int((~kept).sum()),
                 "stays kept": int(kept.sum()),
                 "deaths among them": int((stays["hospital_expire_flag"] == 1)[kept].sum())}
    edition = DEMO if counts["patients"] == DEMO.published["patients"] else FULL
    count_tables.print_attrition({edition.title: attrition})
    timediff_counts = TIMEDIFF if edition is FULL and not clean else {}
    share = round(100 * attrition["deaths among them"] / max(attrition["stays kept"], 1))
    observed = {**attrition, "deaths in 100 stays": share}
    count_tables.compare_with_published({**edition.published, **timediff_counts}, observed)
    return icu.dataset_of_stays(
        options, "mimic3", x[kept], stays[kept], "icustay_id", "subject_id", grid.VITALS, edition, classes, "1 hour",
        {"hours": HOURS, "attrition": {edition.title: attrition}})


def read_stays(connection: duckdb.DuckDBPyConnection, folder: Path, label: str, days: float
               ) -> tuple[pd.DataFrame, dict[str, int]]:
    """Read every ICU stay with its patient's date of birth, its admission's outcome and its label `y` (NaN if unknown).

    Returns the stays in order of icustay_id and the published counts. Raises UserError on a key that is not unique, and
    on a stay whose patient or admission is not there.
    """
    stays = icu.read_table(connection, folder, "ICUSTAYS", {
        "icustay_id": "INTEGER", "subject_id": "INTEGER", "hadm_id": "INTEGER", "intime": "TIMESTAMP", "los": "DOUBLE"})
    admissions = icu.read_table(connection, folder, "ADMISSIONS", {
        "hadm_id": "INTEGER", "hospital_expire_flag": "INTEGER"})
    patients = icu.read_table(connection, folder, "PATIENTS", {"subject_id": "INTEGER", "dob": "TIMESTAMP"})
    stays = stays.join(icu.look_up(patients, "PATIENTS", stays["subject_id"]))
    stays = stays.join(icu.look_up(admissions, "ADMISSIONS", stays["hadm_id"]))
    value, threshold = {"mortality": (stays["hospital_expire_flag"], 0), "length_of_stay": (stays["los"], days)}[label]
    stays["y"] = (value > threshold).astype(float).where(value.notna())
    return stays, {"patients": len(patients), "admissions": len(admissions), "stays read": len(stays)}


def clean_rules(stays: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the rules of the clean cohort and the stays (N,) bool that each drops."""
    later = stays.sort_values(["intime", "icustay_id"]).duplicated("subject_id").reindex(stays.index)
    rules = {
        "stays of patients under 18 years": ~(stays["dob"] + pd.DateOffset(years=18) <= stays["intime"]),
        "stays after the first of the patient": later,
        "stays shorter than 24 hours": ~(stays["los"] >= 1),
        "stays without a label": stays["y"].isna(),
    }
    return {rule: dropped.to_numpy() for rule, dropped in rules.items()}


def clean_cells(connection: duckdb.DuckDBPyConnection, chartevents: Path, stays: pd.DataFrame
                ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return the hourly means since admission, as arrays stay, hour, channel, mean (R,), and where every row went."""
    items = {item: channel for channel, groups in ITEMS.items() for group in groups for item in group}
    rules = {
        "rows with the error flag": "error = 1",
        **OUTSIDE,
        "rows outside the first 24 hours":
            f"(charttime >= intime AND charttime < intime + INTERVAL {HOURS} HOUR) IS NOT TRUE",
        **INVALID,
    }
    hour = f"date_diff('second', intime, charttime) // {60 * 60}"
    reasons = scan(connection, chartevents, stays, items, hour, rules)
    means = f"SELECT stay, moment AS hour, channel, mean FROM means WHERE reason = {len(reasons)}"
    cells = query.fetch(connection, means, "hourly means", chartevents)
    return cells, query.count_rows(connection, reasons, "means", chartevents)


def timediff_cells(connection: duckdb.DuckDBPyConnection, chartevents: Path, stays: pd.DataFrame
                   ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return the means at the chart time nearest to each hour since the first one, and where every row went."""
    items = {item: channel for channel, (_, metavision) in ITEMS.items() for item in metavision}
    reasons = scan(connection, chartevents, stays, items, moment="charttime", rules={**OUTSIDE, **INVALID})
    cells = query.fetch(connection, f"""
        WITH timed AS (
            SELECT stay, moment, date_diff('second', min(moment) OVER (PARTITION BY stay), moment) AS second
            FROM (SELECT DISTINCT stay, moment FROM means WHERE moment IS NOT NULL)),
        nearest AS (
            SELECT stay, moment, (second + 1800) // 3600 AS hour FROM timed WHERE second + 1800 < {HOURS * 3600}
            QUALIFY row_number() OVER (PARTITION BY stay, hour ORDER BY abs(second - 3600 * hour), second) = 1)
        SELECT stay, hour, channel, mean, rows FROM nearest JOIN means USING (stay, moment)
        WHERE reason = {len(reasons)}""", "nearest chart times", chartevents)
    counts = query.count_rows(connection, reasons, "means", chartevents)
    used = int(cells["rows"].sum())
    return cells, {**counts, "rows used": used, "rows at other chart times or later": counts["rows used"] - used}


def scan(connection: duckdb.DuckDBPyConnection, chartevents: Path, stays: pd.DataFrame, items: Mapping[int, str],
         moment: str, rules: Mapping[str, str]) -> dict[str, str]:
    """Read all chart rows once, and make the table `means` of (reason, stay, moment, channel, rows, mean).

    stays: the cohort, by position. moment: SQL for the time within a stay. rules: reason -> SQL condition that drops a
    row. Rows without a value keep their stay and moment; rows of no stay or dropped by other rules stand in one group a
    reason. Returns the rules after the first, which is that the item is none of `items`.
    """
    connection.register("stays", pd.DataFrame({
        "stay": np.arange(len(stays), dtype=np.int32), "icustay_id": stays["icustay_id"], "intime": stays["intime"]}))
    item_rows = ", ".join(f"({item}, {CHANNELS.index(channel)}, {item in FAHRENHEIT_ITEMS})"
                          for item, channel in items.items())
    valid = " ".join(f"WHEN channel = {number} THEN {vital.condition('valuenum')}"
                     for number, vital in enumerate(grid.VITALS))
    reasons = {"rows of other items": "channel IS NULL", **rules}
    charted = [position for position, reason in enumerate(reasons) if reason in INVALID] + [len(reasons)]
    table = query.source(chartevents, {"icustay_id": "INTEGER", "itemid": "INTEGER", "charttime": "TIMESTAMP",
                                       "valuenum": "DOUBLE", "error": "INTEGER"})
    # A sum in fixed point does not depend on the order in which threads add.
    query.fetch(connection, f"""
        CREATE TEMP TABLE means AS
        SELECT reason, IF(charted, stay, NULL) AS stay, IF(charted, moment, NULL) AS moment,
               IF(charted, channel, NULL) AS channel, count(*) AS rows,
               avg(CAST(IF(reason = {len(reasons)}, value, NULL) AS DECIMAL(18, 9))) AS mean
        FROM (SELECT *, {query.reason_case(reasons)} AS reason, reason IN ({', '.join(map(str, charted))}) AS charted,
                     {moment} AS moment, IF(fahrenheit, (valuenum - 32) / 1.8, valuenum) AS value
              FROM (SELECT *, CASE WHEN fahrenheit THEN {FAHRENHEIT.condition('valuenum')} {valid} END AS valid
                    FROM {table} LEFT JOIN (VALUES {item_rows}) AS items (itemid, channel, fahrenheit) USING (itemid)
                    LEFT JOIN stays USING (icustay_id)))
        GROUP BY ALL""", "CHARTEVENTS", chartevents)
    return reasons


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line."""
    parser = icu.icu_parser("mimic3", __doc__, prog, "folder with the tables of MIMIC-III", COHORTS,
                            "those of ICUSTAYS, such as first_careunit")
    command.run(parser, arguments, lambda options: Path("data", f"mimic3_{icu.TASKS[options.label]}"), preprocess)


if __name__ == "__main__":
    main()
