"""Every file of every stage, damaged in many ways: the commands that read it refuse in one message, or do without it.

Nothing that is wrong goes unseen: a command that ends well with a damaged file has the same result as without.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from user_errors import interrupted_after, run_tiny

from tardiff.sampling import generate

FILES = {
    "base/config.yaml": "generate", "base/run.json": "generate", "base/model.safetensors": "generate",
    "base/normalizer.json": "generate", "base/dataset.json": "generate", "base/latest.json": "train",
    "base/state-2.pt": "train", "base/metrics.jsonl": "train",
    "classifier/config.yaml": "generate", "classifier/run.json": "generate", "classifier/model.safetensors": "generate",
    "classifier/normalizer.json": "generate", "classifier/dataset.json": "generate",
    "gradient": "influence_guided",
    "data/meta.json": "generate", "data/train.npz": "generate", "data/val.npz": "generate",
    "synthetic/meta.json": "evaluate", "synthetic/train.npz": "evaluate", "synthetic/provenance.json": "evaluate",
    "started/provenance.json": "resume", "started/config.yaml": "resume", "started/chunk": "resume"}
ARGUMENTS = {
    "generate": ("generate", "num_samples=4"), "evaluate": ("evaluate",),
    "influence_guided": ("generate", "num_samples=4", "guidance.objective=influence"),
    "train": ("train", "output=base", "training.steps=3"), "resume": ("generate", "output=started", "num_samples=40")}
RESULTS = ("out/train.npz", "started/train.npz", "out/tstr.csv", "base/latest.json")
VALUES = ("null", "7", "-1", "1e999", "NaN", '"text"', "[]", "{}", "[[1]]", "9" * 1_000_000, "[" * 100_000)


def path_of(name: str) -> Path:
    if name == "gradient":
        return next(Path("classifier").glob("guidance_gradient-*"))
    return next(Path("started/chunks").iterdir()) if name == "started/chunk" else Path(name)


def damages(name: str) -> list[tuple[str, bytes | None]]:
    """Return names and contents of the damaged file; None stands for a folder in its place."""
    content = path_of(name).read_bytes()
    found: list[tuple[str, bytes | None]] = [("folder", None), ("doubled", content * 2)]
    found += [(f"cut to {share:.0%}", content[:int(len(content) * share)]) for share in (0, 0.2, 0.5, 0.9, 0.999)]
    random = np.random.default_rng(len(content))
    for place in random.integers(len(content), size=6):
        found.append((f"byte {place}", content[:place] + bytes([content[place] ^ 255]) + content[place + 1:]))
    if name.endswith((".json", ".yaml", ".jsonl")):
        found += [(f"is {value[:9]}", value.encode()) for value in VALUES]
    if name.endswith(".json"):
        values = json.loads(content)
        for key in values:
            for value in VALUES:
                text = json.dumps({**values, key: "HERE"}).replace('"HERE"', value)
                found.append((f"{key} is {value[:9]}", text.encode()))
    if name.endswith(".yaml"):
        lines = content.decode().splitlines()
        for number in range(0, len(lines), 3):
            damaged = [*lines[:number], f"{lines[number].partition(':')[0]}: [x]", *lines[number + 1:]]
            found += [(f"line {number}", "\n".join(damaged).encode()), (f"to line {number}", "\n".join(
                lines[:number]).encode())]
    return found


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory):
    """The finished runs, a guidance gradient that is kept, and a generation that was interrupted."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("damaged") / "place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_tiny(*ARGUMENTS["influence_guided"]) == 0
        shutil.rmtree(folder / "out")
        with patch.context() as inner:
            inner.setattr(generate, "save_arrays", interrupted_after(1, generate.save_arrays))
            assert run_tiny(*ARGUMENTS["resume"]) == 130
        yield folder


@pytest.mark.parametrize(("name", "every"), [
    *((name, 25) for name in FILES), *(pytest.param(name, 4, marks=pytest.mark.slow) for name in FILES)])
def test_a_damaged_file_is_refused_or_changes_nothing(place, name, every, capfd):
    cases = [("whole", path_of(name).read_bytes()), *damages(name)[::every]]
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    expected, faults = None, []
    for what, content in cases:
        path = path_of(name)
        path.unlink()
        path.mkdir() if content is None else path.write_bytes(content)
        try:
            code, results, said = outcome(name, capfd)
        except Exception as error:
            faults.append((what, repr(error)))
        else:
            expected = expected or results
            refused = code == 2 and said.startswith("error: ") and len(said) < 3000
            if not refused and (code != 0 or results != expected):
                faults.append((what, code, said[:300]))
            faults += [(what, left) for left in place.rglob(".*.tmp")]
        restore(place, before)
    assert expected and not faults, (len(cases), faults)


def outcome(name, capfd):
    """Run the command that reads a file; return its exit code, the bytes of its results and its complaints."""
    capfd.readouterr()
    code = run_tiny(*ARGUMENTS[FILES[name]])
    results = {file: Path(file).read_bytes() for file in RESULTS if code == 0 and Path(file).is_file()}
    return code, results, capfd.readouterr().err


def restore(place, before):
    """Make a folder what it was before."""
    for left in sorted(place.rglob("*"), reverse=True):
        if left not in before and left.is_file():
            left.unlink()
        elif left.is_dir() and not any(left.iterdir()):
            left.rmdir()
    for path, content in before.items():
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
