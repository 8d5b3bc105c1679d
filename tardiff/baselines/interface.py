"""What a baseline is: stages to train, one step at a time, and samples that depend on their number alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Draw = Callable[[], tuple[Tensor, Tensor]]
"""draw() -> a fresh random batch (x (B, L, C) float32 scaled, y (B,) int64) of the stage's rows."""


@dataclass(frozen=True)
class Stage:
    """A part of the training: its name, the most iterations it takes, the rows of a batch, and the class whose rows it
    sees (None: all classes), with the stage of that class's own model."""

    name: str
    steps: int
    batch_size: int
    label: int | None = None
    inner: Stage | None = None


class Scaler(nn.Module):
    """An invertible affine map of series (N, L, C), fitted on the training rows and saved with the weights.

    kind: `unit` maps the range of each channel to [0, 1], `unit_per_step` that of each time step and channel,
    `symmetric` the range of each channel to [-1, 1], and `zscore` gives each channel mean 0 and standard deviation 1.
    A channel, or cell, that is constant in training maps to 0. per_class: each class has its own map, fitted on its own
    rows; otherwise all share one.
    """

    def __init__(self, kind: str, length: int, num_channels: int, num_classes: int, per_class: bool) -> None:
        super().__init__()
        self.kind, self.per_class = kind, per_class
        for name, value in (("shift", 0.0), ("scale", 1.0)):
            self.register_buffer(name, torch.full((num_classes, length, num_channels), value))

    def fit(self, x: Tensor, y: Tensor) -> None:
        """Fit on x (N, L, C) in raw units, without NaN, with rows of every class in y (N,)."""
        for label in range(len(self.shift)):
            self._fit_class(label, x[y == label] if self.per_class else x)

    def _fit_class(self, label: int, x: Tensor) -> None:
        x = x.double()
        axes = (0,) if self.kind == "unit_per_step" else (0, 1)
        if self.kind == "zscore":
            shift, scale = x.mean(dim=axes), x.std(dim=axes, correction=0)
        else:
            shift, scale = x.amin(dim=axes), x.amax(dim=axes) - x.amin(dim=axes)
            if self.kind == "symmetric":
                shift, scale = shift + scale / 2, scale / 2
        self.shift[label] = shift
        self.scale[label] = torch.where(scale > 0, scale, torch.ones_like(scale))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scale x (N, L, C) of the classes y (N,)."""
        return (x - self.shift[y]) / self.scale[y]

    def inverse(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x (N, L, C) of the classes y (N,) to raw units."""
        return x * self.scale[y] + self.shift[y]


class Baseline(nn.Module, ABC):
    """A generative model of scaled series.

    Its `state_dict` holds all that sampling needs. `optimizers` are saved with it while it trains, as is what
    `extra_state` returns: counters, schedules.
    """

    scaling: str = "zscore"
    """The kind of `Scaler` that its publication uses."""

    scaled_per_class: bool = False
    """Whether each class has a scaler of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    @abstractmethod
    def stages(self) -> list[Stage]:
        """Return the stages of training, in order."""

    def observe(self, x: Tensor, y: Tensor) -> None:
        """See all training rows x (N, L, C) scaled, y (N,), at every start of the command, before training or sampling:
        for what follows from the data and is not saved."""

    def begin(self, stage: Stage, x: Tensor, y: Tensor) -> None:
        """Prepare a stage, once, on its rows x (N, L, C) scaled, y (N,)."""

    @abstractmethod
    def train_step(self, stage: Stage, step: int, draw: Draw) -> dict[str, Tensor]:
        """Do iteration `step` (0-based) of a stage and return its losses by name, each a scalar. All randomness comes
        from torch's seeded generators."""

    def finished(self, stage: Stage) -> bool:
        """Tell whether a stage ends before its last step."""
        return False

    def extra_state(self) -> dict[str, Any]:
        """Return numbers, strings and tensors, beside weights and optimisers, that training resumes from."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `extra_state` returned."""

    @abstractmethod
    def sample(self, labels: Tensor, samples: Tensor, seed: int) -> Tensor:
        """Return scaled series (B, L, C) float32 of the classes `labels` (B,) int64.

        samples (B,) int64: the numbers of the series in the synthetic dataset. Series i depends on (seed, i) and its
        label alone: draw with `tardiff.sampling.noise.NoiseStream(derive_seed(seed, "purpose"), samples, shape)`.
        """


class TrainingState:
    """What a baseline resumes from: weights, optimisers and extra state."""

    def __init__(self, model: Baseline) -> None:
        self.model = model

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "extra": self.model.extra_state(),
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.model.optimizers.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for name, optimizer in self.model.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.model.load_extra_state(state["extra"])


class PerClass(Baseline):
    """One unconditional model per class, scaled and trained on the rows of its class alone (paper, 'Baselines')."""

    scaled_per_class = True

    def __init__(self, models: list[Baseline]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.scaling = models[0].scaling
        self.optimizers = {f"{label}.{name}": optimizer for label, model in enumerate(models)
                           for name, optimizer in model.optimizers.items()}

    def stages(self) -> list[Stage]:
        return [Stage(f"class {label}: {stage.name}", stage.steps, stage.batch_size, label, stage)
                for label, model in enumerate(self.models) for stage in model.stages()]

    def observe(self, x: Tensor, y: Tensor) -> None:
        for label, model in enumerate(self.models):
            model.observe(x[y == label], y[y == label])

    def begin(self, stage: Stage, x: Tensor, y: Tensor) -> None:
        self.models[stage.label].begin(stage.inner, x, y)

    def train_step(self, stage: Stage, step: int, draw: Draw) -> dict[str, Tensor]:
        return self.models[stage.label].train_step(stage.inner, step, draw)

    def finished(self, stage: Stage) -> bool:
        return self.models[stage.label].finished(stage.inner)

    def extra_state(self) -> dict[str, Any]:
        return {str(label): model.extra_state() for label, model in enumerate(self.models)}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        for label, model in enumerate(self.models):
            model.load_extra_state(state[str(label)])

    def sample(self, labels: Tensor, samples: Tensor, seed: int) -> Tensor:
        rows = [torch.nonzero(labels == label)[:, 0] for label in range(len(self.models))]
        series = torch.cat([model.sample(labels[part], samples[part], seed)
                            for part, model in zip(rows, self.models, strict=True) if len(part)])
        return series[torch.argsort(torch.cat(rows))]
