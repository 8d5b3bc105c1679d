"""eICU: generated tables in the publisher's format against a plain loop, every rule of both cohorts, and the demo."""

import gzip
from dataclasses import replace

import duckdb
import numpy as np
import pandas as pd
import pytest

from data_preprocess import eicu, grid
from tardiff.data.format import read_dataset

CHANNELS = ["HR", "RR", "SpO2"]
BOUNDS = {"HR": (25, 225), "RR": (0, 60), "SpO2": (0, 100)}
VITAL_HEADER = ("vitalperiodicid,patientunitstayid,observationoffset,temperature,sao2,heartrate,respiration,cvp,etco2,"
                "systemicsystolic,systemicdiastolic,systemicmean,pasystolic,padiastolic,pamean,st1,st2,st3,icp")
PATIENT_HEADER = ("patientunitstayid,patienthealthsystemstayid,gender,age,apacheadmissiondx,hospitaldischargestatus,"
                  "unitdischargeoffset,unitdischargestatus,uniquepid")


def vital_row(stay, minute, heart_rate, respiration, saturation):
    return f"1,{stay},{minute},,{saturation},{heart_rate},{respiration},,,,,,,,,,,,"


def patient_row(stay, patient, status="Alive", minutes=3000):
    return f'{stay},1,Female,> 89,"Rhythm disturbance (atrial, supraventricular)",{status},{minutes},Alive,{patient}'


def regular(stay, start=0, end=1445, number=0):
    """Rows 5 minutes apart from `start` until before `end`."""
    return [vital_row(stay, minute, 60 + number + minute % 7, 12 + minute % 5, 95 + minute % 4)
            for minute in range(start, end, 5)]


def cohort(number=14):
    """Regular stays of as many patients from minute -3 on; 5 died, every other one stays 5 days."""
    patients = [patient_row(100 + i, f"002-{i}", "Expired" if i < 5 else "Alive", 7200 if i % 2 else 4320)
                for i in range(number)]
    return patients, [row for i in range(number) for row in regular(100 + i, -3, 1460, i)]


# A stay of each kind: its rows, and whether the cohort complete and the cohort timediff keep it.
def edit(rows, position, *new):
    """Put `new` in the place of one row of regular rows from minute 0 on."""
    return [*rows[:position], *new, *rows[position + 1:]]


STAYS = {
    "from 0": (regular(1), True, True),
    "from 4": (regular(1, 4, 1455), True, True),
    "from 5": (regular(1, 5), False, True),
    "from 60": (regular(1, 60), False, True),
    "from 61": (regular(1, 61, 1450), False, False),
    "until 1435": (regular(1, 0, 1440), True, False),
    "until 1440, off the grid": (regular(1, 3, 1440), True, False),
    "until 1430": (regular(1, 0, 1435), False, False),
    "one row is missing": (edit(regular(1), 100), False, False),
    "a row before 60 is missing": (edit(regular(1), 5), False, True),
    "one row is a minute late": (edit(regular(1), 100, vital_row(1, 501, 70, 14, 97)), True, False),
    "one row more": ([*regular(1), vital_row(1, 501, 70, 14, 97)], True, False),
    "the same minute twice": ([*regular(1), vital_row(1, 500, 99, 14, "")], True, True),
    "a shift of one minute": ([*regular(1, 0, 500), *regular(1, 501, 1450)], True, False),
    "no respiration": ([vital_row(1, minute, 70, "", 97) for minute in range(0, 1445, 5)], False, True),
    "respiration out of range": ([vital_row(1, minute, 70, 61, 97) for minute in range(0, 1445, 5)], False, True),
    "one respiration": (edit([vital_row(1, minute, 70, "", 97) for minute in range(0, 1445, 5)], 50,
                             vital_row(1, 250, 70, 9, 97)), True, True),
    "no value at all": ([vital_row(1, minute, "", 61, "") for minute in range(0, 1445, 5)], False, False),
    "the bounds": (edit(edit(regular(1), 20, vital_row(1, 100, 25, 0, 0)), 21, vital_row(1, 105, 225, 60, 100)), True,
                   True),
    "beyond the bounds": (edit(edit(regular(1), 20, vital_row(1, 100, 24.9, -0.1, -1)), 21,
                               vital_row(1, 105, 225.1, 60.1, 100.1)), True, True),
    "no row": ([], False, False),
}


