"""A downstream task: a model and a loss, the only thing that influence knows of a classifier."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from tardiff.utils.checkpoint import fingerprint
from tardiff.utils.errors import UserError

LossFunction = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return one loss per sample (B,) for logits (B, K) and labels y (B,) int64; for K = 1 the binary loss."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], y.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, y, reduction="none")


def probabilities(logits: Tensor) -> Tensor:
    """Return class probabilities (B, K) for logits (B, K), or (B, 2) for one logit per sample."""
    if logits.shape[1] == 1:
        positive = torch.sigmoid(logits)
        return torch.cat([1 - positive, positive], dim=1)
    return torch.softmax(logits, dim=1)


class DownstreamTask:
    """A fitted model with its per-sample loss, prepared for differentiation.

    model: (B, L, C) normalised -> logits (B, K), without coupling between the samples of a batch. Dropout is off and
    normalisation layers use their stored statistics. `parameters` are the trainable ones, by name; all gradients here
    are taken at them.
    """

    def __init__(self, model: nn.Module, loss: LossFunction = cross_entropy) -> None:
        self.model = _for_differentiation(model)
        self.loss_function = loss
        self.parameters: dict[str, Tensor] = {name: parameter.detach() for name, parameter in model.named_parameters()
                                              if parameter.requires_grad}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def losses(self, x: Tensor, y: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the loss of each sample (B,) for x (B, L, C), y (B,) int64, at `parameters` (default: the fitted)."""
        return self.loss_function(self.logits(x, parameters), y)

    def logits(self, x: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the logits (B, K) for x (B, L, C), at `parameters` (default: the fitted)."""
        return functional_call(self.model, dict(parameters or self.parameters), (x,))

    def inputs_and_logits(self, x: Tensor, layer: str) -> tuple[Tensor, Tensor]:
        """Return what the linear layer of that name is given (B, H), and the logits (B, K), for x (B, L, C)."""
        inputs = []
        hook = self.model.get_submodule(layer).register_forward_hook(lambda module, given, output: inputs.extend(given))
        try:
            logits = self.logits(x)
        finally:
            hook.remove()
        return inputs[0], logits

    @torch.no_grad()
    def head(self, x: Tensor) -> str:
        """Return the name of the linear layer that gives the logits; it is found with any x (B, L, C).

        Raises UserError if the logits are not the output of a linear layer, called once, with weights that are trained.
        """
        outputs: dict[str, list[Tensor]] = {}
        hooks = [module.register_forward_hook(
            lambda module, given, output, name=name: outputs.setdefault(name, []).append(output))
            for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
        try:
            logits = self.model(x)
        finally:
            for hook in hooks:
                hook.remove()
        for name, calls in outputs.items():
            if len(calls) == 1 and calls[0] is logits and layer_parameters(name)[0] in self.parameters:
                return name
        raise UserError("guidance.parameters=head: the logits of this classifier are not the output of a linear layer "
                        "(torch.nn.Linear) whose weights are trained. Use guidance.parameters=all.")

    def shifted(self, direction: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
        """Return the parameters moved by step x direction."""
        return {name: torch.add(value, direction[name], alpha=step) for name, value in self.parameters.items()}

    def fingerprint(self) -> str:
        """Return a hash of all weights, fixed ones and buffers included."""
        return fingerprint(self.model.state_dict())

    @torch.no_grad()
    def check_independence(self, x: Tensor) -> None:
        """Raise UserError if the logits of a sample depend on its batch-mates, for a few samples x (B >= 2, L, C).

        The influence gradient of a sample is then undefined, and results would change with the batch size.
        """
        with full_precision():
            together = self.model(x)
            alone = torch.cat([self.model(row[None]) for row in x])
        if not torch.allclose(together, alone, rtol=1e-3, atol=1e-3 * float(together.abs().max())):
            raise UserError(f"the classifier's logits change by up to {float((together - alone).abs().max()):.2g} with "
                            "the other samples of the batch. Guidance needs a model that treats each sample alone: "
                            "remove statistics over the batch dimension.")


def layer_parameters(layer: str) -> tuple[str, str]:
    """Return the parameter names of weight and bias of a layer of that name; the model itself has the name ''."""
    prefix = f"{layer}." if layer else ""
    return f"{prefix}weight", f"{prefix}bias"


def full_precision() -> contextlib.AbstractContextManager:
    """Return a context without TF32, cuDNN's default, whose rounding of 1e-3 would drown the differences taken here."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def dot(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Return the inner product (scalar) of two sets of tensors with the same names."""
    return sum((first[name] * second[name]).sum() for name in first)


def norm(direction: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm over all tensors, summed in float64."""
    return float(sum(value.double().pow(2).sum() for value in direction.values()).sqrt())


def _for_differentiation(model: nn.Module) -> nn.Module:
    """Put a model in evaluation mode, but let cuDNN's recurrent layers run backward, which they refuse outside of
    training mode: those go to training mode with their dropout at 0."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.dropout = 0.0
            module.train()
    return model
