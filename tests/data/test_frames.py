"""Frames of a split and back: exact both ways, and faults of a user's own frames named."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tardiff.data.format import Metadata, Split, read_dataset
from tardiff.data.frames import FORMS, from_frame, to_frame
from tardiff.data.series import LabelledSeries
from tardiff.utils.errors import UserError

META = Metadata("ward", ["HR", "SpO2"], ["bpm", "%"], ["survived", "died"], "1 hour", "a ward", "MIT")
INTERVALS = {"1 hour": 1, "5 minutes": 1 / 12, "1/256 s": 1 / 256 / 3600, "7ms": 0.007 / 3600}


def drawn(seed: int = 0, subject: np.ndarray | None = None) -> Split:
    generator = np.random.default_rng(seed)
    x = generator.normal(80, 20, (9, 5, 2)).astype(np.float32)
    return Split(x, generator.integers(0, 2, 9), subject, generator.random(x.shape) < 0.7)


def assert_same(split: Split, expected: Split) -> None:
    """Compare all that a frame keeps: where the mask is False, the value is NaN."""
    mask = np.ones(expected.x.shape, dtype=bool) if expected.mask is None else expected.mask
    np.testing.assert_array_equal(split.x, np.where(mask, expected.x, np.float32(np.nan)))
    assert split.x.dtype == np.float32 and split.y.dtype == np.int64
    for name in ("y", "subject", "mask"):
        np.testing.assert_equal(getattr(split, name), getattr(expected, name))


@pytest.mark.parametrize("form", FORMS)
def test_probabilities_are_columns_after_the_label(form):
    p = np.random.default_rng(0).dirichlet([1, 1], 9).astype(np.float32)
    split = replace(drawn(), p=p)
    frame = to_frame(split, META, form)
    assert frame.columns[-3:].tolist() == ["label", "p_survived", "p_died"] and frame["p_died"].dtype == np.float32
    back, _ = from_frame(frame)
    assert_same(back, split)
    np.testing.assert_array_equal(back.p, p)
    with pytest.raises(UserError, match="column 'p_died': id '0' has more than one value"):
        from_frame(frame.assign(p_died=np.linspace(0, 1, len(frame))))
    with pytest.raises(UserError, match="channel 'p_died' has the name of another column"):
        to_frame(split, replace(META, channels=["p_died", "HR"]), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("interval", [*INTERVALS, "", "weekly"])
@pytest.mark.parametrize("subject", [None, np.arange(9) // 2, np.array([f"P{row:03}" for row in range(9)])],
                         ids=["nobody", "numbers", "text"])
def test_a_frame_holds_the_split_and_its_metadata(form, interval, subject):
    split, meta = drawn(subject=subject), replace(META, sampling_interval=interval)
    back, back_meta = from_frame(to_frame(split, meta, form))
    assert_same(back, split)
    assert back_meta == replace(meta, sampling_interval=interval if interval in INTERVALS else "")


@pytest.mark.parametrize("ids", [np.arange(9) * 3 - 4, np.arange(9)[::-1], np.array([f"{row:03}" for row in range(9)])])
def test_ids_of_a_split_are_those_of_its_frame(ids):
    frame = to_frame(replace(drawn(), id=ids), META)
    assert frame["id"].tolist() == np.repeat(ids, 5).tolist()
    back = from_frame(frame)[0].id
    np.testing.assert_array_equal(back, ids)
    assert back.dtype == ids.dtype


def test_rows_without_ids_get_none():
    """Else no two splits of numbered rows could stand in one dataset."""
    assert from_frame(to_frame(drawn(), META))[0].id is None


@pytest.mark.parametrize("form", FORMS)
def test_a_complete_split_has_no_mask(form):
    split = replace(drawn(), mask=None)
    assert_same(from_frame(to_frame(split, META, form))[0], split)


@pytest.mark.parametrize("form", FORMS)
def test_series_of_one_step_keep_their_interval(form):
    split = Split(drawn().x[:, :1], drawn().y, None, drawn().mask[:, :1])
    back, meta = from_frame(to_frame(split, META, form))
    assert_same(back, split)
    assert meta == META


def test_times_overrule_a_stated_interval():
    frame = to_frame(drawn(), META)
    assert from_frame(frame.assign(hours=frame["hours"] / 4))[1].sampling_interval == "15 min"


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_rows_and_the_index_do_not_matter(form):
    split = drawn()
    shuffled = to_frame(split, META, form).sample(frac=1, random_state=1)
    assert_same(from_frame(shuffled)[0], split[pd.unique(shuffled["id"])])


def test_what_stands_in_the_columns():
    split = drawn(subject=np.arange(9))
    wide = to_frame(split, META)
    assert list(wide) == ["id", "subject", "hours", "HR", "SpO2", "label"] and len(wide) == 9 * 5
    assert wide["hours"].tolist()[:6] == [0, 1, 2, 3, 4, 0]
    assert wide.attrs["units"] == {"HR": "bpm", "SpO2": "%"}
    assert wide["label"].tolist()[::5] == [META.classes[label] for label in split.y]
    np.testing.assert_array_equal(wide["HR"].isna(), ~split.mask[:, :, 0].reshape(-1))
    long = to_frame(split, META, "long")
    assert list(long) == ["id", "subject", "hours", "variable", "value", "label"] and len(long) == 9 * 5 * 2
    pivoted = long.pivot(index=["id", "hours"], columns="variable", values="value").reset_index()
    np.testing.assert_array_equal(pivoted[["HR", "SpO2"]], wide[["HR", "SpO2"]])


@pytest.mark.parametrize(("interval", "hour"), INTERVALS.items())
def test_hours_come_from_the_sampling_interval(interval, hour):
    frame = to_frame(drawn(), replace(META, sampling_interval=interval))
    np.testing.assert_allclose(frame["hours"][:5], np.arange(5) * hour, rtol=1e-15)


def test_steps_stand_where_the_interval_is_not_known():
    assert to_frame(drawn(), replace(META, sampling_interval=""))["step"].tolist()[:6] == [0, 1, 2, 3, 4, 0]


OWN = pd.DataFrame({"id": ["b", "b", "a", "a"], "time": pd.to_datetime(["2030-01-01 10:00", "2030-01-01 10:15"] * 2),
                    "pulse": [80, 81, 70, 71], "label": ["no", "no", "yes", "yes"]})


def test_a_frame_of_ones_own():
    split, meta = from_frame(OWN, classes=["yes", "no"], units={"pulse": "bpm"}, name="mine")
    assert split.x[:, :, 0].tolist() == [[80, 81], [70, 71]] and split.y.tolist() == [1, 0]
    assert meta == Metadata("mine", ["pulse"], ["bpm"], ["yes", "no"], "15 min")
    long = OWN.melt(id_vars=["id", "time", "label"], value_name="value", var_name="variable")
    assert_same(from_frame(long, classes=["yes", "no"])[0], split)


@pytest.mark.parametrize(("labels", "classes", "expected", "names"), [
    (["no", "no", "yes", "yes"], None, [0, 1], ["no", "yes"]),
    ([7, 7, 3, 3], None, [1, 0], ["3", "7"]),
    ([1.0, 1.0, 0.0, 0.0], None, [1, 0], ["0", "1"]),
    ([1, 1, 0, 0], ["alive", "dead"], [1, 0], ["alive", "dead"]),
    (["dead"] * 4, ["alive", "dead"], [1, 1], ["alive", "dead"]),
    ([True, True, False, False], None, [1, 0], ["False", "True"]),
])
def test_labels_are_numbered(labels, classes, expected, names):
    split, meta = from_frame(OWN.assign(label=labels), classes=classes)
    assert split.y.tolist() == expected and meta.classes == names


def late(minutes: int) -> pd.Series:
    return OWN["time"] + pd.to_timedelta([0, 0, 0, minutes], unit="min")


@pytest.mark.parametrize(("frame", "options", "words"), [
    (OWN.drop(columns="id"), {}, "no column id"),
    (OWN.drop(columns="time"), {}, "one of hours, step, time"),
    (OWN.assign(hours=0.5), {}, "the times hours and time"),
    (OWN.drop(columns="pulse"), {}, "no column of a channel"),
    (OWN[:0], {}, "no row"),
    (OWN.assign(id=["b", "b", None, "a"]), {}, "column 'id', row 2"),
    (OWN.assign(time=range(4)), {}, "pandas.to_datetime"),
    (OWN.rename(columns={"time": "hours"}), {}, "column 'hours' holds no numbers"),
    (OWN.assign(time=OWN["time"].where(OWN.index != 1)), {}, "column 'time', row 1: no time"),
    (OWN[:3], {}, "id 'a' has 1 times, id 'b' has 2"),
    (OWN.assign(time=late(5)), {}, "id 'a': step 1 comes 0.3"),
    (OWN.assign(time=late(-15)), {}, "id 'a': step 1 comes 0 "),
    (OWN.assign(pulse=["80", "81", "70", "71"]), {}, "column 'pulse' holds"),
    (OWN.assign(pulse=[80, 81, np.inf, 71]), {}, "row 1, step 0, channel 0"),
    (OWN.assign(label=["no", "yes", "yes", "yes"]), {}, "column 'label': id 'b' has more than one value"),
    (OWN.assign(label=["no", "no", None, "yes"]), {}, "column 'label': id 'a' has no value"),
    (OWN.assign(label=0.5), {}, "0.5 is no class"),
    (OWN.assign(label="no"), {}, "every row has the class 'no'"),
    (OWN, {"classes": ["no", "yes!"]}, "Did you mean yes!"),
    (OWN, {"units": {"puls": "bpm"}}, "'puls' is no channel"),
    (OWN.assign(subject=["P", "Q", "R", "R"]), {}, "column 'subject': id 'b'"),
    (OWN.assign(variable="pulse", value=1.0, time=late(-15)), {}, "id 'a' has more than one value of pulse"),
])
def test_a_fault_of_a_frame_is_named(frame, options, words):
    with pytest.raises(UserError) as error:
        from_frame(frame, **options)
    assert words in str(error.value)


@pytest.mark.parametrize(("meta", "form", "words"), [
    (META, "broad", "long or wide"), (replace(META, channels=["HR", "HR"]), "wide", "channel 'HR'"),
    (replace(META, classes=["no", "no"]), "long", "class 'no'"),
    (replace(META, channels=["HR", "id"]), "wide", "'id'")])
def test_what_a_frame_cannot_hold_is_refused(meta, form, words):
    with pytest.raises(UserError, match=words):
        to_frame(drawn(), meta, form)


def test_labelled_series_go_to_a_folder_and_a_frame_and_back(tmp_path):
    split = drawn()[:3]
    series = LabelledSeries(replace(split, y=np.array([1, 1, 1])), META)
    assert len(series) == 3 and series.labels.tolist() == ["died"] * 3 and series.x is split.x
    series.write(tmp_path)
    assert read_dataset(tmp_path, ("train",), every_class=False).train.fingerprint() == series.split.fingerprint()
    read = LabelledSeries.read(tmp_path)
    assert_same(LabelledSeries.from_frame(read.to_frame("long")).split, series.split)
    assert read.meta == META
