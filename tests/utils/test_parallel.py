"""Jobs in several processes: same results, one thread each, errors raised here."""

import os
import signal
from functools import partial

import numpy as np
import pytest
import torch

from tardiff.evaluation.cache import Job, ResultCache
from tardiff.evaluation.judges import discriminative_score
from tardiff.utils.errors import UserError
from tardiff.utils.parallel import run_jobs, worker_count


def test_results_do_not_depend_on_the_number_of_processes(tmp_path):
    generator = np.random.default_rng(0)
    real = generator.standard_normal((4000, 12, 6)).astype(np.float32)  # Large enough to be shared rather than copied.
    kept = real.copy()
    synthetic = real[::-1] + 0.3
    jobs = [Job("judge", ["real", seed], partial(discriminative_score, real, synthetic, seed, iterations=20), "toy")
            for seed in range(3)]
    alone, together = (ResultCache(tmp_path / str(count), count).results(jobs, "judge") for count in (1, 2))
    assert alone == together and len({result["accuracy"] for result in alone}) > 1
    assert np.array_equal(real, kept)


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


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_job_raises_is_raised_here(processes):
    def fail():
        raise UserError("no such rows")

    with pytest.raises(UserError, match="no such rows"):
        run_jobs([("good", lambda: None), ("bad", fail)], processes, "jobs", "job")


def test_a_process_killed_for_want_of_memory_is_one_message():
    with pytest.raises(UserError, match=r"toys: a process was killed.*fewer than 2 processes"):
        run_jobs([(str(number), lambda: os.kill(os.getpid(), signal.SIGKILL)) for number in range(2)], 2, "toys", "job")
    run_jobs([(str(number), lambda: None) for number in range(2)], 2, "toys", "job")


def test_equal_jobs_are_computed_once(tmp_path):
    calls = []
    job = Job("count", [1], lambda: {"calls": len(calls)} | {"now": calls.append(1)}, "toy")
    cache = ResultCache(tmp_path)
    assert cache.results([job, job], "count") == [{"calls": 0, "now": None}] * 2 == cache.results([job], "count") * 2
    assert len(calls) == 1
    run_jobs([], 2, "nothing", "job")


def test_a_gpu_is_used_by_one_process_unless_told_otherwise():
    assert worker_count(None, torch.device("cuda")) == 1
    assert worker_count(3, torch.device("cuda")) == worker_count(3, torch.device("cpu")) == 3
