"""PhysioNet/CinC Challenge 2012: hourly vital signs of ICU stays, labelled by in-hospital death or length of stay.

    python -m data_preprocess.cinc2012 --input DIR --output data/cinc2012_mortality

DIR holds any of the sets a, b, c as published at https://physionet.org/content/challenge-2012/1.0.0/: `set-a.tar.gz`,
`set-a.zip` or the folder `set-a` (looked for in this order), with `Outcomes-a.txt`. A set has one text file a stay,
`<RecordID>.txt`, with rows `Time,Parameter,Value` for the first 48 hours in the ICU.

Decisions:
- Hour h averages the valid values in [h:00, h+1:00); a row at exactly the end of the window (48:00) is after it.
- Blood pressure is the invasive one; the non-invasive one stands in for a channel in hours that lack a valid invasive
  value. SpO2 is the parameter SaO2, the only oxygen saturation of the challenge; it is charted rarely.
- Values outside the ranges of `grid.VITALS` are dropped, never repaired. Temperatures are published in degrees Celsius
  and none looks like Fahrenheit; the odd ones (-17.8, which is 0 Fahrenheit, and 0 to 10) are below the range.
- The challenge publishes no patient identifier, so each stay is its own subject. Survival is not read.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
import pandas as pd

from data_preprocess import command, count_tables, grid, target
from tardiff.data.format import Metadata, Split
from tardiff.data.splits import joined
from tardiff.utils.errors import UserError

SOURCE = "https://physionet.org/content/challenge-2012/1.0.0/"
SET_NAMES = ("a", "b", "c")
OUTCOMES_HEADER = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"
AGAIN = f"Download it again from {SOURCE}."
LARGEST_RECORD, LARGEST_SET = 1 << 20, 1 << 30  # in bytes; the published records have up to 40 kB, 4,000 a set

# Parameters of the challenge -> (channel, choice): a later choice only fills hours without an earlier one.
PARAMETERS = {
    "HR": ("HR", 0), "RespRate": ("RR", 0), "Temp": ("Temp", 0), "SaO2": ("SpO2", 0),
    "SysABP": ("SBP", 0), "NISysABP": ("SBP", 1),
    "DiasABP": ("DBP", 0), "NIDiasABP": ("DBP", 1),
    "MAP": ("MBP", 0), "NIMAP": ("MBP", 1),
}
CHANNELS = [vital.name for vital in grid.VITALS]
DESCRIPTORS = ["Age", "Gender", "Height", "ICUType", "Weight"]
"""What a record says of the stay at 00:00; ICUType: 1 coronary care, 2 cardiac surgery, 3 medical, 4 surgical."""

# What the publisher's files hold; a difference is worth a warning, not an error.
PUBLISHED = {
    "set-a stays read": 4000, "set-a deaths among them": 554, "set-a rows read": 1_757_980,
    "set-b stays read": 4000, "set-b deaths among them": 568, "set-b rows read": 1_762_535,
    "set-c stays read": 4000,
}


@dataclass(frozen=True)
class Label:
    """A binary label: class 1 where the outcome `column` exceeds `threshold`, unlabelled where it is negative."""

    column: str
    threshold: int
    classes: tuple[str, str]


LABELS = {
    "mortality": Label("In-hospital_death", 0, ("survived", "died in hospital")),
    "length_of_stay": Label("Length_of_stay", 3, ("at most 3 days", "more than 3 days")),
}


def preprocess(options: argparse.Namespace) -> tuple[dict[str, Split], Metadata]:
    """Read the sets and print where every stay and row went; return the splits and their description.

    Raises UserError.
    """
    folder, label = options.input, LABELS[options.label]
    target.conditions(options)
    sources = find_sets(folder, options.sets)
    sets, descriptors, counts = zip(*(read_set(source, options.hours, label) for source in sources.values()),
                                    strict=True)
    attrition = {f"set-{name}": of_set for name, of_set in zip(sources, counts, strict=True)}
    count_tables.print_attrition(attrition)
    count_tables.compare_with_published(PUBLISHED, {
        f"{name} {item}": count for name, of_set in attrition.items() for item, count in of_set.items()})

    stays = joined(sets)
    records, repeats = np.unique(stays.id, return_counts=True)
    if repeats.max(initial=0) > 1:
        raise UserError(f"{folder}: record {records[repeats.argmax()]} occurs more than once. Keep one copy of it.")
    kept, is_target, of_target = target.divided(options, {
        name.lower(): texts.to_numpy(dtype=str) for name, texts in pd.concat(descriptors).items()}, stays.subject)
    return grid.dataset_of_stays(stays[kept], options.ratios, options.seed, Metadata(
        name=f"cinc2012_{options.label}", channels=CHANNELS, units=[vital.unit for vital in grid.VITALS],
        classes=list(label.classes), sampling_interval="1 hour", source=f"PhysioNet/CinC Challenge 2012, {SOURCE}",
        licence="ODC-BY 1.0",
        cohort={"label": f"{label.column} > {label.threshold}", "hours": options.hours, "attrition": attrition,
                **of_target}), is_target=is_target)


def find_sets(folder: Path, names: Sequence[str] | None) -> dict[str, Path]:
    """Return the archive or folder of each named set, or of all sets that are there. Raises UserError if one is not."""
    found = {}
    for name in SET_NAMES if names is None else sorted(set(names)):
        forms = [folder / f"set-{name}{suffix}" for suffix in (".tar.gz", ".zip", "")]
        source = next((path for path in forms if path.exists()), None)
        if source is not None:
            found[name] = source
        elif names is not None:
            raise UserError(f"{folder}: set {name} not found. Expected {forms[0].name}, {forms[1].name} or the folder "
                            f"{forms[2].name}; download it from {SOURCE} or leave it out of --sets.")
    if not found:
        raise UserError(f"{folder}: no set found. Expected set-a.tar.gz, set-a.zip or set-a/ (or b, c) from {SOURCE}.")
    return found


def read_set(source: Path, hours: int, label: Label) -> tuple[Split, pd.DataFrame, dict[str, int]]:
    """Read one set and its outcomes, and keep the stays that have a vital sign in the window and a label.

    Returns the stays, with NaN in x (N, hours, 7) where unobserved, the text of their DESCRIPTORS by row, '' where
    missing, and where every stay and row went.
    """
    name = source.name[len("set-")]
    outcomes = read_outcomes(source.with_name(f"Outcomes-{name}.txt"))
    files, record, rows = read_records(source)
    unknown = np.setdiff1d(record, outcomes.index)
    if len(unknown):
        raise UserError(f"{source}: record {unknown[0]} has no row in Outcomes-{name}.txt ({len(unknown)} such "
                        f"records). The two files must be of one set. {AGAIN}")
    x, row_counts = grid_rows(rows, files, hours)
    value = outcomes[label.column].loc[record].to_numpy()
    kept, stay_counts = grid.drop_rows({
        "stays without a vital sign in the window": np.isnan(x).all(axis=(1, 2)),
        "stays without a label": value < 0,
    })
    deaths = int((outcomes["In-hospital_death"].loc[record] == 1).sum())
    attrition = {"stays read": len(record), "deaths among them": deaths, "rows read": len(rows), **row_counts,
                 **stay_counts, "stays kept": int(kept.sum())}
    stays = Split(x, (value > label.threshold).astype(np.int64), record, id=record)[kept]
    return stays, read_descriptors(rows, len(record))[kept], attrition


def read_outcomes(path: Path) -> pd.DataFrame:
    """Read `Outcomes-<set>.txt`: in-hospital death and length of stay (days, -1 = unknown) by RecordID, all int64."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            header = file.readline().strip()
        if header != OUTCOMES_HEADER:
            raise UserError(f"{path}, line 1: found '{header[:80]}', expected '{OUTCOMES_HEADER}'. {AGAIN}")
        outcomes = pd.read_csv(path, usecols=["RecordID", "Length_of_stay", "In-hospital_death"], dtype="int64",
                               index_col="RecordID")
    except FileNotFoundError:
        raise UserError(f"{path}: file not found. Download it from {SOURCE} into the folder of the set, "
                        "or leave the set out with --sets.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). {AGAIN}") from None
    if outcomes.index.has_duplicates:
        raise UserError(f"{path}: record {outcomes.index[outcomes.index.duplicated()][0]} has more than one row.")
    return outcomes


