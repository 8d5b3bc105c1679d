"""Two commands that begin at once in one folder: one is done as if it were alone, the other is refused."""

import multiprocessing
import shutil
import sys

import pytest
from user_errors import run_command

FORK = multiprocessing.get_context("fork")
COMMANDS = {"base": "train", "classifier": "guide", "synthetic": "generate"}
SMALLER = {"base": ["training.steps=4"], "classifier": ["training.steps=8"], "synthetic": ["num_samples=14"]}
RESULT = {"base": "model.safetensors", "classifier": "model.safetensors", "synthetic": "train.npz"}


def run_at_once(together, words, arguments, said):
    """Run a command in a forked process as soon as the other one is there too, its messages in a file."""
    sys.stdout = sys.stderr = open(said, "w")  # noqa: SIM115 - it ends with the process
    together.wait()
    sys.exit(run_command(words, *arguments))


@pytest.mark.parametrize(("stage", "tries"), [
    ("base", 1), ("synthetic", 2), *(pytest.param(stage, 50, marks=pytest.mark.slow) for stage in COMMANDS)])
def test_one_writes_and_the_other_is_refused(workplace, tmp_path, stage, tries):
    alone = []
    for seed in (0, 1):
        workplace.run(stage, tmp_path / f"seed{seed}", f"seed={seed}", *SMALLER[stage])
        alone.append((tmp_path / f"seed{seed}" / RESULT[stage]).read_bytes())
    for _ in range(tries):
        output, together = tmp_path / "output", FORK.Barrier(2)
        writers = [FORK.Process(target=run_at_once, args=(
            together, COMMANDS[stage], workplace.arguments(stage, output, f"seed={seed}", *SMALLER[stage]),
            tmp_path / f"said{seed}")) for seed in (0, 1)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert sorted(writer.exitcode for writer in writers) == [0, 2]
        first = [writer.exitcode for writer in writers].index(0)
        assert (output / RESULT[stage]).read_bytes() == alone[first]
        said = (tmp_path / f"said{1 - first}").read_text()
        assert f"is being written by process {writers[first].pid} on" in said or "with other settings" in said, said
        assert "Traceback" not in said
        shutil.rmtree(output)
