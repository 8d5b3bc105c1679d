"""Tables too large for memory, in CSV, CSV.GZ or Parquet, read by DuckDB: out of core and in parallel.

A caller finds its tables (`find_table`), opens an engine (`open_engine`), writes SQL over the tables (`source`,
`reason_case`) and fetches the result (`fetch`). Every fault of a file is one UserError that names the file, and the
line or row where it is known. A compressed file is read once more, before its first query, to test that it is whole.
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import duckdb
import numpy as np
from tqdm import tqdm

from tardiff.utils.checkpoint import writing
from tardiff.utils.errors import UserError, first_line
from tardiff.utils.progress import progress

SUFFIXES = (".csv", ".csv.gz", ".parquet")
AGAIN = "Download or export it again."
HEADER_BYTES = 1 << 16
LONGEST_LINE = 2_000_000  # that DuckDB reads
UNPACKED_BYTES = 1 << 20
FILE = "file of the row"  # the column that DuckDB adds
LOOK_SECONDS = 0.5  # between two looks at the progress of a query
GZIP = b"\x1f\x8b"
NOT_UTF8 = "not UTF-8 text. Save it as UTF-8, for example with: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW_FILE"

# How the reader of CSV takes a type: its own conversion rounds fractions and ignores text after a time.
READ_AS = {"INTEGER": "DOUBLE", "TIMESTAMP": "VARCHAR"}
PLAIN_TIMES = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS")
TIME_FORM = r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?"
EXPECTED = {
    "INTEGER": "a whole number (INTEGER)",
    "TIMESTAMP": "a time such as 2150-01-31 15:00:00, without a zone (TIMESTAMP)",
}
FAULT = re.compile(r'Error when converting column "(.+?)". Could not convert string "(.*?)" to \'(\w+)\'', re.DOTALL)


def find_table(folder: Path, name: str) -> Path:
    """Return the file of a table: its name in any case with `.csv`, `.csv.gz` or `.parquet`.

    Raises UserError if none or several of these files stand in the folder.
    """
    forms = [name.lower() + suffix for suffix in SUFFIXES]
    found = sorted(path for path in folder.glob("*") if path.name.lower() in forms and path.is_file())
    if not found:
        raise UserError(f"{folder}: table {name} not found. Expected {name}.csv, {name}.csv.gz or {name}.parquet.")
    if len(found) > 1:
        raise UserError(f"{folder}: table {name} stands there more than once: "
                        f"{', '.join(path.name for path in found)}. Keep one of them.")
    return found[0]


@contextmanager
def open_engine(memory_limit: str, output: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB under a memory limit such as `8GB`; what does not fit spills into a folder beside `output`.

    The folder, `.<name of output>.scratch`, is removed at the end whatever happens; one that a killed run left is
    replaced. Raises UserError on a bad limit and where the folder cannot be made.
    """
    memory_bytes(memory_limit)
    scratch = output.absolute().with_name(f".{output.absolute().name}.scratch")
    with writing(scratch):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    try:
        with duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": str(scratch),
                                    "preserve_insertion_order": "false"}) as connection:
            connection.execute("SET TimeZone = 'UTC'")  # Instants are shown in that of the machine else.
            # DuckDB counts its progress only where a progress bar is on; tqdm shows it. In a notebook without
            # ipywidgets, DuckDB refuses that, and nothing is counted.
            with suppress(duckdb.InvalidInputException):
                connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
            yield connection
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def memory_bytes(limit: str) -> float:
    """Return the bytes of a memory limit such as `8GB`. Raises UserError if it is none."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)B", limit, re.IGNORECASE)
    if size is None or float(size[1]) == 0:
        raise UserError(f"memory limit '{limit}': expected a size above 0 with its unit, for example 8GB or 500MB.")
    return float(size[1]) * (1024 if size[3] else 1000) ** (1 + "KMGT".index(size[2].upper()))


def source(path: Path, columns: Mapping[str, str], named_by_file: str | None = None) -> str:
    """Return a SQL table expression that reads just these columns of a file, whatever their order and the case of
    names.

    path: also a folder of files with the same columns. columns: lower-case name -> VARCHAR, DOUBLE, INTEGER or
    TIMESTAMP; the result has these names and types. Text loses the spaces around it, and an empty or blank one is NULL.
    A fraction is no INTEGER; a TIMESTAMP is a date, with a time of day or not, and nothing after it. named_by_file: the
    column that is the name of the file, without its ending, where the files of a folder lack it. Raises UserError if a
    column is missing or stands there twice, if the file is not a table with commas, and if a compressed one is damaged
    or incomplete, for which it is read to its end once.
    """
    found = table_columns(path)
    header = [name for name, _ in found]
    lowered = [name.strip().lower() for name in header]
    fields = {}
    for name in columns:
        if path.is_dir() and name == named_by_file and name not in lowered:
            endings = "|".join(map(re.escape, SUFFIXES))
            fields[name] = f"regexp_replace(parse_filename({identifier(FILE)}), '({endings})$', '', 'i')", "VARCHAR"
            continue
        if lowered.count(name) != 1:
            state = "found twice" if name in lowered else "not found"
            raise UserError(f"{path}: column '{name}' {state}. Expected the columns {', '.join(columns)} (in any case "
                            f"and order, separated by commas); the file has: {', '.join(header)[:500]}.")
        position = lowered.index(name)
        fields[name] = identifier(header[position]), found[position][1] or READ_AS.get(columns[name], columns[name])
    chosen = ", ".join(converted(name, *fields[name], kind) for name, kind in columns.items())
    files = files_of(path)
    listed = f"[{', '.join(map(quoted_path, files))}]"
    if is_parquet(files[0]):
        return f"(SELECT {chosen} FROM read_parquet({listed}, hive_partitioning = false, filename = {quoted(FILE)}))"
    kinds = ", ".join(f"{quoted(header[position])}: {quoted(fields[name][1])}" if name in columns
                      else f"'unused {position}': 'VARCHAR'" for position, name in enumerate(lowered))
    compression = "gzip" if files[0].suffix.lower() == ".gz" else "none"
    if compression == "gzip":
        for file in files:
            check_gzip(file)
    return (f"(SELECT {chosen} FROM read_csv({listed}, columns = {{{kinds}}}, auto_detect = false, header = true, "
            f"delim = ',', quote = '\"', escape = '\"', compression = '{compression}', "
            f"hive_partitioning = false, filename = {quoted(FILE)}))")


def files_of(path: Path) -> list[Path]:
    """Return the file, or the tables of a folder, by name. Raises UserError if it has none, or of several kinds."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.name.lower().endswith(SUFFIXES) and file.is_file())
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) != 1:
        raise UserError(f"{path}: expected tables in this folder that all end in one of {', '.join(SUFFIXES)}, found "
                        f"{' and '.join(sorted(kinds)) or 'none'}.")
    return files