def quirks():
    """The regular cohort (100..), one stay of each kind (200..), and one of unknown outcome (300)."""
    patients, vitals = cohort()
    for number, (rows, _, _) in enumerate(STAYS.values(), start=200):
        patients.append(patient_row(number, f"003-{number}"))
        vitals += [row.replace("1,1,", f"1,{number},", 1) for row in rows]
    return [*patients, patient_row(300, "003-300", "")], [*vitals, *regular(300, 0, 50), vital_row(999, 0, 70, 14, 97)]


def write_tables(folder, tables, form="csv"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, header, rows in zip(("patient", "vitalPeriodic"), (PATIENT_HEADER, VITAL_HEADER), tables, strict=True):
        if form == "csv":
            (folder / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
        else:
            content = "\n".join([header.upper(), *reversed(rows)]).encode()
            (folder / f"{name}.csv.gz").write_bytes(gzip.compress(content, compresslevel=1))
    return folder


def convert(folder, output, *options):
    eicu.main(["--input", str(folder), "--output", str(output), *options])
    return read_dataset(output)


def by_patient(dataset):
    """Return {uniquepid: (x with NaN where unobserved, filled x, y)} for one stay a patient."""
    return {str(patient): (np.where(mask, x, np.nan), x, int(y)) for split in dataset.splits.values()
            for patient, x, mask, y in zip(split.subject, split.x, split.mask, split.y, strict=True)}


def oracle(vital_rows, start, steps):
    """Return {stay: (steps, 3)} of means, NaN where unobserved, one row and one value at a time."""
    sums = {}
    for row in vital_rows:
        fields = row.split(",")
        step = (int(fields[2]) - start) // 5
        if 0 <= step < steps:
            for channel, text in zip(CHANNELS, (fields[5], fields[6], fields[4]), strict=True):
                low, high = BOUNDS[channel]
                if text and low <= float(text) <= high:
                    cells = sums.setdefault(int(fields[1]), {})
                    cells.setdefault((step, CHANNELS.index(channel)), []).append(float(text))
    grids = {stay: np.full((steps, 3), np.nan) for stay in sums}
    for stay, members in sums.items():
        for cell, values in members.items():
            grids[stay][cell] = sum(values) / len(values)
    return grids


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("published"), quirks())


@pytest.fixture(scope="module", params=["complete", "timediff"])
def dataset(request, published, tmp_path_factory):
    return convert(published, tmp_path_factory.mktemp("output") / request.param, "--cohort", request.param)


def test_each_rule_keeps_the_stays_that_it_should(dataset):
    position = ["complete", "timediff"].index(dataset.meta.cohort["rule"])
    expected = {f"003-{number}" for number, stay in enumerate(STAYS.values(), start=200) if stay[1 + position]}
    assert {patient for patient in by_patient(dataset) if patient.startswith("003")} == expected
    assert {patient for patient in by_patient(dataset) if patient.startswith("002")} == {f"002-{i}" for i in range(14)}


def test_every_cell_agrees_with_the_oracle(dataset):
    complete = dataset.meta.cohort["rule"] == "complete"
    grids = oracle(quirks()[1], *((0, 288) if complete else (60, 276)))
    medians = [entry["train_median"] for entry in dataset.meta.cohort["channels"].values()]
    assert dataset.shape == ((288, 3) if complete else (276, 3))
    gaps = 0
    for patient, (observed, x, _) in by_patient(dataset).items():
        number = int(patient[4:])
        grid = grids[number if patient.startswith("003") else 100 + number]
        np.testing.assert_allclose(observed, grid, rtol=1e-6, err_msg=patient)
        np.testing.assert_allclose(x, pd.DataFrame(grid).ffill().fillna(dict(enumerate(medians))), rtol=1e-6)
        gaps += np.isnan(grid).sum()
    assert gaps > 250


def test_attrition_accounts_for_every_row_and_stay(dataset):
    (counts,) = dataset.meta.cohort["attrition"].values()
    assert counts["rows read"] == len(quirks()[1])
    for unit in ("rows", "stays"):
        parts = [count for step, count in counts.items() if step.startswith(unit) and step != f"{unit} read"]
        assert counts[f"{unit} read"] == sum(parts), unit
    assert counts["rows of stays without a label"] == 11 and counts["stays without a label"] == 1
    assert counts["patients"] == 14 + len(STAYS) + 1 and counts["deaths among them"] == 5


def test_metadata(dataset):
    assert dataset.meta.name == "eicu_mortality" and dataset.meta.channels == CHANNELS
    assert dataset.meta.sampling_interval == "5 minutes"
    assert dataset.meta.licence == "PhysioNet Credentialed Health Data License 1.5.0"
    assert dataset.meta.cohort["channels"]["RR"]["valid_range"] == "0 <= RR <= 60"
    assert all(not np.isnan(split.x).any() for split in dataset.splits.values())
    assert {patient for patient, (_, _, y) in by_patient(dataset).items() if y == 1} == {f"002-{i}" for i in range(5)}
    for split in dataset.splits.values():
        assert [f"002-{stay - 100}" if stay < 200 else f"003-{stay}" for stay in split.id] == split.subject.tolist()


def test_length_of_stay_needs_no_outcome_of_the_hospital(tmp_path):
    patients, vitals = cohort()
    patients[3] = patients[3].replace("Expired", "")
    patients[4] = patients[4].replace("4320", "")
    dataset = convert(write_tables(tmp_path / "in", (patients, vitals)), tmp_path / "out", "--label", "length_of_stay")
    labels = {patient: y for patient, (_, _, y) in by_patient(dataset).items()}
    assert labels == {f"002-{i}": i % 2 for i in range(14) if i != 4}  # exactly 4320 minutes are not over 3 days
    assert dataset.meta.name == "eicu_icu_stay"


def test_gzip_upper_case_and_another_order_of_rows_change_nothing(published, tmp_path):
    other = convert(write_tables(tmp_path / "in", quirks(), "gz"), tmp_path / "other")
    first = convert(published, tmp_path / "first")
    assert replace(other.meta, cohort={**other.meta.cohort, "command": first.meta.cohort["command"]}) == first.meta
    assert {name: split.fingerprint() for name, split in other.splits.items()} == \
           {name: split.fingerprint() for name, split in first.splits.items()}


def replaced(rows, position, old, new):
    assert old in rows[position]
    return [*rows[:position], rows[position].replace(old, new, 1), *rows[position + 1:]]


def test_a_range_means_the_same_in_sql_and_in_numpy():
    for vitals in (grid.VITALS, eicu.VITALS):
        for channel, vital in enumerate(vitals):
            values = np.ravel(np.add.outer([vital.low, vital.high], [-0.1, 0, 0.1]))
            sql = f"SELECT {vital.condition('v')} FROM (SELECT unnest({values.tolist()}) AS v)"
            expected = grid.in_range(np.full(6, channel), values, vitals).tolist()
            assert [valid for valid, in duckdb.sql(sql).fetchall()] == expected
            assert expected == [False, vital.above == "<=", True, True, vital.below == "<=", False]


# The tables, options, and what the message must say.
PATIENTS, VITALS = cohort()
FAULTS = {
    "status": (replaced(PATIENTS, 2, "Expired", "Dead"), VITALS, [],
               "hospitaldischargestatus of patientunitstayid 102 is 'Dead', expected Expired, Alive or nothing"),
    "no patient": (replaced(PATIENTS, 2, "002-2", ""), VITALS, [], "uniquepid of patientunitstayid 102"),
    "value": (PATIENTS, [*VITALS[:4], vital_row(100, 17, "many", 14, 97), *VITALS[5:]], [],
              "vitalPeriodic.csv, line 6: found '1,100,17,,97,many,14,,,,,,,,,,,,'; column 'heartrate' holds 'many'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_input_is_one_message_and_no_output(tmp_path, refusal, fault):
    patients, vitals, options, expected = FAULTS[fault]
    folder = write_tables(tmp_path / "input", (patients, vitals))
    assert expected in refusal(eicu.main, "--input", folder, "--output", tmp_path / "output", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["input"]


def test_the_counts_of_the_paper_stand_beside_those_found(published, tmp_path, capsys):
    dataset = convert(published, tmp_path / "out")
    warnings = capsys.readouterr().err
    long = sum(str(patient).startswith("002") and int(patient[4:]) % 2 for patient in by_patient(dataset))
    (counts,) = dataset.meta.cohort["attrition"].values()
    assert "deaths among them: 5 observed, 3,173 published" in warnings and counts["over 3 days among them"] >= long
    assert f"over 3 days among them: {counts['over 3 days among them']} observed, 13,206 published" in warnings


def test_the_demo_with_generated_vital_signs(shared_data, tmp_path, capsys):
    """The real table `patient`; vital signs of its first 60 stays and of the deaths among the next ones."""
    source = shared_data / "eicu-demo" / "patient.csv.gz"
    if not source.is_file():
        pytest.skip(f"no {source}")
    patients = pd.read_csv(source)
    chosen = patients[(patients.index < 60)
                      | (patients["hospitaldischargestatus"].eq("Expired") & (patients.index < 300))]
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "patient.csv.gz").write_bytes(source.read_bytes())
    rows = [row for stay in chosen["patientunitstayid"] for row in regular(stay)]
    (folder / "vitalPeriodic.csv").write_text("\n".join([VITAL_HEADER, *rows]) + "\n")
    dataset = convert(folder, tmp_path / "out")
    assert "warning" not in capsys.readouterr().err
    assert dataset.meta.licence == "ODbL 1.0" and dataset.meta.source.startswith("eICU Demo v2.0")
    known = chosen[chosen["hospitaldischargestatus"].notna()]
    found = sorted((str(patient), int(y)) for split in dataset.splits.values()
                   for patient, y in zip(split.subject, split.y, strict=True))
    assert found == sorted(zip(known["uniquepid"], (known["hospitaldischargestatus"] == "Expired").astype(int),
                               strict=True))


def test_a_target_by_region_and_by_hospital(tmp_path, check_composed):
    """Patients of odd hospitals are in the south; one has a stay in either."""
    patients, vitals = cohort(20)
    hospitals = [11 + number % 2 for number in range(20)]
    patients[1] = patients[1].replace("002-1", "002-0")
    folder = write_tables(tmp_path / "in", (patients, vitals))
    rows = [f"{PATIENT_HEADER},hospitalid",
            *(f"{row},{hospital}" for row, hospital in zip(patients, hospitals, strict=True))]
    (folder / "patient.csv").write_text("\n".join(rows) + "\n")
    (folder / "hospital.csv").write_text("hospitalid,numbedscategory,teachingstatus,region\n11,,t,South\n12,,f,\n")
    for name, condition in (("region", "region = South"), ("hospital", "hospitalid < 12")):
        dataset = convert(folder, tmp_path / name, "--target", condition)
        sizes = check_composed(dataset, lambda patient: patient % 2 == 0, lambda own: int(own.split("-")[1]))
        assert sizes == (6, 2, 2) and len(dataset.train) == 9
        assert dataset.meta.cohort["target"]["rows of the source, of patients of the target"] == 1
