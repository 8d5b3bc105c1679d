"""APAVA: small files written by scipy in the publisher's form, window by window, and the published lists and counts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from data_preprocess import apava
from tardiff.data.format import read_dataset

LABELS = ["C3", "C4", "F3", "F4", "F7", "F8", "Fp1", "Fp2", "O1", "O2", "P3", "P4", "T3", "T4", "T5", "T6"]
# The labels that Medformer's notebook prints for participants 1 to 23, and the epochs of each.
DIAGNOSES = [1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0]
EPOCHS = [35, 25, 10, 33, 1, 22, 3, 32, 18, 38, 47, 37, 29, 39, 46, 28, 59, 40, 46, 37, 19, 17, 2]
TRAIN = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 21, 22, 23]


def signal(number, epoch):
    """A ramp and a sinusoid that tell the participant, the epoch, the channel and the sample."""
    time = np.arange(1280) / 256
    return np.stack([number + np.sin(2 * np.pi * (1 + channel + epoch) * time) + 0.1 * time for channel in range(16)])


def write_participant(folder, number, count=1, name=None, labels=LABELS, rate=256, epochs=None):
    epochs = [signal(number, epoch) for epoch in range(count)] if epochs is None else epochs
    cells = np.empty((1, len(epochs)), dtype=object)
    for position, epoch in enumerate(epochs):
        cells[0, position] = epoch
    structure = {"label": np.array([[label] for label in labels], dtype=object), "fsample": rate, "trial": cells,
                 "time": np.arange(1280) / 256}
    scipy.io.savemat(folder / (name or f"preproctrials{number:02d}.mat"), {"data": structure})


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apava")
    for number in range(1, 24):
        write_participant(folder, number, count=2 if number == 3 else 1)
    (folder / "README.txt").write_text("notes")
    return folder


@pytest.fixture(scope="module")
def dataset(published, tmp_path_factory):
    output = tmp_path_factory.mktemp("output") / "apava"
    apava.main(["--input", str(published), "--output", str(output)])
    return read_dataset(output)


def test_the_licence_is_referred_to(dataset):
    assert dataset.meta.licence == "see https://osf.io/jbysn"


def test_every_window_against_a_plain_loop(dataset):
    for split in dataset.splits.values():
        for name in np.unique(split.subject):
            number = int(name[-2:])
            own = split.x[split.subject == name]
            assert len(own) == (18 if number == 3 else 9)
            for position, window in enumerate(own):
                epoch, start = signal(number, position // 9), 128 * (position % 9)
                for channel in range(16):
                    values = epoch[channel, start:start + 256]
                    expected = (values - values.mean()) / values.std()
                    np.testing.assert_allclose(window[:, channel], expected, atol=1e-4)


def test_participants_stand_in_the_published_splits_with_their_diagnoses(dataset):
    members = {name: sorted(numbers.values()) for name, numbers in dataset.meta.cohort["subjects"].items()}
    assert members == {"train": TRAIN, "val": [15, 16, 19, 20], "test": [1, 2, 17, 18]}
    for split in dataset.splits.values():
        assert all(DIAGNOSES[int(name[-2:]) - 1] == label for name, label in zip(split.subject, split.y, strict=True))
    assert dataset.shape == (256, 16)
    assert dataset.meta.channels == LABELS and set(dataset.meta.units) == {"z-score"}


def test_published_counts_follow_from_the_epochs():
    """The counts to compare with are 9 windows an epoch, added up over the published lists."""
    lists = {"train": TRAIN, "val": [15, 16, 19, 20], "test": [1, 2, 17, 18]}
    for name, numbers in lists.items():
        for label, text in enumerate(apava.CLASSES):
            assert apava.PUBLISHED[f"{name} windows, {text}"] == 9 * sum(
                EPOCHS[number - 1] for number in numbers if DIAGNOSES[number - 1] == label)
        assert apava.PUBLISHED[f"{name} windows"] == 9 * sum(EPOCHS[number - 1] for number in numbers)
    for number, epochs in enumerate(EPOCHS, start=1):
        assert apava.PUBLISHED[f"windows of preproctrials{number:02d}"] == 9 * epochs
    assert apava.PUBLISHED["windows"] == 9 * sum(EPOCHS) == 5967


def test_a_set_that_differs_from_the_published_one_is_said_so(published, tmp_path, capsys):
    apava.main(["--input", str(published), "--output", str(tmp_path / "output")])
    output = capsys.readouterr()
    assert "warning: windows of preproctrials01: 9 observed, 315 published" in output.err
    assert "windows of preproctrials05" not in output.err  # its one epoch is the published one


def test_a_missing_participant_is_named_and_shifts_nobody(published, tmp_path, capsys):
    folder = Path(shutil.copytree(published, tmp_path / "input"))
    (folder / "preproctrials07.mat").unlink()
    apava.main(["--input", str(folder), "--output", str(tmp_path / "output")])
    dataset = read_dataset(tmp_path / "output")
    assert sorted(dataset.meta.cohort["subjects"]["val"].values()) == [15, 16, 19, 20]
    assert 7 not in dataset.meta.cohort["subjects"]["train"].values()
    assert "warning: 1 of 23 subjects have no .mat file and are left out: preproctrials07" in capsys.readouterr().err


def copy_of_one(folder):
    write_participant(folder, 3, name="preproctrials3.mat")


def html(folder):
    (folder / "preproctrials03.mat").write_text("<!DOCTYPE html>\n<html>Log in</html>\n" * 10)


def cut_off(folder):
    path = folder / "preproctrials03.mat"
    path.write_bytes(path.read_bytes()[:100_000])


def leave_only_the_ill(folder):
    for number in range(1, 24):
        if not DIAGNOSES[number - 1]:
            (folder / f"preproctrials{number:02d}.mat").unlink()


def remove_all(folder):
    for path in folder.glob("*.mat"):
        path.unlink()


def other_structure(folder):
    scipy.io.savemat(folder / "preproctrials03.mat", {"data": {"label": 1, "signals": np.zeros((16, 1280))}})


FAULTS = {
    "html": (html, "preproctrials03.mat: cannot be read"),
    "cut off": (cut_off, "preproctrials03.mat: cannot be read"),
    "other structure": (other_structure, "preproctrials03.mat: cannot be read"),
    "transposed": (lambda folder: write_participant(folder, 3, epochs=[signal(3, 0), signal(3, 1).T]),
                   "preproctrials03.mat, epoch 2: its shape is 1280 x 16, expected 16 channels x 1280 samples. It is "
                   "transposed"),
    "short epoch": (lambda folder: write_participant(folder, 3, epochs=[signal(3, 0)[:, :1000]]),
                    "epoch 1: its shape is 16 x 1000"),
    "no epoch": (lambda folder: write_participant(folder, 3, epochs=[]), "0 epochs"),
    "another rate": (lambda folder: write_participant(folder, 3, rate=128), "at 128 Hz"),
    "not a number": (lambda folder: write_participant(folder, 3, epochs=[np.where(signal(3, 0) > 3.9, np.nan, 1)]),
                     "epoch 1: holds values that are no numbers"),
    "unknown participant": (lambda folder: write_participant(folder, 24),
                            "preproctrials24.mat: unknown participant 24"),
    "twice": (copy_of_one, "preproctrials3.mat: participant 3 occurs twice, also as preproctrials03.mat"),
    "one class": (leave_only_the_ill, "train lacks healthy, val lacks healthy, test lacks healthy. Found 12 subjects"),
    "no file": (remove_all, "no file found. Expected preproctrials01.mat to preproctrials23.mat"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_input_is_one_message_and_no_output(published, tmp_path, refusal, fault):
    damage, expected = FAULTS[fault]
    damage(Path(shutil.copytree(published, tmp_path / "input")))
    assert expected in refusal(apava.main, "--input", tmp_path / "input", "--output", tmp_path / "output")
