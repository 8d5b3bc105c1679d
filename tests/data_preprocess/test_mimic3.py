"""MIMIC-III: tiny tables in the publisher's format, cell by cell, and the demo against plain pandas where present."""

import gzip
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from user_errors import replaced_in

from data_preprocess import mimic3
from tardiff.data.format import read_dataset
from tardiff.utils.lock import LOCK

REPOSITORY = Path(__file__).parents[2]
CHANNELS = ["HR", "SBP", "DBP", "MBP", "RR", "Temp", "SpO2"]
HEADERS = {
    "CHARTEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,ITEMID,CHARTTIME,STORETIME,CGID,VALUE,VALUENUM,VALUEUOM,"
                   "WARNING,ERROR,RESULTSTATUS,STOPPED",
    "ICUSTAYS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,DBSOURCE,FIRST_CAREUNIT,LAST_CAREUNIT,FIRST_WARDID,LAST_WARDID,"
                "INTIME,OUTTIME,LOS",
    "ADMISSIONS": "ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,DEATHTIME,ADMISSION_LOCATION,HOSPITAL_EXPIRE_FLAG,DIAGNOSIS",
    "PATIENTS": "ROW_ID,SUBJECT_ID,GENDER,DOB,EXPIRE_FLAG",
}
# Every channel of MetaVision once, at a minute since admission.
METAVISION = {220045: (80, 90), 220179: (120, 90), 220180: (60, 90), 220181: (75, 90), 220210: (16, 90),
              223762: (37, 200),
              220277: (97, 90)}


def chart_row(stay, item, minute, value, error=0):
    """One row of CHARTEVENTS as published; `minute` since the admission at 2150-01-01 00:30:00."""
    time = pd.Timestamp("2150-01-01 00:30:00") + pd.Timedelta(minutes=minute)
    keys = f"1,{stay - 200000},{stay - 100000},{stay},{item}"
    return f'{keys},{time},{time},1,"{value}, x",{value},"unit",0,{error},"",""'


def stay_row(stay, subject, admission, los=2.5, intime="2150-01-01 00:30:00"):
    return f'1,{subject},{admission},{stay},"metavision","MICU","MICU",1,1,{intime},2150-02-01 00:00:00,{los}'


def admission_row(subject, admission, died):
    return f'1,{subject},{admission},2150-01-01 00:00:00,,"EMERGENCY",{died},"A, ""B"""'


def patient_row(subject, dob="2090-05-05 00:00:00"):
    return f'1,{subject},"F",{dob},0'


def cohort(number=20):
    """Plain stays of as many patients; the first 6 died, every other one stays 5 days."""
    tables = {name: [] for name in HEADERS}
    for i in range(number):
        stay = 200001 + i
        tables["ICUSTAYS"].append(stay_row(stay, 1 + i, 100001 + i, 5.0 if i % 2 else 2.5))
        tables["ADMISSIONS"].append(admission_row(1 + i, 100001 + i, int(i < 6)))
        tables["PATIENTS"].append(patient_row(1 + i))
        tables["CHARTEVENTS"] += [chart_row(stay, item, minute, value + i / 10)
                                  for item, (value, minute) in METAVISION.items()]
    return tables


def quoted_header(name):
    return ",".join(f'"{column}"' for column in HEADERS[name].split(","))


def write_tables(folder, tables, form="publisher"):
    """Write the tables as published, in another text form, or as Parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        text = "\n".join([quoted_header(name), *rows]) + "\n"
        if form == "publisher":
            (folder / f"{name}.csv").write_text(text)
        elif form == "gz":
            (folder / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
        elif form == "lower case":
            text = "\n".join([HEADERS[name].lower(), *reversed(rows)]) + "\n"
            (folder / f"{name.lower()}.csv").write_text(text)
        else:
            (folder / "text.csv").write_text(text)
            duckdb.sql(f"COPY (FROM read_csv('{folder / 'text.csv'}', all_varchar = true)) TO "
                       f"'{folder / name}.parquet'")
            (folder / "text.csv").unlink()
    return folder


def convert(folder, output, *options):
    mimic3.main(["--input", str(folder), "--output", str(output), *options])
    return read_dataset(output)


def by_subject(dataset):
    """Return {subject: (x, mask, y)} over all splits, for one stay a subject."""
    return {int(subject): (x, mask, int(y)) for split in dataset.splits.values()
            for subject, x, mask, y in zip(split.subject, split.x, split.mask, split.y, strict=True)}


def cells(dataset, subject):
    """Return the observed cells of a subject's one stay as {(hour, channel): value}."""
    x, mask, _ = by_subject(dataset)[subject]
    return {(int(hour), CHANNELS[channel]): float(x[hour, channel]) for hour, channel in np.argwhere(mask)}


