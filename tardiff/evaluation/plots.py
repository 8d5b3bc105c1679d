"""Figures of the evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from sklearn.decomposition import PCA

from tardiff.data.format import Split
from tardiff.evaluation.frame import shown_set
from tardiff.influence.analysis import fall_name
from tardiff.utils.checkpoint import atomic_path
from tardiff.utils.figures import COLOURS, channel_panels, plain

LINES, MARKERS = ("-", "--", ":", "-."), ("o", "^", "s", "D")
_EXAMPLES, _MOST_POINTS = 4, 1500  # Random series that are drawn: of each set and class, and of each set.


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return colour, line style and marker of each name; up to 16 names, two that share a colour differ in the other
    two."""
    choices = itertools.cycle(itertools.product(range(len(LINES)), COLOURS))
    return {name: {"color": colour, "linestyle": LINES[turn], "marker": MARKERS[turn]}
            for name, (turn, colour) in zip(names, choices, strict=False)}


def _panels(count: int, columns: int, size: tuple[float, float], margins: tuple[float, float] = (0.0, 0.0),
           **shared: bool) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes (count,) in rows of so many columns, the size of each and the margins around all in
    inches; shared: as of `Figure.subplots`."""
    lines = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns + margins[0], size[1] * lines + margins[1]), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, **shared).ravel()
    for axis in axes:
        axis.tick_params(labelsize=8)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def _line_legend(figure: Figure, axis: Axes, lines: dict[str, dict[str, Any]], columns: int) -> None:
    """Put a legend above all panels: a line of each name in its style."""
    handles = [axis.plot([], [], label=plain(name), **style)[0] for name, style in lines.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=9, frameon=False)


def _without_markers(style_of: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return the colour and the line style of each name."""
    return {name: {"color": style["color"], "linestyle": style["linestyle"]} for name, style in style_of.items()}


def _error_bars(axis: Axes, position: Sequence[float], middle: Sequence[float], low: Sequence[float],
                high: Sequence[float], **style: Any) -> None:
    """Draw values with their intervals, joined by a line."""
    middle = np.array(middle)
    axis.errorbar(position, middle, yerr=np.maximum([middle - low, high - middle], 0),
                  **{"capsize": 2, "linewidth": 1, "markersize": 4, "elinewidth": 0.8, **style})


def gradient_norm_bars(rows: list[dict[str, Any]]) -> Figure:
    """Draw the norm of the mean guidance gradient and the mean of its rows' norms per class, with 10-90 % whiskers.

    rows: as `tardiff.influence.analysis.gradient_norm_rows` returns them.
    """
    figure = Figure(figsize=(1.8 + 1.6 * len(rows), 3.4), layout="constrained")
    axis = figure.subplots()
    positions = np.arange(len(rows))
    axis.bar(positions - 0.2, [row["norm_of_mean"] for row in rows], 0.38, color=COLOURS[0],
             label="norm of the mean gradient")
    means = np.array([row["mean"] for row in rows])
    whiskers = np.abs(np.array([[row["p10"], row["p90"]] for row in rows]).T - means)
    axis.bar(positions + 0.2, means, 0.38, yerr=whiskers, capsize=4, color=COLOURS[1],
             label="mean norm of single gradients\n(whiskers: 10th to 90th percentile)")
    axis.set_xticks(positions, [f"{plain(row['class'])}\n({row['rows']:,} rows)" for row in rows], fontsize=9)
    axis.set_ylabel("norm of the loss gradient", fontsize=9)
    axis.tick_params(axis="y", labelsize=8)
    figure.legend(loc="outside upper center", fontsize=8, frameon=False)
    return figure


def influence_curves(sets: dict[str, tuple[np.ndarray, np.ndarray]], classes: list[str]) -> Figure:
    """Draw the cumulative distribution of influence, one panel per class and one curve per set.

    sets: influence (N,) and label (N,) by name. The axis is linear around 0 and logarithmic beyond.
    """
    figure, axes = _panels(len(classes), len(classes), (3.9, 4.0), (1, 0), sharex=True, sharey=True)
    style_of = _without_markers(styles(sets))
    for label, axis in enumerate(axes):
        for name, (scores, y) in sets.items():
            ordered = np.sort(scores[y == label])
            axis.step(ordered, np.arange(1, len(ordered) + 1) / max(len(ordered), 1), where="post", linewidth=1.5,
                      **style_of[name])
        axis.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        axis.set_title(plain(classes[label]), fontsize=10)
    _logarithmic_beyond(axes[0], np.concatenate([scores for scores, _ in sets.values()]), "x")
    axes[0].set_ylabel("share of series at or below", fontsize=9)
    figure.supxlabel("influence (right of 0: training on the series lowers the guidance loss)", fontsize=9)
    _line_legend(figure, axes[0], style_of, min(len(sets), 2 * len(classes)))
    return figure


