"""TimeGAN: sizes, the three stages and what each moves, its losses against numpy, and what it learns."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from baseline_checks import assert_resumes_exactly, assert_rows_stand_alone, sinusoids, study, trained

from tardiff.baselines import timegan
from tardiff.baselines.timegan import Config, RecurrentMap, TimeGAN, build, moment_loss
from tardiff.utils.errors import UserError

TINY = {"hidden_size": 6, "num_layers": 2, "batch_size": 8, "embedding_steps": 2, "supervised_steps": 2, "joint_steps": 2}
NETWORKS = {"embedder", "recovery", "generator", "supervisor", "discriminator"}


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TimeGAN(Config(**TINY), 10, 3)


def draw():
    x = torch.rand(8, 10, 3)
    return x, torch.zeros(8, dtype=torch.int64)


def moved(model, stage):
    """Do one step of a stage and return the networks whose weights it changed."""
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    model.train_step(next(known for known in model.stages() if known.name == stage), 0, draw)
    return {name.split(".")[0] for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}


@pytest.mark.parametrize(("length", "num_channels", "hidden_size", "expected"),
                         [(24, 7, 24, 49_952), (24, 7, 28, 67_348), (256, 16, 64, 344_593)])
def test_sizes_are_the_published_ones(length, num_channels, hidden_size, expected):
    model = build(Config(hidden_size=hidden_size), length, num_channels, 2)
    assert [parameters(one) for one in model.models] == [expected, expected]


def test_a_third_of_the_weights_sample():
    model = build(Config(), 24, 7, 1).models[0]
    assert sum(parameters(part) for part in (model.generator, model.supervisor, model.recovery)) == 28_951


def test_gates_start_with_a_bias_of_one_and_kernels_within_the_bounds_of_the_joint_kernel():
    network = RecurrentMap(3, 40, 5, 2, torch.nn.Sigmoid())
    gru = network.recurrent
    for layer, inputs in ((0, 3), (1, 40)):
        bias = getattr(gru, f"bias_ih_l{layer}") + getattr(gru, f"bias_hh_l{layer}")
        assert torch.equal(bias, torch.tensor([1.0] * 80 + [0.0] * 40))
        for kernel in (getattr(gru, f"weight_ih_l{layer}"), getattr(gru, f"weight_hh_l{layer}")):
            for part, outputs in ((kernel[:80], 80), (kernel[80:], 40)):
                # Glorot uniform over the published kernel, (inputs + state) x outputs.
                assert part.abs().max() <= (6 / (inputs + 40 + outputs)) ** 0.5
                assert part.std().item() == pytest.approx((2 / (inputs + 40 + outputs)) ** 0.5, rel=0.15)
    assert not network.head.bias.any()


def test_each_stage_moves_its_own_networks(model):
    assert moved(model, "embedding") == {"embedder", "recovery"}
    assert moved(model, "supervised") == {"supervisor"}
    model.discriminator.head.weight.data.zero_()
    assert moved(model, "joint") == NETWORKS


@pytest.mark.parametrize(("threshold", "rests"), [(0.15, False), (20.0, True)])
def test_the_discriminator_rests_where_its_loss_is_not_above_the_threshold(model, monkeypatch, threshold, rests):
    monkeypatch.setattr(timegan, "DISCRIMINATOR_THRESHOLD", threshold)
    assert moved(model, "joint") == (NETWORKS - {"discriminator"} if rests else NETWORKS)


def test_the_threshold_is_the_published_one():
    assert timegan.DISCRIMINATOR_THRESHOLD == 0.15


def test_five_optimisers_keep_their_own_moments(model):
    names = {id(weight): name.split(".")[0] for name, weight in model.named_parameters()}
    trained = {name: {names[id(weight)] for weight in optimizer.param_groups[0]["params"]}
               for name, optimizer in model.optimizers.items()}
    assert trained == {"embedding": {"embedder", "recovery"}, "joint_embedding": {"embedder", "recovery"},
                       "supervised": {"generator", "supervisor"}, "joint_generation": {"generator", "supervisor"},
                       "discriminator": {"discriminator"}}
    for stage in ("embedding", "supervised", "joint"):
        moved(model, stage)
    steps = {name: {int(state["step"]) for state in optimizer.state.values()} for name, optimizer in model.optimizers.items()}
    assert steps == {"embedding": {1}, "supervised": {1}, "joint_embedding": {2}, "joint_generation": {2},
                     "discriminator": {1}}
    # The supervised loss does not depend on the generator, which this optimiser holds all the same.
    assert {names[id(weight)] for weight in model.optimizers["supervised"].state} == {"supervisor"}


def test_moment_loss_against_numpy():
    x_hat, x = np.random.default_rng(0).uniform(size=(2, 9, 5, 3))
    expected = sum(abs(np.sqrt(x_hat[:, t, c].var() + 1e-6) - np.sqrt(x[:, t, c].var() + 1e-6))
                   + abs(x_hat[:, t, c].mean() - x[:, t, c].mean()) for t in range(5) for c in range(3)) / 15
    assert moment_loss(torch.tensor(x_hat), torch.tensor(x)).item() == pytest.approx(expected, rel=1e-12)


@torch.no_grad()
def test_losses_against_a_loop_over_networks(model):
    x, z = torch.rand(2, 8, 10, 3)
    h, e = model.embedder(x), model.generator(z)
    h_hat, h_supervised = model.supervisor(e), model.supervisor(h)
    foretelling = torch.stack([(h[:, t + 1] - h_supervised[:, t]).pow(2).mean() for t in range(9)]).mean()
    real, fake, fake_latent = (model.discriminator(latent) for latent in (h, h_hat, e))
    losses = model.generator_losses(x, z)
    torch.testing.assert_close(losses["adversarial_loss"], -F.logsigmoid(fake).mean() - F.logsigmoid(fake_latent).mean())
    torch.testing.assert_close(losses["supervised_loss"], foretelling)
    torch.testing.assert_close(losses["moment_loss"], moment_loss(model.recovery(h_hat), x))
    torch.testing.assert_close(losses["generator_loss"], losses["adversarial_loss"] + 100 * foretelling.sqrt()
                               + 100 * losses["moment_loss"])
    torch.testing.assert_close(model.discriminator_loss(x, z), -F.logsigmoid(real).mean() - F.logsigmoid(-fake).mean()
                               - F.logsigmoid(-fake_latent).mean())
    reconstruction, supervised = model.embedding_losses(x)
    torch.testing.assert_close(reconstruction, (model.recovery(h) - x).pow(2).mean())
    torch.testing.assert_close(supervised, foretelling)


@pytest.mark.parametrize(("length", "num_channels", "num_classes"), [(24, 2, 2), (25, 1, 3), (30, 4, 2)])
def test_series_stand_alone_in_any_shape(tmp_path, length, num_channels, num_classes):
    x, y = sinusoids(30, length, num_channels, num_classes)
    rival = trained(tmp_path, timegan, x, y, **TINY)
    assert_rows_stand_alone(rival, (length, num_channels), num_classes)
    series = rival.sample(y, seed=0)
    assert (series >= x.min(axis=(0, 1)) - 1e-4).all() and (series <= x.max(axis=(0, 1)) + 1e-4).all()


def test_noise_is_uniform(model, monkeypatch):
    seen = []
    monkeypatch.setattr(model.generator, "forward", lambda z: seen.append(z) or torch.zeros(*z.shape[:2], 6))
    model.sample(torch.zeros(500, dtype=torch.int64), torch.arange(500), 0)
    z = seen[0]
    assert z.shape == (500, 10, 3) and 0 <= z.min() and z.max() <= 1
    assert (torch.histc(z, 10, 0, 1) / z.numel() - 0.1).abs().max() < 0.01


def test_a_killed_training_ends_with_the_same_weights(tmp_path):
    assert_resumes_exactly(tmp_path, timegan, *sinusoids(20, length=6), [1, 7, 13], **{**TINY, "joint_steps": 4})


def test_a_single_time_step_is_refused():
    with pytest.raises(UserError, match="at least 2"):
        build(Config(), 1, 7, 2)


@pytest.mark.slow
def test_a_classifier_learns_from_samples_as_from_real_series(tmp_path):
    result = study(tmp_path, timegan, batch_size=64, embedding_steps=400, supervised_steps=200, joint_steps=200,
                   learning_rate=3e-3)
    assert result.real_accuracy > 0.9
    assert result.synthetic_accuracy >= 0.95 * result.real_accuracy
    assert result.synthetic_fid < result.noise_fid / 2