def read_records(source: Path) -> tuple[list[str], np.ndarray, pd.DataFrame]:
    """Read every stay of a set in one pass of the parser.

    Returns the file name of each stay, its RecordID (N,) int64 in ascending order, and the rows of all stays: the text
    of `time`, `parameter` and `value` (categorical, as few texts are distinct) and `stay`, the position of the stay.
    Raises UserError on an archive that is damaged or incomplete and on a file that is not a record.
    """
    records, size = [], 0
    try:
        for name, stream in iterate_files(source):
            path = PurePosixPath(name)
            if path.suffix == ".txt" and path.stem.isdecimal():
                content = stream.read(LARGEST_RECORD + 1)
                size += len(content)
                if len(content) > LARGEST_RECORD or size > LARGEST_SET:
                    raise UserError(f"{source}: {name}: larger than any record of the challenge, or the set is (read "
                                    f"are records up to {LARGEST_RECORD:,} bytes, sets up to {LARGEST_SET:,}). {AGAIN}")
                records.append((int(path.stem), f"{source}: {name}", *record_body(content, f"{source}: {name}")))
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{source}: cannot be read ({error}). It is damaged, incomplete, or a web page in place of the "
                        f"data. {AGAIN}") from None
    if not records:
        raise UserError(f"{source}: no record found in it, expected one file <RecordID>.txt a stay. {AGAIN}")
    ids, files, bodies, lengths = zip(*sorted(records), strict=True)
    table = b"time,parameter,value\n" + b"".join(bodies)
    rows = pd.read_csv(io.BytesIO(table), dtype="category", na_filter=False, quoting=csv.QUOTE_NONE,
                       lineterminator="\n", encoding="latin-1")
    rows["stay"] = np.repeat(np.arange(len(ids)), lengths)
    return list(files), np.array(ids, dtype=np.int64), rows


