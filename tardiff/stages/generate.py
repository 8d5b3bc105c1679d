"""Stage 3: sample a synthetic dataset, steered by the classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classifier.teacher import Teacher
from classifier.train import fit_network, normalized_splits
from tardiff.config import AUTO, ClassifierConfig, GenerationConfig
from tardiff.data.format import Dataset, Split, is_dataset, read_dataset
from tardiff.data.splits import halve_validation
from tardiff.diffusion.fitted import FittedDenoiser
from tardiff.evaluation.fidelity import is_conspicuous
from tardiff.evaluation.metrics import auroc
from tardiff.influence.scale import matched_scale
from tardiff.library import Guidance, Guide, check_sampler, require_trained_on
from tardiff.sampling.generate import at_one_size, generate_dataset, label_plan, sample_chunk
from tardiff.utils.cache import cached_where_writable
from tardiff.utils.checkpoint import read_json, write_json
from tardiff.utils.distributed import process_group
from tardiff.utils.logging import open_run, read_run_config
from tardiff.utils.seeding import derive_seed

RECORD, FOUND = "provenance.json", "guidance_scale"
SEARCHED = 1000
"""Series at each scale that is tried."""
_ROUNDING = 1e-5  # Of the training range; what float32 may take from an end of it, there and back.


def run(config: GenerationConfig, dry_run: bool) -> None:
    """Write a synthetic dataset folder, resuming. Raises UserError if runs, dataset and settings do not fit."""
    dataset = read_dataset(config.data, ("train", "val"))
    with process_group(config.device) as group:
        denoiser = FittedDenoiser.load(config.base, group.device)
        require_trained_on(config.base, dataset, "train")
        check_sampler(config.sampler, denoiser.process, denoiser.has_unconditional)
        guidance = None
        if config.guidance.is_on:
            guide = Guide.load(config.classifier, group.device)
            unused = config.guidance.without_effect()
            settings = {name: value for name, value in vars(config.guidance).items() if name not in unused}
            if config.guidance.scale == AUTO:
                del settings["scale"]
            guidance = Guidance(guide, dataset, group, **settings)
            guidance.check(denoiser)
        teacher = None if config.teacher is None else Teacher.load(config.teacher, dataset, group.device)
        labels = label_plan(config.labels, config.num_samples, dataset.train.y, dataset.meta.classes)
        if group.is_main:
            for name in config.guidance.without_effect():
                print(f"note: guidance.{name} has no effect with guidance.objective={config.guidance.objective}.")
            if guidance is not None and (warning := guide.chance_warning(dataset)) is not None:
                print(warning)
            if guidance is not None and "code of the loss" in guide.code and config.guidance.uses_loss:
                print(f"note: guidance.objective={config.guidance.objective} descends the loss of "
                      "model.custom.loss_path; that climbs log p(y|x) only where the loss is cross-entropy.")
            strength = f" x {config.guidance.scale}" if config.guidance.is_on else ""
            print(f"{len(labels):,} series, {config.sampler.name}, guidance {config.guidance.objective}{strength}, on "
                  f"{group.world_size} x {group.device}")
        if dry_run:
            return
        inputs = {"denoiser": denoiser.fingerprint(), "train": dataset.train.fingerprint()}
        if guidance is not None:
            inputs |= {"classifier": guidance.guide.task.fingerprint(), "guide": guide.architecture, **guide.code}
            if config.guidance.uses_guidance_gradient:
                inputs["guidance data"] = dataset.val.fingerprint()
        if teacher is not None:
            inputs["teacher"] = teacher.fingerprint()
            if group.is_main and not is_dataset(config.output):
                teacher.check()
        open_run(config.output, config, inputs, group.is_main, record=RECORD)
        if guidance is not None and config.guidance.uses_guidance_gradient:
            norms = dict(zip(dataset.meta.classes, guidance.gradient.norms(), strict=True))
            if group.is_main:
                print("norm of the mean guidance gradient:", norms)
                print(*guidance.signal_words(), sep="\n")
        if guidance is not None and config.guidance.scale == AUTO:
            if group.is_main:
                record_scale(config, dataset, denoiser, guidance, teacher)
            group.barrier()
            found = read_json(Path(config.output) / RECORD, **{FOUND: dict})[FOUND]
            guidance = guidance.at_scale(found["scale"])
        condition = (functools.partial(guidance.conditioning, denoiser) if guidance is not None
                     else lambda labels: None)
        sample = functools.partial(sample_chunk, denoiser, seed=config.seed, config=config.sampler,
                                   condition=condition, bf16=config.bf16)
        if config.compile and group.device.type == "cuda":
            denoiser.denoiser.compile()
            sample = at_one_size(sample, min(config.batch_size, len(labels)))
        generate_dataset(sample, labels, config.batch_size, config.output, denoiser.shape,
                         denoiser.meta.of_synthetic(denoiser.mask), group,
                         probabilities=None if teacher is None else teacher.predict)
        if group.is_main:
            _tell_of_bounds(read_dataset(config.output, ("train",), every_class=False), dataset.train, config)
            print(f"written to {config.output}")


def record_scale(config: GenerationConfig, dataset: Dataset, denoiser: FittedDenoiser, guidance: Guidance,
                 teacher: Teacher | None) -> None:
    """Look for the guidance scale, unless the record of the output has it, write it there and print it.

    Series of all generation seeds share one search, which is kept beside the guide where that may be written.
    """
    path = Path(config.output) / RECORD
    record = read_json(path, inputs=dict)
    if FOUND not in record:
        settings = {name: value for name, value in record["config"].items() if name in ("bf16", "sampler", "guidance")}
        key = ("guidance_scale", record["inputs"], dataset.val.fingerprint(), settings)
        found = cached_where_writable(guidance.guide.folder, key,
                                      lambda: _search(config, dataset, denoiser, guidance, teacher))
        record[FOUND] = {"scale": found["scale"], "target": found["target"],
                         "tried": dict(zip(map(str, found["scales"].tolist()), found["separabilities"].tolist(),
                                           strict=True))}
        write_json(path, record)
    found = record[FOUND]
    tried = ", ".join(f"{float(scale):.3g}: {value:.3f}" for scale, value in found["tried"].items())
    print(f"guidance.scale=auto: {found['scale']:.3g}; an independent classifier separates the labels of the selection "
          f"half with AUROC {found['target']:.3f}, of series by scale {tried}")


def _search(config: GenerationConfig, dataset: Dataset, denoiser: FittedDenoiser, guidance: Guidance,
            teacher: Teacher | None) -> dict[str, Any]:
    device = guidance.guide.task.device
    predict = (independent_classifier(config.classifier, dataset, device) if teacher is None
               else lambda x, mask: teacher.predict(x))
    _, selection = halve_validation(dataset.val)
    # Balanced, for the rarer class decides how sure an AUROC is, and the shares of the classes do not change it.
    y = label_plan("balanced", SEARCHED, dataset.train.y, dataset.meta.classes)
    labels, numbers = torch.from_numpy(y).to(device), torch.arange(len(y), device=device)

    def separability(scale: float) -> float:
        condition = functools.partial(guidance.at_scale(scale).conditioning, denoiser)
        x = np.concatenate([sample_chunk(denoiser, *part, derive_seed(0, "scale"), config.sampler, condition,
                                         config.bf16)
                            for part in zip(labels.split(config.batch_size), numbers.split(config.batch_size),
                                            strict=True)])
        return float(auroc(y, predict(denoiser.meta.filled(x), ~np.isnan(x)))[0])

    found = matched_scale(separability, float(auroc(selection.y, predict(selection.x, selection.mask))[0]))
    return {"scale": found.scale, "target": found.target, "scales": np.array(list(found.tried)),
            "separabilities": np.array(list(found.tried.values()))}


def independent_classifier(folder: str, dataset: Dataset, device: torch.device
                           ) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """Return `predict(x (N, L, C) in raw units, mask)`, class probabilities (N, K), of a classifier trained as the
    guide in `folder` was, with another seed."""
    config = read_run_config(folder, ClassifierConfig)
    normalizer, parts = normalized_splits(dataset, config.normalizer, config.model.reads_mask)
    fitted = fit_network(parts["train"], parts["selection"], dataset.num_classes, config.model, config.training,
                         derive_seed(config.seed, "independent of the guide"), device)
    return lambda x, mask: fitted.predict(normalizer.inputs(x, mask if config.model.reads_mask else None))


def _tell_of_bounds(synthetic: Dataset, train: Split, config: GenerationConfig) -> None:
    """Write the share of values at or beyond the ends of the training range, per channel, to `at_bounds.json`, and warn
    where it is suspicious: clipping stops series that guidance drives away, and nothing else would tell of it."""
    low, high = np.nanmin(train.x, axis=(0, 1)), np.nanmax(train.x, axis=(0, 1))
    margin = _ROUNDING * (high - low)
    shares = {name: ((x <= low + margin) | (x >= high - margin)).mean(axis=(0, 1)).tolist()
              for name, x in (("synthetic", synthetic.train.x), ("train", train.x))}
    write_json(Path(config.output) / "at_bounds.json", {"channels": synthetic.meta.channels, **shares})
    for channel, share, of_train in zip(synthetic.meta.channels, shares["synthetic"], shares["train"], strict=True):
        if is_conspicuous(share, of_train):
            advice = "lower guidance.scale" if config.guidance.is_on else "train the denoiser for longer"
            print(f"warning: {share:.1%} of the values of {channel} lie at an end of the training range or beyond, of "
                  f"the training rows {of_train:.1%}: {advice}.")
