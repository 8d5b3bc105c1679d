"""The Gaussian part of the denoiser against closed forms."""

import pytest
import torch
from torch import nn

from tardiff.config import DiffusionConfig
from tardiff.diffusion.gaussian import GaussianDenoiser
from tardiff.diffusion.process import DiffusionProcess
from tardiff.sampling.samplers import Prediction, dpm_solver_pp

SIGNALS = (6, 2)


class Constant(nn.Module):
    """A network that predicts one number everywhere."""

    num_classes = 2

    def __init__(self, value=0.0):
        super().__init__()
        self.value = value

    def forward(self, x_t, t, labels):
        return torch.full_like(x_t, self.value)


def rows(size=4000, classes=2):
    """Correlated rows whose mean and covariance depend on the class."""
    torch.manual_seed(0)
    y = torch.arange(size) % classes
    mixing = 0.4 * torch.randn(classes, 12, 12)
    x = torch.einsum("nd,nde->ne", torch.randn(size, 12), mixing[y]) + y[:, None]
    return x.view(size, *SIGNALS), y


def fitted(x, y, num_components=11, prediction_type="v_prediction", network=None):
    denoiser = GaussianDenoiser(network or Constant(), DiffusionProcess(DiffusionConfig(
        prediction_type=prediction_type)), SIGNALS, num_components)
    torch.manual_seed(0)
    denoiser.fit(x, y)
    return denoiser


def covariance(denoiser, label):
    """The covariance (L C, L C) float64 that a fitted denoiser has of a label."""
    basis, rest = denoiser.components[label].double(), denoiser.rest[label].double()
    return (basis * (denoiser.variances[label] - rest)) @ basis.T + rest * torch.eye(len(basis), dtype=torch.float64)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("num_components", [0, 3, 11])
def test_it_predicts_the_conditional_mean_of_its_gaussian(prediction_type, num_components):
    """E[x_start | x_t] = m + a S (a^2 S + s^2 I)^-1 (x_t - a m), solved in float64."""
    denoiser = fitted(*rows(), num_components, prediction_type)
    t, labels, x_t = torch.tensor([0, 40, 120, 199]), torch.tensor([0, 1, 2, 1]), torch.randn(4, *SIGNALS)
    x0_pred, _ = denoiser.process.predictions(denoiser(x_t, t, labels), x_t, t)
    for row in range(4):
        remaining = denoiser.process.schedule.alphas_cumprod[t[row]]
        signal, mean, spread = remaining.sqrt(), denoiser.means[labels[row]].double(), covariance(denoiser, labels[row])
        noisy = remaining * spread + (1 - remaining) * torch.eye(12)
        expected = mean + signal * spread @ torch.linalg.solve(noisy, x_t[row].flatten() - signal * mean)
        torch.testing.assert_close(x0_pred[row].flatten().double(), expected, atol=1e-4, rtol=1e-4)


def test_moments_are_those_of_each_class_and_of_all_rows():
    x, y = rows(9000)
    denoiser, flat = fitted(x, y), x.flatten(1).double()
    for label, of_label in ((0, flat[y == 0]), (1, flat[y == 1]), (2, flat)):
        torch.testing.assert_close(denoiser.means[label].double(), of_label.mean(dim=0), atol=2e-3, rtol=1e-4)
        expected = torch.cov(of_label.T)
        assert (covariance(denoiser, label) - expected).norm() < 0.01 * expected.norm()


def test_what_components_leave_keeps_the_total_variance():
    x, y = rows()
    full, few = fitted(x, y), fitted(x, y, 3)
    for label in range(3):
        assert torch.isclose(covariance(few, label).trace(), covariance(full, label).trace(), rtol=1e-4)


def test_a_rare_class_borrows_the_covariance_of_the_others():
    x, y = rows()
    y = y * (torch.arange(len(y)) < 6)  # Three rows of class 1.
    denoiser = fitted(x, y)
    assert (covariance(denoiser, 1) - covariance(denoiser, 0)).norm() < 0.3 * covariance(denoiser, 0).norm()
    assert torch.linalg.matrix_rank(covariance(denoiser, 1)) == 12


def test_the_mean_of_a_rare_class_is_nearer_the_truth_than_that_of_its_rows():
    """Over 40 draws of 20 rare rows among 400, which differ along the first of 40 directions or not at all."""
    process, signals = DiffusionProcess(DiffusionConfig()), (20, 2)
    scales = torch.linspace(2, 0.2, 40)
    for shift in (0.0, 1.5):
        truth, plain, shrunk = torch.zeros(40), 0.0, 0.0
        truth[0] = shift
        for draw in range(40):
            torch.manual_seed(draw)
            y = (torch.arange(400) < 20).long()
            x = scales * torch.randn(400, 40) + y[:, None] * truth
            denoiser = GaussianDenoiser(Constant(), process, signals, 20)
            denoiser.fit(x.view(400, *signals), y)
            plain += (x[y == 1].mean(dim=0) - truth).square().sum()
            shrunk += (denoiser.means[1] - truth).square().sum()
        assert shrunk < 0.6 * plain


