"""Derivatives that influence takes of a classifier: right, and finite where it differentiates twice."""

import torch
from torch import nn
from torch.func import functional_call


def assert_derivatives_are_right(model: nn.Module, x: torch.Tensor) -> None:
    """Compare the first and second derivatives in x (N, L, C) float64 and in all weights with finite differences."""
    names = [name for name, _ in model.named_parameters()]
    weights = [value.detach().clone().requires_grad_() for value in model.parameters()]

    def logits(x, *values):
        return functional_call(model, dict(zip(names, values, strict=True)), (x,))

    inputs = (x.requires_grad_(), *weights)
    assert torch.autograd.gradcheck(logits, inputs)
    assert torch.autograd.gradgradcheck(logits, inputs, fast_mode=True)


def assert_double_backward_is_finite(model: nn.Module, x: torch.Tensor) -> None:
    """Check the gradient in x (4, L, C) of the squared norm of the loss gradient."""
    x.requires_grad_()
    loss = nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 0, 1]))
    gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    gradient, = torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), x)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
