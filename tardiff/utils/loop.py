"""The training loop of the denoiser, the classifiers and the baselines: resumable, on one process or many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tardiff.utils.distributed import ProcessGroup
from tardiff.utils.errors import UserError, naming_memory
from tardiff.utils.logging import Run
from tardiff.utils.progress import progress


class TrainingLoop:
    """Steps, in one stage or several, from the newest state of the run folder on.

    `parts` is what a state holds, by name: modules, optimisers, or what else has state_dict and load_state_dict.
    `stage`, `step` (in the stage), `steps_done` (in all stages) and `seconds` tell how far the training is, and `bar`,
    that of the stage, shows it. Metrics are logged every `log_every` steps of a stage, states are saved every
    `checkpoint_every`, and both at its end; without a run, and by processes other than the first, nothing is written.
    Raises UserError if the state does not fit the parts, or was made by another number of processes: they draw other
    batches; and where memory runs out, naming `batch_setting`.
    """

    def __init__(self, parts: Mapping[str, Any], run: Run | None, group: ProcessGroup,
                 log_every: int = 1, checkpoint_every: int = 1, batch_setting: str = "training.batch_size") -> None:
        self.parts, self.group = parts, group
        self.run = run if group.is_main else None
        self.log_every, self.checkpoint_every = log_every, checkpoint_every
        self.batch_setting = batch_setting
        self.stage = self.step = self.steps_done = 0
        self.seconds = 0.0
        if run is not None:
            self._restore(run)

    def train(self, name: str, steps: int, batch_size: int, train_step: Callable[[int], Mapping[str, Tensor | float]],
              finished: Callable[[], bool] = lambda: False,
              evaluate: Callable[[int, bool], dict[str, float]] = lambda done, is_last: {}, unit: str = "step") -> None:
        """Train until `steps` steps of the stage are done, or it is `finished`.

        train_step(step) does a step, 0-based, on `batch_size` series, and returns what to log: tensors, of which the
        mean since the last log counts, and numbers as they are. evaluate(done, is_last) returns what to log beside it;
        the first process alone calls it, after each step. Raises UserError if a loss is not finite.
        """
        if self.step >= steps or finished():
            return
        window, clock, is_last = [], time.perf_counter(), False
        with progress(name, steps, unit, self.step, shown=self.run is not None) as bar:
            self.bar = bar
            while not is_last:
                with naming_memory(self.batch_setting):
                    window.append(_detached(train_step(self.step)))
                self.step, self.steps_done = self.step + 1, self.steps_done + 1
                bar.update()

                is_last = self.step >= steps or finished()
                saves = is_last or self.step % self.checkpoint_every == 0
                logs = saves or self.step % self.log_every == 0  # No mean spans a state: a resumed run logs the same.
                row = {}
                if logs:
                    row = self._means(window)
                    # A diverged state is never saved: no run could resume from it.
                    _require_finite(row, f"{unit} {self.step} of '{name}'")
                    seconds = time.perf_counter() - clock
                    self.seconds += seconds
                    row["series_per_second"] = len(window) * batch_size / seconds
                    window = []
                if self.run is not None:
                    row |= evaluate(self.step, is_last)
                    if row:
                        self.run.log(self.steps_done, **row)
                        bar.set_postfix({key: f"{value:.4g}" for key, value in row.items()})
                    if saves:
                        self._save(self.run)
                if logs:  # The clock stands still during evaluation and saving.
                    clock = time.perf_counter()
            bar.total = self.step  # An early end is an end.

    def next_stage(self) -> None:
        """Begin another stage, at its step 0."""
        self.stage, self.step = self.stage + 1, 0

    def _means(self, window: list[Mapping[str, Tensor | float]]) -> dict[str, float]:
        """Return the mean of each tensor over the steps that have it and over all processes, and each last number."""
        row = {}
        for name in dict.fromkeys(name for losses in window for name in losses):
            values = [losses[name] for losses in window if name in losses]
            if isinstance(values[-1], Tensor):
                mean = torch.stack(values).mean()
                row[name] = float(self.group.sum(mean)) / self.group.world_size
            else:
                row[name] = values[-1]
        return row

    def _save(self, run: Run) -> None:
        run.save_state(self.steps_done, {
            "stage": self.stage, "step": self.step, "steps_done": self.steps_done, "seconds": self.seconds,
            "world_size": self.group.world_size, **{name: part.state_dict() for name, part in self.parts.items()}})

    def _restore(self, run: Run) -> None:
        state = run.latest_state()
        if state is not None:
            try:
                if state["world_size"] != self.group.world_size:
                    raise UserError(f"{run.folder}: begun with {state['world_size']} processes, now there are "
                                    f"{self.group.world_size}. Resume with as many, or give another output folder.")
                for name, part in self.parts.items():
                    part.load_state_dict(state[name])
                self.stage, self.step, self.steps_done = state["stage"], state["step"], state["steps_done"]
                self.seconds = state["seconds"]
            except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
                raise UserError(f"{run.folder}: the saved state does not fit this model ({error}). Delete the folder "
                                "to start again.") from None
        if self.run is not None:
            self.run.rewind(self.steps_done)


def _detached(losses: Mapping[str, Tensor | float]) -> dict[str, Tensor | float]:
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in losses.items()}


def _require_finite(losses: dict[str, float], when: str) -> None:
    diverged = [name for name, value in losses.items() if not math.isfinite(value)]
    if diverged:
        raise UserError(f"the training loss is not finite at {when} ({', '.join(diverged)}). Lower learning_rate in "
                        "another output folder, or look for extreme values in the training data.")
