"""Tables through DuckDB: every form a publisher's file can have, every fault as one message, and work beyond memory."""

import _thread
import gzip
import signal
import threading
import time

import numpy as np
import pytest

from data_preprocess import query
from tardiff.utils.errors import UserError
from tardiff.utils.progress import progress

COLUMNS = {"valuenum": "DOUBLE", "itemid": "INTEGER", "value": "VARCHAR", "charttime": "TIMESTAMP"}
PLAIN = 'ROW_ID,ITEMID,CHARTTIME,VALUE,VALUENUM\n1,211,2150-01-01 06:30:00,"a, b",36.6\n2,51,2150-01-02 00:00:00,,\n'
TEXTS = {
    "publisher": PLAIN.replace("ROW_ID,ITEMID,CHARTTIME,VALUE,VALUENUM",
                               '"ROW_ID","ITEMID","CHARTTIME","VALUE","VALUENUM"'),
    "lower case": PLAIN.replace(PLAIN.split("\n")[0], "row_id,itemid,charttime,value,valuenum"),
    "other order": 'valuenum,"Value",other,ITEMID,charttime\n36.6,"a, b",x,211,2150-01-01 06:30:00\n'
                   ',,,51,2150-01-02 00:00:00\n',
    "windows": PLAIN.replace("\n", "\r\n"),
    "byte order mark": "\ufeff" + PLAIN,
    "no last line end": PLAIN.rstrip("\n"),
    "all quoted": PLAIN.replace(
        "1,211,2150-01-01 06:30:00,", '"1","211","2150-01-01 06:30:00",').replace("36.6", '"36.6"'),
    "unused names twice": "other,other,ITEMID,CHARTTIME,VALUE,VALUENUM\n"
                          ',,211,2150-01-01 06:30:00,"a, b",36.6\n,,51,2150-01-02 00:00:00,,\n',
}


@pytest.fixture
def engine(tmp_path):
    with query.open_engine("1GB", tmp_path / "output") as connection:
        yield connection


def read(engine, path, columns=COLUMNS):
    return query.fetch(engine, f"FROM {query.source(path, columns)} ORDER BY charttime", "rows", path)


def check_rows(rows):
    assert list(rows) == list(COLUMNS)
    np.testing.assert_array_equal(rows["valuenum"], [36.6, np.nan])
    assert rows["itemid"].dtype == np.int32 and rows["itemid"].tolist() == [211, 51]
    assert rows["value"][0] == "a, b" and rows["value"].mask.tolist() == [False, True]
    times = rows["charttime"].astype("datetime64[s]").astype(str).tolist()
    assert times == ["2150-01-01T06:30:00", "2150-01-02T00:00:00"]


@pytest.mark.parametrize("form", TEXTS)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".CSV.GZ"])
def test_every_form_of_a_csv_gives_the_same_columns(engine, tmp_path, form, suffix):
    content = TEXTS[form].encode()
    path = tmp_path / f"table{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.lower().endswith("gz") else content)
    check_rows(read(engine, path))


def test_parquet_gives_the_same_columns(engine, tmp_path):
    path = tmp_path / "table.parquet"
    engine.execute(f"""COPY (SELECT 'x' AS other, '211' AS ItemId, 'a, b' AS VALUE, 36.6::FLOAT8 AS "ValueNum",
        TIMESTAMP '2150-01-01 06:30' AS charttime UNION ALL SELECT 'x', '51', NULL, NULL, TIMESTAMP '2150-01-02')
        TO '{path}'""")
    check_rows(read(engine, path))


def test_a_path_is_never_a_pattern_nor_the_end_of_a_literal(engine, tmp_path):
    folder = tmp_path / "it's [1] *? b"
    folder.mkdir()
    (folder / "table.csv").write_text(PLAIN)
    check_rows(read(engine, folder / "table.csv"))
    engine.execute("CREATE TABLE charted AS FROM (VALUES (1, TIMESTAMP '2150-01-01')) AS t (ITEMID, charttime)")
    plain = tmp_path / "charted.parquet"
    engine.execute(f"COPY charted TO '{plain}'")
    plain.rename(folder / "charted.parquet")
    assert read(engine, folder / "charted.parquet",
                {"itemid": "INTEGER", "charttime": "TIMESTAMP"})["itemid"].tolist() == [1]


