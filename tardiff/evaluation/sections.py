"""The parts of the report that iterate over metrics: each result is kept as soon as it is there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tardiff.data.format import Split
from tardiff.data.splits import split_subjects
from tardiff.evaluation.fidelity import FIDELITY, FidelityData, Metric, matched_noise
from tardiff.evaluation.frame import NOISE, REAL, long_frame
from tardiff.evaluation.neighbours import drawn_rows
from tardiff.evaluation.privacy import PRIVACY, PrivacyData
from tardiff.evaluation.ts2vec import TS2Vec, train_encoder
from tardiff.utils.cache import Job, cached_jobs
from tardiff.utils.checkpoint import fingerprint
from tardiff.utils.errors import UserError

COPY, FRESH = "copy of the training rows", "fresh real rows"
"""The anchors of privacy: a generator that gives everything away, and one that gives nothing away."""

Place = tuple[str, str, int, int]
"""Set, metric, dataset and repeat of a result in the frame of results."""


def fidelity_metrics(names: list[str] | None) -> list[Metric]:
    """Return the metrics of FIDELITY with these names, or all. Raises UserError on an unknown name."""
    known = [metric.name for metric in FIDELITY]
    if names == []:
        raise UserError("fidelity_metrics: names none. To leave out fidelity, do not list it under sections.")
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise UserError(f"fidelity_metrics: '{unknown[0]}' is not one of {', '.join(known)}.")
    return [metric for metric in FIDELITY if names is None or metric.name in names]


def evaluate_fidelity(train: Split, held_out: Split, sets: dict[str, list[np.ndarray]], metrics: list[Metric],
                      repeats: int, folder: Path, workers: int, device: torch.device) -> pd.DataFrame:
    """Return the frame of results of the two anchors and all sets, measured against `held_out`.

    All x are (N, L, C) float32, z-scored with the scaler of the real training rows. sets: the datasets of each set;
    repeat r of a seeded metric has seed r and uses dataset r modulo their number. Finished results are kept in
    `folder`.
    """
    candidates = {REAL: [train.x], NOISE: [matched_noise(train.x, 0)], **sets}
    hashes = {name: [fingerprint(x) for x in datasets] for name, datasets in candidates.items()}
    names = [metric.name for metric in metrics]
    encoders = _encoders(train.x, hashes[REAL][0], repeats, folder, workers, device) if "context_fid" in names else []
    base = [held_out.fingerprint(), train.fingerprint()]
    jobs: list[tuple[Place, Job]] = []
    for metric in metrics:
        for name, datasets in candidates.items():
            for repeat in range(repeats if metric.seeded else len(datasets)):
                number, seed = repeat % len(datasets), repeat if metric.seeded else 0
                owners = (held_out.subject, train.subject if name == REAL else None)
                data = FidelityData(held_out.x, datasets[number], owners,
                                    encoders[repeat] if metric.name == "context_fid" else None)
                key = (metric.name, *base, name == REAL, hashes[name][number], seed, device.type)
                compute = partial(metric.compute, data, repeat, device)
                jobs.append(((name, metric.name, number, seed), Job(key, compute, f"{metric.name}, {name}")))
    return _results(jobs, folder, workers, "fidelity")


def evaluate_privacy(train: Split, guidance: Split, selection: Split, held_out: Split,
                     sets: dict[str, list[np.ndarray]], probabilities: dict[str, list[np.ndarray | None]],
                     folder: Path, workers: int, device: torch.device) -> pd.DataFrame:
    """Return the frame of results over the datasets of each set, and of two anchors: the training rows themselves, and
    real rows that no generator saw (half of the held-out ones, compared with the other half).

    All x are (N, L, C) float32, z-scored with the scaler of the real training rows; probabilities: those of a teacher,
    (N, K) of each dataset that has them. Those of the anchors are the labels of their rows. Finished results are kept
    in `folder`.
    """
    # So that the halves do not depend on the order of rows.
    held_out = held_out[drawn_rows(held_out.x, len(held_out), "fresh real rows")]
    rows = split_subjects(held_out.subjects(), held_out.y, {"fresh": 0.5, "non-members": 0.5}, seed=0)
    classes = next((p.shape[1] for of_set in probabilities.values() for p in of_set if p is not None), None)
    fresh, others = (held_out[rows[part]] for part in ("fresh", "non-members"))
    of_anchors = [None if classes is None else np.eye(classes)[part.y] for part in (train, fresh)]
    candidates = {COPY: ([train.x], of_anchors[:1], held_out), FRESH: ([fresh.x], of_anchors[1:], others),
                  **{name: (datasets, probabilities[name], held_out) for name, datasets in sets.items()}}
    base = [*(split.fingerprint() for split in (train, guidance, selection)), device.type]
    jobs: list[tuple[Place, Job]] = []
    for name, (datasets, of_datasets, non_members) in candidates.items():
        for number, (x, p) in enumerate(zip(datasets, of_datasets, strict=True)):
            data = PrivacyData(train, guidance, selection, non_members, x, p)
            hashes = [non_members.fingerprint(), fingerprint(x)]
            for metric in (metric for metric in PRIVACY if p is not None or not metric.needs_p):
                of_p = [fingerprint(p)] if metric.needs_p else []
                compute = partial(metric.compute, data, 0, device)
                jobs.append(((name, metric.name, number, 0),
                             Job((metric.name, *base, *hashes, *of_p), compute, f"{metric.name}, {name}")))
    return _results(jobs, folder, workers, "privacy")


def _encoders(train: np.ndarray, train_hash: str, repeats: int, folder: Path, workers: int, device: torch.device
              ) -> list[TS2Vec]:
    """Return the encoder of each repeat, trained on the real training rows once."""
    jobs = [Job(("ts2vec", train_hash, repeat, device.type), partial(_encoder_weights, train, repeat, device),
                f"encoder {repeat}") for repeat in range(repeats)]
    encoders = []
    for weights in cached_jobs(folder, jobs, workers, "TS2Vec", "encoder"):
        encoder = TS2Vec(train.shape[2])
        encoder.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        encoders.append(encoder.to(device).eval())
    return encoders


def _encoder_weights(train: np.ndarray, seed: int, device: torch.device) -> dict[str, np.ndarray]:
    weights = train_encoder(train, seed, device=device).state_dict()
    return {name: value.cpu().numpy() for name, value in weights.items()}


def _results(jobs: Sequence[tuple[Place, Job]], folder: Path, workers: int, part: str) -> pd.DataFrame:
    """Compute the results of all jobs, each a flat dict of numbers, and put them in their places."""
    found = cached_jobs(folder, [job for _, job in jobs], workers, part, "result")
    return long_frame((name, metric, "", key, dataset, repeat, value)
                      for ((name, metric, dataset, repeat), _), numbers in zip(jobs, found, strict=True)
                      for key, value in numbers.items())
