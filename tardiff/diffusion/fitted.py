"""A trained denoiser with everything that sampling needs, saved in and loaded from its run folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tardiff.config import BaseConfig
from tardiff.data.format import Dataset, Metadata, Split
from tardiff.data.normalize import Normalizer
from tardiff.data.trained import WEIGHTS, TrainedWeights
from tardiff.diffusion.gaps import analog_bits, borrowed, filled
from tardiff.diffusion.gaussian import GaussianDenoiser
from tardiff.diffusion.process import DiffusionProcess
from tardiff.models.unet1d import UNet1d
from tardiff.utils.checkpoint import fingerprint, load_weights
from tardiff.utils.logging import read_run_config


@dataclass(frozen=True)
class FittedDenoiser:
    """The averaged denoiser, its diffusion process, and of its data the normaliser, shape (L, C) and description.

    `has_unconditional` tells whether it was trained with hidden labels as well, as classifier-free guidance needs.
    With `mask` a series has 2C signals: its values, and its mask as `analog_bits`.
    """

    denoiser: nn.Module
    process: DiffusionProcess
    normalizer: Normalizer
    shape: tuple[int, int]
    meta: Metadata
    has_unconditional: bool = True
    mask: bool = False

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def num_classes(self) -> int:
        return len(self.meta.classes)

    @property
    def signals(self) -> tuple[int, int]:
        """(L, C), or (L, 2C) with the mask: the shape of what is diffused."""
        length, channels = self.shape
        return length, channels * (1 + self.mask)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest value of each signal among the training rows, on the device of the denoiser."""
        bits = np.ones(self.shape[1] * self.mask)
        return tuple(torch.tensor(np.concatenate([edge, sign * bits]), dtype=torch.float32, device=self.device)
                     for edge, sign in ((self.normalizer.low, -1), (self.normalizer.high, 1)))

    def encode(self, split: Split, seed: int) -> Tensor:
        """Return the signals (N, L, C or 2C) float32 of the rows of a split in raw units; without a mask all of their
        values were observed.

        `decode` leaves gaps out, so they hold what is easiest to learn, whatever rule filled them: straight lines
        between observations, and in a channel without any those of a series that the seed draws (`borrowed`).
        """
        if not self.mask or split.mask is None:
            values = torch.from_numpy(self.normalizer.transform(split.x))
            return torch.cat([values, torch.ones_like(values)], dim=2) if self.mask else values
        lines = replace(self.meta.imputation, rule="linear").fill(np.where(split.mask, split.x, np.float32(np.nan)))
        values = torch.from_numpy(borrowed(self.normalizer.transform(lines), split.mask, split.y, seed))
        return torch.cat([values, analog_bits(split.mask)], dim=2)

    def decode(self, signals: Tensor) -> np.ndarray:
        """Return series (B, L, C) float32 in raw units for signals (B, L, C or 2C), with NaN where a gap was drawn."""
        signals = signals.cpu().numpy()
        x = self.normalizer.inverse(signals[..., :self.shape[1]])
        return np.where(signals[..., self.shape[1]:] > 0, x, np.float32(np.nan)) if self.mask else x

    def read(self, signals: Tensor, with_mask: bool) -> Tensor:
        """Return what a classifier will read of the finished series, normalised, for signals (B, L, C or 2C): values
        (B, L, C), gaps filled by the rule of the dataset; `with_mask`, which takes 2C signals, (B, L, 2C), behind them
        their bits as 1 where observed, 0 where not.

        Gradients flow to the observed values that gaps are filled with, and to the bits; values in gaps have none. The
        rule `linear` draws its lines in normalised units, which under an ECDF bends them.
        """
        if not self.mask:
            return signals
        values, bits = signals.chunk(2, dim=2)
        finished = filled(values, bits > 0, self.meta.imputation.rule, self._medians)
        return torch.cat([finished, ((bits + 1) / 2).clamp(0, 1)], dim=2) if with_mask else finished

    @cached_property
    def _medians(self) -> Tensor:
        medians = np.array(self.meta.imputation.medians)[None, None]
        return torch.from_numpy(self.normalizer.transform(medians))[0, 0].to(self.device)

    def save(self, folder: str | Path, config: BaseConfig) -> None:
        """Write what `load` reads to the run folder that was begun with `config`."""
        record = {"mask": str(self.mask)}
        TrainedWeights(self.denoiser.state_dict(), self.normalizer, self.shape, self.meta, record).save(folder, config)

    @staticmethod
    def load(folder: str | Path, device: torch.device) -> FittedDenoiser:
        """Load a run folder. Raises UserError if the run is unfinished, damaged or its files do not belong together."""
        config = read_run_config(folder, BaseConfig)
        trained = TrainedWeights.load(folder, config, "denoiser", "tardiff train")
        mask = trained.record["mask"] == "True"
        length, channels = trained.shape
        signals = length, channels * (1 + mask)
        network = UNet1d(signals[1], len(trained.meta.classes), config.model)
        process, components = DiffusionProcess(config.diffusion), trained.weights.get("components", torch.empty(0))
        denoiser = GaussianDenoiser(network, process, signals, components.shape[-1])
        load_weights(denoiser, trained.weights, Path(folder) / WEIGHTS)
        return FittedDenoiser(denoiser.to(device).eval().requires_grad_(False), process, trained.normalizer,
                              trained.shape, trained.meta, config.training.label_dropout > 0, mask)

    def fingerprint(self) -> str:
        """Return a hash of the weights and the normaliser."""
        return fingerprint(self.denoiser.state_dict(), self.normalizer.fingerprint())


def models_mask(config: BaseConfig, dataset: Dataset) -> bool:
    """Tell whether a denoiser learns the mask of a dataset: it is asked to, there are gaps, and it is known how they
    were filled."""
    mask = dataset.train.mask
    return config.mask and dataset.meta.imputation is not None and mask is not None and not mask.all()
