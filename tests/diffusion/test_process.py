"""Forward process and posterior against their definitions."""

import math

import pytest
import torch

from tardiff.config import DiffusionConfig
from tardiff.diffusion.process import DiffusionProcess
from tardiff.diffusion.schedule import LAST_STEP, LOWEST_HALF_LOG_SNR, NoiseSchedule
from tardiff.utils.errors import UserError

CONFIG = DiffusionConfig()


def test_the_scaled_linear_schedule_has_the_released_ends_and_is_linear_in_the_root():
    betas = NoiseSchedule.from_config(CONFIG).betas
    assert len(betas) == 200 and betas.dtype == torch.float64
    assert math.isclose(betas[0], 5e-4) and math.isclose(betas[-1], 0.1)
    assert torch.allclose(betas.sqrt().diff(), betas.sqrt().diff()[0])


def test_cosine_schedule_follows_its_closed_form():
    schedule = NoiseSchedule.from_config(DiffusionConfig(noise_schedule="cosine", num_train_timesteps=100))
    squares = [math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(100)]
    expected = [square / squares[0] for square in squares[1:]]
    assert torch.allclose(schedule.alphas_cumprod[:99], torch.tensor(expected, dtype=torch.float64))
    assert schedule.betas.max() <= 0.999


@pytest.mark.parametrize("t", [0, 60, 199])
def test_q_sample_has_the_moments_of_iterated_single_steps(t):
    """x_t from one draw has the mean and variance that t + 1 single noising steps give."""
    process, size = DiffusionProcess(CONFIG), 200_000
    torch.manual_seed(0)
    x_start = torch.full((size, 1, 1), 1.7)
    x_t = process.q_sample(x_start, torch.full((size,), t), torch.randn(size, 1, 1))
    mean, variance = 1.7, 0.0
    for beta in process.schedule.betas[:t + 1].tolist():
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
    assert abs(float(x_t.mean()) - mean) < 4 * math.sqrt(variance / size) + 1e-6
    assert abs(float(x_t.var()) / variance - 1) < 0.015


@pytest.mark.parametrize(("t", "t_prev"), [(199, 198), (120, 60), (37, 0), (5, -1)])
def test_posterior_is_the_product_of_two_gaussians(t, t_prev):
    """q(x_prev | x_t, x_start) by Bayes from q(x_t | x_prev) and q(x_prev | x_start), in plain arithmetic."""
    schedule = NoiseSchedule.from_config(CONFIG)
    x_start, x_t = 0.8, -0.4
    kept_prev = math.prod((1 - schedule.betas[:t_prev + 1]).tolist())
    alpha = math.prod((1 - schedule.betas[t_prev + 1:t + 1]).tolist())
    mean, variance = schedule.posterior(torch.tensor(x_start, dtype=torch.float64),
                                        torch.tensor(x_t, dtype=torch.float64), t, t_prev)
    if t_prev == -1:
        assert variance == 0 and math.isclose(mean, x_start)
        return
    precision = alpha / (1 - alpha) + 1 / (1 - kept_prev)
    expected = (math.sqrt(alpha) * x_t / (1 - alpha) + math.sqrt(kept_prev) * x_start / (1 - kept_prev)) / precision
    assert math.isclose(variance, 1 / precision, rel_tol=1e-10)
    assert math.isclose(float(mean), expected, rel_tol=1e-10)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_output_recovers_x_start_and_noise_and_has_no_loss(prediction_type):
    process = DiffusionProcess(DiffusionConfig(prediction_type=prediction_type))
    torch.manual_seed(0)
    x_start, noise = torch.randn(50, 6, 2, dtype=torch.float64), torch.randn(50, 6, 2, dtype=torch.float64)
    t = torch.randint(200, (50,))
    x_t, target = process.q_sample(x_start, t, noise), process.target(x_start, t, noise)
    x0_pred, eps_pred = process.predictions(target, x_t, t)
    assert torch.allclose(x0_pred, x_start) and torch.allclose(eps_pred, noise)
    assert torch.allclose(process.eps_from_x0(x_start, x_t, t), noise)
    assert process.loss(lambda *_: target, x_start, torch.zeros(50), t, noise) < 1e-6


def test_losses_are_the_named_distances():
    torch.manual_seed(0)
    x_start, noise, t = torch.randn(9, 4, 2), torch.randn(9, 4, 2), torch.randint(200, (9,))
    for name, distance in (("l1", noise.abs().mean()), ("l2", noise.pow(2).mean())):
        process = DiffusionProcess(DiffusionConfig(loss=name, prediction_type="epsilon"))
        assert torch.isclose(process.loss(lambda x, *_: torch.zeros_like(x), x_start, t, t, noise), distance)


def test_inference_steps_span_the_schedule():
    schedule = NoiseSchedule.from_config(CONFIG)
    assert schedule.timesteps(None) == list(range(199, -1, -1))
    steps = schedule.timesteps(25)
    assert len(steps) == 25 and steps[0] == 199 and steps[-1] == 0
    assert schedule.timesteps(1) == [199]
    with pytest.raises(UserError, match=r"999.*200 diffusion steps"):
        schedule.timesteps(999)


@pytest.mark.parametrize("noise_schedule", ["scaled_linear", "cosine"])
@pytest.mark.parametrize("count", [2, 5, 10, 20, 60, 200])
def test_steps_in_log_snr_are_distinct_and_shrink_where_there_is_room(noise_schedule, count):
    schedule = NoiseSchedule.from_config(DiffusionConfig(noise_schedule=noise_schedule))
    remaining = schedule.alphas_cumprod
    levels = schedule.half_log_snr
    assert torch.allclose(levels, (remaining / (1 - remaining)).log() / 2)
    steps = schedule.timesteps(count, "log_snr")
    assert len(steps) == count and steps[0] == 199 and steps[-1] == 0
    assert steps == sorted(set(steps), reverse=True)
    assert (levels[steps[1:]] > LOWEST_HALF_LOG_SNR).all() or count > 20
    if count == 10 and noise_schedule == "scaled_linear":
        sizes = [1 - (1 - LAST_STEP) * number / 8 for number in range(9)]
        wanted = [levels[-1] + sum(sizes[:number]) / sum(sizes) * (levels[0] - levels[-1]) for number in range(10)]
        assert torch.equal(levels[steps], torch.stack([levels[(levels - level).abs().argmin()] for level in wanted]))


@pytest.mark.parametrize(("noise_schedule", "is_bounded", "steps"), [
    ("scaled_linear", False, [199, 178, 152, 118, 78, 43, 20, 8, 2, 0]),
    # Unbounded, half of them would be where a series is all noise: 199, 198, 197, 196, 191, 168, ...
    ("cosine", True, [199, 196, 189, 169, 122, 60, 23, 8, 2, 0])])
def test_few_steps_are_spread_over_the_process(noise_schedule, is_bounded, steps):
    schedule = NoiseSchedule.from_config(DiffusionConfig(noise_schedule=noise_schedule))
    assert (schedule.half_log_snr[-1] < LOWEST_HALF_LOG_SNR) == is_bounded
    assert schedule.timesteps(10, "log_snr") == steps
