"""Write a dataset folder, real or synthetic, as tables: CSV or Parquet, long or wide.

    tardiff export --input data/simulated --output tables/simulated --form wide --format csv

The output folder holds `series` (one row a time, or with --form long one row a value: id, subject where known, hours,
the channels or variable and value, label), `labels` (id, label, subject, p_CLASS where probabilities are known,
split) and `export.json` (units, classes, and, where train and val are among the splits, the command that makes a
dataset of the tables again). What was not observed, or is not known of a split, is empty. Where the dataset has no
ids, one is the split and the row in it.

The same command again finds the tables and skips; a folder that holds anything else is never written over.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from tardiff.data.format import SPLIT_NAMES, Metadata, Split, read_dataset
from tardiff.data.frames import FORMS, probability_columns, time_axis, to_frame
from tardiff.utils.checkpoint import atomic_folder, read_json, require_folder, write_json
from tardiff.utils.errors import UserError, exit_on_user_error
from tardiff.utils.progress import progress

FORMATS = ("csv", "parquet")
FORMULA = re.compile(r"[=@\t\r]|[+-](?!\d*\.?\d*$)")  # not a signed number
VALUES_IN_A_PART = 1_000_000


def main(argv: Sequence[str] | None = None, prog: str = "tardiff export") -> None:
    """Run the command line; a user's mistake is one message and exit code 2."""
    title, _, details = __doc__.partition("\n")
    parser = argparse.ArgumentParser(prog=prog, description=title, epilog=details, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="dataset folder to read")
    parser.add_argument("--output", type=Path, required=True, help="folder to make for the tables")
    parser.add_argument("--form", choices=FORMS, default="wide", help="one column a channel, or one row a value "
                        "(default: wide)")
    parser.add_argument("--format", choices=FORMATS, default="csv", help="default: csv")
    parser.add_argument("--split", choices=SPLIT_NAMES, nargs="+", help="splits to write (default: all that are there)")
    options = parser.parse_args(argv)
    exit_on_user_error(lambda: export(options.input, options.output, options.form, options.format, options.split))


def export(source: Path, output: Path, form: str = "wide", file_format: str = "csv",
           split_names: Sequence[str] | None = None) -> None:
    """Write the splits of the dataset folder `source`, by default all that are there, as tables into the folder
    `output`.

    The folder appears whole or not at all. Raises UserError if it holds anything but what the same call has written.
    """
    require_folder(output)
    present = tuple(name for name in SPLIT_NAMES if (source / f"{name}.npz").is_file())
    dataset = read_dataset(source, tuple(split_names or present), every_class=False)
    if not dataset.splits:
        raise UserError(f"{source}: no split found; expected {', '.join(f'{name}.npz' for name in SPLIT_NAMES)}.")
    splits, meta = with_ids(with_subjects(dataset.splits)), dataset.meta
    series, labels = (output / f"{table}.{file_format}" for table in ("series", "labels"))
    description = {
        "input": {name: split.fingerprint(with_ids=True) for name, split in splits.items()}, "form": form,
        "name": meta.name, "units": dict(zip(meta.channels, meta.units, strict=True)), "classes": meta.classes,
        "sampling_interval": meta.sampling_interval, "source": meta.source, "licence": meta.licence,
        "read_back": reading_command(splits, meta, form, series, labels),
    }
    if file_format == "csv":
        refuse_formulas(splits, meta, source)
    if is_written(output, description, series, labels):
        print(f"{output}: already holds these tables; nothing to do.")
        return
    with atomic_folder(output) as folder:
        write_table(folder / series.name, parts_of(splits, meta, form))
        with_p = any(split.p is not None for split in splits.values())
        write_table(folder / labels.name, (label_table(name, split, meta, with_p)
                                           for name, split in splits.items()))
        write_json(folder / "export.json", description)
    num_series = sum(map(len, splits.values()))
    print(f"{output}: {num_series:,} series written ({', '.join(splits)}).")
    if description["read_back"]:
        print(f"This makes a dataset of them again:\n{description['read_back']}")


def with_subjects(splits: dict[str, Split]) -> dict[str, Split]:
    """Give each split its subjects as text if any split has them; where one has none, each series is its own."""
    if all(split.subject is None for split in splits.values()):
        return splits
    return {name: replace(split, subject=numbered_ids(name, len(split)) if split.subject is None
                          else split.subject.astype(str)) for name, split in splits.items()}


def with_ids(splits: dict[str, Split]) -> dict[str, Split]:
    """Give the series of each split new ids unless all splits have ids, which are text unless all are integers."""
    if any(split.id is None for split in splits.values()):
        return {name: replace(split, id=numbered_ids(name, len(split))) for name, split in splits.items()}
    kind = np.int64 if all(split.id.dtype.kind == "i" for split in splits.values()) else str
    return {name: replace(split, id=split.id.astype(kind)) for name, split in splits.items()}


