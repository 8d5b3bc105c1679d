"""Tables too large for memory, in CSV, CSV.GZ or Parquet, read by DuckDB: out of core, in parallel, in one pass.

A caller finds its tables (`find_table`), opens an engine (`open_engine`), writes SQL over the tables (`source`) and
fetches the result (`fetch`). Every fault of a file is one UserError that names the file, and the line where there is one.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
from tqdm import tqdm

from tardiff.utils.checkpoint import writing
from tardiff.utils.errors import UserError

SUFFIXES = (".csv", ".csv.gz", ".parquet")
AGAIN = "Download or export it again."
HEADER_BYTES = 1 << 16
UNPACKED_BYTES = 1 << 20
LOOK_SECONDS = 0.5  # between two looks at the progress of a query
GZIP = b"\x1f\x8b"


def find_table(folder: Path, name: str) -> Path:
    """Return the file of a table: its name in any case with `.csv`, `.csv.gz` or `.parquet`.

    Raises UserError if the folder is not there, or none or several of these files stand in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: input folder not found. Give the folder that holds {name}.csv.")
    forms = [name.lower() + suffix for suffix in SUFFIXES]
    found = sorted(path for path in folder.iterdir() if path.name.lower() in forms and path.is_file())
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
    size = re.fullmatch(r"(\d+(?:\.\d+)?) ?[KMGT]i?B", memory_limit, re.IGNORECASE)
    if size is None or float(size[1]) == 0:
        raise UserError(f"memory limit '{memory_limit}': expected a size above 0 with its unit, for example 8GB or 500MB.")
    scratch = output.absolute().with_name(f".{output.absolute().name}.scratch")
    with writing(scratch):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    try:
        with duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": str(scratch),
                                    "preserve_insertion_order": "false"}) as connection:
            # DuckDB counts its progress only where a progress bar is on; tqdm shows it.
            connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
            yield connection
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def source(path: Path, columns: Mapping[str, str]) -> str:
    """Return a SQL table expression that reads just these columns of a file, whatever their order and the case of names.

    columns: lower-case name -> DuckDB type; the result has these names and types, and an empty field is NULL. Raises
    UserError if a column is missing or stands there twice, if the file is not a table with commas, and if a compressed
    one is damaged or incomplete, for which it is read to its end.
    """
    header = parquet_header(path) if path.suffix.lower() == ".parquet" else csv_header(path)
    lowered = [name.strip().lower() for name in header]
    for name in columns:
        if lowered.count(name) != 1:
            state = "found twice" if name in lowered else "not found"
            raise UserError(f"{path}: column '{name}' {state}. Expected the columns {', '.join(columns)} (in any case and "
                            f"order, separated by commas); the file has: {', '.join(header)[:500]}.")
    file = quoted_path(path)
    if path.suffix.lower() == ".parquet":
        chosen = ", ".join(f'CAST("{header[lowered.index(name)].replace(chr(34), chr(34) * 2)}" AS {kind}) AS "{name}"'
                           for name, kind in columns.items())
        return f"(SELECT {chosen} FROM read_parquet({file}))"
    kinds = ", ".join(f"{quoted(name)}: {quoted(columns[name])}" if name in columns else f"'unused {position}': 'VARCHAR'"
                      for position, name in enumerate(lowered))
    chosen = ", ".join(f'"{name}"' for name in columns)
    compression = "none"
    if path.suffix.lower() == ".gz":
        compression = "gzip"
        check_gzip(path)
    return (f"(SELECT {chosen} FROM read_csv({file}, columns = {{{kinds}}}, auto_detect = false, header = true, "
            f"delim = ',', quote = '\"', escape = '\"', compression = '{compression}'))")


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
            content = file.read(HEADER_BYTES)
        if path.suffix.lower() == ".gz" and not is_web_page(content):
            with gzip.open(path) as file:
                content = file.read(HEADER_BYTES)
    if is_web_page(content):
        raise UserError(f"{path}: a web page in place of the data. {AGAIN}")
    if content.startswith(GZIP):
        raise UserError(f"{path}: compressed with gzip. Give its name the ending .csv.gz.")
    if b"\0" in content:
        raise UserError(f"{path}: not a text table. Expected a first line with the names of the columns. {AGAIN}")
    header = next(csv.reader(io.StringIO(content.decode("utf-8-sig", errors="replace"))), [])
    if not header:
        raise UserError(f"{path}: empty. Expected a first line with the names of the columns. {AGAIN}")
    return header


def check_gzip(path: Path) -> None:
    """Raise UserError if a .gz file is incomplete or fails its checksum; DuckDB looks at neither in every version."""
    with unpacking(path), open(path, "rb") as file, gzip.open(file) as stream, tqdm(
            total=path.stat().st_size, desc=f"check of {path.name}", unit="B", unit_scale=True, disable=None) as bar:
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


def parquet_header(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file. Raises UserError if it is none."""
    with duckdb.connect() as connection, faults_of(path):
        return [name for name, *_ in connection.execute(f"DESCRIBE FROM read_parquet({quoted_path(path)})").fetchall()]


def fetch(connection: duckdb.DuckDBPyConnection, sql: str, description: str, path: Path) -> dict[str, np.ndarray]:
    """Run a query with a progress bar and return its columns by name, each an array (R,).

    NULL is NaN in a column of floats and NaT in one of times; elsewhere the array is a masked one. Text has dtype `str`.
    description: for the bar. path: the file that the query reads. Raises UserError on a fault of the file, a value that
    is not of the type asked for, and where memory or disk do not suffice.
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
        query = pool.submit(lambda: connection.execute(sql).fetchnumpy())
        try:
            while wait([query], LOOK_SECONDS).not_done:
                bar.update(max(0.0, connection.query_progress() - bar.n))
        finally:
            if not query.done():
                connection.interrupt()
        bar.update(100 - bar.n)
        return query.result()


@contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """Turn what DuckDB raises inside the block into one UserError that names the file, and the line if known."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise UserError(f"{path}: memory or disk do not suffice ({first_line(error)}). Give a larger --memory-limit, or "
                        "an --output on a disk with more free space.") from None
    except duckdb.Error as error:
        line = re.search(r"CSV Error on Line: (\d+)\nOriginal Line: (.*)", str(error))
        if line is None:
            raise UserError(f"{path}: cannot be read ({first_line(error)}). {AGAIN}") from None
        fault = re.search(r'Error when converting column "(.+?)". Could not convert string "(.*)" to \'(\w+)\'', str(error))
        reason = (f"column '{fault[1]}' holds '{fault[2][:80]}', expected {fault[3]}" if fault
                  else "the fields do not match the header, or a quote stays open")
        raise UserError(f"{path}, line {line[1]}: found '{line[2][:160]}'; {reason}. {AGAIN}") from None


def first_line(error: Exception) -> str:
    """Return the first line of a message, without a stop at its end."""
    return str(error).splitlines()[0].rstrip(".")
