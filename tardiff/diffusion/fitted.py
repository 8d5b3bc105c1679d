"""A trained denoiser with everything that sampling needs, saved in and loaded from its run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tardiff.config import BaseConfig
from tardiff.data.format import Metadata
from tardiff.data.normalize import Normalizer
from tardiff.data.trained import WEIGHTS, TrainedWeights
from tardiff.diffusion.process import DiffusionProcess
from tardiff.models.unet1d import UNet1d
from tardiff.utils.checkpoint import fingerprint, load_weights
from tardiff.utils.logging import read_run_config


@dataclass(frozen=True)
class FittedDenoiser:
    """The averaged denoiser, its diffusion process, and of its data the normaliser, shape (L, C) and description.

    `has_unconditional` tells whether it was trained with hidden labels as well, as classifier-free guidance needs.
    """

    denoiser: nn.Module
    process: DiffusionProcess
    normalizer: Normalizer
    shape: tuple[int, int]
    meta: Metadata
    has_unconditional: bool = True

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def num_classes(self) -> int:
        return len(self.meta.classes)

    def save(self, folder: str | Path, config: BaseConfig) -> None:
        """Write what `load` reads to the run folder that was begun with `config`."""
        TrainedWeights(self.denoiser.state_dict(), self.normalizer, self.shape, self.meta).save(folder, config)

    @staticmethod
    def load(folder: str | Path, device: torch.device) -> FittedDenoiser:
        """Load a run folder. Raises UserError if the run is unfinished, damaged or its files do not belong together."""
        config = read_run_config(folder, BaseConfig)
        trained = TrainedWeights.load(folder, config, "denoiser", "tardiff train")
        denoiser = UNet1d(len(trained.meta.channels), len(trained.meta.classes), config.model)
        load_weights(denoiser, trained.weights, Path(folder) / WEIGHTS)
        return FittedDenoiser(denoiser.to(device).eval().requires_grad_(False), DiffusionProcess(config.diffusion),
                              trained.normalizer, trained.shape, trained.meta, config.training.label_dropout > 0)

    def fingerprint(self) -> str:
        """Return a hash of the weights and the normaliser."""
        return fingerprint(self.denoiser.state_dict(), self.normalizer.fingerprint())
