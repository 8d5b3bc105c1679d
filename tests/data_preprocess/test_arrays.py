"""Your own arrays: every form reads back cell by cell, archives have their published facts, and what is refused."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_preprocess import arrays, own_data
from tardiff.data.format import read_dataset
from tardiff.utils.errors import UserError

N, L, C = 40, 6, 3
X = np.random.default_rng(0).normal(size=(N, L, C)).astype(np.float32)
Y = np.arange(N) % 4 // 3  # a quarter of class 1
SUBJECT = np.arange(N) // 2
IDS = np.array([f"0{row}" for row in range(N)])
PARTS = {"train": slice(0, 20), "val": slice(20, 30), "test": slice(30, 40)}


def convert(source, output, *options):
    arrays.main(["--input", str(source), "--output", str(output), *options])
    return read_dataset(output)


def rows_of(dataset):
    """Return {row of X: (y, name of its split)}, found by the content of the series."""
    rows = {x.tobytes(): row for row, x in enumerate(X)}
    return {rows[x.tobytes()]: (int(y), name) for name, split in dataset.splits.items()
            for x, y in zip(split.x, split.y, strict=True)}


def dump(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))


def write_whole(folder, form):
    """Write X, Y in one form, undivided; return what --input should be and further options."""
    folder.mkdir()
    if form == "npz":
        np.savez(folder / "stays.npz", X=X.astype(np.float64), y=Y.astype(np.int8))
    elif form == "npy":
        np.save(folder / "X.npy", X)
        np.save(folder / "y.npy", Y[:, None].astype(float))
    elif form == "channels first":
        np.savez(folder / "stays.npz", x=X.transpose(0, 2, 1), y=Y)
        return folder / "stays.npz", ["--channels-first"]
    else:
        dump(folder / "tuple.pkl", (X.transpose(0, 2, 1), Y.astype(bool)), protocol=5)
        return folder / "tuple.pkl", ["--channels-first"]
    return folder, []


@pytest.mark.parametrize("form", ["npz", "npy", "channels first", "pickle"])
def test_every_form_of_undivided_data_reads_back(tmp_path, form):
    source, options = write_whole(tmp_path / "in", form)
    dataset = convert(source, tmp_path / "out", *options, "--ratios", "0.5", "0.25", "0.25")
    rows = rows_of(dataset)
    assert {row: y for row, (y, _) in rows.items()} == dict(enumerate(Y.tolist()))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 20, "val": 10, "test": 10}
    assert dataset.meta.channels == ["channel 1", "channel 2", "channel 3"] and dataset.meta.name == "out"
    assert dataset.meta.units == ["unknown"] * 3 and dataset.train.subject is None and dataset.train.mask is None


def write_given(folder, form, names=PARTS):
    folder.mkdir()
    for name in names:
        x, y, subject, ids = X[PARTS[name]], Y[PARTS[name]], SUBJECT[PARTS[name]], IDS[PARTS[name]]
        if form == "npz":
            np.savez(folder / f"{name}.npz", x=x, y=y, subject=subject, id=ids)
        elif form == "npy":
            for array, values in (("X", x), ("y", y), ("subject", subject), ("id", ids)):
                np.save(folder / f"{array}_{name}.npy", values)
        else:
            dump(folder / f"{name}_tuple.pkl", (x, y))
    return folder


@pytest.mark.parametrize("form", ["npz", "npy", "pickle"])
def test_given_splits_are_kept(tmp_path, form):
    dataset = convert(write_given(tmp_path / "in", form), tmp_path / "out")
    for name, rows in PARTS.items():
        np.testing.assert_array_equal(dataset.splits[name].x, X[rows])
        np.testing.assert_array_equal(dataset.splits[name].y, Y[rows])
        if form != "pickle":
            np.testing.assert_array_equal(dataset.splits[name].subject, SUBJECT[rows])
            np.testing.assert_array_equal(dataset.splits[name].id, IDS[rows])


def test_probabilities_stay_with_their_rows(tmp_path, capsys):
    p = np.random.default_rng(1).dirichlet([1, 1], N)
    np.savez(tmp_path / "stays.npz", x=X, y=Y, p=p)
    dataset = convert(tmp_path / "stays.npz", tmp_path / "out")
    rows = {x.tobytes(): row for row, x in enumerate(X)}
    for split in dataset.splits.values():
        np.testing.assert_array_equal(split.p, p[[rows[x.tobytes()] for x in split.x]].astype(np.float32))
    np.savez(tmp_path / "stays.npz", x=X, y=Y, p=p[:, 0])
    with pytest.raises(SystemExit):
        convert(tmp_path / "stays.npz", tmp_path / "other")
    assert "array p is (40,) float64; expected a probability of each class, (40, K)" in capsys.readouterr().err


def test_validation_is_cut_from_train_by_subject(tmp_path):
    dataset = convert(write_given(tmp_path / "in", "npz", ("train", "test")), tmp_path / "out", "--val-ratio", "0.3")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 14, "val": 6, "test": 10}
    assert sorted([*dataset.train.subject, *dataset.val.subject]) == SUBJECT[:20].tolist()
    assert not set(dataset.train.subject) & set(dataset.val.subject)


def test_undivided_data_are_split_by_subject(tmp_path):
    subject = np.array([f"p{n}" for n in SUBJECT])
    np.savez(tmp_path / "stays.npz", x=X, y=Y, subject=subject)
    dataset = convert(tmp_path / "stays.npz", tmp_path / "out")
    row_of, sides = {x.tobytes(): row for row, x in enumerate(X)}, {}
    for name, split in dataset.splits.items():
        for x, own in zip(split.x, split.subject, strict=True):
            assert subject[row_of[x.tobytes()]] == own
            sides.setdefault(str(own), set()).add(name)
    assert len(sides) == 20 and all(len(names) == 1 for names in sides.values())


def test_one_channel_metadata_and_labels_that_are_not_0_to_k(tmp_path):
    np.savez(tmp_path / "stays.npz", x=X[..., 0], y=np.where(Y == 1, 10, -1))
    dataset = convert(tmp_path / "stays.npz", tmp_path / "out", "--channels", "HR", "--units", "bpm", "--interval",
                      "1 hour",
                      "--name", "mine", "--licence", "CC0")
    meta = dataset.meta
    assert (meta.channels, meta.units, meta.classes, meta.sampling_interval, meta.name, meta.licence, meta.source) == (
        ["HR"], ["bpm"], ["-1", "10"], "1 hour", "mine", "CC0", "stays.npz")
    assert dataset.shape == (L, 1) and dataset.train.y.sum() > 0
    names = convert(tmp_path / "stays.npz", tmp_path / "named", "--classes", " -1=alive", "10=died").meta.classes
    assert names == ["alive", "died"]


def test_missing_values_are_filled_and_masked_where_asked(tmp_path):
    x, mask = X.copy(), np.ones(X.shape, dtype=bool)
    x[3, 2:4, 1] = np.nan
    mask[5, 1, 0] = False
    np.savez(tmp_path / "stays.npz", x=x, y=Y, mask=mask.astype(np.int8))
    dataset = convert(tmp_path / "stays.npz", tmp_path / "out", "--impute", "linear")
    found = {bool_row.tobytes(): None for split in dataset.splits.values() for bool_row in split.mask
             if not bool_row.all()}
    assert len(found) == 2 and sum((~split.mask).sum() for split in dataset.splits.values()) == 3
    for split in dataset.splits.values():
        for series, observed in zip(split.x, split.mask, strict=True):
            row = int(np.abs(X[:, 5] - series[5]).sum(axis=1).argmin())
            np.testing.assert_array_equal(series[observed], X[row][observed])
            if row == 3:
                rise = X[3, 4, 1] - X[3, 1, 1]
                np.testing.assert_allclose(series[2:4, 1], X[3, 1, 1] + rise * np.array([1, 2]) / 3, rtol=1e-5)
            if row == 5:
                np.testing.assert_allclose(series[1, 0], (X[5, 0, 0] + X[5, 2, 0]) / 2, rtol=1e-5)


@pytest.mark.parametrize("options", [["--missing", "-32768"], ["--range", "channel 2=-500:500"]])
def test_codes_of_missing_values_are_warned_of_and_left_out_where_they_are_named(tmp_path, capsys, refusal, options):
    x = np.random.default_rng(0).integers(-500, 500, X.shape).astype(np.int16)
    x[::5, 2, 1] = -32768
    np.savez(tmp_path / "wfdb.npz", x=x, y=Y)
    convert(tmp_path / "wfdb.npz", tmp_path / "out")
    printed = capsys.readouterr()
    assert "40 series of 6 steps x 3 channels" in printed.out and "-32768" in printed.out
    assert printed.err.count("warning: channel") == 1 and "channel 2: -32768 stands 8 times" in printed.err
    message = refusal(arrays.main, "--input", tmp_path / "wfdb.npz", "--output", tmp_path / "none", *options)
    assert "x at row 0, step 2, channel 1 is -32768.0, which is to be missing" in message and "--impute" in message
    dataset = convert(tmp_path / "wfdb.npz", tmp_path / "filled", *options, "--impute", "linear")
    assert "warning: channel" not in capsys.readouterr().err
    assert sum((~split.mask).sum() for split in dataset.splits.values()) == 8 and dataset.train.x.min() >= -500


def test_classes_are_left_out_where_they_are_named(tmp_path):
    np.savez(tmp_path / "stays.npz", x=X, y=np.where(np.arange(N) < 3, 7, Y))
    dataset = convert(tmp_path / "stays.npz", tmp_path / "out", "--drop-class", "7")
    assert dataset.meta.classes == ["0", "1"]
    assert {row: y for row, (y, _) in rows_of(dataset).items()} == dict(enumerate(Y.tolist()[3:], start=3))


def test_more_channels_than_steps_are_asked_about(tmp_path, refusal):
    np.savez(tmp_path / "ecg.npz", x=X.transpose(0, 2, 1), y=Y)
    message = refusal(arrays.main, "--input", tmp_path / "ecg.npz", "--output", tmp_path / "out")
    assert "that is 3 steps of 6 channels" in message and "--channels-first" in message
    assert convert(tmp_path / "ecg.npz", tmp_path / "first", "--channels-first").shape == (6, 3)
    assert convert(tmp_path / "ecg.npz", tmp_path / "last", "--channels-last").shape == (3, 6)


def test_a_mask_without_imputation_is_kept_as_it_is(tmp_path):
    x, mask = X.copy(), np.ones(X.shape, dtype=bool)
    x[:, 0, 0], mask[:, 0, 0] = np.nan, False
    np.savez(tmp_path / "stays.npz", x=x, y=Y, mask=mask)
    dataset = convert(tmp_path / "stays.npz", tmp_path / "out")
    assert np.isnan(dataset.train.x[:, 0, 0]).all() and not dataset.train.mask[:, 0, 0].any()


def test_equal_series_in_two_splits_are_warned_of_unless_subjects_are_known(tmp_path, capsys):
    for name, rows in PARTS.items():
        x = X[rows].copy()
        x[0] = X[0]
        np.savez(tmp_path / f"{name}.npz", x=x, y=Y[rows])
    convert(tmp_path, tmp_path / "out")
    assert "warning: 1 series stand both in train and in test" in capsys.readouterr().err
    for name, rows in PARTS.items():
        np.savez(tmp_path / f"{name}.npz", x=np.repeat(X[:1], 10, axis=0), y=Y[:10], subject=np.arange(N)[rows][:10])
    convert(tmp_path, tmp_path / "known")
    assert "warning" not in capsys.readouterr().err


TS = """# a comment
@problemName Two
@timeStamps false
@missing true
@univariate false
@dimensions 2
@equalLength true
@seriesLength 3
@classLabel true rest move
@data
1,2,3:-.5,1e1,0.25:move
4,5,6:7,?,9:rest
"""


def write_ts(folder, test):
    train = TS.replace("@data\n", "@data\n0,0,0:0,0,0:rest\n0,1,0:0,2,0:move\n").replace("?", "8")
    (folder / "Two_TRAIN.ts").write_text(train)
    (folder / "Two_TEST.ts").write_text(test)
    return folder


def test_a_ts_file_by_hand(tmp_path):
    dataset = convert(write_ts(tmp_path, TS.replace("4,5", "40,50")), tmp_path / "out", "--impute", "linear",
                      "--val-ratio", "0.5")
    assert dataset.meta.classes == ["move", "rest"] and dataset.shape == (3, 2)
    np.testing.assert_array_equal(dataset.test.x, [[[1, -.5], [2, 10], [3, .25]], [[40, 7], [50, 8], [6, 9]]])
    assert dataset.test.y.tolist() == [0, 1] and dataset.test.mask.sum() == 11


def test_a_comment_may_be_of_another_encoding(tmp_path):
    write_ts(tmp_path, TS)
    for path in tmp_path.glob("*.ts"):
        path.write_bytes(path.read_bytes().replace(b"# a comment", b"# 10 \x96 12"))
    assert convert(tmp_path, tmp_path / "out", "--impute", "median", "--val-ratio", "0.5").shape == (3, 2)


def test_a_tsv_file_by_hand(tmp_path):
    text = "\n".join(f"{label}\t{value}\t{value + 1}\t-.5e1" for value, label in enumerate([1, -1, -1, 1, 1, -1]))
    (tmp_path / "Beat_TRAIN.tsv").write_text(text)
    (tmp_path / "Beat_TEST.tsv").write_text("-1.0000e+00\t7\t8\t9\r\n1\t1\t2\t3\r\n")
    dataset = convert(tmp_path, tmp_path / "out", "--val-ratio", "0.5")
    assert dataset.meta.classes == ["-1", "1"] and dataset.shape == (3, 1)
    np.testing.assert_array_equal(dataset.test.x[..., 0], [[7, 8, 9], [1, 2, 3]])
    assert dataset.test.y.tolist() == [0, 1] and len(dataset.train) + len(dataset.val) == 6


@pytest.mark.parametrize(("name", "shape", "sizes", "classes", "suffix", "separator"), [
    ("FingerMovements", (50, 28), (316, 100), ["left", "right"], "ts", ":"),
    ("ECG200", (96, 1), (100, 100), ["0", "1"], "tsv", "\t"),
])
def test_published_archives(shared_data, tmp_path, name, shape, sizes, classes, suffix, separator):
    source = shared_data / "ucr_uea" / name
    if not source.is_dir():
        pytest.skip(f"no {source}")
    dataset = convert(source, tmp_path / name)
    assert dataset.shape == shape and dataset.meta.classes == classes
    assert (len(dataset.train) + len(dataset.val), len(dataset.test)) == sizes
    assert len(dataset.val) == round(0.2 * sizes[0])
    lines = (source / f"{name}_TEST.{suffix}").read_text().splitlines()[-sizes[1]:]
    for row in (0, 41, 99):
        cells = lines[row].split(separator)
        cells, label = ([cells[1:]], cells[0]) if suffix == "tsv" else ([c.split(",") for c in cells[:-1]], cells[-1])
        np.testing.assert_array_equal(dataset.test.x[row].T, np.array(cells, dtype=float).astype(np.float32))
        assert classes[dataset.test.y[row]] == label


def savez(**changed):
    return lambda folder: np.savez(folder / "stays.npz", **{"x": X, "y": Y, **changed})


def with_value(value, **changed):
    x = X.astype(np.float64)
    x[7, 2, 1] = value
    return savez(x=x, **changed)


def give(**parts):
    """Write train, val and test with subjects, and some of them otherwise."""
    def write(folder):
        for name, rows in PARTS.items():
            np.savez(folder / f"{name}.npz",
                     **{"x": X[rows], "y": Y[rows], "subject": SUBJECT[rows], **parts.get(name, {})})
    return write


def ts(old, new):
    assert old in TS
    return lambda folder: write_ts(folder, test=TS.replace(old, new))


def raw(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def huge_npy(folder):
    np.save(folder / "x.npy", X)
    content = (folder / "x.npy").read_bytes()
    assert b"(40, 6, 3), }   " in content
    (folder / "x.npy").write_bytes(content.replace(b"(40, 6, 3), }   ", b"(9999999999,), }"))


def shape_of_terabytes(folder):
    with zipfile.ZipFile(folder / "stays.npz", "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 6, 1)})


FAULTS = {
    "shape of terabytes": (shape_of_terabytes, [], "stays.npz: not a readable .npz or .npy file"),
    "empty folder": (lambda folder: None, [], "no data found"),
    "two files": (lambda folder: (savez()(folder), np.savez(folder / "more.npz", x=X, y=Y)), [],
                  "more.npz, stays.npz. Keep"),
    "one of no split": (lambda folder: (savez()(folder), np.savez(folder / "test.npz", x=X, y=Y)), [],
                        "belongs to no split"),
    "no train": (lambda folder: np.savez(folder / "test.npz", x=X, y=Y), [], "no file named train"),
    "npy twice": (lambda folder: (np.save(folder / "x.npy", X), np.save(folder / "x_2.npy", X)), [],
                  "x_2.npy: expected"),
    "npy alone": (lambda folder: np.save(folder / "x.npy", X), [], "array y missing"),
    "x has 4 axes": (savez(x=X[..., None]), [], "array x is (40, 6, 3, 1)"),
    "x is complex": (savez(x=X.astype(complex)), [], "complex"),
    "x is empty": (savez(x=X[:0], y=Y[:0]), [], "empty, x is (0, 6, 3)"),
    "y too short": (savez(y=Y[:-1]), [], "expected a whole number or text for each of the 40 rows"),
    "one-hot y": (savez(y=np.eye(2)[Y]), [], "array y is (40, 2)"),
    "subject too short": (savez(subject=SUBJECT[:3]), [], "array subject is (3,)"),
    "id is a fraction": (savez(id=SUBJECT / 2), [], "array id is (40,) float64"),
    "id twice": (savez(id=SUBJECT), [], "array id, row 1: '0' stands in row 0 as well (20 such rows)"),
    "mask of another shape": (savez(mask=np.ones((N, L))), [], "array mask is (40, 6)"),
    "mask of other values": (savez(mask=X), [], "array mask is (40, 6, 3) float32"),
    "NaN": (with_value(np.nan), [], "x at row 7, step 2, channel 1 is nan"),
    "NaN that is observed": (with_value(np.nan, mask=np.ones(X.shape, dtype=bool)), [],
                             "row 7, step 2, channel 1 is nan"),
    "infinite": (with_value(-np.inf), ["--impute", "median"], "row 7, step 2, channel 1 is -inf"),
    "too large for float32": (with_value(1e300), [], "is inf, not a finite number in float32"),
    "fraction as label": (savez(y=Y + 0.5), [], "label '0.5' is not a whole number"),
    "infinite label": (savez(y=np.where(Y, np.inf, 1)), [], "label 'inf' is not a whole number"),
    "one class": (savez(y=Y * 0), [], "every row has the label '0'"),
    "class names": (savez(), ["--classes", "1"], "--classes 1: label '0' is not there"),
    "channel names": (savez(), ["--channels", "HR"], "3 channels, but --channels has 1 entries"),
    "subjects of some splits only": (lambda folder: (give()(folder), np.savez(folder / "test.npz", x=X[30:], y=Y[30:])),
                                     [],
                                     "test without subjects, while the other splits have them"),
    "unknown array": (savez(patient=SUBJECT), [],
                      "stays.npz: array 'patient' is unknown or there twice; expected x, y"),
    "array twice": (savez(X=X), [], "is unknown or there twice"),
    "class names twice": (savez(), ["--classes", "0=a", "1=a"], "a label or a name is there twice"),
    "shapes differ": (give(test={"x": X[PARTS["test"], :4]}), [], "splits differ in (length, channels)"),
    "archive named npy": (lambda folder: (savez()(folder), (folder / "stays.npz").rename(folder / "x.npy")), [],
                          "x.npy: not a readable .npz or .npy file"),
    "array named npz": (lambda folder: (np.save(folder / "x.npy", X), (folder / "x.npy").rename(folder / "stays.npz")),
                        [],
                        "a single array"),
    "huge header": (huge_npy, [], "x.npy: not a readable .npz or .npy file"),
    "hostile pickle": (lambda folder: dump(folder / "train.pkl", (X, print)), [], "print. Nothing in it was run"),
    "three arrays": (lambda folder: dump(folder / "train.pkl", (X, Y, Y)), [], "holds 3 arrays"),
    "ts: channels": (ts("4,5,6:7,?,9:rest", "4,5,6:rest"), [], "Two_TEST.ts, line 12: 1 channels and a class"),
    "ts: class": (ts(":move", ":jump"), [], "line 11: class 'jump' is not one of @classLabel: rest, move"),
    "ts: number": (ts("1e1", "ten"), [], "line 11, value 2 of the series: 'ten' is not a number"),
    "ts: lengths": (ts("4,5,6", "4,5"), [], "series 2, channel 1 has 2 values, the first has 3"),
    "ts: missing": (ts("@missing true", "@missing false"), [], "Two_TEST.ts: x at row 1, step 1, channel 1 is nan"),
    "ts: time stamps": (ts("@timeStamps false", "@timeStamps true"), [], "@timeStamps true"),
    "ts: no classes": (ts("@classLabel true rest move", "@targetLabel true"), [], "expected @classLabel true"),
    "ts: no @data": (ts("@data\n", ""), [], "line 10: found '1,2,3"),
    "ts: no series": (ts(TS[TS.index("1,2,3:"):], ""), [], "Two_TEST.ts: no series in it"),
    "ts: web page": (lambda folder: write_ts(folder, test="<html>"), [], "line 1: found '<html>'"),
    "tsv: commas": (raw("a.tsv", b"1,2,3\n0,2,3\n"), [], "a.tsv, line 1: found '1,2,3'"),
    "tsv: binary": (raw("a.tsv", b"\xff\xfe1\t2"), [], "a.tsv, line 1: not UTF-8 text"),
    "val ratio": (lambda folder: (give()(folder), (folder / "val.npz").unlink()), ["--val-ratio", "0"],
                  "positive shares"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_message_and_no_output(tmp_path, refusal, fault):
    damage, options, expected = FAULTS[fault]
    (tmp_path / "in").mkdir()
    damage(tmp_path / "in")
    assert expected in refusal(arrays.main, "--input", tmp_path / "in", "--output", tmp_path / "out", *options)


@pytest.mark.parametrize("name", ["x.npy", "stays.txt"])
def test_a_file_of_another_form_is_named(tmp_path, refusal, name):
    Path(tmp_path / name).write_text("")
    message = refusal(arrays.main, "--input", tmp_path / name, "--output", tmp_path / "out")
    assert f"{name}: expected .npz, .pkl, .ts or .tsv" in message


def encoded(labels, given=None):
    """The class name of each label, and all class names in order."""
    y, classes = own_data.encode_labels(np.array(labels), given, "here")
    return [classes[number] for number in y], classes


def test_class_names_are_the_labels_in_another_order_or_given_label_by_label():
    labels = ["late", "early", "late"]
    assert encoded(labels) == (labels, ["early", "late"])
    assert encoded(labels, ["late", "early"]) == (labels, ["late", "early"])
    assert encoded(labels, ["late=early", "early=late"]) == (["early", "late", "early"], ["early", "late"])
    assert encoded(labels, ["early", "late=soon"]) == (["soon", "early", "soon"], ["early", "soon"])
    assert encoded(["a", "a=b"], ["a=b", "a=c"]) == (["c", "a=b"], ["a=b", "c"])


@pytest.mark.parametrize("names", [["survived", "Died"], ["lived", "dead"], ["died"], ["died", "died", "survived"],
                                   ["died=x", "survived=x"]])
def test_class_names_that_leave_open_whose_they_are_are_refused(names):
    with pytest.raises(UserError, match="--classes"):
        encoded(["died", "survived"], names)


def test_text_and_numbers_that_are_not_one_to_one_stay_apart():
    assert encoded(["389", "0389", "410"])[1] == ["0389", "389", "410"]
    assert encoded(["1e2", "100"])[1] == ["100", "1e2"]
    assert encoded(["V30", "389", "41"])[1] == ["389", "41", "V30"]
    assert encoded(["10", "9", "-1"])[1] == ["-1", "9", "10"]
    assert encoded(["1.0", "0.0"])[1] == ["0", "1"] and encoded(["1.0", "1"])[1] == ["1", "1.0"]
    assert encoded(["007", "011"])[1] == ["007", "011"]


@pytest.mark.parametrize("seed", range(20))
def test_every_label_keeps_a_class_of_its_own(seed):
    """Random codes: as many classes as distinct texts, each row in that of its text, names told apart."""
    generator = np.random.default_rng(seed)
    alphabet = "01e.V" if seed % 2 else "0123456789"
    codes = {"".join(generator.choice(list(alphabet), size=generator.integers(1, 5))) for _ in range(12)}
    labels = np.array(sorted(codes))[generator.integers(len(codes), size=80)]
    try:
        y, classes = own_data.encode_labels(labels, None, "here")
    except UserError as error:
        assert "is not a whole number" in str(error)
        return
    assert len(set(classes)) == len(classes) == len(set(labels.tolist()))
    assert len({(label, number) for label, number in zip(labels.tolist(), y.tolist(), strict=True)}) == len(classes)


def test_integers_keep_all_their_digits(tmp_path):
    large = np.array([2**53, 2**53 + 1], dtype=np.uint64)
    for name, rows in PARTS.items():
        y = large[Y[rows]]
        np.savez(tmp_path / f"{name}.npz", x=X[rows], y=y if name == "train" else y.astype(np.int64))
    assert convert(tmp_path, tmp_path / "out").meta.classes == ["9007199254740992", "9007199254740993"]


def test_the_positive_class_is_the_rarest_or_the_one_named(tmp_path, refusal):
    np.savez(tmp_path / "stays.npz", x=X, y=np.where(Y, "died", "survived"))
    dataset = convert(tmp_path / "stays.npz", tmp_path / "rarest")
    assert (dataset.meta.classes, dataset.meta.positive, dataset.positive) == (["died", "survived"], "died", 0)
    named = convert(tmp_path / "stays.npz", tmp_path / "named", "--classes", "died=dead", "survived", "--positive",
                    "survived")
    assert (named.meta.classes, named.meta.positive, named.positive) == (["dead", "survived"], "survived", 1)
    message = refusal(arrays.main, "--input", tmp_path / "stays.npz", "--output", tmp_path / "out", "--positive",
                      "dead")
    assert "--positive 'dead': expected one of the classes died, survived" in message


def test_an_archive_larger_than_the_memory_is_not_unpacked(tmp_path, monkeypatch, refusal):
    np.savez_compressed(tmp_path / "stays.npz", x=np.zeros((N, 5000, 10)), y=Y)
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 1000, "SC_PHYS_PAGES": 1000}[name])
    message = refusal(arrays.main, "--input", tmp_path / "stays.npz", "--output", tmp_path / "out")
    assert "more than the memory of this machine" in message


def test_an_interval_that_is_none_is_refused(tmp_path, refusal):
    message = refusal(arrays.main, "--input", tmp_path, "--output", tmp_path / "out", "--interval", "weekly")
    assert message.startswith("--interval weekly: expected a time such as 10 ms")
