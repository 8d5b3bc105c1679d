"""The dataset on disk: a folder of `train.npz`, `val.npz`, `test.npz` and `meta.json`, read, written and validated.

Each split holds `x (N, L, C) float32` in raw units, `y (N,) int64`, and where known `subject (N,)`,
`mask (N, L, C) bool` (True = observed), `p (N, K) float32`, a teacher's probability of each class, and `id (N,)`, what
the source calls each row. NaN is allowed only where the mask is False. Where val and test are of a target and train is
of a source, val has `guidance (N,) bool`, True in its guidance half, which are the target's own training rows.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tardiff.data.imputation import RULES, Imputation
from tardiff.utils.checkpoint import (
    DAMAGED_ARRAYS,
    atomic_folder,
    atomic_path,
    fingerprint,
    open_arrays,
    read_json,
    require_folder,
    write_json,
)
from tardiff.utils.errors import UserError
from tardiff.utils.lock import LOCK, sole_writer

SPLIT_NAMES = ("train", "val", "test")
ARRAYS = ("x", "y", "subject", "mask", "p", "id", "guidance")
DATASET_FILES = {"meta.json", *(f"{name}.npz" for name in SPLIT_NAMES)}
FORMAT_VERSION = 1
OTHER_FOLDER = "Choose another output folder, or delete this one."
PROBABILITY_TOLERANCE = 1e-3
"""Of the sum of the probabilities of a row."""
UNIT_SECONDS = {
    "ms": Fraction(1, 1000), "s": Fraction(1), "min": Fraction(60), "minute": Fraction(60), "minutes": Fraction(60),
    "h": Fraction(3600), "hour": Fraction(3600), "hours": Fraction(3600), "d": Fraction(86400),
}


@dataclass(frozen=True)
class Metadata:
    """What the numbers of a dataset mean (`meta.json`).

    sampling_interval: the time between two steps as `interval_seconds` reads it, such as `1 hour`, `5 min` or `1/256
    s`; empty where it is not known. imputation: how gaps, where the mask is False, were filled; None where there are
    none, or where that is not known. positive: the class that AUPRC and F1 are of; empty for the rarest of the training
    rows, of equally rare ones the last.
    """

    name: str
    channels: list[str]
    units: list[str]
    classes: list[str]
    sampling_interval: str = ""
    source: str = ""
    licence: str = ""
    cohort: dict[str, Any] = field(default_factory=dict)
    imputation: Imputation | None = None
    positive: str = ""
    format_version: int = FORMAT_VERSION

    def times(self, length: int) -> tuple[np.ndarray, str]:
        """Return where `length` steps stand on the axis of a figure (length,) float64, and its unit: hours, minutes or
        seconds, whichever numbers the series best; where the interval is not known, steps."""
        steps, seconds = np.arange(length, dtype=np.float64), interval_seconds(self.sampling_interval)
        if seconds is None:
            return steps, "step"
        total = length * seconds
        unit, size = ("hours", 3600) if total > 2 * 3600 else ("minutes", 60) if total > 2 * 60 else ("seconds", 1)
        return steps * float(seconds / size), unit

    def with_positive(self, y: np.ndarray) -> Metadata:
        """Return the description with a positive class: where it has none, the rarest of the labels y (N,) int64."""
        counts = np.bincount(y, minlength=len(self.classes))[::-1]
        return self if self.positive else replace(self, positive=self.classes[::-1][counts.argmin()])

    def filled(self, x: np.ndarray) -> np.ndarray:
        """Fill the gaps, which are NaN, of x (N, L, C) float in raw units as those of the dataset were filled."""
        return x if self.imputation is None else self.imputation.fill(x)

    def of_synthetic(self, with_gaps: bool = False) -> Metadata:
        """Return the description of synthetic series, with gaps or without, that a model of this dataset made."""
        return replace(self, name=f"{self.name} (synthetic)", source="synthetic; see provenance.json", cohort={},
                       imputation=self.imputation if with_gaps else None)


@dataclass(frozen=True)
class Split:
    """One split: `x (N, L, C) float32` in raw units, `y (N,) int64`, and where known `subject (N,)`, integers or text,
    `mask (N, L, C) bool`, True where observed, `p (N, K) float32`, a teacher's probability of each class, and
    `id (N,)`, integers or text, what the source calls each row, such as a stay; of a val split with given halves
    `guidance (N,) bool`, True in the guidance half."""

    x: np.ndarray
    y: np.ndarray
    subject: np.ndarray | None = None
    mask: np.ndarray | None = None
    p: np.ndarray | None = None
    id: np.ndarray | None = None
    guidance: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: np.ndarray | slice) -> Split:
        return Split(**{name: array[rows] for name, array in self.arrays().items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that are there, by name."""
        return {name: array for name in ARRAYS if (array := getattr(self, name)) is not None}

    def subjects(self) -> np.ndarray:
        """Return the subject of each row; where none is recorded, each row is its own subject."""
        return np.arange(len(self)) if self.subject is None else self.subject

    def fingerprint(self, with_ids: bool = False) -> str:
        """Return a hash of the content; without the ids it is of what results depend on."""
        return fingerprint(*(array for name, array in self.arrays().items() if with_ids or name != "id"))


