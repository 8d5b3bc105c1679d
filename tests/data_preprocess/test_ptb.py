"""PTB: WFDB records with known heartbeats, beat by beat against a loop after the publisher's notebook; real records."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import interp1d
from sklearn.preprocessing import StandardScaler
from user_errors import replaced_in, web_page

from data_preprocess import ptb, windows
from tardiff.data.format import read_dataset

wfdb = pytest.importorskip("wfdb")
neurokit = pytest.importorskip("neurokit2")
LEADS = ["i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6", "vx", "vy", "vz"]
ILL, HEALTHY, OTHER = "Myocardial infarction", "Healthy control", "Bundle branch block"
# Folder -> its records: the reason for admission and the RR interval in milliseconds.
PATIENTS = {
    "patient001": [(ILL, 800)], "patient002": [(OTHER, 800)], "patient003": [(HEALTHY, 700)],
    "patient004": [(ILL, 1400)], "patient005": [("n/a", 760), (ILL, 900), (ILL, 1300)], "patient006": [(HEALTHY, 1000)],
    "patient007": [(ILL, 1100)], "patient008": [(HEALTHY, 640)],
}
NUMBERS = {"train": {"patient003": 2, "patient001": 1}, "val": {"patient006": 4, "patient005": 3},
           "test": {"patient008": 6, "patient007": 5}}
SECONDS = 10


def beat_times(interval):
    """The R peaks in seconds: regular, from half an interval on."""
    return np.arange(interval / 2000, SECONDS, interval / 1000)


def ecg(interval, seed=0):
    """Fifteen leads (10000, 15) at 1000 Hz in millivolts: P, QRS and T waves as Gaussians, with a little noise."""
    time = np.arange(SECONDS * 1000) / 1000
    wave = np.zeros_like(time)
    for peak in beat_times(interval):
        for delay, height, width in ((-0.16, 0.1, 0.02), (-0.025, -0.15, 0.008), (0, 1.2, 0.01), (0.025, -0.25, 0.008),
                                     (0.25, 0.3, 0.04)):
            wave += height * np.exp(-((time - peak - delay) / width) ** 2 / 2)
    noise = np.random.default_rng(seed).normal(0, 0.005, size=(len(time), 15))
    return wave[:, None] * np.linspace(0.5, 2, 15) + noise


def write_record(folder, name, reason, signal, leads=LEADS, rate=1000):
    """Write a record as the publisher does: twelve leads in .dat, three in .xyz, and one header with comments."""
    comments = ["age: 60", "sex: female", "ECG date: 01/10/1990", "Diagnose:", f"Reason for admission: {reason}",
                "Smoker: no"]
    folder.mkdir(exist_ok=True)
    for record, part in ((name, slice(0, 12)), ("frank", slice(12, None))):
        wfdb.wrsamp(record, fs=rate, units=["mV"] * len(leads[part]), sig_name=leads[part], p_signal=signal[:, part],
                    fmt=["16"] * len(leads[part]), comments=comments, write_dir=str(folder))
    (folder / "frank.dat").rename(folder / f"{name}.xyz")
    frank = (folder / "frank.hea").read_text().splitlines()[1:1 + len(leads[12:])]
    (folder / "frank.hea").unlink()
    first, *rest = (folder / f"{name}.hea").read_text().splitlines()
    lines = [first.replace(f"{name} 12", f"{name} {len(leads)}"), *rest[:12],
             *(line.replace("frank.dat", f"{name}.xyz") for line in frank), *rest[12:]]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptbdb")
    for patient, records in PATIENTS.items():
        for number, (reason, interval) in enumerate(records, start=1):
            write_record(folder / patient, f"s{number:04d}_re", reason, ecg(interval, seed=number))
    (folder / "RECORDS").write_text("notes")
    return folder


@pytest.fixture(scope="module")
def dataset(published, tmp_path_factory):
    return convert(published, tmp_path_factory.mktemp("output") / "ptb")


def convert(folder, output, *options):
    ptb.main(["--input", str(folder), "--output", str(output), *options])
    return read_dataset(output)


def beats_of_the_notebook(path):
    """Medformer's steps in its own libraries: 300 steps a beat, before any crop and z-score of beats."""
    raw = wfdb.rdsamp(str(path))[0]
    old = np.linspace(1, len(raw), len(raw))
    new = np.linspace(1, len(raw), int(len(raw) / 1000 * 250))
    signal = StandardScaler().fit_transform(np.array([interp1d(old, lead)(new) for lead in raw.T]).T)
    peaks = []
    for lead in signal.T:
        marks, _ = neurokit.ecg_peaks(neurokit.ecg_clean(lead, sampling_rate=250), sampling_rate=250,
                                      correct_artifacts=False)
        peaks.append(marks[marks["ECG_R_Peaks"] == 1].index.to_list())
    median = pd.DataFrame([np.diff(lead) for lead in peaks]).T.median().median()
    beats = []
    for number in range(max(map(len, peaks))):
        position = int(np.median([lead[number] for lead in peaks if len(lead) > number]))
        own = signal[max(0, position - int(median / 2)):min(position + int(median / 2), len(signal))]
        left = int((300 - len(own)) / 2)
        beats.append(np.concatenate([np.zeros((left, 15)), own, np.zeros((300 - left - len(own), 15))]))
    return np.array(beats), median


