"""The denoiser: any length, labels that matter, and the moving average."""

import copy

import pytest
import torch
from by_hand import perturbed

from tardiff.config import DiffusionConfig, UNetConfig
from tardiff.diffusion.process import DiffusionProcess
from tardiff.models.ema import EMA
from tardiff.models.embeddings import timestep_embedding
from tardiff.models.unet1d import UNet1d
from tardiff.utils.errors import UserError

SMALL = UNetConfig(base_channels=16, channel_multipliers=[1, 2, 2, 2], num_res_blocks=1, num_heads=4)


def shaken():
    """A denoiser whose zero-initialised layers are moved, so that every path shows in the output."""
    torch.manual_seed(0)
    return perturbed(UNet1d(3, 2, SMALL), 0.2).eval()


@pytest.mark.parametrize("length", [1, 5, 24, 25, 30])
def test_any_length_is_padded_and_cropped_inside(length):
    output = shaken()(torch.randn(2, length, 3), torch.tensor([0, 9]), torch.tensor([0, 1]))
    assert output.shape == (2, length, 3) and torch.isfinite(output).all()


def test_padding_is_by_edge_values_on_both_sides():
    """25 steps are padded to 32 with 3 and 4 edge values; doing so outside gives the same result."""
    model, x = shaken(), torch.randn(2, 25, 3)
    t, labels = torch.tensor([3, 3]), torch.tensor([0, 1])
    padded = torch.cat([x[:, :1].expand(-1, 3, -1), x, x[:, -1:].expand(-1, 4, -1)], dim=1)
    assert torch.allclose(model(x, t, labels), model(padded, t, labels)[:, 3:28], atol=1e-6)


def test_every_time_step_sees_every_other():
    model, x = shaken(), torch.randn(1, 24, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x, torch.tensor([5]), torch.tensor([0]))[0, 0].sum(), x)
    assert (gradient.abs().sum(dim=2) > 0).all()


def test_labels_and_steps_change_the_output_and_samples_do_not_mix():
    model, x = shaken(), torch.randn(1, 24, 3).expand(4, -1, -1)
    output = model(x, torch.tensor([5, 5, 5, 90]), torch.tensor([0, 1, 2, 0]))
    assert all(not torch.allclose(output[0], output[other], atol=1e-3) for other in (1, 2, 3))
    alone = model(x[:1], torch.tensor([5]), torch.tensor([1]))
    assert torch.allclose(output[1], alone[0], atol=1e-5)


def test_a_new_denoiser_predicts_zero():
    model = UNet1d(3, 2, SMALL)
    assert (model(torch.randn(2, 24, 3), torch.tensor([0, 1]), torch.tensor([0, 1])) == 0).all()


def test_paper_sized_model_has_the_paper_structure():
    """Base 64, multipliers 1, 2, 4, 4, attention with 8 heads at downsampling 1, 2, 4 and in the middle."""
    config = UNetConfig(64, [1, 2, 4, 4], num_res_blocks=3, num_heads=8)
    with torch.device("meta"):
        model = UNet1d(7, 2, config)
    attended = [block for block in [*model.down, *model.up] if hasattr(block, "attention")
                and hasattr(block.attention, "num_heads")]
    assert len(attended) == 3 * 3 + 3 * 4 and {block.attention.num_heads for block in attended} == {8}
    assert model.divisor == 8 and model.down[-1].residual.first.out_channels == 256


@pytest.mark.parametrize("base_channels", [8, 9, 18, 20, 32, 64, 67])
def test_no_channel_is_normalised_without_its_neighbours(base_channels):
    with torch.device("meta"):
        model = UNet1d(7, 2, UNetConfig(base_channels=base_channels, num_heads=1))
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.GroupNorm)]
    assert len(norms) > 20 and all(norm.num_channels // norm.num_groups >= 4 for norm in norms)
    assert max(norm.num_groups for norm in norms) <= 32


def test_the_level_of_a_series_is_learned():
    """Series that differ in their level alone: after 60 steps the error of the predicted clean series is within 1.6
    times the least possible one, which is that of the posterior mean of a Gaussian level. Normalising each channel
    alone gives 2 times."""
    torch.manual_seed(0)
    process = DiffusionProcess(DiffusionConfig(prediction_type="v_prediction", loss="l2"))
    model = UNet1d(1, 1, UNetConfig(base_channels=16, channel_multipliers=[1, 2], num_res_blocks=1, num_heads=4))
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)

    def noisy(rows, t):
        x_start, noise = torch.randn(rows, 1, 1).expand(-1, 8, 1), torch.randn(rows, 8, 1)
        return x_start, torch.zeros(rows, dtype=torch.int64), t, noise

    for _ in range(60):
        optimizer.zero_grad()
        process.loss(model, *noisy(32, torch.randint(process.schedule.num_train_timesteps, (32,)))).backward()
        optimizer.step()
    with torch.no_grad():
        x_start, labels, t, noise = noisy(512, torch.full((512,), 100))
        x_t = process.q_sample(x_start, t, noise)
        x0_pred = process.predictions(model(x_t, t, labels), x_t, t)[0]
    signal = float(process.schedule.alphas_cumprod[100])
    least = 1 / (1 + 8 * signal / (1 - signal))
    assert (x0_pred - x_start).pow(2).mean() < 1.6 * least


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UserError, match="num_heads"):
        UNet1d(3, 2, UNetConfig(base_channels=20, num_heads=8))


def test_timestep_embedding_is_one_at_step_zero_and_distinct():
    embedding = timestep_embedding(torch.arange(200), 33)
    assert embedding.shape == (200, 33) and torch.equal(embedding[0, :16], torch.ones(16))
    assert torch.cdist(embedding, embedding).add(torch.eye(200)).min() > 1e-2


def test_ema_equals_the_weighted_sum_of_the_weights_it_saw():
    model = torch.nn.Linear(2, 1)
    ema = EMA(model, 0.5)
    weights = [copy.deepcopy(model.weight.detach())]
    for step in range(6):
        with torch.no_grad():
            model.weight.add_(step + 1.0)
        weights.append(model.weight.detach().clone())
        ema.update(model, step)
    expected = weights[0]
    for step, weight in enumerate(weights[1:]):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(ema.module.weight, expected)
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
