"""The simple rules: what each leaves as it was, and what it changes."""

import pytest
import torch

from tardiff.baselines.rules import RULES, Config, build

LABELS = torch.tensor([0, 1] * 40)
SAMPLES = torch.arange(80)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([0] * 30 + [1] * 10)
    return torch.randn(40, 12, 3, generator=generator) + 5 * y[:, None, None], y


def sampled(data, labels=LABELS, samples=SAMPLES, seed=0, **settings):
    rule = build(Config(**settings), 12, 3, 2)
    rule.observe(*data)
    return rule.sample(labels, samples, seed)


def nearest(series, x):
    distance = torch.cdist(series.flatten(1), x.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    return distance.min(dim=1)


@pytest.mark.parametrize("rule", RULES)
def test_a_series_depends_on_its_number_seed_and_label_alone(data, rule):
    whole = sampled(data, rule=rule)
    assert whole.shape == (80, 12, 3) and torch.isfinite(whole).all()
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sampled(data, LABELS[order], SAMPLES[order], rule=rule), whole[order])
    torch.testing.assert_close(sampled(data, LABELS[7:8], SAMPLES[7:8], rule=rule), whole[7:8])
    assert not torch.equal(sampled(data, seed=1, rule=rule), whole)


@pytest.mark.parametrize("rule", RULES)
def test_classes_do_not_mix(data, rule):
    x, y = data
    assert torch.equal(y[nearest(sampled(data, rule=rule), x).indices], LABELS)


def test_oversampling_repeats_rows_about_equally_often(data):
    x, _ = data
    series = sampled(data, torch.zeros(3000, dtype=torch.int64), torch.arange(3000), rule="oversample")
    distance, row = nearest(series, x)
    assert distance.max() == 0
    counts = torch.bincount(row, minlength=40)
    assert (counts[:30] > 60).all() and (counts[:30] < 150).all() and (counts[30:] == 0).all()


@pytest.mark.parametrize("rule", ["jitter", "scaling", "time_warp"])
def test_strength_zero_repeats_rows(data, rule):
    series = sampled(data, rule=rule, strength=0.0)
    assert nearest(series, data[0]).values.max() < 1e-5


def test_jitter_adds_noise_of_the_given_strength(data):
    plain, noisy = sampled(data, rule="oversample"), sampled(data, rule="jitter", strength=0.3)
    assert (noisy - plain).std() == pytest.approx(0.3, rel=0.05)


def test_scaling_multiplies_each_channel_by_one_factor(data):
    factor = sampled(data, rule="scaling", strength=0.2) / sampled(data, rule="oversample")
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), rtol=1e-3, atol=1e-4)
    assert factor[:, 0].std() == pytest.approx(0.2, rel=0.2)


def test_time_warp_keeps_the_ends_and_the_order_of_time(data):
    ramp = torch.arange(12.0)[None, :, None].expand(40, 12, 3).contiguous()
    warped = sampled((ramp, data[1]), rule="time_warp", strength=0.5)
    torch.testing.assert_close(warped[:, [0, -1]], ramp[:1, [0, -1]].expand(80, 2, 3))
    assert (warped.diff(dim=1) > 0).all() and (warped - ramp[0]).abs().max() > 0.5


def test_smote_lies_between_a_row_and_one_of_its_nearest_neighbours(data):
    x, y = data
    plain, series = sampled(data, rule="oversample"), sampled(data, rule="smote", neighbours=3)
    for label, row, new in zip(LABELS, plain, series, strict=True):
        rows = x[y == label]
        distance = (rows - row).flatten(1).norm(dim=1)
        allowed = rows[distance.argsort()[1:4]]
        step = (new - row).flatten()
        shares = [(step @ (other - row).flatten() / (other - row).pow(2).sum()).item() for other in allowed]
        errors = [(step - share * (other - row).flatten()).norm() for share, other in zip(shares, allowed, strict=True)]
        best = int(torch.stack(errors).argmin())
        assert errors[best] < 1e-3 and -1e-4 <= shares[best] <= 1.0001


def test_smote_of_a_single_row_repeats_it():
    x, y = torch.randn(3, 12, 3), torch.tensor([0, 0, 1])
    torch.testing.assert_close(sampled((x, y), torch.ones(4, dtype=torch.int64), torch.arange(4), rule="smote"),
                               x[2:].expand(4, 12, 3))
