"""A teacher: an ensemble of classifiers, fitted on real training rows, whose probabilities are targets for others.

Hinton et al. 2015, 'Distilling the Knowledge in a Neural Network'.

Networks are kept as weights. Models of scikit-learn could only be kept as pickles, so they are fitted again, in
seconds, where they are needed: from the same rows, with the same seed and by the same version, and what they then say
of the selection half is compared with what they said when they were taught.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from torch import Tensor

from classifier.boosting import FittedBoosting
from classifier.models import build_classifier, custom_source
from classifier.summary_models import FittedSummaryModel, fit_summary_model
from classifier.train import FittedClassifier, fit_classifier, normalized_splits, predict
from tardiff.config import SUMMARY_MODELS, ClassifierModelConfig, TeacherConfig
from tardiff.data.format import Dataset, absent_classes
from tardiff.data.trained import TrainedWeights
from tardiff.evaluation.controls import Rows, subject_folds, weighted_rows
from tardiff.utils.cache import Job, cached_jobs
from tardiff.utils.checkpoint import fingerprint, load_arrays, load_weights, save_arrays
from tardiff.utils.errors import UserError
from tardiff.utils.logging import read_run_config
from tardiff.utils.seeding import derive_seed

OUT_OF_FOLD = "out_of_fold.npz"
SELECTION = "selection"
"""The tensor of a member that holds what it says of the selection half."""
REFITTED = ("boosting", *SUMMARY_MODELS)
"""The models that are fitted again where they are needed."""
TOLERANCE = 1e-6
"""Of probabilities of a model that is fitted again: the rounding of another machine."""

Fitted = FittedClassifier | FittedBoosting | FittedSummaryModel


@dataclass(frozen=True)
class Member:
    """One classifier of a teacher: its architecture, and its number among those of it."""

    model: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.model}-{self.number}"

    def fit(self, train: Rows, selection: Rows, num_classes: int, config: TeacherConfig, device: torch.device
            ) -> Fitted:
        """Fit it on rows, whose looks the selection rows score."""
        seed = derive_seed(config.seed, "teacher", self.model, self.number)
        if self.model in SUMMARY_MODELS:
            return fit_summary_model(self.model, train, config.training, seed)
        return fit_classifier(train, selection, num_classes, self.settings(config), config.training, seed, device)

    def settings(self, config: TeacherConfig) -> ClassifierModelConfig:
        """Return the settings of its model."""
        return replace(config.model, name=self.model)

    def recipe(self, config: TeacherConfig, device: torch.device) -> list[Any]:
        """Return what decides a fit, beside the rows and the version of torch."""
        model = self.settings(config)
        own = {} if self.model in SUMMARY_MODELS else asdict(getattr(model, model.section))
        return [self.name, config.seed, own, asdict(config.training), custom_source(model), device.type,
                *([sklearn.__version__] if self.model in REFITTED else [])]


def members_of(config: TeacherConfig) -> list[Member]:
    """Return the members that the settings name."""
    return [Member(entry["model"], number) for entry in config.members for number in range(entry["seeds"])]


def ensemble_mean(members: Sequence[Member], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over architectures of the mean (N, K) over the members of each, of one prediction a member."""
    of_model: dict[str, list[np.ndarray]] = {}
    for member, p in zip(members, predictions, strict=True):
        of_model.setdefault(member.model, []).append(p)
    return np.mean([np.mean(parts, axis=0) for parts in of_model.values()], axis=0)


