"""TDBrain: small files in the form of the publisher's derivatives, joined by participant id, window by window."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_preprocess import tdbrain
from tardiff.data.format import read_dataset

COLUMNS = ["Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "FC3", "FCz", "FC4", "T7", "C3", "Cz", "C4", "T8", "CP3", "CPz",
           "CP4",
           "P7", "P3", "Pz", "P4", "P8", "O1", "Oz", "O2", "VPVA", "VNVB", "HPHL", "HNHR", "Erbs", "OrbOcc", "Mass"]
USED = {"train": [*range(1, 18), *range(29, 46)], "val": [18, 19, 20, 21, 46, 47, 48, 49],
        "test": [22, 23, 24, 25, 50, 51, 52, 53]}


def identifier(number):
    """An id that sorts otherwise than the table, so that a join by order cannot pass."""
    return f"sub-{88000000 - 7919 * (number * 29 % 73):08d}"


def signal(number, session=1):
    time = np.arange(1010 + 10 * (number % 7)) / 500
    channels = [number + np.sin(2 * np.pi * (1 + channel % 9) * time + number + session) for channel in range(33)]
    return np.round(np.stack(channels, axis=1), 4)


def write_recording(folder, number, session=1, task="EC", columns=COLUMNS, data=None):
    recordings = folder / identifier(number) / f"ses-{session}" / "eeg"
    recordings.mkdir(parents=True, exist_ok=True)
    data = signal(number, session) if data is None else data
    path = recordings / f"{identifier(number)}_ses-{session}_task-rest{task}_eeg.csv"
    pd.DataFrame(data, columns=columns).to_csv(path, index=False)
    return path


def table_rows():
    """25 with Parkinson's disease and 47 healthy people in this order, among rows that the protocol drops."""
    rows = [("sub-11111111", "MDD"), ("", "HEALTHY"), ("sub-22222222", ""), ("sub-33333333", "REPLICATION")]
    for number in range(1, 73):
        rows.append((identifier(number), "PARKINSON" if number <= 25 else "healthy "[:7 + number % 2]))
        if number in (3, 40):
            rows.append(rows[-1])
    return rows


def write_table(folder, rows):
    lines = ["participants_ID\tDISC/REP\tindication\tgender", *(f"{name}\tDISCOVERY\t{text}\t1" for name, text in rows)]
    (folder / "TDBRAIN_participants_V2.tsv").write_text("\n".join(lines) + "\n")


PRESENT = [1, 17, 18, 25, 26, 29, 46, 53, 54]  # 26 and 54 are in no list


def write_source(folder):
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder, table_rows())
    for number in PRESENT:
        write_recording(folder, number)
    write_recording(folder, 17, session=2)
    write_recording(folder, 17, task="EO", data=np.zeros((900, 33)))
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source") / "derivatives")


def test_every_window_against_a_plain_loop(published, tmp_path, capsys, windows_of_the_notebook):
    tdbrain.main(["--input", str(published), "--output", str(tmp_path / "out")])
    dataset = read_dataset(tmp_path / "out")
    output = capsys.readouterr()
    seen, count = set(), 0
    for name, split in dataset.splits.items():
        for number in sorted(set(USED[name]) & set(PRESENT)):
            own = split.subject == identifier(number)
            sessions = (1, 2) if number == 17 else (1,)
            expected = [window for session in sessions for window in windows_of_the_notebook(signal(number, session))]
            assert own.sum() == len(expected) > 0
            count += len(expected)
            np.testing.assert_allclose(split.x[own], expected, atol=1e-4)
            assert set(split.y[own]) == {int(number <= 25)}
            assert dataset.meta.cohort["subjects"][name][identifier(number)] == number
            assert dataset.meta.cohort["recordings"][identifier(number)] == len(sessions)
            seen.add(number)
        assert f"{name}: {identifier(min(set(USED[name]) & set(PRESENT)))} " in output.out
    assert seen == set(PRESENT) - {26, 54}
    assert sum(map(len, dataset.splits.values())) == count
    assert dataset.shape == (256, 33) and dataset.meta.channels == COLUMNS
    assert "43 of 50 subjects have no eyes-closed .csv file" in output.err
    assert "participants, " not in output.err  # 47 and 25, as published


def test_the_lists_are_the_published_ones(published):
    members = tdbrain.windows.members_by_number(tdbrain.read_participants(published), tdbrain.NUMBERS)
    assert {name: [subject.number for subject in part] for name, part in members.items()} == USED
    assert [identifier(number) for number in USED["val"]] == [subject.name for subject in members["val"]]
    assert [subject.label for subject in members["test"]] == [1, 1, 1, 1, 0, 0, 0, 0]


def test_another_version_of_the_table_is_said_so(published, tmp_path, capsys):
    folder = Path(shutil.copytree(published, tmp_path / "derivatives"))
    write_table(folder, [*table_rows(), *((f"sub-4000{number:04d}", "HEALTHY") for number in range(136))])
    tdbrain.main(["--input", str(folder), "--output", str(tmp_path / "out")])
    assert "warning: participants, healthy: 183 observed, 47 published" in capsys.readouterr().err


def test_unknown_folders_and_contradictions_of_the_unused_are_skipped(published, tmp_path, capsys):
    tdbrain.main(["--input", str(published), "--output", str(tmp_path / "before")])
    folder = Path(shutil.copytree(published, tmp_path / "derivatives"))
    (folder / "sub-00000001").mkdir()
    write_table(folder, [*table_rows(), (identifier(26), "HEALTHY"), (identifier(54), "PARKINSON")])
    capsys.readouterr()
    tdbrain.main(["--input", str(folder), "--output", str(tmp_path / "out")])
    assert "folders of participants who are not in TDBRAIN_participants_V2.tsv are skipped (1): sub-00000001" in \
        capsys.readouterr().err
    before, after = (read_dataset(tmp_path / name) for name in ("before", "out"))
    assert {name: split.fingerprint() for name, split in before.splits.items()} == \
           {name: split.fingerprint() for name, split in after.splits.items()}


def html(folder):
    write_recording(folder, 17).write_text("<!DOCTYPE html>\n<html>Log in</html>\n")


def cut_off(folder):
    path = write_recording(folder, 17)
    path.write_text(path.read_text()[:40_000].rpartition(",")[0])


def words(folder):
    path = write_recording(folder, 17)
    lines = path.read_text().splitlines()
    lines[5] = lines[5].replace(lines[5].split(",")[3], "abc")
    path.write_text("\n".join(lines))


def contradiction(folder):
    write_table(folder, [*table_rows(), (identifier(5), "HEALTHY")])


FAULTS = {
    "html": (html, "task-restEC_eeg.csv: cannot be read"),
    "words": (words, "task-restEC_eeg.csv: cannot be read (could not convert string"),
    "cut off": (cut_off, ": a value is missing or no number. The file may be cut off"),
    "a column less": (lambda folder: write_recording(folder, 17, columns=COLUMNS[1:], data=signal(17)[:, 1:]),
                      "has 32 columns, expected 33"),
    "other columns in a session": (lambda folder: write_recording(folder, 17, session=2, columns=COLUMNS[::-1]),
                                   "the columns differ between its sessions"),
    "contradiction": (contradiction, f"participant {identifier(5)} occurs with different indications"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_input_is_one_message_and_no_output(published, tmp_path, refusal, fault):
    damage, expected = FAULTS[fault]
    damage(Path(shutil.copytree(published, tmp_path / "input")))
    assert expected in refusal(tdbrain.main, "--input", tmp_path / "input", "--output", tmp_path / "output")
