"""APAVA: EEG of people with Alzheimer's disease and healthy controls, in half-overlapping windows of one second.

    python -m data_preprocess.apava --input DIR --output data/apava

DIR holds `preproctrials01.mat` to `preproctrials23.mat` of https://osf.io/jbysn (in AD_Data.tar.gz), one FieldTrip
structure `data` a participant, with `label` (16 channels), `fsample` (256 Hz) and `trial` (one cell an epoch, 16 x
1280).

Decisions, as in Medformer:
- Windows of 256 samples at a stride of 128 within each epoch: 9 of each 5 seconds. No resampling.
- The files hold no diagnosis; participants 1, 3, 6, 8, 9, 11, 12, 13, 15, 17, 19 and 21 have Alzheimer's disease. The
  number is the one in the file name, so that a missing file shifts nobody.
- Validation is participants 15, 16, 19 and 20, test 1, 2, 17 and 18, training the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io

from data_preprocess import windows
from data_preprocess.windows import Subject
from tardiff.data.format import Metadata, Split
from tardiff.utils.errors import UserError

SOURCE = "https://osf.io/jbysn"
AGAIN = f"Download it again from {SOURCE}."
LENGTH, STRIDE, RATE = 256, 128, 256
EPOCH_SHAPE = (16, 1280)
CLASSES = ["healthy", "Alzheimer's disease"]
ALZHEIMER = {1, 3, 6, 8, 9, 11, 12, 13, 15, 17, 19, 21}
VALIDATION, TEST = {15, 16, 19, 20}, {1, 2, 17, 18}
NUMBERS = {"train": set(range(1, 24)) - VALIDATION - TEST, "val": VALIDATION, "test": TEST}
WINDOWS_PER_SUBJECT = (315, 225, 90, 297, 9, 198, 27, 288, 162, 342, 423, 333, 261, 351, 414, 252, 531, 360, 414, 333,
                       171, 153, 18)
PUBLISHED = {
    "subjects": 23, "windows": 5967,
    "train windows": 3123, "train windows, healthy": 1197, "train windows, Alzheimer's disease": 1926,
    "val windows": 1413, "val windows, healthy": 585, "val windows, Alzheimer's disease": 828,
    "test windows": 1431, "test windows, healthy": 585, "test windows, Alzheimer's disease": 846,
    **{f"windows of preproctrials{number:02d}": count for number, count in enumerate(WINDOWS_PER_SUBJECT, start=1)},
}


def preprocess(folder: Path) -> tuple[dict[str, Split], Metadata]:
    """Read the participants that are there; return the splits and their description. Raises UserError."""
    files = find_files(folder)
    everyone = [Subject(f"preproctrials{number:02d}", number, int(number in ALZHEIMER)) for number in range(1, 24)]

    def read(subject: Subject) -> tuple[list[str], np.ndarray]:
        channels, epochs = read_epochs(*files[subject.name])
        return channels, np.concatenate([windows.strided_windows(epoch, LENGTH, STRIDE) for epoch in epochs])

    return windows.dataset_of_recordings(
        windows.members_by_number(everyone, NUMBERS), files, ".mat file", folder,
        f"Add the missing files from {SOURCE}.", read, PUBLISHED, Metadata(
        name="apava", channels=[], units=[], classes=CLASSES, sampling_interval=f"1/{RATE} s",
        source=f"APAVA, {SOURCE}", licence=f"see {SOURCE}", cohort={"window": LENGTH, "stride": STRIDE}))


def find_files(folder: Path) -> dict[str, list[Path]]:
    """Return the file of each participant by its name, `preproctrials01` to `preproctrials23`.

    Raises UserError if there is none, if a number is unknown, or if it occurs twice.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.mat")):
        match = re.fullmatch(r"preproctrials(\d+)\.mat", path.name)
        if match is None:
            continue
        number = int(match[1])
        if not 1 <= number <= 23:
            raise UserError(f"{path}: unknown participant {number}; the set has participants 1 to 23, whose diagnoses "
                            "are known. Remove the file.")
        name = f"preproctrials{number:02d}"
        if name in files:
            raise UserError(f"{path}: participant {number} occurs twice, also as {files[name][0].name}. Keep "
                            "one of them.")
        files[name] = [path]
    if not files:
        raise UserError(f"{folder}: no file found. Expected preproctrials01.mat to preproctrials23.mat from {SOURCE}.")
    return files


def read_epochs(path: Path) -> tuple[list[str], list[np.ndarray]]:
    """Read a participant's FieldTrip structure: the channel names and the epochs, each (1280, 16) float64.

    Raises UserError if the file is damaged or of another kind, and if an epoch is not 16 channels x 1280 samples.
    """
    with windows.reading(path, f"Expected a FieldTrip structure 'data' with label, fsample and trial. {AGAIN}"):
        structure = scipy.io.loadmat(path, variable_names=["data"])["data"][0, 0]
        channels = [str(np.ravel(name)[0]) for name in np.ravel(structure["label"])]
        rate = float(np.ravel(structure["fsample"])[0])
        epochs = [np.asarray(epoch, dtype=np.float64) for epoch in np.ravel(structure["trial"])]
    if rate != RATE or len(channels) != EPOCH_SHAPE[0] or not epochs:
        raise UserError(f"{path}: found {len(channels)} channels and {len(epochs)} epochs at {rate:g} Hz, expected "
                        f"{EPOCH_SHAPE[0]} channels and at least one epoch at {RATE} Hz. {AGAIN}")
    for number, epoch in enumerate(epochs, start=1):
        if epoch.shape != EPOCH_SHAPE:
            hint = " It is transposed: turn every epoch round." if epoch.shape == EPOCH_SHAPE[::-1] else f" {AGAIN}"
            raise UserError(f"{path}, epoch {number}: its shape is {' x '.join(map(str, epoch.shape))}, expected 16 "
                            f"channels x 1280 samples.{hint}")
        if not np.isfinite(epoch).all():
            raise UserError(f"{path}, epoch {number}: holds values that are no numbers. {AGAIN}")
    return channels, [epoch.T for epoch in epochs]


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line."""
    windows.convert("apava", __doc__, prog, "folder with preproctrials01.mat to preproctrials23.mat", arguments,
                    preprocess)


if __name__ == "__main__":
    main()
