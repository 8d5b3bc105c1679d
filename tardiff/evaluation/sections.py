"""The parts of the report that iterate over metrics: each result is kept as soon as it is there."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tardiff.data.format import Split
from tardiff.data.splits import split_subjects
from tardiff.evaluation.cache import Job, ResultCache
from tardiff.evaluation.fidelity import FIDELITY, FidelityData, FidelityMetric, matched_noise
from tardiff.evaluation.judges import discriminative_score
from tardiff.evaluation.metrics import true_positive_rate
from tardiff.evaluation.neighbours import drawn_rows, nearest
from tardiff.evaluation.privacy import PRIVACY, PrivacyData
from tardiff.evaluation.ts2vec import TS2Vec, train_encoder
from tardiff.evaluation.utility import subject_weights
from tardiff.utils.checkpoint import fingerprint, load_tensors, load_weights, read_json, save_tensors, source_fingerprint
from tardiff.utils.errors import UserError
from tardiff.utils.parallel import run_jobs

REAL, NOISE = "real training rows", "matched noise"
"""The anchors of fidelity: a perfect and a poor generator."""

COPY, FRESH = "copy of the training rows", "fresh real rows"
"""The anchors of privacy: a generator that gives everything away, and one that gives nothing away."""

Summary = dict[str, Any]
"""`mean`, `sd` (None for a single value) and `values` of one number."""


def fidelity_metrics(names: list[str] | None) -> list[FidelityMetric]:
    """Return the metrics of FIDELITY with these names, or all. Raises UserError on an unknown name."""
    known = [metric.name for metric in FIDELITY]
    if names == []:
        raise UserError("fidelity_metrics: names none. To leave out fidelity, do not list it under sections.")
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise UserError(f"fidelity_metrics: '{unknown[0]}' is not one of {', '.join(known)}.")
    return [metric for metric in FIDELITY if names is None or metric.name in names]


def evaluate_fidelity(train: Split, held_out: Split, sets: dict[str, list[np.ndarray]], metrics: list[FidelityMetric],
                      repeats: int, cache: ResultCache, device: torch.device) -> dict[str, dict[str, dict[str, Summary]]]:
    """Return `{set: {metric: {key: summary}}}` for the two anchors and all sets, measured against `held_out`.

    All x are (N, L, C) float32, z-scored with the scaler of the real training rows. sets: the datasets of each set; repeat
    r of a seeded metric has seed r and uses dataset r modulo their number.
    """
    candidates = {REAL: [train.x], NOISE: [matched_noise(train.x, 0)], **sets}
    hashes = {name: [fingerprint(x) for x in datasets] for name, datasets in candidates.items()}
    names = [metric.name for metric in metrics]
    encoders = _encoders(train.x, hashes[REAL][0], repeats, cache, device) if "context_fid" in names else []
    code = [source_fingerprint(thing) for thing in (FidelityMetric, discriminative_score, TS2Vec, nearest)]
    base = [held_out.fingerprint(), train.fingerprint()]
    jobs, places = [], []
    for metric in metrics:
        for name, datasets in candidates.items():
            for repeat in range(repeats if metric.seeded else len(datasets)):
                number = repeat % len(datasets)
                data = FidelityData(held_out.x, datasets[number], (held_out.subject, train.subject if name == REAL else None),
                                    encoders[repeat] if metric.name == "context_fid" else None)
                inputs = [*base, name == REAL, hashes[name][number],
                          repeat if metric.seeded else 0, *code, device.type]
                jobs.append(Job(metric.name, inputs, partial(metric.compute, data, repeat, device), name))
                places.append((name, metric.name))
    return _summaries(places, cache.results(jobs, "fidelity"))


def evaluate_privacy(train: Split, guidance: Split, selection: Split, held_out: Split, sets: dict[str, list[np.ndarray]],
                     cache: ResultCache, device: torch.device) -> dict[str, dict[str, dict[str, Summary]]]:
    """Return `{set: {metric: {key: summary}}}` over the datasets of each set, and of two anchors: the training rows
    themselves, and real rows that no generator saw (half of the held-out ones, compared with the other half).

    All x are (N, L, C) float32, z-scored with the scaler of the real training rows.
    """
    held_out = held_out[drawn_rows(held_out.x, len(held_out), "fresh real rows")]  # The halves do not depend on the order.
    rows = split_subjects(held_out.subjects(), held_out.y, {"fresh": 0.5, "non-members": 0.5}, seed=0)
    candidates = {COPY: ([train.x], held_out), FRESH: ([held_out.x[rows["fresh"]]], held_out[rows["non-members"]]),
                  **{name: (datasets, held_out) for name, datasets in sets.items()}}
    base = [*(split.fingerprint() for split in (train, guidance, selection)),
            *map(source_fingerprint, (PrivacyData, nearest, true_positive_rate, subject_weights)), device.type]
    hashes = {name: [[non_members.fingerprint(), fingerprint(x)] for x in datasets]
              for name, (datasets, non_members) in candidates.items()}
    jobs, places = [], []
    for name, (datasets, non_members) in candidates.items():
        for number, x in enumerate(datasets):
            data = PrivacyData(train, guidance, selection, non_members, x)
            for metric in PRIVACY:
                jobs.append(Job(metric.name, [*base, *hashes[name][number]], partial(metric.compute, data, 0, device), name))
                places.append((name, metric.name))
    return _summaries(places, cache.results(jobs, "privacy"))


def read_costs(folders: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Return what each set cost where its run folders tell: the budget, parameters, optimiser steps and seconds of training,
    and seconds of sampling per series; medians over its datasets, since one may have shared the machine with others."""
    costs = {}
    for name, paths in folders.items():
        found = [_cost(Path(path)) for path in paths]
        costs[name] = {key: float(np.median(values)) if (values := [cost[key] for cost in found if key in cost]) else None
                       for key in ("parameters", "optimiser_steps", "training_seconds", "seconds_per_series")}
        costs[name]["budget"] = ", ".join(dict.fromkeys(cost["budget"] for cost in found if "budget" in cost)) or None
    return costs