def iterate_files(source: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the name and the stream of each file of a folder, a .zip or a .tar.gz, which is streamed."""
    if source.is_dir():
        for path in sorted(source.glob("*.txt")):
            with open(path, "rb") as stream:
                yield path.name, stream
    elif source.suffix == ".zip":
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                with archive.open(name) as stream:
                    yield name, stream
    else:
        with gzip.open(source) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    if member.isfile():
                        yield member.name, archive.extractfile(member)
            while stream.read(1 << 20):  # to the checksum at the end, which tells an incomplete download
                pass


def record_body(content: bytes, file: str) -> tuple[bytes, int]:
    """Return the rows of one record below its header, and their number. Raises UserError if they are no such rows."""
    header, *lines = content.replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n")
    if header != b"Time,Parameter,Value":
        raise UserError(f"{file}, line 1: found '{header[:80].decode('latin-1')}', expected "
                        f"'Time,Parameter,Value'. {AGAIN}")
    for number, line in enumerate(lines, start=2):
        if line.count(b",") != 2:
            raise UserError(f"{file}, line {number}: found '{line[:80].decode('latin-1')}', expected a time, a "
                            f"parameter and a value. {AGAIN}")
    return b"".join(line + b"\n" for line in lines), len(lines)


def grid_rows(rows: pd.DataFrame, files: Sequence[str], hours: int) -> tuple[np.ndarray, dict[str, int]]:
    """Average the valid vital signs of each hour: x (N, hours, 7) float32 with NaN, and the rows each rule dropped.

    Raises UserError naming the file and line of the first vital sign whose time or value is not a number.
    """
    sources = [PARAMETERS.get(parameter, ("", 0)) for parameter in rows["parameter"].cat.categories]
    channel = pd.Index(CHANNELS).get_indexer([channel for channel, _ in sources])[rows["parameter"].cat.codes]
    choice = np.array([choice for _, choice in sources])[rows["parameter"].cat.codes]
    minute = parse_texts(rows["time"], minutes)
    value = parse_texts(rows["value"], lambda texts: pd.to_numeric(texts, errors="coerce"))
    missing = (rows["value"] == "").to_numpy() | (value == -1)
    malformed = (channel >= 0) & ~missing & (np.isnan(minute) | np.isnan(value))
    if malformed.any():
        row = int(malformed.argmax())
        stay = rows["stay"].iloc[row]
        line = row - int(rows["stay"].searchsorted(stay)) + 2
        raise UserError(f"{files[stay]}, line {line}: found '{','.join(rows.iloc[row, :3])}', expected a time HH:MM "
                        f"and a number. {AGAIN}")
    kept, counts = grid.drop_rows({
        "rows without a parameter name": (rows["parameter"] == "").to_numpy(),
        "rows with a missing value (-1)": missing,
        "rows of other parameters": channel < 0,
        "rows after the window": ~(minute < 60 * hours),
        "rows out of range": ~grid.in_range(channel, value),  # other parameters (channel -1) are counted above
    })
    hour = (minute[kept] // 60).astype(int)
    stay, channel, choice, value = rows["stay"].to_numpy()[kept], channel[kept], choice[kept], value[kept]
    shape = (len(files), hours, len(CHANNELS))
    first, second = (grid.grid_means(stay[rank], hour[rank], channel[rank], value[rank], shape)
                     for rank in (choice == 0, choice == 1))
    return np.where(np.isnan(first), second, first), {**counts, "rows used": int(kept.sum())}


def read_descriptors(rows: pd.DataFrame, stays: int) -> pd.DataFrame:
    """Return the text of each descriptor at admission, by stay, '' where it is missing (-1)."""
    first = rows[(rows["time"] == "00:00") & rows["parameter"].isin(DESCRIPTORS)].drop_duplicates(["stay", "parameter"])
    texts = first.astype({"parameter": str, "value": str}).set_index(["stay", "parameter"])["value"]
    table = texts.unstack(fill_value="").reindex(index=range(stays), columns=DESCRIPTORS, fill_value="")
    return table.replace("-1", "")


def parse_texts(column: pd.Series, parse: Callable[[pd.Index], Sequence[float]]) -> np.ndarray:
    """Parse each distinct text of a categorical column once: (R,) float64, NaN where it does not parse."""
    return np.asarray(parse(column.cat.categories), dtype=np.float64)[column.cat.codes]


def minutes(times: pd.Index) -> pd.Series:
    """Turn `HH:MM` since admission into minutes, NaN where the text has another form."""
    parts = times.astype(str).str.extract(r"^(\d{1,3}):([0-5]\d)$").astype(float)
    return 60 * parts[0] + parts[1]


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line."""
    parser = command.source_parser("cinc2012", __doc__, prog, "folder with the files of the challenge",
                                   "data/cinc2012_<label>")
    parser.add_argument("--label", choices=LABELS, default="mortality", help="default: mortality")
    parser.add_argument("--hours", type=int, choices=(24, 48), default=24, help="window since admission (default: 24)")
    parser.add_argument("--sets", choices=SET_NAMES, nargs="+", help="sets to read (default: the ones found)")
    command.add_split_options(parser)
    target.add_options(parser, ", ".join(DESCRIPTORS))
    command.run(parser, arguments, lambda options: Path("data", f"cinc2012_{options.label}"), preprocess)


if __name__ == "__main__":
    main()
