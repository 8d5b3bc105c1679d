"""A trained denoiser with everything that sampling needs, saved in and loaded from its run folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from tardiff.config import BaseConfig
from tardiff.data.format import Metadata, read_metadata
from tardiff.data.normalize import Normalizer
from tardiff.diffusion.process import DiffusionProcess
from tardiff.models.unet1d import UNet1d
from tardiff.utils.checkpoint import fingerprint, load_tensors, load_weights, save_tensors, write_json
from tardiff.utils.errors import UserError
from tardiff.utils.logging import read_run_config

DESCRIPTION = "dataset.json"
"""Of a run folder: the metadata of the dataset that its model was trained on."""


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

    def save(self, folder: str | Path) -> None:
        """Write `dataset.json`, `normalizer.json` and `model.safetensors`, whose metadata record what belongs to it."""
        write_json(Path(folder) / DESCRIPTION, asdict(self.meta))
        self.normalizer.save(Path(folder) / "normalizer.json")
        save_tensors(Path(folder) / "model.safetensors", self.denoiser.state_dict(), {
            "length": str(self.shape[0]), "channels": str(self.shape[1]), "classes": str(self.num_classes),
            "normalizer": self.normalizer.fingerprint()})

    @staticmethod
    def load(folder: str | Path, device: torch.device) -> FittedDenoiser:
        """Load a run folder. Raises UserError if the run is unfinished, damaged or its files do not belong together."""
        folder = Path(folder)
        config = read_run_config(folder, BaseConfig)
        path = folder / "model.safetensors"
        if not path.exists():
            raise UserError(f"{path}: file not found; the training of this run has not finished. Run train.sh again "
                            "with the same configuration, and it resumes.")
        tensors, metadata = load_tensors(path, "length", "channels", "classes", "normalizer")
        normalizer = Normalizer.load(folder / "normalizer.json")
        if metadata["normalizer"] != normalizer.fingerprint():
            raise UserError(f"{folder}: normalizer.json is not the one the denoiser was trained with. Restore the run "
                            "folder, or train again.")
        meta = read_metadata(folder / DESCRIPTION)
        length, channels, classes = (int(metadata[name]) for name in ("length", "channels", "classes"))
        if (channels, classes) != (len(meta.channels), len(meta.classes)):
            raise UserError(f"{folder / DESCRIPTION}: not of the dataset that the denoiser was trained on. Restore the "
                            "run folder, or train again.")
        denoiser = UNet1d(channels, classes, config.model)
        load_weights(denoiser, tensors, path)
        return FittedDenoiser(denoiser.to(device).eval().requires_grad_(False), DiffusionProcess(config.diffusion),
                              normalizer, (length, channels), meta, config.training.label_dropout > 0)

    def fingerprint(self) -> str:
        """Return a hash of the weights and the normaliser."""
        return fingerprint(self.denoiser.state_dict(), self.normalizer.fingerprint())