def read_generation(dataset: Path) -> dict[str, Any] | None:
    """Return seed, command, settings and hashes of the inputs that a synthetic dataset was made with; None where it is not
    recorded."""
    path = dataset / "provenance.json"
    if not path.exists():
        return None
    record = read_json(path)
    return {"seed": record.get("seed"), "command": " ".join(record.get("argv", [])), "settings": record.get("config", {}),
            "inputs": record.get("inputs", {})}


def _cost(dataset: Path) -> dict[str, Any]:
    """Return what is recorded of a dataset and of the model that made it, a baseline or a denoiser."""
    settings = (read_generation(dataset) or {"settings": {}})["settings"]
    base, runs = settings.get("base"), [Path(settings.get("output", dataset)), dataset.parent]
    budgets = [run / "budget.json" for run in runs if (run / "budget.json").exists()]
    records = [read_json(path) for path in (dataset / "runtime.json", *budgets[:1]) if path.exists()]
    if base and (Path(base) / "metrics.jsonl").exists():
        records.append(_training_cost(Path(base)))
    return {key: value for record in records for key, value in record.items()}


def _training_cost(run: Path) -> dict[str, float]:
    """Return steps, seconds and parameters of the training of a denoiser, the seconds as logged, without validation."""
    batch_size = read_json(run / "run.json")["config"]["training"]["batch_size"]
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    logged = [(line["step"], line["series_per_second"]) for line in lines if "series_per_second" in line]
    steps = np.diff([0, *(step for step, _ in logged)])
    return {"optimiser_steps": logged[-1][0], "training_seconds": float((steps * batch_size / [rate for _, rate in logged]).sum()),
            "parameters": sum(value.numel() for value in load_tensors(run / "model.safetensors")[0].values())}


def _encoders(train: np.ndarray, train_hash: str, repeats: int, cache: ResultCache, device: torch.device) -> list[TS2Vec]:
    """Return the encoder of each repeat, trained on the real training rows once."""
    paths = [cache.folder / f"ts2vec-{fingerprint(train_hash, repeat, source_fingerprint(TS2Vec), device.type)}.safetensors"
             for repeat in range(repeats)]
    run_jobs([(f"encoder {repeat}", partial(_store_encoder, path, train, repeat, device))
              for repeat, path in enumerate(paths) if not path.exists()], cache.processes, "TS2Vec", "encoder")
    encoders = [TS2Vec(train.shape[2]).to(device).eval() for _ in paths]
    for encoder, path in zip(encoders, paths, strict=True):
        load_weights(encoder, load_tensors(path)[0], path)
    return encoders


def _store_encoder(path: Path, train: np.ndarray, seed: int, device: torch.device) -> None:
    save_tensors(path, train_encoder(train, seed, device=device).state_dict())


def _summaries(places: list[tuple[str, str]], results: list[dict[str, float]]) -> dict[str, dict[str, dict[str, Summary]]]:
    """Gather the results that belong to each (set, metric) and summarise every number of them."""
    gathered: dict[str, dict[str, list[dict[str, float]]]] = {}
    for (name, metric), result in zip(places, results, strict=True):
        gathered.setdefault(name, {}).setdefault(metric, []).append(result)
    return {name: {metric: {key: _summary([value[key] for value in values]) for key in values[0]}
                   for metric, values in of_set.items()} for name, of_set in gathered.items()}


def _summary(numbers: list[float]) -> Summary:
    values = np.array(numbers, dtype=np.float64)
    return {"mean": float(values.mean()), "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
            "values": values.tolist()}
