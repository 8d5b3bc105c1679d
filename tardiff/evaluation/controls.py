"""Honest rivals of synthetic data: what the same classifier makes of real rows alone, used in another way.

- `guidance_rows`: the guidance half is added to the training rows, for the guide has seen it.
- `guidance_weighted`: the same, half of every batch from the guidance half.
- `guidance_last`: the training rows in the first half of the steps, the guidance half in the second (fine-tuning); the
  weights kept may be of either, as the selection half says. Not with boosted trees, which have no steps.
- `target_only`: the guidance half alone; where the dataset has a target of its own, the target's training rows. Beside
  it, TRTR is the source alone, `guidance_rows` source and target rows, `guidance_weighted` both alike, and
  `guidance_last` the source first, then the target.
- `ensemble`: the mean probability of several classifiers, for a guide and a judge are two.
- `teacher_labels`: trained toward what the teacher of the synthetic series says of each row, by members that never saw
  the patient: what a set with soft targets has to beat.
- `self_distillation`: trained toward what classifiers of the same kind, which never saw the patient, say of each row
  (Hinton et al. 2015, 'Distilling the Knowledge in a Neural Network'; Furlanello et al. 2018, 'Born-Again Neural
  Networks').
- `jitter`: as many rows again, with noise, and the targets of self-distillation.
- `mixup`, `cutmix`: as many rows again, each mixed of two.
- `class_weights`: the loss weighs the classes by their inverse frequency.
"""

from __future__ import annotations

import numpy as np

from tardiff.baselines.rules import Config
from tardiff.data.splits import split_subjects

TAUGHT = ("self_distillation", "jitter")
"""The controls that need probabilities of judges that never saw the subject."""
FOLDS = 5
MIXUP_ALPHA = 0.2

Rows = tuple[np.ndarray, ...]
"""Series x (N, L, C) float32 normalised, and targets: labels (N,) int64 or the share of each class (N, K) float64.
Where rows do not count alike, also the share of each in a batch, (P, N) float64 with lines that sum to 1: one for each
of P equal parts of the training."""


def joined_rows(first: Rows, second: Rows) -> Rows:
    """Return the rows (x, targets) of both."""
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])


def weighted_rows(first: Rows, second: Rows, share: float) -> Rows:
    """Return the rows (x, targets) of both, of which the second have that share of every batch."""
    return *joined_rows(first, second), _shares(first, second, [share])


def ordered_rows(first: Rows, second: Rows) -> Rows:
    """Return the rows (x, targets) of both: the first make the batches of the first half of the training, the second
    those of the second half."""
    return *joined_rows(first, second), _shares(first, second, [0.0, 1.0])


def _shares(first: Rows, second: Rows, of_second: list[float]) -> np.ndarray:
    """Return the shares (P, N) of all rows where, in each part of the training, the second have this one together."""
    sizes = len(first[0]), len(second[0])
    return np.stack([np.repeat([(1 - share) / sizes[0], share / sizes[1]], sizes) for share in of_second])


def subject_folds(subjects: np.ndarray, y: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return the sorted row numbers of each of FOLDS parts of rows (N,), cut by subject and stratified by label.

    Raises UserError if there are fewer subjects than folds.
    """
    return list(split_subjects(subjects, y, {f"fold {number}": 1 / FOLDS for number in range(FOLDS)}, seed).values())


def jitter(x: np.ndarray, seed: int) -> np.ndarray:
    """Return series x (N, L, C) with white noise of the strength of the rule jitter, in standard deviations of each
    channel."""
    noise = np.random.default_rng(seed).standard_normal(x.shape, dtype=np.float32)
    return x + Config().strength * x.std(axis=(0, 1)) * noise


def mixup(x: np.ndarray, shares: np.ndarray, seed: int) -> Rows:
    """Return each row of x (N, L, C) and shares (N, K) mixed with another one, the first counting by a draw of
    Beta(0.2, 0.2) (Zhang et al. 2018, 'mixup: Beyond Empirical Risk Minimization', as they do for ImageNet)."""
    generator = np.random.default_rng(seed)
    other, own = generator.permutation(len(x)), generator.beta(MIXUP_ALPHA, MIXUP_ALPHA, size=len(x))
    weight = own.astype(np.float32)[:, None, None]
    return weight * x + (1 - weight) * x[other], own[:, None] * shares + (1 - own[:, None]) * shares[other]


def cutmix(x: np.ndarray, shares: np.ndarray, seed: int) -> Rows:
    """Return each row of x (N, L, C) with one piece of time, of uniform length, from another row; its shares (N, K) are
    mixed likewise (Yun et al. 2019, 'CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features', in one dimension)."""
    generator, length = np.random.default_rng(seed), x.shape[1]
    other, cut = generator.permutation(len(x)), generator.integers(length + 1, size=len(x))
    start = generator.integers(length - cut + 1)
    time = np.arange(length)
    pasted = (time >= start[:, None]) & (time < (start + cut)[:, None])
    own = 1 - cut[:, None] / length
    return np.where(pasted[..., None], x[other], x), own * shares + (1 - own) * shares[other]
