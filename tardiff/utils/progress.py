"""Progress of long work: a bar on a terminal, and one line for each stage where the output goes to a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from tqdm import tqdm


@contextlib.contextmanager
def progress(description: str, total: int, unit: str, initial: int = 0, shown: bool = True) -> Iterator[tqdm]:
    """Yield a bar of `total` units, of which `initial` are done; call its `update` for each further one.

    Without a terminal the bar writes nothing, and a line tells at the end what was done in which time. Resumed work
    says so first; work that ends early sets the bar's `total`. `shown=False` is silent: processes other than the first,
    and work of which nobody waits for the end.
    """
    if shown and 0 < initial < total:
        print(f"{description}: resumes after {initial:,} of {total:,} {unit}s", flush=True)
    clock = time.perf_counter()
    with tqdm(total=total, initial=initial, desc=description, unit=unit, disable=None if shown else True) as bar:
        yield bar
    if shown and bar.disable and initial < total:
        done = bar.total - initial
        print(f"{description}: {done:,} {unit}{'s' * (done != 1)} in {time.perf_counter() - clock:.0f} s", flush=True)
