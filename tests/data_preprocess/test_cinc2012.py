"""PhysioNet/CinC Challenge 2012: tiny files in the publisher's format, cell by cell, and real data where present."""

import gzip
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from user_errors import replaced_in, web_page

from data_preprocess import cinc2012
from tardiff.data.format import read_dataset

REPOSITORY = Path(__file__).parents[2]
CHANNELS = ["HR", "SBP", "DBP", "MBP", "RR", "Temp", "SpO2"]
DESCRIPTORS = ["00:00,Age,54", "00:00,Gender,0", "00:00,Height,-1", "00:00,ICUType,4", "00:00,Weight,-1"]
RATIOS = ["--ratios", "0.6", "0.2", "0.2"]

# One stay with every oddity, and the hourly means that it must give.
QUIRKS = [
    "00:00,HR,80", "00:59,HR,90",                         # both ends of an hour
    "01:10,HR,100", "01:10,HR,110",                       # the same time twice
    "01:20,HR,-1", "01:30,,17.5", "01:40,HR,",            # missing, nameless, empty
    "02:00,HR,0", "02:10,HR,300",                         # out of range: hour 2 is unobserved
    "03:05,SysABP,120", "03:05,NISysABP,90", "03:05,DiasABP,60", "03:05,NIDiasABP,40",  # the invasive one counts
    "03:20,NIMAP,70", "08:00,NIMAP,70", "08:00,MAP,80",   # decided for each channel and hour
    "04:00,NISysABP,95", "04:00,NIDiasABP,55",            # no invasive one in this hour
    "05:00,SysABP,0", "05:00,NISysABP,101",               # an invalid invasive one does not count
    "06:00,Temp,-17.8", "06:10,Temp,98.6", "06:20,Temp,36.6", "06:20,RespRate,70", "06:30,SaO2,100", "06:31,SaO2,100.1",
    "07:00,Lactate,1.5", "07:00,Weight,80.6", "07:00,Urine,60",
    "23:59,HR,60", "24:00,HR,50", "47:59,HR,40", "48:00,HR,30",
]
QUIRK_CELLS = {
    (0, "HR"): 85, (1, "HR"): 105, (3, "SBP"): 120, (3, "DBP"): 60, (3, "MBP"): 70, (4, "SBP"): 95, (4, "DBP"): 55,
    (5, "SBP"): 101, (6, "Temp"): 36.6, (6, "SpO2"): 100, (8, "MBP"): 80, (23, "HR"): 60,
}
QUIRK = 132600


def plain_rows(number):
    """Every vital sign once, one of them late, different in each stay."""
    return [f"00:07,HR,{70 + number}", f"00:07,NISysABP,{110 + number}", f"00:07,NIDiasABP,{50 + number}",
            f"00:07,NIMAP,{70.5 + number}", f"02:37,RespRate,{10 + number}", f"00:07,Temp,{36 + number / 10}",
            f"01:00,SaO2,{80 + number}", f"30:00,HR,{170 + number}"]


def cohort():
    """Twenty plain stays (0 to 4 died), the stay of quirks (died), and a stay that holds only its descriptors."""
    stays = {132539 + number: plain_rows(number) for number in range(20)}
    stays |= {QUIRK: QUIRKS, 132700: []}
    died = {*range(132539, 132544), QUIRK}
    outcomes = {record: (5, int(record in died)) for record in stays}
    outcomes |= {132545: (3, 0), 132546: (4, 0), 132547: (-1, 0), 132548: (2, 0), 132549: (0, 0), 132550: (3, 0)}
    return stays, outcomes


def record_text(record, rows):
    return "\n".join(["Time,Parameter,Value", f"00:00,RecordID,{record}", *DESCRIPTORS, *rows]) + "\n"


def write_outcomes(folder, outcomes, name="a"):
    rows = reversed(outcomes.items())  # not in the order of the records
    lines = ["RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death",
             *(f"{record},6,1,{days},-23,{died}" for record, (days, died) in rows)]
    (folder / f"Outcomes-{name}.txt").write_text("\n".join(lines) + "\n")


