"""Splits by subject: no subject ever stands on two sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tardiff.data.format import Split
from tardiff.utils.errors import UserError


def check_ratios(ratios: Sequence[float], seed: int) -> None:
    """Raise UserError if the ratios are not positive shares of 1, or the seed of the split is negative."""
    if not (min(ratios) > 0 and abs(sum(ratios) - 1) <= 1e-6):
        raise UserError(f"ratios {' '.join(map(str, ratios))}: expected positive shares that sum to 1, "
                        "for example 0.6 0.2 0.2.")
    if seed < 0:
        raise UserError(f"seed {seed}: expected 0 or more.")


def split_subjects(subject: np.ndarray, y: np.ndarray, ratios: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    """Divide rows into named parts by subject, stratified by the highest label of each subject.

    subject (N,), y (N,) int64; `ratios` must sum to 1. Returns the sorted row numbers of each part. The result depends
    on the set of subjects, their labels and the seed, not on the order of rows.
    Raises UserError if a part would stay empty.
    """
    if len(subject) != len(y):
        raise UserError(f"{len(subject)} subjects but {len(y)} labels; expected one of each per row.")
    check_ratios(list(ratios.values()), seed)
    subjects, inverse = np.unique(subject, return_inverse=True)
    stratum = np.full(len(subjects), np.iinfo(np.int64).min)
    np.maximum.at(stratum, inverse, y)
    generator = np.random.default_rng(seed)
    # Interleaving the shuffled strata by their relative rank keeps every contiguous piece stratified.
    position = np.empty(len(subjects))
    for label in np.unique(stratum):
        members = generator.permutation(np.flatnonzero(stratum == label))
        position[members] = (np.arange(len(members)) + generator.random()) / len(members)
    order = np.argsort(position, kind="stable")
    edges = np.rint(np.cumsum([0.0, *ratios.values()]) * len(subjects)).astype(int)
    parts = {}
    for name, start, end in zip(ratios, edges[:-1], edges[1:], strict=True):
        chosen = np.zeros(len(subjects), dtype=bool)
        chosen[order[start:end]] = True
        parts[name] = np.flatnonzero(chosen[inverse])
        if len(parts[name]) == 0:
            raise UserError(f"split '{name}' would be empty: {len(subjects)} subjects are too few for ratios {ratios}.")
    return parts


def split_by_subject(whole: Split, ratios: dict[str, float], seed: int) -> dict[str, Split]:
    """Divide a split into named parts as `split_subjects` does, and return the parts."""
    rows = split_subjects(whole.subjects(), whole.y, ratios, seed)
    return {name: whole[part] for name, part in rows.items()}


def halve_validation(validation: Split, seed: int = 0) -> tuple[Split, Split]:
    """Cut the validation split by subject into the guidance half and the selection half, stratified by label.

    The guidance half feeds the guidance gradient; only the selection half chooses weights, scales and settings.
    """
    halves = split_by_subject(validation, {"guidance": 0.5, "selection": 0.5}, seed)
    return halves["guidance"], halves["selection"]


def joined_subjects(parts: Sequence[Split]) -> np.ndarray:
    """Return a number (N,) for the subject of each row of all parts, one after the other; no two parts share a
    subject."""
    numbers, taken = [], 0
    for part in parts:
        unique, owner = np.unique(part.subjects(), return_inverse=True)
        numbers.append(owner + taken)
        taken += len(unique)
    return np.concatenate(numbers)
