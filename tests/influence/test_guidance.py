"""The influence gradient J against a float64 per-sample loop, and the objectives built from it."""

import dataclasses

import pytest
import torch
from fitted_tasks import NAMES, Linear, fitted_task, loop_gradient, loop_mean, series

from tardiff.config import GuidanceConfig
from tardiff.influence.guidance import (
    Neighbours,
    central_difference_gradients,
    exact_gradients,
    guidance_function,
    head_gradient,
    input_gradient,
    objective_function,
)
from tardiff.influence.scores import influence_scores
from tardiff.influence.task import DownstreamTask, dot, layer_parameters
from tardiff.utils.errors import UserError

X, Y = series(9, seed=7)


def guidance_direction(task):
    """The mean loss gradient of a few other series, by the loop."""
    return loop_mean(task, *series(20, seed=3))


def numerical_influence_gradient(task, direction, x, y, step=1e-5):
    """J of one float64 sample from the definition alone: numerical derivatives in x of G . grad loss(x)."""
    gradient = torch.zeros_like(x)
    for index in range(x.numel()):
        moved = [x.clone(), x.clone()]
        moved[0].view(-1)[index] += step
        moved[1].view(-1)[index] -= step
        above, below = (dot(loop_gradient(task, point, y), direction) for point in moved)
        gradient.view(-1)[index] = (above - below) / (2 * step)
    return gradient


