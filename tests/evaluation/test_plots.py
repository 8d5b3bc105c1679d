"""The pictures with one column per channel: every channel up to the limit has its own panels, however many there are."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from tardiff.data.format import Split
from tardiff.evaluation.plots import example_series, save_figure, styles
from tardiff.utils.figures import COLOURS, LEAST_WIDTH, MOST_CHANNELS, MOST_COLUMNS, channel_bands

CLASSES = ["survived", "died"]
SETS = ["real", "synthetic"]
ROWS = {"bands": CLASSES, "examples": [f"{name}\n{label}" for label in CLASSES for name in SETS]}
NOTES = {22: ["channel 22 is not drawn"], 33: ["channels 22 to 33 are not drawn"]}
COLUMNS = {1: 1, 7: 7, 15: 5, 16: 6, 21: 7, 22: 7, 33: 7}


def test_sixteen_sets_are_told_apart():
    looks = styles(map(str, range(16))).values()
    assert len({tuple(look.values()) for look in looks}) == 16
    assert len({(look["linestyle"], look["color"]) for look in looks}) == len({(look["marker"], look["color"])
                                                                              for look in looks}) == 16


def split(channels, seed):
    """Series around 10 * channel + 3 * class, never more than 1 away."""
    y = np.arange(12) % len(CLASSES)
    x = np.random.default_rng(seed).uniform(-1, 1, (len(y), 6, channels)) + 10 * np.arange(channels) + 3 * y[:, None, None]
    return Split(x.astype(np.float32), y)


def names_and_units(channels):
    return [f"lead {number}" for number in range(1, channels + 1)], ["mV"] * (channels - 1) + [""]


def titles(channels):
    return [f"{name} [{unit}]" if unit else name for name, unit in zip(*names_and_units(channels), strict=True)]


def draw(kind, channels):
    sets = {name: split(channels, seed) for seed, name in enumerate(SETS)}
    if kind == "bands":
        return channel_bands({name: (part.x, part.y) for name, part in sets.items()}, *names_and_units(channels), CLASSES)
    return example_series(sets, *names_and_units(channels), CLASSES)


def cells(figure):
    """Return the visible panels by (line, column) on the page."""
    places = {axis: axis.get_subplotspec() for axis in figure.axes if axis.get_visible()}
    return {(place.rowspan.start, place.colspan.start): axis for axis, place in places.items()}


def panels(figure, rows):
    """Return the panels of each channel, top to bottom: those under each title, in reading order."""
    visible = cells(figure)
    return [[visible[line + row, column] for row in range(rows)]
            for (line, column), axis in sorted(visible.items()) if axis.get_title()]


@pytest.fixture(scope="module", params=[(kind, channels) for kind in ROWS for channels in COLUMNS],
                ids=lambda param: f"{param[0]}-{param[1]}")
def picture(request):
    kind, channels = request.param
    return kind, channels, draw(kind, channels)


def test_every_channel_has_one_visible_panel_per_row_and_unused_panels_are_hidden(picture):
    kind, channels, figure = picture
    drawn = min(channels, MOST_CHANNELS)
    assert len(cells(figure)) == drawn * len(ROWS[kind])
    assert [column[0].get_title() for column in panels(figure, len(ROWS[kind]))] == titles(channels)[:drawn]
    assert all(not axis.has_data() for axis in figure.axes if not axis.get_visible())


def test_columns_wrap(picture):
    _, channels, figure = picture
    assert 1 + max(column for _, column in cells(figure)) == COLUMNS[channels]
    assert LEAST_WIDTH <= figure.get_size_inches()[0] <= 2.3 * MOST_COLUMNS + 0.6


def test_the_first_panel_of_each_line_alone_names_its_row(picture):
    kind, _, figure = picture
    for (line, column), axis in cells(figure).items():
        assert axis.get_ylabel() == ("" if column else ROWS[kind][line % len(ROWS[kind])])


def test_each_panel_shows_its_own_channel_and_class(picture):
    kind, _, figure = picture
    for channel, column in enumerate(panels(figure, len(ROWS[kind]))):
        for row, axis in enumerate(column):
            middle = 10 * channel + 3 * (row * len(CLASSES) // len(column))
            drawn = np.concatenate([line.get_ydata() for line in axis.lines])
            assert len(drawn) and np.abs(drawn - middle).max() <= 1


def test_the_panels_of_a_channel_share_their_values_and_all_panels_their_time_steps(picture):
    kind, _, figure = picture
    columns = panels(figure, len(ROWS[kind]))
    limits = [{axis.get_ylim() for axis in column} for column in columns]
    assert all(len(of_channel) == 1 for of_channel in limits)
    for channel, ((low, high),) in enumerate(limits):
        assert 10 * channel - 2 < low < 10 * channel and 10 * channel + 3 < high < 10 * channel + 5
    first = columns[0][0]
    assert all(first.get_shared_x_axes().joined(first, axis) for column in columns for axis in column)


def test_the_last_panel_of_each_channel_alone_numbers_the_time_steps(picture):
    kind, _, figure = picture
    for column in panels(figure, len(ROWS[kind])):
        numbered = [axis.xaxis.get_tick_params()["labelbottom"] for axis in column]
        assert numbered == [False] * (len(column) - 1) + [True]


def test_a_note_names_the_channels_that_are_not_drawn(picture):
    _, channels, figure = picture
    first, *note = figure.get_supxlabel().split("\n")
    assert first.startswith("time step")
    assert note == NOTES.get(channels, [])


@pytest.mark.parametrize("channels", [7, 16])
def test_the_legend_of_the_bands_names_each_set_once(channels):
    legend, = draw("bands", channels).legends
    assert [text.get_text() for text in legend.get_texts()] == SETS
    assert [to_hex(line.get_color()).upper() for line in legend.get_lines()] == list(COLOURS[:len(SETS)])


@pytest.mark.parametrize("kind", ROWS)
def test_blocks_do_not_overlap_on_the_page(kind, tmp_path):
    figure = draw(kind, 16)
    save_figure(tmp_path / "picture.png", figure)
    boxes = [axis.get_tightbbox() for axis in cells(figure).values()]
    assert not any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])


@pytest.mark.parametrize("kind", ROWS)
def test_each_channel_needs_a_unit(kind):
    part = split(3, seed=0)
    with pytest.raises(ValueError):
        if kind == "bands":
            channel_bands({"real": (part.x, part.y)}, ["a", "b", "c"], ["mV", "mV"], CLASSES)
        else:
            example_series({"real": part}, ["a", "b", "c"], ["mV", "mV"], CLASSES)
