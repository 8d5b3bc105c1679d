"""Stage 3: sample a synthetic dataset, steered by the classifier."""

from __future__ import annotations

import functools
from pathlib import Path

from tardiff.config import GenerationConfig
from tardiff.data.format import read_dataset
from tardiff.diffusion.fitted import FittedDenoiser
from tardiff.library import Guidance, Guide, check_sampler, require_trained_on
from tardiff.sampling.generate import at_one_size, generate_dataset, label_plan, sample_chunk
from tardiff.utils.distributed import process_group, resolve_device
from tardiff.utils.logging import open_run


def run(config: GenerationConfig, dry_run: bool) -> None:
    """Write a synthetic dataset folder, resuming. Raises UserError if runs, dataset and settings do not fit."""
    needed = [config.data, config.base, *([config.classifier] if config.guidance.is_on else [])]
    missing = [path for path in needed if not Path(path).is_dir()]
    if dry_run and missing:
        resolve_device(config.device)
        print(f"settings are valid. Missing input: {', '.join(missing)}.")
        return
    dataset = read_dataset(config.data, ("train", "val"))
    with process_group(config.device) as group:
        denoiser = FittedDenoiser.load(config.base, group.device)
        require_trained_on(config.base, dataset, "train")
        check_sampler(config.sampler, denoiser, config.base)
        guidance = None
        if config.guidance.is_on:
            guide = Guide.load(config.classifier, group.device)
            unused = config.guidance.without_effect()
            settings = {name: value for name, value in vars(config.guidance).items() if name not in unused}
            guidance = Guidance(guide, dataset, group, **settings)
            guidance.check(denoiser)
        labels = label_plan(config.labels, config.num_samples, dataset.train.y, dataset.meta.classes, config.seed)
        if group.is_main:
            for name in config.guidance.without_effect():
                print(f"note: guidance.{name} has no effect with guidance.objective={config.guidance.objective}.")
            strength = f" x {config.guidance.scale:g}" if config.guidance.is_on else ""
            print(f"{len(labels):,} series, {config.sampler.name}, guidance {config.guidance.objective}{strength}, on "
                  f"{group.world_size} x {group.device}")
        if dry_run:
            return
        inputs = {"denoiser": denoiser.fingerprint(), "train": dataset.train.fingerprint()}
        if guidance is not None:
            inputs |= {"classifier": guidance.guide.task.fingerprint(), **guidance.guide.code}
            if config.guidance.uses_guidance_gradient:
                inputs["guidance data"] = dataset.val.fingerprint()
        open_run(config.output, config, inputs, group.is_main, record="provenance.json")
        if guidance is not None and config.guidance.uses_guidance_gradient:
            norms = dict(zip(dataset.meta.classes, guidance.gradient.norms(), strict=True))
            if group.is_main:
                print("norm of the mean guidance gradient:", norms)
        condition = guidance.conditioning if guidance is not None else lambda labels: None
        sample = functools.partial(sample_chunk, denoiser, seed=config.seed, config=config.sampler,
                                   condition=condition, bf16=config.bf16)
        if config.compile and group.device.type == "cuda":
            denoiser.denoiser.compile()
            sample = at_one_size(sample, min(config.batch_size, len(labels)))
        generate_dataset(sample, labels, config.batch_size, config.output, denoiser.shape,
                         denoiser.meta.of_synthetic(), group)
        if group.is_main:
            print(f"written to {config.output}")
