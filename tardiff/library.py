"""TarDiff from Python: load what was trained, sample labelled series, guided or not, and evaluate them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from classifier.teacher import Teacher
from classifier.train import Guide
from tardiff.config import AUTO, EvaluationConfig, GuidanceConfig, SamplerConfig, TeacherConfig, load_config
from tardiff.data.format import Dataset, Split, by_class_number, class_numbers, read_dataset
from tardiff.data.series import LabelledSeries
from tardiff.data.splits import halve_validation
from tardiff.diffusion.fitted import FittedDenoiser
from tardiff.diffusion.process import DiffusionProcess
from tardiff.evaluation.sets import require_fit
from tardiff.influence.gradient import GuidanceGradient, cached_guidance_gradient, class_weights
from tardiff.influence.guidance import guidance_function
from tardiff.influence.signal import Agreement, GuidanceSignal, agreement_words, cached_guidance_signal
from tardiff.influence.task import layer_parameters
from tardiff.sampling.generate import sample_chunk, timesteps_of
from tardiff.sampling.samplers import Callback, Conditioning
from tardiff.stages.evaluate import evaluate_sets, splits_read
from tardiff.utils.checkpoint import read_json
from tardiff.utils.distributed import ProcessGroup, resolve_device
from tardiff.utils.errors import UserError
from tardiff.utils.lock import sole_writer
from tardiff.utils.logging import read_run_config
from tardiff.utils.progress import progress


def load_denoiser(folder: str | Path, device: str = "auto") -> Denoiser:
    """Return the denoiser of a finished run folder of stage 1, ready to sample.

    Raises UserError if the run is unfinished or damaged, or the device is not there.
    """
    return Denoiser(FittedDenoiser.load(folder, resolve_device(device)), Path(folder))


def load_guide(folder: str | Path, device: str = "auto") -> Guide:
    """Return the classifier of a finished run folder of stage 2, ready to guide.

    Raises UserError if the run is unfinished or damaged, or the device is not there.
    """
    return Guide.load(folder, resolve_device(device))


def load_teacher(folder: str | Path, dataset: Dataset | str | Path | None = None, device: str = "auto") -> Teacher:
    """Return the teacher of a finished run folder, whose `predict` labels series (N, L, C) in raw units.

    dataset: what it was taught, or its folder, by default the one that the run names; its forests and boostings are
    fitted again on it. Raises UserError if the run is unfinished or damaged, or was taught other rows.
    """
    given = read_run_config(folder, TeacherConfig).data if dataset is None else dataset
    taught = given if isinstance(given, Dataset) else read_dataset(given, ("train", "val"))
    return Teacher.load(folder, taught, resolve_device(device))


class Guidance:
    """A guide and how it steers sampling.

    guide: the classifier, or its run folder. settings: fields of `GuidanceConfig` by name, such as
    `scale=2.0` or `objective="anchored"`.
    dataset: what the guide was trained on, or its folder; only the objectives influence and anchored need it, for its
    guidance half, and by default they take the folder that the guide's run names. G is kept in the guide's run folder.

    Raises UserError on unknown or unfit settings, a class without guidance rows, or another dataset.
    """

    def __init__(self, guide: Guide | str | Path, dataset: Dataset | str | Path | None = None,
                 group: ProcessGroup | None = None, **settings: Any) -> None:
        if not isinstance(guide, (Guide, str, Path)):
            raise UserError(f"guide: expected what load_guide returns, or a run folder, got a {type(guide).__name__}.")
        self.guide = guide if isinstance(guide, Guide) else load_guide(guide)
        self.config = load_config(GuidanceConfig, values=settings)
        if unused := self.config.without_effect():
            raise UserError(f"guidance: {', '.join(unused)} has no effect with objective={self.config.objective}.")
        if self.config.scale == AUTO:
            raise UserError("guidance: scale=auto is of `tardiff generate`. Give a number.")
        self.group = group or ProcessGroup(0, 1, self.guide.task.device)
        self.dataset = self.guide.data if dataset is None else dataset

    def at_scale(self, scale: float) -> Guidance:
        """Return the same guidance with another strength."""
        other = copy.copy(self)
        other.config = replace(self.config, scale=scale)
        return other

    def check(self, denoiser: FittedDenoiser) -> None:
        """Raise UserError if the guide does not read what the denoiser writes, couples the series of a batch, or has no
        head where its parameters are asked for, and if the choice of guidance rows is empty."""
        guide = self.guide
        read, written = (guide.shape, guide.meta.classes), (denoiser.shape, denoiser.meta.classes)
        if read != written:
            raise UserError(f"{guide.folder}: reads (length, channels) {read[0]} and classes {read[1]}, the denoiser "
                            f"writes {written[0]} and {written[1]}. Train both on the same data.")
        if guide.normalizer.fingerprint() != denoiser.normalizer.fingerprint():
            raise UserError(f"{guide.folder}: trained with another normaliser than the denoiser. Train both on the "
                            "same data with the same 'normalizer' setting.")
        if guide.task.device != denoiser.device:
            raise UserError(f"{guide.folder}: is on {guide.task.device}, the denoiser on {denoiser.device}. Load both "
                            "on the same device.")
        if guide.reads_mask and not denoiser.mask:
            raise UserError(f"{guide.folder}: reads masks (model.inputs=values+mask), and this denoiser generates "
                            "none. Train a guide with model.inputs=values, or the denoiser on data with gaps, with "
                            "mask=true.")
        guide.task.check_independence(self._probes())
        if self.config.uses_guidance_gradient:
            self._counted_parameters()
            self._chosen(self._counts)

    def conditioning(self, denoiser: FittedDenoiser, labels: Tensor) -> Conditioning | None:
        """Return what a sampler of the denoiser needs to follow the guide for labels (B,) int64; None where guidance is
        off."""
        if not self.config.is_on:
            return None
        cond_fn = guidance_function(self.guide.task, self._direction, labels, self.config,
                                    partial(denoiser.read, with_mask=self.guide.reads_mask))
        return Conditioning(cond_fn, self.config.scale, self.config.step_size, self.config.location,
                            self.config.through_denoiser)

    @cached_property
    def gradient(self) -> GuidanceGradient:
        """G of each class, read from the guide's run folder or computed and kept there."""
        half = self._guidance_half
        x, y = torch.from_numpy(self.guide.inputs(half.x, half.mask)), torch.from_numpy(half.y)
        return cached_guidance_gradient(self.guide.folder, self.guide.task, x, y, self.guide.num_classes,
                                        len(self._dataset.train), self.group)

    @cached_property
    def signal(self) -> GuidanceSignal | None:
        """How far G of parts of the guidance half and of training rows agree, kept beside G; None of few subjects."""
        guidance, training = (replace(part, x=self.guide.inputs(part.x, part.mask))
                              for part in (self._guidance_half, self._dataset.train))
        return cached_guidance_signal(self.guide.folder, self.guide.task, guidance, training, self.guide.num_classes,
                                      self.guide.task.device)

    @cached_property
    def agreement(self) -> Agreement | None:
        """How far G of the chosen classes and parameters agrees with itself; None where that cannot be told."""
        return None if self.signal is None else self.signal.agreement(self._chosen(self._counts),
                                                                      self._counted_parameters())

    def signal_words(self) -> list[str]:
        """Return what to print of how much of G is signal."""
        rows = sum(self._counts[label] for label in self._chosen(self._counts))
        return agreement_words(self.agreement, str(self.config.classes), rows)

    @cached_property
    def _direction(self) -> dict[str, Tensor] | None:
        if not self.config.uses_guidance_gradient:
            return None
        direction = self.gradient.direction(self._chosen(self.gradient.counts), self.config.divide_by,
                                            self._counted_parameters())
        return {name: value.to(self.guide.task.device) for name, value in direction.items()}

    def _counted_parameters(self) -> list[str]:
        """Return the names of the parameters that `guidance.parameters` chooses."""
        task = self.guide.task
        if self.config.parameters == "all":
            return list(task.parameters)
        return [name for name in layer_parameters(task.head(self._probes())) if name in task.parameters]

    def _probes(self) -> Tensor:
        """Return what the guide reads of a few series (8, L, C) within the normaliser's range, on its device."""
        generator, shape = np.random.default_rng(0), (8, *self.guide.shape)
        low, high = self.guide.normalizer.low, self.guide.normalizer.high
        probes = generator.uniform(low, high, size=shape)
        if self.guide.reads_mask:
            probes = np.concatenate([probes, generator.integers(2, size=shape)], axis=2)
        return torch.from_numpy(probes.astype(np.float32)).to(self.guide.task.device)

    def _chosen(self, counts: list[int]) -> dict[int, float]:
        """Return the weight of each class that `guidance.classes` chooses among the guidance rows `counts`."""
        chosen, classes = self.config.classes, self.guide.meta.classes
        if isinstance(chosen, list):
            chosen = class_numbers(chosen, classes)
        elif isinstance(chosen, dict):
            chosen = by_class_number(chosen, classes)
        return class_weights(chosen, counts)

    @cached_property
    def _dataset(self) -> Dataset:
        dataset = self.dataset if isinstance(self.dataset, Dataset) else read_dataset(self.dataset, ("train", "val"))
        require_trained_on(self.guide.folder, dataset, "train", "val")
        return dataset

    @cached_property
    def _counts(self) -> list[int]:
        """The guidance rows of each class."""
        return np.bincount(self._guidance_half.y, minlength=self.guide.num_classes).tolist()

    @cached_property
    def _guidance_half(self) -> Split:
        return halve_validation(self._dataset.val)[0]


