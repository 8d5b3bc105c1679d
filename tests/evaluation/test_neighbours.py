"""Blocked nearest neighbours against a k-d tree in float64."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from tardiff.evaluation.neighbours import drawn_rows, nearest


def rows(count, seed, shape=(4, 3), offset=0.0):
    return (np.random.default_rng(seed).normal(size=(count, *shape)) + offset).astype(np.float32)


def by_tree(a, b, neighbour=1):
    flat = [x.reshape(len(x), -1).astype(np.float64) for x in (a, b)]
    distance, number = cKDTree(flat[1]).query(flat[0], k=[neighbour])
    return distance[:, 0], number[:, 0]


@pytest.mark.parametrize(("count_a", "count_b", "shape"),
                         [(1, 1, (1, 1)), (5, 3, (2, 1)), (3, 40, (4, 3)), (1500, 700, (4, 3)), (40, 1100, (24, 7))])
def test_distances_and_neighbours_are_those_of_a_tree(count_a, count_b, shape):
    a, b = rows(count_a, 0, shape), rows(count_b, 1, shape)
    distance, number = nearest(a, b)
    expected, expected_number = by_tree(a, b)
    np.testing.assert_allclose(distance, expected, rtol=1e-12)
    np.testing.assert_array_equal(number, expected_number)
    if count_b > 1:
        distance, number = nearest(b, b, exclude_self=True)
        expected, expected_number = by_tree(b, b, neighbour=2)
        np.testing.assert_allclose(distance, expected, rtol=1e-12)
        np.testing.assert_array_equal(number, expected_number)


def test_copies_have_distance_zero_however_far_from_the_origin():
    """Expanding the square would leave differences of about 1 at an offset of 1000."""
    b = rows(500, 0, offset=1000.0)
    order = np.random.default_rng(1).permutation(500)
    distance, number = nearest(b[order], b)
    assert not distance.any()
    np.testing.assert_array_equal(number, order)


def test_small_differences_far_from_the_origin_are_exact():
    b = rows(300, 0, offset=1000.0)
    a = b + np.float32(2**-10)
    np.testing.assert_allclose(nearest(a, b)[0], by_tree(a, b)[0], rtol=1e-12)


def test_a_duplicate_elsewhere_is_a_neighbour_and_the_row_itself_is_not():
    x = rows(50, 0)
    x[[7, 31]] = x[3]
    distance, number = nearest(x, x, exclude_self=True)
    np.testing.assert_array_equal(np.flatnonzero(distance == 0), [3, 7, 31])
    assert number[3] in (7, 31) and number[7] in (3, 31) and not np.any(number == np.arange(50))
    assert nearest(x[:1], x[:1], exclude_self=True)[0] == np.inf


def test_many_equal_rows_do_not_hide_the_nearest():
    """More ties than the candidates that are compared again."""
    crowd = np.repeat(rows(1, 0, offset=3.0), 200, axis=0)
    b = np.concatenate([crowd, rows(100, 1)])
    a = np.concatenate([rows(60, 2), crowd[:1]])
    np.testing.assert_allclose(nearest(a, b)[0], by_tree(a, b)[0], rtol=1e-12)


@pytest.mark.parametrize("max_bytes", [1, 2**18, 2**22])
def test_the_size_of_blocks_changes_nothing(max_bytes):
    a, b = rows(1300, 0), rows(900, 1)
    for one, other in zip(nearest(a, b, max_bytes=max_bytes), nearest(a, b), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(nearest(b, b, True, max_bytes=max_bytes), nearest(b, b, True), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_order_of_rows_changes_nothing():
    a, b = rows(300, 0), rows(200, 1)
    orders = [np.random.default_rng(seed).permutation(len(x)) for seed, x in enumerate((a, b))]
    distance, number = nearest(a[orders[0]], b[orders[1]])
    expected, expected_number = nearest(a, b)
    np.testing.assert_array_equal(distance, expected[orders[0]])
    np.testing.assert_array_equal(orders[1][number], expected_number[orders[0]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_the_same():
    a, b = rows(1300, 0, (24, 7)), rows(900, 1, (24, 7))
    for one, other in zip(nearest(a, b, device=torch.device("cuda")), nearest(a, b), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_draw_depends_on_the_rows_and_the_key_and_not_on_the_order():
    x = rows(60, 0)
    order = np.random.default_rng(1).permutation(60)
    drawn = drawn_rows(x, 20, 0, "one")
    assert len(set(drawn.tolist())) == 20
    np.testing.assert_array_equal(x[order][drawn_rows(x[order], 20, 0, "one")], x[drawn])
    assert not np.array_equal(drawn, drawn_rows(x, 20, 0, "other"))
    assert sorted(drawn_rows(x, 100, 0)) == list(range(60))


def test_all_rows_are_drawn_equally_often():
    x = rows(20, 0)
    counts = np.bincount(np.concatenate([drawn_rows(x, 5, seed) for seed in range(2000)]), minlength=20)
    assert np.all(np.abs(counts / 2000 - 0.25) < 0.05)
