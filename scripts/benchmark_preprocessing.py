"""Measure `data_preprocess.mimic3` on a generated CHARTEVENTS in the publisher's format: rows a second and peak memory.

    python scripts/benchmark_preprocessing.py --rows 50000000 --memory-limit 3GB

The tables are made in a temporary folder (about 100 bytes a row of CSV) and deleted at the end. The command runs as its
own process, once to the end and once until it is killed midway, which must leave no meta.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

ROWS_OF_A_STAY = 5400
ITEMS = (211, 220045, 51, 220179, 8368, 220180, 52, 220181, 618, 220210, 678, 223761, 646, 220277)
REPOSITORY = Path(__file__).parents[1]


def write_tables(folder: Path, rows: int, suffix: str) -> None:
    """Write the four tables of MIMIC-III with `rows` chart rows, one in eight of them a vital sign, over 4 days a stay."""
    stays = max(rows // ROWS_OF_A_STAY, 100)
    item = f"list_value{ITEMS}[1 + (i // 8) % {len(ITEMS)}]"
    tables = {
        f"CHARTEVENTS{suffix}": f"""
            SELECT i AS ROW_ID, stay AS SUBJECT_ID, stay + 100000 AS HADM_ID, stay + 200000 AS ICUSTAY_ID,
                   IF(i % 8 = 0, {item}, 224000 + i % 997) AS ITEMID, charttime AS CHARTTIME,
                   charttime + INTERVAL 20 MINUTE AS STORETIME, 14000 + i % 5000 AS CGID, value::VARCHAR AS VALUE,
                   value AS VALUENUM, 'mmHg' AS VALUEUOM, 0 AS WARNING, (i % 5000 = 0)::INT AS ERROR, NULL AS RESULTSTATUS,
                   NULL AS STOPPED
            FROM (SELECT i, i % {stays} AS stay, 60 + i % 41 + (i % 7) / 10 AS value,
                         TIMESTAMP '2150-01-01' + INTERVAL 1 MINUTE * (hash(i) % 5760)::INT AS charttime
                  FROM range({rows}) AS t (i))""",
        "ICUSTAYS.csv": f"""
            SELECT i AS ROW_ID, i AS SUBJECT_ID, i + 100000 AS HADM_ID, i + 200000 AS ICUSTAY_ID,
                   TIMESTAMP '2150-01-01' AS INTIME, 2 + i % 4 AS LOS FROM range({stays}) AS t (i)""",
        "ADMISSIONS.csv": f"SELECT i + 100000 AS HADM_ID, (i % 10 = 0)::INT AS HOSPITAL_EXPIRE_FLAG FROM range({stays}) AS t (i)",
        "PATIENTS.csv": f"SELECT i AS SUBJECT_ID, TIMESTAMP '2090-01-01' AS DOB FROM range({stays}) AS t (i)",
    }
    with duckdb.connect(config={"preserve_insertion_order": "false", "memory_limit": "2GB"}) as connection:
        for name, sql in tables.items():
            columns = [column for column, *_ in connection.execute(f"DESCRIBE {sql}").fetchall()]
            header = ",".join(f'"{column}"' for column in columns)
            text = "FORCE_QUOTE (VALUE, VALUEUOM)," if "CHARTEVENTS" in name else ""
            connection.execute(f"""
                COPY ({sql}) TO '{folder / name}' (FORMAT csv, HEADER false, PREFIX '{header}\n', SUFFIX '\n', {text}
                TIMESTAMPFORMAT '%Y-%m-%d %H:%M:%S')""")


def start(folder: Path, output: Path, memory_limit: str, cohort: str) -> subprocess.Popen:
    """Start the command on the tables of a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "data_preprocess.mimic3", "--input", str(folder), "--output", str(output),
         "--memory-limit", memory_limit, "--cohort", cohort], cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def measure(folder: Path, output: Path, memory_limit: str, cohort: str) -> tuple[float, float, float]:
    """Run the command to its end; return its seconds, its CPU seconds and its peak resident memory in GB."""
    began = time.monotonic()
    process = start(folder, output, memory_limit, cohort)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0 or not (output / "meta.json").is_file():
        sys.exit("error: the command failed; see above.")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def kill_midway(folder: Path, output: Path, memory_limit: str, cohort: str, after: float) -> None:
    """Kill the command after some seconds. Exit with an error if it was done by then or left a meta.json."""
    process = start(folder, output, memory_limit, cohort)
    time.sleep(after)
    if process.poll() is not None:
        sys.exit("error: the command ended before it could be killed; give more --rows.")
    process.kill()
    process.wait()
    if (output / "meta.json").exists():
        sys.exit(f"error: the killed command left {output / 'meta.json'}.")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000_000, help="chart rows (default: 50 million)")
    parser.add_argument("--suffix", choices=(".csv", ".csv.gz"), default=".csv", help="form of CHARTEVENTS (default: .csv)")
    parser.add_argument("--memory-limit", default="3GB", help="given to the command (default: 3GB)")
    parser.add_argument("--cohort", choices=("clean", "timediff"), default="clean", help="default: clean")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tables(folder, options.rows, options.suffix)
        size = (folder / f"CHARTEVENTS{options.suffix}").stat().st_size / 1e9
        print(f"CHARTEVENTS{options.suffix}: {options.rows:,} rows, {size:.2f} GB", flush=True)
        seconds, cpu, peak = measure(folder, folder / "complete", options.memory_limit, options.cohort)
        print(f"{seconds:.1f} s, {options.rows / seconds:,.0f} rows/s, {cpu:.1f} CPU s on {os.cpu_count()} CPUs, "
              f"peak memory {peak:.2f} GB", flush=True)
        kill_midway(folder, folder / "killed", options.memory_limit, options.cohort, after=seconds / 2)
        print("killed midway: no meta.json")


if __name__ == "__main__":
    main()
