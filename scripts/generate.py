"""Stage 3: sample a synthetic dataset, steered by the classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from classifier.train import load_task
from tardiff.cli import repository_path, run_stage
from tardiff.config import BaseConfig, GenerationConfig
from tardiff.data.format import Dataset, Split, read_dataset
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import halve_validation
from tardiff.diffusion.fitted import FittedDenoiser
from tardiff.influence.gradient import cached_guidance_gradient, class_weights
from tardiff.influence.guidance import GuidanceFunction
from tardiff.influence.task import DownstreamTask
from tardiff.sampling.generate import chunk_sampler, generate_dataset, label_plan
from tardiff.sampling.samplers import Conditioning
from tardiff.utils.distributed import Processes, processes, resolve_device
from tardiff.utils.errors import UserError
from tardiff.utils.logging import open_run, read_run_config


def main(config: GenerationConfig, dry_run: bool) -> None:
    guided = config.guidance.objective != "none" and config.guidance.scale != 0
    needed = [config.data, config.base, *([config.classifier] if guided else [])]
    missing = [path for path in needed if not Path(path).is_dir()]
    if dry_run and missing:
        resolve_device(config.device)
        print(f"settings are valid. Missing input: {', '.join(missing)}.")
        return
    dataset = read_dataset(config.data, ("train", "val"))
    with processes(config.device) as workers:
        fitted = FittedDenoiser.load(config.base, workers.device)
        task = load_guide(config, fitted, workers) if guided else None
        check_shapes(config, fitted, dataset)
        half, _ = halve_validation(dataset.val)
        if task is not None:
            check_guidance(config, task, fitted, half, workers)
        labels = label_plan(config.labels, config.num_samples, dataset.train.y, dataset.num_classes, config.seed)
        if workers.is_main:
            print(f"{len(labels):,} series, {config.sampler.name}, guidance {config.guidance.objective}"
                  f"{f' x {config.guidance.scale:g}' if guided else ''}, on {workers.world_size} x {workers.device}")
        if dry_run:
            return
        guide = {"classifier": task.fingerprint(), "guidance data": dataset.val.fingerprint()} if guided else {}
        inputs = {"denoiser": fitted.fingerprint(), "labels": dataset.train.fingerprint(), **guide}
        open_run(config.output, config, inputs, workers.is_main, record="provenance.json")
        condition = guidance(config, task, fitted, dataset, half, workers) if task is not None else lambda labels: None
        if config.compile and workers.device.type == "cuda":
            fitted.denoiser.compile()
        sample = chunk_sampler(fitted, config.seed, config.sampler, condition, config.bf16)
        generate_dataset(sample, labels, config.batch_size, config.output, fitted.shape, dataset.meta, workers)
        if workers.is_main:
            print(f"written to {config.output}")


def load_guide(config: GenerationConfig, fitted: FittedDenoiser, workers: Processes) -> DownstreamTask:
    """Load the classifier and check that it reads what the denoiser writes."""
    task, metadata = load_task(config.classifier, workers.device)
    read, written = (metadata["length"], metadata["channels"], metadata["classes"]), (*fitted.shape, fitted.num_classes)
    if read != tuple(map(str, written)):
        raise UserError(f"{config.classifier}: reads (length, channels, classes) ({', '.join(read)}), but "
                        f"{config.base} writes {written}. Train both on the same data.")
    if metadata["normalizer"] != fitted.normalizer.fingerprint():
        raise UserError(f"{config.classifier}: trained with another normaliser than {config.base}. Train both on the same "
                        "data with the same 'normalizer' setting.")
    return task


def check_shapes(config: GenerationConfig, fitted: FittedDenoiser, dataset: Dataset) -> None:
    """Raise UserError if the dataset is not the one the denoiser was trained on, or if cfg_scale needs what it lacks."""
    if config.sampler.cfg_scale != 1 and read_run_config(config.base, BaseConfig).training.label_dropout == 0:
        raise UserError(f"sampler.cfg_scale={config.sampler.cfg_scale:g}: {config.base} was trained with label_dropout=0, so "
                        "it has no unconditional prediction. Use cfg_scale=1, or train with label_dropout above 0.")
    expected = Normalizer.fit(fitted.normalizer.kind, dataset.train.x).fingerprint()
    if (dataset.shape, dataset.num_classes) != (fitted.shape, fitted.num_classes) or (
            expected != fitted.normalizer.fingerprint()):
        raise UserError(f"{config.data}: not the dataset that {config.base} was trained on (shape {fitted.shape}, "
                        f"{fitted.num_classes} classes). Give that dataset as data=...")


def check_guidance(config: GenerationConfig, task: DownstreamTask, fitted: FittedDenoiser, half: Split,
                   workers: Processes) -> None:
    """Raise UserError if the classifier couples the series of a batch, or if the choice of guidance rows is empty."""
    task.check_independence(torch.from_numpy(fitted.normalizer.transform(half.x[:8])).to(workers.device))
    if config.guidance.objective != "classifier":
        class_weights(config.guidance.classes, np.bincount(half.y, minlength=fitted.num_classes).tolist())


def guidance(config: GenerationConfig, task: DownstreamTask, fitted: FittedDenoiser, dataset: Dataset, half: Split,
             workers: Processes):
    """Return condition(labels): the conditioning of a chunk, with G computed or read from the classifier's folder."""
    options, direction = config.guidance, None
    if options.objective != "classifier":
        x, y = torch.from_numpy(fitted.normalizer.transform(half.x)), torch.from_numpy(half.y)
        gradient = cached_guidance_gradient(config.classifier, task, x, y, dataset.num_classes, len(dataset.train), workers)
        if workers.is_main:
            print("norm of the mean guidance gradient:", dict(zip(dataset.meta.classes, gradient.norms(), strict=True)))
        direction = gradient.direction(options.classes, options.normalization)
        direction = {name: value.to(workers.device) for name, value in direction.items()}

    def condition(labels: Tensor) -> Conditioning:
        function = GuidanceFunction(task, labels, options.objective, direction, options.influence_weight, options.location,
                                    options.through_denoiser, options.gradient_norm, options.method)
        return Conditioning(function, options.scale, options.schedule,
                            options.through_denoiser and options.location == "x0_pred")

    return condition


if __name__ == "__main__":
    run_stage(GenerationConfig, main, "Generate a synthetic dataset, steered by a classifier (stage 3).",
              repository_path("configs/guidance/classifier.yaml"))
