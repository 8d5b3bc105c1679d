"""Measure `data_preprocess.mimic3` on a generated CHARTEVENTS in the publisher's format: rows a second and peak memory.

    python scripts/benchmark_preprocessing.py --rows 50000000 --memory-limit 3GB

The tables are made in a temporary folder (100 bytes a row). Ends with an error below 1 million rows/s and above 4 GB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import duckdb

ROWS_OF_A_STAY = 5400
ITEMS = (211, 220045, 51, 220179, 8368, 220180, 52, 220181, 618, 220210, 678, 223761, 646, 220277)
REPOSITORY = Path(__file__).parents[1]


def write_tables(folder: Path, rows: int, suffix: str) -> None:
    """Write the four tables of MIMIC-III with `rows` chart rows, one in eight a vital sign, over 4 days a stay."""
    stays = max(rows // ROWS_OF_A_STAY, 100)
    of_stays = f"FROM range({stays}) AS t (i)"
    tables = {
        f"CHARTEVENTS{suffix}": f"""
            SELECT i AS ROW_ID, stay AS SUBJECT_ID, stay + 100000 AS HADM_ID, stay + 200000 AS ICUSTAY_ID,
                   IF(i % 8 = 0, list_value{ITEMS}[1 + (i // 8) % {len(ITEMS)}], 224000 + i % 997) AS ITEMID,
                   charttime AS CHARTTIME, charttime AS STORETIME, 14000 + i % 5000 AS CGID, value::VARCHAR AS VALUE,
                   value AS VALUENUM, 'mmHg' AS VALUEUOM, 0 AS WARNING, (i % 5000 = 0)::INT AS ERROR,
                   NULL AS RESULTSTATUS, NULL AS STOPPED
            FROM (SELECT i, i % {stays} AS stay, 60 + i % 41 + (i % 7) / 10 AS value, TIMESTAMP '2150-01-01'
                  + INTERVAL 1 MINUTE * (hash(i) % 5760)::INT AS charttime FROM range({rows}) AS t (i))""",
        "ICUSTAYS.csv": f"""SELECT i AS SUBJECT_ID, i + 100000 AS HADM_ID, i + 200000 AS ICUSTAY_ID,
                            TIMESTAMP '2150-01-01' AS INTIME, 2 + i % 4 AS LOS {of_stays}""",
        "ADMISSIONS.csv": f"SELECT i + 100000 AS HADM_ID, (i % 10 = 0)::INT AS HOSPITAL_EXPIRE_FLAG {of_stays}",
        "PATIENTS.csv": f"SELECT i AS SUBJECT_ID, TIMESTAMP '2090-01-01' AS DOB {of_stays}",
    }
    with duckdb.connect(config={"preserve_insertion_order": "false", "memory_limit": "2GB"}) as connection:
        for name, sql in tables.items():
            header = ",".join(f'"{column}"' for column, *_ in connection.execute(f"DESCRIBE {sql}").fetchall())
            text = "FORCE_QUOTE (VALUE, VALUEUOM)," if "CHARTEVENTS" in name else ""
            connection.execute(f"""
                COPY ({sql}) TO '{folder / name}' (FORMAT csv, HEADER false, PREFIX '{header}\n', SUFFIX '\n', {text}
                TIMESTAMPFORMAT '%Y-%m-%d %H:%M:%S')""")


def measure(command: Sequence[str], output: Path) -> tuple[float, float, float]:
    """Run the command to its end; return its seconds, its CPU seconds and its peak resident memory in GB."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    check(status == 0 and (output / "meta.json").is_file(), "the command failed; see above")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def check(holds: bool, otherwise: str) -> None:
    """Exit with an error if a condition does not hold."""
    if not holds:
        sys.exit(f"error: {otherwise}.")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000_000, help="chart rows (default: 50 million)")
    parser.add_argument("--suffix", choices=(".csv", ".csv.gz"), default=".csv", help="of CHARTEVENTS (default: .csv)")
    parser.add_argument("--memory-limit", default="3GB", help="given to the command (default: 3GB)")
    parser.add_argument("--cohort", choices=("clean", "timediff"), default="clean", help="default: clean")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tables(folder, options.rows, options.suffix)
        table, output = folder / f"CHARTEVENTS{options.suffix}", folder / "output"
        print(f"{table.name}: {options.rows:,} rows, {table.stat().st_size / 1e9:.2f} GB", flush=True)
        command = [sys.executable, "-m", "data_preprocess.mimic3", "--input", str(folder), "--output", str(output),
                   "--memory-limit", options.memory_limit, "--cohort", options.cohort]
        seconds, cpu, peak = measure(command, output)
        print(f"{seconds:.1f} s, {options.rows / seconds:,.0f} rows/s, {cpu:.1f} CPU s on {os.cpu_count()} CPUs, "
              f"peak memory {peak:.2f} GB", flush=True)
    check(options.rows / seconds >= 1_000_000 and peak <= 4, "too slow or too much memory")


if __name__ == "__main__":
    main()
