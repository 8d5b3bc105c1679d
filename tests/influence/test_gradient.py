"""The guidance gradient G against a per-sample loop, its class weightings and its cache."""

import math
import os

import pytest
import torch
from fitted_tasks import NAMES, fitted_task, loop_mean, series

from tardiff.influence.gradient import cached_guidance_gradient, compute_guidance_gradient
from tardiff.influence.task import dot, norm
from tardiff.utils.distributed import ProcessGroup
from tardiff.utils.errors import UserError

ALONE = ProcessGroup(0, 1, torch.device("cpu"))
X, Y = series(61, seed=5)


def assert_same(found, expected, tolerance=2e-6):
    scale = norm(expected)
    assert norm({name: found[name].double() - expected[name].double() for name in expected}) < tolerance * scale


@pytest.mark.parametrize("name", NAMES)
def test_streamed_gradient_equals_the_loop_for_every_batch_size(name):
    task = fitted_task(name)
    expected = loop_mean(fitted_task(name, double=True), X, Y)
    for batch_size in (1, 7, 512):
        gradient = compute_guidance_gradient(task, X, Y, 2, 200, ALONE, batch_size)
        assert_same(gradient.direction("all", "guidance_size"), expected)


def test_class_weightings_and_normalisations():
    task = fitted_task("gru")
    gradient = compute_guidance_gradient(task, X, Y, 2, 200, ALONE)
    exact = fitted_task("gru", double=True)
    rows = {label: [row for row in range(len(Y)) if Y[row] == label] for label in (0, 1)}
    means = {label: loop_mean(exact, X[rows[label]], Y[rows[label]]) for label in rows}
    assert len(rows[1]) < len(rows[0])
    mixtures = {"minority": {1: 1.0}, "majority": {0: 1.0}, "balanced": {0: 0.5, 1: 0.5}}
    for classes, shares in [*mixtures.items(), ([1], {1: 1.0}), ([0, 1], {k: len(rows[k]) / 61 for k in rows}),
                            ({0: 1, 1: 3}, {0: 0.25, 1: 0.75})]:
        expected = {name: sum(share * means[label][name] for label, share in shares.items()) for name in means[0]}
        assert_same(gradient.direction(classes, "guidance_size"), expected)
    total = {name: 61 / 200 * value for name, value in loop_mean(exact, X, Y).items()}
    assert_same(gradient.direction("all", "train_size"), total)
    assert math.isclose(norm(gradient.direction("minority", "l2_norm")), 1.0, rel_tol=1e-5)
    of_the_head = gradient.direction("all", "l2_norm", ["head.weight", "head.bias"])
    whole = gradient.direction("all", "guidance_size")
    assert set(of_the_head) == {"head.weight", "head.bias"} and math.isclose(norm(of_the_head), 1.0, rel_tol=1e-5)
    assert_same(of_the_head, {name: whole[name] / norm({name: whole[name] for name in of_the_head})
                              for name in of_the_head})
    assert math.isclose(float(dot(gradient.direction("all", "l2_norm"), gradient.direction("all", "guidance_size"))),
                        norm(gradient.direction("all", "guidance_size")), rel_tol=1e-5)
    assert all(math.isclose(found, norm(means[label]), rel_tol=1e-5) for label, found in enumerate(gradient.norms()))


@pytest.mark.parametrize("classes", ["rare", [2], {5: 1.0}, {0: 0.0}, [], {"died": 1.0}, {0: -1.0, 1: 3.0}])
def test_unknown_classes_are_refused(classes):
    gradient = compute_guidance_gradient(fitted_task("gru", 1), X, Y, 2, 200, ALONE)
    with pytest.raises(UserError, match=r"guidance\.classes"):
        gradient.direction(classes)


def test_the_cache_is_reused_only_for_the_same_classifier_and_rows(tmp_path):
    task = fitted_task("gru", 5)
    first = cached_guidance_gradient(tmp_path, task, X, Y, 2, 200, ALONE)
    computed = compute_guidance_gradient(task, X, Y, 2, 200, ALONE)
    assert (first.counts, first.num_train, first.key) == (computed.counts, 200, computed.key)
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    again = cached_guidance_gradient(tmp_path, task, X, Y, 2, 200, ALONE)
    assert path.stat().st_mtime_ns == written
    for label in (0, 1):
        for name, value in computed.sums[label].items():
            assert torch.equal(first.sums[label][name], value) and torch.equal(again.sums[label][name], value)
    for count, changed in enumerate(((fitted_task("gru", 6), X, Y, 2, 200), (task, X + 1, Y, 2, 200),
                                     (task, X, 1 - Y, 2, 200), (task, X, Y, 2, 201)), start=2):
        assert cached_guidance_gradient(tmp_path, *changed, ALONE).key != first.key
        assert len(list(tmp_path.iterdir())) == count
    os.chmod(tmp_path, 0o500)  # Where nothing may be written, what is kept is read, and the rest computed.
    try:
        assert cached_guidance_gradient(tmp_path, task, X, Y, 2, 200, ALONE).key == first.key
        assert cached_guidance_gradient(tmp_path, task, X, Y, 2, 202, ALONE).num_train == 202
    finally:
        os.chmod(tmp_path, 0o700)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="Delete it"):
        cached_guidance_gradient(tmp_path, task, X, Y, 2, 200, ALONE)