def fine_tuning_scatter(series: list[dict[str, Any]], learning_rates: list[float]) -> Figure:
    """Draw influence against the measured fall of the guidance loss, one panel per learning rate.

    series: {set, influence, fall_at_RATE ...} each. Both axes are linear around 0 and logarithmic beyond; on the line,
    measured and predicted are equal.
    """
    figure, axes = _panels(len(learning_rates), len(learning_rates), (3.9, 4.6), (1, 0), sharex=True, sharey=True)
    style_of = styles(dict.fromkeys(one["set"] for one in series))
    influence = np.array([one["influence"] for one in series])
    for axis, rate in zip(axes, learning_rates, strict=True):
        for name, style in style_of.items():
            members = [one for one in series if one["set"] == name]
            axis.scatter([one["influence"] for one in members], [one[fall_name(rate)] for one in members], s=16,
                         color=style["color"], marker=style["marker"], alpha=0.7, linewidth=0)
        axis.axline((0, 0), (1, 1), color="0.6", linewidth=0.8, zorder=0)
        axis.set_title(f"learning rate {rate:g}", fontsize=10)
        _logarithmic_beyond(axis, influence, "xy")
    axes[0].set_ylabel("measured fall of the guidance loss / learning rate", fontsize=9)
    figure.supxlabel("influence", fontsize=9)
    handles = [axes[0].scatter([], [], s=24, color=style["color"], marker=style["marker"], label=plain(name))
               for name, style in style_of.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    return figure


def _logarithmic_beyond(axis: Axes, values: np.ndarray, directions: str) -> None:
    """Make axes linear up to the median size of the values and logarithmic beyond, with ticks at 0 and powers of
    ten."""
    sizes = np.abs(values[values != 0])
    middle = float(np.median(sizes)) if len(sizes) else 1.0
    for direction in directions:
        getattr(axis, f"set_{direction}scale")("asinh", linear_width=middle)
        low, high = getattr(axis, f"get_{direction}lim")()
        powers = 10.0 ** np.arange(np.ceil(np.log10(middle / 2)), np.log10(max(-low, high, 10 * middle)))
        ticks = [tick for tick in (*-powers[::-1], 0.0, *powers) if low <= tick <= high]
        getattr(axis, f"set_{direction}ticks")(ticks, [f"{tick:g}" for tick in ticks])
        getattr(axis, f"{direction}axis").set_minor_locator(NullLocator())


def example_series(sets: dict[str, Split], channels: list[str], units: list[str], classes: list[str],
                   times: tuple[np.ndarray, str]) -> Figure:
    """Draw a few randomly chosen series of each set and class: a row per set and class, a column per channel; many
    wrap. times: as `Metadata.times` returns them."""
    steps, unit = times
    rows = [(name, label) for label in range(len(classes)) for name in sets]
    figure, panels = channel_panels([f"{name}\n{classes[label]}" for name, label in rows], channels, units, unit,
                                    panel_size=(2.1, 1.35), margins=(1.4, 0.5), label_size=8)
    style_of = styles(sets)
    for line, (name, label) in zip(panels, rows, strict=True):
        members = np.flatnonzero(sets[name].y == label)
        chosen = np.random.default_rng(0).permutation(members)[:_EXAMPLES]
        for channel, axis in enumerate(line):
            for number, row in enumerate(chosen):
                axis.plot(steps, sets[name].x[row, :, channel], color=style_of[name]["color"], linewidth=1,
                          alpha=1 - 0.6 * number / _EXAMPLES)
    return figure


def principal_components(sets: dict[str, np.ndarray]) -> Figure:
    """Draw each set on the first two principal components of the first one, which lies behind in every panel.

    sets: x (N, L, C) z-scored by name; the first is the real one. At most 1,500 random rows of each are drawn.
    """
    generator = np.random.default_rng(0)
    flat = {name: x[np.sort(generator.permutation(len(x))[:_MOST_POINTS])].reshape(-1, x[0].size)
            for name, x in sets.items()}
    (real_name, real), *others = flat.items()
    components = PCA(2, svd_solver="full").fit(real)
    shares, points = components.explained_variance_ratio_, {name: components.transform(x) for name, x in flat.items()}
    figure, axes = _panels(len(others), min(len(others), 3), (3.4, 3.3), (0.4, 0.3), sharex=True, sharey=True)
    for axis, (name, _) in zip(axes, others, strict=True):
        for who, colour, marker in ((real_name, "0.55", "o"), (name, COLOURS[1], "x")):
            axis.scatter(*points[who].T, s=9, color=colour, marker=marker, alpha=0.5, linewidth=0.7, label=who)
        axis.set_title(plain(name), fontsize=10)
    limits = np.abs(np.percentile(points[real_name], [0.5, 99.5], axis=0)).max(axis=0) * 1.6
    axes[0].set(xlim=(-limits[0], limits[0]), ylim=(-limits[1], limits[1]))
    handles, _ = axes[0].get_legend_handles_labels()
    figure.legend(handles, [real_name, "synthetic"], loc="outside upper right", ncols=2, fontsize=9, frameon=False)
    figure.supxlabel(f"first principal component of the real series ({shares[0]:.0%} of their variance)", fontsize=9)
    figure.supylabel(f"second ({shares[1]:.0%})", fontsize=9)
    return figure


def ratio_curves(rows: list[dict[str, Any]], metrics: dict[str, tuple[str, float]]) -> Figure:
    """Draw each metric of TSRTR over the ratio of synthetic to real rows, with 95 % intervals, beside TRTR.

    rows: as `tardiff.evaluation.frame.utility_rows` returns them. metrics: key -> title and the value of guessing,
    which is drawn where it is in sight; one panel each. Ratios stand at equal distances.
    """
    real = next(row for row in rows if row["protocol"] == "TRTR")
    names = list(dict.fromkeys(shown_set(row) for row in rows if row["protocol"] == "TSRTR"))
    style_of = styles(names)
    ratios = sorted({row["ratio"] for row in rows if row["protocol"] == "TSRTR"})
    columns = 1 if len(names) * len(ratios) > 20 else len(metrics)  # Many intervals need the whole width.
    figure, axes = _panels(len(metrics), columns, (4.2 * len(metrics) / columns, 2.6), (0.4, 1), sharex=True)
    real_line, chance_line = {"color": "0.3", "linestyle": (0, (5, 2))}, {"color": "0.6", "linestyle": ":"}
    for axis, (key, (title, chance)) in zip(axes, metrics.items(), strict=True):
        axis.axhline(real[key]["mean"], linewidth=1.2, **real_line)
        axis.axhspan(real[key]["low"], real[key]["high"], color="0.3", alpha=0.1, linewidth=0)
        for number, name in enumerate(names):
            of_set = sorted((row for row in rows if row["protocol"] == "TSRTR" and shown_set(row) == name),
                            key=lambda row: row["ratio"])
            offset = 0.7 * ((number + 0.5) / len(names) - 0.5)
            _error_bars(axis, [ratios.index(row["ratio"]) + offset for row in of_set],
                        *([row[key][part] for row in of_set] for part in ("mean", "low", "high")), **style_of[name])
        bottom, _ = axis.get_ylim()
        if chance >= bottom:
            axis.axhline(chance, linewidth=1.2, **chance_line)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
        axis.set_xlim(-0.5, len(ratios) - 0.5)
    figure.supxlabel("ratio: synthetic series added per real training series", fontsize=9)
    _line_legend(figure, axes[0], {"real alone (TRTR)": real_line, "chance": chance_line, **style_of}, 4)
    return figure


def gain_curves(rows: list[dict[str, Any]], metrics: dict[str, str]) -> Figure:
    """Draw the gain of each arm with synthetic series over the best control, where there are none over TRTR, over the
    number of labelled rows, with 95 % intervals; a row per judge, a column per metric.

    rows: as `tardiff.evaluation.gain_map.map_rows` returns them. metrics: key -> title.
    """
    of_sets = [row for row in rows if row["synthetic"] is not None]
    baseline = "control" if any("auroc_minus_control" in row for row in of_sets) else "trtr"
    style_of, sizes = styles(dict.fromkeys(row["arm"] for row in of_sets)), sorted({row["n"] for row in rows})
    spread = min([2.0, *(after / before for before, after in itertools.pairwise(sizes))]) ** (1 / 3)
    judges = list(dict.fromkeys(row["judge"] for row in of_sets))
    figure, axes = _panels(len(judges) * len(metrics), len(metrics), (5.2, 3.4), (0.4, 0.6 + 0.08 * len(style_of)),
                           sharex=True)
    for axis, (judge, (key, title)) in zip(axes, itertools.product(judges, metrics.items()), strict=True):
        axis.axhline(0, color="0.3", linewidth=1)
        for number, (arm, style) in enumerate(style_of.items()):
            found = [(row["n"], row[f"{key}_minus_{baseline}"]) for row in of_sets
                     if row["arm"] == arm and row["judge"] == judge]
            # Beside each other, within a third of the way to the next size.
            position = np.array([n for n, _ in found]) * spread ** ((number + 0.5) / len(style_of) - 0.5)
            _error_bars(axis, position, *([gain[part] for _, gain in found] for part in ("mean", "low", "high")),
                        **style)
        axis.set_title(plain(f"{judge}: {title}"), fontsize=10)
        axis.set_xscale("log")
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axis.xaxis.set_minor_locator(NullLocator())
    figure.supxlabel("labelled rows: training, guidance and selection", fontsize=9)
    figure.supylabel("gain over " + ("the best control" if baseline == "control" else "TRTR"), fontsize=9)
    _line_legend(figure, axes[0], style_of, 3)
    return figure


def reliability_curves(curves: dict[str, dict[str, list[float]]], label: str) -> Figure:
    """Draw the observed share of a class over its predicted probability, with 95 % intervals; the diagonal is
    calibrated.

    curves: by name, as `tardiff.evaluation.metrics.reliability_curve` returns them. The first lies behind in the panel
    of each of the others.
    """
    (first, behind), *others = curves.items()
    drawn = others or [(first, behind)]
    columns = min(len(drawn), 4)
    figure, axes = _panels(len(drawn), columns, (max(2.7, 4.6 / columns), 2.7), (0.3, 0.7), sharex=True, sharey=True)
    top = max(1e-3, *(float(np.max(curve[key])) for curve in curves.values() for key in ("predicted", "high")))
    for axis, (name, curve) in zip(axes, drawn, strict=True):
        axis.plot([0, top], [0, top], color="0.6", linewidth=1, linestyle=(0, (5, 2)), label="calibrated")
        for title, line, colour, marker in ((first, behind, "0.45", "s"), (name, curve, COLOURS[0], "o"))[not others:]:
            _error_bars(axis, *(line[key] for key in ("predicted", "observed", "low", "high")), linewidth=1.3,
                        elinewidth=0.7, color=colour, marker=marker,
                        label=title if title == first else "the arm above")
        axis.set_title(plain(name), fontsize=9)
    axes[0].set(xlim=(0, top * 1.02), ylim=(0, top * 1.02))
    figure.supxlabel(plain(f"predicted probability of: {label}"), fontsize=9)
    figure.supylabel("observed share", fontsize=9)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    return figure


def attack_curves(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draw the ROC of the membership attack by name, (false positive rate, true positive rate), on linear and on
    logarithmic axes; the latter shows whether a few records are laid open."""
    figure, axes = _panels(2, 2, (4.1, 4.2))
    style_of = _without_markers(styles(curves))
    for axis, scale in zip(axes, ("linear", "log"), strict=True):
        axis.plot([1e-3, 1], [1e-3, 1], color="0.6", linewidth=1, linestyle=(0, (5, 2)))
        for name, (false_positive, true_positive) in curves.items():
            axis.plot(false_positive, true_positive, linewidth=1.5, **style_of[name])
        low = 0 if scale == "linear" else 1e-3
        axis.set(xscale=scale, yscale=scale, xlim=(low, 1), ylim=(low, 1.02))
    figure.supxlabel("share of non-members called members", fontsize=9)
    figure.supylabel("share of members found", fontsize=9)
    _line_legend(figure, axes[0], {"chance": {"color": "0.6", "linestyle": (0, (5, 2))}, **style_of}, 3)
    return figure
