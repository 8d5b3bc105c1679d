"""From long charted values (stay, hour, channel, value) to the splits of a dataset, for every ICU source alike.

The steps, in order: keep valid rows (`in_range`, `drop_rows`), average them on a regular grid (`grid_means`), and put
together (`dataset_of_stays`): split by subject, impute (`fill_gaps`), and tell what each channel holds
(`summarize_channels`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_preprocess.count_tables import print_table, summarize_splits
from tardiff.data.format import SPLIT_NAMES, Metadata, Split
from tardiff.data.imputation import Imputation
from tardiff.data.splits import split_with_target
from tardiff.utils.errors import UserError

QUANTILES = {"minimum": 0.0, "0.1 %": 0.001, "50 %": 0.5, "99.9 %": 0.999, "maximum": 1.0}
MOST_PRINTED = 50  # channels


@dataclass(frozen=True)
class Vital:
    """One channel: its name, its unit, and the interval of values a living patient can have: low `above` value `below`
    high, where these are `<` or `<=`."""

    name: str
    unit: str
    low: float
    high: float
    above: str = "<"
    below: str = "<"

    @property
    def valid_range(self) -> str:
        """The range as text, for example `0 < SpO2 <= 100`."""
        return f"{self.low:g} {self.above} {self.name} {self.below} {self.high:g}"

    def condition(self, column: str) -> str:
        """Return the range as a SQL condition on a column."""
        return f"({self.low!r} {self.above} {column} AND {column} {self.below} {self.high!r})"


# The paper's seven vital signs in the paper's order, with the bounds of the pivoted vitals of mimic-code.
VITALS = (
    Vital("HR", "beats/min", 0, 300),
    Vital("SBP", "mmHg", 0, 400),
    Vital("DBP", "mmHg", 0, 300),
    Vital("MBP", "mmHg", 0, 300),
    Vital("RR", "breaths/min", 0, 70),
    Vital("Temp", "degrees Celsius", 10, 50),
    Vital("SpO2", "%", 0, 100, below="<="),
)


def in_range(channel: np.ndarray, value: np.ndarray, vitals: Sequence[Vital] = VITALS) -> np.ndarray:
    """Tell which values are valid for their channel: channel (R,) int, value (R,) float -> (R,) bool; NaN is not."""
    low, high, above, below = (np.array([getattr(vital, name) for vital in vitals])[channel]
                               for name in ("low", "high", "above", "below"))
    return ((value > low) | ((above == "<=") & (value == low))) & ((value < high) | ((below == "<=") & (value == high)))


def drop_rows(reasons: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Drop the rows that any reason names, and count each dropped row once, under the first reason that names it.

    reasons: name -> (R,) bool, in order of precedence. Returns the kept rows (R,) bool and the count per reason.
    """
    kept = ~np.zeros_like(next(iter(reasons.values())))
    counts = {}
    for reason, dropped in reasons.items():
        counts[reason] = int((kept & dropped).sum())
        kept &= ~dropped
    return kept, counts


def grid_means(stay: np.ndarray, hour: np.ndarray, channel: np.ndarray, value: np.ndarray,
               shape: tuple[int, int, int]) -> np.ndarray:
    """Average all values of each (stay, hour, channel) cell; a cell without a value is NaN.

    stay, hour, channel (R,) int are positions in `shape` = (N, L, C), value (R,) float. Returns (N, L, C) float32.
    """
    cell = np.ravel_multi_index((stay, hour, channel), shape)
    size = int(np.prod(shape))
    count = np.bincount(cell, minlength=size)
    total = np.bincount(cell, weights=value, minlength=size)
    mean = np.divide(total, count, out=np.full(size, np.nan), where=count > 0)
    return mean.reshape(shape).astype(np.float32)


def fill_gaps(splits: Mapping[str, Split], rule: str,
              vitals: Sequence[Vital] = VITALS) -> tuple[dict[str, Split], Imputation]:
    """Fill what is NaN in x by a rule of `tardiff.data.imputation`; the masks become True where it was not.

    Only observed training cells set the medians. Returns the splits and how they were filled. Raises UserError on a
    channel that training lacks.
    """
    train = splits["train"].x
    unobserved = np.isnan(train).all(axis=(0, 1))
    if unobserved.any():
        others = shlex.join(vital.name for vital, absent in zip(vitals, unobserved, strict=True) if not absent)
        raise UserError(f"channel {vitals[unobserved.argmax()].name} has no valid value in the training split, so its "
                        f"gaps cannot be filled. Leave it out (tables: --channels {others}), or give more series with "
                        "a value of it.")
    imputation = Imputation(rule, np.nanmedian(train, axis=(0, 1)).astype(np.float32).tolist())
    return {name: replace(split, x=imputation.fill(split.x), mask=~np.isnan(split.x))
            for name, split in splits.items()}, imputation


def observed_values(splits: Mapping[str, Split], channel: int) -> np.ndarray:
    """Return all observed values (R,) float32 of a channel, which is given by its position; one NaN where there is
    none."""
    values = np.concatenate([split.x[..., channel][~np.isnan(split.x[..., channel]) if split.mask is None
                                                 else split.mask[..., channel]] for split in splits.values()])
    return values if len(values) else np.full(1, np.nan, dtype=np.float32)


def summarize_channels(splits: Mapping[str, Split], vitals: Sequence[Vital] = VITALS) -> dict:
    """Print each channel's valid range, share of observed cells and quantiles over all splits, and return the first two
    and the training median for `meta.json`."""
    cells = sum(split.x[..., 0].size for split in splits.values())
    values = [observed_values(splits, channel) for channel in range(len(vitals))]
    shares = [np.isfinite(own).sum() / cells for own in values]
    print_table([["channel", "valid range", "observed cells", *QUANTILES],
                 *([vital.name, vital.valid_range, f"{share:.1%}",
                    *(f"{value:.5g}" for value in np.quantile(own, list(QUANTILES.values())))]
                   for vital, own, share in zip(vitals[:MOST_PRINTED], values, shares, strict=False))])
    if len(vitals) > MOST_PRINTED:
        print(f"... and {len(vitals) - MOST_PRINTED:,} more channels\n")
    return {vital.name: {"valid_range": vital.valid_range, "observed": float(share),
                         "train_median": float(np.median(observed_values({"train": splits["train"]}, channel)))}
            for channel, (vital, share) in enumerate(zip(vitals, shares, strict=True))}


def dataset_of_stays(stays: Split, ratios: Sequence[float], seed: int, meta: Metadata,
                     vitals: Sequence[Vital] = VITALS, is_target: np.ndarray | None = None
                     ) -> tuple[dict[str, Split], Metadata]:
    """Split the stays by subject, fill their gaps forward, and print what they hold; return the splits and their
    description.

    stays: with NaN in x where unobserved. ratios: of train, val and test, of the target alone where is_target (N,) bool
    is given (see `split_with_target`). meta: complete but for what is found here, which joins its `cohort`. Raises
    UserError where no stay is left, a split is empty, or training never observed a channel.
    """
    if len(stays) == 0:
        raise UserError("no stay is left; the table above says where they went.")
    parts = split_with_target(stays, is_target, dict(zip(SPLIT_NAMES, ratios, strict=True)), seed)
    splits, imputation = fill_gaps(parts, "forward", vitals)
    meta = replace(meta, positive=meta.classes[-1])
    cohort = {
        **meta.cohort, "ratios": list(ratios), "seed": seed,
        "channels": summarize_channels(splits, vitals),
        "splits": summarize_splits(splits, meta, "stays"),
    }
    return splits, replace(meta, cohort=cohort, imputation=imputation)
