"""The parts of the report that iterate over metrics: each result is kept as soon as it is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tardiff.data.format import Split
from tardiff.data.splits import split_subjects
from tardiff.evaluation.cache import ResultCache
from tardiff.evaluation.fidelity import FIDELITY, FidelityMetric, matched_noise
from tardiff.evaluation.judges import discriminative_score
from tardiff.evaluation.metrics import true_positive_rate
from tardiff.evaluation.neighbours import nearest
from tardiff.evaluation.privacy import PRIVACY, PrivacyData
from tardiff.evaluation.ts2vec import TS2Vec, train_encoder
from tardiff.utils.checkpoint import fingerprint, load_tensors, load_weights, read_json, save_tensors, source_fingerprint
from tardiff.utils.errors import UserError

REAL, NOISE = "real training rows", "matched noise"
"""The anchors of fidelity: a perfect and a poor generator."""

COPY, FRESH = "copy of the training rows", "fresh real rows"
"""The anchors of privacy: a generator that gives everything away, and one that gives nothing away."""

Summary = dict[str, Any]
"""`mean`, `sd` (None for a single value) and `values` of one number."""


def fidelity_metrics(names: list[str] | None) -> list[FidelityMetric]:
    """Return the metrics of FIDELITY with these names, or all. Raises UserError on an unknown name."""
    known = [metric.name for metric in FIDELITY]
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise UserError(f"fidelity_metrics: '{unknown[0]}' is not one of {', '.join(known)}.")
    return [metric for metric in FIDELITY if names is None or metric.name in names]


def evaluate_fidelity(train: np.ndarray, held_out: np.ndarray, sets: dict[str, list[np.ndarray]],
                      metrics: list[FidelityMetric], repeats: int, cache: ResultCache, device: torch.device
                      ) -> dict[str, dict[str, dict[str, Summary]]]:
    """Return `{set: {metric: {key: summary}}}` for the two anchors and all sets, measured against `held_out`.

    All series are (N, L, C) float32, z-scored with the scaler of the real training rows. sets: the datasets of each set;
    repeat r of a seeded metric has seed r and uses dataset r modulo their number.
    """
    candidates = {REAL: [train], NOISE: [matched_noise(train, 0)], **sets}
    hashes = {id(x): fingerprint(x) for x in [held_out, *(x for xs in candidates.values() for x in xs)]}
    jobs = [(metric, name, repeat) for metric in metrics for name, datasets in candidates.items()
            for repeat in range(repeats if metric.seeded else len(datasets))]
    code = [source_fingerprint(thing) for thing in (FidelityMetric, discriminative_score, TS2Vec, nearest)] + [device.type]
    results: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in candidates}
    progress = tqdm(jobs, desc="fidelity", unit="result")
    for metric, name, repeat in progress:
        progress.set_postfix_str(f"{metric.name}, {name}")
        x = candidates[name][repeat % len(candidates[name])]

        def compute(metric=metric, x=x, repeat=repeat) -> dict[str, float]:
            encoder = _encoder(train, hashes[id(train)], repeat, cache, device) if metric.name == "context_fid" else None
            return metric.compute(held_out, x, repeat, encoder, device)

        inputs = [hashes[id(held_out)], hashes[id(x)], hashes[id(train)], repeat if metric.seeded else 0, *code]
        results[name].setdefault(metric.name, []).append(cache.get(metric.name, inputs, compute))
    return {name: {metric: _summaries(values) for metric, values in of_set.items()} for name, of_set in results.items()}


def evaluate_privacy(train: Split, guidance: Split, selection: Split, held_out: Split, sets: dict[str, list[np.ndarray]],
                     cache: ResultCache, device: torch.device) -> dict[str, dict[str, dict[str, Summary]]]:
    """Return `{set: {metric: {key: summary}}}` over the datasets of each set, and of two anchors: the training rows
    themselves, and real rows that no generator saw (half of the held-out ones, compared with the other half).

    All x are (N, L, C) float32, z-scored with the scaler of the real training rows.
    """
    rows = split_subjects(held_out.subjects(), held_out.y, {"fresh": 0.5, "non-members": 0.5}, seed=0)
    candidates = {COPY: ([train.x], held_out), FRESH: ([held_out.x[rows["fresh"]]], held_out[rows["non-members"]]),
                  **{name: (datasets, held_out) for name, datasets in sets.items()}}
    base = [*(split.fingerprint() for split in (train, guidance, selection)),
            *map(source_fingerprint, (PrivacyData, nearest, true_positive_rate)), device.type]
    hashes = {name: [[non_members.fingerprint(), fingerprint(x)] for x in datasets]
              for name, (datasets, non_members) in candidates.items()}
    results: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in candidates}
    jobs = [(metric, name, number) for name, (datasets, _) in candidates.items() for number in range(len(datasets))
            for metric in PRIVACY]
    progress = tqdm(jobs, desc="privacy", unit="result")
    for metric, name, number in progress:
        progress.set_postfix_str(f"{metric.name}, {name}")
        datasets, non_members = candidates[name]
        data = PrivacyData(train, guidance, selection, non_members, datasets[number])
        inputs = [*base, *hashes[name][number]]
        results[name].setdefault(metric.name, []).append(
            cache.get(metric.name, inputs, lambda metric=metric, data=data: metric.compute(data, 0, device)))
    return {name: {metric: _summaries(values) for metric, values in of_set.items()} for name, of_set in results.items()}


def read_costs(folders: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Return what each set cost where its run folders tell: parameters, optimiser steps and seconds of training (of
    baselines), and seconds of sampling per series; means over its datasets."""
    costs = {}
    for name, paths in folders.items():
        found: dict[str, list[float]] = {}
        for path in map(Path, paths):
            for record, keys in ((path / "runtime.json", ["seconds_per_series"]),
                                 (path.parent / "budget.json", ["parameters", "optimiser_steps", "training_seconds"])):
                values = read_json(record) if record.exists() else {}
                for key in keys:
                    found.setdefault(key, []).extend([values[key]] if key in values else [])
        costs[name] = {key: float(np.mean(values)) if values else None for key, values in found.items()}
    return costs


def _encoder(train: np.ndarray, train_hash: str, seed: int, cache: ResultCache, device: torch.device
             ) -> TS2Vec:
    """Return the encoder of a seed, trained on the real training rows once."""
    path = cache.folder / f"ts2vec-{fingerprint(train_hash, seed, source_fingerprint(TS2Vec))}.safetensors"
    if path.exists():
        encoder = TS2Vec(train.shape[2]).to(device).eval()
        load_weights(encoder, load_tensors(path)[0], path)
        return encoder
    encoder = train_encoder(train, seed, device=device)
    save_tensors(path, encoder.state_dict())
    return encoder


def _summaries(results: list[dict[str, float]]) -> dict[str, Summary]:
    summaries = {}
    for key in results[0]:
        values = np.array([result[key] for result in results], dtype=np.float64)
        summaries[key] = {"mean": float(values.mean()), "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
                          "values": values.tolist()}
    return summaries
