"""What is best to train on, by nested cross-fitting: what is said of a choice comes of rows that it was not made on.

On the rows that a rotation of the split scores, the arm counts that was the best on the rows of the other rotations.
The gain of what was so chosen among the arms with synthetic series, over what was so chosen among those without, is one
difference, which no choice has flattered: it needs no adjustment for the number of arms.

Advice is a decision, not a claim: it is what is expected to be best, whether or not that is shown. With few rows a gain
that is worth having is rarely shown, and who waits for that does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tardiff.config import CONTROLS
from tardiff.evaluation.frame import Summary, summaries
from tardiff.evaluation.protocol import (
    METRICS,
    Arm,
    Predictions,
    Rotations,
    piecewise,
    scores_frame,
    scores_of,
    with_chosen_weights,
)

LEAST_GAIN = 0.003
"""Gain that is worth more than plain training."""


@dataclass(frozen=True)
class Advice:
    """What to train a judge on: the `arm`, the best on all rows of the kind that is expected to be better, with
    synthetic series, as a control, or else TRTR.

    synthetic, real: the best arm with synthetic series, and without. gain: of synthetic series over all that real rows
    alone give; control_gain: of the controls over TRTR, None without controls; both of what was chosen on other rows.
    weights: of an arm MIXED, those that the rotations chose.
    """

    arm: Arm
    synthetic: Arm
    real: Arm
    gain: Summary
    control_gain: Summary | None
    weights: list[float]


def advise(results: Predictions, protocol: Rotations, judge: str, metric: str, resamples: int) -> Advice:
    """Return the advice for a judge, from what all arms predict, by auroc or auprc."""
    results, weights = with_chosen_weights({arm: found for arm, found in results.items() if arm.judge == judge},
                                           protocol)
    values = {arm: _by_piece(found, protocol, metric) for arm, found in results.items()}
    trtr = Arm("TRTR", judge=judge)
    controls = [arm for arm in results if arm.protocol in CONTROLS]
    sets = [arm for arm in results if arm.synthetic is not None]

    def best(arms: Sequence[Arm], rows: np.ndarray) -> Arm:
        return max(arms, key=lambda arm: values[arm][rows].mean())

    def gain(arms: Sequence[Arm], others: Sequence[Arm]) -> Summary:
        pieces = np.arange(len(protocol.pieces))
        chosen, rivals = ([best(candidates, pieces != piece) for piece in pieces] for candidates in (arms, others))
        pair = {trtr: piecewise(results, rivals, protocol), chosen[0]: piecewise(results, chosen, protocol)}
        frame = scores_frame(scores_of(pair, protocol, resamples))
        return summaries(frame)[chosen[0].place][f"{metric}_minus_trtr"]

    every = np.ones(len(protocol.pieces), dtype=bool)
    of_sets, of_controls = gain(sets, [trtr, *controls]), gain(controls, [trtr]) if controls else None
    synthetic, real = best(sets, every), best([trtr, *controls], every)
    arm = trtr
    if of_sets["mean"] > LEAST_GAIN:
        arm = synthetic
    elif of_controls is not None and of_controls["mean"] > LEAST_GAIN:
        arm = best(controls, every)
    return Advice(arm, synthetic, real, of_sets, of_controls, weights.get(arm, []))


def _by_piece(found: list[tuple[np.ndarray, np.ndarray]], protocol: Rotations, metric: str) -> np.ndarray:
    """Return a metric of the scored rows of each piece (P,), the mean over seeds."""
    y, score = protocol.scored.y, METRICS[metric]
    return np.array([np.mean([score(y[rows], scored[rows], protocol.positive, None, None) for _, scored in found])
                     for _, rows in protocol.pieces])
