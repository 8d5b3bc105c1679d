"""BioDiffusion: its U-Net written out plainly, the loss it descends, its guided samples against a loop, its padding."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from baseline_checks import killed_after, sinusoids, trained
from by_hand import num_parameters

from tardiff.baselines import biodiffusion
from tardiff.baselines.biodiffusion import ClassUNet, Config, build
from tardiff.baselines.interface import Stage
from tardiff.sampling.noise import NoiseStream
from tardiff.utils.errors import UserError
from tardiff.utils.seeding import derive_seed

TINY = {"base_channels": 8, "channel_multipliers": [1, 2], "num_train_timesteps": 6, "batch_size": 4}


def plain_unet(weights, x_t, t, labels):
    """Return the noise that the published U-Net of three levels on 8 channels predicts, in float64, for a length that 4
    divides."""
    weights = {name: weight.double() for name, weight in weights.items()}

    def dense(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def convolution(name, x, stride=1):
        kernel = weights[f"{name}.weight"]
        return F.conv1d(x, kernel, weights.get(f"{name}.bias"), stride, (kernel.shape[2] - 1) // 2)

    def standardised(name, x):
        kernel = weights[f"{name}.0.weight"]
        variance, mean = torch.var_mean(kernel, dim=(1, 2), correction=0, keepdim=True)
        x = F.conv1d(x, (kernel - mean) / (variance + 1e-5).sqrt(), weights[f"{name}.0.bias"], padding=1)
        return F.group_norm(x, 8, weights[f"{name}.1.weight"], weights[f"{name}.1.bias"])

    def block(name, x):
        scale, shift = dense(f"{name}.scale_shift.1", F.silu(embedding))[:, :, None].chunk(2, dim=1)
        hidden = F.silu(standardised(f"{name}.first", x) * (1 + scale) + shift)
        hidden = F.silu(standardised(f"{name}.second", hidden))
        return hidden + (convolution(f"{name}.shortcut", x) if f"{name}.shortcut.weight" in weights else x)

    def norm(name, x):
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * weights[f"{name}.weight"][:, None]

    def attention(name, x, linear):
        projected = convolution(f"{name}.heads.project", norm(f"{name}.heads.norm", x))
        query, key, value = projected.unflatten(1, (3, 4, 32)).unbind(dim=1)
        if linear:  # Softmax of the queries over the width of a head, and of the keys over time, not of their products.
            query, key = query.softmax(dim=2), key.softmax(dim=3)
        share = torch.einsum("bhdl,bhdm->bhlm", query, key) / math.sqrt(32)
        attended = torch.einsum("bhlm,bhdm->bhdl", share if linear else share.softmax(dim=3), value).flatten(1, 2)
        if linear:
            return x + norm(f"{name}.output.1", convolution(f"{name}.output.0", attended))
        return x + convolution(f"{name}.output", attended)

    def embed(name, x):
        return dense(f"{name}.2", F.gelu(dense(f"{name}.0", x)))

    angles = t[:, None] * 10_000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    embedding = torch.cat([embed("time_embedding", torch.cat([angles.cos(), angles.sin()], dim=1)),
                           embed("label_embedding", weights["label_table.weight"][labels])], dim=1)
    x = start = convolution("stem", x_t.double().mT)
    skips = {}
    for level in (0, 1, 2):
        first = block(f"down.{level}.first", x)
        second = attention(f"down.{level}.attention", block(f"down.{level}.second", first), linear=True)
        skips[level] = first, second
        x = convolution(f"down.{level}.resize", second, stride=1 if level == 2 else 2)
    x = block("middle.2", attention("middle.1", block("middle.0", x), linear=False))
    for index, level in enumerate((2, 1, 0)):
        first, second = skips[level]
        x = block(f"up.{index}.first", torch.cat([x, second], dim=1))
        x = attention(f"up.{index}.attention", block(f"up.{index}.second", torch.cat([x, first], dim=1)), linear=True)
        x = (convolution(f"up.{index}.resize.1", x.repeat_interleave(2, dim=2)) if level else
             convolution(f"up.{index}.resize", x))
    return convolution("head", block("last", torch.cat([x, start], dim=1))).mT


@pytest.mark.parametrize(("num_channels", "num_classes", "expected"), [
    (7, 2, 17_011_655),
    # A channel adds 7 x 64 weights where it enters and 64 + 1 where it leaves; a class, a row of 64.
    (1, 2, 17_011_655 - 6 * 513), (19, 3, 17_011_655 + 12 * 513 + 64)])
def test_parameters_are_those_of_the_published_code(num_channels, num_classes, expected):
    with torch.device("meta"):
        network = ClassUNet(Config(), num_channels, num_classes)
    assert num_parameters(network) == expected


@torch.no_grad()
def test_the_network_against_the_published_one_written_out():
    torch.manual_seed(0)
    network = ClassUNet(Config(**{**TINY, "channel_multipliers": [1, 2, 3]}), 2, 3)
    for weight in network.parameters():
        weight += 0.2 * torch.randn_like(weight)
    x_t, t, labels = torch.randn(4, 8, 2), torch.tensor([0, 1, 3, 5]), torch.tensor([3, 0, 1, 2])
    torch.testing.assert_close(network(x_t, t, labels).double(), plain_unet(network.state_dict(), x_t, t, labels),
                               atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("cfg_scale", "num_inference_steps", "eta"), [
    (1.0, None, 1.0), (3.0, None, 1.0), (1.0, 3, 1.0), (1.0, 3, 0.0), (3.0, 3, 0.5)])
def test_samples_against_a_plain_guided_chain(cfg_scale, num_inference_steps, eta):
    """Song et al. (2021), equations 12 and 16, over all 6 steps or from 5 over 2 to 0; all of them with the noise of
    eta 1 are the ancestral chain."""
    torch.manual_seed(0)
    model = build(Config(**TINY, cfg_scale=cfg_scale, num_inference_steps=num_inference_steps, eta=eta), 10, 2, 3)
    labels, samples = torch.tensor([0, 2, 1]), torch.tensor([5, 0, 9])
    noise = NoiseStream(derive_seed(7, "diffusion"), samples, (10, 2))
    angles = [math.cos((step / 6 + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(7)]
    remaining = np.cumprod([1 - min(0.999, 1 - angles[step + 1] / angles[step]) for step in range(6)])
    visited = [5, 2, 0] if num_inference_steps else [5, 4, 3, 2, 1, 0]
    x_t = noise(0).double()
    with torch.no_grad():
        for number, (t, before) in enumerate(zip(visited, [*remaining[visited[1:]], 1.0], strict=True), start=1):
            conditional, null = (model.network(x_t.float(), torch.full((3,), t), classes).double()
                                 for classes in (labels, torch.full((3,), 3)))
            eps = null + cfg_scale * (conditional - null)
            x0_pred = ((x_t - math.sqrt(1 - remaining[t]) * eps) / math.sqrt(remaining[t])).clamp(-1, 1)
            eps = (x_t - math.sqrt(remaining[t]) * x0_pred) / math.sqrt(1 - remaining[t])
            sigma = eta * math.sqrt((1 - before) / (1 - remaining[t]) * (1 - remaining[t] / before))
            x_t = math.sqrt(before) * x0_pred + math.sqrt(1 - before - sigma**2) * eps + sigma * noise(number).double()
    torch.testing.assert_close(model.sample(labels, samples, 7).double(), x_t, atol=1e-3, rtol=0)
    torch.testing.assert_close(model.sample(labels[1:2], samples[1:2], 7).double(), x_t[1:2], atol=1e-3, rtol=0)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_training_draws_steps_evenly_and_hides_a_share_of_the_labels(monkeypatch, share):
    torch.manual_seed(0)
    model = build(Config(**TINY, label_dropout=share), 4, 1, 2)
    x, y, arguments = torch.rand(10_000, 4, 1) * 2 - 1, torch.arange(10_000) % 2, []
    monkeypatch.setattr(model.process, "loss", lambda network, *drawn: (
        arguments.extend(drawn) or network.head.bias.sum()))
    model.train_step(Stage("diffusion", 1, 10_000), 0, lambda: (x, y))
    x_start, labels, t, noise = arguments
    for label in (0, 1):
        known = labels[y == label]
        assert set(known.tolist()) == {label, 2} and (known == 2).float().mean() == pytest.approx(share, abs=0.02)
    assert torch.equal(x_start, x) and len(t.unique()) == 6 and torch.bincount(t).min() > 1500
    assert abs(noise.mean()) < 0.02 and noise.std() == pytest.approx(1, abs=0.02)


def test_every_step_descends_the_l1_distance_to_the_noise():
    torch.manual_seed(0)
    model, arguments = build(Config(**TINY), 4, 1, 2), []
    x, y, stage = torch.rand(32, 4, 1) * 2 - 1, torch.arange(32) % 2, Stage("diffusion", 2, 32)
    # A first step leaves gradients that the second must not see.
    model.train_step(stage, 0, lambda: (x, y))
    network = copy.deepcopy(model.network)
    model.network.register_forward_pre_hook(lambda _, inputs: arguments.extend(inputs))
    loss = model.train_step(stage, 1, lambda: (x, y))["loss"]
    x_t, t, labels = arguments
    remaining = model.process.schedule.alphas_cumprod.float()[t][:, None, None]
    noise = (x_t - remaining.sqrt() * x) / (1 - remaining).sqrt()
    expected = (network(x_t, t, labels) - noise).abs().mean()
    torch.testing.assert_close(loss, expected)
    before, after = list(network.parameters()), list(model.network.parameters())
    torch.testing.assert_close([weight.grad for weight in after], list(torch.autograd.grad(expected, before)),
                               atol=1e-5, rtol=1e-3)
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(("length", "before", "after"), [(25, 3, 4), (30, 1, 1), (24, 0, 0), (3, 2, 3)])
def test_a_length_that_8_does_not_divide_is_padded_with_edges_and_cropped(length, before, after):
    torch.manual_seed(0)
    network = ClassUNet(Config(**{**TINY, "channel_multipliers": [1, 1, 2, 2]}), 2, 2)
    x_t, t, labels = torch.randn(2, length, 2), torch.tensor([0, 5]), torch.tensor([1, 2])
    padded = torch.cat([x_t[:, :1].repeat(1, before, 1), x_t, x_t[:, -1:].repeat(1, after, 1)], dim=1)
    assert padded.shape[1] % 8 == 0
    torch.testing.assert_close(network(x_t, t, labels), network(padded, t, labels)[:, before:before + length])


@pytest.mark.parametrize(("settings", "message"), [
    ({"base_channels": 12}, "base_channels=12 is not a multiple of 8"),
    ({"channel_multipliers": []}, "expected at least one level"),
    ({"label_dropout": 0.0}, "cfg_scale=3: with label_dropout=0 there is no unconditional prediction")])
def test_settings_that_cannot_be_built_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        build(Config(**settings), 24, 7, 2)


def test_without_hidden_labels_the_plain_conditional_model_is_built():
    assert build(Config(label_dropout=0.0, cfg_scale=1.0, **TINY), 24, 7, 2).config.label_dropout == 0


def test_a_trained_model_is_sampled_again_with_another_guidance_and_another_chain(tmp_path):
    x, y = sinusoids(12)
    series = [trained(tmp_path, module, x, y, **TINY, steps=2, **settings).sample(y, 0) for module, settings in (
        (biodiffusion, {}), (killed_after(biodiffusion, 0), {"cfg_scale": 1.0}),
        (killed_after(biodiffusion, 0), {"num_inference_steps": 4}))]
    assert not np.allclose(series[0], series[1]) and not np.allclose(series[0], series[2])
