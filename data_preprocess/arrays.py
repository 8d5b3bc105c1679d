"""Your own arrays, UCR/UEA archives (.ts, .tsv) and the pickles of the original release.

    python -m data_preprocess.arrays --input DIR_OR_FILE --output data/mine

Forms of a part of the data:
- `.npz` with x (N, L, C) or (N, L), y (N,), and where known subject (N,), mask (N, L, C) (True = observed), p (N, K), a
  teacher's probability of each class, in the order of the classes, and id (N,), your name of each row
- `x.npy`, `y.npy` and where known `subject.npy`, `mask.npy`, `p.npy`, `id.npy`; a part's name stands before or after
  (`x_train.npy`)
- `.ts` or `.tsv` of https://www.timeseriesclassification.com (equal lengths)
- `.pkl` with a tuple (x, y) of numpy arrays. The original release's `train_tuple.pkl` is one, in the order (N, C, L):
  give --channels-first. A pickle is read without running what it asks for; anything but plain arrays is refused.

Where the names of a folder's files hold `train` (and `val`, `test`), as in `ECG200_TRAIN.tsv`, these splits are kept,
and val is cut from train where it is not given (--val-ratio). One part without such a name, or one file, is split by
--ratios.

Decisions:
- Labels become 0..K-1 in their sorted order (as text, or by value where all are whole numbers) and stay as class names,
  unless --classes gives another order or other names (--classes 0=survived 1=died).
- All splits are by subject. Without subjects, each series is its own, and equal series in two splits are warned of, not
  refused: published archives hold some, and their given splits are what results are compared on.
- A subject in two given splits is refused, and so are subjects of some splits only, which could not be compared.
- A value that is NaN or that a mask marks as unobserved is filled only where --impute says how; NaN without a mask is
  refused else. --missing and --range make values missing. Infinite values are always refused.
- The order of axes cannot be seen: where --channels-first or --channels-last does not tell it, more channels than steps
  are refused.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_preprocess import command, own_data
from data_preprocess.array_pickle import read_arrays
from data_preprocess.series_text import read_ts, read_tsv
from tardiff.data.format import (
    ARRAYS,
    SPLIT_NAMES,
    Metadata,
    Split,
    interval_seconds,
    open_archive,
    readable,
    repeated_ids,
)
from tardiff.data.imputation import RULES
from tardiff.data.splits import split_by_subject
from tardiff.utils.errors import UserError

SUFFIXES = (".npy", ".npz", ".pkl", ".pickle", ".ts", ".tsv")
WHOLE = "whole"
GIVEN = tuple(name for name in ARRAYS if name != "guidance")


def preprocess(options: argparse.Namespace) -> tuple[dict[str, Split], Metadata]:
    """Read the parts and split them where no split is given; return the splits and their description.

    options: those of the command line. Raises UserError.
    """
    what = str(options.input)
    if options.interval and interval_seconds(options.interval) is None:
        raise UserError(f"--interval {options.interval}: expected a time such as 10 ms, 1/256 s or 1 h.")
    with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite, which is refused.
        found = find_parts(options.input)
        parts = {name: read_part(files, options.channels_first) for name, files in found.items()}
    shapes = {name: part.x.shape[1:] for name, part in parts.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"{what}: splits differ in (length, channels): {shapes}.")
    anonymous = [name for name, part in parts.items() if part.subject is None]
    if 0 < len(anonymous) < len(parts):
        raise UserError(f"{what}: {' and '.join(anonymous)} without subjects, while the other splits have them, so "
                        "that nobody can tell whether a subject is in two. Give the array subject in every split or "
                        "in none.")
    length, num_channels = next(iter(shapes.values()))
    print(f"{sum(map(len, parts.values())):,} series of {length:,} steps x {num_channels:,} channels\n")
    channels = own_data.channels_of([f"channel {number}" for number in range(1, num_channels + 1)], options.channels,
                                    options, what)
    parts = {name: without_missing(part, channels, options, found[name][0]) for name, part in parts.items()}
    labels = np.concatenate([own_data.label_texts(part.y, what) for part in parts.values()])
    kept = own_data.of_kept_classes(labels, options.drop_class, what)
    y = np.full(len(labels), -1)
    y[kept], classes = own_data.encode_labels(labels[kept], options.classes, what)
    starts = np.cumsum([len(part) for part in parts.values()])[:-1]
    parts = {name: replace(part, y=labels)[labels >= 0]
             for (name, part), labels in zip(parts.items(), np.split(y, starts), strict=True)}
    splits, cohort = split_parts(parts, options)
    return own_data.dataset_of(options, splits, channels, classes, options.interval, cohort, "series",
                                averaged=False)


def split_parts(parts: dict[str, Split], options: argparse.Namespace) -> tuple[dict[str, Split], dict]:
    """Keep given splits and cut val from train where it is missing, or split the whole; say which for `meta.json`."""
    if WHOLE in parts:
        splits = split_by_subject(parts[WHOLE], dict(zip(SPLIT_NAMES, options.ratios, strict=True)), options.seed)
        return splits, {"ratios": list(options.ratios), "seed": options.seed}
    cohort = {"given_splits": list(parts)}
    if "val" not in parts:
        cohort |= {"val_ratio": options.val_ratio, "seed": options.seed}
    return own_data.cut_validation(parts, options.val_ratio, options.seed), cohort


def find_parts(source: Path) -> dict[str, list[Path]]:
    """Return the files of each given split by its name, or those of the undivided data under `WHOLE`.

    Only `.npy` parts have several files, one an array. Raises UserError if nothing is found, if a split is given twice
    or if train is missing.
    """
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES or source.suffix.lower() == ".npy":
            raise UserError(f"{source}: expected .npz, .pkl, .ts or .tsv, or the folder that holds x.npy and y.npy.")
        return {WHOLE: [source]}
    parts: dict[str, list[Path]] = {}
    for path in sorted(source.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            named = [word for word in words(path) if word in SPLIT_NAMES]
            parts.setdefault(named[0] if named else WHOLE, []).append(path)
    if not parts:
        raise UserError(f"{source}: no data found. Expected {', '.join(SUFFIXES)} files in this folder.")
    for name, files in parts.items():
        if len(files) > 1 and {path.suffix.lower() for path in files} != {".npy"}:
            raise UserError(f"{source}: {name} data stand in {', '.join(path.name for path in files)}. Keep one of "
                            "them, or put train, val or test into the names.")
    if len(parts) > 1 and WHOLE in parts:
        raise UserError(f"{source}: {parts[WHOLE][0].name} belongs to no split, while others do. Put train, val or "
                        "test into its name, or remove it.")
    if WHOLE not in parts and "train" not in parts:
        raise UserError(f"{source}: {' and '.join(parts)} found, but no file named train.")
    return {name: parts[name] for name in (WHOLE, *SPLIT_NAMES) if name in parts}


def words(path: Path) -> list[str]:
    """Return the words of a file's name, lower case, without its suffix."""
    return re.split(r"[^a-z]+", path.stem.lower())


