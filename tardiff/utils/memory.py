"""How the process keeps its memory."""

from __future__ import annotations

import ctypes
import platform

# The parameters of mallopt(3), by their names in malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, up to 1 GiB, for the tensors to come; elsewhere do nothing.

    By default it returns large blocks to the system, and every layer of a network on a CPU then waits for the pages of
    its output: thousands of page faults in each pass of the denoiser.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_TRIM_THRESHOLD, 2**30)
        library.mallopt(M_MMAP_THRESHOLD, 2**25)  # The most that it takes.
