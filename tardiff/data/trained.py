"""What a run folder holds of a trained model, denoiser or classifier alike: weights, normaliser, and data it was of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tardiff.data.format import Metadata, read_metadata
from tardiff.data.normalize import Normalizer
from tardiff.utils.checkpoint import fingerprint, load_tensors, save_tensors, write_json
from tardiff.utils.errors import UserError
from tardiff.utils.logging import require_settings, settings_record

WEIGHTS, NORMALIZER, DESCRIPTION = "model.safetensors", "normalizer.json", "dataset.json"


@dataclass(frozen=True)
class TrainedWeights:
    """Weights by name, of the training data the normaliser, the shape (L, C) and the metadata, and a `record` of the
    training."""

    weights: Mapping[str, Tensor]
    normalizer: Normalizer
    shape: tuple[int, int]
    meta: Metadata
    record: Mapping[str, str] = field(default_factory=dict)

    def save(self, folder: str | Path, config: Any) -> None:
        """Write the description, the normaliser and, last, the weights, whose metadata record what belongs to them:
        these two, and the settings of the training, which say how weights are read."""
        write_json(Path(folder) / DESCRIPTION, asdict(self.meta))
        self.normalizer.save(Path(folder) / NORMALIZER)
        save_tensors(Path(folder) / WEIGHTS, self.weights, {
            "length": str(self.shape[0]), "channels": str(self.shape[1]), "classes": str(len(self.meta.classes)),
            "normalizer": self.normalizer.fingerprint(), "description": fingerprint(asdict(self.meta)),
            "settings": settings_record(config), **self.record})

    @staticmethod
    def load(folder: str | Path, config: Any, what: str, command: str) -> TrainedWeights:
        """Read them. config: the settings in the run folder. what: the model, and command: what trains it, in messages.

        Raises UserError if the run is unfinished or damaged, or if its files do not belong together.
        """
        folder = Path(folder)
        path = folder / WEIGHTS
        if not path.exists():
            raise UserError(f"{path}: file not found; the training of this run has not finished. Run {command} again "
                            "with the same configuration, and it resumes.")
        weights, record = load_tensors(path, "length", "channels", "classes", "normalizer", "description", "settings")
        require_settings(folder, config, record["settings"])
        normalizer = Normalizer.load(folder / NORMALIZER)
        if record["normalizer"] != normalizer.fingerprint():
            raise UserError(f"{folder}: {NORMALIZER} is not the one the {what} was trained with. Restore the run "
                            "folder, or train again.")
        meta = read_metadata(folder / DESCRIPTION)
        if record["description"] != fingerprint(asdict(meta)):
            raise UserError(f"{folder / DESCRIPTION}: not of the dataset that the {what} was trained on. Restore the "
                            "run folder, or train again.")
        return TrainedWeights(weights, normalizer, (int(record["length"]), int(record["channels"])), meta, record)