def write_set(folder, stays, outcomes, form="folder", name="a"):
    """Write one set as the publisher does: `set-a/`, `set-a.tar.gz` or `set-a.zip`, with `Outcomes-a.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_outcomes(folder, outcomes, name)
    texts = {f"set-{name}/{record}.txt": record_text(record, rows) for record, rows in stays.items()}
    if form == "folder":
        (folder / f"set-{name}").mkdir()
        for file, text in texts.items():
            (folder / file).write_text(text)
    elif form == "zip":
        with zipfile.ZipFile(folder / f"set-{name}.zip", "w") as archive:
            archive.writestr(f"set-{name}/", "")
            for file, text in texts.items():
                archive.writestr(file, text)
    else:
        with tarfile.open(folder / f"set-{name}.tar.gz", "w:gz") as archive:
            entry = tarfile.TarInfo(f"set-{name}/")
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
            for file, text in reversed(texts.items()):  # the order in an archive must not matter
                entry = tarfile.TarInfo(file)
                entry.size = len(text.encode())
                archive.addfile(entry, io.BytesIO(text.encode()))
    return folder


def convert(folder, output, *options):
    cinc2012.main(["--input", str(folder), "--output", str(output), *RATIOS, *options])
    return read_dataset(output)


def by_subject(dataset):
    """Return {subject: (x, mask, y)} over all splits."""
    return {int(subject): (x, mask, int(y)) for split in dataset.splits.values()
            for subject, x, mask, y in zip(split.subject, split.x, split.mask, split.y, strict=True)}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("published"), *cohort())


@pytest.fixture(scope="module")
def dataset(published, tmp_path_factory):
    return convert(published, tmp_path_factory.mktemp("output") / "mortality")


def test_folder_tar_and_zip_give_the_same_dataset(tmp_path, dataset):
    stays, outcomes = cohort()
    for form in ("tar.gz", "zip"):
        other = convert(write_set(tmp_path / form, stays, outcomes, form), tmp_path / form / "output")
        meta = [replace(found.meta, cohort={**found.meta.cohort, "command": None}) for found in (other, dataset)]
        assert meta[0] == meta[1]
        assert {name: split.fingerprint() for name, split in other.splits.items()} == \
               {name: split.fingerprint() for name, split in dataset.splits.items()}


def test_every_cell_of_the_stay_of_quirks(dataset):
    assert all(np.array_equal(split.id, split.subject) for split in dataset.splits.values())
    observed = np.full((24, 7), np.nan, dtype=np.float32)
    for (hour, channel), value in QUIRK_CELLS.items():
        observed[hour, CHANNELS.index(channel)] = value
    x, mask, died = by_subject(dataset)[QUIRK]
    np.testing.assert_array_equal(np.where(mask, x, np.nan), observed)
    assert died == 1

    medians = [entry["train_median"] for entry in dataset.meta.cohort["channels"].values()]
    for channel in range(7):
        last = medians[channel]
        for hour in range(24):
            last = last if np.isnan(observed[hour, channel]) else observed[hour, channel]
            assert x[hour, channel] == np.float32(last), (hour, CHANNELS[channel])


def test_attrition_accounts_for_every_row_and_stay(dataset):
    counts = dict(dataset.meta.cohort["attrition"]["set-a"])
    assert counts == {
        "stays read": 22, "deaths among them": 6, "rows read": 22 * 6 + 20 * 8 + len(QUIRKS),
        "rows without a parameter name": 1,
        "rows with a missing value (-1)": 2 * 22 + 2,
        "rows of other parameters": 4 * 22 + 3,
        "rows after the window": 20 + 3,
        "rows out of range": 7,
        "rows used": 20 * 7 + 17,
        "stays without a vital sign in the window": 1, "stays without a label": 0, "stays kept": 21,
    }
    read = counts["rows read"]
    assert read == sum(count for step, count in counts.items() if step.startswith("rows ") and step != "rows read")


def test_metadata_and_splits(dataset):
    assert dataset.meta.channels == CHANNELS and dataset.meta.name == "cinc2012_mortality"
    assert dataset.meta.classes == ["survived", "died in hospital"]
    assert dataset.shape == (24, 7)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 13, "val": 4, "test": 4}
    assert len(by_subject(dataset)) == 21 and 132700 not in by_subject(dataset)
    for split in dataset.splits.values():
        assert split.subject.dtype == np.int64
        assert ((split.y == 1) == [record in {*range(132539, 132544), QUIRK} for record in split.subject]).all()
    train = dataset.train
    medians = [np.median(train.x[..., channel][train.mask[..., channel]]) for channel in range(7)]
    assert [entry["train_median"] for entry in dataset.meta.cohort["channels"].values()] == medians
    recorded = dataset.meta.cohort["splits"]["train"]
    assert recorded == {"survived": int((train.y == 0).sum()), "died in hospital": int((train.y == 1).sum())}


def test_length_of_stay_over_three_days(published, tmp_path):
    dataset = convert(published, tmp_path / "los", "--label", "length_of_stay")
    labels = {record: y for record, (_, _, y) in by_subject(dataset).items()}
    short = {132545, 132548, 132549, 132550}
    assert 132547 not in labels and len(labels) == 20
    assert {record for record, y in labels.items() if y == 0} == short
    assert dataset.meta.cohort["attrition"]["set-a"]["stays without a label"] == 1


def test_a_window_of_48_hours(published, tmp_path):
    dataset = convert(published, tmp_path / "long", "--hours", "48")
    x, mask, _ = by_subject(dataset)[QUIRK]
    heart_rate = np.where(mask, x, np.nan)[:, 0]
    assert dataset.shape == (48, 7)
    assert {hour: value for hour, value in enumerate(heart_rate) if not np.isnan(value)} == {
        0: 85, 1: 105, 23: 60, 24: 50, 47: 40}
    assert dataset.meta.cohort["attrition"]["set-a"]["rows after the window"] == 1


def test_sets_found_and_sets_asked_for(tmp_path):
    stays, outcomes = cohort()
    shifted = [{record + 50_000: entry for record, entry in table.items()} for table in (stays, outcomes)]
    write_set(tmp_path, stays, outcomes, "zip", "a")
    write_set(tmp_path, *shifted, "tar.gz", "c")
    both = convert(tmp_path, tmp_path / "both")
    assert list(both.meta.cohort["attrition"]) == ["set-a", "set-c"] and len(by_subject(both)) == 42
    last = convert(tmp_path, tmp_path / "last", "--sets", "c", "c")
    assert list(last.meta.cohort["attrition"]) == ["set-c"]
    assert set(by_subject(last)) == {record for record in by_subject(both) if record > 180_000}


def test_line_ends_of_windows_and_foreign_files_change_nothing(tmp_path, dataset):
    folder = write_set(tmp_path, *cohort())
    for path in (folder / "set-a").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (folder / "set-a" / "._132539.txt").write_bytes(b"\0\5\26\7")
    (folder / "set-a" / "README.txt").write_text("notes")
    same = convert(folder, tmp_path / "output")
    assert same.train.fingerprint() == dataset.train.fingerprint()


def test_the_seed_decides_the_split(published, tmp_path, dataset):
    again, other = convert(published, tmp_path / "again"), convert(published, tmp_path / "other", "--seed", "1")
    assert again.train.fingerprint() == dataset.train.fingerprint()
    assert other.train.fingerprint() != dataset.train.fingerprint() and other.meta.cohort["seed"] == 1


in_one_record = partial(replaced_in, "set-a/132541.txt")


def cut_archive(form, kept):
    def damage(folder):
        write_set(folder, *cohort(), form)
        path = folder / f"set-a.{form}"
        content = path.read_bytes()
        path.write_bytes(content[:int(kept * len(content))])
    return damage


def corrupt_tar(folder):
    write_set(folder, *cohort(), "tar.gz")
    path = folder / "set-a.tar.gz"
    stored = gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0)
    path.write_bytes(stored.replace(b"00:07,HR,72", b"00:07,HR,73"))


def bomb(form):
    """A record of 2 MB; what counts is that no more is unpacked."""
    def write(folder):
        stays, outcomes = cohort()
        write_set(folder, {**stays, 132541: ["00:00,HR,60"] * 200_000}, outcomes, form)
    return write


def forget_outcomes_of_one(folder):
    write_outcomes(folder, {record: outcome for record, outcome in cohort()[1].items() if record != 132541})


def repeat_an_outcome(folder):
    with open(folder / "Outcomes-a.txt", "a") as file:
        file.write("132541,6,1,5,-1,0\n")


def empty_every_stay(folder):
    for path in (folder / "set-a").iterdir():
        path.write_text("Time,Parameter,Value\n")


def remove_every_record(folder):
    for path in (folder / "set-a").iterdir():
        path.unlink()


# What is broken, the options besides input and output, and what the message must say.
FAULTS = {
    "large record in a tar": (bomb("tar.gz"), [], "132541.txt: larger than any record of the challenge"),
    "large record in a zip": (bomb("zip"), [], "132541.txt: larger than any record of the challenge"),
    "value": (in_one_record("00:07,HR,72", "00:07,HR,seventy"), [], "132541.txt, line 8: found '00:07,HR,seventy'"),
    "time": (in_one_record("00:07,HR,72", "0h07,HR,72"), [], "132541.txt, line 8: found '0h07,HR,72'"),
    "row cut off": (in_one_record("30:00,HR,172\n", "30:00,H"), [], "132541.txt, line 15"),
    "html record": (web_page("set-a/132541.txt"), [], "132541.txt, line 1: found '<!DOCTYPE html>'"),
    "html archive": (web_page("set-a.tar.gz"), [], "set-a.tar.gz: cannot be read"),
    "html outcomes": (web_page("Outcomes-a.txt"), [], "Outcomes-a.txt, line 1: found '<!DOCTYPE html>'"),
    "tar without its end": (cut_archive("tar.gz", 0.999), [], "set-a.tar.gz: cannot be read"),
    "half a tar": (cut_archive("tar.gz", 0.5), [], "set-a.tar.gz: cannot be read"),
    "corrupt tar": (corrupt_tar, [], "set-a.tar.gz: cannot be read"),
    "half a zip": (cut_archive("zip", 0.5), [], "set-a.zip: cannot be read"),
    "no outcomes": (lambda folder: (folder / "Outcomes-a.txt").unlink(), [], "Outcomes-a.txt: file not found"),
    "no outcome of one": (forget_outcomes_of_one, [], "record 132541 has no row in Outcomes-a.txt"),
    "two outcomes of one": (repeat_an_outcome, [], "record 132541 has more than one row"),
    "the same set twice": (lambda folder: write_set(folder, *cohort(), "zip", "b"), [],
                           "record 132539 occurs more than once"),
    "no stay left": (empty_every_stay, [], "no stay is left"),
    "no record": (remove_every_record, [], "no record found"),
    "no set": (lambda folder: shutil.rmtree(folder / "set-a"), [], "no set found"),
    "set not there": (lambda folder: None, ["--sets", "a", "b"], "set b not found"),
}


def faulty(fault, folder):
    """Make the faulty input below a folder and return the arguments of the command."""
    damage, options, _ = FAULTS[fault]
    damage(write_set(folder / "input", *cohort()))
    return ["--input", str(folder / "input"), "--output", str(folder / "output"), *options]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_input_is_one_message_and_no_output(tmp_path, refusal, fault):
    assert FAULTS[fault][2] in refusal(cinc2012.main, *faulty(fault, tmp_path))


def test_a_fault_in_the_shell_ends_with_code_2(tmp_path):
    command = [sys.executable, "-m", "data_preprocess.cinc2012", *faulty("no stay left", tmp_path)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and "error: no stay is left" in run.stderr and "Traceback" not in run.stderr
    assert not (tmp_path / "output").exists()


# The oracle: one stay and one parameter at a time in plain pandas, with its own copy of the rules.
BOUNDS = {"HR": "0 < Value < 300", "SBP": "0 < Value < 400", "DBP": "0 < Value < 300", "MBP": "0 < Value < 300",
          "RR": "0 < Value < 70", "Temp": "10 < Value < 50", "SpO2": "0 < Value <= 100"}
CHOICES = {"HR": ["HR"], "SBP": ["SysABP", "NISysABP"], "DBP": ["DiasABP", "NIDiasABP"], "MBP": ["MAP", "NIMAP"],
           "RR": ["RespRate"], "Temp": ["Temp"], "SpO2": ["SaO2"]}


def oracle(text):
    """Return the hourly means (24, 7) of one record, NaN where unobserved."""
    rows = pd.read_csv(io.StringIO(text))
    rows["hour"] = rows["Time"].str.split(":").str[0].astype(int)
    cells = pd.DataFrame(index=range(24), columns=CHANNELS, dtype=float)
    for channel, choices in CHOICES.items():
        for parameter in choices:
            valid = rows[rows["Parameter"] == parameter].query(BOUNDS[channel])
            cells[channel] = cells[channel].fillna(valid.groupby("hour")["Value"].mean())
    return cells.to_numpy()


def test_real_stays_agree_with_the_oracle(shared_data, tmp_path, capsys):
    source = shared_data / "cinc2012"
    if not (source / "set-a.tar.gz").is_file():
        pytest.skip(f"no set-a.tar.gz in {source}")
    dataset = convert(source, tmp_path / "real", "--sets", "a")
    assert "warning" not in capsys.readouterr().err

    counts = dataset.meta.cohort["attrition"]["set-a"]
    assert (counts["stays read"], counts["deaths among them"], counts["rows read"]) == (4000, 554, 1_757_980)
    outcomes = pd.read_csv(source / "Outcomes-a.txt", index_col="RecordID")
    stays = by_subject(dataset)
    assert len(stays) == counts["stays kept"] == 4000 - counts["stays without a vital sign in the window"]
    assert all(y == outcomes["In-hospital_death"][record] for record, (_, _, y) in stays.items())

    chosen = set(np.random.default_rng(0).choice(outcomes.index, 50, replace=False).tolist())
    train = dataset.train
    medians = [np.median(train.x[..., channel][train.mask[..., channel]]) for channel in range(7)]
    with tarfile.open(source / "set-a.tar.gz") as archive:
        texts = {int(Path(entry.name).stem): archive.extractfile(entry).read().decode()
                 for entry in archive if entry.isfile() and int(Path(entry.name).stem) in chosen}
    assert texts.keys() == chosen
    for record, text in texts.items():
        cells = oracle(text)
        if np.isnan(cells).all():
            assert record not in stays
            continue
        x, mask, _ = stays[record]
        np.testing.assert_array_equal(mask, ~np.isnan(cells), err_msg=str(record))
        filled = pd.DataFrame(cells).ffill().fillna(dict(enumerate(medians))).to_numpy()
        np.testing.assert_allclose(x, filled, rtol=1e-6, err_msg=str(record))


@pytest.fixture(scope="module")
def challenge(tmp_path_factory):
    """Of 21 stays with vital signs those of even numbers are medical, one has no type."""
    folder = write_set(tmp_path_factory.mktemp("challenge"), *cohort())
    for path in (folder / "set-a").glob("*.txt"):
        kind = "-1" if path.stem == "132550" else "3" if int(path.stem) % 2 == 0 else "2"
        path.write_text(path.read_text().replace("00:00,ICUType,4", f"00:00,ICUType,{kind}"))
    return folder


def test_from_surgical_to_medical_stays(challenge, tmp_path, capsys, check_composed):
    dataset = convert(challenge, tmp_path / "out", "--source", "ICUType in (2, 4)", "--target", "ICUType in (3)")
    sizes = check_composed(dataset, lambda record: record % 2 == 0)
    assert sizes == (6, 2, 2) and len(dataset.train) == 10
    assert 132550 not in [*dataset.val.subject, *dataset.test.subject]
    found = dataset.meta.cohort["target"]
    assert (found["target"], found["rows of the target"], found["rows of neither"]) == ("ICUType in (3)", 10, 1)
    assert dataset.meta.cohort["command"]["target"] == "ICUType in (3)"
    assert "rows of neither" in capsys.readouterr().out
    medians = [np.median(dataset.train.x[..., channel][dataset.train.mask[..., channel]]) for channel in range(7)]
    assert dataset.meta.imputation.medians == medians  # Of the source alone.
    others = convert(challenge, tmp_path / "others", "--target", "ICUType = 3 and Age >= 54")
    assert len(others.train) == 11


@pytest.mark.parametrize(("options", "expected"), [
    (["--target", "Ward = 3"], "column 'ward' of a condition is not there; there are age, gender"),
    (["--source", "ICUType = 3"], "--source: needs --target"),
    (["--target", "ICUType = 3", "--source", "ICUType > 1"], "10 rows are of --source and of --target"),
    (["--target", "ICUType = 9"], "no row is of the target"),
    (["--target", "ICUType > 0 and Age > 1", "--source", "ICUType > 8"], "no row is of the source"),
])
def test_what_cannot_be_divided_is_one_message(challenge, tmp_path, refusal, options, expected):
    assert expected in refusal(cinc2012.main, "--input", challenge, "--output", tmp_path / "out", *options)