@dataclass(frozen=True)
class Denoiser:
    """A trained denoiser with its run folder."""

    fitted: FittedDenoiser
    folder: Path

    @property
    def classes(self) -> list[str]:
        return self.fitted.meta.classes

    def sample(self, counts: Mapping[str | int, int], seed: int = 0, guidance: Guidance | None = None,
               sampler: str | None = None, steps: int | None = None, batch_size: int = 512,
               callback: Callback | None = None, teacher: Teacher | None = None, **settings: Any) -> LabelledSeries:
        """Return series in raw units: counts[class] of each class, by name or number, class after class.

        Series i depends on the seed, i and its label alone. teacher: of `load_teacher`, whose probability of each class
        the series then have beside the label, as p (N, K) float32. sampler, steps: `name` and `num_inference_steps` of
        `SamplerConfig`; settings: its other fields, such as `cfg_scale=2.0`. batch_size bounds memory.
        callback(t, x_t, x0_pred, gradient) sees every step of every pass of some series, each (B, L, C) in
        normalised units, with the mask (B, L, 2C), the gradient None where unguided.
        Raises UserError on an unknown class, unfit settings, a guide or teacher of other data, or series that are not
        finite.
        """
        given = {"name": sampler, "num_inference_steps": steps}
        config = load_config(SamplerConfig, values={
            **{name: value for name, value in given.items() if value is not None}, **settings})
        check_sampler(config, self.fitted.process, self.fitted.has_unconditional)
        if not isinstance(counts, Mapping):
            raise UserError(f"counts={counts!r}: expected {{class: number of series}}.")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: expected at least 1.")
        if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
            raise UserError(f"seed={seed!r}: expected a whole number from 0 on, below 2^63.")
        if guidance is not None and not isinstance(guidance, Guidance):
            raise UserError(f"guidance={guidance!r}: expected tardiff.Guidance(guide, ...).")
        if guidance is not None and guidance.config.is_on:
            guidance.check(self.fitted)
        if teacher is not None:
            if not isinstance(teacher, Teacher):
                raise UserError(f"teacher={teacher!r}: expected tardiff.load_teacher(RUN).")
            require_trained_on(self.folder, teacher.dataset, "train")
        counts_of = by_class_number(counts, self.classes)
        numbers, sizes = list(counts_of), list(counts_of.values())
        if not all(isinstance(size, (int, np.integer)) and size >= 0 for size in sizes) or sum(sizes) == 0:
            raise UserError(f"counts={dict(counts)}: expected {{class: number of series}}, of at least 0, not all 0.")
        y = np.repeat(np.array(numbers, dtype=np.int64), sizes)
        device = self.fitted.device
        labels, samples = torch.from_numpy(y).to(device), torch.arange(len(y), device=device)
        condition = partial(guidance.conditioning, self.fitted) if guidance is not None else lambda labels: None
        parts = []
        chunks = list(zip(labels.split(batch_size), samples.split(batch_size), strict=True))
        with progress("sampling", len(chunks), "chunk", shown=len(chunks) > 1) as bar:
            for labels_of, samples_of in chunks:
                parts.append(sample_chunk(self.fitted, labels_of, samples_of, seed, config, condition,
                                          callback=callback))
                bar.update()
        x, meta = np.concatenate(parts), self.fitted.meta.of_synthetic(self.fitted.mask)
        filled, mask = meta.filled(x), ~np.isnan(x) if self.fitted.mask else None
        return LabelledSeries(Split(filled, y, mask=mask, p=None if teacher is None else teacher.predict(filled)), meta)


