"""The layers of the denoiser against PyTorch's own, on the way that CPUs take and on that of other devices."""

import pytest
import torch
import torch.nn.functional as F
from by_hand import perturbed

from tardiff.config import UNetConfig
from tardiff.models import layers
from tardiff.models.layers import SHORT_SERIES, Convolution, GroupNorm, attention, features
from tardiff.models.unet1d import UNet1d


def close(found, expected):
    return torch.allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.fixture(params=["channels-last", "contiguous"], autouse=True)
def both_ways(request, monkeypatch):
    monkeypatch.setattr(layers, "channels_last", lambda x: request.param == "channels-last")


def shaken():
    """A network whose zero-initialised layers are moved."""
    torch.manual_seed(0)
    return perturbed(UNet1d(3, 2, UNetConfig(base_channels=16, channel_multipliers=[1, 2, 2], num_heads=4)), 0.2)


def values_and_gradients(function, *inputs):
    inputs = [value.detach().clone().requires_grad_() for value in inputs]
    output = function(*inputs)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output, *torch.autograd.grad(output, inputs, weight)]


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_is_that_over_time(kernel):
    torch.manual_seed(0)
    layer, x = Convolution(5, 6, kernel, padding=kernel // 2).double(), torch.randn(4, 7, 5, dtype=torch.float64)
    plain = F.conv1d(x.transpose(1, 2), layer.weight, layer.bias, padding=kernel // 2)
    assert close(layer(features(x))[:, :, 0], plain)


@pytest.mark.parametrize("channels, groups, length", [(12, 3, 7), (8, 1, 5), (6, 6, 4), (8, 2, 1)])
def test_group_norm_and_its_gradients(channels, groups, length):
    torch.manual_seed(0)
    layer = GroupNorm(groups, channels).double()
    x = torch.randn(3, length, channels, dtype=torch.float64) + 5
    parameters = [torch.randn(channels, dtype=torch.float64) for _ in range(2)]
    modulation = [torch.randn(3, channels, dtype=torch.float64) for _ in range(2)]

    def own(x, weight, bias, *scale_and_shift):
        named = {"weight": weight, "bias": bias}
        return torch.func.functional_call(layer, named, (features(x), *scale_and_shift))[:, :, 0]

    def plain(x, weight, bias, scale=None, shift=None):
        y = F.group_norm(x.transpose(1, 2), groups, weight, bias)
        return y if scale is None else y * (1 + scale[..., None]) + shift[..., None]

    for inputs in ([x, *parameters], [x, *parameters, *modulation]):
        for found, expected in zip(values_and_gradients(own, *inputs), values_and_gradients(plain, *inputs),
                                   strict=True):
            assert torch.allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_group_norm_of_values_far_from_zero():
    """In float32 the mean must not swallow the spread: as close to float64 as PyTorch's own."""
    torch.manual_seed(0)
    x, parameters = torch.randn(4, 24, 8) + 100, [torch.randn(8), torch.randn(8)]

    def own(x, weight, bias):
        layer = GroupNorm(2, 8)
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (features(x),))[:, :, 0]

    def plain(x, weight, bias):
        return F.group_norm(x.transpose(1, 2), 2, weight, bias)

    exact = values_and_gradients(plain, *(value.double() for value in (x, *parameters)))
    results = values_and_gradients(own, x, *parameters), values_and_gradients(plain, x, *parameters)
    for found, of_pytorch, expected in zip(*results, exact, strict=True):
        assert (found - expected).abs().max() <= 2 * (of_pytorch - expected).abs().max()


@pytest.mark.parametrize("length", [1, 2, 5, 24, SHORT_SERIES, SHORT_SERIES + 1])
def test_attention_and_its_gradients(length):
    torch.manual_seed(0)
    projected = torch.randn(3, 2, 3, length, 4, dtype=torch.float64)
    for found, expected in zip(values_and_gradients(attention, projected), values_and_gradients(
            lambda projected: F.scaled_dot_product_attention(*projected), projected), strict=True):
        assert close(found, expected)


def test_attention_in_bf16_is_nearly_as_exact_as_that_of_pytorch(monkeypatch):
    """Written out, scores are rounded before the softmax."""
    monkeypatch.setattr(layers, "channels_last", lambda x: False)
    torch.manual_seed(0)
    projected = torch.randn(3, 64, 8, 24, 32)
    exact = F.scaled_dot_product_attention(*projected.double())
    with torch.autocast("cpu", torch.bfloat16):
        found, fused = attention(projected), F.scaled_dot_product_attention(*projected.bfloat16())
    assert (found - exact).square().mean() < 4 * (fused - exact).square().mean() < 1e-4


def test_attention_to_one_key_alone():
    """Scores that no exponential of theirs could hold."""
    torch.manual_seed(0)
    projected = torch.randn(3, 2, 2, 6, 4) * torch.tensor([1e3, 1e3, 1]).view(3, 1, 1, 1, 1)
    query, key, value = projected
    nearest = (query @ key.transpose(2, 3)).argmax(dim=3, keepdim=True).expand(-1, -1, -1, 4)
    assert torch.allclose(attention(projected), value.gather(2, nearest))


@pytest.mark.parametrize("length", [24, 30])
def test_the_network_is_the_same_either_way(length, monkeypatch):
    model = shaken()
    x, t, labels = torch.randn(4, length, 3), torch.arange(4), torch.tensor([0, 1, 2, 0])
    found = values_and_gradients(lambda x: model(x, t, labels), x)
    monkeypatch.setattr(layers, "channels_last", lambda x: False)
    for value, expected in zip(found, values_and_gradients(lambda x: model(x, t, labels), x), strict=True):
        assert torch.allclose(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_network_is_the_same_on_cuda(monkeypatch):
    monkeypatch.undo()
    model, inputs = shaken(), (torch.randn(4, 24, 3), torch.arange(4), torch.tensor([0, 1, 2, 0]))
    with torch.no_grad():
        expected = model(*inputs)
        found = model.to("cuda")(*(tensor.to("cuda") for tensor in inputs)).cpu()
    assert torch.allclose(found, expected, rtol=1e-2, atol=1e-2)