def test_a_line_end_inside_a_text_does_not_end_the_row(engine, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(PLAIN.replace("a, b", "a,\n36.6"))
    rows = read(engine, path)
    assert rows["value"][0] == "a,\n36.6" and rows["itemid"].tolist() == [211, 51]


BIG = "itemid,charttime,value,valuenum\n" + "".join(
    f"{i % 997},2150-01-01 00:00:00,text {i},{i / 8}\n" for i in range(20_000))
BIG_WITH_TEXT = BIG.replace("text 15000,1875.0", "text 15000,abc")


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999, -1, -8, -9])
def test_an_incomplete_gzip_is_noticed_wherever_it_ends(engine, tmp_path, kept):
    path = tmp_path / "table.csv.gz"
    content = gzip.compress(BIG.encode())
    path.write_bytes(content[:kept if kept < 0 else int(kept * len(content))])
    with pytest.raises(UserError, match=r"table\.csv\.gz: cannot be read .*Download or export it again"):
        query.fetch(engine, f"SELECT count(*) AS rows FROM {query.source(path, COLUMNS)}", "rows", path)


def test_a_gzip_whose_content_changed_is_noticed(engine, tmp_path):
    """A digit of a value in an uncompressed block: still a table, and only the checksum can tell."""
    path = tmp_path / "table.csv.gz"
    content = gzip.compress(BIG.encode(), compresslevel=0)
    path.write_bytes(content.replace(b"text 15000,1875.0", b"text 15000,1975.0"))
    assert "table.csv.gz: cannot be read (CRC check failed" in refusal(engine, path)


# What stands in the file, its ending, and what the message must say.
FAULTS = {
    "value": (BIG_WITH_TEXT, ".csv",
              "line 15002: found '45,2150-01-01 00:00:00,text 15000,abc'; column 'valuenum' holds 'abc', expected "
              "DOUBLE"),
    "value in gz": (BIG_WITH_TEXT, ".csv.gz", "line 15002: found"),
    "time": (PLAIN.replace("2150-01-02 00", "2150-13-02 00"), ".csv",
             "table.csv, row 2 below the header: column 'charttime' holds '2150-13-02 00:00:00', expected a time such "
             "as"),
    "time of no kind": (PLAIN.replace("2150-01-02 00:00:00", "infinity"), ".csv",
                        "column 'charttime' holds 'infinity'"),
    "fraction": (PLAIN.replace("51", "17.6"), ".csv",
                 "row 2 below the header: column 'itemid' holds '17.6', expected a whole number (INTEGER)"),
    "large number": (PLAIN.replace("51", "99999999999"), ".csv.gz", "row 2 below the header: column 'itemid' holds "
                     "'99999999999"),
    "no number": (PLAIN.replace("51", "nan"), ".csv", "row 2 below the header: column 'itemid' holds 'nan'"),
    "row cut off": (PLAIN.replace(",2150-01-02 00:00:00,,\n", ""), ".csv", "line 3: found '2,51'; the fields do not "
                    "match the header"),
    "row too long": (PLAIN.replace("36.6", "36.6,1"), ".csv", "line 2: found"),
    "open quote": (PLAIN.replace('b"', "b"), ".csv", "a quote stays open"),
    "column missing": (PLAIN.replace("ITEMID", "ITEM"), ".csv",
                       "column 'itemid' not found. Expected the columns valuenum, itemid, value, charttime"),
    "column twice": (PLAIN.replace("ROW_ID", "itemid"), ".csv", "column 'itemid' found twice"),
    "semicolons": (PLAIN.replace(",", ";"), ".csv", "separated by commas); the file has: ROW_ID;ITEMID"),
    "empty": ("", ".csv", "empty. Expected a first line"),
    "html": ("\n<!DOCTYPE html>\n<html>Log in</html>\n", ".csv", "a web page in place of the data"),
    "html gz": ("<html>Log in</html>\n", ".csv.gz", "a web page in place of the data"),
    "binary": ("PK\0\0", ".csv", "not a text table"),
    "no parquet": (PLAIN, ".parquet", "cannot be read"),
    "line ends": (PLAIN.replace("\n", "\r"), ".csv", "CR alone"),
    "not UTF-8": (PLAIN.replace("a, b", "fr\xe9quence").encode("latin-1"), ".csv", "table.csv, line 2: not UTF-8 text"),
    "header not UTF-8": ("itemid,na\xeff\n".encode("latin-1"), ".csv", "line 1: not UTF-8 text. Save it as UTF-8"),
}