def is_parquet(path: Path) -> bool:
    """Tell whether the name of a file is that of a Parquet file."""
    return path.suffix.lower() == ".parquet"


def table_columns(path: Path) -> list[tuple[str, str]]:
    """Return the names and, of Parquet, the DuckDB types of the columns of a table. Raises UserError if it is none, or
    if the tables of a folder differ in them."""
    files = files_of(path)
    first, *others = (parquet_columns(file) if is_parquet(file) else [(name, "") for name in csv_header(file)]
                      for file in files)
    for file, found in zip(files[1:], others, strict=True):
        if found != first:
            names = [", ".join(name for name, _ in columns)[:300] for columns in (found, first)]
            raise UserError(f"{file}: has the columns {names[0]}; {files[0].name} has {names[1]}. The tables of a "
                            "folder must have the same.")
    return first


def converted(name: str, field: str, found: str, kind: str) -> str:
    """Return SQL for the column `name` of type `kind` from a field of type `found`; a value that is none is an
    error."""
    value = f"NULLIF(trim({field}), '')" if found == "VARCHAR" else field
    if kind == "VARCHAR" or found == kind or (kind == "TIMESTAMP" and found in PLAIN_TIMES):
        return f"CAST({value} AS {kind}) AS {identifier(name)}"
    number, text = f"TRY_CAST({value} AS DOUBLE)", f"CAST({value} AS VARCHAR)"
    # The usual form of a time comes first, for it is four times as fast as the regular expression.
    usual = (f"IF(strlen({field}) = 19 AND {field} BETWEEN '0' AND ':', "
             f"try_strptime({field}, '%Y-%m-%d %H:%M:%S'), NULL), " if found == "VARCHAR" else "")
    attempts = {
        "DOUBLE": number,
        "INTEGER": f"IF(TRY_CAST({number} AS INTEGER) = {number}, TRY_CAST({number} AS INTEGER), NULL)",
        "TIMESTAMP": f"{usual}IF(regexp_full_match({text}, {quoted(TIME_FORM)}), TRY_CAST({text} AS TIMESTAMP), NULL)",
    }[kind]
    # The words are those of the reader of CSV, so that `faults_of` knows both.
    before, after = f'Error when converting column "{name}". Could not convert string "', f"\" to '{kind}'"
    return (f"coalesce({attempts}, IF({value} IS NULL, NULL, error({quoted(before)} || {text} || {quoted(after)}))) "
            f"AS {identifier(name)}")


