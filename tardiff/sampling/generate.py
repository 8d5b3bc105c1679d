"""Writing of a synthetic dataset: in chunks that bound memory, resumable, shared among processes."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tardiff.config import SamplerConfig
from tardiff.data.format import Metadata, by_class_number, write_split_in_parts
from tardiff.diffusion.fitted import FittedDenoiser
from tardiff.diffusion.trainer import autocast
from tardiff.sampling.noise import NoiseStream
from tardiff.sampling.samplers import SAMPLERS, Callback, Conditioning, Prediction
from tardiff.utils.checkpoint import DAMAGED_ARRAYS, atomic_path, write_json
from tardiff.utils.distributed import ProcessGroup
from tardiff.utils.errors import UserError
from tardiff.utils.progress import progress
from tardiff.utils.seeding import derive_seed

SampleChunk = Callable[[Tensor, Tensor], np.ndarray]
"""sample(labels (B,) int64, numbers of the samples (B,) int64) -> series (B, L, C) float32 in raw units."""

STEPS_PER_PASS = 256 * 24
"""Time steps of all series that a CPU denoises together: enough to outweigh the cost of calling the layers, few enough
that what they pass on stays in the caches."""


def label_plan(plan: str | list[int] | dict[str | int, int], num_samples: int | None, y_train: np.ndarray,
               classes: list[str], seed: int) -> np.ndarray:
    """Return the labels (N,) int64 of the series to make, shuffled so that every chunk holds a mixture.

    plan: `train` (the class shares of y_train), `balanced`, a list of counts per class, or a mapping of classes, by
    name or number, to counts; num_samples: N under the first two, None for the size of train. Raises UserError if the
    counts do not fit the classes.
    """
    num_classes = len(classes)
    if isinstance(plan, dict):
        counts_of = by_class_number(plan, classes)
        plan = [counts_of.get(label, 0) for label in range(num_classes)]
    if isinstance(plan, list):
        if len(plan) != num_classes or sum(plan) == 0 or num_samples not in (None, sum(plan)):
            raise UserError(f"labels={plan}: expected {num_classes} counts, one per class, not all 0"
                            + ("." if num_samples is None else f", that sum to num_samples={num_samples}."))
        counts = np.array(plan)
    elif plan in ("train", "balanced"):
        shares = np.bincount(y_train, minlength=num_classes) if plan == "train" else np.ones(num_classes)
        exact = shares / shares.sum() * (num_samples or len(y_train))
        counts = np.floor(exact).astype(int)
        largest_remainders = np.argsort(counts - exact, kind="stable")[:(num_samples or len(y_train)) - counts.sum()]
        counts[largest_remainders] += 1
    else:
        raise UserError(f"labels='{plan}': expected train, balanced, or a list of counts per class.")
    labels = np.repeat(np.arange(num_classes, dtype=np.int64), counts)
    return np.random.default_rng(derive_seed(seed, "labels")).permutation(labels)


def sample_series(fitted: FittedDenoiser, labels: Tensor, samples: Tensor, seed: int, config: SamplerConfig,
                  conditioning: Conditioning | None, bf16: bool = False, callback: Callback | None = None) -> Tensor:
    """Return series (B, L, C) float32 in normalised units for labels (B,) int64 and sample numbers (B,) int64.

    `callback` sees every step of the sampler, see `tardiff.sampling.samplers`.
    Raises UserError if a series is not finite.
    """
    device = labels.device
    bounds = None
    if config.clip_x0:
        bounds = tuple(torch.tensor(edge, dtype=torch.float32, device=device)
                       for edge in (fitted.normalizer.low, fitted.normalizer.high))

    def denoiser(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with autocast(device, bf16):
            return fitted.denoiser(x_t, t, y)

    predict = Prediction(denoiser, fitted.process, labels, fitted.num_classes, config.cfg_scale, bounds)
    noise = NoiseStream(derive_seed(seed, "samples"), samples, fitted.shape)
    timesteps = fitted.process.schedule.timesteps(config.num_inference_steps)
    options = {"eta": config.eta} if config.name == "ddim" else {}
    series = SAMPLERS[config.name](predict, noise, timesteps, conditioning, callback, **options)
    finite = torch.isfinite(series).flatten(1).all(dim=1)
    if not finite.all():
        raise UserError(f"series {int(samples[~finite][0])} is not finite: guidance drove the sampler away. Lower "
                        "guidance.scale, use guidance.unit_rms=true, or set sampler.clip_x0=true.")
    return series


def sample_chunk(fitted: FittedDenoiser, labels: Tensor, samples: Tensor, seed: int, config: SamplerConfig,
                 condition: Callable[[Tensor], Conditioning | None], bf16: bool = False,
                 callback: Callback | None = None) -> np.ndarray:
    """Return series (B, L, C) float32 in raw units, made in passes of a size that suits the device.

    `condition(labels)` is the conditioning of a pass; the other arguments are those of `sample_series`.
    """
    size = max(1, STEPS_PER_PASS // fitted.shape[0]) if labels.device.type == "cpu" else len(labels)
    parts = [sample_series(fitted, labels_of, samples_of, seed, config, condition(labels_of), bf16, callback)
             for labels_of, samples_of in zip(labels.split(size), samples.split(size), strict=True)]
    return fitted.normalizer.inverse(torch.cat(parts).cpu().numpy())


def at_one_size(sample: SampleChunk, size: int) -> SampleChunk:
    """Return a sampler that fills chunks up to `size` series and cuts the rest off again: a compiled denoiser would be
    compiled anew for a shorter one."""
    def sample_filled(labels: Tensor, samples: Tensor) -> np.ndarray:
        missing = size - len(labels)
        return sample(F.pad(labels, (0, missing)), F.pad(samples, (0, missing)))[:len(labels)]

    return sample_filled


def generate_dataset(sample: SampleChunk, labels: np.ndarray, batch_size: int, output: str | Path,
                     shape: tuple[int, int], meta: Metadata, group: ProcessGroup) -> None:
    """Sample one series of shape (L, C) per label and write the dataset folder `output`.

    Chunk c holds samples c x batch_size onwards whatever the number of processes; a chunk on disk is not made again.
    `meta` describes it. `runtime.json` tells what sampling took, in this call alone where it resumed.
    `meta.json` appears last, so a dataset with it is complete.
    """
    output = Path(output)
    starts = range(0, len(labels), batch_size)
    paths = [output / "chunks" / f"{number:06d}.npy" for number in range(len(starts))]
    if (output / "meta.json").exists():
        _clear_chunks(output, group)
        return
    own_chunks = range(group.rank, len(starts), group.world_size)
    sampled, clock = 0, time.perf_counter()
    done = sum(path.exists() for path in paths)
    with progress("generation", len(starts), "chunk", done, shown=group.is_main) as bar:
        for number in own_chunks:
            if not paths[number].exists():
                part = torch.from_numpy(labels[starts[number]:starts[number] + batch_size]).to(group.device)
                samples = torch.arange(starts[number], starts[number] + len(part), device=group.device)
                _write_chunk(paths[number], sample(part, samples))
                sampled += len(part)
                bar.update(min(group.world_size, len(starts) - bar.n))
    group.barrier()
    if group.is_main:
        if sampled:
            seconds = time.perf_counter() - clock
            write_json(output / "runtime.json", {
                "series": sampled, "seconds": seconds, "seconds_per_series": seconds / sampled,
                "processes": group.world_size, "device": str(group.device)})
        write_split_in_parts(output / "train.npz", map(_read_chunk, paths), (len(labels), *shape), labels)
        write_json(output / "meta.json", dataclasses.asdict(meta))
    _clear_chunks(output, group)
    group.barrier()


def _write_chunk(path: Path, series: np.ndarray) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, series)


def _clear_chunks(output: Path, group: ProcessGroup) -> None:
    """Remove the chunks of a complete dataset, with what a kill left among them."""
    if group.is_main:
        shutil.rmtree(output / "chunks", ignore_errors=True)


def _read_chunk(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except DAMAGED_ARRAYS as error:
        raise UserError(f"{path}: damaged ({error}). Delete it, and the same command makes it again.") from None
