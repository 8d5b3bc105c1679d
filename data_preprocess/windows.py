"""From the recordings of ECG and EEG sources to z-scored windows, in splits of listed subjects.

The protocol is Medformer's, which the paper follows (https://github.com/DL4mHealth/Medformer, MIT licence): resampling
by linear interpolation (`resample`), windows or beats (`middle_out_windows`, `strided_windows`), each of them z-scored
per channel over time (`z_scores`), and splits that are fixed lists of subjects or a share of each class in order
(`members_by_number`, `members_by_class_order`). The steps of every source are the same: decide who is in which split,
read subject by subject (`read_subjects`), and put together (`dataset_of_windows`).
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from scipy.io.matlab import MatReadError

from data_preprocess import command, count_tables
from tardiff.data.format import SPLIT_NAMES, Metadata, Split
from tardiff.utils.errors import UserError
from tardiff.utils.progress import progress

# What pandas, scipy, MNE and wfdb raise on a file that is damaged, incomplete or of another kind.
DAMAGED_FILES = (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError,
                 UnboundLocalError, MatReadError, zlib.error)
NORMALIZATION = ("every window is z-scored by itself, per channel over time (population standard deviation, 1 where "
                 "it is 0); the values are no physical units, and absolute amplitudes are lost")


@dataclass(frozen=True)
class Subject:
    """A participant: the publisher's name, the 1-based number in Medformer's lists, and the class."""

    name: str
    number: int
    label: int


Members = dict[str, list[Subject]]


def signal_library(name: str) -> ModuleType:
    """Import one of the optional libraries that read or analyse signals. Raises UserError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"this source needs the library {name} ({error}). Install what the signals need: "
                        "pip install -e '.[signals]'") from None


