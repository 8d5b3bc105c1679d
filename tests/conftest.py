"""Fixtures shared by all tests."""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch

from tardiff.utils.lock import sole_writer

FORK = multiprocessing.get_context("fork")  # A process at once, without the imports of a new one.
torch.set_num_threads(1)
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # Tests that need several processes ask for them.


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data (TARDIFF_SHARED_DATA, default ../shared/data); tests that need it skip without it."""
    folder = Path(os.environ.get("TARDIFF_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A copy of what the fixture `finished` of a test's module or folder made, made the working folder."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def hold(folder, end):
    """Hold a folder until the other end of a pipe says so."""
    with sole_writer(folder):
        end.send("held")
        end.recv()


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `run`, and the end of a pipe that releases it."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=hold, args=(tmp_path / "run", there))
    process.start()
    assert here.recv() == "held"
    yield process, here
    process.kill()
    process.join()
