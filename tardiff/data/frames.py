"""Labelled series as pandas frames, and frames as labelled series.

A frame has the columns `id`, `subject` where it is known, the time as `hours` (or `step`, counted from 0, where the
sampling interval is not known), and `label` with the name of the class, followed by `p_CLASS` for each class where a
teacher's probabilities are known. Between time and label stand, in the *wide* form, one column a channel, and in the
*long* form `variable` and `value`. What was not observed is NaN. `frame.attrs`
carries what else is known of the data: `units` by channel, and `name`, `sampling_interval`, `source`, `licence` and
`positive`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd

from tardiff.data.format import UNIT_SECONDS, Metadata, Split, class_numbers, interval_seconds, split_faults
from tardiff.utils.errors import UserError

FORMS = ("long", "wide")
TIMES = ("hours", "step", "time")
RESERVED = ("id", "subject", *TIMES, "variable", "value", "label")
CARRIED = ("name", "sampling_interval", "source", "licence", "positive")
RELATIVE_TOLERANCE = 1e-3  # of steps that count as equal: times in hours are rounded


def to_frame(split: Split, meta: Metadata, form: str = "wide") -> pd.DataFrame:
    """Return a split as a frame of N * L rows (`wide`) or N * L * C rows (`long`), in order of the arrays.

    Where the split has no ids, they are numbers from 0, which `from_frame` takes for none. Values are float32, label
    and variable are categories in the order of the metadata. Raises UserError on another form and on channels or
    classes that cannot be told apart.
    """
    if form not in FORMS:
        raise UserError(f"'{form}': expected the form {' or '.join(FORMS)}.")
    _require_distinct(meta, () if split.p is None else probability_columns(meta.classes))
    num_series, length, num_channels = split.x.shape
    time, times = time_axis(meta, length)
    values = split.x if split.mask is None else np.where(split.mask, split.x, np.float32(np.nan))
    repeats = length * (num_channels if form == "long" else 1)
    columns = {"id": np.repeat(np.arange(num_series) if split.id is None else split.id, repeats)}
    if split.subject is not None:
        columns["subject"] = np.repeat(split.subject, repeats)
    columns[time] = np.tile(np.repeat(times, repeats // length), num_series)
    if form == "long":
        channel = np.tile(np.arange(num_channels), num_series * length)
        columns["variable"] = pd.Categorical.from_codes(channel, meta.channels)
        columns["value"] = values.reshape(-1)
    else:
        columns |= dict(zip(meta.channels, values.reshape(-1, num_channels).T, strict=True))
    columns["label"] = pd.Categorical.from_codes(np.repeat(split.y, repeats), meta.classes)
    if split.p is not None:
        columns |= dict(zip(probability_columns(meta.classes), np.repeat(split.p, repeats, axis=0).T, strict=True))
    frame = pd.DataFrame(columns)
    units = dict(zip(meta.channels, meta.units, strict=True))
    frame.attrs = {**{key: getattr(meta, key) for key in CARRIED}, "units": units}
    return frame


def probability_columns(classes: Sequence[str]) -> list[str]:
    """Return the names of the columns that hold the probability of each class."""
    return [f"p_{name}" for name in classes]


def time_axis(meta: Metadata, length: int) -> tuple[str, np.ndarray]:
    """Return the name of the time and its values (L,): `hours` float64, or `step` int64 where the interval is not
    known."""
    seconds = interval_seconds(meta.sampling_interval)
    steps = np.arange(length)
    if seconds is None:
        return "step", steps
    # One division of whole numbers, so that every hour is the float nearest to it.
    hour = seconds / 3600
    return "hours", steps * hour.numerator / hour.denominator


def from_frame(frame: pd.DataFrame, classes: Sequence[str] | None = None, units: Mapping[str, str] | None = None,
               name: str | None = None) -> tuple[Split, Metadata]:
    """Return the split and the metadata of a frame as `to_frame` gives it, or of your own in the same columns.

    The time may also be in a column `time` of timestamps or durations. Every id needs a row at every step of one
    regular grid, in any order; series come in the order in which their ids first occur. All columns beside those of
    `to_frame` are channels.

    classes: names in the order of their numbers; by default the categories of `label`, or its values, sorted. units: by
    channel, by default those of `frame.attrs`. The mask is None where every value is there. Raises UserError that names
    the column, id or row at fault.
    """
    _require_columns(frame)
    time = next(column for column in TIMES if column in frame)
    series, ids = pd.factorize(frame["id"])
    if (series < 0).any():
        raise UserError(f"column 'id', row {int((series < 0).argmax())}: no id.")
    hours = _hours(frame[time], time, series)
    classes, y = _classes_and_numbers(_one_a_series(frame["label"], series, ids), classes)
    of_p, p, subject = probability_columns(classes), None, None
    if set(of_p) <= set(frame.columns):
        p = np.column_stack([_one_a_series(frame[column], series, ids).to_numpy(np.float32) for column in of_p])
    if "subject" in frame:
        subject = _integers_or_text(_one_a_series(frame["subject"], series, ids).to_numpy())
    if {"variable", "value"} <= set(frame.columns):
        values = _pivoted(frame, series, hours)
        series, hours = (values.index.get_level_values(name).to_numpy() for name in ("series", "hours"))
    else:
        others = ("id", "subject", time, "label", *(of_p if p is not None else ()))
        values = frame[[column for column in frame.columns if column not in others]]
    order = np.lexsort((hours, series))
    length, interval = _regular(hours[order], series[order], ids)
    x = _numbers(values).take(order, axis=0).reshape(len(ids), length, values.shape[1])
    observed = ~np.isnan(x)
    # Numbers in order, as `to_frame` gives rows without ids, name nothing, and those of other splits are the same.
    split = Split(x, y, subject, None if observed.all() else observed, p,
                  None if np.array_equal(ids, np.arange(len(ids))) else _integers_or_text(np.asarray(ids)))
    meta = _metadata(frame.attrs, list(map(str, values.columns)), classes, units)
    meta = replace(meta, name=name or meta.name,
                   sampling_interval="" if time == "step" else _interval_text(interval, meta.sampling_interval))
    faults = split_faults(split, meta)
    if faults:
        raise UserError("the frame cannot be used:\n" + "\n".join(faults))
    return split, meta


def _require_distinct(meta: Metadata, of_p: Sequence[str]) -> None:
    for what, names in (("channel", meta.channels), ("class", meta.classes)):
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise UserError(f"{what} '{repeated[0]}' is there more than once, so that a frame cannot tell them apart.")
    reserved = [name for name in meta.channels if name in (*RESERVED, *of_p)]
    if reserved:
        raise UserError(f"channel '{reserved[0]}' has the name of another column of the frame; rename it in meta.json.")


def _require_columns(frame: pd.DataFrame) -> None:
    missing = [column for column in ("id", "label") if column not in frame]
    times = [column for column in TIMES if column in frame]
    if len(times) > 1:
        raise UserError(f"the frame has the times {' and '.join(times)}; keep one of them.")
    if not times:
        missing.append(f"one of {', '.join(TIMES)}")
    if missing:
        found = ", ".join(map(str, frame.columns))[:200]
        raise UserError(f"the frame has no column {' and '.join(missing)}; found {found}. Name yours so with "
                        "frame.rename(columns={...}).")
    if not frame.columns.is_unique:
        raise UserError(f"column '{frame.columns[frame.columns.duplicated()][0]}' is there more than once.")
    if len(frame) == 0:
        raise UserError("the frame has no row.")


def _hours(column: pd.Series, name: str, series: np.ndarray) -> np.ndarray:
    """Return the time of each row: hours for `hours`, steps for `step`, hours since the first row of the id for
    `time`."""
    if name == "time":
        if not (pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_timedelta64_dtype(column)):
            raise UserError("column 'time' holds no timestamps; use pandas.to_datetime(), or name it 'hours' if that "
                            "is what it holds.")
        column = (column - column.groupby(series).transform("min")) / pd.Timedelta(hours=1)
    elif not pd.api.types.is_numeric_dtype(column):
        raise UserError(f"column '{name}' holds no numbers; name it 'time' if it holds timestamps.")
    hours = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isfinite(hours).all():
        raise UserError(f"column '{name}', row {int((~np.isfinite(hours)).argmax())}: no time.")
    return hours


def _pivoted(frame: pd.DataFrame, series: np.ndarray, hours: np.ndarray) -> pd.DataFrame:
    """Return the values of a long frame, one row a series and time, which its index has."""
    names = frame["variable"]
    if names.isna().any():
        raise UserError(f"column 'variable', row {int(names.isna().to_numpy().argmax())}: no name.")
    table = pd.DataFrame({"series": series, "hours": hours, "variable": names.astype(str).to_numpy(),
                          "value": frame["value"].to_numpy()})
    repeated = table.duplicated(["series", "hours", "variable"]).to_numpy()
    if repeated.any():
        row = frame.iloc[int(repeated.argmax())]
        raise UserError(f"id '{row['id']}' has more than one value of {row['variable']} at one time.")
    channels = table["variable"].unique()
    if isinstance(names.dtype, pd.CategoricalDtype):
        channels = names.cat.remove_unused_categories().cat.categories.astype(str)
    return table.pivot(index=["series", "hours"], columns="variable", values="value")[channels]


def _regular(hours: np.ndarray, series: np.ndarray, ids: pd.Index) -> tuple[int, float | None]:
    """Return the length and the interval (None of a single step) of series whose rows are in order of series and
    time."""
    advice = "Every id needs a row at each step; data_preprocess.tables brings irregular measurements to such a grid."
    counts = np.bincount(series)
    if (counts != counts[0]).any():
        other = int((counts != counts[0]).argmax())
        raise UserError(f"id '{ids[other]}' has {counts[other]} times, id '{ids[0]}' has {counts[0]}. {advice}")
    if counts[0] == 1:
        return 1, None
    steps = np.diff(hours.reshape(len(ids), counts[0]), axis=1)
    interval = float(steps[0].mean())
    uneven = ~np.isclose(steps, interval, rtol=RELATIVE_TOLERANCE, atol=0)
    if interval <= 0 or uneven.any():
        row, step = np.argwhere(uneven | (steps <= 0))[0]
        raise UserError(f"id '{ids[row]}': step {step + 1} comes {steps[row, step]:g} after the one before, expected "
                        f"{interval:g}. {advice}")
    return int(counts[0]), interval


def _numbers(values: pd.DataFrame) -> np.ndarray:
    """Return the channels (R, C) float32. Raises UserError if a column holds no numbers."""
    if values.shape[1] == 0:
        raise UserError("the frame has no column of a channel.")
    for column in values:
        if not pd.api.types.is_numeric_dtype(values[column]):
            raise UserError(f"column '{column}' holds {values[column].dtype}, expected the numbers of a channel. Drop "
                            "it with frame.drop(columns=...), or convert it with pandas.to_numeric().")
    with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite, which is refused.
        return values.to_numpy(dtype=np.float64, na_value=np.nan).astype(np.float32)


def _integers_or_text(names: np.ndarray) -> np.ndarray:
    return names.astype(np.int64 if names.dtype.kind in "iu" else str)


def _one_a_series(column: pd.Series, series: np.ndarray, ids: pd.Index) -> pd.Series:
    """Return the value (N,) of each series. Raises UserError where one has none or several."""
    column = column.reset_index(drop=True)
    first = column[~pd.Series(series).duplicated()]
    differs = (column != first.iloc[series].reset_index(drop=True)) | column.isna()
    if differs.any():
        row = int(differs.to_numpy().argmax())
        found = "no value" if pd.isna(column[row]) else "more than one value"
        raise UserError(f"column '{column.name}': id '{ids[series[row]]}' has {found}, expected the same in each of "
                        "its rows.")
    return first


def _classes_and_numbers(labels: pd.Series, classes: Sequence[str] | None) -> tuple[list[str], np.ndarray]:
    """Return the class names and the numbers (N,) int64 of the labels (N,): whole numbers, or names."""
    if pd.api.types.is_float_dtype(labels):
        if (labels % 1 != 0).any():
            raise UserError(f"column 'label': {labels[labels % 1 != 0].iloc[0]} is no class; expected names or whole "
                            "numbers.")
        labels = labels.astype(np.int64)
    if classes is None:
        whole_numbers = pd.api.types.is_integer_dtype(labels)
        found = sorted(labels.unique()) if whole_numbers else sorted(labels.astype(str).unique())
        categories = labels.cat.categories if isinstance(labels.dtype, pd.CategoricalDtype) else found
        classes, labels = list(map(str, categories)), labels.astype(str)
        if len(classes) < 2:
            raise UserError(f"column 'label': every row has the class '{classes[0]}'; give all names as classes=[...].")
    elif not pd.api.types.is_integer_dtype(labels):
        labels = labels.astype(str)
    given = labels.unique()
    numbers = dict(zip(given, class_numbers(given, list(classes)), strict=True))
    return list(classes), labels.map(numbers).to_numpy(dtype=np.int64, copy=True)


def _metadata(attrs: Mapping, channels: list[str], classes: list[str], units: Mapping[str, str] | None) -> Metadata:
    """Return the metadata with what the frame carries."""
    for channel in units or ():
        if channel not in channels:
            raise UserError(f"units: '{channel}' is no channel; the channels are {', '.join(channels)}.")
    units = attrs.get("units", {}) if units is None else units
    carried = {"name": "frame", **{key: attrs[key] for key in CARRIED if key in attrs}}
    if carried.get("positive") not in classes:
        carried["positive"] = ""
    units = [units.get(channel, "unknown") for channel in channels]
    return Metadata(channels=channels, units=units, classes=classes, **carried)


def _interval_text(hours: float | None, stated: str) -> str:
    """Return the interval in words: as it is stated, unless the times say another; None: they say nothing."""
    seconds = interval_seconds(stated)
    agrees = seconds is not None and (hours is None or abs(hours * 3600 / seconds - 1) <= RELATIVE_TOLERANCE)
    if agrees or hours is None:
        return stated
    fraction = Fraction(hours * 3600).limit_denominator(10_000)
    whole = [unit for unit in ("d", "h", "min") if (fraction / UNIT_SECONDS[unit]).denominator == 1]
    unit = (*whole, "s")[0]
    return f"{fraction / UNIT_SECONDS[unit]} {unit}"
