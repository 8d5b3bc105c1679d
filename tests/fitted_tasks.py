"""Tiny fitted tasks shared by the influence tests."""

import copy

import torch

from classifier.rnn import RNNClassifier
from classifier.timesnet import TimesNet
from tardiff.influence.task import DownstreamTask

LENGTH, CHANNELS, CLASSES = 8, 3, 2
NAMES = ("gru", "lstm", "timesnet")


def series(rows, seed=0):
    """Series (rows, 8, 3) of two classes: class 1 rises in channel 0; a tenth of the labels are flipped."""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.rand(rows, generator=generator) < 0.4).long()
    x = torch.randn(rows, LENGTH, CHANNELS, generator=generator)
    x[:, :, 0] += y[:, None] * torch.linspace(-1, 1, LENGTH)
    flipped = torch.rand(rows, generator=generator) < 0.1
    return x, torch.where(flipped, 1 - y, y)


def build(name):
    torch.manual_seed(1)
    if name == "timesnet":
        model = TimesNet(LENGTH, CHANNELS, CLASSES, d_model=6, d_ff=8, num_blocks=1, top_k=2, num_kernels=3)
        model.fit_periods(series(200)[0])
        return model
    return RNNClassifier(CHANNELS, CLASSES, name, hidden_size=6, num_layers=1)


def fitted_task(name, steps=80, double=False):
    """A task whose model has been trained for a while on 200 series."""
    model, (x, y) = build(name), series(200)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return DownstreamTask(model.double() if double else model)


class Linear(torch.nn.Module):
    """Logistic regression: every gradient is known in closed form."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.head = torch.nn.Linear(LENGTH * CHANNELS, CLASSES)

    def forward(self, x):
        return self.head(x.flatten(1))


def loop_gradient(task, x, y):
    """The loss gradient of one sample, by plain autograd on a copy of the model: the oracle of everything here."""
    model = copy.deepcopy(task.model)
    loss = torch.nn.functional.cross_entropy(model(x[None]), y[None])
    return dict(zip([name for name, _ in model.named_parameters()], torch.autograd.grad(loss, list(model.parameters())),
                    strict=True))


def loop_mean(task, x, y):
    """The mean of the loss gradients of series (N, 8, 3), of the type of the task."""
    gradients = [loop_gradient(task, *row) for row in zip(x.to(next(task.model.parameters()).dtype), y, strict=True)]
    return {name: sum(gradient[name] for gradient in gradients) / len(gradients) for name in gradients[0]}
