"""From settings to a classifier: GRU, LSTM, TimesNet, or a class of the user's own."""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from classifier.rnn import RNNClassifier
from classifier.timesnet import TimesNet
from tardiff.config import ClassifierModelConfig
from tardiff.influence.task import LossFunction, cross_entropy
from tardiff.utils.checkpoint import source_fingerprint
from tardiff.utils.errors import USER_CODE, UserError, first_line


def build_classifier(config: ClassifierModelConfig, shape: tuple[int, int], num_classes: int) -> nn.Module:
    """Return an untrained model for series of shape (L, C) and K classes: (B, L, C) float32 -> logits (B, K).

    Raises UserError if a class of the user's own cannot be imported, built, copied or called, or if its loss is not one
    per sample.
    """
    length, channels = shape
    if config.name in ("gru", "lstm"):
        return RNNClassifier(channels, num_classes, config.name, **vars(config.rnn))
    if config.name == "timesnet":
        return TimesNet(length, channels, num_classes, **vars(config.timesnet))
    if config.custom.import_path is None:
        raise UserError("model.name=custom needs model.custom.import_path='package.module:Class'.")
    return _build_custom(config, length, channels, num_classes)


def build_loss(config: ClassifierModelConfig) -> LossFunction:
    """Return the per-sample loss: the user's own for a custom model that names one, else cross-entropy."""
    if config.name == "custom" and config.custom.loss_path is not None:
        return import_object(config.custom.loss_path, "model.custom.loss_path")
    return cross_entropy


def custom_source(config: ClassifierModelConfig) -> dict[str, str]:
    """Return hashes of the source of a model and loss of the user's own, so that an edit counts as another recipe."""
    if config.name != "custom":
        return {}
    paths = {"model": ("model.custom.import_path", config.custom.import_path),
             "loss": ("model.custom.loss_path", config.custom.loss_path)}
    return {f"code of the {what}": source_fingerprint(import_object(path, key))
            for what, (key, path) in paths.items() if path is not None}


def import_object(path: str, key: str) -> Any:
    """Import 'package.module:name', with the working folder on the path. Raises UserError naming the setting `key`."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise UserError(f"{key}='{path}': expected 'package.module:name'.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
        USER_CODE.add(getattr(module, "__file__", None))
        return getattr(module, name)
    except (Exception, SystemExit) as error:  # The code of a module may raise anything.
        raise UserError(f"{key}='{path}': cannot be imported ({type(error).__name__}: {first_line(error)}). Run from "
                        "the folder that holds the module, or install its package.") from None


def _build_custom(config: ClassifierModelConfig, length: int, channels: int, num_classes: int) -> nn.Module:
    path = config.custom.import_path
    factory = import_object(path, "model.custom.import_path")
    with _refusing(f"{path}: cannot be built as Class(length, num_channels, num_classes, **options)"):
        model = factory(length=length, num_channels=channels, num_classes=num_classes, **config.custom.options)
    if not isinstance(model, nn.Module):
        raise UserError(f"{path}: gave a {type(model).__name__}; expected a torch.nn.Module.")
    with _refusing(f"{path}: cannot be copied by copy.deepcopy, and training averages the weights in a copy"):
        copy.deepcopy(model)
    model.eval()
    with _refusing(f"{path}: cannot read a batch of shape (2, {length}, {channels})"):
        logits = model(torch.zeros(2, length, channels))
    binary = config.custom.loss_path is not None and num_classes == 2
    if _shape(logits) not in {(2, num_classes), *([(2, 1)] if binary else [])}:
        raise UserError(f"{path}: returned {_shape(logits)} for 2 series; expected logits (2, {num_classes}).")
    with _refusing(f"{config.custom.loss_path}: cannot read logits {_shape(logits)} and labels (2,)"):
        losses = build_loss(config)(logits, torch.zeros(2, dtype=torch.int64))
    if _shape(losses) != (2,):
        raise UserError(f"{config.custom.loss_path}: returned {_shape(losses)} for 2 series; expected one loss per "
                        "sample (2,).")
    return model


@contextlib.contextmanager
def _refusing(fault: str) -> Iterator[None]:
    """Turn any error of the user's code in the block into a UserError that begins with the fault."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{fault}: {error}.") from None


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
