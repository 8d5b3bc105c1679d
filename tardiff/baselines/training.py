"""How every baseline is trained and sampled: stage after stage, resumable at any step, and then in raw units."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tardiff.baselines.interface import Scaler, Stage, TrainingState
from tardiff.config import BaselineConfig
from tardiff.data.format import Dataset
from tardiff.data.normalize import Normalizer
from tardiff.sampling.generate import generate_dataset, label_plan
from tardiff.utils.checkpoint import fingerprint, load_tensors, load_weights, save_tensors, write_json
from tardiff.utils.distributed import ProcessGroup, resolve_device
from tardiff.utils.errors import UserError
from tardiff.utils.logging import open_run, require_settings, settings_record
from tardiff.utils.loop import TrainingLoop
from tardiff.utils.seeding import seed_torch

WITHOUT_EFFECT = ("data", "name", "output", "synthetic", "device", "budget", "sampling_batch_size", "log_every",
                  "checkpoint_every")
"""Settings that change neither the weights nor the series."""


class BaselineRun:
    """A baseline on its training rows: `train` it, then `sample` it.

    baseline: a module with `build`, such as `tardiff.baselines.timevae`. Gaps in the rows are filled with the median of
    the channel. `stages` and `parameters` tell the size of the training, and `labels` (N,) int64 is the label plan of
    the synthetic dataset.
    """

    def __init__(self, baseline: ModuleType, dataset: Dataset, config: BaselineConfig) -> None:
        self.name, self.dataset, self.config = baseline.__name__.rpartition(".")[2], dataset, config
        self.device = resolve_device(config.device)
        self.sample_seed = config.seed if config.sample_seed is None else config.sample_seed
        self.labels = label_plan(config.labels, config.num_samples, dataset.train.y, dataset.meta.classes)
        seed_torch(config.seed, "baseline", "initialisation")
        self.model = baseline.build(config, *dataset.shape, dataset.num_classes).to(self.device)
        self.scaler = Scaler(self.model.scaling, *dataset.shape, dataset.num_classes, self.model.scaled_per_class)
        raw = dataset.train.x
        x = torch.from_numpy(np.where(np.isnan(raw), Normalizer.fit("zscore", raw).fill.astype(np.float32), raw))
        y = torch.from_numpy(dataset.train.y)
        self.scaler.fit(x, y)
        self.scaler.to(self.device)
        self.y = y.to(self.device)
        self.x = self.scaler(x.to(self.device), self.y)
        self.model.observe(self.x, self.y)
        self.stages = self.model.stages()
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def train(self, folder: str | Path) -> None:
        """Train through all stages, resuming from the run folder, and write the weights and `budget.json`.

        The batches of a step depend on (seed, stage, step) alone, so a resumed run equals an uninterrupted one. Raises
        UserError if the settings are not those of the run folder, and if a loss is not finite.
        """
        weights = Path(folder) / "model.safetensors"
        # A finished run keeps the settings that it was trained and first sampled with.
        run = open_run(folder, self.config, {"train": self.dataset.train.fingerprint()}, main=not weights.exists())
        if weights.exists():
            tensors, record = load_tensors(weights, "settings")
            require_settings(folder, self.config, record["settings"])
            load_weights(self._whole(), tensors, weights)
            return
        loop = TrainingLoop({"baseline": TrainingState(self.model)}, run, ProcessGroup(0, 1, self.device),
                            self.config.log_every, self.config.checkpoint_every, batch_setting="batch_size")
        while loop.stage < len(self.stages):
            self._train_stage(self.stages[loop.stage], loop)
            loop.next_stage()
        write_json(run.folder / "budget.json", {
            "budget": self.config.budget, "iterations": loop.steps_done, "optimiser_steps": self._optimiser_steps(),
            "training_seconds": loop.seconds, "device": str(self.device), "parameters": self.parameters,
            "stages": [{"name": stage.name, "most_iterations": stage.steps, "batch_size": stage.batch_size}
                       for stage in self.stages]})
        save_tensors(weights, self._whole().state_dict(), {"settings": settings_record(self.config)})
        run.close()

    @torch.no_grad()
    def sample(self, labels: np.ndarray | Tensor, seed: int, samples: Tensor | None = None) -> np.ndarray:
        """Return series (B, L, C) float32 in raw units of the classes `labels` (B,) int64.

        samples (B,) int64: their numbers, 0 to B - 1 if not given; series i depends on (seed, i) and its label alone.
        Raises UserError if a series is not finite.
        """
        self.model.eval()
        labels = torch.as_tensor(labels, device=self.device)
        samples = torch.arange(len(labels), device=self.device) if samples is None else samples.to(self.device)
        size = self.config.sampling_batch_size
        chunks = [self.scaler.inverse(self.model.sample(labels_of, samples_of, seed), labels_of)
                  for labels_of, samples_of in zip(labels.split(size), samples.split(size), strict=True)]
        series = torch.cat(chunks)
        finite = torch.isfinite(series).flatten(1).all(dim=1)
        if not finite.all():
            raise UserError(f"series {int(samples[~finite][0])} is not finite: the training diverged. Lower the "
                            "learning rate, and train again in another output folder.")
        return series.float().cpu().numpy()

    def write_samples(self, folder: str | Path) -> None:
        """Sample the label plan into the dataset folder `folder`, resuming.

        Raises UserError if the folder holds series of another model or of other settings of sampling.
        """
        config = self.config
        inputs = {"baseline": self.name, "weights": fingerprint(self._whole().state_dict()),
                  "train": self.dataset.train.fingerprint(), **sampling_settings(config),
                  "sample_seed": self.sample_seed}
        try:
            open_run(folder, config, inputs, record="provenance.json")
        except UserError as error:
            raise UserError(f"{error}\nThe trained {self.name} is kept: synthetic={config.output}/NAME samples it into "
                            "another folder.") from None
        generate_dataset(lambda labels, samples: self.sample(labels, self.sample_seed, samples), self.labels,
                         config.sampling_batch_size, folder, self.dataset.shape, self.dataset.meta.of_synthetic(),
                         ProcessGroup(0, 1, self.device), setting="sampling_batch_size")

    def _train_stage(self, stage: Stage, loop: TrainingLoop) -> None:
        of_stage = torch.ones_like(self.y, dtype=torch.bool) if stage.label is None else self.y == stage.label
        rows = torch.nonzero(of_stage)[:, 0]

        def draw() -> tuple[Tensor, Tensor]:
            chosen = rows[torch.randint(len(rows), (stage.batch_size,), device=rows.device)]
            return self.x[chosen], self.y[chosen]

        def train_step(step: int) -> dict[str, Tensor]:
            seed_torch(self.config.seed, "baseline", loop.stage, step)
            return self.model.train_step(stage, step, draw)

        if loop.step == 0:
            seed_torch(self.config.seed, "baseline", loop.stage, "begin")
            self.model.begin(stage, self.x[rows], self.y[rows])
        self.model.train()
        loop.train(f"{self.name}, {stage.name}", stage.steps, stage.batch_size, train_step,
                   lambda: self.model.finished(stage))

    def _optimiser_steps(self) -> int:
        """Return how often all optimisers have stepped, as each of them counts; an iteration may take several steps."""
        return sum(max((int(state["step"]) for state in optimizer.state.values()), default=0)
                   for optimizer in self.model.optimizers.values())

    def _whole(self) -> nn.ModuleDict:
        return nn.ModuleDict({"model": self.model, "scaler": self.scaler})


def sampling_settings(config: BaselineConfig) -> dict[str, Any]:
    """Return the settings that decide the series that a trained model is sampled into, by name."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)
            if not field.metadata.get("semantic", True) and field.name not in WITHOUT_EFFECT}
