"""ADFTD: EEG of people with Alzheimer's disease, frontotemporal dementia or neither, in windows of one second.

    python -m data_preprocess.adftd --input DIR --output data/adftd

DIR is the folder of OpenNeuro ds004504 (https://openneuro.org/datasets/ds004504): `participants.tsv` and, for each
participant, `derivatives/sub-NNN/eeg/*.set`, the recordings that the publishers filtered to 0.5-45 Hz and cleaned.

Decisions, as in Medformer:
- Linear interpolation from 500 to 256 Hz without a filter; 256 samples a window, without overlap, laid out from the
  middle of the recording outward.
- The class is the column Group: C (healthy) 0, F (frontotemporal dementia) 1, A (Alzheimer's disease) 2.
- Of each class, in the order of participants.tsv, the first 60 % are training, the next 20 % validation, the last 20 %
  test. The lists come from the whole table: a participant without a recording leaves the others where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from data_preprocess import count_tables, windows
from data_preprocess.windows import Subject
from tardiff.data.format import Metadata, Split
from tardiff.utils.errors import UserError

SOURCE = "https://openneuro.org/datasets/ds004504"
AGAIN = f"Download it again from {SOURCE}."
RATE, NEW_RATE, LENGTH = 500, 256, 256
CHANNELS = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "F7", "F8", "T3", "T4", "T5", "T6", "Fz",
            "Cz", "Pz"]
GROUPS = ["C", "F", "A"]
CLASSES = ["healthy", "frontotemporal dementia", "Alzheimer's disease"]
CUTS = (0.6, 0.8)
PUBLISHED_PARTICIPANTS = {"participants, healthy": 29, "participants, frontotemporal dementia": 23,
                          "participants, Alzheimer's disease": 36}
PUBLISHED = {"subjects": 88, "windows": 69_752}


def preprocess(folder: Path) -> tuple[dict[str, Split], Metadata]:
    """Read the participants that are there; return the splits and their description. Raises UserError."""
    mne = windows.signal_library("mne")
    subjects = read_participants(folder / "participants.tsv")
    files = find_recordings(folder / "derivatives", {subject.name for subject in subjects})
    labels = [subject.label for subject in subjects]
    count_tables.compare_with_published(PUBLISHED_PARTICIPANTS, {
        f"participants, {name}": labels.count(label) for label, name in enumerate(CLASSES)})

    def read(subject: Subject) -> tuple[list[str], np.ndarray]:
        parts = [windows.resample(read_recording(path, mne), RATE, NEW_RATE) for path in files[subject.name]]
        return CHANNELS, np.concatenate([windows.middle_out_windows(part, LENGTH) for part in parts])

    return windows.dataset_of_recordings(
        windows.members_by_class_order(subjects, CUTS), files, ".set file in derivatives/", folder,
        f"Add the missing recordings from {SOURCE}.", read, PUBLISHED, Metadata(
        name="adftd", channels=[], units=[], classes=CLASSES, sampling_interval=f"1/{NEW_RATE} s",
        source=f"ADFTD, OpenNeuro ds004504, {SOURCE}", licence="CC0", cohort={"window": LENGTH, "cuts": list(CUTS)}))


def read_participants(path: Path) -> list[Subject]:
    """Read `participants.tsv` in its order. Raises UserError on a missing column, an unknown group or a repeated id."""
    table = windows.read_participants(path, ("participant_id", "Group"), AGAIN, keep_default_na=False)
    for line, (name, group) in enumerate(zip(table["participant_id"], table["Group"], strict=True), start=2):
        if group not in GROUPS:
            raise UserError(f"{path}, line {line}: group '{group}' of '{name}', expected C, F or A. {AGAIN}")
    repeated = table["participant_id"].duplicated()
    if repeated.any():
        raise UserError(f"{path}, line {int(repeated.argmax()) + 2}: participant "
                        f"{table['participant_id'][repeated].iloc[0]} occurs twice. {AGAIN}")
    return [Subject(name, number, GROUPS.index(group))
            for number, (name, group) in enumerate(zip(table["participant_id"], table["Group"], strict=True), start=1)]


def find_recordings(folder: Path, names: set[str]) -> dict[str, list[Path]]:
    """Return the .set files of each participant that has one. Raises UserError if a folder's participant is unknown."""
    files = {participant.name: paths for participant in sorted(folder.glob("sub-*"))
             if (paths := sorted(participant.glob("eeg/*.set")))}
    unknown = sorted(files.keys() - names)
    if unknown:
        raise UserError(f"{folder / unknown[0]}: participant {unknown[0]} is not in participants.tsv ({len(unknown)} "
                        "such folders). The table and the recordings must be of one version; download both from "
                        f"{SOURCE}.")
    return files


def read_recording(path: Path, mne: ModuleType) -> np.ndarray:
    """Read an EEGLAB file with MNE: (T, 19) float64 in the order of `CHANNELS`.

    Raises UserError if the file is damaged, or if its channels or its sampling rate are other than published.
    """
    with windows.reading(path, AGAIN):
        raw = mne.io.read_raw_eeglab(path, preload=True, verbose="error")
        signal = raw.get_data()
    if sorted(raw.ch_names) != sorted(CHANNELS) or raw.info["sfreq"] != RATE:
        raise UserError(f"{path}: has the channels {', '.join(raw.ch_names)} at {raw.info['sfreq']:g} Hz, expected "
                        f"{', '.join(CHANNELS)} at {RATE} Hz. {AGAIN}")
    if not np.isfinite(signal).all():
        raise UserError(f"{path}: holds values that are no numbers. {AGAIN}")
    return signal[[raw.ch_names.index(name) for name in CHANNELS]].T


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line."""
    windows.convert("adftd", __doc__, prog, "folder with participants.tsv and derivatives/", arguments, preprocess)


if __name__ == "__main__":
    main()
