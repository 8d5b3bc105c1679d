"""The TS2Vec encoder against plain loops, and the Frechet distance against scipy and closed forms."""

import numpy as np
import pytest
import scipy.linalg
import torch

from tardiff.data.normalize import Normalizer
from tardiff.data.simulator import simulate_cohort
from tardiff.evaluation.fidelity import matched_noise
from tardiff.evaluation.ts2vec import (
    TS2Vec,
    _batches,
    _SameConvolution,
    _two_crops,
    context_fid,
    encode,
    frechet_distance,
    hierarchical_loss,
    train_encoder,
)
from tardiff.utils.checkpoint import load_tensors, load_weights, save_tensors


@pytest.fixture(scope="module")
def stays():
    """Normalised simulated stays (N, 24, 7), train and test."""
    splits, _ = simulate_cohort(1000, seed=5, ratios=(0.4, 0.2, 0.4))
    normalizer = Normalizer.fit("zscore", splits["train"].x)
    return normalizer.transform(splits["train"].x), normalizer.transform(splits["test"].x)


@pytest.fixture(scope="module")
def encoder(stays):
    return train_encoder(stays[0], seed=0, iterations=20)


def loop_contrast(anchor, positive, others):
    """Minus the log share of the positive pair among all pairs of the anchor."""
    scores = [float(anchor @ positive)] + [float(anchor @ other) for other in others]
    return np.log(np.exp(np.array(scores) - max(scores)).sum()) + max(scores) - scores[0]