def attrition(dataset):
    (counts,) = dataset.meta.cohort["attrition"].values()
    return counts


# (item, minute, value[, error]) of a clean stay and of the hourly means that they must give.
CLEAN = {
    (220045, 0, 80): (0, "HR", 85), (211, 59, 90): None,                        # both systems, both ends of an hour
    (220045, 60, 100): (1, "HR", 100), (220045, 61, 300): None,                 # out of range
    (220045, 62, 500, 1): None,                                                 # the error flag
    (220045, -1, 55): None, (220045, 1440, 55): None, (220045, 1439, 55): (23, "HR", 55),
    (220050, 120, 110): (2, "SBP", 120), (220179, 125, 120): None, (225309, 130, 130): None,  # invasive and not
    (51, 185, 101): (3, "SBP", 101), (3313, 185, 50): None,                     # an item that only others count
    (8368, 185, 50): (3, "DBP", 55), (225310, 186, 60): None,
    (52, 190, 70): (3, "MBP", 75), (225312, 190, 80): None, (224322, 190, 10): None,
    (618, 0, 12): (0, "RR", 14), (224690, 0, 16): None, (224690, 0, 70): None,
    (223761, 300, 98.6): (5, "Temp", 37), (223761, 301, 37): None, (678, 360, 212): None,
    (678, 361, 100.4): (6, "Temp", 38),
    (676, 420, 36): (7, "Temp", 36), (676, 421, 10): None,
    (646, 480, 100): (8, "SpO2", 100), (220277, 481, 100.1): None, (220277, 540, ""): None,
    (220277, 600, 0.5): (10, "SpO2", .5),
}


def clean_quirks():
    """The plain cohort, the stay of quirks (patient 50, who died), and stays that the rules leave out (51..)."""
    tables = cohort()
    stays = {250: ("2090-05-05", 2.5, 1), 251: ("2132-01-01 00:30:01", 2.5, 0), 252: ("2132-01-01 00:00:00", 2.5, 0),
             253: ("1850-01-01", 2.5, 0), 254: ("2090-05-05", 0.9999, 0), 255: ("2090-05-05", "", 0),
             256: ("2090-05-05", 2.5, 0)}
    for number, (dob, los, died) in stays.items():
        tables["ICUSTAYS"].append(stay_row(200000 + number, number, 100000 + number, los))
        tables["ADMISSIONS"].append(admission_row(number, 100000 + number, died))
        tables["PATIENTS"].append(patient_row(number, dob))
        if number not in (250, 256):  # the last one has no vital sign
            tables["CHARTEVENTS"].append(chart_row(200000 + number, 220045, 5, 77))
    # A later and an earlier stay of patient 1, and a row of no stay.
    tables["ICUSTAYS"].append(stay_row(200300, 1, 100300, 3.5, "2150-03-01 00:30:00"))
    tables["ICUSTAYS"].append(stay_row(200900, 2, 100900, 3.5, "2149-03-01 00:30:00"))
    tables["ADMISSIONS"] += [admission_row(1, 100300, 1), admission_row(2, 100900, 1)]
    tables["CHARTEVENTS"] += [chart_row(200300, 220045, 5, 77),
                              chart_row(200001, 220045, 5, 77).replace(",200001,", ",,")]
    tables["CHARTEVENTS"] += [chart_row(200250, *row) for row in CLEAN]
    return tables


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("published"), clean_quirks())


@pytest.fixture(scope="module")
def dataset(published, tmp_path_factory):
    return convert(published, tmp_path_factory.mktemp("output") / "mortality")


