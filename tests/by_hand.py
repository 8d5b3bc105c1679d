"""What networks written out from their specification share: sizes, weights that all tell, and layers by hand."""

import torch
import torch.nn.functional as F


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def perturbed(module, width=1.0):
    """Move all weights and statistics of a module away from where they start, which may hide what they do."""
    for value in module.state_dict().values():
        if value.is_floating_point():
            value += width * (torch.rand_like(value) - 0.5)
    return module


def weights_of(module):
    """Return copies of the tensors of a module by name; a normalised weight is a length times a direction."""
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    for name in [name for name in weights if name.endswith("original1")]:
        length, direction = weights[name.replace("original1", "original0")], weights[name]
        norm = direction.flatten(1).norm(dim=1).view_as(length)
        weights[name.replace("parametrizations.weight.original1", "weight")] = length * direction / norm
    return weights


class ByHand:
    """The layers of a network as specified, on the weights of `module`, training or not as it does."""

    def __init__(self, module):
        self.weights, self.training = weights_of(module), module.training

    def linear(self, name, x):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def convolution(self, name, x, layer=F.conv2d, **options):
        return layer(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **options)

    def batch_norm(self, name, x):
        mean, variance, scale, shift = (self.weights[f"{name}.{part}"]
                                        for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, variance, scale, shift, self.training)

    def layer_norm(self, name, x, eps=1e-5):
        return F.layer_norm(x, x.shape[2:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)