def loop_influence_gradient(task, direction, x, y):
    """J of one float64 sample by double backward at batch size 1."""
    x = x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(task.model(x[None]), y[None])
    names, weights = list(direction), dict(task.model.named_parameters())
    gradients = torch.autograd.grad(loss, [weights[name] for name in names], create_graph=True)
    return torch.autograd.grad(sum((gradient * direction[name]).sum() for name, gradient in zip(names, gradients,
                                                                                                strict=True)), x)[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_loop_oracle_agrees_with_the_definition(name):
    task = fitted_task(name, double=True)
    direction = guidance_direction(task)
    numerical = numerical_influence_gradient(task, direction, X[0].double(), Y[0])
    looped = loop_influence_gradient(task, direction, X[0].double(), Y[0])
    assert (numerical - looped).norm() < 1e-6 * looped.norm()


@pytest.mark.parametrize("name", NAMES)
def test_exact_gradient_equals_the_float64_loop(name):
    task = fitted_task(name, double=True)
    direction = guidance_direction(task)
    influence_gradient, loss_gradient = exact_gradients(task, direction, X.double(), Y)
    expected = torch.stack([loop_influence_gradient(task, direction, x, y) for x, y in zip(X.double(), Y, strict=True)])
    assert (influence_gradient - expected).norm() < 1e-10 * expected.norm()
    assert torch.allclose(loss_gradient, input_gradient(task, X.double(), Y), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_central_difference_in_float32_is_within_a_thousandth(name, scale):
    task, exact = fitted_task(name), fitted_task(name, double=True)
    direction = guidance_direction(exact)
    scaled = {key: (scale * value).float() for key, value in direction.items()}
    influence_gradient, loss_gradient = central_difference_gradients(task, Neighbours.along(task, scaled), X, Y)
    expected = torch.stack([loop_influence_gradient(exact, direction, x, y)
                            for x, y in zip(X.double(), Y, strict=True)])
    assert (influence_gradient / scale - expected).norm() < 1e-3 * expected.norm()
    assert (loss_gradient - input_gradient(exact, X.double(), Y)).norm() < 1e-3 * loss_gradient.norm()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("objective", ["influence", "classifier", "anchored"])
def test_each_row_depends_on_its_own_sample(name, objective):
    task = fitted_task(name)
    direction = guidance_direction(task)

    def gradient(x, y):
        return guidance_function(task, direction, y, GuidanceConfig(objective, unit_rms=True))(x, x, 0)

    whole = gradient(X, Y)
    assert torch.allclose(gradient(X[4:5], Y[4:5])[0], whole[4], atol=1e-3)
    assert torch.allclose(whole.pow(2).mean(dim=(1, 2)).sqrt(), torch.ones(len(X)), atol=1e-4)


def test_objectives_are_the_named_combinations():
    task = fitted_task("gru", double=True)
    direction = guidance_direction(task)
    x = X.double()

    def gradient(objective, **options):
        return guidance_function(task, direction, Y, GuidanceConfig(objective, method="exact", **options))(x + 5, x, 0)

    assert torch.allclose(gradient("classifier"), -input_gradient(task, x, Y))
    assert torch.allclose(gradient("anchored", influence_weight=0.3),
                          gradient("classifier") + 0.3 * gradient("influence"))
    assert torch.allclose(gradient("classifier", location="x_t"), -input_gradient(task, x + 5, Y))


def test_each_objective_of_the_settings_has_a_gradient():
    (field,) = [field for field in dataclasses.fields(GuidanceConfig) if field.name == "objective"]
    task = fitted_task("gru")
    found = {objective: objective_function(task, guidance_direction(task), GuidanceConfig(objective))(X, Y)
             for objective in field.metadata["choices"] if objective != "none"}
    assert len({tuple(gradient.flatten().tolist()) for gradient in found.values()}) == len(found)
    assert found.keys() >= {"influence", "classifier", "anchored"}


def test_classifier_objective_climbs_the_probability_of_the_label():
    task = fitted_task("gru")
    moved = X + 0.05 * guidance_function(task, None, Y, GuidanceConfig("classifier"))(X, X, 0)
    assert (task.losses(moved, Y) < task.losses(X, Y)).all()


def test_gradient_through_the_denoiser_is_the_pullback():
    task, weight = fitted_task("gru"), torch.randn(3, 3)
    x_t = X.clone().requires_grad_()
    found = guidance_function(task, None, Y, GuidanceConfig("classifier", through_denoiser=True))(x_t, x_t @ weight, 0)
    expected = -input_gradient(task, (X @ weight).detach(), Y) @ weight.T
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("location", ["x0_pred", "x_t"])
def test_the_gradient_is_pulled_back_through_what_is_read(location):
    task, weight = fitted_task("gru"), torch.randn(6, 3)
    x_t, x0_pred = torch.randn(2, len(X), X.shape[1], 6)
    config = GuidanceConfig("classifier", location=location)
    found = guidance_function(task, None, Y, config, read=lambda signals: signals @ weight)(x_t, x0_pred, 0)
    at = x_t if location == "x_t" else x0_pred
    assert torch.allclose(found, -input_gradient(task, at @ weight, Y) @ weight.T, atol=1e-6)


@pytest.mark.parametrize("through_denoiser", [False, True])
def test_unit_rms_is_of_the_signals_that_the_classifier_reads(through_denoiser):
    """Beside them are masks, of which it knows nothing."""
    task, weight = fitted_task("gru"), torch.randn(6, 6)
    x_t = torch.cat([X, torch.ones_like(X)], dim=2).requires_grad_()
    config = GuidanceConfig("classifier", unit_rms=True, through_denoiser=through_denoiser)
    found = guidance_function(task, None, Y, config, read=lambda signals: signals[..., :3])(x_t, x_t @ weight, 0)
    assert found.shape == x_t.shape
    assert torch.allclose(found[..., :3].pow(2).mean(dim=(1, 2)), torch.ones(len(X)), atol=1e-4)
    assert (found[..., 3:] != 0).all() == through_denoiser


@pytest.mark.parametrize("name", NAMES)
def test_influence_scores_equal_the_loop(name):
    task, exact = fitted_task(name), fitted_task(name, double=True)
    direction = guidance_direction(exact)
    expected = torch.stack([dot(loop_gradient(exact, x, y), direction) for x, y in zip(X.double(), Y, strict=True)])
    found = influence_scores(task, {key: value.float() for key, value in direction.items()}, X, Y, batch_size=4)
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_a_layer_without_second_derivative_is_named():
    class Never(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no second derivative")

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return Never.apply(gradient)

    class Model(Linear):
        def forward(self, x):
            return Once.apply(super().forward(x))

    task = DownstreamTask(Model())
    with pytest.raises(UserError, match=r"no second derivative.*central_difference"):
        exact_gradients(task, dict(task.parameters), X, Y)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_cudnn_layers_give_the_gradients_of_the_cpu(name):
    task, direction = fitted_task(name), guidance_direction(fitted_task(name))
    expected = central_difference_gradients(task, Neighbours.along(task, direction), X, Y)
    task = DownstreamTask(fitted_task(name).model.to("cuda"))
    direction = {key: value.to("cuda") for key, value in direction.items()}
    found = central_difference_gradients(task, Neighbours.along(task, direction), X.to("cuda"), Y.to("cuda"))
    assert all((a.cpu() - b).norm() < 5e-3 * b.norm() for a, b in zip(found, expected, strict=True))


def of_the_head(task, direction):
    """G with all but the parameters of the head at 0, and G of the head alone."""
    names = layer_parameters(task.head(X.to(next(iter(task.parameters.values())).dtype)))
    masked = {name: value if name in names else torch.zeros_like(value) for name, value in direction.items()}
    return masked, {name: direction[name] for name in names}


@pytest.mark.parametrize("name", NAMES)
def test_the_closed_form_of_the_head_equals_the_float64_loop_and_the_general_forms(name):
    task = fitted_task(name, double=True)
    masked, direction = of_the_head(task, guidance_direction(task))
    expected = torch.stack([loop_influence_gradient(task, masked, x, y) for x, y in zip(X.double(), Y, strict=True)])
    found = head_gradient(task, direction, X.double(), Y, 1.0, 0.0)
    assert (found - expected).norm() < 1e-10 * expected.norm()
    assert torch.allclose(found, exact_gradients(task, masked, X.double(), Y)[0], rtol=1e-9, atol=1e-13)
    difference, _ = central_difference_gradients(task, Neighbours.along(task, masked), X.double(), Y)
    assert (found - difference).norm() < 1e-5 * expected.norm()


def test_objectives_of_the_head_are_the_named_combinations():
    task = fitted_task("gru", double=True)
    masked, direction = of_the_head(task, guidance_direction(task))
    for objective in ("influence", "anchored"):
        head = objective_function(task, direction, GuidanceConfig(objective, parameters="head"))(X.double(), Y)
        general = objective_function(task, masked, GuidanceConfig(objective, method="exact"))(X.double(), Y)
        assert torch.allclose(head, general, rtol=1e-9, atol=1e-13)


def test_the_head_without_bias_under_a_loss_of_the_user():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.score = torch.nn.Linear(24, 5), torch.nn.Linear(5, 1, bias=False)

        def forward(self, x):
            return self.score(torch.tanh(self.body(x.flatten(1))))

    def margin(logits, y):
        return (logits[:, 0] - y).pow(2).tanh()

    torch.manual_seed(0)
    task = DownstreamTask(Model().double(), margin)
    assert task.head(X.double()) == "score"
    direction = {"score.weight": torch.randn(1, 5, dtype=torch.float64)}
    masked = {name: direction.get(name, torch.zeros_like(value)) for name, value in task.parameters.items()}
    assert torch.allclose(head_gradient(task, direction, X.double(), Y, 1.0, 0.0),
                          exact_gradients(task, masked, X.double(), Y)[0], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("change", ["not linear", "fixed weights"])
def test_a_model_without_a_head_is_refused(change):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 2))
    if change == "not linear":
        model.append(torch.nn.Tanh())
    else:
        model.insert(1, torch.nn.Linear(24, 24))
        model[2].requires_grad_(False)
    with pytest.raises(UserError, match=r"parameters=head.*Use guidance.parameters=all"):
        DownstreamTask(model).head(X)