def test_every_cell_of_the_stay_of_quirks(dataset):
    expected = {(hour, channel): value for hour, channel, value in filter(None, CLEAN.values())}
    assert cells(dataset, 250) == {cell: pytest.approx(value, rel=1e-7) for cell, value in expected.items()}
    x, _, died = by_subject(dataset)[250]
    assert died == 1
    medians = [entry["train_median"] for entry in dataset.meta.cohort["channels"].values()]
    for channel, name in enumerate(CHANNELS):
        last = medians[channel]
        for hour in range(24):
            last = expected.get((hour, name), last)
            assert x[hour, channel] == np.float32(last), (hour, name)


def test_the_rules_of_the_clean_cohort(dataset):
    stays = by_subject(dataset)
    # 2: the first stay of the patient is the one of 2149, which has no row; 251: a second too young; 254, 255: too
    # short.
    assert set(stays) == {*range(1, 21), 250, 252, 253} - {2}
    assert cells(dataset, 1)[1, "HR"] == 80
    counts = attrition(dataset)
    assert list(dataset.meta.cohort["attrition"]) == ["MIMIC-III v1.4"]
    quirks = len(CLEAN)
    assert counts == {
        "patients": 27, "admissions": 29, "stays read": 29, "stays of patients under 18 years": 1,
        "stays after the first of the patient": 2, "stays shorter than 24 hours": 2, "stays without a label": 0,
        "rows read": 20 * 7 + 5 + 2 + quirks, "rows of other items": 2, "rows with the error flag": 1,
        "rows without an ICU stay": 1, "rows of stays outside the cohort": 3 + 7 + 1,
        "rows outside the first 24 hours": 2,
        "rows without a number": 1, "rows out of range": 6, "rows used": 19 * 7 + 2 + quirks - 12,
        "stays without a vital sign in the window": 2, "stays kept": 22, "deaths among them": 6,
    }


def test_metadata_and_splits(dataset):
    assert dataset.meta.name == "mimic3_mortality" and dataset.meta.channels == CHANNELS
    assert dataset.meta.licence == "PhysioNet Credentialed Health Data License 1.5.0"
    assert dataset.meta.sampling_interval == "1 hour" and dataset.meta.cohort["rule"] == "clean"
    assert dataset.shape == (24, 7)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 13, "val": 5, "test": 4}
    for split in dataset.splits.values():
        assert not np.isnan(split.x).any()
        assert ((split.y == 1) == np.isin(split.subject, [1, 3, 4, 5, 6, 250])).all()
        np.testing.assert_array_equal(split.id - 200000, split.subject)


def test_length_of_stay_over_some_days(published, tmp_path):
    dataset = convert(published, tmp_path / "los", "--label", "length_of_stay")
    assert dataset.meta.name == "mimic3_icu_stay" and dataset.meta.classes == ["at most 3 days", "more than 3 days"]
    labels = {subject: y for subject, (_, _, y) in by_subject(dataset).items()}
    assert {subject for subject, y in labels.items() if y == 1} == {*range(4, 21, 2)}
    longer = convert(published, tmp_path / "four", "--label", "length_of_stay", "--days", "4.5")
    assert longer.meta.classes[1] == "more than 4.5 days"


# The same for the cohort after TimeDiff; minutes since an admission that does not matter there.
TIMEDIFF = {
    (220045, -60, 500): None,                                  # sets time 0 though it is out of range
    (211, -120, 90): None,                                     # CareVue does not
    (220045, -60, 80): (0, "HR", 80), (220179, -60, 110): (0, "SBP", 120), (220050, -60, 130): None,
    (220045, -31, 200): None,                                  # 29 minutes after time 0
    (220045, -30, 84): None, (220045, -1, 85): (1, "HR", 85), (220179, -2, 150): None,  # only the nearest chart time
    (220045, 50, 86): (2, "HR", 86), (220045, 70, 87): None,   # two equally near: the earlier
    (220045, 90, 88): (3, "HR", 88),                           # a half hour belongs to the next hour
    (220045, 180, 89, 1): (4, "HR", 89),                       # the error flag is not checked
    (223761, 240, 98.6): (5, "Temp", 37), (223762, 240, 37.4): None,
    (220045, 1349, 70): (23, "HR", 70), (220045, 1350, 71): None,
}


