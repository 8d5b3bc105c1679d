"""Simple rules that make new series from training series of the same class, without a model to train.

A generator that does not beat them is not worth its training.

- `oversample` repeats training series.
- `jitter` adds white noise, and `scaling` multiplies each channel by a random factor near 1 (Um et al. 2017, 'Data
  augmentation of wearable sensor data for Parkinson's disease monitoring using convolutional neural networks'), both in
  z-scored units.
- `time_warp` reads the series along a random, increasing curve of time (Um et al. 2017), here piecewise linear between
  evenly spaced knots, where they use a cubic spline.
- `smote` interpolates between a series and one of its nearest neighbours of the same class (Chawla et al. 2002, 'SMOTE:
  Synthetic Minority Over-sampling Technique'), on flattened z-scored series.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tardiff.baselines.interface import Baseline, Draw, Stage
from tardiff.config import BaselineConfig
from tardiff.sampling.noise import NoiseStream
from tardiff.utils.seeding import derive_seed
from tardiff.utils.settings import setting

RULES = ("oversample", "jitter", "scaling", "time_warp", "smote")

Normal = Callable[..., Tensor]
"""normal(purpose, *shape) -> standard normal draws (B, *shape), one stream per purpose and series."""


@dataclass(frozen=True)
class Config(BaselineConfig):
    """Simple rules."""

    output: str = setting("runs/${name}/baselines/rules", "Run folder of the training.", semantic=False)
    budget: str = setting("no training", "A name for the size of the training.", semantic=False)
    rule: str = setting("jitter", "The rule.", choices=RULES)
    strength: float = setting(0.1, "Standard deviation of the noise (jitter), of the factors (scaling) or of the "
                                   "logarithm of the pace (time_warp).", low=0)
    knots: int = setting(4, "time_warp: pieces of constant pace.", low=1)
    neighbours: int = setting(5, "smote: nearest neighbours to choose from.", low=1)


class Rule(Baseline):
    """A rule, which sees the training rows at every start and saves nothing of them."""

    scaling = "zscore"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def stages(self) -> list[Stage]:
        return []

    def observe(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def train_step(self, stage: Stage, step: int, draw: Draw) -> dict[str, Tensor]:
        return {}

    def sample(self, labels: Tensor, samples: Tensor, seed: int) -> Tensor:
        def normal(purpose: str, *shape: int) -> Tensor:
            return NoiseStream(derive_seed(seed, purpose), samples, shape)(0)

        source = torch.empty_like(labels)
        for label in labels.unique():
            rows, of_label = torch.nonzero(self.y == label)[:, 0], labels == label
            source[of_label] = rows[_integers(normal("source", 1, 1)[of_label, 0, 0], len(rows))]
        return getattr(self, f"_{self.config.rule}")(source, normal)

    def _oversample(self, source: Tensor, normal: Normal) -> Tensor:
        return self.x[source]

    def _jitter(self, source: Tensor, normal: Normal) -> Tensor:
        return self.x[source] + self.config.strength * normal("noise", *self.x.shape[1:])

    def _scaling(self, source: Tensor, normal: Normal) -> Tensor:
        return self.x[source] * (1 + self.config.strength * normal("factor", 1, self.x.shape[2]))

    def _time_warp(self, source: Tensor, normal: Normal) -> Tensor:
        length = self.x.shape[1]
        pace = torch.exp(self.config.strength * normal("pace", 1, self.config.knots)[:, 0])
        piece = torch.arange(length - 1, device=source.device) * self.config.knots // max(length - 1, 1)
        elapsed = torch.nn.functional.pad(pace[:, piece].cumsum(dim=1), (1, 0))
        time = elapsed / elapsed[:, -1:].clamp(min=1e-12) * (length - 1)
        before = time.floor().long().clamp(max=max(length - 2, 0))
        after = (before + 1).clamp(max=length - 1)
        share = (time - before)[..., None]
        rows = torch.arange(len(source), device=source.device)[:, None]
        series = self.x[source]
        return (1 - share) * series[rows, before] + share * series[rows, after]

    def _smote(self, source: Tensor, normal: Normal) -> Tensor:
        choice, share = normal("neighbour", 1, 1)[:, 0, 0], _uniform(normal("share", 1, 1))
        partner = source.clone()
        for label in self.y[source].unique():
            rows, of_label = (torch.nonzero(y == label)[:, 0] for y in (self.y, self.y[source]))
            count = min(self.config.neighbours, len(rows) - 1)
            if count == 0:
                continue
            for part in of_label.split(1024):
                # This mode keeps rounding from choosing the neighbours.
                distance = torch.cdist(self.x[source[part]].flatten(1), self.x[rows].flatten(1),
                                       compute_mode="donot_use_mm_for_euclid_dist")
                distance[source[part][:, None] == rows] = torch.inf
                nearest = distance.topk(count, largest=False).indices
                chosen = nearest.gather(1, _integers(choice[part], count)[:, None])[:, 0]
                partner[part] = rows[chosen]
        return torch.lerp(self.x[source], self.x[partner], share)


def _uniform(normal: Tensor) -> Tensor:
    return torch.special.ndtr(normal.double()).float()


def _integers(normal: Tensor, count: int) -> Tensor:
    """Turn standard normal draws into uniform integers in 0..count-1."""
    return (torch.special.ndtr(normal.double()) * count).long().clamp(max=count - 1)


def build(config: Config, length: int, num_channels: int, num_classes: int) -> Rule:
    """Return the rule of the configuration."""
    return Rule(config)
