"""BioDiffusion against plain loops: its layers, its loss, its guided samples and its padding."""

import math

import numpy as np
import pytest
import torch
from baseline_checks import assert_resumes_exactly, assert_rows_stand_alone, killed_after, sinusoids, study, trained

from tardiff.baselines import biodiffusion
from tardiff.baselines.biodiffusion import ClassUNet, Config, LinearAttention, StandardisedConvolution, build
from tardiff.baselines.interface import Stage
from tardiff.sampling.noise import NoiseStream
from tardiff.utils.errors import UserError
from tardiff.utils.seeding import derive_seed

TINY = {"base_channels": 8, "channel_multipliers": [1, 2], "num_train_timesteps": 6, "batch_size": 4}


@pytest.mark.parametrize(("num_channels", "num_classes", "expected"), [
    (7, 2, 17_011_655),
    # A channel adds 7 x 64 weights where it enters and 64 + 1 where it leaves; a class, a row of 64.
    (1, 2, 17_011_655 - 6 * 513), (19, 3, 17_011_655 + 12 * 513 + 64)])
def test_parameters_are_those_of_the_published_code(num_channels, num_classes, expected):
    with torch.device("meta"):
        network = ClassUNet(Config(), num_channels, num_classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_a_weight_standardised_convolution_against_a_loop():
    torch.manual_seed(0)
    layer, x = StandardisedConvolution(3, 2, 3, padding=1), torch.randn(2, 3, 5)
    weight, bias, padded = layer.weight.detach().numpy(), layer.bias.detach().numpy(), np.pad(x, ((0, 0), (0, 0), (1, 1)))
    expected = np.zeros((2, 2, 5))
    for row, output, step in np.ndindex(2, 2, 5):
        kernel = (weight[output] - weight[output].mean()) / math.sqrt(weight[output].var() + 1e-5)
        expected[row, output, step] = (kernel * padded[row, :, step:step + 3]).sum() + bias[output]
    np.testing.assert_allclose(layer(x).detach(), expected, atol=1e-5)


def test_linear_attention_against_a_loop():
    torch.manual_seed(0)
    layer, x = LinearAttention(8), torch.randn(1, 8, 5)
    normed = (x - x.mean(dim=1, keepdim=True)) / (x.var(dim=1, keepdim=True, correction=0) + 1e-5).sqrt()
    query, key, value = torch.einsum("oc,cl->ol", layer.heads.project.weight[..., 0], normed[0]).view(3, 4, 32, 5)
    attended = torch.zeros(4, 32, 5)
    for head in range(4):
        for step in range(5):
            chosen = torch.softmax(query[head, :, step], dim=0) / math.sqrt(32)
            for other in range(5):
                weight = (chosen * torch.softmax(key[head], dim=1)[:, other]).sum()
                attended[head, :, step] += weight * value[head, :, other]
    torch.testing.assert_close(layer(x), x + layer.output(attended.view(1, 128, 5)))


@pytest.mark.parametrize("cfg_scale", [1.0, 3.0])
def test_samples_against_a_plain_guided_chain(cfg_scale):
    torch.manual_seed(0)
    model = build(Config(**TINY, cfg_scale=cfg_scale), 10, 2, 3)
    labels, samples = torch.tensor([0, 2, 1]), torch.tensor([5, 0, 9])
    noise = NoiseStream(derive_seed(7, "diffusion"), samples, (10, 2))
    angles = [math.cos((step / 6 + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(7)]
    betas = [min(0.999, 1 - angles[step + 1] / angles[step]) for step in range(6)]
    remaining = np.cumprod([1 - beta for beta in betas])
    x_t = noise(0).double()
    with torch.no_grad():
        for t in reversed(range(6)):
            steps = torch.full((3,), t)
            conditional, null = (model.network(x_t.float(), steps, classes).double()
                                 for classes in (labels, torch.full((3,), 3)))
            eps = null + cfg_scale * (conditional - null)
            x0_pred = ((x_t - math.sqrt(1 - remaining[t]) * eps) / math.sqrt(remaining[t])).clamp(-1, 1)
            before = remaining[t - 1] if t else 1.0
            x_t = (math.sqrt(before) * betas[t] / (1 - remaining[t]) * x0_pred
                   + math.sqrt(1 - betas[t]) * (1 - before) / (1 - remaining[t]) * x_t)
            if t:
                x_t = x_t + math.sqrt((1 - before) / (1 - remaining[t]) * betas[t]) * noise(6 - t).double()
    torch.testing.assert_close(model.sample(labels, samples, 7).double(), x_t, atol=1e-3, rtol=0)
    torch.testing.assert_close(model.sample(labels[1:2], samples[1:2], 7).double(), x_t[1:2], atol=1e-3, rtol=0)


def test_a_step_of_training_hides_labels_and_measures_the_noise_in_l1(monkeypatch):
    torch.manual_seed(0)
    model = build(Config(**TINY, label_dropout=0.5), 8, 1, 2)
    x, y = torch.rand(400, 8, 1) * 2 - 1, torch.arange(400) % 2
    seen = {}

    def network(x_t, t, labels):
        seen.update(x_t=x_t, t=t, labels=labels)
        return x_t * weight

    weight = torch.nn.Parameter(torch.ones(()))
    monkeypatch.setattr(model.process, "loss", lambda _, *arguments: type(model.process).loss(
        model.process, network, *arguments))
    loss = model.train_step(Stage("diffusion", 1, 400), 0, lambda: (x, y))["loss"].item()
    hidden = seen["labels"] == 2
    assert 150 < hidden.sum() < 250 and torch.equal(seen["labels"][~hidden], y[~hidden])
    assert torch.bincount(seen["t"], minlength=6).min() > 40
    remaining = model.process.schedule.alphas_cumprod.float()[seen["t"]][:, None, None]
    noise = (seen["x_t"] - remaining.sqrt() * x) / (1 - remaining).sqrt()
    assert abs(noise.mean()) < 0.1 and noise.std() == pytest.approx(1, abs=0.1)
    assert loss == pytest.approx((noise - seen["x_t"]).abs().mean().item(), rel=1e-4)


@pytest.mark.parametrize(("length", "before", "after"), [(25, 3, 4), (30, 1, 1), (24, 0, 0), (3, 2, 3)])
def test_a_length_that_8_does_not_divide_is_padded_with_edges_and_cropped(length, before, after):
    torch.manual_seed(0)
    network = ClassUNet(Config(**{**TINY, "channel_multipliers": [1, 1, 2, 2]}), 2, 2)
    x_t, t, labels = torch.randn(2, length, 2), torch.tensor([0, 5]), torch.tensor([1, 2])
    padded = torch.cat([x_t[:, :1].repeat(1, before, 1), x_t, x_t[:, -1:].repeat(1, after, 1)], dim=1)
    assert padded.shape[1] % 8 == 0
    torch.testing.assert_close(network(x_t, t, labels), network(padded, t, labels)[:, before:before + length])


def test_the_noise_predicted_depends_on_step_and_label():
    torch.manual_seed(0)
    network, x_t = ClassUNet(Config(**TINY), 2, 2), torch.randn(1, 8, 2).expand(4, 8, 2)
    rows = network(x_t, torch.tensor([0, 5, 0, 0]), torch.tensor([0, 0, 1, 2]))
    assert all(not torch.allclose(rows[0], row) for row in rows[1:])


@pytest.mark.parametrize("num_inference_steps", [None, 25])
@pytest.mark.parametrize(("length", "num_channels", "num_classes"), [(24, 2, 2), (25, 1, 3), (30, 1, 2)])
def test_any_shape_gives_the_rows_asked_for(tmp_path, num_inference_steps, length, num_channels, num_classes):
    x, y = sinusoids(12, length, num_channels, num_classes)
    # In a chain of few steps the first multiplies rounding where the clean series is not clipped, as it nearly always is
    # in one of many.
    settings = {**TINY, "num_train_timesteps": 50, "num_inference_steps": num_inference_steps}
    rival = trained(tmp_path, biodiffusion, x, y, **settings, steps=2)
    assert_rows_stand_alone(rival, (length, num_channels), num_classes)


def test_a_killed_training_resumes_exactly(tmp_path):
    x, y = sinusoids(12)
    assert_resumes_exactly(tmp_path, biodiffusion, x, y, (4,), **TINY, steps=5)


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


@pytest.mark.slow
def test_it_learns_two_classes_of_sinusoids(tmp_path):
    result = study(tmp_path, biodiffusion, base_channels=16, channel_multipliers=[1, 2, 4], num_train_timesteps=200,
                   steps=1000, learning_rate=1e-3, num_inference_steps=50)
    assert result.synthetic_accuracy > 0.95 * result.real_accuracy and result.real_accuracy > 0.9
    assert result.synthetic_fid < result.noise_fid / 2