def every_beat(folder, patient):
    records = [folder / patient / f"s{number:04d}_re" for number, (_, interval) in enumerate(PATIENTS[patient], start=1)
               if interval <= 1200]
    return np.concatenate([beats_of_the_notebook(path)[0] for path in records])


def test_every_beat_of_every_patient_against_the_notebook(published, dataset):
    for name, split in dataset.splits.items():
        assert dataset.meta.cohort["subjects"][name] == NUMBERS[name]
        assert list(dict.fromkeys(split.subject)) == list(NUMBERS[name])
        for patient in NUMBERS[name]:
            own = split.subject == patient
            expected = every_beat(published, patient)[:, 6:294]
            assert own.sum() == len(expected)
            for beat, raw in zip(split.x[own], expected, strict=True):
                np.testing.assert_allclose(beat, StandardScaler().fit_transform(raw), atol=1e-5)
            assert set(split.y[own]) == {int(PATIENTS[patient][-1][0] == ILL)}
    assert dataset.shape == (288, 15) and dataset.meta.channels == LEADS


@pytest.mark.parametrize("interval", [640, 800, 1100])
def test_beats_stand_where_the_heart_beats(published, interval):
    """One beat for each R peak, which stands in the middle of its window, half an RR interval from the padding."""
    patient = {640: "patient008", 800: "patient001", 1100: "patient007"}[interval]
    attrition = {}
    beats = ptb.read_beats(published / patient / "s0001_re", wfdb, neurokit, attrition)
    assert len(beats) == len(beat_times(interval)) and not attrition
    half = interval // 8  # half an interval at 250 Hz
    for beat in beats[1:-1]:  # the first and last ones may be clipped
        assert (np.abs(beat.argmax(axis=0) - 150) <= 2).all()
        inside = np.flatnonzero((beat != 0).all(axis=1))
        assert abs(inside[0] - (150 - half)) <= 1 and abs(inside[-1] - (149 + half)) <= 1


def test_a_beat_at_the_edge_is_clipped_and_padded_on_both_sides():
    signal = np.arange(1.0, 101.0)[:, None] * [1, 2]
    beats = ptb.cut_beats(signal, [np.array([5, 50, 98]), np.array([5, 52]), np.array([5, 90])], interval=41.5)
    assert beats.shape == (3, 300, 2)
    # Around 5, the median 52, and 98 of one lead.
    for beat, first, last in zip(beats, (0, 32, 78), (25, 72, 100), strict=True):
        expected = np.zeros((300, 2))
        start = (300 - (last - first)) // 2
        expected[start:start + last - first] = signal[first:last]
        np.testing.assert_array_equal(beat, expected)


def test_where_every_patient_and_record_went(dataset):
    assert dataset.meta.cohort["attrition"] == {
        "patients read": 8, "patients of other diagnoses": 1, "patients of the two classes": 7, "records of them": 9,
        "records with missing samples": 0, "records without heartbeats": 0, "records slower than 1.2 s a beat": 2,
        "records kept": 7, "patients kept": 6,
    }