@dataclass(frozen=True)
class Dataset:
    """A dataset folder in memory: its metadata and the splits that were read."""

    path: Path
    meta: Metadata
    splits: dict[str, Split]

    def __getattr__(self, name: str) -> Split:
        if name in SPLIT_NAMES and name in self.splits:
            return self.splits[name]
        raise AttributeError(name)

    @property
    def num_classes(self) -> int:
        return len(self.meta.classes)

    @property
    def positive(self) -> int:
        """The number of the positive class, which AUPRC and F1 are of."""
        return self.meta.classes.index(self.meta.with_positive(self.train.y).positive)

    @property
    def observed(self) -> np.ndarray:
        """x (N, L, C) of the training rows, with NaN where a rule that is known filled a gap: what a normaliser is
        fitted on, for the values of a rule would crowd those that were measured into what room they leave."""
        x, mask = self.train.x, self.train.mask
        return x if self.meta.imputation is None or mask is None else np.where(mask, x, np.float32(np.nan))

    @property
    def shape(self) -> tuple[int, int]:
        """(L, C), equal in every split."""
        return next(iter(self.splits.values())).x.shape[1:]


def is_dataset(folder: str | Path) -> bool:
    """Tell whether a folder holds a finished dataset, of which `meta.json` appears last."""
    return (Path(folder) / "meta.json").exists()


