"""ADFTD: small EEGLAB files read by MNE, window by window, and the published lists; the real table where present."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from user_errors import replaced_in, web_page

from data_preprocess import adftd
from tardiff.data.format import read_dataset

pytest.importorskip("mne")
CHANNELS = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "F7", "F8", "T3", "T4", "T5", "T6", "Fz",
            "Cz", "Pz"]
# Medformer's lists: of 36 A, 29 C and 23 F in this order.
LISTS = {"train": [*range(1, 22), *range(37, 54), *range(66, 79)],
         "val": [*range(22, 29), *range(54, 60), *range(79, 84)],
         "test": [*range(29, 37), *range(60, 66), *range(84, 89)]}
# One of each class and split, at the ends of the ranges.
PRESENT = {21: "A", 22: "A", 36: "A", 53: "C", 54: "C", 65: "C", 66: "F", 83: "F", 84: "F"}


def group(number):
    return "A" if number <= 36 else "C" if number <= 65 else "F"


def samples(number):
    return 1750 + 100 * (number % 5)


def signal(number):
    """Microvolts (19, T): a sinusoid of each channel, and an offset of each participant."""
    time = np.arange(samples(number)) / 500
    return np.stack([number + 10 * np.sin(2 * np.pi * (1 + channel) * time + number) for channel in range(19)])


def write_recording(folder, number, channels=CHANNELS, rate=500, data=None, name=None):
    recordings = folder / "derivatives" / f"sub-{number:03d}" / "eeg"
    recordings.mkdir(parents=True, exist_ok=True)
    data = signal(number) if data is None else data
    locations = np.array([(label,) for label in channels], dtype=[("labels", object)])
    fields = {"setname": "x", "nbchan": len(data), "trials": 1, "pnts": data.shape[1], "srate": float(rate),
              "xmin": 0.0, "xmax": data.shape[1] / rate, "data": data, "chanlocs": locations, "event": [],
              "epoch": [], "icawinv": [], "icasphere": [], "icaweights": []}
    path = recordings / (name or f"sub-{number:03d}_task-eyesclosed_eeg.set")
    scipy.io.savemat(path, {"EEG": fields}, appendmat=False)


def write_table(folder, numbers=range(1, 89), end="\r\n"):
    rows = [f"sub-{number:03d}\tF\t70\t{group(number)}\t20" for number in numbers]
    table = end.join(["participant_id\tGender\tAge\tGroup\tMMSE", *rows]) + end
    (folder / "participants.tsv").write_text(table, newline="")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adftd")
    write_table(folder)
    for number in PRESENT:
        write_recording(folder, number)
    return folder


def convert(folder, output):
    adftd.main(["--input", str(folder), "--output", str(output)])
    return read_dataset(output)


def test_every_window_against_a_plain_loop(published, tmp_path, capsys, windows_of_the_notebook):
    dataset = convert(published, tmp_path / "out")
    seen = {}
    for name, split in dataset.splits.items():
        for participant in np.unique(split.subject):
            number = int(participant[-3:])
            own, expected = split.x[split.subject == participant], windows_of_the_notebook(signal(number).T)
            assert number in LISTS[name] and len(own) == len(expected) >= 2
            np.testing.assert_allclose(own, expected, atol=1e-4)
            seen[number] = {"C": 0, "F": 1, "A": 2}[group(number)]
            assert set(split.y[split.subject == participant]) == {seen[number]}
    assert seen.keys() == PRESENT.keys()
    assert dataset.shape == (256, 19) and dataset.meta.channels == CHANNELS
    assert dataset.meta.classes == ["healthy", "frontotemporal dementia", "Alzheimer's disease"]
    message = capsys.readouterr().err
    assert "warning: 79 of 88 subjects have no .set file in derivatives/ and are left out: sub-001, sub-002" in message
    assert "subjects: 9 observed, 88 published" in message and "participants" not in message


def test_channels_are_taken_by_their_names_and_sessions_are_joined(published, tmp_path):
    folder = Path(shutil.copytree(published, tmp_path / "in"))
    write_recording(folder, 21, channels=CHANNELS[::-1], data=signal(21)[::-1])
    write_recording(folder, 22, name="second.set")
    first, second = convert(published, tmp_path / "a"), convert(folder, tmp_path / "b")
    np.testing.assert_array_equal(first.train.x, second.train.x)
    once, twice = (split.x[split.subject == "sub-022"] for split in (first.val, second.val))
    np.testing.assert_array_equal(np.concatenate([once, once]), twice)


def lists_of(path):
    """The split of each participant of a table."""
    return {name: sorted(int(subject.name[-3:]) for subject in part)
            for name, part in adftd.windows.members_by_class_order(
        adftd.read_participants(path), adftd.CUTS).items()}


def test_the_lists_are_those_of_the_whole_table(published):
    assert lists_of(published / "participants.tsv") == LISTS


def test_the_real_table_gives_the_published_lists(shared_data):
    path = shared_data / "adftd" / "participants.tsv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    labels = [subject.label for subject in adftd.read_participants(path)]
    assert [labels.count(label) for label in range(3)] == [29, 23, 36]
    assert lists_of(path) == LISTS


def test_the_real_table_without_recordings_is_told(shared_data, tmp_path, refusal):
    if not (shared_data / "adftd" / "participants.tsv").is_file():
        pytest.skip("no participants.tsv")
    message = refusal(adftd.main, "--input", shared_data / "adftd", "--output", tmp_path / "out")
    assert "adftd: no recording of any subject of the splits found. Add the missing recordings" in message


def html(folder):
    recording = folder / "derivatives/sub-066/eeg/sub-066_task-eyesclosed_eeg.set"
    recording.write_text("<!DOCTYPE html>\n<html>Log in</html>" * 9)


def cut_off(folder):
    path = folder / "derivatives/sub-066/eeg/sub-066_task-eyesclosed_eeg.set"
    path.write_bytes(path.read_bytes()[:100_000])


def broken_link(folder):
    path = folder / "derivatives/sub-066/eeg/sub-066_task-eyesclosed_eeg.set"
    path.unlink()
    path.symlink_to("nowhere")


change_table = partial(replaced_in, "participants.tsv")


FAULTS = {
    "html": (html, "sub-066_task-eyesclosed_eeg.set: cannot be read"),
    "cut off": (cut_off, "sub-066_task-eyesclosed_eeg.set: cannot be read"),
    "link to nothing": (broken_link, "sub-066_task-eyesclosed_eeg.set: file not found"),
    "another channel": (lambda folder: write_recording(folder, 66, ["X", *CHANNELS[1:]]), "has the channels X, Fp2"),
    "another rate": (lambda folder: write_recording(folder, 66, rate=250), "at 250 Hz, expected"),
    "not a number": (lambda folder: write_recording(folder, 66, data=np.where(signal(66) > 70, np.nan, 1)),
                     "holds values that are no numbers"),
    "unknown participant": (lambda folder: write_recording(folder, 99), "sub-099: participant sub-099 is not in "
                            "participants.tsv"),
    "no table": (lambda folder: (folder / "participants.tsv").unlink(), "participants.tsv: file not found"),
    "html table": (web_page("participants.tsv"),
                   "participants.tsv, line 1: column 'participant_id' is missing"),
    "unknown group": (change_table("F\t70\tC\t20", "F\t70\tX\t20"),
                      "participants.tsv, line 38: group 'X' of 'sub-037'"),
    "twice": (change_table("sub-005", "sub-004"), "participants.tsv, line 6: participant sub-004 occurs twice"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_input_is_one_message_and_no_output(published, tmp_path, refusal, fault):
    damage, expected = FAULTS[fault]
    damage(Path(shutil.copytree(published, tmp_path / "input")))
    assert expected in refusal(adftd.main, "--input", tmp_path / "input", "--output", tmp_path / "output")
