"""Independent jobs on several CPU cores."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import joblib
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from tardiff.utils.errors import UserError
from tardiff.utils.progress import progress


def worker_count(workers: int | None, device: torch.device) -> int:
    """Return `workers`, or by default one for each CPU core, and a single one on a GPU."""
    return workers or (joblib.cpu_count() if device.type == "cpu" else 1)


def run_jobs(jobs: Sequence[tuple[str, Callable[[], None]]], workers: int, description: str, unit: str) -> None:
    """Run jobs, each with the name that the progress bar shows; every job stores its own result.

    Each runs on one thread of torch, so that its result does not depend on the number of worker processes (what NumPy
    computes may differ in the last bits). A job may be any function with its arguments (`functools.partial`, a lambda);
    large arrays among them are shared by the workers, not copied. What a job raises is raised here. Raises UserError if
    a worker is killed, as the system does when memory runs out.
    """
    if not jobs:
        return
    with (progress(description, len(jobs), unit) as bar,
          joblib.parallel_config("loky", n_jobs=min(workers, len(jobs)), inner_max_num_threads=1, mmap_mode="c",
                                 initializer=_end_with, initargs=(os.getpid(),))):
        run = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        try:
            for name in run(joblib.delayed(_run)(*job) for job in jobs):
                bar.set_postfix_str(name, refresh=False)
                bar.update()
        except TerminatedWorkerError:
            raise UserError(f"{description}: a worker process was killed, most likely for want of memory. What is "
                            f"finished is kept: give the same command again with fewer than {workers} workers "
                            "(workers=...).") from None


def _run(name: str, job: Callable[[], None]) -> str:
    with one_thread():
        job()
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


def _end_with(parent: int) -> None:
    """End this process within a second of its parent, which may be killed without a chance to tell."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