def read_dataset(folder: str | Path, splits: tuple[str, ...] = SPLIT_NAMES, every_class: bool = True) -> Dataset:
    """Read `meta.json` and the named splits of a dataset folder and validate them together.

    `every_class=False` accepts a training split that lacks classes, such as a synthetic set of the minority alone.
    Raises UserError that lists every fault found: file, array, row. A subject that stands in two splits, a training
    split without one of the classes, and splits that differ in length or channels are faults too.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: dataset folder not found. Make it with tardiff simulate or tardiff convert, or "
                        "give the path of an existing dataset.")
    if not is_dataset(folder):
        raise UserError(f"{folder / 'meta.json'}: file not found, so {folder} is no dataset folder. tardiff convert "
                        "makes one of tables and arrays.")
    meta = read_metadata(folder / "meta.json")
    read: dict[str, Split] = {}
    faults: list[str] = []
    for name in splits:
        try:
            read[name] = read_split(folder / f"{name}.npz", meta)
        except UserError as error:  # Every split is read, so that all faults are told.
            faults.append(str(error))
    faults += _faults_between(folder, read, meta, every_class)
    if faults:
        raise UserError("\n".join(faults))
    return Dataset(folder, meta, read)


def read_metadata(path: str | Path) -> Metadata:
    """Read and check the file `meta.json` of a dataset. Raises UserError on missing or malformed fields."""
    content = read_json(path, "name", "channels", "units", "classes")
    known = {item.name for item in fields(Metadata)}
    meta = Metadata(**{key: value for key, value in content.items() if key in known})
    if meta.format_version != FORMAT_VERSION:
        raise UserError(f"{path}: format version {meta.format_version}, this TarDiff reads {FORMAT_VERSION}.")
    for name, fewest in (("channels", 1), ("units", 1), ("classes", 2)):
        entries = getattr(meta, name)
        if not isinstance(entries, list) or len(entries) < fewest or not all(isinstance(text, str) for text in entries):
            raise UserError(f"{path}: '{name}' must be a list with at least {fewest} entries, all of them text.")
    for name in ("name", "sampling_interval", "source", "licence"):
        if not isinstance(getattr(meta, name), str):
            raise UserError(f"{path}: '{name}' must be text.")
    if not isinstance(meta.cohort, dict):
        raise UserError(f"{path}: 'cohort' must be an object.")
    if len(meta.units) != len(meta.channels):
        raise UserError(f"{path}: {len(meta.channels)} channels but {len(meta.units)} units.")
    if meta.positive not in ("", *meta.classes):
        raise UserError(f"{path}: positive '{meta.positive}' is not one of the classes {', '.join(meta.classes)}.")
    return meta if meta.imputation is None else replace(meta, imputation=_read_imputation(path, meta))


def _read_imputation(path: str | Path, meta: Metadata) -> Imputation:
    content = meta.imputation if isinstance(meta.imputation, dict) else {}
    rule, medians = content.get("rule"), content.get("medians")
    if rule not in tuple(RULES) or not isinstance(medians, list) or len(medians) != len(meta.channels) or not all(
            isinstance(median, (int, float)) and abs(median) < math.inf for median in medians):
        raise UserError(f"{path}: 'imputation' must hold a rule ({', '.join(RULES)}) and 'medians', a number for each "
                        "channel.")
    return Imputation(rule, list(map(float, medians)))


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turn what numpy raises on a bad .npy or .npz file inside the block into a UserError."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: file not found.") from None
    except DAMAGED_ARRAYS as error:
        reason = "it holds Python objects, which are never loaded" if "pickle" in str(error).lower() else error
        raise UserError(f"{path}: not a readable .npz or .npy file ({reason}). Make it again, of plain arrays with "
                        "numpy.savez or numpy.save.") from None


@contextmanager
def open_archive(path: str | Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Open an .npz archive without pickle. Raises UserError if it is none or, also inside the block, is damaged."""
    with readable(path):
        content = open_arrays(path)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise UserError(f"{path}: expected an .npz archive with arrays x and y, found a single array.")
        with content as archive:
            yield archive


def read_split(path: str | Path, meta: Metadata) -> Split:
    """Read one split and validate it against the metadata. Raises UserError listing every fault of the file."""
    path = Path(path)
    with open_archive(path) as archive:
        arrays = {name: archive[name] for name in ARRAYS if name in archive.files}
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        raise UserError(f"{path}: array {' and '.join(missing)} missing; expected x (N, L, C) and y (N,).")
    split = Split(**arrays)
    faults = split_faults(split, meta)
    if faults:
        raise UserError("\n".join(f"{path}: {fault}" for fault in faults))
    return split


