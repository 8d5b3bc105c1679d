"""Results by what they were computed from, so that a killed evaluation goes on metric by metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tardiff.utils.checkpoint import fingerprint, read_json, write_json
from tardiff.utils.parallel import run_jobs


@dataclass(frozen=True)
class Job:
    """A result to compute: its name, all that decides it (see `fingerprint`), and for the progress bar what it is of."""

    name: str
    inputs: list[Any]
    compute: Callable[[], dict[str, Any]]
    subject: str


@dataclass(frozen=True)
class ResultCache:
    """A folder with one JSON file per result, and the number of processes that compute those which are missing."""

    folder: Path
    processes: int = 1

    def results(self, jobs: list[Job], description: str) -> list[dict[str, Any]]:
        """Return the result of each job, computed once and then read."""
        paths = [self.folder / f"{job.name}-{fingerprint(*job.inputs)}.json" for job in jobs]
        missing = {path: job for path, job in zip(paths, jobs, strict=True) if not path.exists()}
        run_jobs([(f"{job.name}, {job.subject}", partial(_store, path, job.compute)) for path, job in missing.items()],
                 self.processes, description, "result")
        return [read_json(path, "result")["result"] for path in paths]


def _store(path: Path, compute: Callable[[], dict[str, Any]]) -> None:
    write_json(path, {"result": compute()})
