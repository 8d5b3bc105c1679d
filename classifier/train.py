"""Train the downstream classifier: the guide of stage 2, and every classifier of the evaluation, by one recipe."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from classifier.boosting import FittedBoosting, fit_boosting
from classifier.models import build_classifier, build_loss, custom_source
from classifier.targets import class_shares, class_weights
from classifier.timesnet import TimesNet
from tardiff.config import ClassifierConfig, ClassifierModelConfig, ClassifierTrainingConfig
from tardiff.data.format import Dataset, Metadata, Split, absent_classes, absent_masks
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import halve_validation
from tardiff.data.trained import WEIGHTS, TrainedWeights
from tardiff.evaluation.controls import Rows
from tardiff.evaluation.intervals import FEW_SUBJECTS, level_interval, main_subject_variance, subject_freedom
from tardiff.evaluation.metrics import auprc, auroc, shifted_log_loss
from tardiff.evaluation.protocol import subject_weights
from tardiff.evaluation.summary import counted
from tardiff.influence.task import DownstreamTask, LossFunction, probabilities
from tardiff.models.ema import EMA
from tardiff.utils.checkpoint import load_weights
from tardiff.utils.distributed import ProcessGroup
from tardiff.utils.errors import UserError
from tardiff.utils.logging import Run, read_run_config
from tardiff.utils.loop import TrainingLoop
from tardiff.utils.seeding import seed_torch

BOOTSTRAP = 1000
"""Resamples of the guidance subjects behind the interval of a guide's AUROC."""


@dataclass(frozen=True)
class FittedClassifier:
    """A model with the averaged weights of step `step`, and their shifted log-loss and AUPRC on the selection rows."""

    model: nn.Module
    step: int
    selection_loss: float
    selection_auprc: float

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities (N, K) float64 for normalised series x (N, L, C)."""
        return predict(self.model, x)


@torch.no_grad()
def predict(model: nn.Module, x: np.ndarray, batch_size: int = 1024) -> np.ndarray:
    """Return class probabilities (N, K) float64 of a model for normalised series x (N, L, C).

    The model is left in evaluation mode.
    """
    device = next(model.parameters()).device
    model.eval()
    parts = [probabilities(model(torch.from_numpy(x[start:start + batch_size]).to(device))).double().cpu()
             for start in range(0, len(x), batch_size)]
    return torch.cat(parts).numpy()


@dataclass
class BestLook:
    """The averaged weights kept so far, and what was seen when they were taken, after `step` steps (0: none yet)."""

    step: int
    selection_loss: float
    selection_auprc: float
    weights: dict[str, Tensor]

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def fit_classifier(train: Rows, selection: Rows, num_classes: int,
                   model_config: ClassifierModelConfig, config: ClassifierTrainingConfig, seed: int,
                   device: torch.device) -> FittedClassifier | FittedBoosting:
    """Train a classifier of any architecture on `train`; it has `predict`.

    Both sets are (x (N, L, C) float32 normalised, labels y (N,) int64); `train` may have the probability of each class
    (N, K) in place of labels, toward which the loss is the expected one, and as a third part the share of each row in a
    batch, (P, N) float64, in each of P equal parts of the training; all alike without it. Balanced classes are so over
    all parts together. `selection` chooses what `config.keep` names and needs rows of every class. Raises UserError
    where a log-loss is not finite.
    """
    if model_config.name == "boosting":
        return fit_boosting(train, selection, num_classes, model_config.boosting, config, seed)
    return fit_network(train, selection, num_classes, model_config, config, seed, device)


def fit_network(train: Rows, selection: Rows, num_classes: int,
                model_config: ClassifierModelConfig, config: ClassifierTrainingConfig, seed: int,
                device: torch.device, run: Run | None = None, positive: int = 1) -> FittedClassifier:
    """Train a network on `train` for `config.steps` steps and keep the averaged weights of the look that `config.keep`
    names.

    Both sets are those of `fit_classifier`; a look scores the averaged weights on `selection` by `shifted_log_loss`
    with its classes weighted as in training, and tells the AUPRC of the class `positive`. The batch and the dropout of
    a step depend on (seed, step) alone; with a run folder, a killed training resumes after its last look.
    Raises UserError as `TrainingLoop` does, also where a log-loss is not finite.
    """
    x, targets = torch.from_numpy(train[0]).to(device), torch.from_numpy(train[1]).to(device)
    if targets.ndim == 2:
        targets = targets.float()
    seed_torch(seed, "classifier", "initialisation")
    model = build_classifier(model_config, tuple(x.shape[1:]), num_classes)
    if isinstance(model, TimesNet):
        model.fit_periods(torch.from_numpy(train[0]))
    model.to(device)
    average = EMA(model, config.ema_decay)
    loss_function = build_loss(model_config)
    # Of the selection rows' own shares: balanced has to be balanced on either.
    of_training, of_selection = (class_weights(class_shares(part[1], num_classes, *part[2:]), config.class_weighting)
                                 for part in (train, selection))
    weights = torch.from_numpy(of_training).float().to(device)
    shares = torch.from_numpy(train[2]).to(device) if len(train) > 2 else None
    selection_weights = of_selection[selection[1]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    best = BestLook(0, float("inf"), float("nan"), copy.deepcopy(average.module.state_dict()))
    parts = {"model": model, "average": average.module, "optimizer": optimizer, "best": best}
    loop = TrainingLoop(parts, run, ProcessGroup(0, 1, device),
                        log_every=config.evaluate_every, checkpoint_every=config.evaluate_every)

    def train_step(step: int) -> dict[str, Tensor | float]:
        seed_torch(seed, "classifier", step)
        model.train()
        rows = (torch.randint(len(x), (config.batch_size,), device=device) if shares is None
                else torch.multinomial(shares[step * len(shares) // config.steps], config.batch_size, replacement=True))
        loss = expected_losses(loss_function, model(x[rows]), targets[rows], weights).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        average.update(model, step)
        done = step + 1
        looks = done == config.steps or done % config.evaluate_every == 0
        return {"loss": loss.detach(), **(look(done) if looks else {})}

    def look(done: int) -> dict[str, float]:
        p = predict(average.module, selection[0])
        loss, score = shifted_log_loss(selection[1], p, selection_weights), auprc(selection[1], p, positive)
        is_last = done == config.steps
        is_best = config.keep == "best" and done >= config.min_steps and loss < best.selection_loss
        if is_best or (is_last and (config.keep == "last" or best.step == 0)):
            best.load_state_dict({"step": done, "selection_loss": loss, "selection_auprc": score,
                                  "weights": copy.deepcopy(average.module.state_dict())})
        return {"selection_loss": loss, "selection_auprc": score}

    loop.train("classifier", config.steps, config.batch_size, train_step)
    model.load_state_dict(best.weights)
    return FittedClassifier(model.eval(), best.step, best.selection_loss, best.selection_auprc)


def expected_losses(loss_function: LossFunction, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the loss of each sample (B,) times the weight of its class, for labels (B,) int64 among the weights (K,);
    for probabilities (B, K) its expectation over the classes, which for cross-entropy is that of soft targets."""
    if targets.ndim == 1:
        return loss_function(logits, targets) * weights[targets]
    of_class = [loss_function(logits, torch.full_like(targets[:, 0], label, dtype=torch.int64))
                for label in range(len(weights))]
    return (torch.stack(of_class, dim=1) * targets * weights).sum(dim=1)