def identifier(name: str) -> str:
    """Return the name of a column as SQL."""
    return '"' + name.replace('"', '""') + '"'


def quoted(text: str) -> str:
    """Return a text as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def quoted_path(path: Path) -> str:
    """Return a path as a SQL literal in which nothing stands for a pattern."""
    return quoted(re.sub(r"([*?\[])", r"[\1]", str(path)))


def csv_header(path: Path) -> list[str]:
    """Return the names in the first line of a CSV or CSV.GZ file. Raises UserError if it is no table."""
    with unpacking(path):
        with open(path, "rb") as file:
            content = first_line_of(file)
        if path.suffix.lower() == ".gz" and not is_web_page(content):
            with gzip.open(path) as file:
                content = first_line_of(file)
    if is_web_page(content):
        raise UserError(f"{path}: a web page in place of the data. {AGAIN}")
    if content.startswith(GZIP):
        raise UserError(f"{path}: compressed with gzip. Give its name the ending .csv.gz.")
    if b"\0" in content:
        raise UserError(f"{path}: not a text table. Expected a first line with the names of the columns. {AGAIN}")
    if b"\r" in content and b"\n" not in content:
        raise UserError(f"{path}: its lines end as those of old Macs do (CR alone). Save it with the line ends of Unix "
                        "or Windows, for example as 'CSV UTF-8' of a spreadsheet.")
    text = content.decode("utf-8-sig", errors="replace")
    header = next(csv.reader(io.StringIO(text, newline="")), [])
    if not header:
        raise UserError(f"{path}: empty. Expected a first line with the names of the columns. {AGAIN}")
    if "\ufffd" in "".join(header):
        raise UserError(f"{path}, line 1: {NOT_UTF8}")
    return header


def first_line_of(file: BinaryIO) -> bytes:
    """Return the start of a file up to some bytes after its first line, or of a line that is too long to be one."""
    content = file.read(HEADER_BYTES)
    while b"\n" not in content and len(content) < LONGEST_LINE and (more := file.read(HEADER_BYTES)):
        content += more
    return content


def check_gzip(path: Path) -> None:
    """Raise UserError if a .gz file is incomplete or fails its checksum; DuckDB looks at neither in every version.

    A file found whole is not read again by this process until its size or time changes.
    """
    with unpacking(path):
        state = path.stat()
        read_gzip(path.absolute(), state.st_size, state.st_mtime_ns)


@functools.cache
def read_gzip(path: Path, size: int, modified: int) -> None:
    """Read a .gz file of this size to its end, with a progress bar; `modified` only tells its states apart."""
    with (open(path, "rb") as file, gzip.open(file) as stream,
          progress(f"check of {path.name}", size, "byte") as bar):
        while stream.read(UNPACKED_BYTES):
            bar.update(file.tell() - bar.n)


@contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Turn a failure to read or to unpack inside the block into a UserError that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}). It is damaged or incomplete. {AGAIN}") from None


def is_web_page(content: bytes) -> bool:
    """Tell whether a file starts as HTML or XML does."""
    return content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def parquet_columns(path: Path) -> list[tuple[str, str]]:
    """Return the names and DuckDB types of the columns of a Parquet file. Raises UserError if it is none."""
    with faults_of(path):
        described = duckdb.execute(
            f"DESCRIBE FROM read_parquet({quoted_path(path)}, hive_partitioning = false)").fetchall()
    return [(name, kind) for name, kind, *_ in described]


def fetch(connection: duckdb.DuckDBPyConnection, sql: str, description: str, path: Path) -> dict[str, np.ndarray]:
    """Run a query with a progress bar and return its columns by name, each an array (R,).

    NULL is NaN in a column of floats and NaT in one of times; elsewhere the array is a masked one. Text has dtype
    `str`. description: for the bar. path: the file that the query reads. Raises UserError on a fault of the file, a
    value that is not of the type asked for, and where memory or disk do not suffice.
    """
    with faults_of(path):
        columns = run_with_progress(connection, sql, description)
    return {name: plain_array(values) for name, values in columns.items()}


def plain_array(values: np.ndarray) -> np.ndarray:
    """Turn what DuckDB gives for a column (R,) into plain numpy where that can say NULL; text becomes `str`."""
    if values.dtype == object:
        values = values.astype(str)
    if not np.ma.is_masked(values):
        return np.asarray(values)
    missing = {"f": np.nan, "M": np.datetime64("NaT")}.get(values.dtype.kind)
    return values if missing is None else values.filled(missing)


def run_with_progress(connection: duckdb.DuckDBPyConnection, sql: str, description: str) -> dict[str, np.ndarray]:
    """Run a query while a bar shows in percent how far DuckDB says it has come; Ctrl-C ends it."""
    # DuckDB may not look for signals while it waits for its threads, so the query runs beside the main one.
    with (ThreadPoolExecutor(1) as pool,
          tqdm(total=100, desc=description, disable=None,
               bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}") as bar):
        pool.submit(int).result()  # A thread that Ctrl-C meets at its start would not be waited for.
        try:
            query = pool.submit(lambda: connection.execute(sql).fetchnumpy())
            while wait([query], LOOK_SECONDS).not_done:
                bar.update(max(0.0, connection.query_progress() - bar.n))
        except BaseException:
            connection.interrupt()
            raise
        bar.update(100 - bar.n)
        return query.result()


@contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """Turn what DuckDB raises inside the block into one UserError that names the file, and the line if known."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise UserError(f"{path}: memory or disk do not suffice ({first_line(error).rstrip('.')}). Give a larger "
                        "--memory-limit, or an --output on a disk with more free space.") from None
    except duckdb.Error as error:
        line = re.search(r"CSV Error on Line: (\d+)\nOriginal Line: (.*)", str(error))
        fault = FAULT.search(str(error))
        if "nvalid unicode" in str(error) or "not utf-8" in str(error):
            raise UserError(f"{path}{f', line {line[1]}' if line else ''}: {NOT_UTF8}") from None
        if line is None and fault is None:
            raise UserError(f"{path}: cannot be read ({first_line(error).rstrip('.')}). {AGAIN}") from None
        reason = (f"column '{fault[1]}' holds '{fault[2][:80]}', expected {EXPECTED.get(fault[3], fault[3])}" if fault
                  else "the fields do not match the header, or a quote stays open")
        where = f", line {line[1]}: found '{line[2][:160]}';" if line else f"{row_of(path, fault[1], fault[2])}:"
        raise UserError(f"{path}{where} {reason}. {AGAIN}") from None


