"""Stage 1: train the label-conditional denoiser."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tardiff.cli import repository_path, run_stage
from tardiff.config import BaseConfig, SamplerConfig
from tardiff.data.format import Dataset, read_dataset
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import halve_validation
from tardiff.diffusion.fitted import FittedDenoiser
from tardiff.diffusion.process import DiffusionProcess
from tardiff.diffusion.trainer import train_denoiser
from tardiff.models.unet1d import UNet1d
from tardiff.sampling.generate import sample_series
from tardiff.utils.distributed import Processes, processes
from tardiff.utils.errors import UserError
from tardiff.utils.figures import channel_bands
from tardiff.utils.logging import open_run, saved_step
from tardiff.utils.seeding import seed_torch


def main(config: BaseConfig, dry_run: bool) -> None:
    if dry_run and not Path(config.data).is_dir():
        describe_without_data(config)
        return
    dataset = read_dataset(config.data, ("train", "val"))
    check_expectations(config, dataset)
    with processes(config.device) as workers:
        seed_torch(config.seed, "denoiser", "initialisation")
        denoiser = UNet1d(dataset.shape[1], dataset.num_classes, config.model)
        if workers.is_main:
            print(f"denoiser: {count_parameters(denoiser):,} parameters; {len(dataset.train):,} training series of shape "
                  f"{dataset.shape}, {dataset.num_classes} classes; on {workers.world_size} x {workers.device}")
        if not dry_run:
            train(config, dataset, denoiser, workers)


def train(config: BaseConfig, dataset: Dataset, denoiser: UNet1d, workers: Processes) -> None:
    normalizer = Normalizer.fit(config.normalizer, dataset.train.x)
    _, selection = halve_validation(dataset.val)
    done = saved_step(config.output)
    if done > config.training.steps:
        raise UserError(f"{config.output}: trained for {done} steps already, training.steps={config.training.steps} asks for "
                        "fewer. Give another output folder.")
    run = open_run(config.output, config, {"train": dataset.train.fingerprint(), "val": dataset.val.fingerprint()},
                   workers.is_main)
    process = DiffusionProcess(config.diffusion)
    parts = [(torch.from_numpy(normalizer.transform(part.x)), torch.from_numpy(part.y))
             for part in (dataset.train, selection)]

    def fitted(network: nn.Module) -> FittedDenoiser:
        return FittedDenoiser(network, process, normalizer, dataset.shape, dataset.num_classes)

    def preview(network: nn.Module):
        """Real beside sampled series, 64 per class."""
        labels = torch.arange(dataset.num_classes, device=workers.device).repeat_interleave(64)
        series = sample_series(fitted(network), labels, torch.arange(len(labels), device=workers.device), config.seed,
                               SamplerConfig(num_inference_steps=20), None)
        real = (dataset.train.x, dataset.train.y)
        return channel_bands({"real": real, "sampled": (normalizer.inverse(series.cpu().numpy()), labels.cpu().numpy())},
                             dataset.meta.channels, dataset.meta.units, dataset.meta.classes)

    average = train_denoiser(denoiser, process, *parts, config.training, config.seed, run, workers, preview)
    if workers.is_main:
        fitted(average).save(run.folder)
        what = "already trained" if done == config.training.steps else "trained"
        print(f"{what} for {config.training.steps:,} steps; written to {config.output}")


def check_expectations(config: BaseConfig, dataset: Dataset) -> None:
    """Raise UserError if the dataset is not what the configuration was made for."""
    found = {"length": dataset.shape[0], "channels": dataset.shape[1], "classes": dataset.num_classes}
    wrong = [f"expect.{name}={value}, the dataset has {found[name]}" for name, value in vars(config.expect).items()
             if value is not None and value != found[name]]
    if wrong:
        raise UserError(f"{config.data}: not the dataset this configuration was made for: {'; '.join(wrong)}.")


def describe_without_data(config: BaseConfig) -> None:
    print(f"settings are valid. Missing input: dataset {config.data}.")
    if None not in vars(config.expect).values():
        denoiser = UNet1d(config.expect.channels, config.expect.classes, config.model)
        print(f"denoiser: {count_parameters(denoiser):,} parameters for series of shape "
              f"({config.expect.length}, {config.expect.channels}), {config.expect.classes} classes")


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    run_stage(BaseConfig, main, "Train the label-conditional denoiser (stage 1).",
              repository_path("configs/base/simulated.yaml"))
