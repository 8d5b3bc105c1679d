"""Freed memory is kept for the tensors to come."""

import platform
import subprocess
import sys

import pytest

COUNT_PAGE_FAULTS = """
import resource, torch
from tardiff.utils.distributed import resolve_device
resolve_device("cpu")
def layers():
    for _ in range(20):
        torch.ones(2**20) + 1
layers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
layers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
def test_a_tensor_takes_the_pages_of_the_one_before():
    """40 tensors of 4 MiB have 40,000 pages of 4 KiB."""
    faults = subprocess.run([sys.executable, "-c", COUNT_PAGE_FAULTS], capture_output=True, text=True, check=True)
    assert int(faults.stdout) < 5_000