def split_faults(split: Split, meta: Metadata) -> list[str]:
    """Return every fault of a split: wrong shapes, types, labels or values, each naming array and first row."""
    x, y = split.x, split.y
    faults = []
    if x.ndim != 3 or x.dtype != np.float32:
        faults.append(f"array x must be (N, L, C) float32, got {x.shape} {x.dtype}.")
    if y.ndim != 1 or y.dtype != np.int64:
        faults.append(f"array y must be (N,) int64, got {y.shape} {y.dtype}.")
    if faults:
        return faults
    if len(x) == 0:
        return ["the split is empty; expected at least one row."]
    if x.shape[1] == 0:
        faults.append("array x has length 0; expected at least one time step.")
    if x.shape[2] != len(meta.channels):
        faults.append(f"array x has {x.shape[2]} channels, meta.json names {len(meta.channels)}.")
    for name in ARRAYS[1:]:
        array = getattr(split, name)
        if array is not None and array.ndim and len(array) != len(x):
            faults.append(f"array {name} has {len(array)} rows, array x has {len(x)}.")
    wrong = np.flatnonzero((y < 0) | (y >= len(meta.classes)))
    if len(wrong):
        faults.append(f"array y, row {wrong[0]}: label {y[wrong[0]]} is outside 0..{len(meta.classes) - 1} "
                      f"({len(wrong)} such rows).")
    for name in ("subject", "id"):
        names = getattr(split, name)
        if names is not None and (names.ndim != 1 or names.dtype.kind not in "iuU"):
            faults.append(f"array {name} must be (N,) integers or text, got {names.shape} {names.dtype}.")
        elif name == "id" and names is not None:
            faults += repeated_ids(names)
    if split.p is not None:
        faults += _probability_faults(split.p, len(meta.classes))
    if split.guidance is not None and not faults:
        faults += _halves_faults(split)
    if split.mask is not None and (split.mask.dtype != bool or split.mask.shape != x.shape):
        faults.append(f"array mask must be {x.shape} bool, got {split.mask.shape} {split.mask.dtype}.")
    elif not faults:
        faults += _value_faults(x, split.mask)
    return faults


def _halves_faults(split: Split) -> list[str]:
    half = split.guidance
    if half.shape != (len(split),) or half.dtype != bool or half.all() or not half.any():
        return [f"array guidance must be ({len(split)},) bool with rows of both halves, got {half.shape} {half.dtype}."]
    shared = np.intersect1d(split.subjects()[half], split.subjects()[~half])
    return [f"array guidance: subject {shared[0]} stands in both halves ({len(shared)} such subjects). Cut by subject."
            ] if len(shared) else []


def repeated_ids(ids: np.ndarray) -> list[str]:
    """Return the fault that rows share an id, if some do: ids (N,) integers or text."""
    _, first, row_of = np.unique(ids, return_index=True, return_inverse=True)
    wrong = np.flatnonzero(first[row_of] != np.arange(len(ids)))
    return [f"array id, row {wrong[0]}: '{ids[wrong[0]]}' stands in row {first[row_of[wrong[0]]]} as well "
            f"({len(wrong)} such rows). An id is of one row."] if len(wrong) else []


def write_dataset(folder: str | Path, splits: dict[str, Split], meta: Metadata, every_class: bool = True) -> None:
    """Validate and write a dataset folder, whole or not at all, while nobody else writes it; one that holds this very
    dataset stays.

    `every_class=False` accepts a training split that lacks classes. Raises UserError, before the first file is written,
    if anything is invalid, and if the folder holds anything else.
    """
    folder = Path(folder)
    check_splits(folder, splits, meta, every_class)
    with sole_writer(folder):
        if not holds_dataset(folder):
            replace_dataset(folder, splits, meta)
        elif not _is_there(folder, splits, meta):
            raise UserError(f"{folder}: holds another dataset. {OTHER_FOLDER}")


def replace_dataset(folder: str | Path, splits: dict[str, Split], meta: Metadata) -> None:
    """Write valid splits as a dataset folder, in the place of all that it holds."""
    with atomic_folder(folder) as new:
        for name, split in splits.items():
            write_split(new / f"{name}.npz", split)
        write_json(new / "meta.json", asdict(meta))


def _is_there(folder: Path, splits: dict[str, Split], meta: Metadata) -> bool:
    """Tell whether a folder holds these very splits and nothing else."""
    try:
        found = read_dataset(folder, tuple(name for name in SPLIT_NAMES if (folder / f"{name}.npz").exists()), False)
        same_meta = read_json(folder / "meta.json") == json.loads(json.dumps(asdict(meta)))
    except UserError:  # It is damaged.
        return False
    return same_meta and ({name: split.fingerprint(with_ids=True) for name, split in found.splits.items()}
                          == {name: split.fingerprint(with_ids=True) for name, split in splits.items()})