def test_length_crop_and_cuts(published, tmp_path, dataset):
    other = convert(published, tmp_path / "other", "--length", "200", "--crop", "left", "--cuts", "0.4", "0.8")
    expected = every_beat(published, "patient001")[:, :200]
    found = other.train.x[other.train.subject == "patient001"]
    np.testing.assert_allclose(found, windows.z_scores(expected), atol=1e-5)
    assert [other.meta.cohort[name] for name in ("cuts", "crop", "window")] == [[0.4, 0.8], "left", 200]
    for split in [*dataset.splits.values(), *other.splits.values()]:
        np.testing.assert_allclose(split.x.mean(axis=1), 0, atol=1e-5)
        np.testing.assert_allclose(split.x.std(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize(("reason", "signal"), [
    ("records without heartbeats", np.zeros((10_000, 15))), ("records without heartbeats", ecg(800)[:50]),
    ("records with missing samples", np.where(np.arange(10_000)[:, None] == 99, np.nan, ecg(800)))])
def test_flat_leads_and_missing_samples_drop_a_record_and_are_counted(tmp_path, reason, signal):
    write_record(tmp_path, "s0001_re", ILL, signal)
    attrition = {reason: 3}
    assert ptb.read_beats(tmp_path / "s0001_re", wfdb, neurokit, attrition) is None
    assert attrition == {reason: 4}


def test_the_last_record_decides_where_diagnoses_disagree(tmp_path):
    for patient, reasons in {"patient001": (HEALTHY, ILL, OTHER), "patient002": (ILL, HEALTHY)}.items():
        for number, reason in enumerate(reasons):
            write_record(tmp_path / patient, f"s{number}", reason, ecg(800)[:100])
    labels, records, _ = ptb.read_headers(tmp_path, wfdb)
    assert labels == {"patient001": 1, "patient002": 0} and len(records["patient001"]) == 3


# The labels that Medformer's notebook prints for patients 1 to 198: those of healthy controls.
HEALTHY_NUMBERS = [
    104, 105, 108, 109, 111, 112, 114, 124, 126, 127, *range(131, 140), 141, 142, 147, 151, 154, *range(157, 176), 177,
    179,
    180, 182, 183, 187, 188, 192]


def test_the_published_patients_give_the_published_lists():
    subjects = [windows.Subject(f"p{number}", number, int(number not in HEALTHY_NUMBERS)) for number in range(1, 199)]
    members = windows.members_by_class_order(subjects, ptb.DEFAULT_CUTS)
    counts, ranges = {}, {}
    for name, part in members.items():
        for label in (0, 1):
            own = [subject.number for subject in part if subject.label == label]
            counts[name, label], ranges[name, label] = len(own), (own[0], own[-1])
    assert counts == {("train", 0): 28, ("train", 1): 80, ("val", 0): 7, ("val", 1): 22, ("test", 0): 16,
                      ("test", 1): 45}
    assert ranges == {("train", 0): (104, 160), ("train", 1): (1, 80), ("val", 0): (161, 167), ("val", 1): (81, 102),
                      ("test", 0): (168, 192), ("test", 1): (103, 198)}


def test_published_beats_add_up():
    counts = ptb.PUBLISHED_SPLITS[ptb.DEFAULT_CUTS]
    for name in ("train", "val", "test"):
        assert counts[f"{name} beats"] == sum(counts[f"{name} beats, {label}"] for label in ptb.CLASSES)
    for published in ptb.PUBLISHED_SPLITS.values():
        assert sum(published[f"{name} beats"] for name in ("train", "val", "test")) == ptb.PUBLISHED["beats"]


# What Medformer's notebook prints for two real records: beats, and the median RR interval of each lead.
REAL = {"patient001/s0010_re": (52, [183, 183, 184, 183, 183, 185, *[183] * 9]),
        "patient002/s0015lre": (151, [191] * 15)}


@pytest.mark.parametrize("record", REAL)
def test_real_records_give_the_published_beats(shared_data, record):
    path = shared_data / "ptbdb" / record
    if not path.with_suffix(".hea").is_file():
        pytest.skip(f"no {path}")
    count, intervals = REAL[record]
    assert ptb.read_diagnosis(path, wfdb) == ILL
    beats = ptb.read_beats(path, wfdb, neurokit, {})
    expected, median = beats_of_the_notebook(path)
    assert len(beats) == count and median == np.median(intervals)
    np.testing.assert_allclose(beats, expected, atol=1e-9)
    raw = wfdb.rdsamp(str(path))[0]
    signal = windows.z_scores(windows.resample(raw, 1000, 250)[None])[0]
    assert [np.median(np.diff(ptb.r_peaks(lead, neurokit))) for lead in signal.T] == intervals


def test_two_real_patients_of_one_class_are_told(shared_data, tmp_path, refusal):
    if not (shared_data / "ptbdb").is_dir():
        pytest.skip("no ptbdb")
    message = refusal(ptb.main, "--input", shared_data / "ptbdb", "--output", tmp_path / "out")
    for expected in ("train lacks healthy", "0 healthy, 2 myocardial infarction", "add the missing folders"):
        assert expected in message


RECORD = "patient001/s0001_re"


change_header = partial(replaced_in, f"{RECORD}.hea")


def cut_off(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:50_001])


def remove_patients(*names):
    return lambda folder: [shutil.rmtree(folder / name) for name in names]


FAULTS = {
    "no frank leads": (lambda folder: (folder / f"{RECORD}.xyz").unlink(), [], "s0001_re.xyz: file not found"),
    "no header": (lambda folder: (folder / f"{RECORD}.hea").unlink(), [], "s0001_re.hea: file not found"),
    "html header": (web_page(f"{RECORD}.hea"), [], "s0001_re.hea: cannot be read"),
    "cut off": (cut_off(f"{RECORD}.dat"), [], "s0001_re: cannot be read"),
    "a comment less": (change_header("# sex: female\n", ""), [], "found 'Smoker: no' as the fifth comment, expected "
                       "'Reason"),
    "another rate": (change_header(" 1000 ", " 500 "), [], "at 500 Hz, expected 15"),
    "one class": (remove_patients("patient003", "patient006", "patient008"), [],
                  "Found 3 subjects of the splits: 0 healthy, 3"),
    "no patient": (remove_patients(*PATIENTS), [], "no record found. Expected patient001/*.hea to patient294/*.hea"),
    "too long": (lambda folder: None, ["--length", "301"], "length 301: expected 1 to 300"),
    "falling cuts": (lambda folder: None, ["--cuts", "0.7", "0.55"], "cuts 0.7 0.55: expected two rising shares"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_input_is_one_message_and_no_output(published, tmp_path, refusal, fault):
    damage, options, expected = FAULTS[fault]
    damage(Path(shutil.copytree(published, tmp_path / "input")))
    assert expected in refusal(ptb.main, "--input", tmp_path / "input", "--output", tmp_path / "output", *options)