def loop_loss(first, second):
    """The hierarchical loss of TS2Vec (Yue et al. 2022, equations 1 to 3, both views as anchors), item by item."""
    losses = []
    while True:
        views, size, steps = (first, second), len(first), first.shape[1]
        instance, temporal = [], []
        for view in (0, 1):
            anchors, partners = views[view], views[1 - view]
            for i in range(size):
                for t in range(steps):
                    across = [view[j, t] for view in views for j in range(size) if j != i]
                    instance.append(loop_contrast(anchors[i, t], partners[i, t], across))
                    along = [view[i, s] for view in views for s in range(steps) if s != t]
                    temporal.append(loop_contrast(anchors[i, t], partners[i, t], along))
        losses.append(0.5 * np.mean(instance) + 0.5 * np.mean(temporal))
        if steps == 1:
            return np.mean(losses)
        first, second = (view[:, :steps // 2 * 2].reshape(size, steps // 2, 2, -1).max(axis=2) for view in views)


@pytest.mark.parametrize(("size", "steps"), [(1, 1), (3, 1), (1, 4), (3, 5), (4, 7)])
def test_the_loss_is_that_of_a_plain_loop(size, steps):
    first, second = np.random.default_rng(size).standard_normal((2, size, steps, 6))
    loss = hierarchical_loss(torch.from_numpy(first), torch.from_numpy(second))
    assert float(loss) == pytest.approx(loop_loss(first, second), rel=1e-10, abs=1e-12)


def test_the_encoder_has_the_published_size():
    """Linear(7 -> 64), ten blocks of two convolutions 64 -> 64 of width 3, a block to 320 with a shortcut of width
    1."""
    inner = 2 * (64 * 64 * 3 + 64)
    last = (64 * 320 * 3 + 320) + (320 * 320 * 3 + 320) + (64 * 320 + 320)
    encoder = TS2Vec(7)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 7 * 64 + 64 + 10 * inner + last
    assert [block.second.dilation[0] for block in encoder.blocks] == [2**level for level in range(11)]


@pytest.mark.parametrize("length", [1, 3, 4, 5, 9])
def test_taps_that_see_only_padding_are_skipped_without_effect(length):
    torch.manual_seed(0)
    quick = _SameConvolution(3, 5, 3, padding=4, dilation=4)
    plain = torch.nn.Conv1d(3, 5, 3, padding=4, dilation=4)
    plain.load_state_dict(quick.state_dict())
    x = torch.randn(2, 3, length)
    torch.testing.assert_close(quick(x), plain(x))


def test_half_of_the_steps_are_hidden_in_training_and_none_after():
    torch.manual_seed(0)
    encoder, seen = TS2Vec(2), []
    encoder.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(40, 50, 2)
    encoder(x)
    encoder.eval()(x)
    hidden = [(values == 0).all(dim=1).double().mean() for values in seen]
    assert abs(hidden[0] - 0.5) < 0.05 and hidden[1] == 0


def test_crops_share_the_steps_they_say_they_share():
    generator = np.random.default_rng(0)
    x = torch.arange(12.0).expand(5, 12)[..., None] + 100 * torch.arange(5.0)[:, None, None]
    lengths = set()
    for _ in range(300):
        first, second, shared = _two_crops(x, generator)
        torch.testing.assert_close(first[:, -shared:], second[:, :shared])
        for crop in (first, second):
            assert (crop[:, 1:] - crop[:, :-1] == 1).all() and (crop // 100 == torch.arange(5.0)[:, None, None]).all()
        lengths.add(shared)
    assert lengths == set(range(2, 13))
    assert _two_crops(x[:, :1], generator)[2] == 1


def test_batches_visit_every_row_once_an_epoch():
    batches = _batches(11, 4, np.random.default_rng(0))
    for _ in range(3):
        epoch = np.concatenate([next(batches), next(batches)])
        assert len(epoch) == len(set(epoch)) == 8


def test_weights_are_averaged_over_all_iterations():
    """a_k averages w_0 to w_k, so the averages give the iterates back; AdamW's first step is its rate, 0.001."""
    x = np.random.default_rng(0).standard_normal((8, 6, 2), dtype=np.float32)
    averages = [train_encoder(x, 0, iterations).state_dict()["entry.weight"] for iterations in range(2)]
    step = 2 * averages[1] - averages[0] - averages[0]
    decay = 1e-3 * 0.01 * averages[0]
    torch.testing.assert_close((step + decay).abs(), torch.full_like(step, 1e-3), rtol=0.01, atol=1e-6)


def test_training_lowers_the_loss_and_depends_on_seed_and_content_alone(stays, encoder):
    train, _ = stays
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = train_encoder(train[::-1], seed=0, iterations=20)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in encoder.state_dict().items())
    assert not torch.equal(train_encoder(train, 1, 1).entry.weight, train_encoder(train, 0, 1).entry.weight)
    generator = np.random.default_rng(0)
    x = torch.from_numpy(train[:64])
    first, second, shared = _two_crops(x, generator)
    losses = [float(hierarchical_loss(model(first)[:, -shared:], model(second)[:, :shared]).detach())
              for model in (train_encoder(train, 0, 0), encoder)]
    assert losses[1] < 0.9 * losses[0]


def test_encoding_does_not_depend_on_the_batch_and_survives_a_file(stays, encoder, tmp_path):
    _, test = stays
    codes = encode(encoder, test[:30])
    assert codes.shape == (30, 320) and codes.dtype == np.float32
    np.testing.assert_allclose(encode(encoder, test[:30], batch_size=7), codes, atol=1e-5)
    np.testing.assert_allclose(encode(encoder, test[:30][::-1])[::-1], codes, atol=1e-5)
    save_tensors(tmp_path / "encoder.safetensors", encoder.state_dict())
    loaded = TS2Vec(7).eval()
    load_weights(loaded, load_tensors(tmp_path / "encoder.safetensors")[0], "encoder")
    np.testing.assert_array_equal(encode(loaded, test[:30]), codes)


def with_moments(mean, covariance, rows, seed):
    """Rows whose sample mean and covariance are exactly as given."""
    x = np.random.default_rng(seed).standard_normal((rows, len(mean)))
    x -= x.mean(axis=0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T + mean


@pytest.mark.parametrize("seed", range(3))
def test_the_frechet_distance_is_that_of_scipy(seed):
    generator = np.random.default_rng(seed)
    first, second = generator.standard_normal((50, 6)), generator.standard_normal((70, 6)) @ generator.random((6, 6))
    covariances = [np.cov(x, rowvar=False) for x in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_the_frechet_distance_of_commuting_covariances_is_the_closed_form():
    """|m1 - m2|^2 + the sum of (s1 - s2)^2 over the shared axes, with standard deviations s."""
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    deviations = np.array([[1.0, 2.0, 0.5, 3.0], [2.0, 2.0, 0.1, 1.0]])
    means = np.array([[0.0, 0, 0, 0], [1.0, -2, 0, 0]])
    sets = [with_moments(mean, (axes * s**2) @ axes.T, 30, seed)
            for seed, (mean, s) in enumerate(zip(means, deviations, strict=True))]
    assert frechet_distance(*sets) == pytest.approx(5 + ((deviations[0] - deviations[1]) ** 2).sum(), rel=1e-9)


def test_singular_covariances_and_copies():
    generator = np.random.default_rng(0)
    flat = generator.standard_normal((40, 2)) @ generator.standard_normal((2, 10))
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(flat, flat + 3) == pytest.approx(90, rel=1e-6)
    assert frechet_distance(flat, np.zeros_like(flat)) == pytest.approx(
        (flat.mean(0) ** 2).sum() + flat.var(0, ddof=1).sum(), rel=1e-6)


def test_context_fid_ranks_real_before_noise_and_a_copy_is_0(stays, encoder):
    train, test = stays
    real, noise = context_fid(encoder, test, train, 0), context_fid(encoder, test, matched_noise(train, 0), 0)
    assert real["rows"] == noise["rows"] == min(len(train), len(test))
    assert 0 < 10 * real["fid"] < noise["fid"]
    copy = context_fid(encoder, test, test.copy()[::-1], 0, max_rows=200)
    assert copy["fid"] == pytest.approx(0, abs=1e-3 * noise["fid"]) and copy["rows"] == 200


def test_a_single_row_has_no_context_fid(stays, encoder):
    assert np.isnan(context_fid(encoder, stays[1][:1], stays[0], 0)["fid"])
    assert np.isfinite(context_fid(encoder, stays[1][:2], stays[0], 0)["fid"])


def test_context_fid_does_not_depend_on_the_order_of_rows(stays, encoder):
    train, test = stays
    order = np.random.default_rng(0).permutation(len(train))
    expected = context_fid(encoder, test, train, 3, max_rows=100)["fid"]
    assert context_fid(encoder, test[::-1], train[order], 3, max_rows=100)["fid"] == expected
    assert context_fid(encoder, test, train, 4, max_rows=100)["fid"] != expected