def check_splits(folder: Path, splits: dict[str, Split], meta: Metadata, every_class: bool = True) -> None:
    """Raise UserError that lists every fault of splits that are to be written to a folder, as `write_dataset` does."""
    faults = [f"{name}: {fault}" for name, split in splits.items() for fault in split_faults(split, meta)]
    faults += _faults_between(folder, splits, meta, every_class)
    if faults:
        raise UserError("\n".join(faults))


def require_replaceable(folder: Path, key: str, record: Mapping[str, Any]) -> None:
    """Raise UserError if a folder holds anything but a dataset that the same command has made with the same arguments.

    record: the arguments, which the cohort of such a dataset has under `key`.
    """
    if not holds_dataset(folder):
        return
    found = read_metadata(folder / "meta.json").cohort.get(key)
    if found != record:
        if not isinstance(found, dict):
            raise UserError(f"{folder}: holds another dataset, which another command made. {OTHER_FOLDER}")
        missing = "not recorded"
        differing = sorted(name for name in {*found, *record} if found.get(name, missing) != record.get(name, missing))
        was, asked = (", ".join(f"{name}={values.get(name, missing)}" for name in differing)
                      for values in (found, record))
        raise UserError(f"{folder}: holds another dataset, made with {was}; asked for {asked}. {OTHER_FOLDER}")


def holds_dataset(folder: Path) -> bool:
    """Tell whether a folder holds a dataset; it does not where it is empty or not there. Raises UserError if it holds
    anything else, or is a file."""
    require_folder(folder)
    files = {path.name for path in folder.iterdir() if path.name != LOCK} if folder.is_dir() else set()
    if files and ("meta.json" not in files or not files <= DATASET_FILES):
        raise UserError(f"{folder}: holds files that this command did not make. {OTHER_FOLDER}")
    return bool(files)


def write_split(path: str | Path, split: Split) -> None:
    """Write one split to an .npz archive, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **split.arrays())


def write_split_in_parts(path: str | Path, parts: Callable[[], Iterable[np.ndarray]], shape: tuple[int, int, int],
                         y: np.ndarray, imputation: Imputation | None = None,
                         probabilities: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
    """Write a split whose x arrives in consecutive parts (n, L, C) float32, so that memory holds one part at a time.

    parts: called for each pass over them. shape: (N, L, C) of the whole; y (N,) int64. imputation: fills gaps, which
    are NaN, and asks for a mask. probabilities: makes p (n, K) float32 of a part without gaps, and asks for p. The file
    is written atomically.
    """
    def filled(part: np.ndarray) -> np.ndarray:
        return part if imputation is None else imputation.fill(part)

    arrays: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {"x": ("<f4", filled)}
    if imputation is not None:
        arrays["mask"] = ("|b1", lambda part: ~np.isnan(part))
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (kind, content) in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": kind, "fortran_order": False, "shape": tuple(shape)}
                np.lib.format.write_array_header_2_0(file, header)
                for part in parts():
                    file.write(np.ascontiguousarray(content(part), dtype=kind).tobytes())
        small = {"y": y}
        if probabilities is not None:
            small["p"] = np.concatenate([probabilities(filled(part)) for part in parts()])
        for name, array in small.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array)


def interval_seconds(text: str) -> Fraction | None:
    """Return the seconds of an interval: a number above 0, or a fraction, and a unit of `UNIT_SECONDS`.

    None where the text is not of this form.
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/([1-9]\d*))? ?([a-z]+)", text.strip())
    if parts is None:
        return None
    number, divisor, unit = parts.groups()
    seconds = Fraction(number) / int(divisor or 1) * UNIT_SECONDS.get(unit, 0)
    return seconds or None


def class_numbers(given: Iterable[str | int], classes: Sequence[str]) -> list[int]:
    """Return the numbers of classes that are given by name or by number.

    Text is a name first, and a number only where no class has that name. Raises UserError that lists the classes.
    """
    return [_class_number(entry, classes) for entry in given]


