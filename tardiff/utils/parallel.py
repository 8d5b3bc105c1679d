"""Independent jobs on several CPU cores."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker

import joblib
import torch
from joblib.externals.loky.backend import resource_tracker as loky_resource_tracker
from joblib.externals.loky.process_executor import TerminatedWorkerError

from tardiff.utils.errors import UserError, of_user_code
from tardiff.utils.progress import progress

_is_worker = False


def worker_count(workers: int | None, device: torch.device) -> int:
    """Return `workers`, or by default one for each CPU core, and a single one on a GPU and in a worker process."""
    return workers or (joblib.cpu_count() if device.type == "cpu" and not _is_worker else 1)


def run_jobs(jobs: Sequence[tuple[str, Callable[[], None]]], workers: int, description: str, unit: str) -> None:
    """Run jobs, each with the name that the progress bar shows; every job stores its own result.

    Each runs on one thread of torch, so that its result does not depend on the number of worker processes (what NumPy
    computes may differ in the last bits). A job may be any function with its arguments (`functools.partial`, a lambda);
    large arrays among them are shared by the workers, not copied. What a job raises is raised here. Raises UserError if
    a worker is killed, as the system does when memory runs out.
    """
    if not jobs:
        return
    workers = min(workers, len(jobs))
    if workers > 1:
        for tracker in (resource_tracker, loky_resource_tracker):
            with _interrupts_held():  # One each: a tracker that starts lets interrupts through again.
                tracker.ensure_running()
    with (progress(description, len(jobs), unit) as bar,
          joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=1, mmap_mode="c",
                                 initializer=_begin_worker, initargs=(os.getpid(), os.getcwd()))):
        run = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        try:
            with _interrupts_held():
                names = run(joblib.delayed(_run)(*job) for job in jobs)
            for name in names:
                bar.set_postfix_str(name, refresh=False)
                bar.update()
        except TerminatedWorkerError:
            raise UserError(f"{description}: a worker process was killed, most likely for want of memory. What is "
                            f"finished is kept: give the same command again with fewer than {workers} workers "
                            "(workers=...).") from None


def _run(name: str, job: Callable[[], None]) -> str:
    try:
        with one_thread():
            job()
    except Exception as error:  # The process that started this one sees no frames of it.
        raise of_user_code(error) or error from None
    return name


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread of torch inside the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the block; processes that are started in it leave it to this one for good."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(parent: int, folder: str) -> None:
    """Have this process start no workers of its own, and end within a second of its parent, which may be killed without
    a chance to tell.

    folder: where it works. Workers of another folder are not taken again, for a user's modules are imported from there.
    """
    global _is_worker
    _is_worker = True

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
