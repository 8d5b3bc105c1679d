"""TDBrain: EEG of people with Parkinson's disease and healthy people, eyes closed, in windows of one second.

    python -m data_preprocess.tdbrain --input DIR --output data/tdbrain

DIR is the folder `derivatives` of TDBrain version 2 (on request from https://brainclinics.com/resources/), with
`TDBRAIN_participants_V2.tsv` and the preprocessed recordings `sub-X/ses-N/eeg/*EC*.csv`: 500 Hz, a header, 33 columns
(26 EEG channels and 7 others).

Decisions, as in Medformer except for the first:
- Recordings and diagnoses are joined by the participant id. Medformer's notebook joins them by their order in a folder
  and in the table, which differ, so its counts and scores cannot be expected here.
- Rows without id or indication and those of the replication set are dropped, then further rows of one participant;
  PARKINSON (class 1) and HEALTHY (class 0) are numbered in the order of the table.
- A folder sub-X whose participant is not in the table is named in a warning and skipped, as the notebook skips it. Rows
  of one participant with different indications are refused where the participant is used; of others the first counts.
- Training is numbers 1-17 and 29-45, validation 18-21 and 46-49, test 22-25 and 50-53; the others are not used.
- All sessions, eyes closed; linear interpolation from 500 to 256 Hz without a filter; 256 samples a window, without
  overlap, laid out from the middle of the recording outward.

Versions 3 and later have other folders and other healthy participants, to whom these lists do not apply.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data_preprocess import count_tables, windows
from data_preprocess.windows import Subject
from tardiff.data.format import Metadata, Split
from tardiff.utils.errors import UserError

SOURCE = "https://brainclinics.com/resources/"
AGAIN = f"Get it again from {SOURCE}."
TABLE = "TDBRAIN_participants_V2.tsv"
RATE, NEW_RATE, LENGTH, NUM_CHANNELS = 500, 256, 256, 33
CLASSES = ["healthy", "Parkinson's disease"]
INDICATIONS = ["HEALTHY", "PARKINSON"]
NUMBERS = {"train": {*range(1, 18), *range(29, 46)}, "val": {*range(18, 22), *range(46, 50)},
           "test": {*range(22, 26), *range(50, 54)}}
PUBLISHED_PARTICIPANTS = {"participants, healthy": 47, "participants, Parkinson's disease": 25}
PUBLISHED = {"subjects": 50, "windows": 6240}


def preprocess(folder: Path) -> tuple[dict[str, Split], Metadata]:
    """Read the participants that are there; return the splits and their description. Raises UserError."""
    subjects = read_participants(folder)
    labels = [subject.label for subject in subjects]
    count_tables.compare_with_published(PUBLISHED_PARTICIPANTS, {
        f"participants, {name}": labels.count(label) for label, name in enumerate(CLASSES)})
    files = {subject.name: sorted((folder / subject.name).glob("ses-*/eeg/*EC*.csv")) for subject in subjects}

    def read(subject: Subject) -> tuple[list[str], np.ndarray]:
        channels, recordings = zip(*map(read_recording, files[subject.name]), strict=True)
        parts = [windows.resample(recording, RATE, NEW_RATE) for recording in recordings]
        if len(set(map(tuple, channels))) > 1:
            raise UserError(f"{folder / subject.name}: the columns differ between its sessions. {AGAIN}")
        return channels[0], np.concatenate([windows.middle_out_windows(part, LENGTH) for part in parts])

    members = windows.members_by_number(subjects, NUMBERS)
    recordings = {subject.name: len(files[subject.name]) for part in members.values() for subject in part
                  if files[subject.name]}
    for name, part in members.items():
        print(f"{name}: {' '.join(subject.name for subject in part if subject.name in recordings)}\n")
    return windows.dataset_of_recordings(
        members, files, "eyes-closed .csv file", folder,
        f"The lists are those of version 2: give its {TABLE} and add the missing recordings from {SOURCE}.", read,
        PUBLISHED, Metadata(
            name="tdbrain", channels=[], units=[], classes=CLASSES, sampling_interval=f"1/{NEW_RATE} s",
            source=f"TDBrain, {SOURCE}", licence="data use agreement of Brainclinics",
            cohort={"window": LENGTH, "recordings": recordings}))


def read_participants(folder: Path) -> list[Subject]:
    """Read the table of participants, and number those with Parkinson's disease and the healthy ones in its order.

    Warns on stderr of folders of participants who are not in the table. Raises UserError if columns are missing, or if
    the rows of a participant in one of the splits contradict each other.
    """
    path = folder / TABLE
    table = windows.read_participants(path, ("participants_ID", "indication"), AGAIN)
    known = set(table["participants_ID"].dropna().str.strip())
    unknown = sorted({path.name for path in folder.glob("sub-*")} - known)
    if unknown:
        print(f"warning: folders of participants who are not in {TABLE} are skipped ({len(unknown)}): "
              f"{', '.join(unknown)}. The table and the recordings should be of one version.", file=sys.stderr)
    table = table.dropna(subset=["participants_ID", "indication"])
    names, indications = table["participants_ID"].str.strip(), table["indication"].str.strip().str.upper()
    indications = indications[indications != "REPLICATION"].groupby(names, sort=False).agg(["first", "nunique"])
    kept = indications[indications["first"].isin(INDICATIONS)]
    used = set.union(*NUMBERS.values())
    for number, (name, contradicted) in enumerate((kept["nunique"] > 1).items(), start=1):
        if contradicted and number in used:
            raise UserError(f"{path}: participant {name} occurs with different indications. {AGAIN}")
    return [Subject(name, number, INDICATIONS.index(indication))
            for number, (name, indication) in enumerate(kept["first"].items(), start=1)]


def read_recording(path: Path) -> tuple[list[str], np.ndarray]:
    """Read one recording: the names of its 33 columns and the signal (T, 33) float64.

    Raises UserError if the columns are not 33, or if a cell is no number.
    """
    with windows.reading(path, AGAIN):
        table = pd.read_csv(path, dtype=np.float64)
    if table.shape[1] != NUM_CHANNELS:
        raise UserError(f"{path}: has {table.shape[1]} columns, expected {NUM_CHANNELS} (26 EEG channels and 7 "
                        f"others). {AGAIN}")
    signal = table.to_numpy()
    faulty = ~np.isfinite(signal).all(axis=1)
    if faulty.any():
        raise UserError(f"{path}, line {int(faulty.argmax()) + 2}: a value is missing or no number. The file may be "
                        f"cut off. {AGAIN}")
    return list(table.columns), signal


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line."""
    windows.convert("tdbrain", __doc__, prog, f"folder with {TABLE} and sub-X/", arguments, preprocess)


if __name__ == "__main__":
    main()
