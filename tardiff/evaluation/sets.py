"""Synthetic sets: how they are named, found and read, and what is known of how they were made.

A set is one or more datasets, one for each generation seed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tardiff.config import BaseConfig, EvaluationConfig, InfluenceAnalysisConfig
from tardiff.data.format import Dataset, Metadata, Split, interval_seconds, is_dataset, read_dataset, split_faults
from tardiff.utils.checkpoint import load_tensors, read_json
from tardiff.utils.errors import UserError
from tardiff.utils.logging import read_metrics, read_run_config

UNKNOWN = {"", "unknown"}
"""Units that say nothing."""


def require_datasets(config: EvaluationConfig) -> None:
    """Raise UserError that names those datasets of an evaluation which are not there, or not finished."""
    needed = [config.real, *(path for paths in synthetic_folders(config).values() for path in paths)]
    missing = [path for path in needed if not is_dataset(path)]
    if missing:
        raise UserError("no finished dataset at:\n" + "\n".join(f"  - {path}" for path in missing)
                        + "\nGenerate it first, or change 'real' or 'synthetic'.")


def synthetic_folders(config: EvaluationConfig | InfluenceAnalysisConfig) -> dict[str, list[str]]:
    """Return the folders of each synthetic set; a single folder stands for a list of one."""
    folders = {str(name): [paths] if isinstance(paths, str) else paths for name, paths in config.synthetic.items()}
    wrong = [name for name, paths in folders.items()
             if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths)]
    if wrong:
        raise UserError(f"synthetic.{wrong[0]}: expected a folder or a list of folders, got {folders[wrong[0]]!r}.")
    return folders


def reference_of(config: EvaluationConfig, names: Collection[str]) -> str | None:
    """Return the set that the others are compared with. Raises UserError if it is none of them; the default may be
    absent."""
    if config.reference not in (None, "unguided", *names):
        raise UserError(f"reference={config.reference}: not among the sets {', '.join(names)}.")
    return config.reference if config.reference in names else None


def read_sets(folders: dict[str, list[str]], real: Dataset) -> dict[str, list[Split]]:
    """Read the rows of all synthetic datasets, by set."""
    sets: dict[str, list[Split]] = {}
    for name, paths in folders.items():
        read = [read_dataset(path, ("train",), every_class=False) for path in paths]
        for synthetic in read:
            require_fit(str(synthetic.path), synthetic.train, synthetic.meta, real)
            if not is_of_training_rows(synthetic.path, real):
                print(f"note: {synthetic.path} does not record what its generator was trained on. If it was rows that "
                      "are scored here, results are too good.")
        sets[name] = [synthetic.train for synthetic in read]
    return sets


def is_of_training_rows(dataset: Path, real: Dataset) -> bool:
    """Tell whether a synthetic dataset records that its generator was trained on the training rows of `real`.

    Raises UserError if it records others: patients of test may be among them.
    """
    generation = read_generation(dataset)
    recorded = None if generation is None else generation["inputs"].get("train")
    if recorded not in (None, real.train.fingerprint()):
        raise UserError(f"{dataset}: its generator was trained on other rows than those of {real.path}/train.npz (it "
                        f"names {generation['settings'].get('data')}), so it may have seen patients that are scored "
                        "here. Evaluate against the dataset that it was trained on.")
    return recorded is not None


def require_fit(what: str, split: Split, meta: Metadata | None, real: Dataset) -> None:
    """Raise UserError, which names the set as `what`, if a synthetic split is not of the kind of the real dataset: of
    other shape, channels, classes, or, where both are known, other units or another sampling interval.

    meta: what the numbers of the split mean; None where that is not known.
    """
    for feature, found, expected in _compared(split, meta, real):
        if found != expected:
            raise UserError(f"{what}: {feature} {found}, but {real.path} has {expected}. Evaluate against the dataset "
                            "it was generated from.")
    if faults := split_faults(split, real.meta):
        raise UserError("\n".join(f"{what}: {fault}" for fault in faults))


def _compared(split: Split, meta: Metadata | None, real: Dataset) -> Iterator[tuple[str, Any, Any]]:
    """Yield (feature, of the synthetic split, of the real dataset), as far as both are known."""
    yield "shape (L, C)", split.x.shape[1:], real.shape
    if meta is None:
        return
    yield "channels", meta.channels, real.meta.channels
    yield "classes", meta.classes, real.meta.classes
    for channel, found, expected in zip(meta.channels, meta.units, real.meta.units, strict=True):
        if not {found, expected} & UNKNOWN:
            yield f"unit of {channel}", found, expected
    intervals = meta.sampling_interval, real.meta.sampling_interval
    found, expected = map(interval_seconds, intervals)
    if found and expected and not math.isclose(found, expected, rel_tol=1e-3):  # Frames round their times.
        yield "sampling interval", *intervals


def read_costs(folders: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Return what each set cost where its run folders tell: the budget, parameters, optimiser steps and seconds of
    training, and seconds of sampling per series; medians over its datasets, since one may have shared the machine with
    others."""
    costs = {}
    for name, paths in folders.items():
        found = [_cost(Path(path)) for path in paths]
        known = {key: [cost[key] for cost in found if isinstance(cost.get(key), (int, float))]
                 for key in ("parameters", "optimiser_steps", "training_seconds", "seconds_per_series")}
        costs[name] = {key: float(np.median(values)) if values else None for key, values in known.items()}
        budgets = dict.fromkeys(str(cost["budget"]) for cost in found if "budget" in cost)
        costs[name]["budget"] = ", ".join(budgets) or None
    return costs


