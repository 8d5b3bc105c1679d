"""The pictures with one column per channel: every channel up to the limit has its own panels, however many there
are."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from tardiff.data.format import Metadata, Split
from tardiff.evaluation.plots import (
    example_series,
    principal_components,
    ratio_curves,
    reliability_curves,
    save_figure,
    styles,
)
from tardiff.utils.figures import COLOURS, LEAST_WIDTH, MOST_CHANNELS, MOST_COLUMNS, channel_bands

CLASSES = ["survived", "died"]
TIMES = np.arange(6) * 0.5, "hours"
SETS = ["real", "synthetic"]
ROWS = {"bands": CLASSES, "examples": [f"{name}\n{label}" for label in CLASSES for name in SETS]}
COLUMNS = {1: 1, 7: 7, 15: 5, 16: 6, 21: 7, 22: 7, 33: 7}


def test_sixteen_sets_are_told_apart():
    chosen = styles(map(str, range(16))).values()
    assert len({tuple(style.values()) for style in chosen}) == 16
    for first in ("linestyle", "marker"):
        assert len({(style[first], style["color"]) for style in chosen}) == 16


def split(channels, seed):
    """Series around 10 * channel + 3 * class, never more than 1 away."""
    y = np.arange(12) % len(CLASSES)
    noise = np.random.default_rng(seed).uniform(-1, 1, (len(y), 6, channels))
    x = noise + 10 * np.arange(channels) + 3 * y[:, None, None]
    return Split(x.astype(np.float32), y)


def names_and_units(channels):
    return [f"lead {number}" for number in range(1, channels + 1)], ["mV"] * (channels - 1) + [""]


def titles(channels):
    return [f"{name} [{unit}]" if unit else name for name, unit in zip(*names_and_units(channels), strict=True)]


def draw(kind, channels):
    sets = {name: split(channels, seed) for seed, name in enumerate(SETS)}
    if kind == "bands":
        arrays = {name: (part.x, part.y) for name, part in sets.items()}
        return channel_bands(arrays, *names_and_units(channels), CLASSES, TIMES)
    return example_series(sets, *names_and_units(channels), CLASSES, TIMES)


def cells(figure):
    """Return the visible panels by (line, column) on the page."""
    specs = {axis: axis.get_subplotspec() for axis in figure.axes if axis.get_visible()}
    return {(spec.rowspan.start, spec.colspan.start): axis for axis, spec in specs.items()}


def panels(figure, rows):
    """Return the panels of each channel, top to bottom: those under each title, in reading order."""
    visible = cells(figure)
    return [[visible[line + row, column] for row in range(rows)]
            for (line, column), axis in sorted(visible.items()) if axis.get_title()]


@pytest.mark.parametrize("channels", COLUMNS)
def test_channels_wrap_into_blocks_of_panels(channels):
    figure = draw("bands", channels)
    drawn, columns = min(channels, MOST_CHANNELS), panels(figure, len(CLASSES))
    assert len(cells(figure)) == drawn * len(CLASSES)
    assert 1 + max(column for _, column in cells(figure)) == COLUMNS[channels]
    assert [column[0].get_title() for column in columns] == titles(channels)[:drawn]
    assert all(not axis.has_data() for axis in figure.axes if not axis.get_visible())
    assert LEAST_WIDTH <= figure.get_size_inches()[0] <= 2.3 * MOST_COLUMNS + 0.6
    left_out = {22: ["channel 22 is not drawn"], 33: ["channels 22 to 33 are not drawn"]}.get(channels, [])
    assert figure.get_supxlabel().split("\n")[1:] == left_out


@pytest.mark.parametrize("kind", ROWS)
def test_each_panel_shows_its_own_channel_and_class(kind):
    figure = draw(kind, 16)
    columns = panels(figure, len(ROWS[kind]))
    for (line, column), axis in cells(figure).items():
        assert axis.get_ylabel() == ("" if column else ROWS[kind][line % len(ROWS[kind])])
    for channel, column in enumerate(columns):
        for row, axis in enumerate(column):
            middle = 10 * channel + 3 * (row * len(CLASSES) // len(column))
            values = np.concatenate([line.get_ydata() for line in axis.lines])
            assert len(values) and np.abs(values - middle).max() <= 1
        ((low, high),) = {axis.get_ylim() for axis in column}
        assert 10 * channel - 2 < low < 10 * channel and 10 * channel + 3 < high < 10 * channel + 5
        numbered = [axis.xaxis.get_tick_params()["labelbottom"] for axis in column]
        assert numbered == [False] * (len(column) - 1) + [True], "the last panel of a channel alone numbers the steps"
    first = columns[0][0]
    assert all(first.get_shared_x_axes().joined(first, axis) for column in columns for axis in column)


@pytest.mark.parametrize("kind", ROWS)
def test_panels_do_not_overlap_and_the_legend_names_each_set_once(kind, tmp_path):
    figure = draw(kind, 8)
    save_figure(tmp_path / "picture.png", figure)
    boxes = [axis.get_tightbbox() for axis in cells(figure).values()]
    assert not any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])
    if kind == "bands":
        legend, = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == SETS
        assert [to_hex(line.get_color()).upper() for line in legend.get_lines()] == list(COLOURS[:len(SETS)])


def interval_row(protocol, ratio=None, level=0.7, synthetic="guided"):
    part = {"mean": level, "low": level - 0.02, "high": level + 0.02}
    return {"protocol": protocol, "synthetic": synthetic, "ratio": ratio, "targets": "own", "auroc": part,
            "auprc": part}


@pytest.mark.parametrize(("level", "in_sight"), [(0.52, True), (0.7, False)])
def test_ratios_are_ticks_and_chance_is_drawn_where_it_is_in_sight(level, in_sight):
    rows = [interval_row("TRTR", level=level),
            *(interval_row("TSRTR", ratio, level, name) for name in "ab" for ratio in (1.0, 0.05, 0.1))]
    (axis,) = ratio_curves(rows, {"auroc": ("AUROC", 0.5)}).axes
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0.05", "0.1", "1"]
    heights = [line.get_ydata()[0] for line in axis.lines if len(set(line.get_ydata())) == 1]
    assert level in heights and (0.5 in heights) == in_sight


@pytest.mark.parametrize("sets", [0, 1, 14])
def test_each_arm_has_its_panel_of_reliability_with_real_data_behind(sets):
    curve = {"predicted": [0.1, 0.4], "observed": [0.2, 0.3], "low": [0.1, 0.2], "high": [0.3, 0.5]}
    figure = reliability_curves({"TRTR": curve, **{f"TSTR {number}": curve for number in range(sets)}}, "died")
    visible = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in visible] == [f"TSTR {number}" for number in range(sets)] or ["TRTR"]
    assert [len(axis.containers) for axis in visible] == ([2] * sets or [1])


@pytest.mark.parametrize("kind", ROWS)
def test_dollars_in_names_are_drawn_as_they_are(kind, tmp_path):
    part, names = split(2, seed=0), ["$HR_$", r"$\oops$"]
    if kind == "bands":
        figure = channel_bands({"$a^$": (part.x, part.y)}, names, ["$%$", ""], ["$x_$", "$y$"], TIMES)
    else:
        figure = example_series({"$a^$": part}, names, ["$%$", ""], ["$x_$", "$y$"], TIMES)
    save_figure(tmp_path / "picture.png", figure)
    assert figure.axes[0].get_title() == r"\$HR_\$ [\$%\$]"


@pytest.mark.parametrize(("interval", "last", "unit"), [
    ("1 hour", 5, "hours"), ("5 min", 25, "minutes"), ("1/100 s", 0.05, "seconds"), ("beats", 5, "step"),
    ("30 min", 2.5, "hours")])
def test_series_stand_over_time_in_a_fitting_unit(interval, last, unit):
    times, found = Metadata("a", ["HR"], ["bpm"], CLASSES, interval).times(6)
    assert (times[0], times[-1], found) == (0, pytest.approx(last), unit)
    part = split(1, seed=0)
    figure = channel_bands({"real": (part.x, part.y)}, ["HR"], ["bpm"], CLASSES, (times, found))
    assert figure.get_supxlabel().startswith(unit) and figure.axes[0].lines[0].get_xdata()[-1] == times[-1]


def test_components_are_those_of_the_real_series():
    generator = np.random.default_rng(0)
    real = generator.standard_normal((300, 4, 2)).astype(np.float32) * np.array([9, 0.1], np.float32)
    figure = principal_components({"real": real, "one": real + 1, "two": -real})
    flat = real.reshape(300, -1)
    share = np.linalg.eigvalsh(np.cov(flat, rowvar=False))
    assert f"({share[-1] / share.sum():.0%} of their variance)" in figure.get_supxlabel()
    first, second = (axis.collections[0].get_offsets() for axis in figure.axes[:2])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(np.var(first, axis=0, ddof=1), share[[-1, -2]], rtol=1e-4)
