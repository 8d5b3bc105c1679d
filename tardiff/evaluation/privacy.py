"""Privacy: what synthetic series give away of the patients that they were made from, and the table of all such figures.

All series are (N, L, C) float32 without NaN, z-scored with the scaler of the real training data, and compared by the
Euclidean distance of whole windows. Members are the rows that a generator has seen, non-members held-out rows that it
has not. No figure is a guarantee: each is what one simple attack found, and a stronger one may find more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from sklearn.ensemble import RandomForestRegressor
from threadpoolctl import threadpool_limits

from tardiff.data.format import Split
from tardiff.data.splits import joined
from tardiff.evaluation import metrics
from tardiff.evaluation.fidelity import Column, Metric
from tardiff.evaluation.learned_scores import to_unit_range
from tardiff.evaluation.neighbours import CPU, drawn_rows, nearest
from tardiff.evaluation.protocol import subject_weights
from tardiff.utils.seeding import derive_seed

MAX_ROWS = 20_000
MAX_TAUGHT = 5_000
"""Synthetic rows that a student of the label attack is trained on."""
NEAR_COPY = 0.05
FALSE_POSITIVE_RATE = 0.01
ROC_RATES = np.unique(np.concatenate([[0.0], np.geomspace(1e-3, 0.1, 21), np.linspace(0.1, 0.98, 45)]))
_RESAMPLES_AT_ONCE = 50


@dataclass(frozen=True)
class PrivacyData:
    """What the metrics compare: four splits of real rows, no subject in two of them, and synthetic x (N, L, C), all
    scaled. `train` fitted the denoiser, `guidance` steered it, `selection` (maybe empty) and `heldout` were never shown
    to it. p (N, K): what a teacher of `train` says of the synthetic rows, where it labelled them."""

    train: Split
    guidance: Split
    selection: Split
    heldout: Split
    synthetic: np.ndarray
    p: np.ndarray | None = None


def membership_attack(members: Split, non_members: Split, synthetic: np.ndarray, control: np.ndarray, seed: int,
                      resamples: int = 1000, max_rows: int = MAX_ROWS, device: torch.device = CPU) -> dict[str, float]:
    """Return how well members are told from non-members by their distance to the nearest synthetic row (nearer:
    member).

    Both groups are drawn to the same number of `rows`, min(N members, N non-members, max_rows); the synthetic set is
    used whole. Results, with 95 % intervals `_low` to `_high` from a bootstrap over the subjects of each group, so that
    rows which are alike within a subject do not narrow them:

    - `auroc`: 0.5 is no leakage, 1 is a copy. Below 0.5 members are no nearer than others.
    - `tpr`: the share of members found where 1 % of the non-members are called members; 0.01 is no leakage. It shows
      what the AUROC hides, a few records laid bare (Carlini et al. 2022). Read off by metrics.true_positive_rate.
    - `dcr_ratio`: median distance of members over that of non-members; 1 is no leakage, 0 a copy. NaN if the latter is
      0.
    - `exact_copies`: the share of members, of all and not of those drawn alone, that stand in the synthetic set to the
      bit. Rows that some non-member equals, as where a stay has no measurement and is imputed, are no copies.
    - `near_copies`, `near_copies_non_members`: the share of each group with a synthetic row within a root mean square
      difference of 0.05 standard deviations per value. Real rows that are largely imputed lie this near to each other
      as well, so only the excess of the first over the second tells.
    - `control_auroc`, `control_tpr`: the same attack with `control` (M, L, C), real rows of neither group, in place of
      the synthetic set. They leak nothing, so what is found with them is a difference between the groups themselves,
      such as another year or hospital. `excess_auroc`, `excess_tpr`: what is beyond it.
    - `roc_<k>`: the true positive rate at ROC_RATES[k].
    - `flagged` (1 or 0), the verdict that the set leaks: for the AUROC (`flagged_auroc`), or for the TPR
      (`flagged_tpr`), the interval lies above its value without leakage and that of the excess lies above 0. The first
      condition alone would flag groups that differ, the second an accident of the control, and the AUROC alone would
      miss a few copies among many rows. In simulations a fresh draw was flagged in under 1 of 100 cases from 120 rows a
      group on, and in 3 to 4 below, where 1 % is less than a row; copies of one record in thirty among 800 rows were
      found in over 9 of 10.

    The control should come from where the members come from; if it is much smaller than the synthetic set, it makes up
    for a difference between the groups only in part.
    """
    rows = min(len(members), len(non_members), max_rows)
    groups = [_draw(members, rows, seed, "members"), _draw(non_members, rows, seed, "non-members")]
    records, actual = np.concatenate([group.x for group in groups]), np.repeat([1, 0], rows)
    distances = [nearest(records, x, device=device)[0] for x in (synthetic, control)]
    own, others = np.split(distances[0], 2)
    points = np.stack([_auroc_and_tpr(actual, distance, None)[:, 0] for distance in distances])
    resampled = np.concatenate([np.stack([_auroc_and_tpr(actual, distance, weights) for distance in distances])
                                for weights in _subject_blocks(groups, resamples, seed)], axis=2)
    figures = {name: _beside_control(name, points[:, number], resampled[:, number], without_leakage) for number, (
        name, without_leakage) in enumerate((("auroc", 0.5), ("tpr", FALSE_POSITIVE_RATE)))}
    result = {"flagged": any(found for found, _ in figures.values()), "rows": rows,
              "exact_copies": _share_copied(members.x, non_members.x, synthetic)}
    for name, (found, of_attack) in figures.items():
        result |= {f"flagged_{name}": found, **of_attack}
    near = NEAR_COPY * np.sqrt(records[0].size)
    middle = np.median(others)
    result |= {"dcr_ratio": np.median(own) / middle if middle > 0 else np.nan,
               "near_copies": np.mean(own <= near), "near_copies_non_members": np.mean(others <= near)}
    result |= {f"roc_{k}": _tpr(actual, distances[0], rate, None)[0] for k, rate in enumerate(ROC_RATES)}
    return {key: float(value) for key, value in result.items()}


def label_attack(members: Split, non_members: Split, synthetic: np.ndarray, p: np.ndarray, control: Split, seed: int,
                 resamples: int = 1000, max_rows: int = MAX_ROWS, device: torch.device = CPU) -> dict[str, float]:
    """Return how well the rows that taught a teacher are told from others by what its probabilities p (N, K) of the
    synthetic rows say of their labels (surer of the label: member).

    Who holds the set and knows a record, series and label, asks for the probability of that label: of the `nearest`
    synthetic row, or of a `student`, a random forest trained on the set toward p. A teacher that remembers its rows is
    surer of their labels, and its students are, too (Yeom et al. 2018, 'Privacy Risk in Machine Learning: Analyzing the
    Connection to Overfitting'; Jagielski et al. 2023, 'Students Parrot Their Teachers: Membership Inference on Model
    Distillation'). Records are ranked by that, less the mean of their class. Both groups are drawn to the same number
    of `rows`. Results, with 95 % intervals `_low` to `_high` from a bootstrap over the subjects of each group:

    - `nearest`, `student`: the AUROC; 0.5 is no leakage.
    - `control_nearest`, `control_student`: the same with the probabilities of a forest that was fitted on the rows
      `control` alone, which are of neither group, in place of p. `excess_nearest`, `excess_student`: what is beyond it.
    - `flagged` (1 or 0): for one of the two attacks the interval lies above 0.5, and that of the excess above 0. In
      simulations probabilities that know nothing of single rows were flagged in under 1 of 20 cases.
    """
    rows = min(len(members), len(non_members), max_rows)
    groups = [_draw(members, rows, seed, "members"), _draw(non_members, rows, seed, "non-members")]
    records, y = (np.concatenate([getattr(group, part) for group in groups]) for part in ("x", "y"))
    actual = np.repeat([1, 0], rows)
    number, taught = nearest(records, synthetic, device=device)[1], drawn_rows(synthetic, MAX_TAUGHT, seed, "student")
    control = _draw(control, len(control), seed, "control")
    unknowing = _forest(control.x, np.eye(p.shape[1])[control.y], synthetic, seed)
    said = [of_records for q in (p, unknowing)
            for of_records in (q[number], _forest(synthetic[taught], q[taught], records, seed))]
    surprise = -np.stack([of_records[np.arange(len(y)), y] for of_records in said])
    for label in np.unique(y):
        surprise[:, y == label] -= surprise[:, y == label].mean(axis=1, keepdims=True)
    points = np.array([metrics.auroc(actual, _as_scores(one))[0] for one in surprise])
    resampled = np.concatenate([[metrics.auroc(actual, _as_scores(one), weights) for one in surprise]
                                for weights in _subject_blocks(groups, resamples, seed)], axis=1)
    figures = [_beside_control(name, points[rows_of], resampled[rows_of], 0.5)
               for name, rows_of in (("nearest", [0, 2]), ("student", [1, 3]))]
    result = {"flagged": any(found for found, _ in figures), "rows": rows, **figures[0][1], **figures[1][1]}
    return {key: float(value) for key, value in result.items()}


def _beside_control(name: str, points: np.ndarray, resampled: np.ndarray, without_leakage: float
                    ) -> tuple[bool, dict[str, float]]:
    """Return whether an attack found more than chance and than its control, and its figures: points (2,) of both, and
    resampled (2, R), with 95 % intervals."""
    low, high = np.percentile(resampled[0], [2.5, 97.5])
    excess_low, excess_high = np.percentile(resampled[0] - resampled[1], [2.5, 97.5])
    return low > without_leakage and excess_low > 0, {
        name: points[0], f"{name}_low": low, f"{name}_high": high, f"control_{name}": points[1],
        f"excess_{name}": points[0] - points[1], f"excess_{name}_low": excess_low, f"excess_{name}_high": excess_high}


def roc_curve(result: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the false and the true positive rates of a result of `membership_attack`, from (0, .) to (1, 1)."""
    return np.append(ROC_RATES, 1.0), np.array([*(result[f"roc_{k}"] for k in range(len(ROC_RATES))), 1.0])


def adversarial_accuracy(train: np.ndarray, heldout: np.ndarray, synthetic: np.ndarray, seed: int,
                         max_rows: int = 5_000, device: torch.device = CPU) -> dict[str, float]:
    """Return the nearest-neighbour adversarial accuracies and `nnaa` = |aa_heldout - aa_train| (Yale et al. 2020).

    aa(A, S) is the mean over both sets of the share of rows whose nearest neighbour, itself left out, is in their own
    set: 0.5 where A and S cannot be told apart, 1 where they lie apart, below 0.5 where S copies A. The two halves of
    the mean are `aa_<A>_real`, the share of the rows of A, and `aa_<A>_synthetic`, that of the rows of S: a set without
    variety has a low first and a high second one. `nnaa` is about 0 without leakage; overfitting makes `aa_train` the
    smaller. All three sets are drawn to `rows` = min(N, max_rows) of
    the smallest; the mean of `draws` = ceil(N train / rows) draws. The draws are independent, so a copy of a training
    set of exactly that size has `aa_train` 0, one of a larger set more, since few rows meet their copy. NaN if a set
    has one row.
    """
    rows = min(len(train), len(heldout), len(synthetic), max_rows)
    draws = -(-len(train) // rows)
    totals = np.zeros((2, 2))  # Of train and heldout, the real and the synthetic side.
    for draw in range(draws if rows > 1 else 0):
        fake, *real = (x[drawn_rows(x, rows, seed, "nnaa", name, draw)]
                       for name, x in (("synthetic", synthetic), ("train", train), ("heldout", heldout)))
        within = nearest(fake, fake, exclude_self=True, device=device)[0]
        for number, x in enumerate(real):
            totals[number] += [np.mean(nearest(x, fake, device=device)[0] > nearest(x, x, True, device=device)[0]),
                               np.mean(nearest(fake, x, device=device)[0] > within)]
    halves = totals / draws if rows > 1 else np.full((2, 2), np.nan)
    aa_train, aa_heldout = halves.mean(axis=1)
    return {"nnaa": float(abs(aa_heldout - aa_train)), "aa_train": float(aa_train), "aa_heldout": float(aa_heldout),
            **{f"aa_{name}_{side}": float(halves[number, place]) for number, name in enumerate(("train", "heldout"))
               for place, side in enumerate(("real", "synthetic"))}, "rows": float(rows), "draws": float(draws)}


def mir_timediff(train: np.ndarray, heldout: np.ndarray, synthetic: np.ndarray, seed: int, threshold: float = 0.1,
                 runs: int = 10, max_rows: int = 5_000, device: torch.device = CPU) -> dict[str, float]:
    """Return the membership inference risk as TimeDiff computes it (Tian et al. 2024), for comparison with papers
    alone.

    Each set is mapped to [0, 1] by its own extremes per channel and drawn to `rows` = min(N, max_rows) of the smallest.
    The squared distances to the nearest synthetic row are mapped to [0, 1] among the members and, apart from them,
    among the held-out rows; a record at `threshold` or below is called a member; `mir` is the F1 of that, the mean of
    `runs` draws, `mir_sd` their standard deviation. Equal distances (0 / 0) are NaN in the original, and so no member
    here.

    Calling all members gives `all_members` = 2/3, whatever the data. Lower is not more private: an exact copy scores
    about 0, since its distances of almost 0 are stretched to [0, 1]. `called_members` and `called_non_members`, the
    shares called a member in each group, say what a value is made of.
    """
    rows = min(len(train), len(heldout), len(synthetic), max_rows)
    sets = {name: to_unit_range(x, x) for name, x in (("train", train), ("heldout", heldout), ("synthetic", synthetic))}
    shares = []
    for run in range(runs):
        members, others, fake = (x[drawn_rows(x, rows, seed, "mir", name, run)] for name, x in sets.items())
        shares.append([_share_called(nearest(x, fake, device=device)[0] ** 2, threshold) for x in (members, others)])
    called, called_others = np.transpose(shares)
    f1 = 2 * called / (1 + called + called_others)  # TP / (TP + (FP + FN) / 2), with groups of equal size
    return {"mir": fmean(f1), "mir_sd": float(f1.std()), "all_members": 2 / 3, "called_members": float(called.mean()),
            "called_non_members": float(called_others.mean()), "rows": float(rows)}


def _forest(x: np.ndarray, targets: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
    """Return what a random forest, trained on rows x (N, L, C) toward targets (N, K), says of others: (M, K)."""
    forest = RandomForestRegressor(max_features="sqrt", random_state=derive_seed(seed, "forest") % 2**32)
    with threadpool_limits(1):
        return forest.fit(x.reshape(len(x), -1), targets).predict(asked.reshape(len(asked), -1))


def _share_copied(members: np.ndarray, non_members: np.ndarray, synthetic: np.ndarray) -> float:
    """Return the share of members that equal a synthetic row, and no non-member."""
    of_members, of_non_members, of_synthetic = ([row.tobytes() for row in np.ascontiguousarray(x)]
                                                for x in (members, non_members, synthetic))
    copied = set(of_synthetic).difference(of_non_members)
    return float(np.mean([row in copied for row in of_members]))


def _draw(group: Split, rows: int, *key: int | str) -> Split:
    """Draw rows so that the order of the group does not matter, not even among equal rows of different subjects."""
    ordered = group[np.argsort(group.subjects(), kind="stable")]
    return ordered[drawn_rows(ordered.x, rows, *key)]


def _subject_blocks(groups: list[Split], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield bootstrap weights (R, N) of the rows of all groups, a few resamples at a time; subjects drawn per group."""
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        count = min(_RESAMPLES_AT_ONCE, resamples - start)
        yield np.hstack([subject_weights(group.subjects(), count, derive_seed(seed, "bootstrap", number, start))
                         for number, group in enumerate(groups)])


def _auroc_and_tpr(actual: np.ndarray, distance: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    return np.stack([metrics.auroc(actual, _as_scores(distance), weights),
                     _tpr(actual, distance, FALSE_POSITIVE_RATE, weights)])


def _tpr(actual: np.ndarray, distance: np.ndarray, rate: float, weights: np.ndarray | None) -> np.ndarray:
    return metrics.true_positive_rate(actual, _as_scores(distance), rate, weights)


def _as_scores(distance: np.ndarray) -> np.ndarray:
    """The metrics only rank the scores of the positive class, so that minus the distance serves for a probability."""
    return np.column_stack([distance, -distance])


def _share_called(squared: np.ndarray, threshold: float) -> float:
    spread = np.ptp(squared)
    return float(np.mean((squared - squared.min()) / spread <= threshold)) if spread > 0 else 0.0


_ATTACK_COLUMNS = (
    Column("auroc", "attack AUROC", 0.5), Column("tpr", "TPR at 1 % FPR", FALSE_POSITIVE_RATE),
    Column("dcr_ratio", "distance ratio", 1.0), Column("exact_copies", "exact copies", 0.0),
    Column("near_copies", "near-copies", None),
    Column("near_copies_non_members", "near-copies of non-members", None),
    Column("control_auroc", "control AUROC", None), Column("flagged", "flagged", 0.0))

PRIVACY = (
    Metric(
        "train_attack", "Membership attack on training rows",
        "How well patients that the generator was trained on are told from held-out ones by their distance to the "
        "nearest synthetic series.",
        _ATTACK_COLUMNS,
        lambda data, seed, device: membership_attack(
            data.train, data.heldout, data.synthetic, np.concatenate([data.guidance.x, data.selection.x]), seed,
            device=device)),
    Metric(
        "guidance_attack", "Membership attack on guidance rows",
        "The same for the patients that steered the generation through the guidance gradient.",
        _ATTACK_COLUMNS,
        lambda data, seed, device: membership_attack(data.guidance, data.heldout, data.synthetic, data.train.x, seed,
                                                     device=device)),
    Metric(
        "label_attack", "Membership attack by the teacher's probabilities",
        "How well patients that the teacher was fitted on are told from held-out ones by what the probabilities of the "
        "synthetic series say of their labels: those of the nearest series, or of a student, a random forest that is "
        "trained on the set. The control has probabilities that were made without these patients.",
        (Column("student", "AUROC, student", 0.5), Column("nearest", "AUROC, nearest series", 0.5),
         Column("control_student", "control, student", None), Column("control_nearest", "control, nearest", None),
         Column("flagged", "flagged", 0.0)),
        lambda data, seed, device: label_attack(data.train, data.heldout, data.synthetic, data.p,
                                                joined([data.guidance, data.selection]), seed, device=device),
        needs_p=True),
    Metric(
        "nnaa", "Nearest-neighbour adversarial accuracy",
        "Whether nearest neighbours tell synthetic from training series less well than from held-out ones, as they do "
        "if training series are copied. AA is the mean of its two halves: the share of real, and of synthetic series, "
        "whose nearest neighbour is of their own kind. Only as many training series are drawn as there are held-out "
        "ones: where there are more of them, few of those drawn meet their copy, and AA train lies well above 0 even "
        "for a copy of the training rows.",
        (Column("nnaa", "NNAA", 0.0), Column("aa_train", "AA train", 0.5),
         Column("aa_train_real", "of real", None), Column("aa_train_synthetic", "of synthetic", None),
         Column("aa_heldout", "AA held-out", 0.5), Column("aa_heldout_real", "of real", None),
         Column("aa_heldout_synthetic", "of synthetic", None)),
        lambda data, seed, device: adversarial_accuracy(data.train.x, data.heldout.x, data.synthetic, seed,
                                                        device=device)),
    Metric(
        "mir", "Membership inference risk, TimeDiff protocol",
        "For comparison with published tables alone: calling everybody a member scores 2/3, and the value does not "
        "tell a copy of the training series from a fresh draw.",
        (Column("mir", "MIR (TimeDiff)", None), Column("all_members", "all called members", None),
         Column("called_members", "members called", None),
         Column("called_non_members", "non-members called", None)),
        lambda data, seed, device: mir_timediff(data.train.x, data.heldout.x, data.synthetic, seed, device=device)),
)
