"""TimeGAN: sizes, its networks against loops over time, the three stages, what each descends and moves, and what it
learns."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from baseline_checks import sinusoids, trained
from by_hand import num_parameters

from tardiff.baselines import timegan
from tardiff.baselines.interface import Stage
from tardiff.baselines.timegan import Config, RecurrentMap, TimeGAN, build, moment_loss
from tardiff.utils.errors import UserError

TINY = {"hidden_size": 6, "num_layers": 2, "batch_size": 8, "embedding_steps": 2, "supervised_steps": 2,
        "joint_steps": 2}
NETWORKS = {"embedder", "recovery", "generator", "supervisor", "discriminator"}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TimeGAN(Config(**TINY), 10, 3)


@pytest.fixture
def perturbed(model):
    """The model in float64, with weights so far from zero that each of them tells."""
    for weight in model.double().parameters():
        torch.nn.init.normal_(weight, std=0.7)
    return model


def plain_network(weights, name, x):
    """Do to x (B, L, inputs) what network `name`, of two GRU layers or, as supervisor, of one, does as published."""
    for layer in range(1 if name == "supervisor" else 2):
        kernel, recurrent_kernel, bias, recurrent_bias = (
            weights[f"{name}.recurrent.{part}_l{layer}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        state, states = x.new_zeros(len(x), 6), []
        for step in range(x.shape[1]):
            from_input = (x[:, step] @ kernel.T + bias).split(6, dim=1)
            from_state = (state @ recurrent_kernel.T + recurrent_bias).split(6, dim=1)
            reset, update = ((from_input[gate] + from_state[gate]).sigmoid() for gate in (0, 1))
            candidate = (from_input[2] + reset * from_state[2]).tanh()
            state = update * state + (1 - update) * candidate
            states.append(state)
        x = torch.stack(states, dim=1)
    logits = x @ weights[f"{name}.head.weight"].T + weights[f"{name}.head.bias"]
    return logits if name == "discriminator" else logits.sigmoid()


def published_losses(weights, x, z):
    """Return the losses of series and noise, both (B, L, C), by the names under which training reports them; that of
    the autoencoder in the game is not reported."""
    apply = partial(plain_network, weights)
    h, e = apply("embedder", x), apply("generator", z)
    h_hat, h_supervised = apply("supervisor", e), apply("supervisor", h)
    real, fake, fake_latent = (apply("discriminator", latent) for latent in (h, h_hat, e))
    reconstruction = (apply("recovery", h) - x).pow(2).mean()
    supervised = torch.stack([(h[:, t + 1] - h_supervised[:, t]).pow(2).mean() for t in range(9)]).mean()
    adversarial = -F.logsigmoid(fake).mean() - F.logsigmoid(fake_latent).mean()
    discrimination = -F.logsigmoid(real).mean() - F.logsigmoid(-fake).mean() - F.logsigmoid(-fake_latent).mean()
    moments = moment_loss(apply("recovery", h_hat), x)
    return {"reconstruction_loss": reconstruction, "embedding_loss": 10 * reconstruction.sqrt(),
            "supervised_loss": supervised, "adversarial_loss": adversarial, "moment_loss": moments,
            "generator_loss": adversarial + 100 * supervised.sqrt() + 100 * moments,
            "joint_embedding_loss": 10 * reconstruction.sqrt() + 0.1 * supervised,
            "discriminator_loss": discrimination}


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
    assert [num_parameters(one) for one in model.models] == [expected, expected]


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


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_network_against_a_loop_over_time(perturbed, name):
    network = perturbed.get_submodule(name)
    x = torch.randn(4, 10, network.recurrent.input_size, dtype=torch.float64)
    torch.testing.assert_close(network(x), plain_network(dict(perturbed.named_parameters()), name, x))


@pytest.mark.parametrize(("stage", "descents"), [
    ("embedding", [("embedding", "embedding_loss", 0)]), ("supervised", [("supervised", "supervised_loss", 0)]),
    # Generator and autoencoder share a batch, twice; the discriminator has its own.
    ("joint", [("joint_generation", "generator_loss", 0), ("joint_embedding", "joint_embedding_loss", 0),
               ("joint_generation", "generator_loss", 1), ("joint_embedding", "joint_embedding_loss", 1),
               ("discriminator", "discriminator_loss", 2)])])
def test_every_descent_follows_the_gradient_of_its_published_loss(perturbed, monkeypatch, stage, descents):
    weights = dict(perturbed.named_parameters())
    names, descended = {weight: name for name, weight in weights.items()}, []
    for known, optimizer in perturbed.optimizers.items():
        # The weights stand still, so that all gradients are those at the same point.
        monkeypatch.setattr(optimizer, "step", lambda known=known, group=optimizer.param_groups[0]: descended.append(
            (known, {names[weight]: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
                     for weight in group["params"]})))
    x = torch.rand(3, 8, 10, 3, dtype=torch.float64)
    batches = iter(x)
    torch.manual_seed(1)
    reported = perturbed.train_step(Stage(stage, 1, 8), 0, lambda: (next(batches), None))
    torch.manual_seed(1)
    losses = [published_losses(weights, batch, torch.rand_like(batch)) for batch in x]
    assert [known for known, _ in descended] == [known for known, *_ in descents]
    for (_, gradients), (_, loss, batch) in zip(descended, descents, strict=True):
        expected = torch.autograd.grad(losses[batch][loss], [weights[name] for name in gradients], retain_graph=True,
                                       materialize_grads=True)
        torch.testing.assert_close(gradients, dict(zip(gradients, expected, strict=True)))
    expected = losses[1] | {"discriminator_loss": losses[2]["discriminator_loss"]} if stage == "joint" else losses[0]
    torch.testing.assert_close(reported, {name: expected[name] for name in reported})


@pytest.mark.parametrize(("loss", "rests"), [(0.16, False), (0.14, True)])
def test_the_discriminator_rests_where_its_loss_is_not_above_the_published_threshold(model, monkeypatch, loss, rests):
    bias = model.discriminator.head.bias
    monkeypatch.setattr(model, "discriminator_loss", lambda x, z: loss + (bias - bias.detach()).sum())
    assert moved(model, "joint") == (NETWORKS - {"discriminator"} if rests else NETWORKS)


def test_each_stage_moves_its_own_networks_and_five_optimisers_keep_their_own_moments(model):
    names = {id(weight): name.split(".")[0] for name, weight in model.named_parameters()}
    trained = {name: {names[id(weight)] for weight in optimizer.param_groups[0]["params"]}
               for name, optimizer in model.optimizers.items()}
    assert trained == {"embedding": {"embedder", "recovery"}, "joint_embedding": {"embedder", "recovery"},
                       "supervised": {"generator", "supervisor"}, "joint_generation": {"generator", "supervisor"},
                       "discriminator": {"discriminator"}}
    assert moved(model, "embedding") == {"embedder", "recovery"}
    # The supervised loss does not depend on the generator, which its optimiser holds all the same.
    assert moved(model, "supervised") == {"supervisor"}
    assert moved(model, "joint") == NETWORKS
    steps = {name: {int(state["step"]) for state in optimizer.state.values()}
             for name, optimizer in model.optimizers.items()}
    assert steps == {"embedding": {1}, "supervised": {1}, "joint_embedding": {2}, "joint_generation": {2},
                     "discriminator": {1}}


def test_moment_loss_against_numpy():
    x_hat, x = np.random.default_rng(0).uniform(size=(2, 9, 5, 3))
    expected = sum(abs(np.sqrt(x_hat[:, t, c].var() + 1e-6) - np.sqrt(x[:, t, c].var() + 1e-6))
                   + abs(x_hat[:, t, c].mean() - x[:, t, c].mean()) for t in range(5) for c in range(3)) / 15
    assert moment_loss(torch.tensor(x_hat), torch.tensor(x)).item() == pytest.approx(expected, rel=1e-12)


def test_samples_keep_to_the_range_of_the_training_rows(tmp_path):
    x, y = sinusoids(12)
    series = trained(tmp_path, timegan, x, y, **TINY).sample(y, seed=0)
    assert (series >= x.min(axis=(0, 1)) - 1e-4).all() and (series <= x.max(axis=(0, 1)) + 1e-4).all()


@torch.no_grad()
def test_samples_are_recovered_from_what_the_supervisor_makes_of_uniform_noise(model):
    inputs = []
    model.generator.register_forward_pre_hook(lambda _, arguments: inputs.extend(arguments))
    series = model.sample(torch.zeros(500, dtype=torch.int64), torch.arange(500), 0)
    z, weights = inputs[0], dict(model.named_parameters())
    assert z.shape == (500, 10, 3) and z.min() >= 0 and z.max() <= 1
    assert (torch.histc(z, 10, 0, 1) / z.numel() - 0.1).abs().max() < 0.01
    for name in ("generator", "supervisor", "recovery"):
        z = plain_network(weights, name, z)
    torch.testing.assert_close(series, z)


def test_a_single_time_step_is_refused():
    with pytest.raises(UserError, match="at least 2"):
        build(Config(), 1, 7, 2)
