"""Results by what decides them, so that work that was killed goes on where it was and nothing stale is ever read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tardiff.utils.checkpoint import fingerprint, load_arrays, remove_leftovers, save_arrays
from tardiff.utils.parallel import run_jobs

RECIPE = 9
"""Raise it with every change of our code that changes a result which is kept: evaluation, guidance gradient,
influence."""

Values = dict[str, Any]
"""Arrays and numbers by name; a number comes back as a float, an array with its dtype."""


def cached(folder: str | Path, key: Sequence[Any], compute: Callable[[], Values]) -> Values:
    """Return the result of `compute`, read from `folder` where it was computed before.

    key: a name and all that decides the result (see `fingerprint`); the recipe version and the versions of torch and
    numpy are added. Results are always read back from the file, so that the first run equals all later ones.
    Raises UserError if the file is damaged.
    """
    path = result_path(folder, key)
    if not path.exists():
        remove_leftovers(folder)
        _store(path, compute)
    return _read(path)


def cached_where_writable(folder: str | Path, key: Sequence[Any], compute: Callable[[], Values]) -> Values:
    """Return what `cached` does; in a folder that may not be written nothing is kept, but what is there is read."""
    may_write = os.access(folder, os.W_OK) or not Path(folder).exists()
    return cached(folder, key, compute) if may_write or result_path(folder, key).exists() else compute()


@dataclass(frozen=True)
class Job:
    """A result to compute: the key of `cached`, and what the progress bar shows of it."""

    key: Sequence[Any]
    compute: Callable[[], Values]
    label: str


def cached_jobs(folder: str | Path | None, jobs: Sequence[Job], workers: int, description: str, unit: str
                ) -> list[Values]:
    """Return the result of each job as `cached` does; those which are missing are computed by several worker processes.

    Equal keys are computed once. Without a folder nothing is kept.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return cached_jobs(temporary, jobs, workers, description, unit)
    paths = [result_path(folder, job.key) for job in jobs]
    missing = {path: job for path, job in zip(paths, jobs, strict=True) if not path.exists()}
    run_jobs([(job.label, partial(_store, path, job.compute)) for path, job in missing.items()],
             workers, description, unit)
    return list(map(_read, paths))


def result_path(folder: str | Path, key: Sequence[Any]) -> Path:
    """Return the file that keeps the result of a key (see `cached`)."""
    return Path(folder) / f"{key[0]}-{fingerprint(RECIPE, torch.__version__, np.__version__, *key)}.npz"


def _store(path: Path, compute: Callable[[], Values]) -> None:
    save_arrays(path, **compute())


def _read(path: Path) -> Values:
    return {name: float(array) if array.ndim == 0 else array for name, array in load_arrays(path).items()}
