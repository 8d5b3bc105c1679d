"""What your own arrays and tables have in common: options, class labels, given splits, gaps, and writing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from data_preprocess import command, count_tables
from tardiff.data.format import SPLIT_NAMES, Metadata, Split
from tardiff.data.splits import split_by_subject
from tardiff.utils.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the splits, the class names and what else `meta.json` holds of a dataset of your own."""
    command.add_split_options(parser)
    parser.add_argument("--val-ratio", type=float, default=0.2, metavar="SHARE",
                        help="where train is given without val: share of train, by subject, to become val "
                        "(default: 0.2)")
    parser.add_argument("--classes", nargs="+", metavar="NAME",
                        help="class names in the sorted order of the labels, or the labels themselves in the order "
                        "of their numbers (default: the labels, sorted)")
    parser.add_argument("--units", nargs="+", metavar="UNIT", help="unit of each channel, in order (default: unknown)")
    parser.add_argument("--name", help="name of the dataset (default: that of the output folder)")
    parser.add_argument("--licence", default="", help="licence of the data, for meta.json")


def encode_labels(labels: np.ndarray, names: Sequence[str] | None, what: str) -> tuple[np.ndarray, list[str]]:
    """Number the distinct labels 0..K-1 in sorted order: by value where they are numbers, else as text.

    labels (N,) numbers or text. names: class names in that order, or None for the labels themselves; names that are the
    labels give the order. what: where the labels are from. Returns y (N,) int64 and the class names. Raises UserError
    on a number that is not whole, on numbers mixed with text, on fewer than 2 classes, and on names that are not as
    many, not distinct, or some of the labels but not all.
    """
    position = {name: number for number, name in enumerate(names or ())}
    if 1 < len(position) == len(names) and set(position) == set(map(str, labels)):
        return np.array([position[str(label)] for label in labels], dtype=np.int64), list(position)
    numbers = pd.to_numeric(pd.Series(labels), errors="coerce").to_numpy(dtype=np.float64)
    if not np.isnan(numbers).all():
        wrong = np.flatnonzero(~np.isfinite(numbers) | (numbers != np.rint(numbers)))
        if len(wrong):
            raise UserError(f"{what}: label '{labels[wrong[0]]}' is not a whole number, as others are ({len(wrong)} "
                            "such rows). Give each row one class, as a whole number or, in all rows, as text.")
        labels = numbers.astype(np.int64)
    found, y = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        raise UserError(f"{what}: every row has the label '{found[0]}'; expected at least 2 classes.")
    if names is not None and len(names) != len(found):
        listed = ", ".join([*map(str, found[:10]), *["..."] * (len(found) > 10)])
        raise UserError(f"{what}: {len(found)} classes ({listed}), but --classes has {len(names)} names.")
    repeated = [name for name in names or () if names.count(name) > 1]
    if repeated:
        raise UserError(f"--classes: {repeated[0]} is there more than once; give each class a name of its own.")
    spelt_alike = {str(label).lower() for label in found} & {name.lower() for name in names or ()}
    if spelt_alike:
        raise UserError(f"{what}: the labels are {', '.join(map(str, found))}, so --classes {' '.join(names)} could "
                        "give the name of one to another. Give the labels as they are, in the order that you want, or "
                        "new names for all of them in this order.")
    return y.astype(np.int64), list(names or map(str, found))


def channel_names(names: Sequence[str] | None, units: Sequence[str] | None, found: Sequence[str],
                  what: str) -> tuple[list[str], list[str]]:
    """Return the names and units of the channels, by default those found and 'unknown'. Raises UserError on a wrong
    number."""
    for option, given in (("--channels", names), ("--units", units)):
        if given is not None and len(given) != len(found):
            raise UserError(f"{what}: {len(found)} channels, but {option} has {len(given)} entries.")
    return list(names or found), list(units or ["unknown"] * len(found))


def cut_validation(splits: Mapping[str, Split], share: float, seed: int) -> dict[str, Split]:
    """Return given splits; where val is not among them, this share of train becomes it, by subject, stratified.

    Raises UserError on a bad share or seed, or if either part would stay empty.
    """
    if "val" in splits:
        return dict(splits)
    return {**splits, **split_by_subject(splits["train"], {"train": 1 - share, "val": share}, seed)}


def warn_of_repeats(splits: Mapping[str, Split]) -> None:
    """Warn on stderr of equal series in two splits. Where subjects are known, they alone say what may not be shared."""
    series = {name: {values.tobytes() for values in split.x} for name, split in splits.items() if split.subject is None}
    for first, second in combinations(series, 2):
        shared = len(series[first] & series[second])
        if shared:
            print(f"warning: {shared:,} series stand both in {first} and in {second}. If they are of the same "
                  "patients, give subjects and split by them, or results will look better than they are.",
                  file=sys.stderr)


def write(output: Path, splits: Mapping[str, Split], meta: Metadata, rows: str) -> None:
    """Warn of repeats, print the splits, count them in the cohort of `meta`, and write the dataset.

    rows: what a row is, such as `stays`. Raises UserError before anything is written.
    """
    ordered = {name: splits[name] for name in SPLIT_NAMES if name in splits}
    warn_of_repeats(ordered)
    counts = count_tables.summarize_splits(ordered, meta.classes, rows)
    if "test" not in ordered:
        print("warning: no test split is given; evaluation needs one.", file=sys.stderr)
    command.write(output, ordered, replace(meta, cohort={**meta.cohort, "splits": counts}))
