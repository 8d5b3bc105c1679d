"""Samplers against Gaussian data, for which the optimal denoiser and every result are known in closed form."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tardiff.config import DiffusionConfig, SamplerConfig
from tardiff.diffusion.process import DiffusionProcess
from tardiff.sampling.noise import NoiseStream
from tardiff.sampling.samplers import SAMPLERS, Conditioning, Prediction, ddim, ddpm

MEAN = torch.tensor([0.5, -0.3, 0.1, 0.8, -0.6, 0.0])
FACTOR = torch.tensor(np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(range(6), range(6))))).float()
COVARIANCE = 0.5 * FACTOR @ FACTOR.T
SAMPLES = 10_000


def optimal_denoiser(process):
    """eps_pred for x_start ~ N(MEAN, COVARIANCE), as E[noise | x_t], with series of shape (3, 2)."""
    def denoiser(x_t, t, labels):
        remaining = process.schedule.alpha_cumprod(int(t[0]))
        marginal = remaining * COVARIANCE + (1 - remaining) * torch.eye(6)
        deviation = x_t.flatten(1) - math.sqrt(remaining) * MEAN
        return (math.sqrt(1 - remaining) * torch.linalg.solve(marginal, deviation.T).T).view_as(x_t)
    return denoiser


def prediction(num_train_timesteps=1000, beta_end=0.02, count=SAMPLES):
    process = DiffusionProcess(DiffusionConfig(num_train_timesteps=num_train_timesteps, beta_start=1e-4,
                                               beta_end=beta_end, prediction_type="epsilon"))
    return Prediction(optimal_denoiser(process), process, torch.zeros(count, dtype=torch.int64), 1)


def noise(count=SAMPLES, seed=0):
    return NoiseStream(seed, torch.arange(count), (3, 2))


def run(sampler, predict, steps, conditioning=None, **options):
    timesteps = predict.process.schedule.timesteps(steps)
    return sampler(predict, noise(len(predict.labels)), timesteps, conditioning, **options)


def test_each_sampler_of_the_settings_is_there():
    (field,) = [field for field in dataclasses.fields(SamplerConfig) if field.name == "name"]
    assert set(SAMPLERS) == set(field.metadata["choices"])
    with pytest.raises(ValueError, match="step_size"):
        Conditioning(lambda x_t, x0_pred, t: x_t, 1.0, "posterior")


@pytest.mark.parametrize(("sampler", "steps", "options"), [
    (ddpm, None, {}), (ddim, 200, {"eta": 1.0}), (ddim, 100, {"eta": 0.0}), (ddim, 200, {"eta": 0.5})])
def test_gaussian_data_is_reproduced(sampler, steps, options):
    samples = run(sampler, prediction(), steps, **options).flatten(1)
    assert torch.allclose(samples.mean(dim=0), MEAN, atol=0.03)
    assert torch.allclose(samples.T.cov(), COVARIANCE, atol=0.04)


def test_the_default_keeps_more_of_the_spread_in_few_steps():
    """An optimal denoiser: what is missing of the variance is lost by the length of the steps."""
    predict = prediction(200, 0.1)
    kept = {eta: float((run(ddim, predict, 25, eta=eta).flatten(1).var(dim=0) / COVARIANCE.diag()).mean())
            for eta in (SamplerConfig().eta, 1.0)}
    assert 0.87 < kept[SamplerConfig().eta] < 1 and 0.77 < kept[1.0] < 0.83


@pytest.mark.parametrize(("sampler", "steps", "options"), [
    (ddpm, None, {}), (ddim, 250, {"eta": 1.0}), (ddim, 250, {"eta": 0.0}), (ddim, 250, {"eta": 0.5})])
def test_bayes_guidance_through_the_denoiser_shifts_the_mean_by_the_posterior_amount(sampler, steps, options):
    """With log p(y | x) = a . x, the posterior of N(m, S) is N(m + S a, S). Pulled back through the denoiser, which for
    Gaussian data is linear, the gradient is that of log p(y | x_t), so scale w gives m + w S a."""
    a, scale = torch.tensor([0.7, 0.0, -0.4, 0.2, 0.0, 0.5]), 1.5

    def cond_fn(x_t, x0_pred, t):
        return torch.autograd.grad((x0_pred.flatten(1) @ a).sum(), x_t)[0]

    conditioning = Conditioning(cond_fn, scale, through_denoiser=True)
    samples = run(sampler, prediction(), steps, conditioning, **options).flatten(1)
    assert torch.allclose(samples.mean(dim=0) - MEAN, scale * COVARIANCE @ a, atol=0.05)
    assert torch.allclose(samples.T.cov(), COVARIANCE, atol=0.05)


def test_a_gradient_as_it_is_moves_series_further_without_noise():
    """Not pulled back through the denoiser, a constant gradient is too strong in early steps; noise forgets them."""
    predict = prediction(200, 0.1, 200)
    factors = []
    for direction in torch.linalg.eigh(COVARIANCE).eigenvectors.T:
        conditioning = Conditioning(lambda x_t, x0, t, g=direction: g.view(1, 3, 2).expand_as(x_t), 0.3)
        shift = [float((run(sampler, predict, 25, conditioning, **options) - run(sampler, predict, 25, **options))
                       .flatten(1).mean(dim=0) @ direction) for sampler, options in (
            (ddim, {"eta": 0.0}), (ddim, {"eta": 1.0}), (ddpm, {}))]
        factors += [shift[0] / shift[1], shift[0] / shift[2]]
    assert 1.5 < min(factors) < max(factors) < 4.5 and factors[0] > factors[-2]


def test_constant_guidance_shifts_the_mean_by_the_propagated_sum():
    """Under `constant`, every transition adds w g to the mean; the linear reverse process carries each addition on."""
    predict, scale = prediction(50, 0.3, 4), 0.01
    g = torch.linspace(-1, 1, 6)
    conditioning = Conditioning(lambda x_t, x0, t: g.view(1, 3, 2).expand_as(x_t), scale, "constant")
    guided = run(ddpm, predict, None, conditioning)
    unguided = run(ddpm, predict, None)
    schedule, shift = predict.process.schedule, torch.zeros(6, dtype=torch.float64)
    for t in range(49, -1, -1):
        remaining = schedule.alpha_cumprod(t)
        marginal = remaining * COVARIANCE.double() + (1 - remaining) * torch.eye(6).double()
        x0_shift = math.sqrt(remaining) * COVARIANCE.double() @ torch.linalg.solve(marginal, shift)
        shift = schedule.posterior(x0_shift, shift, t, t - 1)[0] + scale * g.double()
    assert torch.allclose((guided - unguided).flatten(1).double(), shift.expand(4, 6), atol=1e-4)
    assert shift.abs().max() > 0.05


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("step_size", ["posterior_variance", "constant"])
def test_scale_zero_is_the_unguided_sampler_bit_for_bit(sampler, step_size):
    predict = prediction(50, 0.3, 16)
    guided = run(sampler, predict, 20, Conditioning(lambda x_t, x0, t: torch.full_like(x_t, torch.nan), 0.0, step_size))
    assert torch.equal(guided, run(sampler, predict, 20))


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_positive_scale_climbs_and_a_negative_one_descends(sampler):
    predict, target = prediction(50, 0.3, 256), torch.full((3, 2), 2.0)
    series = {scale: run(sampler, predict, None, Conditioning(lambda x_t, x0, t: target - x0, scale))
              for scale in (-0.5, 0.0, 0.5)}
    distance = {scale: (x - target).pow(2).mean() for scale, x in series.items()}
    assert distance[0.5] < distance[0.0] < distance[-0.5]


def test_ddim_with_eta_one_over_all_steps_is_ddpm():
    predict = prediction(50, 0.3, 64)
    assert torch.allclose(run(ddim, predict, None, eta=1.0), run(ddpm, predict, None), atol=1e-4)


def test_ddim_without_noise_is_a_function_of_x_T():
    predict = prediction(50, 0.3, 8)
    start = noise(8)
    results = [ddim(predict, lambda step, other=other: start(0) if step == 0 else other(step),
                    predict.process.schedule.timesteps(10), eta=0.0) for other in (noise(8, 1), noise(8, 2))]
    assert torch.equal(*results)


def test_classifier_free_guidance_extrapolates_from_the_unconditional_output():
    process = DiffusionProcess(DiffusionConfig(prediction_type="epsilon"))
    x_t, labels = torch.randn(5, 3, 2), torch.tensor([0, 1, 0, 1, 1])

    def denoiser(x, t, y):
        return x * (1 + y.view(-1, 1, 1))

    _, eps = Prediction(denoiser, process, labels, 2, cfg_scale=2.5)(x_t, 100)
    conditional, unconditional = denoiser(x_t, None, labels), denoiser(x_t, None, torch.full((5,), 2))
    assert torch.allclose(eps, unconditional + 2.5 * (conditional - unconditional))


def test_bounds_clip_x0_and_keep_the_noise_consistent():
    process = DiffusionProcess(DiffusionConfig(prediction_type="epsilon"))
    x_t = 3 * torch.randn(40, 3, 2)
    bounds = (torch.tensor([-0.5, -0.1]), torch.tensor([0.2, 0.9]))
    labels = torch.zeros(40, dtype=torch.int64)
    predict = Prediction(lambda x, t, y: torch.zeros_like(x), process, labels, 1, bounds=bounds)
    x0_pred, eps_pred = predict(x_t, 150)
    assert (x0_pred >= bounds[0]).all() and (x0_pred <= bounds[1]).all() and (x0_pred == bounds[1]).any()
    remaining = process.schedule.alpha_cumprod(150)
    assert torch.allclose(math.sqrt(remaining) * x0_pred + math.sqrt(1 - remaining) * eps_pred, x_t, atol=1e-5)