def refuse_formulas(splits: dict[str, Split], meta: Metadata, source: Path) -> None:
    """Raise UserError if a name would be a formula for a spreadsheet that opens the CSV."""
    of_rows = {what: [str(own) for split in splits.values() for own in np.unique(split.arrays().get(what, []))]
               for what in ("subject", "id")}
    for what, names in {"channel": meta.channels, "class": meta.classes, **of_rows}.items():
        for name in names:
            if FORMULA.match(name):
                raise UserError(f"{source}: {what} '{name[:80]}' begins as a formula does, which spreadsheets would "
                                "run. Export with --format parquet, or rename it.")


def is_written(output: Path, description: dict, series: Path, labels: Path) -> bool:
    """Tell whether the folder holds these very tables. Raises UserError if it holds anything else."""
    if not output.is_dir() or not any(output.iterdir()):
        return False
    record = output / "export.json"
    if not record.is_file():
        raise UserError(f"{output}: holds files that are no export. Give a new folder as --output.")
    if read_json(record) != description or not series.is_file() or not labels.is_file():
        raise UserError(f"{output}: holds another export. Give a new folder as --output, or delete this one first.")
    return True


def numbered_ids(name: str, count: int) -> np.ndarray:
    """Return an id for each of the rows of a split, such as `test-0`."""
    return np.array([f"{name}-{row}" for row in range(count)])


def parts_of(splits: dict[str, Split], meta: Metadata, form: str) -> Iterator[pd.DataFrame]:
    """Yield consecutive frames of some million values, or of one series where that has more, with a progress bar."""
    with progress("writing of series", sum(map(len, splits.values())), "row") as bar:
        for split in splits.values():
            rows = max(1, VALUES_IN_A_PART // split.x[0].size)
            for start in range(0, len(split), rows):
                part = replace(split[start:start + rows], p=None)  # It stands in the table of labels.
                yield to_frame(part, meta, form)
                bar.update(len(part))


def label_table(name: str, split: Split, meta: Metadata, with_p: bool = False) -> pd.DataFrame:
    """Return one row a series: id, label, subject where known, with_p the probability of each class, NaN where it is
    not known, and split."""
    columns = {"id": split.id, "label": np.array(meta.classes)[split.y]}
    if split.subject is not None:
        columns["subject"] = split.subject
    if with_p:
        p = np.full((len(split), len(meta.classes)), np.nan, np.float32) if split.p is None else split.p
        columns |= dict(zip(probability_columns(meta.classes), p.T, strict=True))
    return pd.DataFrame({**columns, "split": name})


def write_table(path: Path, parts: Iterator[pd.DataFrame]) -> None:
    """Write the rows of all parts, which share their columns, as CSV or, by the ending of `path`, as Parquet."""
    table = path.with_suffix(".csv")
    with open(table, "w", encoding="utf-8", newline="") as file:
        for number, part in enumerate(parts):
            part.to_csv(file, header=number == 0, index=False)
            kinds = {column: {"float32": "FLOAT", "float64": "DOUBLE", "int64": "BIGINT"}.get(str(kind), "VARCHAR")
                     for column, kind in part.dtypes.items()}
    if path != table:
        columns = ", ".join(f"{quoted(column)}: '{kind}'" for column, kind in kinds.items())
        try:
            with duckdb.connect() as connection:
                connection.execute(f"COPY (FROM read_csv({quoted(str(table))}, columns = {{{columns}}}, header = true, "
                                   f"auto_detect = false)) TO {quoted(str(path))} (FORMAT parquet)")
        except duckdb.IOException as error:
            raise OSError(str(error)) from error
        table.unlink()


def quoted(text: str) -> str:
    """Return a text as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def reading_command(splits: dict[str, Split], meta: Metadata, form: str, series: Path, labels: Path) -> str | None:
    """Return the command that makes a dataset with the same arrays of the tables; None without train, which it
    needs, without val, which it would cut from train, and with given halves of val, which it does not know."""
    if not {"train", "val"} <= splits.keys() or any(split.guidance is not None for split in splits.values()):
        return None
    length = next(iter(splits.values())).x.shape[1]
    time, _ = time_axis(meta, length)
    # Where the interval is not known, a second stands for a step.
    unit, step = ("h", meta.sampling_interval) if time == "hours" else ("s", "1s")
    options = {"input": [series], "labels": [labels], "layout": [form], "time": [time], "time-unit": [unit],
               "step": [step], "length": [length], "channels": meta.channels, "units": meta.units,
               "classes": meta.classes, "split": ["split"]}
    if meta.positive:
        options["positive"] = [meta.positive]
    if any(split.subject is not None for split in splits.values()):
        options["subject"] = ["subject"]
    if any(split.p is not None for split in splits.values()):
        options["probabilities"] = probability_columns(meta.classes)
    options["output"] = [f"data/{meta.name}-from-tables"]
    # A space before the minus of a name, or the command line would take it for an option.
    arguments = [text for option, entries in options.items()
                 for text in (f"--{option}", *(" " * str(entry).startswith("-") + str(entry) for entry in entries))]
    return shlex.join(["tardiff", "convert", "tables", *arguments])