def refusal(engine, path):
    with pytest.raises(UserError) as error:
        query.fetch(engine, f"FROM {query.source(path, COLUMNS)}", "rows", path)
    return str(error.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_file_is_one_message_that_names_it(engine, tmp_path, fault):
    content, suffix, expected = FAULTS[fault]
    path = tmp_path / f"table{suffix}"
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if suffix == ".csv.gz" else content)
    message = refusal(engine, path)
    assert message.startswith(f"{path}") and expected in message and "\n" not in message


# A time as it may stand in a file, and what it means; None where it must be refused.
TIMES = {
    "2150-01-01 02:00:00": "2150-01-01T02:00:00.000", "2150-01-01": "2150-01-01T00:00:00.000",
    "2150-01-01 02:00": "2150-01-01T02:00:00.000", "2150-01-01T02:00:00": "2150-01-01T02:00:00.000",
    "2150-01-01 02:00:00.0": "2150-01-01T02:00:00.000", "2150-01-01 02:00:00.125": "2150-01-01T02:00:00.125",
    " 2150-01-01 02:00:00 ": "2150-01-01T02:00:00.000", "": "NaT", "  ": "NaT",
    **dict.fromkeys(["2150-01-01 02:00:00 PM", "2150-01-01 2:00:00 PM", "2150-01-01 02:00 PM",
                     "2150-01-01 02:00:00 EST", "2150-01-01 02:00:00 foo", "2150-01-01 02:00:00+05",
                     "2150-01-01 02:00+05", "2150-01-01 02:00:00+05:30", "2150-01-01 02:00:00Z",
                     "2150-01-01 02:00:00,5", "2150-02-30 02:00:00", "2150-01-01 25:00:00",
                     "2150-01-01 02", "2150/01/01 02:00:00", "01/02/2150", "20150-01-01", "2150-1-1 2:00", "epoch",
                     "-infinity",
                     "2150-01-01 2:00 foo", "2150"]),
}


@pytest.mark.parametrize("text", TIMES)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_time_is_read_whole_or_refused(engine, tmp_path, text, suffix):
    path = tmp_path / f"table{suffix}"
    engine.execute(f"COPY (FROM (VALUES ('2149-12-31 23:59:59', 'x'), ('{text}', 'y')) AS t (charttime, other)) TO "
                   f"'{path}'")
    if TIMES[text] is None:
        with pytest.raises(UserError) as error:
            read(engine, path, {"charttime": "TIMESTAMP"})
        assert str(error.value).startswith(f"{path}, row 2 below the header: column 'charttime' holds '{text}', "
                                           "expected a time")
    else:
        times = read(engine, path, {"charttime": "TIMESTAMP"})["charttime"]
        assert times.astype("datetime64[ms]").astype(str).tolist() == ["2149-12-31T23:59:59.000", TIMES[text]]


def test_a_gzip_is_checked_once_until_it_changes(engine, tmp_path, monkeypatch):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(BIG.encode()))
    opened = []

    def record(description, *arguments):
        opened.append(description)
        return progress(description, *arguments, shown=False)

    monkeypatch.setattr(query, "progress", record)
    for _ in range(3):
        query.source(path, COLUMNS)
    assert opened == ["check of table.csv.gz"]
    path.write_bytes(gzip.compress(BIG.encode())[:-9])
    for _ in range(2):
        with pytest.raises(UserError, match="damaged or incomplete"):
            query.source(path, COLUMNS)
    assert len(opened) == 3