def normalized_splits(dataset: Dataset, kind: str, reads_mask: bool = False) -> tuple[Normalizer, dict[str, Rows]]:
    """Return the normaliser fitted on train, and (x normalised, y) of train and of the halves of val, `guidance` and
    `selection`; x with the mask where the classifier `reads_mask`, as `Normalizer.inputs` has it.

    Raises UserError if the selection half lacks a class, so that no weights could be chosen on it, or if a mask that is
    to be read is missing.
    """
    normalizer = Normalizer.fit(kind, dataset.observed)
    guidance, selection = halve_validation(dataset.val)
    faults = absent_classes(selection, dataset.meta, f"the selection half of {dataset.path}/val.npz")
    if reads_mask:
        faults += absent_masks((f"{dataset.path}/{name}.npz", dataset.splits[name]) for name in ("train", "val"))
    if faults:
        raise UserError(faults[0])
    parts: dict[str, Split] = {"train": dataset.train, "guidance": guidance, "selection": selection}
    return normalizer, {name: (normalizer.inputs(part.x, part.mask if reads_mask else None), part.y)
                        for name, part in parts.items()}


@dataclass(frozen=True)
class Guide:
    """A trained classifier as it steers sampling: the task of its run folder, and what it reads.

    auroc: on the guidance half, with the ends of its 95 % interval; None where an earlier version trained it.

    `architecture` is its `model.name`; with `reads_mask` it reads the mask behind the values; `data` is the folder of
    the dataset that it was trained on; `shape` is (L, C) of the series; `code` has the hashes of the source of a model
    and loss of the user's own.
    """

    folder: Path
    architecture: str
    reads_mask: bool
    task: DownstreamTask
    normalizer: Normalizer
    shape: tuple[int, int]
    meta: Metadata
    data: str
    code: dict[str, str]
    auroc: tuple[float, float, float] | None

    def chance_warning(self, dataset: Dataset) -> str | None:
        """Return what to say of a guide that is not shown to be better than chance; None of others. dataset: the one
        that it was trained on."""
        return None if self.auroc is None else chance_warning(*self.auroc, dataset)

    @property
    def num_classes(self) -> int:
        return len(self.meta.classes)

    def predict(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Return class probabilities (N, K) float64 for series x (N, L, C) in raw units, whose mask (N, L, C) bool is
        read where it `reads_mask`. Raises UserError if it is missing then."""
        # A copy, for predicting changes the mode of layers.
        return predict(copy.deepcopy(self.task.model), self.inputs(x, mask))

    def inputs(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """Return what the model reads of x (N, L, C) in raw units with their mask; see `Normalizer.inputs`.

        Raises UserError if it reads a mask and there is none.
        """
        if self.reads_mask and mask is None:
            raise UserError(f"{self.folder}: reads masks (model.inputs=values+mask), and these series have none.")
        return self.normalizer.inputs(x, mask if self.reads_mask else None)

    @staticmethod
    def load(folder: str | Path, device: torch.device) -> Guide:
        """Load a run folder. Raises UserError if the run is unfinished, damaged or its files do not belong together."""
        config = read_run_config(folder, ClassifierConfig)
        trained = TrainedWeights.load(folder, config, "classifier", "tardiff guide")
        model = build_classifier(config.model, config.model.input_shape(trained.shape), len(trained.meta.classes))
        load_weights(model, trained.weights, Path(folder) / WEIGHTS)
        recorded = trained.record.get("guidance_auroc")
        known = None if recorded is None else tuple(map(float, recorded.split()))
        task = DownstreamTask(model.to(device), build_loss(config.model))
        return Guide(Path(folder), config.model.name, config.model.reads_mask, task, trained.normalizer, trained.shape,
                     trained.meta, config.data, custom_source(config.model), known)


def guide_auroc(fitted: FittedClassifier, x: np.ndarray, dataset: Dataset) -> tuple[float, float, float]:
    """Return the AUROC on the guidance half, which training does not read, and the ends of its 95 % interval. x: what
    the classifier reads of that half (N, L, C or 2C).

    The interval is `level_interval` over subjects, with the variance of a bootstrap of them. Where the guidance half
    lacks a class, the AUROC is not a number and the interval is all of [0, 1].
    """
    guidance, _ = halve_validation(dataset.val)
    if absent_classes(guidance, dataset.meta, "the guidance half"):
        return float("nan"), 0.0, 1.0
    p = fitted.predict(x)
    subjects = guidance.subjects()
    value, freedom = float(auroc(guidance.y, p)[0]), subject_freedom(guidance.y, subjects)
    variance = main_subject_variance(auroc(guidance.y, p, subject_weights(subjects, BOOTSTRAP, seed=0))[None], freedom)
    return value, *level_interval(value, variance**0.5, freedom, freedom + 1)


def chance_warning(value: float, low: float, high: float, dataset: Dataset) -> str | None:
    """Return what to say of a classifier of the dataset whose AUROC has this interval if that reaches chance, else
    None."""
    if low > 0.5:
        return None
    parts = {"training rows": dataset.train, "rows of the guidance half": halve_validation(dataset.val)[0]}
    fewest, where = min((len(np.unique(part.subjects()[part.y == label])), where)
                        for where, part in parts.items() for label in range(dataset.num_classes))
    advice = ("Train it for longer or on more data, or choose another one" if fewest >= FEW_SUBJECTS else
              f"More patients are needed: of the rarest class, the {where} have {counted(fewest, 'subject')}")
    return (f"warning: the classifier is not shown to be better than chance: AUROC {value:.3f} [{low:.3f}, {high:.3f}] "
            f"on the guidance half. Guidance by it may follow noise. {advice}.")


def save_classifier(folder: str | Path, config: ClassifierConfig, fitted: FittedClassifier, normalizer: Normalizer,
                    dataset: Dataset, auroc: tuple[float, float, float]) -> None:
    """Write what `Guide.load` reads to the run folder that was begun with `config`. auroc: see `guide_auroc`."""
    record = {"step": str(fitted.step), "selection_loss": f"{fitted.selection_loss:.6f}",
              "selection_auprc": f"{fitted.selection_auprc:.6f}",
              "guidance_auroc": " ".join(f"{value:.6f}" for value in auroc)}
    TrainedWeights(fitted.model.state_dict(), normalizer, dataset.shape, dataset.meta, record).save(folder, config)