def evaluate(real: Dataset | str | Path, synthetic: Mapping[str, Any], folder: str | Path | None = None, **settings: Any
             ) -> pd.DataFrame:
    """Return TRTR, TSTR and TSRTR of synthetic sets as a tidy frame, one row for each arm and metric.

    real: a dataset with all three splits, or its folder; with `score_on="selection"` test is not read. synthetic: for
    each name labelled series, a frame as their `to_frame` gives it, arrays (x, y) or a `Split` with x (N, L, C) in raw
    units and y (N,) class numbers, the folder of a dataset, or a list of these, one for each generation seed. settings:
    fields of `EvaluationConfig`, such as `seeds=3`, `ratios=[1.0]` or `protocols=["tstr"]`. folder: where finished fits
    are kept, which nobody else writes meanwhile; None keeps none. The columns stand at
    `tardiff.stages.evaluate.evaluate_sets`.
    Raises UserError on unknown settings, those of the command alone, sets that do not fit the real dataset, and a
    folder that another process writes.
    """
    if refused := [name for name in ("name", "output") if name in settings]:
        raise UserError(f"{', '.join(refused)}: of the command alone. Give folder=... to keep finished fits.")
    if not isinstance(real, (Dataset, str, Path)):
        raise UserError(f"real: expected a dataset or its folder, got a {type(real).__name__}.")
    if not isinstance(synthetic, Mapping) or not all(isinstance(name, str) and name for name in synthetic):
        raise UserError(f"synthetic: expected {{name: set}}, got a {type(synthetic).__name__}.")
    path = real.path if isinstance(real, Dataset) else real
    config = load_config(EvaluationConfig, values={"real": str(path), "synthetic": {}, **settings})
    dataset = real if isinstance(real, Dataset) else read_dataset(real, splits_read(config))
    if absent := [name for name in splits_read(config) if name not in dataset.splits]:
        raise UserError(f"{path}: has no {' and no '.join(absent)}. To evaluate without test, give "
                        "score_on='selection'.")
    sets = {}
    for name, parts in synthetic.items():
        sets[name] = [_split_of(name, part, dataset) for part in (parts if isinstance(parts, list) else [parts])]
        if not sets[name]:
            raise UserError(f"synthetic set '{name}': the list is empty.")
    with contextlib.nullcontext() if folder is None else sole_writer(folder):
        return evaluate_sets(dataset, sets, config, folder)