@contextmanager
def reading(path: Path, again: str) -> Iterator[None]:
    """Turn what a library raises inside the block on a file that is not there or damaged into a UserError. again: where
    to get it."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{error.filename or path}: file not found. {again}") from None
    except DAMAGED_FILES as error:
        raise UserError(f"{path}: cannot be read ({error}). It is damaged, incomplete, or a web page in place of the "
                        f"data. {again}") from None


def read_participants(path: Path, columns: Sequence[str], again: str, keep_default_na: bool = True) -> pd.DataFrame:
    """Read a table of participants, separated by tabs, as text; keep_default_na: with NaN for NA and empty fields.

    again: where to get it. Raises UserError, also where a column is missing.
    """
    with reading(path, again):
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=keep_default_na)
    for column in columns:
        if column not in table:
            raise UserError(f"{path}, line 1: column '{column}' is missing, found '{', '.join(table.columns)[:80]}'. "
                            f"{again}")
    return table


def resample(signal: np.ndarray, rate: float, new_rate: float) -> np.ndarray:
    """Interpolate linearly to another rate: signal (T, C) at `rate` Hz -> (int(T / rate * new_rate), C) float64.

    As in Medformer there is no filter against aliasing, and the first and last samples stay the first and last, so that
    the new interval is longer than 1 / new_rate by up to one part in the number of samples.
    """
    position = np.linspace(0, len(signal) - 1, int(len(signal) / rate * new_rate))
    return np.stack([np.interp(position, np.arange(len(signal)), channel) for channel in signal.T], axis=1)


def middle_out_windows(signal: np.ndarray, length: int) -> np.ndarray:
    """Cut windows without overlap from the middle of a recording outward: (T, C) -> (n, length, C) in order of time."""
    middle = len(signal) // 2
    start, end = middle % length, middle + (len(signal) - middle) // length * length
    return signal[start:end].reshape(-1, length, signal.shape[1])


def strided_windows(signal: np.ndarray, length: int, stride: int) -> np.ndarray:
    """Cut a window at every `stride` samples from the first one on: (T, C) -> (n, length, C), only whole windows."""
    return np.lib.stride_tricks.sliding_window_view(signal, length, axis=0)[::stride].transpose(0, 2, 1)


def z_scores(windows: np.ndarray) -> np.ndarray:
    """Z-score each channel of each window over time: (n, L, C) -> float64, population standard deviation, 1 where 0."""
    windows = windows.astype(np.float64)
    mean, deviation = windows.mean(axis=1, keepdims=True), windows.std(axis=1, keepdims=True)
    # Rounding gives a constant channel a tiny deviation, which would blow the rounding errors up to values of 1.
    constant = np.ptp(windows, axis=1, keepdims=True) == 0
    return (windows - mean) / np.where(constant, 1, deviation)


def crop(windows: np.ndarray, length: int, position: str) -> np.ndarray:
    """Keep `length` steps of each window (n, L, C): the middle ones (`center`) or the first ones (`left`)."""
    start = (windows.shape[1] - length) // 2 if position == "center" else 0
    return windows[:, start:start + length]


def members_by_number(subjects: Sequence[Subject], numbers: Mapping[str, Collection[int]]) -> Members:
    """Return the subjects of each split whose numbers it lists; a subject may be in none."""
    return {name: [subject for subject in subjects if subject.number in numbers[name]] for name in SPLIT_NAMES}


def members_by_class_order(subjects: Sequence[Subject], cuts: Sequence[float]) -> Members:
    """Cut the subjects of each class, in their order, at int(cut * count): train, val and test of Medformer's
    loader."""
    members: Members = {name: [] for name in SPLIT_NAMES}
    for label in sorted({subject.label for subject in subjects}):
        of_class = [subject for subject in subjects if subject.label == label]
        edges = [0, *(int(cut * len(of_class)) for cut in cuts), len(of_class)]
        for name, start, end in zip(SPLIT_NAMES, edges[:-1], edges[1:], strict=True):
            members[name] += of_class[start:end]
    return members


def leave_out_absent(members: Members, present: Collection[str], what: str) -> Members:
    """Keep the subjects that are present, by name, and warn on stderr of the others. what: the file that they lack."""
    absent = [subject.name for part in members.values() for subject in part if subject.name not in present]
    total = sum(map(len, members.values()))
    if 0 < len(absent) < total:
        print(f"warning: {len(absent)} of {total} subjects have no {what} and are left out: "
              f"{', '.join(sorted(absent))}",
              file=sys.stderr)
    return {name: [subject for subject in part if subject.name in present] for name, part in members.items()}


def require_every_class(members: Members, classes: Sequence[str], folder: Path, remedy: str) -> None:
    """Raise UserError if a split has no subject of some class; the message counts the subjects that are there."""
    lacks = [f"{name} lacks {label}" for name, part in members.items() for number, label in enumerate(classes)
             if number not in {subject.label for subject in part}]
    found = [subject.label for part in members.values() for subject in part]
    if not found:
        raise UserError(f"{folder}: no recording of any subject of the splits found. {remedy}")
    if lacks:
        counts = ", ".join(f"{found.count(number)} {label}" for number, label in enumerate(classes))
        raise UserError(f"{folder}: every split needs a subject of every class, but {', '.join(lacks)}. Found "
                        f"{len(found)} subjects of the splits: {counts}. {remedy}")


def read_subjects(members: Members, read: Callable[[Subject], tuple[Sequence[str], np.ndarray]]
                  ) -> tuple[list[str], dict[str, np.ndarray]]:
    """Read every subject of the splits: the channels, and {name: z-scored windows (n, L, C) float32}.

    read: the channels and the raw windows of a subject. Raises UserError if a subject has no window, or other channels
    than the first one.
    """
    channels, windows = [], {}
    subjects = [subject for part in members.values() for subject in part]
    with progress("reading of recordings", len(subjects), "subject") as bar:
        for subject in subjects:
            own, raw = read(subject)
            channels = channels or list(own)
            if list(own) != channels:
                raise UserError(f"{subject.name}: has the channels {', '.join(own)}; {next(iter(windows))} has "
                                f"{', '.join(channels)}. All files must be of one version of the data.")
            if len(raw) == 0:
                raise UserError(f"{subject.name}: the recording is shorter than one window. Download it again, or "
                                "remove this subject to go on without it.")
            windows[subject.name] = z_scores(raw).astype(np.float32)
            bar.update()
    return channels, windows


def dataset_of_recordings(members: Members, files: Mapping[str, Sequence[Path]], what: str, folder: Path, remedy: str,
                          read: Callable[[Subject], tuple[Sequence[str], np.ndarray]], published: Mapping[str, int],
                          meta: Metadata) -> tuple[dict[str, Split], Metadata]:
    """Leave out the subjects without files, read the others, and put their windows together.

    files: of each subject by name. what: such a file. folder, remedy: for the message where a class is lacking. read,
    published, meta: as for `read_subjects` and `dataset_of_windows`, but for the channels. Raises UserError as they do.
    """
    members = leave_out_absent(members, {name for name, paths in files.items() if paths}, what)
    require_every_class(members, meta.classes, folder, remedy)
    channels, windows = read_subjects(members, read)
    return dataset_of_windows(members, windows, "windows", published, replace(meta, channels=channels))


def convert(name: str, docstring: str, prog: str | None, files: str, arguments: Sequence[str] | None,
            preprocess: Callable[[Path], tuple[dict[str, Split], Metadata]]) -> None:
    """Run the command line of a source without options of its own. files: what its input folder holds."""
    parser = command.source_parser(name, docstring, prog, files, f"data/{name}")
    command.run(parser, arguments, lambda options: Path("data", name), lambda options: preprocess(options.input))


def assemble(members: Members, windows: dict[str, np.ndarray]) -> dict[str, Split]:
    """Put the windows (n, L, C) float32 of each split's subjects together; `windows` is emptied, to hold one copy
    only."""
    splits = {}
    for name, part in members.items():
        counts = [len(windows[subject.name]) for subject in part]
        x = np.empty((sum(counts), *windows[part[0].name].shape[1:]), dtype=np.float32)
        for subject, end in zip(part, np.cumsum(counts), strict=True):
            own = windows.pop(subject.name)
            x[end - len(own):end] = own
        splits[name] = Split(x, np.repeat([subject.label for subject in part], counts).astype(np.int64),
                             np.repeat([subject.name for subject in part], counts))
    return splits


def dataset_of_windows(members: Members, windows: dict[str, np.ndarray], rows: str, published: Mapping[str, int],
                       meta: Metadata) -> tuple[dict[str, Split], Metadata]:
    """Print subjects and rows of each split beside the published counts; return the splits and their description.

    windows: as from `read_subjects`, emptied here. rows: what a row is, `windows` or `beats`. published: counts by
    `subjects`, `<rows>`, `<rows> of <subject>`, `<split> <rows>` and `<split> <rows>, <class>`. meta: without units;
    its cohort is completed with what is printed.
    """
    per_subject = {f"{rows} of {name}": len(own) for name, own in windows.items()}
    splits = assemble(members, windows)
    meta = replace(meta, units=["z-score"] * len(meta.channels), positive=meta.classes[-1])
    count_tables.print_table([["split", "subjects", *meta.classes],
                        *([name, len(part), *([subject.label for subject in part].count(number)
                                              for number in range(len(meta.classes)))]
                                for name, part in members.items())])
    counts = count_tables.summarize_splits(splits, meta, rows)
    count_tables.compare_with_published(published, {
        "subjects": len(per_subject), rows: sum(per_subject.values()), **per_subject,
        **{f"{name} {rows}": len(split) for name, split in splits.items()},
        **{f"{name} {rows}, {label}": count for name, labels in counts.items() for label, count in labels.items()}})
    subjects = {name: {subject.name: subject.number for subject in part} for name, part in members.items()}
    return splits, replace(meta, cohort={
        **meta.cohort, "normalization": NORMALIZATION, "subjects": subjects, "splits": counts})
