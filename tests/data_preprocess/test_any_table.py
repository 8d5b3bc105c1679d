"""What holds of any table of your own: encodings, line ends, names and the order of rows."""

import shlex

import numpy as np
import pandas as pd
import pytest
from user_errors import run_command

from tardiff.data.format import read_dataset
from tardiff.utils.checkpoint import read_json

LENGTH = 3
IDS = [f"Zoë {number:02}" for number in range(12)]
LABELS = dict(zip(IDS, ["gestorben, früh", "lebt"] * 6, strict=True))
CHANNELS = ["HR", "it's", 'a "b"', "a, b", "$HOME", "${name}", "`x`", "%d {0}", "a;b|c\\d", "HR=1", "-x", "--step",
            "#1", "=SUM(A1)", "Größe (µmol/l)", "心拍数", "x" * 300, "two  spaces", "Null count", "count(*)"]


def values(channels):
    """A long table: what stands at (id, step, channel) tells all three."""
    rows = [(stay, step, channel, 10_000 * number + 100 * step + place) for number, stay in enumerate(IDS)
            for step in range(LENGTH) for place, channel in enumerate(channels)]
    return pd.DataFrame(rows, columns=["id", "time", "variable", "value"])


def write(folder, measured, wide=False, encoding="utf-8", end="\n", order=None):
    """Write the tables as CSV; order: a generator that shuffles the rows of both."""
    folder.mkdir()
    table = measured
    if wide:
        table = measured.pivot(index=["id", "time"], columns="variable", values="value").reset_index()
    labels = pd.DataFrame({"id": IDS, "label": list(LABELS.values())})
    for name, rows in (("vitals", table), ("labels", labels)):
        if order is not None:
            rows = rows.iloc[order.permutation(len(rows))]
        text = rows.to_csv(index=False, lineterminator=end)
        (folder / f"{name}.csv").write_bytes(text.encode(encoding))
    return folder


def convert(folder, output, *options):
    return run_command("convert", "tables", "--input", str(folder / "vitals.csv"), "--labels",
                       str(folder / "labels.csv"), "--time-unit", "h", "--length", str(LENGTH), "--memory-limit",
                       "500MB", "--output", str(output), *options)


def check(dataset, channels):
    """Check that every cell, label and id stands where it belongs."""
    assert dataset.meta.channels == channels and dataset.meta.classes == sorted(set(LABELS.values()))
    found = [stay for split in dataset.splits.values() for stay in split.id.tolist()]
    assert sorted(found) == IDS
    for split in dataset.splits.values():
        number = np.array([IDS.index(stay) for stay in split.id])[:, None, None]
        expected = 10_000 * number + 100 * np.arange(LENGTH)[:, None] + np.arange(len(channels))
        np.testing.assert_array_equal(split.x, expected)
        assert [dataset.meta.classes[label] for label in split.y] == [LABELS[stay] for stay in split.id]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"])
def test_any_encoding_is_read_as_it_is_or_refused_in_one_message(tmp_path, capfd, encoding, end):
    folder = write(tmp_path / "in", values(["HR", "Größe"]), encoding=encoding, end=end)
    code = convert(folder, tmp_path / "out", "--channels", "HR", "Größe")
    said = capfd.readouterr().err
    if code == 0:
        check(read_dataset(tmp_path / "out"), ["HR", "Größe"])
        assert encoding.startswith("utf-8")
    else:
        assert said.count("error: ") == 1 and "Traceback" not in said and len(said) < 1000, said
        assert "UTF-8" in said or "line end" in said or "text table" in said, said
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wide", [False, True])
def test_channels_of_any_name_keep_it_through_tables_and_back(tmp_path, wide):
    folder = write(tmp_path / "in", values(CHANNELS), wide)
    assert convert(folder, tmp_path / "out", "--layout", "wide" if wide else "long") == 0
    dataset = read_dataset(tmp_path / "out")
    order = [CHANNELS.index(name) for name in dataset.meta.channels]
    assert sorted(order) == list(range(len(CHANNELS)))
    # The names are channels in another order; the values still tell whose they are.
    assert all((split.x[0, 0] % 100 == order).all() for split in dataset.splits.values())
    for form in ("wide", "long"):
        tables = tmp_path / f"tables-{form}"
        assert run_command("export", "--input", str(tmp_path / "out"), "--output", str(tables), "--form", form,
                           "--format", "parquet") == 0
        command = shlex.split(read_json(tables / "export.json")["read_back"])
        back = tmp_path / f"back-{form}"
        assert run_command("convert", *command[2:command.index("--output")], "--output", str(back)) == 0
        again = read_dataset(back)
        assert again.meta.channels == dataset.meta.channels
        for name, split in dataset.splits.items():
            assert again.splits[name].fingerprint(with_ids=True) == split.fingerprint(with_ids=True)


@pytest.mark.parametrize("wide", [False, True])
def test_the_order_of_rows_does_not_matter(tmp_path, wide):
    whole = values(["HR", "Temp"])
    gaps = whole[np.random.default_rng(0).random(len(whole)) < 0.8]
    found = []
    for seed in range(3):
        folder = write(tmp_path / f"in{seed}", gaps, wide, order=np.random.default_rng(seed) if seed else None)
        assert convert(folder, tmp_path / f"out{seed}", "--layout", "wide" if wide else "long") == 0
        dataset = read_dataset(tmp_path / f"out{seed}")
        found.append({stay: (name, split.x[row].tobytes(), split.mask[row].tobytes(), split.y[row])
                      for name, split in dataset.splits.items() for row, stay in enumerate(split.id.tolist())})
        found[-1]["imputation"] = dataset.meta.imputation
    assert found[0] == found[1] == found[2]


def test_labels_that_differ_in_any_character_are_classes_of_their_own(tmp_path):
    texts = ["0389", "389", "1e2", "100", "100.0", "12345678901234567", "12345678901234568", "früh", "a b", "a  b",
             "A b", "$x", "=1", "none", "a,b", 'a"b']
    labels = {f"{text} {number}": text for text in texts for number in range(5)}
    pd.DataFrame({"id": list(labels), "time": 0, "variable": "HR", "value": 70}).to_csv(tmp_path / "vitals.csv")
    pd.DataFrame({"id": list(labels), "label": list(labels.values())}).to_csv(tmp_path / "labels.csv")
    assert convert(tmp_path, tmp_path / "out") == 0
    dataset = read_dataset(tmp_path / "out")
    assert dataset.meta.classes == sorted(texts)
    for split in dataset.splits.values():
        assert [dataset.meta.classes[label] for label in split.y] == [labels[stay] for stay in split.id]
