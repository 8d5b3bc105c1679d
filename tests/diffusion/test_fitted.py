"""What a denoiser diffuses: values and, where the data have gaps, the mask beside them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tardiff.config import BaseConfig, DiffusionConfig
from tardiff.data.format import Dataset, Metadata, Split
from tardiff.data.imputation import RULES, Imputation
from tardiff.data.normalize import Normalizer
from tardiff.diffusion.fitted import FittedDenoiser, models_mask
from tardiff.diffusion.process import DiffusionProcess

META = Metadata("toy", ["HR", "Temp"], ["bpm", "C"], ["alive", "dead"], imputation=Imputation("forward", [80.0, 37.0]))


def gappy_split(rows=20):
    generator = np.random.default_rng(0)
    mask = generator.random((rows, 6, 2)) < 0.5
    mask[0, :, 1] = mask[1, :, 0] = False
    x = np.where(mask, generator.normal((80, 37), (10, 1), mask.shape), np.nan).astype(np.float32)
    return Split(META.imputation.fill(x), np.arange(rows) % 2, mask=mask)


def fitted(split, mask):
    process, normalizer = DiffusionProcess(DiffusionConfig()), Normalizer.fit("zscore", split.x)
    return FittedDenoiser(nn.Linear(1, 1), process, normalizer, (6, 2), META, mask=mask)


@pytest.mark.parametrize("kind", ["zscore", "normal_ecdf"])
def test_encoded_rows_are_decoded_and_filled_to_what_they_were(kind):
    split = gappy_split()
    denoiser = replace(fitted(split, True), normalizer=Normalizer.fit(kind, split.x))
    signals = denoiser.encode(split, 0)
    assert signals.shape == (20, *denoiser.signals) == (20, 6, 4) and signals.dtype == torch.float32
    x = denoiser.decode(signals)
    assert np.array_equal(np.isnan(x), ~split.mask)
    np.testing.assert_allclose(META.filled(x), split.x, rtol=1e-5)


def drawn_signals(denoiser, rows=12):
    """Signals whose bits are not yet -1 or 1, of series with gaps of all kinds; the first two are all gaps and none."""
    signals = denoiser.encode(gappy_split(rows), 0)
    signals[0, :, 2:], signals[1, :, 2:] = -1, 1
    torch.manual_seed(0)
    signals[..., 2:] *= 1.2 * torch.rand(rows, 6, 2)
    return signals


EXACT = [(rule, kind) for rule in RULES for kind in ("zscore", "minmax", "ecdf", "normal_ecdf")
         if (rule, kind) not in (("linear", "ecdf"), ("linear", "normal_ecdf"))]


@pytest.mark.parametrize(("rule", "kind"), EXACT)
def test_what_is_read_is_what_the_finished_series_are(rule, kind):
    split, meta = gappy_split(), replace(META, imputation=replace(META.imputation, rule=rule))
    observed = np.where(split.mask, split.x, np.nan)
    denoiser = replace(fitted(split, True), meta=meta, normalizer=Normalizer.fit(kind, observed))
    signals = drawn_signals(denoiser)
    x = denoiser.decode(signals)
    finished = denoiser.normalizer.inputs(meta.filled(x), ~np.isnan(x))
    read = denoiser.read(signals, with_mask=True)
    np.testing.assert_allclose(denoiser.read(signals, with_mask=False), finished[..., :2], atol=2e-5)
    assert torch.equal(read[..., :2], denoiser.read(signals, with_mask=False))
    assert np.array_equal(read[..., 2:] > 0.5, finished[..., 2:]) and 0 <= read[..., 2:].min() < read.max()
    signals[..., 2:] = signals[..., 2:].sign()
    assert np.array_equal(denoiser.read(signals, with_mask=True)[..., 2:], finished[..., 2:])


@pytest.mark.parametrize("rule", RULES)
def test_gradients_reach_the_values_that_gaps_take_and_the_bits(rule):
    """Against the matrix of the fill, column by column of `Imputation.fill`."""
    denoiser = replace(fitted(gappy_split(), True), meta=replace(META, imputation=Imputation(rule, [0.0, 0.0])))
    signals = drawn_signals(denoiser).requires_grad_()
    torch.manual_seed(1)
    slope = torch.randn(signals.shape)
    (gradient,) = torch.autograd.grad(denoiser.read(signals, with_mask=True), signals, slope)
    observed = (signals[..., 2:] > 0).numpy()
    expected = np.zeros(observed.shape)
    for step in range(6):
        unit = np.where(observed, (np.arange(6) == step)[:, None], np.nan)
        expected[:, step] = (denoiser.meta.filled(unit) * slope[..., :2].numpy()).sum(axis=1) * observed[:, step]
    np.testing.assert_allclose(gradient[..., :2], expected, atol=1e-5)
    within = signals[..., 2:].abs() <= 1
    assert torch.equal(gradient[..., 2:], slope[..., 2:] / 2 * within) and 0 < within.float().mean() < 1


def test_without_the_mask_signals_are_the_values_and_what_is_read():
    split = gappy_split()
    denoiser = fitted(split, False)
    signals = denoiser.encode(split, 0)
    assert denoiser.signals == (6, 2) and denoiser.read(signals, with_mask=False) is signals
    np.testing.assert_array_equal(signals.numpy(), denoiser.normalizer.transform(split.x))
    np.testing.assert_allclose(denoiser.decode(signals), split.x, rtol=1e-5)


def test_bounds_are_those_of_the_encoded_training_rows():
    for mask in (True, False):
        split = gappy_split()
        denoiser = fitted(split, mask)
        signals = denoiser.encode(split, 0)
        low, high = denoiser.bounds
        torch.testing.assert_close(low, signals.amin((0, 1)))
        torch.testing.assert_close(high, signals.amax((0, 1)))


def test_rows_without_a_mask_are_all_observed():
    split = gappy_split()
    assert (fitted(split, True).encode(replace(split, mask=None), 0)[..., 2:] == 1).all()


def test_gaps_are_straight_lines_and_medians_where_nobody_observed_a_channel():
    x, mask = np.zeros((2, 6, 2), dtype=np.float32), np.zeros((2, 6, 2), dtype=bool)
    x[0, :, 0], mask[0, [0, 1, 4, 5], 0] = [60, 60, 0, 0, 90, 90], True
    x = META.imputation.fill(np.where(mask, x, np.float32(np.nan)))
    split = Split(x, np.arange(2), mask=mask)
    denoiser = replace(fitted(gappy_split(), True), meta=META)
    signals = denoiser.encode(split, 0)
    values = denoiser.normalizer.inverse(signals[..., :2].numpy())
    np.testing.assert_allclose(values[0, :, 0], [60, 60, 70, 80, 90, 90], rtol=1e-5)
    np.testing.assert_allclose(values[1, :, 0], values[0, :, 0])
    np.testing.assert_allclose(values[:, :, 1], np.full((2, 6), 37), rtol=1e-5)
    assert signals[0, :, 2].tolist() == [1, 1, -1, -1, 1, 1]


def test_the_mask_is_learned_where_there_are_gaps_and_the_rule_is_known():
    split = gappy_split()

    def asked(split=split, meta=META, **settings):
        return models_mask(BaseConfig(**settings), Dataset(None, meta, {"train": split}))

    assert asked()
    assert not asked(mask=False)
    assert not asked(meta=replace(META, imputation=None))
    assert not asked(replace(split, mask=None))
    assert not asked(replace(split, mask=np.ones_like(split.mask)))
