"""Stage 1: train the label-conditional denoiser."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import nn

from tardiff.config import BaseConfig, SamplerConfig
from tardiff.data.format import Dataset, read_dataset
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import halve_validation
from tardiff.diffusion.fitted import FittedDenoiser, models_mask
from tardiff.diffusion.gaussian import GaussianDenoiser
from tardiff.diffusion.process import DiffusionProcess
from tardiff.diffusion.trainer import train_denoiser
from tardiff.models.unet1d import UNet1d
from tardiff.sampling.generate import sample_series
from tardiff.utils.distributed import ProcessGroup, process_group
from tardiff.utils.errors import UserError
from tardiff.utils.figures import channel_bands
from tardiff.utils.logging import open_run, saved_step
from tardiff.utils.seeding import seed_torch

PREVIEWED, REAL_PREVIEWED = 256, 5000
"""Series that a preview samples, and real ones that it draws beside them, at most."""


def run(config: BaseConfig, dry_run: bool) -> None:
    """Train the denoiser of a run folder, resuming. Raises UserError if dataset and settings do not fit each other."""
    dataset = read_dataset(config.data, ("train", "val"))
    _check_expectations(config, dataset)
    with process_group(config.device) as group:
        seed_torch(config.seed, "denoiser", "initialisation")
        denoiser = new_denoiser(config, dataset)
        if group.is_main:
            size = sum(parameter.numel() for parameter in denoiser.parameters())
            masks = " and their masks" * denoiser.process.with_mask
            print(f"denoiser: {size:,} parameters; {len(dataset.train):,} training series of shape {dataset.shape}"
                  f"{masks}, {dataset.num_classes} classes; on {group.world_size} x {group.device}")
        if not dry_run:
            _train(config, dataset, denoiser, group)


def new_denoiser(config: BaseConfig, dataset: Dataset) -> GaussianDenoiser:
    """Return an untrained denoiser for a dataset, whose weights are drawn from the generator state."""
    mask = models_mask(config, dataset)
    signals = dataset.shape[0], dataset.shape[1] * (1 + mask)
    return GaussianDenoiser(UNet1d(signals[1], dataset.num_classes, config.model),
                            DiffusionProcess(config.diffusion, mask), signals,
                            GaussianDenoiser.num_components(len(dataset.train), signals))


def _train(config: BaseConfig, dataset: Dataset, denoiser: GaussianDenoiser, group: ProcessGroup) -> None:
    normalizer = Normalizer.fit(config.normalizer, dataset.observed)
    _, selection = halve_validation(dataset.val)
    done = saved_step(config.output)
    if done > config.training.steps:
        raise UserError(f"{config.output}: trained for {done} steps already, training.steps={config.training.steps} "
                        "asks for fewer. Give another output folder.")
    inputs = {"train": dataset.train.fingerprint(), "val": dataset.val.fingerprint()}
    run_folder = open_run(config.output, config, inputs, group.is_main)
    if done == config.training.steps and (run_folder.folder / "model.safetensors").exists():
        if group.is_main:
            print(f"already trained for {done:,} steps; {config.output}")
        return
    process = denoiser.process

    def fitted(denoiser: nn.Module) -> FittedDenoiser:
        return FittedDenoiser(denoiser, process, normalizer, dataset.shape, dataset.meta, mask=process.with_mask)

    def preview(denoiser: nn.Module) -> Figure:
        """Real beside sampled series, PREVIEWED at most."""
        per_class = max(1, min(64, PREVIEWED // dataset.num_classes))
        labels = torch.arange(dataset.num_classes, device=group.device).repeat_interleave(per_class)[:PREVIEWED]
        series = sample_series(fitted(denoiser), labels, torch.arange(len(labels), device=group.device), config.seed,
                               SamplerConfig(), None)
        rows = slice(None, None, -(-len(dataset.train) // REAL_PREVIEWED))
        real = (dataset.train.x[rows], dataset.train.y[rows])
        sampled = (dataset.meta.filled(fitted(denoiser).decode(series)), labels.cpu().numpy())
        return channel_bands({"real": real, "sampled": sampled}, dataset.meta.channels, dataset.meta.units,
                             dataset.meta.classes, dataset.meta.times(dataset.shape[0]))

    parts = [(fitted(denoiser).encode(part, config.seed), torch.from_numpy(part.y))
             for part in (dataset.train, selection)]
    denoiser.fit(*parts[0])
    average = train_denoiser(denoiser, process, *parts, config.training, config.seed, run_folder, group, preview)
    if group.is_main:
        fitted(average).save(run_folder.folder, config)
        print(f"trained for {config.training.steps:,} steps; written to {config.output}")


def _check_expectations(config: BaseConfig, dataset: Dataset) -> None:
    found = {"length": dataset.shape[0], "channels": dataset.shape[1], "classes": dataset.num_classes}
    wrong = [f"expect.{name}={value}, the dataset has {found[name]}" for name, value in vars(config.expect).items()
             if value is not None and value != found[name]]
    if wrong:
        raise UserError(f"{config.data}: not the dataset this configuration was made for: {'; '.join(wrong)}.")
