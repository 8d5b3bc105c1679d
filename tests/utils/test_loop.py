"""The training loop: what it logs and saves at which step, on which process, and where it goes on."""

import pytest
import torch
from baseline_checks import Killed

from tardiff.config import BaseConfig
from tardiff.utils.distributed import ProcessGroup
from tardiff.utils.errors import UserError
from tardiff.utils.logging import open_run, read_metrics
from tardiff.utils.loop import TrainingLoop

CPU = torch.device("cpu")
ALONE = ProcessGroup(0, 1, CPU)


class OneOfTwo(ProcessGroup):
    """One of two processes that have the same values."""

    def sum(self, tensor):
        return 2 * tensor


class Counter:
    """Counts its steps; a loss is their number. After `steps_to_live` of them the process is killed."""

    def __init__(self, steps_to_live=100):
        self.count, self.steps_to_live = 0, steps_to_live

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]

    def step(self, step):
        if self.steps_to_live == 0:
            raise Killed
        self.count, self.steps_to_live = self.count + 1, self.steps_to_live - 1
        return {"loss": torch.tensor(float(self.count)), "rate": 0.5 / self.count}


def train(folder, group=ALONE, steps_to_live=100, train_step=None, stages=(("first", 5), ("second", 7)), **options):
    """Train a counter through the stages and return it with its loop; states every 4 steps, logs every 3."""
    counter = Counter(steps_to_live)
    run = None if folder is None else open_run(folder, BaseConfig(), {}, group.is_main)
    loop = TrainingLoop({"counter": counter}, run, group, log_every=3, checkpoint_every=4)
    for name, steps in stages[loop.stage:]:
        loop.train(name, steps, 2, train_step or counter.step, **options)
        loop.next_stage()
    if run is not None:
        run.close()
    return counter, loop


def logged(folder):
    return [{name: value for name, value in row.items() if name != "series_per_second"}
            for row in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.parametrize("group", [ALONE, OneOfTwo(0, 2, CPU)], ids=["alone", "two"])
def test_means_are_logged_between_states_and_numbers_as_they_are(tmp_path, group):
    counter, loop = train(tmp_path, group)
    assert (counter.count, loop.steps_done) == (12, 12) and loop.seconds > 0
    assert logged(tmp_path) == [{"step": step, "loss": loss, "rate": 0.5 / step} for step, loss in (
        (3, 2), (4, 4), (5, 5), (8, 7), (9, 9), (11, 10.5), (12, 12))]
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-12.pt"]


@pytest.mark.parametrize("kill", range(0, 12, 3))
def test_a_killed_training_goes_on_from_its_last_state(tmp_path, kill):
    train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", steps_to_live=kill)
    assert train(tmp_path / "killed")[0].count == 12
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")


def test_a_resumed_stage_says_so_and_a_finished_one_says_nothing(tmp_path, capfd):
    train(tmp_path, stages=[("only", 5)])
    assert capfd.readouterr().out.startswith("only: 5 steps in ")
    train(tmp_path, stages=[("only", 5)])
    assert capfd.readouterr() == ("", "")
    counter = Counter()
    loop = TrainingLoop({"counter": counter}, open_run(tmp_path, BaseConfig(), {}), ALONE)
    loop.train("only", 9, 2, counter.step, finished=lambda: loop.step == 7)
    said = capfd.readouterr()
    assert said.out.startswith("only: resumes after 5 of 9 steps\nonly: 2 steps in ") and not said.err


def test_the_first_process_alone_evaluates_logs_and_saves(tmp_path):
    def evaluate(done, is_last):
        return {"last" if is_last else "even": 1.0} if is_last or done % 2 == 0 else {}

    train(tmp_path, stages=[("only", 5)], evaluate=evaluate)
    assert [[name for name in row if name in ("step", "even", "last")] for row in logged(tmp_path)] == [
        ["step", "even"], ["step"], ["step", "even"], ["step", "last"]]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "latest.json").unlink()
    counter, _ = train(tmp_path, OneOfTwo(1, 2, CPU), stages=[("only", 5)], evaluate=lambda *_: pytest.fail("called"))
    assert counter.count == 5
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}.items() <= before.items()


def test_without_a_run_nothing_is_written(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert train(None, finished=lambda: False)[0].count == 12
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "")


def test_a_diverged_state_is_not_saved(tmp_path):
    with pytest.raises(UserError, match=r"not finite at step 3 of 'first' \(second_loss\)"):
        train(tmp_path, train_step=lambda step: {"loss": torch.tensor(1.0), "second_loss": torch.tensor(1 / (2 - step))
                                                 if step != 2 else torch.tensor(torch.inf)})
    assert not (tmp_path / "metrics.jsonl").exists() and not list(tmp_path.glob("state-*"))


def test_states_of_more_processes_or_of_another_training_are_refused(tmp_path):
    train(tmp_path)
    run = open_run(tmp_path, BaseConfig(), {})
    with pytest.raises(UserError, match="begun with 1 processes, now there are 2"):
        TrainingLoop({"counter": Counter()}, run, OneOfTwo(1, 2, CPU))
    with pytest.raises(UserError, match="the saved state does not fit this model"):
        TrainingLoop({"model": torch.nn.Linear(1, 1)}, run, ALONE)
