"""Figures for the run folder and TensorBoard."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

# Okabe & Ito (2008): distinguishable with every common colour vision deficiency.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def channel_bands(sets: dict[str, tuple[np.ndarray, np.ndarray]], channels: list[str], units: list[str],
                  classes: list[str]) -> Figure:
    """Draw median and 10-90 % band over time, one row per class and one column per channel.

    sets: up to four names with (x (N, L, C) raw units, y (N,)).
    """
    figure = Figure(figsize=(2.3 * len(channels) + 0.6, 2.1 * len(classes) + 0.6), layout="constrained")
    axes = figure.subplots(len(classes), len(channels), squeeze=False, sharex=True, sharey="col")
    for row, label in enumerate(classes):
        for column, (channel, unit) in enumerate(zip(channels, units, strict=True)):
            axis = axes[row, column]
            for colour, (x, y) in zip(COLOURS, sets.values(), strict=False):
                if not (y == row).any():
                    continue
                low, middle, high = np.nanpercentile(x[y == row, :, column], [10, 50, 90], axis=0)
                axis.fill_between(np.arange(len(middle)), low, high, color=colour, alpha=0.2, linewidth=0)
                axis.plot(middle, color=colour, linewidth=1.5)
            if row == 0:
                axis.set_title(f"{channel} [{unit}]" if unit else channel, fontsize=9)
            if column == 0:
                axis.set_ylabel(label, fontsize=9)
            axis.tick_params(labelsize=7)
    figure.supxlabel("time step (line: median, band: 10th to 90th percentile)", fontsize=9)
    handles = [axes[0, 0].plot([], [], color=colour, label=name)[0]
               for colour, name in zip(COLOURS, sets, strict=False)]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(sets), fontsize=9, frameon=False)
    return figure
