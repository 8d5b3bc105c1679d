"""The text formats of the UCR and UEA archives, https://www.timeseriesclassification.com: `.ts` and `.tsv`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tardiff.utils.errors import UserError

AGAIN = "Download it again from https://www.timeseriesclassification.com."
MISSING = ("?", "nan", "NaN", "NAN")


def read_tsv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a UCR file, one series a line: its class and its values, between tabs; NaN is missing.

    Returns x (N, L, 1) float32 and the classes (N,), float64 or str. Raises UserError naming the line that is no such
    series.
    """
    series, labels = [], []
    for number, line in lines(path):
        label, *values = line.split("\t")
        if not values:
            raise UserError(f"{path}, line {number}: found '{line[:80]}', expected a class and the values of a series "
                            f"between tabs. {AGAIN}")
        labels.append(label.strip())
        series.append([parse_values(values, f"{path}, line {number}")])
    return stack(series, path), numbers_or_text(labels)


def numbers_or_text(labels: Sequence[str]) -> np.ndarray:
    """Return labels as float64 where all are numbers, which the archive writes in several ways: 1 and 1.0000000e+00."""
    try:
        return np.array(labels, dtype=np.float64)
    except ValueError:
        return np.array(labels)


def read_ts(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a UEA file: a header of `@` lines, then one case a line, its channels and at the end its class between
    colons.

    `?` is missing. Returns x (N, L, C) float32 and the classes (N,) str. Raises UserError naming the line, on time
    stamps, targets that are not classes, a class or a number of channels that the header does not tell, and unequal
    lengths.
    """
    header: dict[str, list[str]] = {}
    series, labels = [], []
    for number, line in lines(path):
        where = f"{path}, line {number}"
        if line.startswith("@"):
            key, *values = line[1:].split()
            header[key.lower()] = values
        elif "data" not in header:
            raise UserError(f"{where}: found '{line[:80]}', expected a line that starts with @, and @data before the "
                            f"series. {AGAIN}")
        else:
            if not series:
                classes, num_channels = check_header(header, path)
            *channels, label = line.split(":")
            num_channels = num_channels or len(channels)
            if len(channels) != num_channels:
                raise UserError(f"{where}: {len(channels)} channels and a class between colons, expected "
                                f"{num_channels} channels. {AGAIN}")
            if label.strip() not in classes:
                raise UserError(f"{where}: class '{label.strip()[:80]}' is not one of @classLabel: "
                                f"{', '.join(classes)}.")
            labels.append(label.strip())
            series.append([parse_values(channel.split(","), where) for channel in channels])
    return stack(series, path), np.array(labels)


def check_header(header: dict[str, list[str]], path: Path) -> tuple[list[str], int | None]:
    """Return the classes and the number of channels, None where not told. Raises UserError on what cannot be read."""
    def is_true(key: str) -> bool:
        return header.get(key, [""])[:1] in (["true"], ["True"])

    if is_true("timestamps"):
        raise UserError(f"{path}: @timeStamps true; expected series without time stamps, in equal steps.")
    if not is_true("classlabel") or len(header["classlabel"]) < 3:
        raise UserError(f"{path}: expected @classLabel true and the names of at least 2 classes.")
    told = ["1"] if is_true("univariate") else header.get("dimensions") or header.get("dimension") or [""]
    return header["classlabel"][1:], int(told[0]) if told[0].isdecimal() else None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is neither empty nor a comment (`#`)."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if line.strip() and not line.startswith("#"):  # Published comments hold dashes of other encodings.
                if re.search("[\ud800-\udfff]", line):
                    raise UserError(f"{path}, line {number}: not UTF-8 text. Save it as UTF-8. {AGAIN}")
                yield number, line.strip("\r\n")


def parse_values(values: Sequence[str], where: str) -> np.ndarray:
    """Return the numbers (L,) float32 of a series, NaN where missing. Raises UserError naming the first that is
    none."""
    numbers = np.empty(len(values), dtype=np.float32)
    for step, value in enumerate(map(str.strip, values)):
        try:
            numbers[step] = np.nan if value in MISSING else float(value)
        except ValueError:
            raise UserError(f"{where}, value {step + 1} of the series: '{value[:80]}' is not a number. "
                            f"{AGAIN}") from None
    return numbers


def stack(series: Sequence[Sequence[np.ndarray]], path: Path) -> np.ndarray:
    """Stack series, each a list of channels (L,), to (N, L, C) float32. Raises UserError unless all lengths are
    equal."""
    if not series:
        raise UserError(f"{path}: no series in it. {AGAIN}")
    expected = len(series[0][0])
    for row, channels in enumerate(series, start=1):
        for channel, values in enumerate(channels, start=1):
            if len(values) != expected:
                raise UserError(f"{path}: series {row}, channel {channel} has {len(values)} values, the first has "
                                f"{expected}. Only series of equal length are read: cut them, or pad them with ? and "
                                "give --impute.")
    return np.stack([np.stack(channels, axis=1) for channels in series])
