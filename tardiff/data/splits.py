"""Splits by subject: no subject ever stands on two sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tardiff.data.format import SPLIT_NAMES, Dataset, Split
from tardiff.data.imputation import Imputation
from tardiff.utils.errors import UserError

_GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, modulo 1, are spread about evenly over [0, 1), however many there are."""


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
    check_ratios(list(ratios.values()), seed)
    order, inverse = _stratified_order(subject, y, seed)
    edges = np.rint(np.cumsum([0.0, *ratios.values()]) * len(order)).astype(int)
    parts = {}
    for name, start, end in zip(ratios, edges[:-1], edges[1:], strict=True):
        parts[name] = np.flatnonzero(np.isin(inverse, order[start:end]))
        if len(parts[name]) == 0:
            raise UserError(f"split '{name}' would be empty: {len(order)} subjects are too few for ratios {ratios}.")
    return parts


def _stratified_order(subject: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the subjects in an order of which every contiguous piece is stratified by the highest label
    of each subject, and the number of the subject of each row (N,)."""
    subjects, inverse = np.unique(subject, return_inverse=True)
    stratum = np.full(len(subjects), np.iinfo(np.int64).min)
    np.maximum.at(stratum, inverse, y)
    generator = np.random.default_rng(seed)
    # The shuffled strata, interleaved by their relative rank.
    position = np.empty(len(subjects))
    for label in np.unique(stratum):
        members = generator.permutation(np.flatnonzero(stratum == label))
        position[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return np.argsort(position, kind="stable"), inverse


def subset_of_rows(dataset: Dataset, rows: int, number: int, seed: int) -> Dataset:
    """Return a dataset with at most `rows` rows of train and val together, as near to it as whole subjects allow, and
    its test as it is.

    Train and val, of a val with given halves each half, give rows in proportion to their sizes, by subject and
    stratified by label: so many of the subjects in a drawn order, from a point on that the number of the subset sets. A
    subset holds that of fewer rows with the same number. Those of numbers 0, 1, ... start far from each other and share
    subjects from the size on that reaches the next start: of five, 15 % of the rows. Gaps stay as they were filled,
    which took no label. Raises UserError if there are fewer rows.
    """
    whole = len(dataset.train) + len(dataset.val)
    if rows > whole:
        raise UserError(f"{dataset.path}: train and val have {whole:,} rows, a subset was to have {rows:,}. Give "
                        "fewer, as of a map sizes=[N, ..., null].")
    # Cut in two, and val in two again: three shares rounded at once could shrink as rows grow.
    of_train = round(len(dataset.train) * rows / whole)
    of_val, half = rows - of_train, dataset.val.guidance
    parts = [("train", np.arange(len(dataset.train)), of_train)]
    if half is None:
        parts.append(("val", np.arange(len(dataset.val)), of_val))
    else:
        of_guidance = round(of_val * int(half.sum()) / len(half))
        parts += [("val", np.flatnonzero(half), of_guidance), ("val", np.flatnonzero(~half), of_val - of_guidance)]
    chosen: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    for name, part, most in parts:
        split = dataset.splits[name]
        order, inverse = _stratified_order(split.subjects()[part], split.y[part], seed)
        order = np.roll(order, -int(number * _GOLDEN % 1 * len(order)))
        drawn = order[np.cumsum(np.bincount(inverse)[order]) <= most]
        chosen[name].append(part[np.isin(inverse, drawn)])
    drawn = {name: dataset.splits[name][np.sort(np.concatenate(of_name))] for name, of_name in chosen.items()}
    # The rarest class of a few rows may be another one.
    meta = replace(dataset.meta.with_positive(dataset.train.y), cohort={},
                   name=f"{dataset.meta.name}, subset {number} of {rows:,} rows")
    return Dataset(dataset.path, meta, dataset.splits | drawn)


def split_by_subject(whole: Split, ratios: dict[str, float], seed: int) -> dict[str, Split]:
    """Divide a split into named parts as `split_subjects` does, and return the parts."""
    rows = split_subjects(whole.subjects(), whole.y, ratios, seed)
    return {name: whole[part] for name, part in rows.items()}


def halve_validation(validation: Split, seed: int = 0) -> tuple[Split, Split]:
    """Cut the validation split by subject into the guidance half and the selection half, stratified by label, unless
    its halves are given.

    The guidance half feeds the guidance gradient; only the selection half chooses weights, scales and settings.
    """
    if (is_guidance := validation.guidance) is not None:
        whole = replace(validation, guidance=None)
        return whole[is_guidance], whole[~is_guidance]
    halves = split_by_subject(validation, {"guidance": 0.5, "selection": 0.5}, seed)
    return halves["guidance"], halves["selection"]


def with_target(source: Split, target: dict[str, Split]) -> dict[str, Split]:
    """Return the splits of a dataset that is trained on a source and tested on a target: the source's rows as train,
    the target's own train and val as the guidance and the selection half of val, the target's test as test."""
    halves = [target["train"], target["val"]]
    is_guidance = np.repeat([True, False], list(map(len, halves)))
    return {"train": source, "val": replace(joined(halves), guidance=is_guidance), "test": target["test"]}


def split_with_target(whole: Split, is_target: np.ndarray | None, ratios: dict[str, float], seed: int
                      ) -> dict[str, Split]:
    """Divide rows, of which is_target (N,) bool are of the target, as `with_target` does; the target's by subject and
    ratios, stratified by label. None: all rows so, for they are of one population.

    Raises UserError if a part would stay empty.
    """
    if is_target is None:
        return split_by_subject(whole, ratios, seed)
    for name, rows in (("source", ~is_target), ("target", is_target)):
        if not rows.any():
            raise UserError(f"no row is of the {name}.")
    return with_target(whole[~is_target], split_by_subject(whole[is_target], ratios, seed))


def rotated(dataset: Dataset, number: int, count: int, seed: int = 0) -> Dataset:
    """Return one of `count` rotations of the splits of a dataset, for cross-fitting: every row is tested once.

    All rows of the splits that were read are cut by subject into `count` folds, stratified by label. Rotation `number`
    (0-based) tests on the fold of its number, validates on the next one and trains on the others, whose observed cells
    set the medians that gaps are filled with. Raises UserError if a fold would be empty, or if test is of another
    population than train.
    """
    if dataset.val.guidance is not None:
        raise UserError(f"{dataset.path}: has a target of its own, which its train rows are not of, so they cannot be "
                        "tested in turn. Give rotations=1.")
    whole = joined([dataset.splits[name] for name in SPLIT_NAMES if name in dataset.splits])
    folds = split_by_subject(whole, {str(fold): 1 / count for fold in range(count)}, seed)
    of_test, of_val = str(number), str((number + 1) % count)
    train = joined([fold for name, fold in folds.items() if name not in (of_test, of_val)])
    meta = replace(dataset.meta, name=f"{dataset.meta.name}, rotation {number + 1} of {count}", cohort={})
    splits = {"train": train, "val": folds[of_val], "test": folds[of_test]}
    if meta.imputation is not None and train.mask is not None:
        splits, imputation = _filled_anew(splits, meta.imputation)
        meta = replace(meta, imputation=imputation)
    return Dataset(dataset.path, meta, splits)


def _filled_anew(splits: dict[str, Split], imputation: Imputation) -> tuple[dict[str, Split], Imputation]:
    """Return splits whose gaps are filled with the medians of their own training split; the median of a channel that it
    never observed stays."""
    gaps = {name: np.where(split.mask, split.x, np.float32(np.nan)) for name, split in splits.items()}
    medians = [float(np.median(values[~np.isnan(values)])) if not np.isnan(values).all() else median
               for values, median in zip(np.moveaxis(gaps["train"], 2, 0), imputation.medians, strict=True)]
    imputation = replace(imputation, medians=medians)
    return {name: replace(split, x=imputation.fill(gaps[name])) for name, split in splits.items()}, imputation


def joined(parts: Sequence[Split]) -> Split:
    """Return the rows of splits of one dataset, one after the other; no two splits share a subject.

    Subjects keep their names where all splits know them, else they are numbered. A split without a mask is all
    observed if another one has a mask. Probabilities and ids are kept where all splits have them.
    """
    def of_all(name: str) -> np.ndarray | None:
        arrays = [getattr(part, name) for part in parts]
        return None if any(array is None for array in arrays) else np.concatenate(arrays)

    masks = [part.mask for part in parts]
    if any(mask is not None for mask in masks):
        masks = [np.ones(part.x.shape, dtype=bool) if part.mask is None else part.mask for part in parts]
    subject = of_all("subject")
    return Split(of_all("x"), of_all("y"), joined_subjects(parts) if subject is None else subject,
                 None if masks[0] is None else np.concatenate(masks), of_all("p"), of_all("id"))


def joined_subjects(parts: Sequence[Split]) -> np.ndarray:
    """Return a number (N,) for the subject of each row of all parts, one after the other; no two parts share a
    subject."""
    numbers, taken = [], 0
    for part in parts:
        unique, owner = np.unique(part.subjects(), return_inverse=True)
        numbers.append(owner + taken)
        taken += len(unique)
    return np.concatenate(numbers)
