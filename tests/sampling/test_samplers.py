"""Samplers against Gaussian data, for which the optimal denoiser and every result are known in closed form."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tardiff.config import DiffusionConfig, SamplerConfig
from tardiff.diffusion.process import DiffusionProcess
from tardiff.sampling.generate import timesteps_of
from tardiff.sampling.noise import NoiseStream
from tardiff.sampling.samplers import SAMPLERS, SPACING, STEPS, Conditioning, Prediction, ddim, ddpm, dpm_solver_pp
from tardiff.utils.errors import UserError

MEAN = torch.tensor([0.5, -0.3, 0.1, 0.8, -0.6, 0.0])
FACTOR = torch.tensor(np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(range(6), range(6))))).float()
COVARIANCE = 0.5 * FACTOR @ FACTOR.T
SAMPLES = 5_000


def optimal_denoiser(process, covariance):
    """v for x_start ~ N(MEAN, covariance), from E[x_start | x_t] and E[noise | x_t], with series of shape (3, 2)."""
    def denoiser(x_t, t, labels):
        remaining = process.schedule.alpha_cumprod(int(t[0]))
        signal, spread = math.sqrt(remaining), math.sqrt(1 - remaining)
        marginal = (remaining * covariance + (1 - remaining) * torch.eye(6)).to(x_t.dtype)
        mean, common = MEAN.to(x_t.dtype), covariance.to(x_t.dtype)
        whitened = (x_t.flatten(1) - signal * mean) @ torch.linalg.inv(marginal)
        return (signal * spread * whitened - spread * (mean + signal * whitened @ common)).view_as(x_t)
    return denoiser


def prediction(num_train_timesteps=1000, beta_end=0.02, count=SAMPLES, noise_schedule="scaled_linear",
               covariance=COVARIANCE):
    process = DiffusionProcess(DiffusionConfig(num_train_timesteps=num_train_timesteps, beta_start=1e-4,
                                               beta_end=beta_end, noise_schedule=noise_schedule))
    return Prediction(optimal_denoiser(process, covariance), process, torch.zeros(count, dtype=torch.int64), 1)


def noise(count=SAMPLES, seed=0):
    return NoiseStream(seed, torch.arange(count), (3, 2))


def run(sampler, predict, steps, conditioning=None, **options):
    spacing = SPACING[sampler.__name__]
    timesteps = predict.process.schedule.timesteps(steps, spacing)
    return sampler(predict, noise(len(predict.labels)), timesteps, conditioning, **options)


def test_each_sampler_of_the_settings_is_there():
    (field,) = [field for field in dataclasses.fields(SamplerConfig) if field.name == "name"]
    assert set(SAMPLERS) == set(field.metadata["choices"]) == set(SPACING) == set(STEPS)


@pytest.mark.parametrize(("sampler", "steps", "options"), [
    (ddpm, None, {}), (ddim, 200, {"eta": 1.0}), (ddim, 100, {"eta": 0.0}), (ddim, 200, {"eta": 0.5}),
    (dpm_solver_pp, 20, {})])
def test_gaussian_data_is_reproduced(sampler, steps, options):
    samples = run(sampler, prediction(), steps, **options).flatten(1)
    assert torch.allclose(samples.mean(dim=0), MEAN, atol=0.03)
    assert torch.allclose(samples.T.cov(), COVARIANCE, atol=0.04)


@pytest.mark.parametrize(("trained", "counts"), [(200, {"ddpm": 200, "ddim": 50, "dpm_solver_pp": 10}),
                                                 (8, dict.fromkeys(SAMPLERS, 8))])
def test_a_sampler_takes_the_steps_that_it_needs_unless_others_are_given(trained, counts):
    schedule = prediction(trained, 0.1).process.schedule
    assert {name: len(timesteps_of(SamplerConfig(name), schedule)) for name in SAMPLERS} == counts
    assert len(timesteps_of(SamplerConfig("ddim", num_inference_steps=4), schedule)) == 4
    with pytest.raises(UserError, match=f"{trained} diffusion steps"):
        timesteps_of(SamplerConfig("ddim", num_inference_steps=trained + 1), schedule)


def test_the_default_is_nearer_to_the_spread_in_fewer_steps():
    """An optimal denoiser: what the variance has too little or too much is due to the length of the steps."""
    predict, default = prediction(200, 0.1), SamplerConfig()

    def kept(sampler, steps, **options):
        return float((run(sampler, predict, steps, **options).flatten(1).var(dim=0) / COVARIANCE.diag()).mean())

    assert 0.97 < kept(SAMPLERS[default.name], STEPS[default.name]) < 1.04
    assert 0.98 < kept(dpm_solver_pp, 25) < 1.03
    assert 0.87 < kept(ddim, 25, eta=0.0) < 0.91 and 0.77 < kept(ddim, 25, eta=1.0) < 0.83


@pytest.mark.parametrize(("steps", "noise_schedule", "most"), [
    (8, "scaled_linear", 0.04), (10, "scaled_linear", 0.03), (15, "scaled_linear", 0.03), (25, "scaled_linear", 0.03),
    (10, "cosine", 0.06)])
def test_the_spacing_of_steps_keeps_the_variance_of_any_gaussian_data(steps, noise_schedule, most):
    """By the gain of each direction from noise to series, exactly: with even steps 7 % too much of 8, 6 % of 10."""
    variances = torch.tensor([0.1, 0.3, 1.0, 3.0, 10.0, 30.0])
    process = DiffusionProcess(DiffusionConfig(noise_schedule=noise_schedule))
    predict = Prediction(optimal_denoiser(process, variances.diag()), process, torch.zeros(1, dtype=torch.int64), 1)
    timesteps = process.schedule.timesteps(steps, SPACING["dpm_solver_pp"])
    none, one = (dpm_solver_pp(predict, lambda step, size=size: torch.full((1, 3, 2), size), timesteps)
                 for size in (0.0, 1.0))
    assert ((one - none).square().flatten() / variances - 1).abs().max() < most


def solution(schedule, x_T):
    """The clean series (B, 6) float64 that the noise-free reverse process, solved exactly, makes of x_T: deviations
    along an eigenvector keep their ratio to the standard deviation of x_t, down to t = 0, where x0_pred is taken."""
    variances, vectors = torch.linalg.eigh(COVARIANCE.double())
    first, last = schedule.alpha_cumprod(schedule.num_train_timesteps - 1), schedule.alpha_cumprod(0)
    deviation = (x_T.flatten(1) - math.sqrt(first) * MEAN.double()) @ vectors
    at_0 = last * variances + 1 - last
    deviation = deviation * (at_0 / (first * variances + 1 - first)).sqrt()
    return MEAN.double() + (deviation * math.sqrt(last) * variances / at_0) @ vectors.T


def test_the_error_of_dpm_solver_falls_with_the_square_of_the_steps_and_that_of_ddim_with_the_steps():
    predict = prediction(20_000, 1e-3, 32)
    x_T = torch.from_numpy(np.random.default_rng(0).standard_normal((32, 3, 2)))
    expected = solution(predict.process.schedule, x_T)
    for sampler, factor in ((dpm_solver_pp, 4.0), (ddim, 2.0)):
        errors = [(sampler(predict, lambda step: x_T, predict.process.schedule.timesteps(steps, "log_snr")).flatten(1)
                   - expected).norm().item() for steps in (20, 40, 80)]
        assert errors[0] / errors[1] == pytest.approx(factor, rel=0.2)
        assert errors[1] / errors[2] == pytest.approx(factor, rel=0.1)


def nonlinear_denoiser(x_t, t, labels):
    return torch.sin(2 * x_t) + 0.3 * x_t.flip(1) + 1e-3 * t.view(-1, 1, 1)


def test_dpm_solver_follows_its_formula():
    """Algorithm 2 of DPM-Solver++ as it stands in the paper, in lambda and exponentials, step by step in float64."""
    process = DiffusionProcess(DiffusionConfig(prediction_type="sample"))
    predict = Prediction(nonlinear_denoiser, process, torch.zeros(5, dtype=torch.int64), 1)
    x = start = torch.from_numpy(np.random.default_rng(1).standard_normal((5, 4, 2)))
    steps = process.schedule.timesteps(7, "log_snr")
    signal = [math.sqrt(process.schedule.alpha_cumprod(t)) for t in steps]
    spread = [math.sqrt(1 - process.schedule.alpha_cumprod(t)) for t in steps]
    level = [math.log(a / s) for a, s in zip(signal, spread, strict=True)]
    outputs = []
    for i, t in enumerate(steps[:-1], start=1):
        outputs.append(nonlinear_denoiser(x, torch.full((5,), t), None))
        h = level[i] - level[i - 1]
        if i == 1:
            estimate = outputs[0]
        else:
            r = (level[i - 1] - level[i - 2]) / h
            estimate = (1 + 1 / (2 * r)) * outputs[-1] - outputs[-2] / (2 * r)
        x = spread[i] / spread[i - 1] * x - signal[i] * (math.exp(-h) - 1) * estimate
    expected = nonlinear_denoiser(x, torch.full((5,), 0), None)
    assert torch.allclose(dpm_solver_pp(predict, lambda step: start, steps), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("conditioning", [None, Conditioning(lambda x_t, x0, t: x0.cos(), 0.3),
                                          Conditioning(lambda x_t, x0, t: x0.cos(), 0.3, "constant")])
def test_the_steps_of_first_order_are_those_of_ddim(conditioning):
    """The first and the last, guided or not: of two steps both are."""
    process = DiffusionProcess(DiffusionConfig())
    predict = Prediction(nonlinear_denoiser, process, torch.zeros(5, dtype=torch.int64), 1)
    results = [sampler(predict, noise(5), [150, 20], conditioning) for sampler in (dpm_solver_pp, ddim)]
    assert torch.equal(*results)


GUIDED_SAMPLERS = pytest.mark.parametrize(("sampler", "steps", "options"), [
    (ddpm, None, {}), (ddim, 50, {"eta": 1.0}), (ddim, 50, {"eta": 0.0}), (ddim, 50, {"eta": 0.5}),
    (dpm_solver_pp, 10, {})])
SCHEDULES = pytest.mark.parametrize("noise_schedule", ["scaled_linear", "cosine"])
A = torch.tensor([0.7, 0.0, -0.4, 0.2, 0.0, 0.5])


def constant_gradient(x_t, x0_pred, t):
    """That of log p(y | x_start) = A . x_start, by which N(m, S) becomes N(m + S A, S)."""
    return A.view(1, 3, 2).expand_as(x_t)


def shift_of(predict, sampler, steps, conditioning, options):
    """What guidance moves the series (6,) by; the process is linear, so that is the same for all."""
    moved = run(sampler, predict, steps, conditioning, **options) - run(sampler, predict, steps, **options)
    assert torch.allclose(moved, moved[:1].expand_as(moved), atol=0.02)
    return moved.flatten(1).mean(dim=0)


@SCHEDULES
@GUIDED_SAMPLERS
def test_on_white_data_scale_1_is_bayes_rule(sampler, steps, options, noise_schedule):
    """For the gradient at x0_pred as it is, but for the signal that the linear schedule leaves in x_T, which is drawn
    without guidance."""
    predict = prediction(200, 0.1, 4, noise_schedule, torch.eye(6))
    for scale in (-0.5, 0.3, 1.5):
        shift = shift_of(predict, sampler, steps, Conditioning(constant_gradient, scale), options)
        assert torch.allclose(shift, scale * A, rtol=0.05, atol=1e-3)


@SCHEDULES
@GUIDED_SAMPLERS
def test_through_the_denoiser_scale_1_is_bayes_rule_on_any_data(sampler, steps, options, noise_schedule):
    """Pulled back through the denoiser, which for Gaussian data is linear, the gradient is that of log p(y | x_t)."""
    def pulled_back(x_t, x0_pred, t):
        return torch.autograd.grad((x0_pred.flatten(1) @ A).sum(), x_t)[0]

    predict = prediction(200, 0.1, 4, noise_schedule)
    shift = shift_of(predict, sampler, steps, Conditioning(pulled_back, 1.5, through_denoiser=True), options)
    assert torch.allclose(shift, 1.5 * COVARIANCE @ A, rtol=0.1, atol=0.02)


@SCHEDULES
@GUIDED_SAMPLERS
def test_the_gradient_of_a_likelihood_in_x_t_gives_the_posterior(sampler, steps, options, noise_schedule):
    """y = x_start + N(0, 0.5) at every value: mean and covariance of the posterior, with the gradient of
    log p(y | x_t), whose variance is 0.5 plus that of x_start given x_t."""
    predict = prediction(200, 0.1, 6000, noise_schedule)
    schedule, observed = predict.process.schedule, torch.tensor([1.0, 0.5, -1.0, 0.0, 1.5, -0.5])

    def gradient(x_t, x0_pred, t):
        remaining = schedule.alpha_cumprod(t)
        gain = math.sqrt(remaining) * COVARIANCE @ torch.linalg.inv(
            remaining * COVARIANCE + (1 - remaining) * torch.eye(6))
        variance = 0.5 * torch.eye(6) + COVARIANCE - math.sqrt(remaining) * gain @ COVARIANCE
        return ((observed - x0_pred.flatten(1)) @ torch.linalg.inv(variance) @ gain).view_as(x_t)

    samples = run(sampler, predict, steps, Conditioning(gradient, 1.0, location="x_t"), **options).flatten(1)
    posterior = torch.linalg.inv(torch.linalg.inv(COVARIANCE) + 2 * torch.eye(6))
    assert torch.allclose(samples.mean(dim=0), MEAN + 2 * posterior @ (observed - MEAN), atol=0.06)
    assert torch.allclose(samples.T.cov(), posterior, atol=0.06)


def test_a_gradient_as_it_is_moves_wide_directions_too_little_and_narrow_ones_too_far():
    """By at most some powers of the standard deviation, as it takes all directions for white."""
    variances = torch.tensor([0.05, 0.2, 0.5, 1.0, 3.0, 10.0])
    for sampler, steps in ((ddpm, None), (ddim, 50), (dpm_solver_pp, 10)):
        predict = prediction(200, 0.1, 4, covariance=torch.diag(variances))
        ones = Conditioning(lambda x_t, x0, t: torch.ones_like(x_t), 0.1)
        delivered = shift_of(predict, sampler, steps, ones, {}) / (0.1 * variances)
        assert (delivered.diff() < 0).all() and delivered[3] == pytest.approx(1, abs=0.05)
        assert 2.5 < delivered[0] < 6.5 and 0.15 < delivered[-1] < 0.3


@SCHEDULES
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("conditioning", [Conditioning(constant_gradient, 1e3),
                                          Conditioning(constant_gradient, 1e3, location="x_t"),
                                          Conditioning(constant_gradient, 1e3, "constant")])
def test_guided_series_stay_within_bounds(sampler, conditioning, noise_schedule):
    bounds = (torch.tensor([-1.0, -2.0]), torch.tensor([3.0, 2.0]))
    predict = dataclasses.replace(prediction(200, 0.1, 16, noise_schedule), bounds=bounds)
    series = run(sampler, predict, 10, conditioning)
    assert (series >= bounds[0]).all() and (series <= bounds[1]).all()
    assert ((series - run(sampler, predict, 10)).flatten(1)[:, A > 0].mean(dim=0) > 0.1).all()


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
@pytest.mark.parametrize("step_size", ["bayes", "constant"])
def test_scale_zero_is_the_unguided_sampler_bit_for_bit(sampler, step_size):
    predict = prediction(50, 0.3, 16)
    guided = run(sampler, predict, 20, Conditioning(lambda x_t, x0, t: torch.full_like(x_t, torch.nan), 0.0, step_size))
    assert torch.equal(guided, run(sampler, predict, 20))


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
