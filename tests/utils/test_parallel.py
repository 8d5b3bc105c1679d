"""Jobs in several worker processes: one thread each, errors raised here."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from tardiff.utils.errors import UserError
from tardiff.utils.parallel import run_jobs, worker_count


def test_each_job_has_one_thread_and_the_caller_keeps_its_own(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for count in (1, 2):
            jobs = [(str(number), partial(note_threads, tmp_path / f"{count}-{number}")) for number in range(3)]
            run_jobs(jobs, count, "threads", "job")
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["1"] * 6


def note_threads(path):
    path.write_text(str(torch.get_num_threads()))


@pytest.mark.parametrize("name", ["one", "other"])
def test_workers_work_in_the_folder_of_the_caller(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    run_jobs([(str(number), lambda number=number: Path(f"{number}.txt").touch()) for number in range(2)], 2, "files",
             "job")
    assert sorted(path.name for path in folder.iterdir()) == ["0.txt", "1.txt"]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_job_raises_is_raised_here(workers):
    def fail():
        raise UserError("no such rows")

    with pytest.raises(UserError, match="no such rows"):
        run_jobs([("good", lambda: None), ("bad", fail)], workers, "jobs", "job")


def test_a_worker_killed_for_want_of_memory_is_one_message():
    with pytest.raises(UserError, match=r"toys: a worker process was killed.*fewer than 2 workers"):
        run_jobs([(str(number), lambda: os.kill(os.getpid(), signal.SIGKILL)) for number in range(2)], 2, "toys", "job")
    run_jobs([(str(number), lambda: None) for number in range(2)], 2, "toys", "job")
    run_jobs([], 2, "nothing", "job")


def test_a_gpu_is_used_by_one_worker_unless_told_otherwise():
    assert worker_count(None, torch.device("cuda")) == 1
    assert worker_count(3, torch.device("cuda")) == worker_count(3, torch.device("cpu")) == 3


def test_a_worker_starts_no_workers_of_its_own_unless_told_to(tmp_path):
    run_jobs([(str(number), partial(note_workers, tmp_path / str(number))) for number in range(2)], 2, "nested", "job")
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["1 3"] * 2


def note_workers(path):
    path.write_text(" ".join(str(worker_count(workers, torch.device("cpu"))) for workers in (None, 3)))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(("starts", "end"), [(True, signal.SIGKILL), (False, signal.SIGTERM)])
def test_workers_end_with_their_command_while_they_start_and_at_work(tmp_path, starts, end):
    program = tmp_path / "command.py"
    program.write_text(f"""
import pathlib, time
from tardiff.utils.parallel import run_jobs
def work():
    pathlib.Path({str(tmp_path)!r}, "begun").touch()
    time.sleep(600)
run_jobs([(str(number), work) for number in range(2)], 2, "jobs", "job")
""")
    with subprocess.Popen([sys.executable, program], start_new_session=True, stderr=subprocess.DEVNULL) as command:
        wait_until(lambda: len(session(command.pid)) > 3 if starts else (tmp_path / "begun").exists())
        command.send_signal(end)
    wait_until(lambda: not session(command.pid))


def session(number):
    """Return the processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of_session = path.read_text().rpartition(")")[2].split()[:4]
            found += [path.parent.name] * (int(of_session) == number and state != "Z")
    return found


def wait_until(reached):
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline, "nothing was reached in two minutes"
        time.sleep(0.05)
