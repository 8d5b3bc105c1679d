"""Writing of a synthetic dataset: in chunks that bound memory, resumable, shared among processes."""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tardiff.config import SamplerConfig
from tardiff.data.format import Metadata, by_class_number, is_dataset, write_split_in_parts
from tardiff.diffusion.fitted import FittedDenoiser
from tardiff.diffusion.schedule import NoiseSchedule
from tardiff.diffusion.trainer import autocast
from tardiff.sampling.noise import NoiseStream
from tardiff.sampling.samplers import SAMPLERS, SPACING, STEPS, Callback, Conditioning, Prediction
from tardiff.utils.checkpoint import load_arrays, save_arrays, write_json
from tardiff.utils.distributed import ProcessGroup
from tardiff.utils.errors import UserError, naming_memory
from tardiff.utils.progress import progress
from tardiff.utils.seeding import derive_seed

CHUNK = re.compile(r"\d{9}-\d{9}\.npz")
SampleChunk = Callable[[Tensor, Tensor], np.ndarray]
"""sample(labels (B,) int64, numbers of the samples (B,) int64) -> series (B, L, C) float32 in raw units, NaN
where a gap was drawn."""

Probabilities = Callable[[np.ndarray], np.ndarray]
"""probabilities(series (B, L, C) float32 in raw units, without gaps) -> of each class, (B, K) float32."""

STEPS_PER_PASS = 512 * 24
"""Time steps of all series that a CPU denoises together: enough to outweigh the cost of calling the layers, few enough
that what they pass on stays in the last cache (512 series of 24 steps took 5 to 15 % less each than 256)."""


def label_plan(plan: str | list[int] | dict[str | int, int], num_samples: int | None, y_train: np.ndarray,
               classes: list[str]) -> np.ndarray:
    """Return the labels (N,) int64 of the series to make, mixed evenly.

    plan: `train` (the class shares of y_train), `balanced`, a list of counts per class, or a mapping of classes, by
    name or number, to counts; num_samples: N under the first two, None for the size of train. The label of series i
    depends on i and the class shares alone, not on N; counts come out exact, shares to the nearest series.
    Raises UserError if the counts do not fit the classes.
    """
    num_classes = len(classes)
    if isinstance(plan, dict):
        counts_of = by_class_number(plan, classes)
        plan = [counts_of.get(label, 0) for label in range(num_classes)]
    if isinstance(plan, list):
        if len(plan) != num_classes or sum(plan) == 0 or num_samples not in (None, sum(plan)):
            raise UserError(f"labels={plan}: expected {num_classes} counts, one per class, not all 0"
                            + ("." if num_samples is None else f", that sum to num_samples={num_samples}."))
        weights = plan
    elif plan == "train":
        weights = np.bincount(y_train, minlength=num_classes).tolist()
    elif plan == "balanced":
        weights = [1] * num_classes
    else:
        raise UserError(f"labels='{plan}': expected train, balanced, or a list of counts per class.")
    return mixed_labels(weights, sum(plan) if isinstance(plan, list) else num_samples or len(y_train))


def mixed_labels(weights: list[int], size: int) -> np.ndarray:
    """Return `size` labels (N,) int64 in the proportions of the weights (K,), as any first of them are, too.

    The n-th series of a class of weight w has its place at (n - 1/2) / w: the apportionment of Webster and Sainte-Lague
    at every length, exact where the proportions are.
    """
    places, labels = [], []
    for label, weight in enumerate(weights):
        # Of one class no apportionment gives more than its share and half a series a class.
        most = size * weight // sum(weights) + len(weights) + 1 if weight else 0
        places.append((np.arange(most) + 0.5) / max(weight, 1))
        labels.append(np.full(most, label, dtype=np.int64))
    return np.concatenate(labels)[np.argsort(np.concatenate(places), kind="stable")[:size]]


def timesteps_of(config: SamplerConfig, schedule: NoiseSchedule) -> list[int]:
    """Return the steps that a sampler visits, those that it needs where the settings give no number. Raises UserError
    if more are given than the denoiser has."""
    needed = STEPS[config.name] or schedule.num_train_timesteps
    return schedule.timesteps(config.num_inference_steps or min(needed, schedule.num_train_timesteps),
                              SPACING[config.name])