def _split_of(name: str, part: Any, real: Dataset) -> Split:
    """Return the rows of one synthetic dataset. Raises UserError if it is none, or does not fit the dataset `real`."""
    what, meta = f"synthetic set '{name}'", None
    if isinstance(part, pd.DataFrame):
        part = LabelledSeries.from_frame(part, classes=real.meta.classes)
    elif isinstance(part, (str, Path)):
        part = LabelledSeries.read(part)
    elif isinstance(part, tuple) and len(part) == 2:
        part = _split_of_arrays(what, *part)
    if isinstance(part, LabelledSeries):
        part, meta = part.split, part.meta
    if not isinstance(part, Split):
        raise UserError(f"{what}: expected labelled series, a frame, arrays (x, y), a Split or a folder, or a list of "
                        f"these, got a {type(part).__name__}.")
    require_fit(what, part, meta, real)
    return part


def _split_of_arrays(what: str, x: Any, y: Any) -> Split:
    """Return series x (N, L, C) and class numbers y (N,), whole numbers of any type, as a split."""
    try:
        x, y = np.asarray(x, dtype=np.float32), np.asarray(y)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what}: expected arrays (x, y) of numbers ({error}).") from None
    return Split(x, y.astype(np.int64) if y.dtype.kind in "iu" else y)


def require_trained_on(folder: str | Path, dataset: Dataset, *splits: str) -> None:
    """Raise UserError if splits of a dataset are not those that the run in a folder was trained on."""
    record = read_json(Path(folder) / "run.json", inputs=dict, config=dict)
    other = [name for name in splits if record["inputs"].get(name) != dataset.splits[name].fingerprint()]
    if other:
        raise UserError(f"{dataset.path}: its {' and '.join(other)} rows are not those that {folder} was trained on, "
                        f"which were of {record['config'].get('data')}. Give that dataset, or train on this one.")


def check_sampler(config: SamplerConfig, process: DiffusionProcess, has_unconditional: bool) -> None:
    """Raise UserError if the sampler asks for more steps than a denoiser has, or for what it is not trained for."""
    timesteps_of(config, process.schedule)
    if config.cfg_scale != 1 and not has_unconditional:
        raise UserError(f"sampler.cfg_scale={config.cfg_scale:g} needs a denoiser that is trained with "
                        "training.label_dropout above 0: this one has no unconditional prediction. Give 1.")