def read_part(files: Sequence[Path], channels_first: bool | None) -> Split:
    """Read one part: x (N, L, C) float32, y (N,) as it stands in the file, subject and mask or None.

    channels_first: None where it is not told.

    Raises UserError that names the file and the first row at fault.
    """
    path = files[0]
    suffix = path.suffix.lower()
    if suffix in (".ts", ".tsv"):
        x, y = read_ts(path) if suffix == ".ts" else read_tsv(path)
        part = Split(x, y)
    else:
        if suffix == ".npy":
            arrays = read_npy_files(files)
        elif suffix == ".npz":
            arrays = read_npz(path)
        else:
            arrays = read_tuple(path)
        part = part_of(arrays, channels_first, path)
    if len(part) == 0 or part.x.shape[1] == 0:
        raise UserError(f"{path}: empty, x is {part.x.shape}. Expected at least one series with at least one step.")
    return part


def read_npy_files(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Read the `.npy` files of one part, each array under the name x, y, subject, mask, p or id that its
    file has."""
    arrays = {}
    for path in files:
        named = [word for word in words(path) if word in GIVEN]
        if len(named) != 1 or named[0] in arrays:
            raise UserError(f"{path}: expected files x.npy, y.npy, and where known subject.npy, mask.npy, p.npy and "
                            "id.npy, once each; the name of a split may stand before or after, as in x_train.npy.")
        with readable(path), open(path, "rb") as file:
            arrays[named[0]] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz` archive: x, y, subject, mask, p, id, in any case. Raises UserError on any other."""
    with open_archive(path) as archive:
        names = [name.lower() for name in archive.files]
        for name, lowered in zip(archive.files, names, strict=True):
            if lowered not in GIVEN or names.count(lowered) > 1:
                raise UserError(f"{path}: array '{name}' is unknown or there twice; expected x, y, and where known "
                                "subject (whom a row is of), mask, p and id, once each. Rename or remove it.")
        return {lowered: archive[name] for name, lowered in zip(archive.files, names, strict=True)}


def read_tuple(path: Path) -> dict[str, np.ndarray]:
    """Read a pickled tuple (x, y)."""
    arrays = read_arrays(path)
    if len(arrays) != 2:
        raise UserError(f"{path}: holds {len(arrays)} arrays; expected a tuple (x, y).")
    return dict(zip(("x", "y"), arrays, strict=True))


def part_of(arrays: dict[str, np.ndarray], channels_first: bool | None, path: Path) -> Split:
    """Check the shapes and types of the arrays of one part and bring them to (N, L, C). Raises UserError."""
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        raise UserError(f"{path}: array {' and '.join(missing)} missing; expected x (N, L, C) or (N, L) and y (N,).")
    x, y, subject, mask, p, ids = map(arrays.get, GIVEN)
    if x.dtype.kind not in "fiub" or x.ndim not in (2, 3):
        raise UserError(f"{path}: array x is {x.shape} {x.dtype}; expected numbers of shape (N, L, C) or (N, L).")
    if channels_first is None and x.ndim == 3 and x.shape[2] > x.shape[1]:
        raise UserError(f"{path}: array x is {x.shape}, that is {x.shape[1]:,} steps of {x.shape[2]:,} channels. If "
                        "its axes are (N, C, L), give --channels-first, if they are (N, L, C), --channels-last.")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    for name, array, kinds in (("y", y, "fiubU"), ("subject", subject, "iuU"), ("id", ids, "iuU")):
        if array is not None and (array.shape != (len(x),) or array.dtype.kind not in kinds):
            raise UserError(f"{path}: array {name} is {array.shape} {array.dtype}; expected a whole number or text for "
                            f"each of the {len(x)} rows of x.")
    if ids is not None and (fault := repeated_ids(ids)):
        raise UserError(f"{path}: {fault[0]}")
    if mask is not None:
        if mask.shape != x.shape or not np.isin(mask, (0, 1)).all():
            raise UserError(f"{path}: array mask is {mask.shape} {mask.dtype}; expected {x.shape} of True (observed) "
                            "and False.")
        mask = in_order(mask.astype(bool), channels_first)
    if p is not None and (p.ndim != 2 or len(p) != len(x) or p.dtype.kind != "f"):
        raise UserError(f"{path}: array p is {p.shape} {p.dtype}; expected a probability of each class, ({len(x)}, K).")
    return Split(in_order(x, channels_first).astype(np.float32), y, subject, mask,
                 None if p is None else p.astype(np.float32), ids)


def in_order(array: np.ndarray, channels_first: bool | None) -> np.ndarray:
    """Bring (N, L), (N, L, C) or, channels first, (N, C, L) to (N, L, C)."""
    if array.ndim == 2:
        return array[:, :, None]
    return array.transpose(0, 2, 1) if channels_first else array


def without_missing(part: Split, channels: Sequence[own_data.Channel], options: argparse.Namespace,
                    path: Path) -> Split:
    """Set to NaN what will be filled: values that the mask marks as unobserved, that --missing names, or outside a
    --range.

    Where nothing is filled, NaN that is observed is refused. Raises UserError naming the first row, step and channel at
    fault, numbered from 0 as numpy does.
    """
    unobserved = np.zeros(part.x.shape, dtype=bool) if part.mask is None else ~part.mask
    low, high = (np.array([getattr(channel, bound) for channel in channels]) for bound in ("low", "high"))
    missing = np.isin(part.x, np.array(options.missing, dtype=np.float32)) | (part.x < low) | (part.x > high)
    gaps_allowed = options.impute is not None
    bad = np.isinf(part.x) if gaps_allowed else np.isinf(part.x) | ((np.isnan(part.x) | missing) & ~unobserved)
    if bad.any():
        row, step, channel = np.argwhere(bad)[0]
        value = part.x[row, step, channel]
        fault = "which is to be missing" if np.isfinite(value) else "not a finite number in float32"
        advice = "" if gaps_allowed else "; to fill missing values, give --impute forward, linear or median"
        raise UserError(f"{path}: x at row {row}, step {step}, channel {channel} is {value}, {fault} "
                        f"({int(bad.any(axis=(1, 2)).sum())} such rows){advice}.")
    return replace(part, x=np.where(unobserved | missing, np.nan, part.x).astype(np.float32)) if gaps_allowed else part


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line."""
    parser = command.source_parser("arrays", __doc__, prog, "file, or folder of files, in one of the forms below",
                                   "data/<input>")
    axes = parser.add_mutually_exclusive_group()
    axes.add_argument("--channels-first", action="store_true", default=None,
                      help="arrays of .npy, .npz and .pkl are (N, C, L)")
    axes.add_argument("--channels-last", action="store_false", dest="channels_first",
                      help="they are (N, L, C) (default, where there are not more channels than steps)")
    parser.add_argument("--impute", choices=RULES, help="fill missing values: forward fill, straight lines or the "
                        "training median; the median also where a series has none (default: missing values are "
                        "refused)")
    parser.add_argument("--channels", nargs="+", type=str.strip, metavar="NAME",
                        help="channel names, in order (default: numbered)")
    parser.add_argument("--interval", default="", help="time between two steps, such as 10ms or '1/256 s'")
    own_data.add_options(parser)
    command.run(parser, arguments, lambda options: Path("data", options.input.resolve().stem), preprocess)


if __name__ == "__main__":
    main()
