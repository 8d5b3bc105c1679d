"""Commands run as a user runs them, but in this process; ways to spoil what they read; what holds of every refusal."""

import json
import os
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tardiff.cli import main
from tardiff.utils.checkpoint import load_tensors, save_tensors

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "train": [
        "data=data", "output=out", "device=cpu", "model.base_channels=8", "model.channel_multipliers=[1,1]",
        "model.num_res_blocks=1", "model.num_heads=2", "training.steps=2",
        "training.preview_every=0"],
    "guide": ["data=data", "output=out", "device=cpu", "model.rnn.hidden_size=8", "training.steps=1"],
    "generate": [
        "data=data", "base=base", "classifier=classifier", "output=out", "device=cpu", "batch_size=32",
        "sampler.num_inference_steps=2"],
    "evaluate": [
        "real=data", "synthetic={guided: synthetic}", "output=out", "device=cpu", "seeds=1", "bootstrap=20",
        "controls=[]",
        "model.rnn.hidden_size=8", "training.steps=1", "protocols=[tstr]"],
    "influence": [
        "real=data", "classifier=classifier", "synthetic={guided: synthetic}", "output=out", "device=cpu",
        "bootstrap=20", "fine_tuned=16"],
    "run": ["data=data", "output=out", "device=cpu"],
}
FINISHED = {"model.safetensors", "meta.json", "tstr.json", "tsrtr.json", "influence.json"}
USER_MODELS = """
import threading

import torch
from torch import nn

class Linear(nn.Module):
    def __init__(self, length, num_channels, num_classes, more=0):
        super().__init__()
        self.head = nn.Linear(length * num_channels, num_classes + more)
    def forward(self, x):
        return self.head(x.flatten(1))

class Locked(Linear):
    def __init__(self, length, num_channels, num_classes):
        super().__init__(length, num_channels, num_classes)
        self.lock = threading.Lock()

class Coupled(Linear):
    def forward(self, x):
        return super().forward(x - x.mean(dim=0))

class Fails(Linear):
    def __init__(self, length, num_channels, num_classes, at):
        super().__init__(length, num_channels, num_classes)
        self.at = at
        if at == "built":
            raise KeyError("no such part")
    def forward(self, x):
        if self.at == ("trained" if self.training else "evaluated"):
            raise KeyError("no such part")
        return super().forward(x)

class NotAModule:
    def __init__(self, length, num_channels, num_classes):
        pass

def own_loss(logits, y):
    return nn.functional.cross_entropy(logits, y, reduction="none")

def mean_loss(logits, y):
    return nn.functional.cross_entropy(logits, y)

def infinite_loss(logits, y):
    return nn.functional.cross_entropy(logits, y, reduction="none") * float("inf")
"""


def run_command(name: str, *arguments: str) -> int:
    """Run `tardiff NAME ARGUMENTS` in this process and return its exit code."""
    try:
        main(arguments, name)
    except SystemExit as stop:
        return stop.code
    return 0


def run_script(script: str, *arguments: str) -> int:
    """Run a script of the repository in this process as `python SCRIPT ARGUMENTS` does, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


def run_tiny(name: str, *arguments: str) -> int:
    """Run a command in this process with SETTINGS before its arguments, and return its exit code."""
    return run_command(name, *SETTINGS[name], *arguments)


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the content of every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def interrupted_after(calls, function):
    """Return a function that does the same so many times and then ends like Ctrl-C."""
    left = iter(range(calls))

    def wrapped(*arguments, **named):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*arguments, **named)

    return wrapped


def assert_refused(code: int, stderr: str, expected: tuple[str, ...]) -> None:
    """Check the exit code, and that the message, with the expected parts, is all that is said."""
    assert code == 2, stderr
    assert stderr.startswith("error: ") and "Traceback" not in stderr, stderr
    for text in expected:
        assert text in stderr, stderr


def assert_clean(folder: Path, before: dict[Path, bytes], began: bool = False) -> None:
    """Check that nothing changed, or, for a command that `began`, that nothing looks finished."""
    after = contents(folder)
    assert not [path for path in after if path.suffix == ".tmp"]
    changed = {path for path in after.keys() | before.keys() if after.get(path) != before.get(path)}
    if began:
        changed = {path for path in changed if path.name in FINISHED}
    assert not changed


@dataclass(frozen=True)
class Case:
    """A command, what is spoilt before it runs, and what its message must contain."""

    name: str
    command: str
    expected: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    spoil: Callable[[], object] = lambda: None
    began: bool = False


def arrays(change: Callable[[dict], dict], split: str = "train") -> Callable[[], None]:
    """Return a function that replaces arrays of a split by those that `change(arrays)` gives; None removes one."""
    def spoil() -> None:
        path = Path("data", f"{split}.npz")
        with np.load(path) as archive:
            content = dict(archive)
        content |= change(content)
        np.savez(path, **{name: array for name, array in content.items() if array is not None})
    return spoil


def placed(array: np.ndarray, index: tuple | int, value: float) -> np.ndarray:
    """Return a copy of an array with one entry changed."""
    result = array.copy()
    result[index] = value
    return result


def meta(change: dict, path: str = "data/meta.json") -> Callable[[], object]:
    """Return a function that changes entries of a JSON file; None removes one."""
    def spoil() -> None:
        content = json.loads(Path(path).read_text()) | change
        Path(path).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return spoil


def text(path: str, content: str) -> Callable[[], object]:
    """Return a function that writes a text file."""
    return lambda: Path(path).write_text(content)


def replaced_in(name: str, old: str, new: str, count: int = -1) -> Callable[[Path], object]:
    """Return a function of a folder that replaces text in a file of it, everywhere or in the first `count` places."""
    def spoil(folder: Path) -> None:
        content = (folder / name).read_text()
        assert old in content
        (folder / name).write_text(content.replace(old, new, count))
    return spoil


def web_page(name: str) -> Callable[[Path], object]:
    """Return a function of a folder that writes a page in the place of a file, as a download without a login does."""
    return lambda folder: (folder / name).write_text("<!DOCTYPE html>\n<html>Log in</html>\n")


def cut(path: str, share: float = 0.5) -> Callable[[], None]:
    """Return a function that keeps the first part of the file that matches `path`."""
    def spoil() -> None:
        (found,) = Path().glob(path)
        os.truncate(found, int(found.stat().st_size * share))
    return spoil


def flip(path: str) -> Callable[[], None]:
    """Return a function that overwrites bytes in the middle of a file."""
    def spoil() -> None:
        content = bytearray(Path(path).read_bytes())
        middle = len(content) // 2
        content[middle:middle + 64] = bytes(byte ^ 255 for byte in content[middle:middle + 64])
        Path(path).write_bytes(content)
    return spoil


def without_metadata(path: str) -> Callable[[], None]:
    """Return a function that drops the metadata of a safetensors file."""
    return lambda: save_tensors(path, load_tensors(path)[0])
