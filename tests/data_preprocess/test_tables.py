"""Your own tables: every layout and file form against a plain loop, splits by patient, and what is refused."""

import math
import time
from datetime import datetime, timedelta, timezone

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from user_errors import replaced_in

from data_preprocess import tables
from tardiff.data.format import read_dataset

CHANNELS = ["HR", "SBP", "Temp"]
LENGTH = 6
NAN = math.nan


def cohort(seed=0, stays=40):
    """Rows (id, hour, variable, value text) with oddities, and labels (id, label, patient); hours are multiples of
    0.1."""
    generator = np.random.default_rng(seed)
    labels = [(f"s{number}", int(number % 4 == 0), f"p{number // 2}") for number in range(stays)]
    rows = []
    for stay, _, _ in labels:
        for _ in range(generator.integers(8, 30)):
            value = generator.choice(["", "NA", "nan", "Null", "500", None], p=[.02, .02, .02, .02, .02, .9])
            value = f"{generator.normal(80, 10):.2f}" if value is None else value
            rows.append((stay, f"{generator.integers(10, 110) / 10}", str(generator.choice(CHANNELS)), value))
        rows.append((stay, "", "HR", "80"))
    rows += [("unlabelled", "1.0", "HR", "80"), ("unlabelled", "x", "HR", "x"), ("s1", "0.5", "Rhythm", "sinus")]
    rows = [rows[number] for number in generator.permutation(len(rows))]
    return rows, [*labels, ("s999", 1, "p999"), ("s998", "", "p998")]