def test_every_cell_after_timediff(tmp_path, dataset):
    tables = clean_quirks()
    tables["CHARTEVENTS"] = [row for row in tables["CHARTEVENTS"] if ",200250," not in row]
    tables["CHARTEVENTS"] += [chart_row(200250, *row) for row in TIMEDIFF]
    result = convert(write_tables(tmp_path / "in", tables), tmp_path / "out", "--cohort", "timediff")
    expected = {(hour, channel): value for hour, channel, value in filter(None, TIMEDIFF.values())}
    expected[5, "Temp"] = 37.2
    assert cells(result, 250) == {cell: pytest.approx(value, rel=1e-6) for cell, value in expected.items()}
    # Neither age nor length nor number of stays counts; 256 and the stays of 2149 and of no chart row hold nothing.
    stays = [int(subject) for split in result.splits.values() for subject in split.subject]
    assert sorted(stays) == sorted([*range(1, 21), 1, *range(250, 256)])
    counts = attrition(result)
    assert counts["rows read"] == sum(count for step, count in counts.items() if step.startswith("rows")
                                      and step != "rows read")
    assert counts["rows at other chart times or later"] == 5
    assert result.shape == (24, 7) and result.meta.cohort["rule"] == "timediff"


@pytest.mark.parametrize("rule", mimic3.COHORTS)
@pytest.mark.parametrize("form", ["gz", "lower case", "parquet"])
def test_every_form_of_the_tables_gives_the_same_dataset(tmp_path, form, rule):
    first, other = (convert(write_tables(tmp_path / name, clean_quirks(), name), tmp_path / f"{name} out", "--cohort",
                            rule)
                    for name in ("publisher", form))
    assert replace(other.meta, cohort={**other.meta.cohort, "command": first.meta.cohort["command"]}) == first.meta
    assert {name: split.fingerprint() for name, split in other.splits.items()} == \
           {name: split.fingerprint() for name, split in first.splits.items()}


def spoil(table, old, new, count=1):
    """Return a function that replaces text in the file of a table."""
    return replaced_in(f"{table}.csv", old, new, count)


def repeat_last_row(table):
    def damage(folder):
        path = folder / f"{table}.csv"
        path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    return damage


def header_only(table):
    return lambda folder: (folder / f"{table}.csv").write_text(quoted_header(table) + "\n")