def test_what_a_browser_makes_of_a_download_is_named(engine, tmp_path):
    for name, content, expected in (("a.csv.gz", b"<html>", "web page"), ("b.csv.gz", PLAIN.encode(), "cannot be read"),
                                    ("c.csv", gzip.compress(PLAIN.encode()), "Give its name the ending .csv.gz")):
        (tmp_path / name).write_bytes(content)
        assert expected in refusal(engine, tmp_path / name)
    assert "cannot be read" in refusal(engine, tmp_path / "absent.csv")


def test_parquet_with_values_of_another_type_is_named(engine, tmp_path):
    path = tmp_path / "table.parquet"
    engine.execute(f"COPY (SELECT 'abc' AS itemid, 1.0 AS valuenum, '' AS value, now() AS charttime) TO '{path}'")
    assert "row 1 below the header: column 'itemid' holds 'abc'" in refusal(engine, path)
    for kind, sql, held in (("INTEGER", "17.6::DOUBLE", "17.6"), ("INTEGER", "'17.6'", "17.6"),
                            ("INTEGER", "3000000000", "3000000000"),
                            ("DOUBLE", "'12a'", "12a"),
                            ("TIMESTAMP", "TIMESTAMPTZ '2150-01-01 02:00:00+00'", "2150-01-01"),
                            ("TIMESTAMP", "2150", "2150")):
        engine.execute(f"COPY (SELECT {sql} AS a) TO '{path}'")
        with pytest.raises(UserError, match=f"column 'a' holds '{held}.*', expected .*{kind}"):
            read_one(engine, path, kind)


def read_one(engine, path, kind):
    return query.fetch(engine, f"FROM {query.source(path, {'a': kind})}", "rows", path)["a"].tolist()


def test_parquet_text_counts_as_the_same_text_in_csv_does(engine, tmp_path):
    """An empty or blank text is NULL, spaces around it do not count, and a whole number may be written as 17.0."""
    for suffix in (".parquet", ".csv"):
        path = tmp_path / f"table{suffix}"
        engine.execute(f"COPY (FROM (VALUES (''), (' 17.0'), ('18 '), (NULL)) AS t (a)) TO '{path}'")
        assert [read_one(engine, path, kind) for kind in ("INTEGER", "VARCHAR")] == [
            [None, 17, 18, None], [None, "17.0", "18", None]], suffix
        np.testing.assert_array_equal(read_one(engine, path, "DOUBLE"), [np.nan, 17, 18, np.nan])


@pytest.mark.parametrize("name", ["CHARTEVENTS.csv", "chartevents.csv.gz", "ChartEvents.CSV", "CHARTEVENTS.parquet"])
def test_a_table_is_found_in_any_form(tmp_path, name):
    (tmp_path / name).write_text("")
    (tmp_path / "OTHER.csv").write_text("")
    (tmp_path / "chartevents").mkdir()
    assert query.find_table(tmp_path, "CHARTEVENTS") == tmp_path / name


def test_a_table_that_is_missing_or_there_twice_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Expected CHARTEVENTS\.csv, CHARTEVENTS\.csv\.gz or CHARTEVENTS\.parquet"):
        query.find_table(tmp_path, "CHARTEVENTS")
    (tmp_path / "chartevents.csv").write_text("")
    (tmp_path / "CHARTEVENTS.csv.gz").write_text("")
    with pytest.raises(UserError, match=r"more than once: CHARTEVENTS\.csv\.gz, chartevents\.csv"):
        query.find_table(tmp_path, "CHARTEVENTS")