def test_constant_signals_and_equal_rows_are_no_obstacle():
    torch.manual_seed(0)
    x, y = torch.randn(600, 6, 4), (torch.arange(600) < 60).long()
    x[..., 2:] = 1
    denoiser = GaussianDenoiser(Constant(), DiffusionProcess(DiffusionConfig()), (6, 4), 20)
    for of_rows in (x, torch.ones_like(x)):
        denoiser.fit(of_rows, y)
        torch.testing.assert_close(denoiser.means.view(3, 6, 4)[..., 2:], torch.ones(3, 6, 2))
        assert torch.isfinite(denoiser(x[:2], torch.tensor([0, 199]), torch.tensor([0, 1]))).all()


def test_a_class_without_rows_and_very_few_rows_are_no_obstacle():
    x, y = rows(5, classes=1)
    denoiser = fitted(x, y, GaussianDenoiser.num_components(5, SIGNALS))
    output = denoiser(torch.randn(3, *SIGNALS), torch.tensor([0, 99, 199]), torch.tensor([0, 1, 2]))
    assert torch.isfinite(output).all()


def test_the_network_adds_to_it_and_rows_do_not_mix():
    x, y = rows()
    alone, with_network = fitted(x, y), fitted(x, y, network=Constant(0.7))
    x_t, t, labels = x[:4], torch.tensor([3, 50, 120, 199]), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(with_network(x_t, t, labels), alone(x_t, t, labels) + 0.7)
    torch.testing.assert_close(alone(x_t[1:2], t[1:2], labels[1:2]), alone(x_t, t, labels)[1:2], atol=1e-5, rtol=1e-5)


def test_before_any_training_samples_have_level_and_spread_of_each_class():
    """The variance over series of their mean over time, which a network alone is slow to learn."""
    x, y = rows()
    denoiser = fitted(x, y)
    noise = torch.randn(20_000, *SIGNALS)
    for label in (0, 1):
        predict = Prediction(denoiser, denoiser.process, torch.full((len(noise),), label), null_label=2)
        series = dpm_solver_pp(predict, lambda index: noise, denoiser.process.schedule.timesteps(50, "log_snr"))
        for measure in (lambda s: s.mean(dim=1).var(dim=0), lambda s: s.var(dim=1).mean(dim=0)):
            torch.testing.assert_close(measure(series), measure(x[y == label]), rtol=0.06, atol=0.01)


def test_series_have_the_spread_of_single_series_not_that_of_all():
    """Calm and restless series, standard deviations 0.5 and 2. Without gains all of them come out near 1.45."""
    torch.manual_seed(0)
    process = DiffusionProcess(DiffusionConfig())
    x = torch.tensor([0.5, 2.0]).repeat(2000)[:, None, None] * torch.randn(4000, 24, 1)
    denoiser = GaussianDenoiser(Constant(), process, (24, 1), 10)
    denoiser.fit(x, torch.zeros(4000, dtype=torch.int64))

    def shares_of_calm_and_restless():
        noise = torch.randn(1000, 24, 1)
        predict = Prediction(denoiser, process, torch.zeros(1000, dtype=torch.int64), null_label=2)
        series = dpm_solver_pp(predict, lambda index: noise, process.schedule.timesteps(20, "log_snr"))
        spread = series.std(dim=1)
        return [float(((spread > low) & (spread < high)).float().mean()) for low, high in ((0.25, 0.8), (1.6, 2.8))]

    assert max(shares_of_calm_and_restless()) < 0.3
    optimizer = torch.optim.Adam(denoiser.gains.parameters(), 3e-3)
    for _ in range(600):
        optimizer.zero_grad()
        rows, t = torch.randint(4000, (256,)), torch.randint(process.schedule.num_train_timesteps, (256,))
        process.loss(denoiser, x[rows], torch.zeros_like(t), t, torch.randn(256, 24, 1)).backward()
        optimizer.step()
    calm, restless = shares_of_calm_and_restless()
    assert calm == pytest.approx(0.5, abs=0.2) and restless == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("beta_end", [0.1, 0.9])
def test_gains_reach_their_own_channel_alone_and_are_finite_at_every_step(beta_end):
    """Also of series of one step, and where all of the signal is gone."""
    process = DiffusionProcess(DiffusionConfig(beta_end=beta_end))
    for length in (6, 1):
        denoiser = GaussianDenoiser(Constant(), process, (length, 2), 0)
        x_t, t = torch.randn(200, length, 2), torch.arange(200)
        plain = denoiser(x_t, t, torch.zeros_like(t))
        denoiser.gains[-1].bias.data[:] = torch.tensor([0.5, 0.0, 0.0, 2.0])
        with torch.autocast("cpu", torch.bfloat16):
            found = denoiser(x_t, t, torch.zeros_like(t))
        assert torch.isfinite(plain).all()
        torch.testing.assert_close(found, torch.stack([1.5 * plain[..., 0], plain[..., 1] + 2 * x_t[..., 1]], dim=2))