def sample_series(fitted: FittedDenoiser, labels: Tensor, samples: Tensor, seed: int, config: SamplerConfig,
                  conditioning: Conditioning | None, bf16: bool = False, callback: Callback | None = None) -> Tensor:
    """Return signals, as `FittedDenoiser.decode` reads them, for labels (B,) int64 and sample numbers (B,) int64.

    `callback` sees every step of the sampler, see `tardiff.sampling.samplers`.
    Raises UserError if a series is not finite.
    """
    device = labels.device
    bounds = fitted.bounds if config.clip_x0 else None

    def denoiser(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with autocast(device, bf16):
            return fitted.denoiser(x_t, t, y)

    predict = Prediction(denoiser, fitted.process, labels, fitted.num_classes, config.cfg_scale, bounds)
    noise = NoiseStream(derive_seed(seed, "samples"), samples, fitted.signals)
    timesteps = timesteps_of(config, fitted.process.schedule)
    options = {"eta": config.eta} if config.name == "ddim" else {}
    series = SAMPLERS[config.name](predict, noise, timesteps, conditioning, callback, **options)
    finite = torch.isfinite(series).flatten(1).all(dim=1)
    if not finite.all():
        cause = ("the denoiser has diverged. Train it anew with a lower training.learning_rate" if conditioning is None
                 else "guidance drove the sampler away. Lower guidance.scale, use guidance.unit_rms=true")
        raise UserError(f"series {int(samples[~finite][0])} is not finite: {cause}, or set sampler.clip_x0=true.")
    return series


def sample_chunk(fitted: FittedDenoiser, labels: Tensor, samples: Tensor, seed: int, config: SamplerConfig,
                 condition: Callable[[Tensor], Conditioning | None], bf16: bool = False,
                 callback: Callback | None = None) -> np.ndarray:
    """Return series (B, L, C) float32 in raw units, NaN where a gap was drawn, in passes that suit the device.

    `condition(labels)` is the conditioning of a pass; the other arguments are those of `sample_series`.
    """
    size = max(1, STEPS_PER_PASS // fitted.shape[0]) if labels.device.type == "cpu" else len(labels)
    parts = [sample_series(fitted, labels_of, samples_of, seed, config, condition(labels_of), bf16, callback)
             for labels_of, samples_of in zip(labels.split(size), samples.split(size), strict=True)]
    return fitted.decode(torch.cat(parts))


def at_one_size(sample: SampleChunk, size: int) -> SampleChunk:
    """Return a sampler that fills chunks up to `size` series and cuts the rest off again: a compiled denoiser would be
    compiled anew for a shorter one."""
    def sample_filled(labels: Tensor, samples: Tensor) -> np.ndarray:
        missing = size - len(labels)
        return sample(F.pad(labels, (0, missing)), F.pad(samples, (0, missing)))[:len(labels)]

    return sample_filled


def generate_dataset(sample: SampleChunk, labels: np.ndarray, batch_size: int, output: str | Path,
                     shape: tuple[int, int], meta: Metadata, group: ProcessGroup, setting: str = "batch_size",
                     probabilities: Probabilities | None = None) -> None:
    """Sample one series of shape (L, C) per label and write the dataset folder `output`.

    At most `batch_size` series are sampled at a time and kept as a chunk; what is on disk is not made again, whatever
    batch size or number of processes made it. `meta` describes the dataset; its imputation fills gaps. `probabilities`
    makes p of the finished series. `runtime.json` tells what sampling took, in all calls. `meta.json` appears last, so
    a dataset with it is complete.
    Raises UserError that names `setting`, the one of the batch size, where memory runs out.
    """
    output = Path(output)
    chunks = output / "chunks"
    if not is_dataset(output):
        made = np.zeros(len(labels), dtype=bool)
        for path in _chunk_paths(chunks):
            made[slice(*_numbers_of(path))] = True
        with progress("generation", len(labels), "sample", int(made.sum()), shown=group.is_main) as bar:
            # The batches of a process are its own, whatever the others have written by now.
            for start in range(group.rank * batch_size, len(labels), group.world_size * batch_size):
                for numbers in _runs(start + np.flatnonzero(~made[start:start + batch_size])):
                    clock = time.perf_counter()
                    part = (torch.from_numpy(array).to(group.device) for array in (labels[numbers], numbers))
                    with naming_memory(setting):
                        series = sample(*part)
                    save_arrays(chunks / f"{numbers[0]:09d}-{numbers[-1] + 1:09d}.npz", x=series,
                                seconds=time.perf_counter() - clock)
                    bar.update(min(len(numbers) * group.world_size, len(labels) - bar.n))
        group.barrier()
        if group.is_main:
            _join_chunks(output, chunks, labels, shape, meta, group, probabilities)
    if group.is_main:
        shutil.rmtree(chunks, ignore_errors=True)
    group.barrier()


def _join_chunks(output: Path, chunks: Path, labels: np.ndarray, shape: tuple[int, int], meta: Metadata,
                 group: ProcessGroup, probabilities: Probabilities | None) -> None:
    paths = _chunk_paths(chunks)
    bounds = [0, *(bound for path in paths for bound in _numbers_of(path)), len(labels)]
    if bounds[::2] != bounds[1::2]:
        raise UserError(f"{chunks}: holds series twice or too few. Delete this folder, and the same command makes them "
                        "again.")
    seconds = sum(float(load_arrays(path)["seconds"]) for path in paths)
    write_split_in_parts(output / "train.npz", lambda: (load_arrays(path)["x"] for path in paths),
                         (len(labels), *shape), labels, meta.imputation, probabilities)
    write_json(output / "runtime.json", {
        "series": len(labels), "seconds": seconds, "seconds_per_series": seconds / len(labels),
        "processes": group.world_size, "device": str(group.device)})
    write_json(output / "meta.json", dataclasses.asdict(meta))


def _chunk_paths(chunks: Path) -> list[Path]:
    """Return the chunks on disk, FIRST-END.npz after the numbers of their series, in order."""
    return sorted(path for path in chunks.glob("*.npz") if CHUNK.fullmatch(path.name))


def _numbers_of(path: Path) -> tuple[int, int]:
    """Return the number of the first series of a chunk and that after its last."""
    first, end = path.stem.split("-")
    return int(first), int(end)


def _runs(numbers: np.ndarray) -> list[np.ndarray]:
    """Return numbers (N,) cut into runs without gap."""
    return np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1) if len(numbers) else []
