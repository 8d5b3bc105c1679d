"""What the ECG and EEG sources share, against plain loops, closed forms and other libraries."""

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from sklearn.preprocessing import StandardScaler

from data_preprocess import adftd, ptb, windows
from data_preprocess.windows import Subject
from tardiff.data.format import Metadata, read_dataset, write_dataset
from tardiff.utils.errors import UserError

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("rate", "new_rate"), [(500, 256), (1000, 250)])
def test_a_sinusoid_stays_itself_under_resampling(rate, new_rate):
    frequency, seconds = 5.0, 4
    signal = np.sin(2 * np.pi * frequency * np.arange(seconds * rate) / rate)[:, None]
    resampled = windows.resample(signal, rate, new_rate)
    # The first and last samples stay where they are, so the times run to the last of the old ones.
    times = np.linspace(0, seconds - 1 / rate, seconds * new_rate)
    bound = (2 * np.pi * frequency / rate) ** 2 / 8  # of linear interpolation between two samples
    assert resampled.shape == (seconds * new_rate, 1)
    np.testing.assert_allclose(resampled[:, 0], np.sin(2 * np.pi * frequency * times), atol=1.01 * bound)


@pytest.mark.parametrize("length", [500, 1277, 4004, 5001])
def test_resampling_agrees_with_scipy(length):
    signal = RANDOM.normal(size=(length, 3))
    expected = interp1d(np.linspace(1, length, length), signal, axis=0)(np.linspace(1, length, int(length / 500 * 256)))
    np.testing.assert_allclose(windows.resample(signal, 500, 256), expected, atol=1e-9)


@pytest.mark.parametrize("total", range(24))
def test_windows_from_the_middle_outward(total):
    signal = np.stack([np.arange(total), -np.arange(total)], axis=1)
    expected = []
    start = total // 2
    while start + 4 <= total:  # to the right of the middle
        expected.append(start)
        start += 4
    start = total // 2 - 4
    while start >= 0:  # and to the left
        expected.append(start)
        start -= 4
    found = windows.middle_out_windows(signal, 4)
    assert found.shape == (len(expected), 4, 2)
    for window, first in zip(found, sorted(expected), strict=True):
        np.testing.assert_array_equal(window, [[first + step, -first - step] for step in range(4)])


def test_strided_windows_cell_by_cell():
    signal = RANDOM.normal(size=(1280, 16))
    found = windows.strided_windows(signal, 256, 128)
    assert found.shape == (9, 256, 16)
    for number in range(9):
        for step in range(256):
            np.testing.assert_array_equal(found[number, step], signal[128 * number + step])


def test_z_scores_of_each_window_and_channel():
    raw = RANDOM.normal(3, 5, size=(4, 50, 3)) * [1, 1e-6, 1e6]
    found = windows.z_scores(raw)
    for window, expected in zip(found, raw, strict=True):
        np.testing.assert_allclose(window, StandardScaler().fit_transform(expected), atol=1e-9)
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(found.std(axis=1), 1)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6 / 3])
def test_a_constant_channel_becomes_zero_not_noise(value):
    np.testing.assert_allclose(windows.z_scores(np.full((1, 255, 1), value)), 0, atol=1e-9)


def test_cropping_keeps_the_middle_or_the_first_steps():
    beat = np.arange(300.0).reshape(1, 300, 1)
    assert windows.crop(beat, 288, "center").ravel().tolist() == list(range(6, 294))
    assert windows.crop(beat, 288, "left").ravel().tolist() == list(range(288))
    assert windows.crop(beat, 300, "center").ravel().tolist() == list(range(300))


def subjects(*labels):
    return [Subject(f"s{number}", number, label) for number, label in enumerate(labels, start=1)]


def test_classes_are_cut_in_their_order():
    members = windows.members_by_class_order(subjects(1, 0, 1, 0, 1, 0, 1, 0, 1), (0.6, 0.8))
    assert {name: [subject.number for subject in part] for name, part in members.items()} == {
        "train": [2, 4, 1, 3, 5], "val": [6, 7], "test": [8, 9]}  # healthy 4 -> 2, 1, 1; ill 5 -> 3, 1, 1


def test_listed_numbers_and_nobody_else():
    members = windows.members_by_number(subjects(0, 1, 0, 1), {"train": {1}, "val": {4}, "test": {2}})
    assert {name: [subject.name for subject in part] for name, part in members.items()} == {
        "train": ["s1"], "val": ["s4"], "test": ["s2"]}


@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.integers(0, 2), min_size=1, max_size=60),
       cuts=st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_a_subject_is_never_in_two_splits_by_class_order(labels, cuts):
    everyone = subjects(*labels)
    members = windows.members_by_class_order(everyone, sorted(cuts))
    placed = sorted(subject.number for part in members.values() for subject in part)
    assert placed == [subject.number for subject in everyone]  # each once


