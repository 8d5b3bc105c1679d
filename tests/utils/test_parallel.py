"""Jobs in several worker processes: one thread each, errors raised here."""

import os
import signal
from functools import partial

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
