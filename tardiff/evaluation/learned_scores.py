"""Scores by a small network that is trained for the purpose: discriminative (real or synthetic?) and predictive (what
comes next?).

Published protocol of both: Yoon et al. 2019, TimeGAN, in PyTorch form. PyTorch's GRU has other equations and another
initialisation than that of TensorFlow 1, so its scores are not those of the paper. All series are (N, L, C) float32,
z-scored with the scaler of the real training data. Perfect generators reach 0 (discriminative) and the score of real
training data (predictive).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tardiff.evaluation.neighbours import CPU, drawn_rows
from tardiff.utils.seeding import derive_seed, seed_torch

MAX_ROWS = 20_000
_FEWEST_ROWS, _FEWEST_SUBJECTS = 10, 3
# Early stopping of the strong judge: iterations between two checks of the validation loss, how many checks in vain end
# it, and the fall of the loss below which a check was in vain.
_CHECK_EVERY, _PATIENCE, _LEAST_FALL = 50, 6, 1e-3


def discriminative_score(real: np.ndarray, synthetic: np.ndarray, seed: int, judge: str = "strong",
                         iterations: int = 2000, batch_size: int = 128, max_rows: int = MAX_ROWS,
                         device: torch.device = CPU,
                         subjects: tuple[np.ndarray | None, np.ndarray | None] = (None, None)) -> dict[str, float]:
    """Return how well a judge tells real from synthetic series: |accuracy - 0.5| on held-out rows, 0.5 at worst.

    `timegan` is the published judge: one tanh GRU layer of max(C // 2, 1) units, the last state, Adam at 1e-3, all
    iterations, and the data mapped to [0, 1] with the range of the real side. With few channels it has hardly any units
    and misses a lot. `strong` is a convolutional network (it costs a fifth of a GRU of 64 x 2 units on a CPU) on the
    z-scored data, stopped where its loss on a tenth of the rows, of which it learns nothing, is lowest.

    Both sides are subsampled to the same number of rows, min(N real, N synthetic, max_rows), and split 80/20 by the
    `subjects` (N,) of each, by rows where None: a judge that met a patient in training would know the patient's other
    rows. A batch is batch_size rows of each side. Returns `score`, `accuracy` (the mean of the recalls), `real_recall`,
    `synthetic_recall` and `rows` (of each side). With fewer than 10 rows or 3 subjects there is nothing to learn from
    or to test on: NaN.
    """
    rows = min(len(real), len(synthetic), max_rows)
    drawn = [drawn_rows(x, rows, seed, "judge") for x in (real, synthetic)]
    owners = [chosen if owner is None else owner[chosen] for chosen, owner in zip(drawn, subjects, strict=True)]
    if rows < _FEWEST_ROWS or min(len(np.unique(owner)) for owner in owners) < _FEWEST_SUBJECTS:
        return dict.fromkeys(("score", "accuracy", "real_recall", "synthetic_recall"), float("nan")) | {"rows": rows}
    if judge == "timegan":
        real, synthetic = to_unit_range(real, real), to_unit_range(synthetic, real)
    validated = judge == "strong"
    parts = [[torch.from_numpy(x[chosen][part]).to(device) for part in _cut(owner, validated)]
             for x, chosen, owner in zip((real, synthetic), drawn, owners, strict=True)]
    test, validation, train = map(list, zip(*parts, strict=True))
    build = {"timegan": RecurrentJudge, "strong": ConvolutionalJudge}[judge]
    model = _seeded(lambda: build(real.shape[2]), seed).to(device)
    _fit_judge(model, train, validation if validated else None, seed, iterations, batch_size)
    real_recall = float((_predict(model, test[0]) > 0).double().mean())
    synthetic_recall = float((_predict(model, test[1]) <= 0).double().mean())
    accuracy = (real_recall + synthetic_recall) / 2
    return {"score": abs(accuracy - 0.5), "accuracy": accuracy, "real_recall": real_recall,
            "synthetic_recall": synthetic_recall, "rows": rows}


def predictive_score(real_test: np.ndarray, train_on: np.ndarray, seed: int, form: str = "all_features",
                     iterations: int = 5000, batch_size: int = 128, max_rows: int = MAX_ROWS,
                     device: torch.device = CPU) -> dict[str, float]:
    """Return the mean absolute error, on real series, of a one-step-ahead GRU that was trained on `train_on`.

    With synthetic series in `train_on` this is the score of a generator; with real training series it is the floor that
    no generator is expected to beat. One tanh GRU layer of max(C // 2, 1) units, Adam at 1e-3.
    `timegan` (Yoon et al. 2019): from all channels but the last, predict the last one step ahead, through a sigmoid, on
    data mapped to [0, 1] with the range of `real_test`; it depends on the order of the channels and is NaN for C = 1.
    `all_features` (GT-GAN, TimeDiff): from all channels predict all, linear, z-scored; predicting the mean of Gaussian
    data scores E|z| = 0.80, and worse values are possible. (The originals z-score each set by its own statistics, which
    forgives wrong levels; here the training scaler of the caller holds.)

    Returns `score` and `rows`, the number of rows trained on, at most max_rows; it is tested on all of `real_test`.
    Series of one step have no next one: NaN.
    """
    rows, channels = min(len(train_on), max_rows), train_on.shape[2]
    if train_on.shape[1] < 2 or (form == "timegan" and channels == 1):
        return {"score": float("nan"), "rows": rows}
    x = train_on[drawn_rows(train_on, rows, seed, "predictor")]
    if form == "timegan":
        x, real_test = to_unit_range(x, real_test), to_unit_range(real_test, real_test)
    build = {"timegan": lambda: RecurrentPredictor(channels, channels - 1, 1, nn.Sigmoid()),
             "all_features": lambda: RecurrentPredictor(channels, channels, channels, nn.Identity())}[form]
    model = _seeded(build, seed).to(device)
    inputs, targets = (part.to(device) for part in _next_step(torch.from_numpy(x), form))
    generator = torch.Generator().manual_seed(derive_seed(seed, "predictor", "batches"))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(iterations):
        batch = _batch(rows, batch_size, generator)
        _descend(optimizer, F.l1_loss(model(inputs[batch]), targets[batch]))
    inputs, targets = _next_step(torch.from_numpy(np.ascontiguousarray(real_test)), form)
    errors = (_predict(model, inputs) - targets).abs()
    return {"score": float(errors.mean(dtype=torch.float64)), "rows": rows}


def _cut(subjects: np.ndarray, validated: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which rows (N,) are for test (a fifth of the subjects, in the order of their first rows), for validation
    (a tenth, or none), and for training."""
    _, first, owner = np.unique(subjects, return_index=True, return_inverse=True)
    turn = np.argsort(np.argsort(first))[owner]
    tested = max(len(first) // 5, 1)
    kept = tested + max(len(first) // 10, 1) * validated
    return turn < tested, (tested <= turn) & (turn < kept), turn >= kept


def to_unit_range(x: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Map x (N, L, C) so that each channel of `real` spans [0, 1]; other data may reach beyond."""
    low, high = real.min(axis=(0, 1)), real.max(axis=(0, 1))
    return (x - low) / np.where(high > low, high - low, 1).astype(np.float32)


def _next_step(x: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """Return what a predictor reads (N, L - 1, inputs) and what it is to predict (N, L - 1, outputs)."""
    return (x[:, :-1, :-1], x[:, 1:, -1:]) if form == "timegan" else (x[:, :-1], x[:, 1:])


def _hidden_size(num_channels: int) -> int:
    return max(num_channels // 2, 1)


class RecurrentJudge(nn.Module):
    """The judge of TimeGAN: series (B, L, C) to the logit (B,) of being real."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.gru = nn.GRU(num_channels, _hidden_size(num_channels), batch_first=True)
        self.head = nn.Linear(_hidden_size(num_channels), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[1][-1])[:, 0]


class ConvolutionalJudge(nn.Module):
    """The strong judge: series (B, L, C) to the logit (B,) of being real.

    It also sees where in the series it is; mean and maximum over time let it judge levels and single events.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        widths, strides = [num_channels + 1, 32, 32, 64, 64], [1, 2, 2, 2]
        self.layers = nn.ModuleList(nn.Conv1d(inputs, outputs, 5, stride=stride, padding=2) for inputs, outputs, stride
                                    in zip(widths, widths[1:], strides, strict=False))
        self.head = nn.Linear(2 * widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        position = torch.linspace(-1, 1, x.shape[1], device=x.device).expand(len(x), 1, -1)
        hidden = torch.cat([x.transpose(1, 2), position], dim=1)
        for layer in self.layers:
            hidden = F.relu(layer(hidden))
        return self.head(torch.cat([hidden.mean(dim=2), hidden.amax(dim=2)], dim=1))[:, 0]


class RecurrentPredictor(nn.Module):
    """The predictor of TimeGAN: series (B, L, inputs) to predictions (B, L, outputs) of each next step."""

    def __init__(self, num_channels: int, inputs: int, outputs: int, activation: nn.Module) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, _hidden_size(num_channels), batch_first=True)
        self.head = nn.Sequential(nn.Linear(_hidden_size(num_channels), outputs), activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0])


def _seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a module on the CPU with initial weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed, "judge", "initialisation")
        return build()


def _fit_judge(model: nn.Module, train: list[Tensor], validation: list[Tensor] | None, seed: int, iterations: int,
               batch_size: int) -> None:
    """Train on (real, synthetic) rows; with a validation part, keep the weights with the lowest loss on it."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "judge", "batches"))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    lowest, weights, in_vain = float("inf"), None, 0
    for iteration in range(1, iterations + 1):
        real, synthetic = (side[_batch(len(side), batch_size, generator)] for side in train)
        _descend(optimizer, _judge_loss(model(real), model(synthetic)))
        if validation is not None and iteration % _CHECK_EVERY == 0:
            loss = float(_judge_loss(*(_predict(model, side) for side in validation)))
            in_vain += 1
            if loss < lowest - _LEAST_FALL:
                lowest, weights, in_vain = loss, copy.deepcopy(model.state_dict()), 0
            if in_vain == _PATIENCE:
                break
    if weights is not None:
        model.load_state_dict(weights)


def _judge_loss(real: Tensor, synthetic: Tensor) -> Tensor:
    """Binary cross-entropy of the logits, real as 1, summed over the two sides."""
    return F.softplus(-real).mean() + F.softplus(synthetic).mean()


def _batch(rows: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Draw min(batch_size, rows) distinct row numbers."""
    return torch.randperm(rows, generator=generator)[:batch_size]


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def _predict(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's output for all rows of x, on the device of x."""
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device)).to(x.device) for part in x.split(1024)])
