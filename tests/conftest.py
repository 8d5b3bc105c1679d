"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # Tests that need several processes ask for them.


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data (TARDIFF_SHARED_DATA, default ../shared/data); tests that need it skip without it."""
    folder = Path(os.environ.get("TARDIFF_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
