"""PTB Diagnostic ECG: single heartbeats of 15 leads, myocardial infarction against healthy controls.

    python -m data_preprocess.ptb --input DIR --output data/ptb

DIR holds the folders `patient001` to `patient294` of https://physionet.org/content/ptbdb/1.0.0/, with WFDB records of
15 leads at 1000 Hz (`.hea`, `.dat`, `.xyz`).

Decisions, as in Medformer except for the crop:
- A patient is kept if the reason for admission (fifth comment of the header) of any record is "Myocardial infarction"
  (class 1) or "Healthy control" (class 0); where records disagree the last one in the order of names decides. All
  records of a kept patient are used.
- Each lead is interpolated linearly to 250 Hz without a filter and z-scored over the record. NeuroKit2 finds the R
  peaks of each lead (ecg_clean and ecg_peaks by its method `neurokit`, no correction of artefacts). The record's RR
  interval is the median over leads of each lead's median; records above 300 samples (1.2 s) are dropped.
- Beat i stands around the median, over the leads that have one, of the i-th R peak: half an RR interval to each side,
  clipped to the record, and zeros on both sides up to 300 samples.
- The beats are cropped to the paper's 288 steps in the middle before each is z-scored, so that what is written has mean
  0 and standard deviation 1, padding included; Medformer, which does not crop, z-scores all 300 (`--length 300`).
- Patients are numbered in the order of their folders, without the dropped ones. Of each class the first 55 % are
  training and the next 15 % validation: what Medformer's loader does, where its text says 60/20/20 (`--cuts 0.6 0.8`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from data_preprocess import command, count_tables, windows
from data_preprocess.windows import Subject
from tardiff.data.format import Metadata, Split
from tardiff.utils.errors import UserError
from tardiff.utils.progress import progress

SOURCE = "https://physionet.org/content/ptbdb/1.0.0/"
AGAIN = f"Download it again from {SOURCE}."
LEADS = ["i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6", "vx", "vy", "vz"]
RATE, NEW_RATE, LONGEST = 1000, 250, 300
REASON = "Reason for admission:"
DIAGNOSES = ["Healthy control", "Myocardial infarction"]
CLASSES = ["healthy", "myocardial infarction"]
DEFAULT_CUTS = (0.55, 0.70)
PUBLISHED_RECORDS = {"patients of the two classes": 200, "records slower than 1.2 s a beat": 10, "records kept": 438,
                     "patients kept": 198}
PUBLISHED = {"subjects": 198, "beats": 64_356}
PUBLISHED_SPLITS = {
    DEFAULT_CUTS: {
        "train beats": 41_995, "train beats, healthy": 6252, "train beats, myocardial infarction": 35_743,
        "val beats": 12_993, "val beats, healthy": 1135, "val beats, myocardial infarction": 11_858,
        "test beats": 9368, "test beats, healthy": 3104, "test beats, myocardial infarction": 6264},
    (0.6, 0.8): {"train beats": 46_060, "val beats": 11_148, "test beats": 7148},
}


def preprocess(folder: Path, length: int, position: str,
               cuts: Sequence[float]) -> tuple[dict[str, Split], Metadata]:
    """Read the patients that are there; return the splits and their description. Raises UserError.

    length: steps of a beat, cropped from 300 at `position`, `center` or `left`. cuts: where each class is cut, see
    above.
    """
    check_options(length, cuts)
    wfdb, neurokit = windows.signal_library("wfdb"), windows.signal_library("neurokit2")
    labels, records, attrition = read_headers(folder, wfdb)
    beats = {}
    with progress("reading of records", len(records), "patient") as bar:
        for name, paths in records.items():
            parts = [part for path in paths if (part := read_beats(path, wfdb, neurokit, attrition)) is not None]
            attrition["records kept"] += len(parts)
            if parts:
                whole_beats = windows.crop(np.concatenate(parts), length, position)
                beats[name] = windows.z_scores(whole_beats).astype(np.float32)
            bar.update()
    attrition["patients kept"] = len(beats)
    count_tables.print_attrition({"ptbdb": attrition})
    count_tables.compare_with_published(PUBLISHED_RECORDS, attrition)
    members = windows.members_by_class_order(
        [Subject(name, number, labels[name]) for number, name in enumerate(beats, start=1)], cuts)
    windows.require_every_class(members, CLASSES, folder, "The database has 51 healthy patients and 147 with "
                                f"myocardial infarction; add the missing folders from {SOURCE}.")
    published = PUBLISHED | PUBLISHED_SPLITS.get(tuple(cuts), {})
    return windows.dataset_of_windows(members, beats, "beats", published, Metadata(
        name="ptb", channels=LEADS, units=[], classes=CLASSES, sampling_interval=f"1/{NEW_RATE} s",
        source=f"PTB Diagnostic ECG Database 1.0.0, {SOURCE}", licence="ODC-BY 1.0",
        cohort={"window": length, "crop": position, "cuts": list(cuts), "attrition": attrition}))


def check_options(length: int, cuts: Sequence[float]) -> None:
    """Raise UserError if the length is not within a beat, or if the cuts leave a split without a share."""
    if not 1 <= length <= LONGEST:
        raise UserError(f"length {length}: expected 1 to {LONGEST}, for example 288 or {LONGEST}.")
    if not 0 < cuts[0] < cuts[1] < 1:
        raise UserError(f"cuts {' '.join(map(str, cuts))}: expected two rising shares between 0 and 1, for example "
                        "0.55 0.70.")


def read_headers(folder: Path, wfdb: ModuleType) -> tuple[dict[str, int], dict[str, list[Path]], dict[str, int]]:
    """Read every header: the class and the records (paths without suffix) of each patient of the two classes, in the
    order of folders, and the counts so far. Raises UserError if there is no record, or if a header is not as
    published."""
    patients = [patient for patient in sorted(folder.glob("patient*")) if patient.is_dir()]
    found = {patient.name: sorted({path.with_suffix("") for suffix in ("hea", "dat")
                                   for path in patient.glob(f"*.{suffix}")})
             for patient in patients}
    if not any(found.values()):
        raise UserError(f"{folder}: no record found. Expected patient001/*.hea to patient294/*.hea; download them "
                        f"from {SOURCE}.")
    diagnoses = {name: [read_diagnosis(path, wfdb) for path in paths] for name, paths in found.items()}
    labels = {name: [DIAGNOSES.index(diagnosis) for diagnosis in own if diagnosis in DIAGNOSES][-1]
              for name, own in diagnoses.items() if set(own) & set(DIAGNOSES)}
    records = {name: found[name] for name in labels}
    attrition = {
        "patients read": len(found), "patients of other diagnoses": len(found) - len(labels),
        "patients of the two classes": len(labels), "records of them": sum(map(len, records.values())),
        "records with missing samples": 0, "records without heartbeats": 0, "records slower than 1.2 s a beat": 0,
        "records kept": 0,
    }
    return labels, records, attrition


def read_diagnosis(path: Path, wfdb: ModuleType) -> str:
    """Return the reason for admission of a record. Raises UserError if its header is not one of 15 leads at 1000 Hz."""
    with windows.reading(Path(f"{path}.hea"), AGAIN):
        header = wfdb.rdheader(str(path))
    if [name.lower() for name in header.sig_name or []] != LEADS or header.fs != RATE:
        raise UserError(f"{path}.hea: has {header.n_sig} leads ({', '.join(map(str, header.sig_name or []))}) at "
                        f"{header.fs:g} Hz, expected {len(LEADS)} ({', '.join(LEADS)}) at {RATE} Hz. {AGAIN}")
    comment = header.comments[4] if len(header.comments) > 4 else ""
    if not comment.startswith(REASON):
        raise UserError(f"{path}.hea: found '{comment[:80]}' as the fifth comment, expected '{REASON} ...'. {AGAIN}")
    return comment.removeprefix(REASON).strip()


def read_beats(path: Path, wfdb: ModuleType, neurokit: ModuleType, attrition: dict[str, int]) -> np.ndarray | None:
    """Read a record and cut its beats: (n, 300, 15) float64, or None, counted in `attrition`, if the record is
    dropped."""
    with windows.reading(path, AGAIN):
        signal = wfdb.rdrecord(str(path)).p_signal
    if not np.isfinite(signal).all():
        attrition["records with missing samples"] += 1
        return None
    signal = windows.z_scores(windows.resample(signal, RATE, NEW_RATE)[None])[0]
    peaks = [r_peaks(lead, neurokit) for lead in signal.T]
    intervals = [np.median(np.diff(lead)) for lead in peaks if len(lead) > 1]
    if not intervals:
        attrition["records without heartbeats"] += 1
        return None
    if np.median(intervals) > LONGEST:
        attrition["records slower than 1.2 s a beat"] += 1
        return None
    return cut_beats(signal, peaks, float(np.median(intervals)))


def r_peaks(lead: np.ndarray, neurokit: ModuleType) -> np.ndarray:
    """Find the R peaks of one lead (T,) at 250 Hz: their positions, rising; none in a lead too short to be filtered."""
    try:
        cleaned = neurokit.ecg_clean(lead, sampling_rate=NEW_RATE, method="neurokit")
        marks, _ = neurokit.ecg_peaks(cleaned, sampling_rate=NEW_RATE, correct_artifacts=False)
    except (IndexError, TypeError, ValueError):
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(marks["ECG_R_Peaks"])


def cut_beats(signal: np.ndarray, peaks: Sequence[np.ndarray], interval: float) -> np.ndarray:
    """Cut a beat around the median position of the i-th R peaks, for every i that a lead has: (n, 300, C) float64.

    signal (T, C); peaks: per lead; interval: the record's RR interval in samples, at most 300.
    """
    positions = pd.DataFrame([pd.Series(lead) for lead in peaks]).median().astype(int)
    beats = np.zeros((len(positions), LONGEST, signal.shape[1]))
    for beat, position in zip(beats, positions, strict=True):
        own = signal[max(0, position - int(interval / 2)):position + int(interval / 2)]
        start = (LONGEST - len(own)) // 2
        beat[start:start + len(own)] = own
    return beats


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line."""
    parser = command.source_parser("ptb", __doc__, prog, "folder with patient001/ to patient294/", "data/ptb")
    parser.add_argument("--length", type=int, default=288, help="steps of a beat, at most 300 (default: 288)")
    parser.add_argument("--crop", choices=("center", "left"), default="center",
                        help="which of the 300 steps to keep (default: center)")
    parser.add_argument("--cuts", type=float, nargs=2, default=DEFAULT_CUTS, metavar=("TRAIN", "VAL"),
                        help="where training and validation end, as shares of each class in order (default: 0.55 0.70)")
    command.run(parser, arguments, lambda options: Path("data", "ptb"), lambda options: preprocess(
        options.input, options.length, options.crop, options.cuts))


if __name__ == "__main__":
    main()
