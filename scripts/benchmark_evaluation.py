"""Measure the fidelity and privacy parts of `evaluate.py` on large simulated cohorts: time and peak memory. Linux only.

    python scripts/benchmark_evaluation.py --series 100000 --workers 2

There are as many synthetic as real training series, those of another cohort, and four fifths as many test series. Three
repeats of the seeded metrics; each subsamples as its docstring says. Ends with an error above 10 minutes or 4 GB.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def measure(command: list[str]) -> tuple[float, float, float]:
    """Run the command to its end; return its seconds, its CPU seconds and the peak memory in GB of all its
    processes."""
    began, peak, ended = time.monotonic(), 0.0, threading.Event()
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True)

    def watch() -> None:
        nonlocal peak
        while not ended.wait(1):
            peak = max(peak, memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        ended.set()
        watcher.join()
    if status:
        sys.exit("error: the command failed; see above.")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, peak


def memory(session: int) -> float:
    """Return the memory in GB of all processes of a session, with pages that they share counted once."""
    return sum(memory_of(process, session) for process in Path("/proc").glob("[0-9]*")) * 1024 / 1e9


def memory_of(process: Path, session: int) -> int:
    """Return the memory in KiB of a process, of which /proc has a folder, if it belongs to the session."""
    try:
        if os.getsid(int(process.name)) != session:
            return 0
        return int(re.search(r"^Pss:\s+(\d+)", (process / "smaps_rollup").read_text(), re.MULTILINE)[1])
    except (OSError, TypeError):  # It has ended, or is not ours.
        return 0


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=100_000, help="synthetic series (default: 100000)")
    parser.add_argument("--workers", type=int, default=2, help="default: 2")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for seed, name in enumerate(("real", "synthetic")):
            subprocess.run([sys.executable, "-m", "tardiff", "simulate", "--output", folder / name, "--seed", str(seed),
                            "--stays", str(options.series * 2), "--ratios", "0.5", "0.1", "0.4"],
                           cwd=REPOSITORY, check=True)
        seconds, cpu, peak = measure([
            sys.executable, "scripts/evaluate.py", "--real", str(folder / "real"),
            "--synthetic", str(folder / "synthetic"), "--output", str(folder / "report"),
            "sections=[fidelity, privacy]", "device=cpu",
            f"workers={options.workers}", f"repeats={options.repeats}"])
    print(f"{seconds:.0f} s, {cpu:.0f} CPU s in {options.workers} workers, peak memory {peak:.2f} GB")
    if seconds >= 600 or peak > 4:
        sys.exit("error: too slow or too much memory.")


if __name__ == "__main__":
    main()
