"""Progress of long work: a bar on a terminal, and lines now and then where the output goes to a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from tqdm import tqdm

FIRST_LINE, NEXT_LINE = 10, 60
"""Seconds until the first line in a file, and between two."""


@contextlib.contextmanager
def progress(description: str, total: int, unit: str, initial: int = 0, shown: bool = True) -> Iterator[tqdm]:
    """Yield a bar of `total` units, of which `initial` are done; call its `update` for each further one.

    Without a terminal a line now and then tells how far the work is, and one at the end what was done in which time.
    Resumed work says so first; work that ends early sets the bar's `total`. `shown=False` is silent: processes other
    than the first, and work of which nobody waits for the end.
    """
    if shown and 0 < initial < total:
        print(f"{description}: resumes after {initial:,} of {total:,} {unit}s", flush=True)
    clock = time.perf_counter()
    with tqdm(total=total, initial=initial, desc=description, unit=unit, disable=None if shown else True) as drawn:
        tells = shown and drawn.disable
        bar = _Lines(description, total, unit, initial) if tells else drawn
        yield bar
    if tells and initial < total:
        done = bar.total - initial
        print(f"{description}: {done:,} {unit}{'s' * (done != 1)} in {time.perf_counter() - clock:.0f} s", flush=True)


class _Lines(tqdm):
    """What stands in for a bar in a file: a line on how far the work is, now and then."""

    def __init__(self, description: str, total: int, unit: str, initial: int) -> None:
        super().__init__(total=total, initial=initial, disable=True)
        self.description, self.units, self.initial = description, f"{unit}s", initial
        self.began = time.monotonic()
        self.due = self.began + FIRST_LINE

    def update(self, n: float = 1) -> None:
        self.n += n
        now = time.monotonic()
        if now < self.due or not self.initial < self.n < self.total:
            return
        self.due = now + NEXT_LINE
        left = (now - self.began) * (self.total - self.n) / (self.n - self.initial)
        print(f"{self.description}: {self.n:,.0f} of {self.total:,} {self.units}, about "
              f"{f'{left / 60:.0f} min' if left > 90 else f'{left:.0f} s'} left", flush=True)