def read_generation(dataset: Path) -> dict[str, Any] | None:
    """Return seed, command, settings and hashes of the inputs that a synthetic dataset was made with; None where it is
    not recorded."""
    path = dataset / "provenance.json"
    if not path.exists():
        return None
    record = {"inputs": {}, "config": {}, **read_json(path)}
    if not isinstance(record["inputs"], dict) or not isinstance(record["config"], dict):
        raise UserError(f"{path}: 'inputs' and 'config' must be objects. Restore the file.")
    words = record["argv"] if isinstance(record.get("argv"), list) else []
    return {"seed": record.get("seed"), "command": " ".join(map(str, words)),
            "settings": record["config"], "inputs": record["inputs"]}


def read_at_bounds(folders: list[str], channels: list[str]) -> dict[str, list[float]] | None:
    """Return the shares of values at or beyond the ends of the training range, per channel: `synthetic`, the mean over
    the datasets of a set, and `train`, of the training rows; None where a dataset has no `at_bounds.json`, which
    `tardiff generate` writes."""
    paths = [Path(folder) / "at_bounds.json" for folder in folders]
    if not all(path.exists() for path in paths):
        return None
    records = [read_json(path, "channels", "synthetic", "train") for path in paths]
    for path, record in zip(paths, records, strict=True):
        kinds = [list(map(type, shares)) if isinstance(shares, list) else None
                 for shares in (record["synthetic"], record["train"])]
        if record["channels"] != channels or kinds != [[float] * len(channels)] * 2:
            raise UserError(f"{path}: expected a number for each of the channels {', '.join(channels)}. Delete the "
                            "file, or generate the set again.")
    return {key: np.mean([record[key] for record in records], axis=0).tolist() for key in ("synthetic", "train")}


def guide_kinds(folders: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return for each set that was guided the architectures of its guides, as far as they are recorded."""
    kinds = {}
    for name, paths in folders.items():
        records = [read_generation(Path(path)) for path in paths]
        found = [record["inputs"].get("guide") for record in records if record is not None]
        if known := [kind for kind in dict.fromkeys(found) if kind is not None]:
            kinds[name] = known
    return kinds


def _cost(dataset: Path) -> dict[str, Any]:
    """Return what is recorded of a dataset and of the model that made it, a baseline or a denoiser."""
    settings = (read_generation(dataset) or {"settings": {}})["settings"]
    base, runs = settings.get("base"), [Path(str(settings.get("output", dataset))), dataset.parent]
    budgets = [run / "budget.json" for run in runs if (run / "budget.json").exists()]
    records = [read_json(path) for path in (dataset / "runtime.json", *budgets[:1]) if path.exists()]
    if base and (Path(str(base)) / "metrics.jsonl").exists():
        records.append(_training_cost(Path(str(base))))
    return {key: value for record in records for key, value in record.items()}


def _training_cost(run: Path) -> dict[str, float]:
    """Return steps, seconds and parameters of the training of a denoiser, the seconds as logged, without validation."""
    batch_size = read_run_config(run, BaseConfig).training.batch_size
    logged = [(row["step"], row["series_per_second"]) for row in read_metrics(run / "metrics.jsonl")
              if isinstance(row.get("series_per_second"), float)]
    if not logged:
        return {}
    steps = np.diff([0, *(step for step, _ in logged)])
    seconds = steps * batch_size / [rate for _, rate in logged]
    return {"optimiser_steps": logged[-1][0], "training_seconds": float(seconds.sum()),
            "parameters": sum(value.numel() for value in load_tensors(run / "model.safetensors")[0].values())}