def test_absent_subjects_are_named_and_left_out(capsys):
    members = windows.members_by_number(subjects(0, 1, 0), {"train": {1, 2}, "val": {3}, "test": set()})
    kept = windows.leave_out_absent(members, {"s2", "s3"}, ".set file")
    assert [subject.name for subject in kept["train"]] == ["s2"] and len(kept["val"]) == 1
    assert capsys.readouterr().err == "warning: 1 of 3 subjects have no .set file and are left out: s1\n"


def test_a_split_without_a_class_is_refused_with_the_counts(tmp_path):
    members = windows.members_by_number(subjects(0, 1, 0, 1, 1), {"train": {1, 2}, "val": {3, 4}, "test": {5}})
    with pytest.raises(UserError, match=r"but test lacks healthy\. Found 5 subjects of the splits: 2 healthy, 3 ill\. "
                       "Get it"):
        windows.require_every_class(members, ["healthy", "ill"], tmp_path, "Get it.")


@pytest.mark.parametrize(("source", "library"), [(ptb, "wfdb"), (ptb, "neurokit2"), (adftd, "mne")])
def test_a_source_without_its_library_is_refused(tmp_path, monkeypatch, capsys, source, library):
    for name in ("wfdb", "neurokit2", "mne"):
        monkeypatch.setitem(sys.modules, name, None if name == library else sys)
    with pytest.raises(SystemExit) as end:
        source.main(["--input", str(tmp_path), "--output", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert end.value.code == 2 and message.startswith(f"error: this source needs the library {library}")
    assert "pip install -e '.[signals]'" in message
    assert not (tmp_path / "out").exists()


ONE_EACH = {name: [Subject(f"{name}{label}", 2 * position + label, label) for label in (0, 1)]
            for position, name in enumerate(("train", "val", "test"))}


def test_what_is_read_is_written_normalized_and_in_its_split(tmp_path, capsys):
    raw = {subject.name: RANDOM.normal(subject.number, 3, size=(subject.number + 1, 10, 2))
           for part in ONE_EACH.values() for subject in part}
    channels, read = windows.read_subjects(ONE_EACH, lambda subject: (["a", "b"], raw[subject.name]))
    published = {"subjects": 6, "windows": 22, "windows of val1": 4, "test windows, ill": 6}
    write_dataset(tmp_path / "out", *windows.dataset_of_windows(
        ONE_EACH, read, "windows", published,
        Metadata("example", channels, [], ["healthy", "ill"], cohort={"window": 10})))
    dataset = read_dataset(tmp_path / "out")
    assert dataset.meta.units == ["z-score", "z-score"] and dataset.meta.channels == ["a", "b"]
    assert dataset.meta.cohort["window"] == 10 and "z-scored" in dataset.meta.cohort["normalization"]
    assert dataset.meta.cohort["subjects"]["val"] == {"val0": 2, "val1": 3}
    assert dataset.meta.cohort["splits"] == {"train": {"healthy": 1, "ill": 2}, "val": {"healthy": 3, "ill": 4},
                                             "test": {"healthy": 5, "ill": 6}}
    for name, split in dataset.splits.items():
        assert split.subject.tolist() == [subject.name for subject in ONE_EACH[name] for _ in raw[subject.name]]
        assert all(int(name[-1]) == label for name, label in zip(split.subject, split.y, strict=True))
        expected = np.concatenate([raw[subject.name] for subject in ONE_EACH[name]])
        for window, own in zip(split.x, expected, strict=True):
            np.testing.assert_allclose(window, StandardScaler().fit_transform(own), atol=1e-5)
    output = capsys.readouterr()
    assert "test windows, ill          6         6" in output.out
    assert output.err.startswith("warning: windows: 21 observed, 22 published.") and len(output.err.splitlines()) == 1


def test_a_recording_without_a_window_and_channels_of_another_set_are_refused():
    with pytest.raises(UserError, match="train0: the recording is shorter than one window"):
        windows.read_subjects(ONE_EACH, lambda subject: (["a"], np.empty((0, 10, 1))))
    with pytest.raises(UserError, match="train1: has the channels b; train0 has a"):
        windows.read_subjects(ONE_EACH, lambda subject: (["ab"[subject.label]], np.ones((1, 10, 1))))


@pytest.mark.parametrize(("name", "length", "channels", "classes"),
                         [("ptb", 288, 15, 2), ("adftd", 256, 19, 3), ("apava", 256, 16, 2), ("tdbrain", 256, 33, 2)])
def test_the_configurations_of_training_expect_what_is_written(name, length, channels, classes):
    config = yaml.safe_load((Path(__file__).parents[2] / "configs" / "base" / f"{name}.yaml").read_text())
    assert config["expect"] == {"length": length, "channels": channels, "classes": classes}
    assert config["data"] == f"data/{name}"