@dataclass(frozen=True)
class Teacher:
    """A teacher as `teach` has left it in a run folder; its classifiers are made when the first probability is asked
    for."""

    folder: Path
    config: TeacherConfig
    trained: TrainedWeights
    dataset: Dataset
    device: torch.device

    @staticmethod
    def load(folder: str | Path, dataset: Dataset, device: torch.device) -> Teacher:
        """Read a run folder. dataset: with the splits train and val that it was taught.

        Raises UserError if the run is unfinished or damaged, or if models that are to be fitted again would be others:
        on other rows, or by another version of scikit-learn.
        """
        config, trained = _read(folder, dataset)
        version = trained.record.get("scikit-learn")
        if version != sklearn.__version__ and any(member.model in REFITTED for member in members_of(config)):
            raise UserError(f"{folder}: taught with scikit-learn {version}, here is {sklearn.__version__}, which may "
                            "fit other models. Install that version, or teach again in another output folder.")
        return Teacher(Path(folder), config, trained, dataset, device)

    def fingerprint(self) -> str:
        """Return a hash of all that decides its probabilities."""
        return _fingerprint(self.config, self.trained)

    def check(self) -> None:
        """Fit again what has to be, for later predictions. Raises UserError if such a model is not the one it was."""
        self._predictions  # noqa: B018

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities (N, K) float32 for series x (N, L, C) in raw units. Raises UserError like
        `check`."""
        x = self.trained.normalizer.transform(x)
        parts = [predict_one(x) for predict_one in self._predictions]
        return ensemble_mean(members_of(self.config), parts).astype(np.float32)

    @cached_property
    def _predictions(self) -> list[Callable[[np.ndarray], np.ndarray]]:
        _, parts = normalized_splits(self.dataset, self.config.normalizer)
        return [self._refitted(member, parts).predict if member.model in REFITTED
                else partial(predict, self._network(member)) for member in members_of(self.config)]

    def _refitted(self, member: Member, parts: dict[str, Rows]) -> Fitted:
        rows = _taught(parts["train"], parts, self.config)
        fitted = member.fit(rows, parts["selection"], self.dataset.num_classes, self.config, self.device)
        before = self.trained.weights[f"{member.name}.{SELECTION}"].numpy()
        difference = np.abs(fitted.predict(parts["selection"][0]) - before).max()
        if not difference <= TOLERANCE:
            raise UserError(f"{self.folder}: {member.name}, fitted again on the same rows, differs by {difference:.2g} "
                            "from what it was. Teach again on this machine, in another output folder.")
        return fitted

    def _network(self, member: Member) -> torch.nn.Module:
        model = build_classifier(member.settings(self.config), self.trained.shape, self.dataset.num_classes)
        prefix = f"{member.name}."
        weights = {name.removeprefix(prefix): value for name, value in self.trained.weights.items()
                   if name.startswith(prefix)}
        load_weights(model, weights, self.folder)
        return model.to(self.device)


def out_of_fold(folder: str | Path, dataset: Dataset) -> tuple[np.ndarray, str]:
    """Return what the teacher of a run folder says of the training rows of a dataset, p (N, K) float32, each row by
    members that never saw its subject, and the fingerprint of the teacher; nothing is fitted.

    Raises UserError if the run is unfinished or damaged, or taught other rows.
    """
    config, trained = _read(folder, dataset)
    return load_arrays(Path(folder) / OUT_OF_FOLD)["p"], _fingerprint(config, trained)


def _read(folder: str | Path, dataset: Dataset) -> tuple[TeacherConfig, TrainedWeights]:
    """Read a run folder. Raises UserError if it is unfinished or damaged, or taught other rows than the dataset's."""
    config = read_run_config(folder, TeacherConfig)
    trained = TrainedWeights.load(folder, config, "teacher", "tardiff teach")
    for name in ("train", "val"):
        if trained.record.get(name) != dataset.splits[name].fingerprint():
            raise UserError(f"{folder}: taught other {name} rows than those of {dataset.path}, of {config.data}. "
                            "Give that dataset, or teach another one.")
    return config, trained


def _fingerprint(config: TeacherConfig, trained: TrainedWeights) -> str:
    code = [custom_source(member.settings(config)) for member in members_of(config)]
    return fingerprint(trained.weights, dict(trained.record), code)


def _taught(rows: Rows, parts: dict[str, Rows], config: TeacherConfig) -> Rows:
    """Return training rows (x, y), with those of the guidance half where these are to count."""
    return weighted_rows(rows, parts["guidance"], config.guidance_share) if config.guidance_share else rows