def by_class_number(values: Mapping[str | int, Any], classes: Sequence[str]) -> dict[int, Any]:
    """Return what is given for each class by name or number, by number. Raises UserError on a class given twice."""
    numbers = class_numbers(values, classes)
    twice = [classes[number] for number in numbers if numbers.count(number) > 1]
    if twice:
        raise UserError(f"class '{twice[0]}' is given twice, by name and by number.")
    return dict(zip(numbers, values.values(), strict=True))


def _class_number(given: str | int, classes: Sequence[str]) -> int:
    if isinstance(given, str):
        if given in classes:
            return classes.index(given)
        number = int(given) if given.isdecimal() else -1
    else:
        number = int(given)
    if 0 <= number < len(classes):
        return number
    listed = ", ".join(f"{name} ({number})" for number, name in enumerate(classes))
    by_lower_case = {name.lower(): name for name in classes}
    nearest = difflib.get_close_matches(str(given).lower(), by_lower_case, n=1, cutoff=0.5)
    hint = f" Did you mean {by_lower_case[nearest[0]]}?" if nearest else ""
    raise UserError(f"'{str(given)[:200]}' is not a class; the classes are {listed}.{hint}")


def _probability_faults(p: np.ndarray, num_classes: int) -> list[str]:
    if p.ndim != 2 or p.shape[1] != num_classes or p.dtype != np.float32:
        return [f"array p must be (N, {num_classes}) float32, the probability of each class, got {p.shape} {p.dtype}."]
    # A comparison with NaN is false.
    sound = ((p >= 0) & (p <= 1)).all(axis=1) & (np.abs(p.sum(axis=1) - 1) <= PROBABILITY_TOLERANCE)
    if sound.all():
        return []
    row = int(np.argmin(sound))
    return [f"array p, row {row}: {p[row].tolist()} are no probabilities; expected values from 0 to 1 that sum to 1 "
            f"({int((~sound).sum())} such rows)."]


def _value_faults(x: np.ndarray, mask: np.ndarray | None) -> list[str]:
    bad = ~np.isfinite(x)
    if mask is not None:
        bad &= mask | np.isinf(x)
    if not bad.any():
        return []
    row, step, channel = np.argwhere(bad)[0]
    where = "" if mask is not None else " and there is no mask"
    count = int(bad.any(axis=(1, 2)).sum())
    return [f"array x, row {row}, step {step}, channel {channel}: {x[row, step, channel]} is not a finite number"
            f"{where} ({count} such rows). NaN is allowed only where mask is False."]


def absent_classes(split: Split, meta: Metadata, what: str) -> list[str]:
    """Return the fault that rows of some class are missing from a split, named `what`, if they are."""
    absent = sorted(set(range(len(meta.classes))) - set(split.y.tolist()))
    names = ", ".join(f"{label} ({meta.classes[label]})" for label in absent)
    return [f"{what}: no row of class {names}; every class of meta.json must be there."] if absent else []


def absent_masks(splits: Iterable[tuple[str, Split]]) -> list[str]:
    """Return one fault for each split without a mask; each stands behind its name."""
    return [f"{what}: has no mask, which model.inputs=values+mask reads; model.inputs=values reads none."
            for what, split in splits if split.mask is None]


def _faults_between(folder: Path, splits: dict[str, Split], meta: Metadata, every_class: bool) -> list[str]:
    """Return the faults that splits, each sound by itself, have together; every_class: train lacks a class."""
    faults = []
    shapes = {name: split.x.shape[1:] for name, split in splits.items()}
    if len(set(shapes.values())) > 1:
        faults.append(f"{folder}: splits differ in (length, channels): {shapes}.")
    for first, second in itertools.combinations([name for name in SPLIT_NAMES if name in splits], 2):
        for name, advice in (("subject", "Split by subject."), ("id", "An id is of one row.")):
            one, other = getattr(splits[first], name), getattr(splits[second], name)
            shared = [] if one is None or other is None else np.intersect1d(one, other)
            if len(shared):
                faults.append(f"{folder}: {name} {shared[0]} stands in {first} and in {second} ({len(shared)} such "
                              f"{name}s). {advice}")
    if every_class and "train" in splits:
        faults += absent_classes(splits["train"], meta, f"{folder / 'train.npz'}")
    return faults