def row_of(path: Path, column: str, text: str) -> str:
    """Return where a column first holds a text, or its number, as `, row 3 below the header`; empty if not found."""
    same = f"text = {quoted(text)} OR TRY_CAST(text AS DOUBLE) = TRY_CAST({quoted(text)} AS DOUBLE)"
    table = source(path, {column: "VARCHAR"})
    with faults_of(path):
        found = duckdb.execute(f"SELECT row FROM (SELECT row_number() OVER () AS row, {identifier(column)} AS text "
                               f"FROM {table}) WHERE {same} LIMIT 1").fetchall()
    return "".join(f", row {row} below the header" for row, in found)


def reason_case(reasons: Mapping[str, str]) -> str:
    """Return SQL for the position of the first reason whose condition holds for a row, or their number if none does.

    The counterpart of `grid.drop_rows` inside a query. A condition must not be NULL where it is to hold.
    """
    cases = " ".join(f"WHEN {condition} THEN {position}" for position, condition in enumerate(reasons.values()))
    return f"CASE {cases} ELSE {len(reasons)} END"


def count_reasons(reasons: Mapping[str, str], position: np.ndarray, rows: np.ndarray) -> dict[str, int]:
    """Return the rows read, those that each reason dropped, and those used: position, rows (R,) int of
    `reason_case`."""
    counts = np.bincount(position, weights=rows, minlength=len(reasons) + 1).astype(int).tolist()
    return {"rows read": sum(counts), **dict(zip([*reasons, "rows used"], counts, strict=True))}


def count_rows(connection: duckdb.DuckDBPyConnection, reasons: Mapping[str, str], table: str, path: Path
               ) -> dict[str, int]:
    """Return `count_reasons` of a table of groups with their `reason` and number of `rows`, made of the file `path`."""
    found = fetch(connection, f"SELECT reason, sum(rows)::BIGINT AS rows FROM {table} GROUP BY reason", "rows", path)
    return count_reasons(reasons, found["reason"], found["rows"])