def folds_of(dataset: Dataset, seed: int) -> list[np.ndarray]:
    """Return the row numbers of each fold of the training rows.

    Raises UserError if there are fewer subjects than folds, or a class is in a single fold.
    """
    folds = subject_folds(dataset.train.subjects(), dataset.train.y, seed)
    for number, held_out in enumerate(folds):
        others = dataset.train[np.delete(np.arange(len(dataset.train)), held_out)]
        what = f"{dataset.path}/train.npz without fold {number} of its subjects"
        if faults := absent_classes(others, dataset.meta, what):
            raise UserError(faults[0])
    return folds


def teach(config: TeacherConfig, dataset: Dataset, device: torch.device, workers: int) -> dict[str, np.ndarray]:
    """Fit the members on the training rows, write what `Teacher.load` reads to the run folder, and return what they
    say, each (N, K) float64: of the `selection` half, and `out_of_fold` of the training rows.

    Out of fold, a row is told of by members that were fitted without its fold of subjects; OUT_OF_FOLD in the folder
    holds it as p (N, K) float32. Finished fits are kept in the folder, so that a killed run goes on.
    Raises UserError if there are fewer subjects than folds, or a class is in a single fold.
    """
    normalizer, parts = normalized_splits(dataset, config.normalizer)
    (x, y), selection = parts["train"], parts["selection"]
    members, folds = members_of(config), folds_of(dataset, config.seed)
    decides = fingerprint(*_taught((x, y), parts, config), *selection)

    def fit(member: Member, held_out: np.ndarray) -> Fitted:
        rows = np.delete(x, held_out, axis=0), np.delete(y, held_out)
        return member.fit(_taught(rows, parts, config), selection, dataset.num_classes, config, device)

    def of_all(member: Member) -> dict[str, np.ndarray]:
        fitted = fit(member, np.array([], dtype=np.int64))
        # Of a network the weights as well, each as a vector, for a kept result has no arrays without a dimension.
        weights = {} if member.model in REFITTED else fitted.model.state_dict()
        return {SELECTION: fitted.predict(selection[0]),
                **{f"weights.{name}": value.cpu().numpy().reshape(-1) for name, value in weights.items()}}

    def of_fold(member: Member, held_out: np.ndarray) -> dict[str, np.ndarray]:
        return {"p": fit(member, held_out).predict(x[held_out])}

    jobs = [Job(("member", decides, *member.recipe(config, device)), partial(of_all, member), member.name)
            for member in members]
    jobs += [Job(("fold", decides, held_out, *member.recipe(config, device)), partial(of_fold, member, held_out),
                 f"{member.name} without fold {number}")
             for member in members for number, held_out in enumerate(folds)]
    folder = Path(config.output)
    found = cached_jobs(folder / "fits", jobs, workers, "teacher", "fit")
    of_members, of_folds = found[:len(members)], iter(found[len(members):])
    p = np.empty((len(members), len(y), dataset.num_classes))
    for of_member in p:
        for held_out in folds:
            of_member[held_out] = next(of_folds)["p"]
    out_of_fold = ensemble_mean(members, p)
    save_arrays(folder / OUT_OF_FOLD, p=out_of_fold.astype(np.float32))
    weights: dict[str, Tensor] = {}
    for member, values in zip(members, of_members, strict=True):
        if member.model in REFITTED:
            weights[f"{member.name}.{SELECTION}"] = torch.from_numpy(values[SELECTION])
            continue
        like = build_classifier(member.settings(config), dataset.shape, dataset.num_classes).state_dict()
        weights |= {f"{member.name}.{name}": torch.from_numpy(values[f"weights.{name}"]).reshape(value.shape)
                    for name, value in like.items()}
    record = {name: dataset.splits[name].fingerprint() for name in ("train", "val")}
    TrainedWeights(weights, normalizer, dataset.shape, dataset.meta,
                   {**record, "scikit-learn": sklearn.__version__}).save(folder, config)
    return {SELECTION: ensemble_mean(members, [values[SELECTION] for values in of_members]), "out_of_fold": out_of_fold}
