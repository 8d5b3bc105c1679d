"""What your own arrays and tables have in common: options, class labels, given splits, gaps, and writing."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from data_preprocess import command, count_tables, grid
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
                        help="the labels in the order of the classes, LABEL=NAME to give one another name (default: "
                        "the labels, sorted)")
    parser.add_argument("--drop-class", nargs="+", default=[], type=str.strip, metavar="LABEL",
                        help="leave out all rows with these labels")
    parser.add_argument("--positive", type=str.strip, metavar="NAME",
                        help="class that AUPRC and F1 are of (default: the rarest of the training split)")
    parser.add_argument("--missing", nargs="+", type=float, default=[], metavar="VALUE",
                        help="numbers that stand for a missing value, such as -999")
    parser.add_argument("--range", action="append", default=[], metavar="CHANNEL=LOW:HIGH",
                        help="drop values of a channel outside this closed interval; may be repeated")
    parser.add_argument("--units", nargs="+", type=str.strip, metavar="UNIT",
                        help="unit of each channel, in order (default: unknown)")
    parser.add_argument("--name", help="name of the dataset (default: that of the output folder)")
    parser.add_argument("--licence", default="", help="licence of the data, for meta.json")


@dataclass(frozen=True)
class Channel(grid.Vital):
    """A variable with the closed interval of its valid values."""

    above: str = "<="
    below: str = "<="

    @property
    def valid_range(self) -> str:
        """The range as text."""
        return super().valid_range if np.isfinite((self.low, self.high)).any() else "any"


def channels_of(found: Sequence[str], names: Sequence[str] | None, options: argparse.Namespace,
                what: str) -> list[Channel]:
    """Return the channels, called as `names` says or as they are found, with their units and the intervals of each
    --range.

    Raises UserError on a wrong number of names or units, and on a --range that is none. what: where they are from.
    """
    for option, given in (("--channels", names), ("--units", options.units)):
        if given is not None and len(given) != len(found):
            raise UserError(f"{what}: {len(found)} channels, but {option} has {len(given)} entries.")
    names = names or found
    intervals = dict(parse_range(text, names) for text in options.range)
    return [Channel(name, unit, *intervals.get(name, (-np.inf, np.inf)))
            for name, unit in zip(names, options.units or ["unknown"] * len(found), strict=True)]


def parse_range(text: str, names: Sequence[str]) -> tuple[str, tuple[float, float]]:
    """Return the channel and the bounds of a --range. Raises UserError if it is none."""
    channel, _, bounds = text.rpartition("=")
    parts = re.fullmatch(r"(-?[\d.]+(?:[eE]-?\d+)?):(-?[\d.]+(?:[eE]-?\d+)?)", bounds)
    try:
        low, high = map(float, parts.groups() if parts else ())
    except ValueError:
        low, high = 0.0, 0.0
    if channel not in names or not low < high:
        raise UserError(f"--range {text}: expected CHANNEL=LOW:HIGH with LOW < HIGH and one of the channels "
                        f"{listed(names)}.")
    return channel, (low, high)


def label_texts(labels: np.ndarray, what: str) -> np.ndarray:
    """Return labels (N,), numbers or text, as text (N,). Raises UserError on a number that is not whole.

    what: where the labels are from. Text stays as it is, and integers have all their digits.
    """
    if labels.dtype.kind == "f":
        refuse_fractions(labels, what)
        return np.array([str(int(label)) for label in labels])
    return (labels.astype(np.int64) if labels.dtype.kind == "b" else labels).astype(str)


def of_kept_classes(labels: np.ndarray, dropped: Sequence[str], what: str) -> np.ndarray:
    """Tell which labels (N,) text are not among those of --drop-class: (N,) bool. Raises UserError if one of those is
    nowhere."""
    for label in dropped:
        if label not in labels:
            raise UserError(f"{what}: --drop-class: '{label}' is no label; the labels are "
                            f"{listed(np.unique(labels).tolist())}.")
    return ~np.isin(labels, dropped)


def refuse_fractions(numbers: np.ndarray, what: str) -> None:
    """Raise UserError naming the first of the numbers (N,) float that is not whole."""
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers == np.rint(numbers))))
    if len(wrong):
        raise UserError(f"{what}: label '{numbers[wrong[0]]}' is not a whole number ({len(wrong)} such rows). Give "
                        "each row one class, as a whole number or as text.")


def encode_labels(labels: np.ndarray, given: Sequence[str] | None, what: str) -> tuple[np.ndarray, list[str]]:
    """Number the distinct labels 0..K-1, in the order of `given`, else by value where they are whole numbers, else as
    text.

    labels (N,) text; two texts are two classes. given: each label once, or `LABEL=NAME` to call it otherwise. what:
    where the labels are from. Returns y (N,) int64 and the class names, by default the labels. Raises UserError on
    fractions, on fewer than 2 classes, and where `given` does not name each label and each class once.
    """
    found, y = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        state = f"every row has the label '{found[0]}'" if len(found) else "no row is left"
        raise UserError(f"{what}: {state}; expected at least 2 classes.")
    names = shown_labels(found.tolist(), what)
    if given is not None:
        shown, names = names, dict(named_label(entry.strip(), names, what) for entry in given)
        missing = [label for label in shown if label not in names]
        if missing or len(given) > len(names) or len(set(names.values())) < len(names):
            fault = f"label '{shown[missing[0]]}' is not there" if missing else "a label or a name is there twice"
            raise UserError(f"{what}: --classes {' '.join(given)}: {fault}. Name each label once, and each class by a "
                            f"name of its own; the labels are {listed(list(shown.values()))}.")
    numbers = {label: number for number, label in enumerate(names)}
    return np.array([numbers[label] for label in found.tolist()], dtype=np.int64)[y], list(names.values())


def shown_labels(found: Sequence[str], what: str) -> dict[str, str]:
    """Return the labels in order, each with the text that is shown of it: `1` of `1.0`.

    Raises UserError if all are numbers and not all of them whole.
    """
    whole = {label: parts[1] for label in found if (parts := re.fullmatch(r"([+-]?\d+)(\.0*)?", label))}
    if len(set(map(int, whole.values()))) == len(found):  # Else number and text are not one to one: 0389 and 389.
        return {label: whole[label] for label in sorted(found, key=lambda label: int(whole[label]))}
    with contextlib.suppress(ValueError):  # of text that is no number
        refuse_fractions(np.array(found, dtype=np.float64), what)
    return {label: label for label in sorted(found)}


def named_label(entry: str, shown: Mapping[str, str], what: str) -> tuple[str, str]:
    """Return the label and the class name of an entry of --classes. Raises UserError if it is of no label.

    shown: as from `shown_labels`; the entry may have a label as it is or as it is shown.
    """
    texts = {**{text: label for label, text in shown.items()}, **{label: label for label in shown}}
    for text in sorted(texts, key=len, reverse=True):
        if entry == text or entry.startswith(f"{text}="):
            return texts[text], entry[len(text) + 1:] or text
    labels = list(shown.values())
    # A space before the minus of a number, or the command line would take it for an option.
    example = " ".join(shlex.quote(" " * label.startswith("-") + f"{label}=NAME") for label in labels[:2])
    raise UserError(f"{what}: --classes: '{entry}' is no label; the labels are {listed(labels)}. Give them in the "
                    f"order of the classes, LABEL=NAME to call one otherwise, such as --classes {example}.")


def listed(labels: Sequence[str]) -> str:
    """Return the labels as one text, the first ten of many."""
    return ", ".join([*labels[:10], *["..."] * (len(labels) > 10)])


def cut_validation(splits: Mapping[str, Split], share: float, seed: int) -> dict[str, Split]:
    """Return given splits; where val is not among them, this share of train becomes it, by subject, stratified.

    Raises UserError on a bad share or seed, or if either part would stay empty.
    """
    if "val" in splits:
        return dict(splits)
    return {**splits, **split_by_subject(splits["train"], {"train": 1 - share, "val": share}, seed)}


def warn_of_extremes(splits: Mapping[str, Split], channels: Sequence[Channel], averaged: bool) -> None:
    """Warn on stderr of a lowest or highest value that looks like a code for a missing one, or like an error.

    Such a value stands alone: nothing lies between it and the others over more than their middle half, where it is
    repeated, or over more than twice the range of the others (from 0.1 to 99.9 %). averaged: whether values are means
    of the readings of a step.
    """
    for number, channel in enumerate(channels):
        values, counts = np.unique(grid.observed_values(splits, number), return_counts=True)
        for last, inner in ((0, 1), (-1, -2)):
            if len(values) < 10:  # of a score or a flag, whose values lie apart
                continue
            others, weights = np.delete(values, last), np.delete(counts, last)
            shares = np.cumsum(weights) / weights.sum()
            low, quarter, three_quarters, high = others[np.searchsorted(shares, (0.001, 0.25, 0.75, 0.999 - 1e-9))]
            gap = abs(values[last] - values[inner])
            is_code = gap > three_quarters - quarter and counts[last] > 2 * counts[inner]
            if (is_code and counts[last] > 2) or gap > 2 * (high - low):
                found = (f"{values[last]:g} stands {counts[last]:,} times, the nearest other value is "
                         f"{values[inner]:g}. ")
                found += ("It is the mean of the readings of a step: if one of them stands for a missing value, give "
                          "that one to --missing" if averaged else
                          f"If it stands for a missing value, give --missing {values[last]:g}")
                print(f"warning: channel {channel.name}: {found}; if it cannot be, --range "
                      f"'{channel.name}=LOW:HIGH'.", file=sys.stderr)


def warn_of_repeats(splits: Mapping[str, Split]) -> None:
    """Warn on stderr of equal series in two splits. Where subjects are known, they alone say what may not be shared."""
    series = {name: {values.tobytes() for values in split.x} for name, split in splits.items() if split.subject is None}
    for first, second in combinations(series, 2):
        shared = len(series[first] & series[second])
        if shared:
            print(f"warning: {shared:,} series stand both in {first} and in {second}. If they are of the same "
                  "patients, give subjects and split by them, or results will look better than they are.",
                  file=sys.stderr)


def dataset_of(options: argparse.Namespace, splits: Mapping[str, Split], channels: Sequence[Channel],
               classes: list[str], interval: str, cohort: dict, rows: str, averaged: bool
               ) -> tuple[dict[str, Split], Metadata]:
    """Fill gaps as --impute says, warn of extremes and repeats, print what channels and splits hold, and return the
    splits with their description.

    splits: with NaN in x where unobserved. interval: between two steps. cohort: what `meta.json` says of the rows
    beside that. rows: what a row is, such as `series`. averaged: whether values are means of the readings of a step.
    Raises UserError before anything is written.
    """
    imputation = None
    if options.impute is not None:
        splits, imputation = grid.fill_gaps(splits, options.impute, channels)
    warn_of_extremes(splits, channels, averaged)
    cohort = {**cohort, "channels": grid.summarize_channels(splits, channels)}
    if options.positive not in (None, *classes):
        raise UserError(f"--positive '{options.positive}': expected one of the classes {listed(classes)}.")
    splits = {name: splits[name] for name in SPLIT_NAMES if name in splits}
    warn_of_repeats(splits)
    meta = Metadata(
        name=options.name or options.output.name, channels=[channel.name for channel in channels],
        units=[channel.unit for channel in channels], classes=classes, sampling_interval=interval,
        source=options.input.name, licence=options.licence, imputation=imputation, positive=options.positive or "",
    ).with_positive(splits["train"].y)
    counts = count_tables.summarize_splits(splits, meta, rows)
    print(f"the positive class, which AUPRC and F1 are of, is {meta.positive}; --positive names another")
    if "test" not in splits:
        print("warning: no test split is given; evaluation needs one.", file=sys.stderr)
    return splits, replace(meta, cohort={**cohort, "splits": counts})