# What is broken, the options besides input and output, and what the message must say.
FAULTS = {
    "no chart table": (lambda folder: (folder / "CHARTEVENTS.csv").unlink(), [], "table CHARTEVENTS not found"),
    "column": (spoil("CHARTEVENTS", "VALUENUM", "VALUE_NUM"), [], "CHARTEVENTS.csv: column 'valuenum' not found"),
    "stay twice": (repeat_last_row("ICUSTAYS"), [], "ICUSTAYS.csv: icustay_id 200020 has more than one row"),
    "stay without number": (spoil("ICUSTAYS", ",200003,", ",,"), [], "ICUSTAYS.csv: a row without icustay_id"),
    "admission missing": (spoil("ADMISSIONS", ",100003,", ",999,"), [], "table ADMISSIONS: no row with hadm_id 100003"),
    "value": (spoil("CHARTEVENTS", ",80.2,", ",eighty,"), [], "CHARTEVENTS.csv, line 16: found"),
    "time": (spoil("CHARTEVENTS", "2150-01-01 02:00:00", "01/13/2150 2:00"), [], "CHARTEVENTS.csv, row 1 below the "
             "header: column 'charttime' holds '01/13/2150 2:00'"),
    "no chart row": (header_only("CHARTEVENTS"), [], "no stay is left"),
    "no stay": (header_only("ICUSTAYS"), [], "ICUSTAYS.csv: no row below the header"),
    "nobody stays as long": (lambda folder: None, ["--label", "length_of_stay", "--days", "60"], "no row of class 1"),
    "days": (lambda folder: None, ["--days", "-1"], "--days -1: expected a number above 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_input_is_one_message_and_no_output(tmp_path, refusal, fault):
    damage, options, expected = FAULTS[fault]
    folder = write_tables(tmp_path / "input", cohort())
    damage(folder)
    assert expected in refusal(mimic3.main, "--input", folder, "--output", tmp_path / "output", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["input"]


def test_a_difference_from_the_published_counts_is_a_warning(published, tmp_path, capsys):
    convert(published, tmp_path / "out", "--cohort", "timediff")
    warnings = capsys.readouterr().err
    assert "rows read: " in warnings and "330,712,483 published" in warnings
    assert "stays kept: 27 observed, 26,150 published" in warnings
    assert "deaths in 100 stays: 30 observed, 8 published" in warnings  # 8 of 27


KILLED = """
import importlib, os, runpy, signal, sys
module, name, last = importlib.import_module(sys.argv[1]), sys.argv[2], int(sys.argv[3])
real, calls = getattr(module, name), []
def counted(*arguments):
    calls.append(name)
    if len(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
setattr(module, name, counted)
sys.argv[1:] = sys.argv[4:]
runpy.run_module("data_preprocess.mimic3", run_name="__main__")
"""


@pytest.mark.parametrize(("module", "function", "call"), [
    ("data_preprocess.query", "fetch", 5),           # after the scan
    ("tardiff.data.format", "write_split", 2),       # after train.npz
    ("tardiff.data.format", "write_json", 1),        # before meta.json
])
def test_a_killed_run_leaves_the_old_dataset(published, dataset, tmp_path, module, function, call):
    """Killed by SIGKILL over a finished dataset of the same command, which then completes."""
    output = tmp_path / "out"
    convert(published, output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    run = subprocess.run([sys.executable, "-c", KILLED, module, function, str(call), "--input", str(published),
                          "--output", str(output)], cwd=REPOSITORY, capture_output=True, check=False)
    assert run.returncode == -signal.SIGKILL
    assert {path.name: path.read_bytes() for path in output.iterdir() if path.name != LOCK} == before
    completed = convert(published, output)
    assert completed.meta == dataset.meta and [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {name: split.fingerprint() for name, split in completed.splits.items()} == \
           {name: split.fingerprint() for name, split in dataset.splits.items()}


# The oracle: one stay at a time in plain pandas, with its own copy of the rules.
BOUNDS = {"HR": (0, 300), "SBP": (0, 400), "DBP": (0, 300), "MBP": (0, 300), "RR": (0, 70), "SpO2": (0, 100.0001)}
CAREVUE = {"HR": "211", "SBP": "51 442 455 6701", "DBP": "8368 8440 8441 8555", "MBP": "52 443 456 6702",
           "RR": "615 618",
           "Temp": "676 678", "SpO2": "646"}
META = {"HR": "220045", "SBP": "220050 220179 225309", "DBP": "220051 220180 225310", "MBP": "220052 220181 225312",
        "RR": "220210 224690", "Temp": "223762 223761", "SpO2": "220277"}


def oracle_rows(source, names):
    """Return the chart rows of these items as a table with channel and valid value, NaN where out of range."""
    rows = pd.read_csv(source / "CHARTEVENTS.csv.gz",
                       usecols=["icustay_id", "itemid", "charttime", "valuenum", "error"],
                       parse_dates=["charttime"])
    channel = {int(item): name for table in names for name, items in table.items() for item in items.split()}
    rows = rows[rows["itemid"].isin(channel) & rows["icustay_id"].notna()].copy()
    rows["channel"] = rows["itemid"].map(channel)
    values = []
    for item, name, value in zip(rows["itemid"], rows["channel"], rows["valuenum"], strict=True):
        if item in (678, 223761):
            values.append((value - 32) * 5 / 9 if 70 < value < 120 else np.nan)
        else:
            low, high = BOUNDS.get(name, (10, 50))
            values.append(value if low < value < high else np.nan)
    rows["valid"] = values
    return rows


def grid_of(table):
    """Return {(hour, channel): value} as (24, 7)."""
    x = np.full((24, 7), np.nan)
    for (hour, name), value in table.items():
        x[int(hour), CHANNELS.index(name)] = value
    return x


def oracle_clean(source):
    """Return {icustay_id: (24, 7)} of the clean cohort."""
    rows = oracle_rows(source, (CAREVUE, META))
    rows = rows[rows["error"].fillna(0) != 1].dropna(subset="valid")
    stays = pd.read_csv(source / "ICUSTAYS.csv", parse_dates=["intime"]).merge(
        pd.read_csv(source / "PATIENTS.csv", parse_dates=["dob"])[["subject_id", "dob"]], on="subject_id")
    grids = {}
    for _, stays_of_patient in stays.groupby("subject_id"):
        stay = stays_of_patient.sort_values("intime").iloc[0]
        born = stay["dob"]
        age = stay["intime"].year - born.year - ((stay["intime"].month, stay["intime"].day) < (born.month, born.day))
        if age >= 18 and stay["los"] >= 1:
            hours = (rows["charttime"] - stay["intime"]).dt.total_seconds() / 3600
            inside = rows[(rows["icustay_id"] == stay["icustay_id"]) & (hours >= 0) & (hours < 24)]
            means = inside.groupby([hours.loc[inside.index].astype(int), "channel"])["valid"].mean()
            if len(means):
                grids[int(stay["icustay_id"])] = grid_of(means)
    return grids


def oracle_timediff(source):
    """Return {icustay_id: (24, 7)} of the cohort after TimeDiff."""
    grids = {}
    for stay, rows in oracle_rows(source, (META,)).groupby("icustay_id"):
        minutes = ((rows["charttime"] - rows["charttime"].min()).dt.total_seconds() / 60).rename("minute")
        charted = rows.groupby([minutes, "channel"])["valid"].mean().unstack()
        x = np.full((24, 7), np.nan)
        for hour in range(24):
            near = [minute for minute in charted.index if 60 * hour - 30 <= minute < 60 * hour + 30]
            if near:
                nearest = charted.loc[min(near, key=lambda minute: (abs(minute - 60 * hour), minute))]
                x[hour] = [nearest.get(name, np.nan) for name in CHANNELS]
        if not np.isnan(x).all():
            grids[int(stay)] = x
    return grids


@pytest.mark.parametrize(("rule", "oracle", "kept"), [("clean", oracle_clean, 80), ("timediff", oracle_timediff, 75)])
def test_the_demo_agrees_with_the_oracle(shared_data, tmp_path, capsys, rule, oracle, kept):
    source = shared_data / "mimic-iii-demo"
    if not (source / "CHARTEVENTS.csv.gz").is_file():
        pytest.skip(f"no CHARTEVENTS.csv.gz in {source}")
    dataset = convert(source, tmp_path / "out", "--cohort", rule)
    assert "warning" not in capsys.readouterr().err
    assert dataset.meta.licence == "ODbL 1.0" and dataset.meta.source.startswith("MIMIC-III Demo v1.4")
    counts = attrition(dataset)
    assert [counts[what] for what in ("patients", "admissions", "stays read", "rows read")] == [100, 129, 136, 758_355]
    grids = oracle(source)
    assert len(grids) == counts["stays kept"] == kept

    stays = pd.read_csv(source / "ICUSTAYS.csv", index_col="icustay_id")
    died = pd.read_csv(source / "ADMISSIONS.csv", index_col="hadm_id")["hospital_expire_flag"]
    expected = sorted((stays["subject_id"][stay], died[stays["hadm_id"][stay]],
                       np.nan_to_num(x, nan=-1).round(3).tolist())
                      for stay, x in grids.items())
    found = sorted((subject, y, np.where(mask, x.astype(float), -1).round(3).tolist())
                   for split in dataset.splits.values()
                   for subject, y, x, mask in zip(split.subject, split.y, split.x, split.mask, strict=True))
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    np.testing.assert_allclose([row[2] for row in found], [row[2] for row in expected], atol=2e-3)


def test_a_target_by_care_unit(tmp_path, check_composed):
    found = cohort()
    found["ICUSTAYS"] = [row.replace('"MICU"', '"SICU"', 1) if number % 2 else row
                         for number, row in enumerate(found["ICUSTAYS"])]
    dataset = convert(write_tables(tmp_path / "in", found), tmp_path / "out",
                                  "--target", "FIRST_CAREUNIT = SICU")
    assert check_composed(dataset, lambda subject: subject % 2 == 0) == (6, 2, 2)