def test_numbers_with_and_without_null(engine, tmp_path):
    rows = query.fetch(engine, "FROM (VALUES (1, 2.5::DOUBLE, true), (NULL, NULL, false)) AS t (a, b, c)", "rows",
                       tmp_path)
    assert rows["a"].tolist() == [1, None] and np.isnan(rows["b"][1]) and rows["c"].dtype == bool
    time = query.fetch(engine, "SELECT NULL::TIMESTAMP AS t UNION ALL SELECT TIMESTAMP '1850-01-01'", "rows",
                       tmp_path)["t"]
    assert np.isnat(time).sum() == 1 and time.dtype.kind == "M"


@pytest.mark.parametrize("limit", ["8", "lots", "0GB", "-1GB", "GB"])
def test_a_memory_limit_that_is_none_is_refused(tmp_path, limit):
    refused = pytest.raises(UserError, match="expected a size above 0 with its unit")
    with refused, query.open_engine(limit, tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


def test_work_beyond_the_memory_limit_goes_to_disk_and_nothing_stays_there(tmp_path):
    leftover = tmp_path / ".out.scratch" / "duckdb_temp_block-1.block"
    leftover.parent.mkdir()
    leftover.write_text("of a killed run")
    (tmp_path / "out").mkdir()
    with query.open_engine("60MB", tmp_path / "out") as engine:
        assert not leftover.exists()
        query.fetch(engine, "CREATE TEMP TABLE rows AS SELECT i, hash(i) AS key FROM range(5_000_000) AS t (i)", "rows",
                    tmp_path)
        spilled = sum(path.stat().st_size for path in leftover.parent.iterdir())
        total = query.fetch(engine, "SELECT sum(i)::BIGINT AS total, count(*) AS rows FROM rows", "rows", tmp_path)
    assert spilled > 5_000_000
    assert (total["total"][0], total["rows"][0]) == (5_000_000 * 4_999_999 // 2, 5_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_too_little_memory_is_one_message_and_leaves_nothing(tmp_path):
    refused = pytest.raises(UserError, match="Give a larger --memory-limit")
    with refused, query.open_engine("1MB", tmp_path / "out") as engine:
        query.fetch(engine, "SELECT hash(i) AS key FROM range(1_000_000) AS t (i) ORDER BY key", "rows", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def ctrl_c():
    """Let Ctrl-C raise KeyboardInterrupt, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_a_query_and_leaves_nothing(tmp_path):
    def interrupt(engine):
        while engine.query_progress() < 0:  # until the query has begun
            time.sleep(0.01)
        _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt), query.open_engine("1GB", tmp_path / "out") as engine:
        threading.Thread(target=interrupt, args=[engine], daemon=True).start()
        limit = threading.Timer(60, engine.interrupt)  # The test fails then, and does not hang.
        limit.daemon = True
        limit.start()
        try:
            query.fetch(engine, "SELECT sum(hash(i)) FROM range(1_000_000_000_000) AS t (i)", "rows", tmp_path)
        finally:
            limit.cancel()
    assert not list(tmp_path.iterdir())


def test_the_bar_shows_the_progress_of_the_engine(tmp_path, capsys, monkeypatch):
    """DuckDB's own share, in percent, never backward, and whole at the end."""
    positions = []

    class Bar(query.tqdm):
        def __init__(self, **options):
            super().__init__(**{**options, "disable": False})

        def update(self, step=1):
            super().update(step)
            positions.append(self.n)

    class Engine:
        """A query of one row that ends when all its shares were shown."""

        shares = iter([-1.0, 10.0, 60.0])

        def query_progress(self):
            return next(self.shares, 60.0)

        def execute(self, sql):
            while 60 not in positions:
                time.sleep(0.001)
            return self

        def fetchnumpy(self):
            return {"a": np.array([1])}

    monkeypatch.setattr(query, "tqdm", Bar)
    monkeypatch.setattr(query, "LOOK_SECONDS", 0.001)
    assert query.fetch(Engine(), "SELECT 1", "CHARTEVENTS", tmp_path)["a"].tolist() == [1]
    assert [*dict.fromkeys(positions)] == [0, 10, 60, 100] and "CHARTEVENTS" in capsys.readouterr().err
