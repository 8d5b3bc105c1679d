"""Figures for the run folder and TensorBoard."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

# Okabe & Ito (2008): distinguishable with every common colour vision deficiency.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
# The report shows a figure about 1200 pixels wide, where the text of more columns is too small to read.
MOST_COLUMNS = 7
MOST_CHANNELS = 21
# In inches: the legend and the label of the x axis need it, even beside a single column.
LEAST_WIDTH = 5.2


def plain(name: str) -> str:
    """Return a name as text that is drawn as it is: `$...$` would be read as a formula."""
    return name.replace("$", r"\$")


def channel_panels(rows: list[str], channels: list[str], units: list[str], x_label: str,
                   panel_size: tuple[float, float], margins: tuple[float, float], label_size: int = 9
                   ) -> tuple[Figure, np.ndarray]:
    """Lay out one panel per row label and channel, with many channels wrapped into blocks of rows.

    panel_size, margins: (width, height) in inches, the height of the margins per block. Returns the figure and its
    panels (R, C), C at most `MOST_CHANNELS`; a note below the x label names the channels left out. Names are shown as
    they are, dollar signs included.
    """
    titles = [plain(f"{channel} [{unit}]" if unit else channel) for channel, unit in zip(channels, units, strict=True)]
    drawn = min(len(channels), MOST_CHANNELS)
    blocks = math.ceil(drawn / MOST_COLUMNS)
    # Blocks of equal length, so that no block holds a lone channel.
    columns = math.ceil(drawn / blocks)
    width = max(panel_size[0] * columns + margins[0], LEAST_WIDTH)
    height = (panel_size[1] * len(rows) + margins[1]) * blocks
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(blocks * len(rows), columns, squeeze=False, sharex=True)
    panels = grid.reshape(blocks, len(rows), columns).swapaxes(0, 1).reshape(len(rows), -1)
    for axis in panels[:, drawn:].flat:
        axis.set_visible(False)
    panels = panels[:, :drawn]
    for channel, column in enumerate(panels.T):
        column[0].set_title(titles[channel], fontsize=9)
        for axis, label in zip(column, rows, strict=True):
            if axis is not column[0]:
                axis.sharey(column[0])
            axis.tick_params(labelsize=7, labelbottom=axis is column[-1])
            if channel % columns == 0:
                axis.set_ylabel(plain(label), fontsize=label_size)
        if channel < (blocks - 1) * columns:
            # Without a gap, the title of the panel below reads as the label of this axis.
            column[-1].set_xlabel(" ", fontsize=14)
    if drawn < len(channels):
        several = drawn + 1 < len(channels)
        left_out = f"channels {drawn + 1} to {len(channels)} are" if several else f"channel {drawn + 1} is"
        x_label = f"{x_label}\n{left_out} not drawn"
    figure.supxlabel(x_label, fontsize=9)
    return figure, panels


def channel_bands(sets: dict[str, tuple[np.ndarray, np.ndarray]], channels: list[str], units: list[str],
                  classes: list[str], times: tuple[np.ndarray, str], examples: int = 0) -> Figure:
    """Draw median and 10-90 % band over time, one row per class and one column per channel; many channels wrap.

    sets: up to four names with (x (N, L, C) raw units, y (N,)), of each of which the first `examples` series of a class
    are drawn as thin lines. times: where the steps stand (L,), and in which unit, as `Metadata.times` returns them.
    """
    steps, unit = times
    figure, panels = channel_panels(classes, channels, units, f"{unit} (line: median, band: 10th to 90th percentile)",
                                    panel_size=(2.3, 2.1), margins=(0.6, 0.6))
    for (row, channel), axis in np.ndenumerate(panels):
        for colour, (x, y) in zip(COLOURS, sets.values(), strict=False):
            if not (y == row).any():
                continue
            low, middle, high = np.nanpercentile(x[y == row, :, channel], [10, 50, 90], axis=0)
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            axis.plot(steps, middle, color=colour, linewidth=1.5)
            axis.plot(steps, x[y == row, :, channel][:examples].T, color=colour, linewidth=0.5, alpha=0.6)
    handles = [panels[0, 0].plot([], [], color=colour, label=plain(name))[0]
               for colour, name in zip(COLOURS, sets, strict=False)]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(sets), fontsize=9, frameon=False)
    return figure