def oracle(rows, labels, ranges=None, origin=None):
    """Return {id: (LENGTH, 3) means, NaN where unobserved} by one loop over the rows."""
    known = {stay for stay, label, _ in labels if label != ""}
    starts = dict(origin or {})
    cells = {}
    if origin is None:
        for stay, hour, _, _ in rows:
            if stay in known and hour != "":
                starts[stay] = min(starts.get(stay, 1e9), float(hour))
    for stay, hour, variable, value in rows:
        if stay in known and hour != "" and variable in CHANNELS and value.lower() not in ("", "na", "nan", "null"):
            tenths = round(10 * float(hour)) - round(10 * starts[stay])
            low, high = (ranges or {}).get(variable, (-1e9, 1e9))
            if 0 <= tenths < 10 * LENGTH and low <= float(value) <= high:
                cells.setdefault((stay, tenths // 10, CHANNELS.index(variable)), []).append(float(value))
    expected = {}
    for (stay, step, channel), values in cells.items():
        expected.setdefault(stay, np.full((LENGTH, len(CHANNELS)), NAN))[step, channel] = sum(values) / len(values)
    return expected


def write_table(path, header, rows):
    """Write rows of text as `.csv`, `.csv.gz` or `.parquet`, by the ending of `path`."""
    frame = pd.DataFrame(rows, columns=header).astype(str)
    if path.suffix == ".parquet":
        with duckdb.connect() as connection:
            connection.register("frame", frame)
            connection.execute(f"COPY frame TO '{path}' (FORMAT parquet)")
    else:
        frame.to_csv(path, index=False)
    return path


def write_cohort(folder, rows, labels, suffix=".csv"):
    folder.mkdir(parents=True, exist_ok=True)
    return (write_table(folder / f"vitals{suffix}", ["ID", "Time", "variable", "value"], rows),
            write_table(folder / f"labels{suffix}", ["id", "Label", "patient"], labels))


def convert(vitals, labels, output, *options):
    tables.main(["--input", str(vitals), "--labels", str(labels), "--output", str(output), "--length", str(LENGTH),
                 "--memory-limit", "500MB", *options])
    return read_dataset(output)


def by_subject(dataset):
    return {str(subject): np.where(mask, x, NAN) for split in dataset.splits.values()
            for subject, x, mask in zip(split.subject, split.x, split.mask, strict=True)}


def check_cells(dataset, expected):
    found = by_subject(dataset)
    assert found.keys() == expected.keys() and len(found) > 20
    for stay, cells in expected.items():
        np.testing.assert_allclose(found[stay], cells, rtol=1e-6, err_msg=stay)
    assert all(np.isfinite(split.x).all() for split in dataset.splits.values())


HOURS = ["--time-unit", "h", "--channels", *CHANNELS]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_every_cell_of_a_long_table_agrees_with_a_loop(tmp_path, suffix):
    rows, labels = cohort()
    dataset = convert(*write_cohort(tmp_path, rows, labels, suffix), tmp_path / "out", *HOURS)
    check_cells(dataset, oracle(rows, labels))
    assert dataset.meta.channels == CHANNELS and dataset.meta.classes == ["0", "1"]
    assert dataset.meta.sampling_interval == "1h" and dataset.shape == (LENGTH, 3)
    y = {str(s): label for split in dataset.splits.values() for s, label in zip(split.subject, split.y, strict=True)}
    assert y == {stay: label for stay, label, _ in labels if stay in y}


def test_ranges_drop_what_is_outside_the_closed_interval(tmp_path):
    rows, labels = cohort()
    edge = rows[[variable for _, _, variable, _ in rows].index("SBP")][3]
    ranges = {"HR": (70, 90), "SBP": (-5, float(edge))}
    dataset = convert(*write_cohort(tmp_path, rows, labels), tmp_path / "out", *HOURS, "--range", "HR=70:90",
                      "--range", f"SBP=-5:{edge}")
    check_cells(dataset, oracle(rows, labels, ranges))
    assert dataset.meta.cohort["channels"]["HR"]["valid_range"] == "70 <= HR <= 90"


def test_an_origin_from_the_table_of_labels(tmp_path):
    rows, labels = cohort()
    origin = {stay: 3.3 for stay, _, _ in labels}
    vitals, _ = write_cohort(tmp_path, rows, labels)
    table = write_table(tmp_path / "origins.csv", ["id", "label", "admitted"],
                        [(stay, label, "NA" if stay == "s7" else 3.3) for stay, label, _ in labels])
    dataset = convert(vitals, table, tmp_path / "out", *HOURS, "--origin", "Admitted")
    expected = oracle(rows, labels, origin=origin)
    del expected["s7"]
    check_cells(dataset, expected)
    assert dataset.meta.cohort["attrition"]["readings before the origin"] > 0


def clock_text(hour, zone):
    moment = datetime(2131, 3, 5, 7, 21, tzinfo=timezone.utc) + timedelta(minutes=round(60 * float(hour)))
    return moment.astimezone(zone).isoformat() if zone else moment.strftime("%Y-%m-%d %H:%M:%S")


@pytest.mark.parametrize("zoned", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_timestamps_and_offsets_from_utc_are_instants(tmp_path, zoned, suffix):
    rows, labels = cohort()
    zones = [timezone(timedelta(hours=hours)) for hours in (-5, 0, 5.5)] if zoned else [None]
    stamped = [(stay, clock_text(hour, zones[number % len(zones)]) if hour not in ("", "x") else hour, variable, value)
               for number, (stay, hour, variable, value) in enumerate(rows)]
    dataset = convert(*write_cohort(tmp_path, stamped, labels, suffix), tmp_path / "out", "--channels", *CHANNELS)
    check_cells(dataset, oracle(rows, labels))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_cell_of_a_wide_table_agrees_with_a_loop(tmp_path, suffix):
    rows, labels = cohort()
    rows = [row for row in rows if row[2] in CHANNELS]
    wide = [(value if variable == "HR" else "", stay, hour,
             *(value if variable == channel else "" for channel in CHANNELS[1:]))
            for stay, hour, variable, value in rows]
    vitals = write_table(tmp_path / f"wide{suffix}", ["HR", "id", "time", *CHANNELS[1:]], wide)
    _, table = write_cohort(tmp_path, rows, labels, suffix)
    for options in ([], ["--channels", "hr", "SBP", "Temp"]):
        dataset = convert(vitals, table, tmp_path / f"out{len(options)}", "--layout", "wide", "--time-unit", "h",
                          *options)
        check_cells(dataset, oracle(rows, labels))
        assert dataset.meta.channels == (options[1:] or CHANNELS)


def test_typed_parquet_columns_and_all_variables_by_default(tmp_path):
    rows, labels = cohort()
    rows = [row for row in rows if row[2] in CHANNELS and row[1] not in ("", "x")]
    frame = pd.DataFrame(rows, columns=["id", "time", "variable", "value"])
    frame["value"] = pd.to_numeric(frame["value"].where(~frame["value"].str.lower().isin(["", "na", "nan", "null"])))
    frame["time"] = pd.to_datetime([clock_text(hour, None) for hour in frame["time"]])
    frame["id"] = frame["id"].str.removeprefix("s").replace("unlabelled", "-1").astype(int)
    with duckdb.connect() as connection:
        connection.register("frame", frame)
        connection.execute(f"COPY frame TO '{tmp_path / 'vitals.parquet'}' (FORMAT parquet)")
    table = write_table(tmp_path / "labels.csv", ["id", "label"], [(stay[1:], label) for stay, label, _ in labels])
    dataset = convert(tmp_path / "vitals.parquet", table, tmp_path / "out")
    check_cells(dataset, {stay[1:]: cells for stay, cells in oracle(rows, labels).items()})
    assert dataset.meta.channels == CHANNELS


def wide_frame(stays=12):
    return pd.DataFrame([(f"s{n}", hour, 70.0 + n, 120.0) for n in range(stays) for hour in range(3)],
                        columns=["id", "time", "HR", "SBP"])


def labels_of(folder, stays=12, name="labels.csv"):
    return write_table(folder / name, ["id", "label"], [(f"s{n}", n % 2) for n in range(stays)])


def parquet(frame, path):
    path.parent.mkdir(exist_ok=True)
    with duckdb.connect() as connection:
        connection.register("frame", frame)
        connection.execute(f"COPY frame TO '{path}' (FORMAT parquet)")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("with_id", [True, False])
def test_a_folder_of_a_file_a_stay_is_read_as_one_table(tmp_path, suffix, with_id):
    rows, labels = cohort()
    (tmp_path / "stays").mkdir()
    for stay in {row[0] for row in rows}:
        own = [row[not with_id:] for row in rows if row[0] == stay]
        write_table(tmp_path / "stays" / f"{stay}{suffix}", ["id", "time", "variable", "value"][not with_id:], own)
    _, table = write_cohort(tmp_path, [], labels)
    dataset = convert(tmp_path / "stays", table, tmp_path / "out", *HOURS)
    check_cells(dataset, oracle(rows, labels))


def test_row_numbers_of_pandas_are_no_channels(tmp_path):
    frame, labels = wide_frame(), labels_of(tmp_path)
    frame.to_csv(tmp_path / "once.csv")
    pd.read_csv(tmp_path / "once.csv").to_csv(tmp_path / "twice.csv")
    parquet(frame.assign(__index_level_0__=range(len(frame))), tmp_path / "filtered.parquet")
    for name in ("once.csv", "twice.csv", "filtered.parquet"):
        dataset = convert(tmp_path / name, labels, tmp_path / f"out {name}", "--layout", "wide", "--time-unit", "h")
        assert dataset.meta.channels == ["HR", "SBP"]


@pytest.mark.parametrize("folder", ["value=3", "id=9", "year=2020"])
def test_the_name_of_a_folder_is_no_column(tmp_path, folder):
    frame = wide_frame()
    long = frame.melt(["id", "time"], var_name="variable")
    labels = parquet(pd.DataFrame({"id": frame["id"].unique(), "label": np.arange(12) % 2}),
                     tmp_path / "label=died" / "labels.parquet")
    for layout, table in (("wide", frame), ("long", long)):
        vitals = parquet(table, tmp_path / folder / f"{layout}.parquet")
        dataset = convert(vitals, labels, tmp_path / layout, "--layout", layout, "--time-unit", "h")
        assert dataset.meta.channels == ["HR", "SBP"] and dataset.meta.classes == ["0", "1"]
        for split in dataset.splits.values():
            np.testing.assert_array_equal(split.x[:, 0], [[70 + int(s[1:]), 120] for s in split.subject])


def test_instants_do_not_depend_on_the_time_zone_of_the_machine(tmp_path, monkeypatch):
    frame = wide_frame()
    frame["time"] = pd.Timestamp("1870-01-01", tz="UTC") + pd.to_timedelta(frame["time"], unit="h")
    vitals, labels = parquet(frame, tmp_path / "utc.parquet"), labels_of(tmp_path)
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        dataset = convert(vitals, labels, tmp_path / "out", "--layout", "wide")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert dataset.train.mask[:, :3].all() and not dataset.train.mask[:, 3:].any()


def test_a_header_longer_than_a_buffer_is_read(tmp_path):
    names = [f"a channel with a rather long name, number {number}" for number in range(2000)]
    rows = [(f"s{n}", 0, *map(str, range(2000))) for n in range(12)]
    vitals = write_table(tmp_path / "wide.csv", ["id", "time", *names], rows)
    assert vitals.read_bytes().index(b"\n") > 1 << 16
    dataset = convert(vitals, labels_of(tmp_path), tmp_path / "out", "--layout", "wide", "--time-unit", "h",
                      "--channels", names[0], names[-1])
    np.testing.assert_array_equal(dataset.train.x[0, 0], [0, 1999])


def test_codes_of_missing_values_are_warned_of_and_left_out_where_they_are_named(tmp_path, capsys):
    generator = np.random.default_rng(0)
    rows = [(f"s{n}", hour, variable, -999 if (n + hour) % 7 == 0 else round(generator.normal(middle, 5), 2))
            for n in range(30) for hour in range(LENGTH) for variable, middle in (("HR", 80), ("SBP", 120))]
    rows[1] = (*rows[1][:3], 99999)
    vitals, labels = write_cohort(tmp_path, rows, [(f"s{n}", n % 2, "") for n in range(30)])
    dataset = convert(vitals, labels, tmp_path / "out", "--time-unit", "h")
    printed = capsys.readouterr()
    assert "warning: channel HR: -999 stands 25 times" in printed.err and "SBP: 99999 stands 1 times" in printed.err
    table = [line.split() for line in printed.out.splitlines()]
    assert ["channel", "valid", "range", "observed", "cells", "minimum", "0.1", "%", "50", "%", "99.9", "%",
            "maximum"] in table
    assert [line[3] for line in table if line[:2] == ["HR", "any"]] == ["-999"]
    dataset = convert(vitals, labels, tmp_path / "named", "--time-unit", "h", "--missing", "-999", "--range",
                      "SBP=0:999")
    assert "warning" not in capsys.readouterr().err
    assert dataset.meta.cohort["attrition"]["readings without a value"] == 49
    assert dataset.meta.cohort["attrition"]["readings out of range"] == 1
    assert dataset.train.x.min() > 50 and not dataset.train.mask.all()


def test_a_code_in_a_mean_is_told_as_one_and_codes_that_no_reading_has_are_named(tmp_path, capsys):
    generator = np.random.default_rng(0)
    rows = [(f"s{n}", hour, "HR", round(generator.normal(80, 5), 2)) for n in range(30) for hour in range(LENGTH)]
    rows.append(("s3", 1.5, "HR", -999))
    vitals, labels = write_cohort(tmp_path, rows, [(f"s{n}", n % 2, "") for n in range(30)])

    def lowest(name, *options):
        dataset = convert(vitals, labels, tmp_path / name, "--time-unit", "h", *options)
        return min(split.x.min() for split in dataset.splits.values())

    mean = f"{lowest('out'):g}"
    told = capsys.readouterr().err
    assert f"HR: {mean} stands 1 times" in told and "mean of the readings of a step" in told
    assert f"--missing {mean}" not in told
    lowest("mean", "--missing", mean)
    assert f"--missing {mean}: no reading of" in capsys.readouterr().err
    assert lowest("code", "--missing", "-999") > 50
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(3))
def test_natural_distributions_are_not_warned_of(tmp_path, capsys, seed):
    """Heavy tails, scores, saturation at a limit, flags."""
    generator = np.random.default_rng(seed)
    values = {"CRP": lambda: round(generator.lognormal(1, 1.5), 2), "GCS": lambda: generator.choice([3, 6, 14, 15]),
              "SpO2": lambda: round(min(100, generator.normal(97, 3))), "ventilated": lambda: generator.integers(2)}
    rows = [(f"s{n}", hour, *drawn) for n in range(100) for hour in range(LENGTH)
            for drawn in [(name, draw()) for name, draw in values.items()]]
    vitals, labels = write_cohort(tmp_path, rows, [(f"s{n}", n % 2, "") for n in range(100)])
    convert(vitals, labels, tmp_path / "out", "--time-unit", "h")
    assert "warning: channel" not in capsys.readouterr().err


def test_ids_that_differ_in_spelling_alone_are_named(tmp_path, capsys):
    rows = [(str(n) if n % 2 else f"A{n}.0", 0, "HR", 60 + n) for n in range(1, 30)]
    labels = [(f"{n:02d}" if n % 2 else f"a{n}", n % 3 % 2, "") for n in range(1, 30)]
    dataset = convert(*write_cohort(tmp_path, rows, labels), tmp_path / "out", "--time-unit", "h")
    message = capsys.readouterr().err
    assert "warning: 19 ids of the labels have no row" in message and "'01' and '1', 'a2' and 'A2.0'" in message
    assert dataset.meta.cohort["attrition"]["ids kept"] == 10


def test_a_first_time_that_stands_alone_is_named(tmp_path, capsys):
    rows = [(f"s{n}", f"2150-01-01 0{hour}:00", name, 60 + n) for n in range(20) for hour in range(LENGTH)
            for name in ("HR", "SBP")]
    rows += [("s3", "2149-01-01 00:00", name, 1) for name in ("HR", "SBP")]
    vitals, labels = write_cohort(tmp_path, rows, [(f"s{n}", n % 2, "") for n in range(20)])
    convert(vitals, labels, tmp_path / "out")
    assert "the first time of 1 ids (s3) is followed by none in the whole window" in capsys.readouterr().err


def test_attrition_accounts_for_every_reading_and_id(tmp_path, capsys):
    labels = [(f"s{number}", number % 2, "") for number in range(20)] + [("bare", 1, ""), ("blank", "NA", "")]
    rows = [(f"s{number}", hour, "HR", "80") for number in range(20) for hour in ("0", "0.5", "5.9")]
    rows += [("s0", "6", "HR", "1"), ("s0", "7", "HR", "1"), ("s1", "1", "SBP", "90"), ("s1", "", "HR", "90"),
             ("s1", "NaN", "HR", "90"), ("s2", "1", "HR", ""), ("s2", "1", "HR", "300"), ("blank", "1", "HR", "80"),
             ("nobody", "1", "HR", "80")]
    dataset = convert(*write_cohort(tmp_path, rows, labels), tmp_path / "out", "--time-unit", "h", "--channels", "HR",
                      "--range", "HR=0:299")
    assert dataset.meta.cohort["attrition"] == {
        "readings read": 69, "readings of ids without a label": 2, "readings of other variables": 1,
        "readings without a time": 2, "readings without a value": 1, "readings before the origin": 0,
        "readings after the window": 2, "readings out of range": 1, "readings used": 60,
        "ids in the table of labels": 22, "ids without a label or an origin": 1, "ids without a reading used": 1,
        "ids kept": 20}
    assert "readings after the window" in capsys.readouterr().out


ROUNDINGS = {
    "float32": lambda times: times.astype(np.float32), "2 decimals": lambda times: np.round(times, 2),
    "4 decimals": lambda times: np.round(times, 4), "cut after 3 decimals": lambda times: np.floor(times * 1000) / 1000,
    "float64": lambda times: times,
}


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(("step", "unit", "interval"), [
    ("5min", "h", 1 / 12), ("1/3 h", "h", 1 / 3), ("20 min", "d", 1 / 72), ("1/360 s", "ms", 1000 / 360),
    ("1/7 s", "s", 1 / 7)])
def test_regular_times_fill_every_step_whatever_rounded_them(tmp_path, capsys, rounding, step, unit, interval):
    """Value k stands at start + k steps, of stays that start anywhere; 0.01 days are too much for 20 min."""
    generator = np.random.default_rng(0)
    starts = np.concatenate([[0.0], generator.integers(0, 500, 11) * interval, generator.random(8) * 100])
    times = ROUNDINGS[rounding](starts[:, None] + np.arange(LENGTH) * interval)
    rows = [(f"s{stay}", str(time), "HR", k) for stay, own in enumerate(times) for k, time in enumerate(own)]
    vitals, labels = write_cohort(tmp_path, rows, [(f"s{n}", n % 2, "") for n in range(len(starts))])
    dataset = convert(vitals, labels, tmp_path / "out", "--time-unit", unit, "--step", step)
    warned = "series are empty, although" in capsys.readouterr().err
    if (rounding, unit) == ("2 decimals", "d"):
        assert warned
        return
    assert not warned
    for split in dataset.splits.values():
        np.testing.assert_array_equal(split.x[..., 0], np.tile(np.arange(LENGTH, dtype=np.float32), (len(split), 1)))
        assert split.mask.all()


@pytest.mark.parametrize("digits", [3, 6])
def test_timestamps_of_360_hz_fill_every_step(tmp_path, digits):
    rows = [(f"s{stay}", f"2150-01-01 07:00:{stay + k / 360:0{digits + 3}.{digits}f}", "HR", k)
            for stay in range(10) for k in range(LENGTH)]
    vitals, labels = write_cohort(tmp_path, rows, [(f"s{n}", n % 2, "") for n in range(10)])
    dataset = convert(vitals, labels, tmp_path / "out", "--step", "1/360 s")
    assert all(split.mask.all() and (split.x[..., 0] == np.arange(LENGTH)).all() for split in dataset.splits.values())


def test_whole_units_just_below_a_step_stay_below_it(tmp_path):
    """Minutes 59 and 60 of steps of an hour: what is written to the minute is as exact as the step."""
    rows = [(f"s{stay}", minute, "HR", minute) for stay in range(10) for minute in (0, 59, 60, 119, 179, 180)]
    vitals, labels = write_cohort(tmp_path, rows, [(f"s{n}", n % 2, "") for n in range(10)])
    dataset = convert(vitals, labels, tmp_path / "out", "--time-unit", "min")
    np.testing.assert_array_equal(dataset.train.x[0, :4, 0], [29.5, 89.5, 179, 180])


def test_a_given_split_is_kept_and_validation_is_cut_from_train_by_patient(tmp_path):
    rows, labels = cohort()
    vitals, _ = write_cohort(tmp_path, rows, labels)
    table = write_table(tmp_path / "given.csv", ["id", "label", "patient", "part"], [
        (stay, label, patient, "test" if int(patient[1:]) % 3 == 0 else "train") for stay, label, patient in labels])
    dataset = convert(vitals, table, tmp_path / "out", *HOURS, "--subject", "patient", "--split", "part")
    assert {int(patient[1:]) % 3 for patient in dataset.test.subject} == {0}
    assert not set(dataset.train.subject) & set(dataset.val.subject) and len(dataset.val)
    assert {int(patient[1:]) % 3 for split in (dataset.train, dataset.val) for patient in split.subject} == {1, 2}


def test_classes_are_left_out_where_they_are_named(tmp_path):
    rows, labels = cohort()
    labels = [(stay, label if number else "rare", patient) for number, (stay, label, patient) in enumerate(labels)]
    dataset = convert(*write_cohort(tmp_path, rows, labels), tmp_path / "out", *HOURS, "--drop-class", "rare")
    assert dataset.meta.classes == ["0", "1"] and labels[0][0] not in by_subject(dataset)
    assert dataset.meta.cohort["attrition"]["ids of classes left out"] == 1


@settings(max_examples=10, deadline=None)
@given(patients=st.lists(st.integers(0, 14), min_size=30, max_size=60), seed=st.integers(0, 5), data=st.data())
def test_a_patient_is_never_in_two_splits(tmp_path_factory, patients, seed, data):
    patients = [*range(15), *patients]
    outcomes = [0, 1, 1, 0] * 3 + data.draw(st.lists(st.integers(0, 1), min_size=len(patients), max_size=len(patients)))
    folder = tmp_path_factory.mktemp("patients")
    labels = [(number, outcomes[number], patient) for number, patient in enumerate(patients)]
    rows = [(number, 0, "HR", 60 + number) for number in range(len(patients))]
    dataset = convert(*write_cohort(folder, rows, labels), folder / "out", "--time-unit", "h", "--subject", "patient",
                      "--seed", str(seed))
    sides = {}
    for name, split in dataset.splits.items():
        for patient, x in zip(split.subject, split.x, strict=True):
            number = int(x[0, 0]) - 60
            assert patients[number] == int(patient)
            sides.setdefault(patient, set()).add(name)
    assert set(map(int, sides)) == set(patients) and all(len(names) == 1 for names in sides.values())
    assert sum(map(len, dataset.splits.values())) == len(patients)


def test_the_same_command_again_gives_the_same_dataset(tmp_path):
    vitals, labels = write_cohort(tmp_path, *cohort())
    first, again = (convert(vitals, labels, tmp_path / name, *HOURS, "--name", "same") for name in ("first", "again"))
    assert first.meta == again.meta
    assert {name: split.fingerprint() for name, split in first.splits.items()} == \
           {name: split.fingerprint() for name, split in again.splits.items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "first", "labels.csv", "vitals.csv"]


# Faults: what happens to the files, further options, and a part of the message.
def replace_in(name, old, new, count=1):
    return replaced_in(name, old, new, count)


def nothing(folder):
    pass


def wide_table(folder):
    write_table(folder / "vitals.csv", ["id", "time", "HR", "SBP"], [(f"s{n}", 0, 70 + n, 120) for n in range(12)])


FAULTS = {
    "no labels": (lambda folder: (folder / "labels.csv").unlink(), [], "labels.csv: file not found"),
    "column": (replace_in("vitals.csv", "Time", "moment"), [], "column 'time' not found"),
    "columns of other names": (replace_in("vitals.csv", "ID,Time", "stay,hour"), [],
                               "vitals.csv: column 'id' not found; the file has: stay, hour, variable, value. Name the "
                               "columns that stand for it: --id COLUMN --time COLUMN."),
    "wide table as long": (wide_table, [], "--variable COLUMN --value COLUMN. Where each variable has a column of its "
                           "own, give --layout wide"),
    "unknown class to drop": (nothing, ["--drop-class", "2"], "'2' is no label; the labels are 0, 1"),
    "column of labels": (nothing, ["--subject", "person"], "column 'person' not found"),
    "folder of nothing": (lambda folder: (folder / "none").mkdir(), ["--input", "none"],
                          "none: expected tables in this folder"),
    "folder": (lambda folder: (folder / "labels.csv").unlink() or (folder / "labels.csv").mkdir(), [],
               "labels.csv: is a folder"),
    "duplicate id": (replace_in("labels.csv", "s2,", "s1,"), [], "labels.csv, row 3: id 's1' stands in an earlier row"),
    "no id": (replace_in("labels.csv", "s2,", ","), [], "labels.csv, row 3: no id"),
    "no subject": (lambda folder: write_table(folder / "labels.csv", ["id", "label", "{patient}"],
                                              [("s1", 0, "p1"), ("s2", 1, "")]),
                   ["--subject", "{patient}"], "row 2: id 's2' has no subject in column '{patient}'"),
    "value": (replace_in("vitals.csv", "s2,1,HR,72", "s2,1,HR,72 bpm"), [],
              "vitals.csv, row 8 below the header: the value of id 's2', variable 'HR', time 1, is '72 bpm'"),
    "too large for float32": (replace_in("vitals.csv", "s2,1,HR,72", "s2,1,HR,1e300"), [],
                              "is '1e300'; expected a number"),
    "time": (replace_in("vitals.csv", "s2,1,HR,72", "s2,noon,HR,72"), [],
             "the time of id 's2', variable 'HR', is 'noon'"),
    "numbers without a unit": (nothing, ["--no-unit"], "--time-unit"),
    "probabilities of too few classes": (
        lambda folder: write_table(folder / "labels.csv", ["id", "label", "p_0"], [
            (f"s{n}", n % 2, 0.5) for n in range(12)]),
        ["--probabilities", "p_0"], "--probabilities p_0: expected a column for each of the classes 0, 1"),
    "unknown split": (replace_in("labels.csv", "s2,0,p1", "s2,0,dev"), ["--split", "patient"],
                      "expected train, val or test"),
    "no train": (lambda folder: write_table(folder / "labels.csv", ["id", "label", "part"],
                                            [("s1", 0, "val"), ("s2", 1, "test")]),
                 ["--split", "part"], "no id that is left has 'train'"),
    "bad range": (nothing, ["--range", "HR=9"], "--range HR=9: expected CHANNEL=LOW:HIGH"),
    "range upside down": (nothing, ["--range", "HR=9:1"], "with LOW < HIGH"),
    "range of nothing": (nothing, ["--range", "CO2=1:9"], "one of the channels HR, SBP"),
    "step": (nothing, ["--step", "1 fortnight"], "--step 1 fortnight"),
    "length": (nothing, ["--length", "0"], "--length 0"),
    "channel twice": (nothing, ["--channels", "HR", "HR"], "HR is there more than once"),
    "channel of nothing": (nothing, ["--channels", "CO2"], "has no variable 'CO2' of an id with a label; found HR, "
                           "SBP."),
    "channel in another case": (nothing, ["--channels", "hr"], "has no variable 'hr' of an id with a label; found HR, "
                                "SBP."),
    "column twice": (wide_table, ["--layout", "wide", "--channels", "HR", "hr"],
                     "--channels: hr is there more than once"),
    "column of nothing": (wide_table, ["--layout", "wide", "--channels", "CO2"],
                          "has no variable 'CO2' of an id with a label; found HR, SBP."),
    "time below 0": (replace_in("vitals.csv", "s2,1,HR,72", "s2,-5,HR,72"), [],
                     "the first time of id 's2' is -5 h, below 0 (1 such ids)"),
    "endless": (nothing, ["--length", "99999999999"], "--length 99999999999: 12 ids x 99999999999 steps x 2 variables "
                "need"),
    "other ids": (replace_in("vitals.csv", "\ns", "\nt", -1), [], "no row is of an id in"),
    "all before the origin": (
        lambda folder: write_table(folder / "labels.csv", ["id", "label", "admitted"],
                                   [(f"s{n}", n % 2, 50) for n in range(12)]),
        ["--origin", "admitted"], "no reading is left"),
    "bad origin": (nothing, ["--origin", "patient"], "the origin 'p0' of id 's0' is not a number"),
}


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Return a function that makes the faulty input and gives the arguments; relative paths are below tmp_path."""
    monkeypatch.chdir(tmp_path)
    rows = [(f"s{number}", hour, variable, 70 + number) for number in range(12) for hour, variable in
            ((0, "HR"), (1, "HR"), (2, "SBP"))]
    write_cohort(tmp_path, rows, [(f"s{number}", number % 2, f"p{number // 2}") for number in range(12)])

    def make(fault):
        damage, options, _ = FAULTS[fault]
        damage(tmp_path)
        unit = [] if "--no-unit" in options else ["--time-unit", "h"]
        return ["--input", "vitals.csv", "--labels", "labels.csv", "--output", "out", *unit,
                *(option for option in options if option != "--no-unit")]
    return make


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_message_and_no_output(faulty, tmp_path, refusal, fault):
    assert FAULTS[fault][2] in refusal(tables.main, *faulty(fault))
    assert not (tmp_path / ".out.scratch").exists()


@pytest.mark.parametrize(("times", "expected"), [
    (["2024-01-01 10:00:00+01:00", "2024-01-01 11:00:00"], "with an offset from UTC, as the first time has"),
    (["2024-01-01 10:00:00", "2024-01-01T11:00:00Z"], "without an offset, as the first time is"),
])
def test_a_mix_of_times_with_and_without_an_offset_is_refused(tmp_path, refusal, times, expected):
    rows = [(f"s{n}", times[n == 7], "HR", 80) for n in range(12)]
    vitals, labels = write_cohort(tmp_path, rows, [(f"s{n}", n % 2, "") for n in range(12)])
    message = refusal(tables.main, "--input", vitals, "--labels", labels, "--output", tmp_path / "out")
    assert f"row 8 below the header: the time of id 's7', variable 'HR', is '{times[1]}'" in message
    assert expected in message


@pytest.mark.parametrize("text", [
    "2150-01-01 02:00:00 PM", "2150-01-01 02:00:00 EST", "2150-01-01 02:00:00 Europe/Berlin", "2150-01-01 02:00:00 foo",
    "2150-01-01 02:00:00+05", "2150-01-01 02:00:00+", "01/02/2150", "2150-01-01 02:00:00Z"])
def test_text_after_a_time_is_refused(tmp_path, refusal, text):
    rows = [(f"s{n}", text if n == 7 else "2150-01-01 01:00:00", "HR", 80) for n in range(12)]
    vitals, labels = write_cohort(tmp_path, rows, [(f"s{n}", n % 2, "") for n in range(12)])
    message = refusal(tables.main, "--input", vitals, "--labels", labels, "--output", tmp_path / "out")
    assert f"row 8 below the header: the time of id 's7', variable 'HR', is '{text}'; expected a timestamp" in message


def test_an_origin_with_text_after_the_time_is_refused(tmp_path, refusal):
    vitals, _ = write_cohort(tmp_path, [(f"s{n}", "2150-01-01 01:00", "HR", 80) for n in range(12)], [])
    labels = write_table(tmp_path / "origins.csv", ["id", "label", "start"], [
        (f"s{n}", n % 2, "2150-01-01" + " 02:00:00 PM" * (n == 7)) for n in range(12)])
    message = refusal(tables.main, "--input", vitals, "--labels", labels, "--output", tmp_path / "out", "--origin",
                      "start")
    assert "row 8: the origin '2150-01-01 02:00:00 PM' of id 's7' is not a timestamp" in message


def test_a_target_by_a_column_of_the_labels(tmp_path, refusal, check_composed):
    rows, labels = cohort()
    vitals, _ = write_cohort(tmp_path, rows, labels)
    table = write_table(tmp_path / "wards.csv", ["id", "label", "patient", "Ward", "p_0", "p_1"], [
        (*row, "" if row[0] == "s3" else "north, 2" if row[2] < "p12" else "south", 0.25, 0.75) for row in labels])
    arguments = [*HOURS, "--subject", "patient", "--target", "ward = 'north, 2' and p_1 > .5", "--probabilities", "p_0",
                 "p_1"]
    dataset = convert(vitals, table, tmp_path / "out", *arguments, "--source", "ward = south")
    check_composed(dataset, lambda patient: patient < "p12", str)
    message = refusal(tables.main, "--input", vitals, "--labels", table, "--output", tmp_path / "other", *arguments,
                      "--split", "ward")
    assert "leave out --split" in message
