"""Any stage killed at any moment and started again ends where an uninterrupted one does, bit for bit."""

import os
import signal
import time

import numpy as np
import pytest
import torch
from user_errors import run_command

from tardiff.data.format import read_dataset
from tardiff.data.normalize import Normalizer
from tardiff.sampling import generate
from tardiff.utils.checkpoint import load_tensors, read_json
from tardiff.utils.logging import read_metrics


def kill_when(process, reached, unless):
    """Send SIGKILL to a stage and all its processes as soon as `reached()`; it must not be done then."""
    deadline = time.monotonic() + 60
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "nothing was reached within a minute"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not unless.exists(), "the stage ended before it was killed"


def assert_same_weights(first, second):
    one, other = load_tensors(first / "model.safetensors"), load_tensors(second / "model.safetensors")
    assert one[1] == other[1] and one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])


def assert_same_metrics(first, second):
    """Every scalar is logged once per step, with the same value; speed alone may differ."""
    logged = []
    for folder in (first, second):
        rows = read_metrics(folder / "metrics.jsonl")
        entries = [(row["step"], name, value) for row in rows for name, value in row.items()
                   if name not in ("step", "series_per_second")]
        assert len({entry[:2] for entry in entries}) == len(entries)
        logged.append(entries)
    assert logged[0] == logged[1]


def contents(folder):
    """The bytes of every file; of safetensors files, whose header has no order, the tensors."""
    found = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in [path for path in found if path.suffix == ".safetensors"]:
        tensors, metadata = load_tensors(folder / path)
        found[path] = metadata, {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    return found


def test_the_denoiser_resumes_from_its_last_state(workplace, tmp_path):
    output = tmp_path / "base"
    kill_when(workplace.start("base", output), (output / "latest.json").exists, unless=output / "model.safetensors")
    assert 10 <= read_json(output / "latest.json")["step"] < 40
    workplace.run("base", output)
    assert_same_weights(output, workplace.folder / "base")
    assert_same_metrics(output, workplace.folder / "base")
    assert [path.name for path in output.glob("state-*")] == ["state-40.pt"]


def test_the_classifier_resumes_after_its_last_look(workplace, tmp_path):
    output = tmp_path / "classifier"
    process = workplace.start("classifier", output)
    kill_when(process, (output / "latest.json").exists, unless=output / "model.safetensors")
    assert 4 <= read_json(output / "latest.json")["step"] < 160
    workplace.run("classifier", output)
    assert_same_weights(output, workplace.folder / "classifier")
    assert_same_metrics(output, workplace.folder / "classifier")


def interrupted_after(calls, function):
    """Return a function that does the same so many times and then ends like Ctrl-C."""
    left = iter(range(calls))

    def wrapped(*arguments, **named):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*arguments, **named)

    return wrapped


def test_generation_resumes_after_its_last_chunk(workplace, tmp_path, monkeypatch):
    output, chunks = tmp_path / "synthetic", tmp_path / "synthetic" / "chunks"
    process = workplace.start("synthetic", output)
    kill_when(process, lambda: len(list(chunks.glob("*.npz"))) >= 2, unless=output / "meta.json")
    kept = {path: path.stat().st_mtime_ns for path in chunks.glob("*.npz")}
    (chunks / ".000000035-000000042.npz.abcdef_7.tmp").write_bytes(b"what a kill in the middle of writing leaves")
    with monkeypatch.context() as patch:
        patch.setattr(generate, "save_arrays", interrupted_after(1, generate.save_arrays))
        assert run_command("generate", *workplace.arguments("synthetic", output)) == 130
    assert len(list(chunks.glob("*.npz"))) == len(kept) + 1
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in chunks.glob("*.npz")}.items()
    workplace.run("synthetic", output)
    finished, expected = (read_dataset(folder, ("train",)).train for folder in (output, workplace.folder / "synthetic"))
    assert finished.x.tobytes() == expected.x.tobytes() and np.array_equal(finished.y, expected.y)
    assert len(finished) == 60 and not chunks.exists()


@pytest.mark.parametrize("stage", ["base", "classifier"])
def test_a_finished_stage_started_again_changes_nothing(workplace, stage):
    before = contents(workplace.folder / stage)
    workplace.run(stage, workplace.folder / stage)
    assert contents(workplace.folder / stage) == before


def test_a_finished_generation_started_again_changes_nothing_but_clears_what_a_kill_left(workplace):
    """The dataset is complete once meta.json is there; a kill right after it leaves the chunks."""
    output = workplace.folder / "synthetic"
    before = contents(output)
    (output / "chunks").mkdir()
    (output / "chunks" / "000000007-000000014.npz").write_bytes(b"left by a kill")
    workplace.run("synthetic", output)
    assert contents(output) == before and not (output / "chunks").exists()


def generated(workplace, output, *overrides):
    """Generate and return the series in normalised units."""
    workplace.run("synthetic", output, *overrides)
    normalizer = Normalizer.load(workplace.folder / "base" / "normalizer.json")
    return normalizer.transform(read_dataset(output, ("train",)).train.x)


@pytest.mark.parametrize("objective", ["none", "classifier", "anchored"])
def test_the_batch_size_does_not_change_the_series(workplace, tmp_path, objective):
    small, large = (generated(workplace, tmp_path / f"{size}", f"guidance.objective={objective}",
                              f"batch_size={size}", "num_samples=16") for size in (7, 64))
    assert small.shape == (16, 24, 7)
    np.testing.assert_allclose(small, large, atol=1e-4)
