"""How much of G is signal, against closed forms for Gaussian gradients, and its cache."""

import numpy as np
import pytest
import torch
from fitted_tasks import fitted_task, loop_mean, series

from tardiff.data.format import Split
from tardiff.influence.signal import cached_guidance_signal, guidance_signal
from tardiff.influence.task import DownstreamTask

CPU = torch.device("cpu")
WIDTH = 400


def linear_task():
    """A task whose loss gradient of a row is the row itself: loss(x; phi) = phi . x."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(WIDTH, 1, bias=False))
    return DownstreamTask(model, lambda logits, y: logits[:, 0])


def gaussian(rows, length, seed, patients=None):
    """Rows N(mu, I) of dimension 400 with a mean of that length; a fifth are of class 1, which does not matter."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 1, WIDTH, generator=generator) + length / WIDTH**0.5
    subjects = np.arange(rows) % (patients or rows)
    return Split(x.numpy(), (np.arange(rows) % 5 == 0).astype(np.int64), subjects)


def agreement(length, seed, rows=160, classes="all"):
    signal = guidance_signal(linear_task(), gaussian(rows, length, seed), gaussian(2 * rows, 0, seed + 1000), 2, CPU)
    return signal.agreement(classes)


@pytest.mark.parametrize("length", [0.5, 1.5, 3.0, 6.0])
def test_the_cosine_of_two_halves_is_that_of_the_closed_form(length):
    """Means of n/2 = 80 rows are N(mu, I / 80): their cosine is |mu|^2 / (|mu|^2 + 400 / 80), up to 1 / sqrt 400. The
    training rows have no mean, so that nothing agrees with them."""
    found = [agreement(length, seed) for seed in range(8)]
    expected = length**2 / (length**2 + WIDTH / 80)
    assert np.mean([one.halves for one in found]) == pytest.approx(expected, abs=0.03)
    assert np.mean([one.training for one in found]) == pytest.approx(0, abs=0.03)
    if length >= 1.5:
        assert not any(one.is_chance for one in found)


def test_chance_is_told_from_signal_as_often_as_it_says():
    """Without a mean, 2.5 % pass; the range lies around 0."""
    found = [agreement(0.0, seed) for seed in range(60)]
    assert sum(one.is_chance for one in found) >= 54
    assert all(one.chance_low < 0 < one.chance_high < 0.3 for one in found)


def test_patients_are_never_in_both_halves():
    """Twenty patients with a gradient of their own, eight rows each: halves of rows would agree, of patients do not."""
    rows = gaussian(160, 0.0, 0, patients=20)
    own = torch.randn(20, 1, WIDTH, generator=torch.Generator().manual_seed(1))
    rows = Split(rows.x + 2 * own.numpy()[rows.subject], np.arange(160) // 20 % 2, rows.subject)
    assert guidance_signal(linear_task(), rows, gaussian(320, 0, 2), 2, CPU).agreement("all").is_chance


def test_class_weights_and_parameters_choose_what_is_compared():
    """Opposite means of two classes cancel under equal weights, and are signal in either class alone."""
    rows = gaussian(320, 0.0, 3)
    y = np.arange(320) % 2
    rows = Split(rows.x + np.float32(0.2) * (2 * y - 1).astype(np.float32)[:, None, None], y, rows.subject)
    signal = guidance_signal(linear_task(), rows, rows, 2, CPU)
    assert signal.agreement("balanced").is_chance and not signal.agreement([1]).is_chance
    assert not signal.agreement({0: 1.0}).is_chance
    assert signal.agreement([1]).training > 0.5


def test_inner_products_are_those_of_a_loop():
    task, exact = fitted_task("gru", 20), fitted_task("gru", 20, double=True)
    x, y = series(60, seed=1)
    guidance, training = (Split(*(part.numpy() for part in rows)) for rows in ((x, y), series(70, seed=2)))
    signal = guidance_signal(task, guidance, training, 2, CPU)
    assert signal.counts.sum(axis=(1, 2)).tolist() == [60, 60]
    mean = loop_mean(exact, x, y)
    for name, products in signal.products.items():
        weights = signal.counts[0] / 60
        found = np.einsum("akbl,ak,bl->", products[0][:, :, 0], weights, weights)
        assert found == pytest.approx(float(mean[name].pow(2).sum()), rel=1e-4, abs=1e-12)


def test_too_few_patients_say_nothing_and_the_cache_keeps_the_rest(tmp_path):
    task = linear_task()
    few, many = gaussian(40, 1.0, 0, patients=7), gaussian(100, 1.0, 1)
    assert cached_guidance_signal(tmp_path, task, few, many, 2, CPU) is None
    first = cached_guidance_signal(tmp_path, task, many, many, 2, CPU)
    kept = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir())
    assert cached_guidance_signal(tmp_path, task, few, many, 2, CPU) is None
    assert cached_guidance_signal(tmp_path, task, many, many, 2, CPU).agreement("all") == first.agreement("all")
    assert sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.iterdir()) == kept and len(kept) == 2
