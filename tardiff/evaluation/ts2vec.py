"""Context-FID: the Frechet distance between TS2Vec representations of real and synthetic series.

TS2Vec: Yue et al. 2022. Context-FID: Jeha et al. 2022, in the form of Diffusion-TS (Yuan & Qiao 2024): encoder
settings, 600 iterations of 8 series, averaged weights, and one representation per series by the maximum over time. The
encoder is trained on real normalised data alone; training is a source of variance, so one encoder per dataset and seed
is kept (its `state_dict()` holds all of it) and shared by all sets that are compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tardiff.evaluation.neighbours import CPU, drawn_rows
from tardiff.utils.seeding import derive_seed, seed_torch

WIDTH, DEPTH, REPRESENTATION = 64, 10, 320
MAX_ROWS = 10_000


class TS2Vec(nn.Module):
    """Map series (B, L, C) to a representation (B, L, 320) of each time step.

    A linear layer, then residual blocks of two convolutions of width 3 whose dilation doubles from 1 to 1024. In
    training, each time step is hidden with probability 1/2 and a tenth of the representation is dropped.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.entry = nn.Linear(num_channels, WIDTH)
        widths = [WIDTH] * (DEPTH + 1) + [REPRESENTATION]
        self.blocks = nn.ModuleList(_Block(inputs, outputs, 2**level)
                                    for level, (inputs, outputs) in enumerate(itertools.pairwise(widths)))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.entry(x)
        if self.training:
            hidden = hidden * (torch.rand(x.shape[:2], device=x.device) < 0.5)[..., None]
        hidden = hidden.transpose(1, 2)
        for block in self.blocks:
            hidden = block(hidden)
        return self.dropout(hidden).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.first = _SameConvolution(inputs, outputs, 3, padding=dilation, dilation=dilation)
        self.second = _SameConvolution(outputs, outputs, 3, padding=dilation, dilation=dilation)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(F.gelu(self.first(F.gelu(x))))


class _SameConvolution(nn.Conv1d):
    """A convolution that keeps the length, and skips outer taps that can only ever see padding."""

    def forward(self, x: Tensor) -> Tensor:
        if self.dilation[0] >= x.shape[2]:
            return F.conv1d(x, self.weight[:, :, 1:2], self.bias)
        return super().forward(x)


def train_encoder(real: np.ndarray, seed: int, iterations: int | None = None, batch_size: int = 8,
                  device: torch.device = CPU) -> TS2Vec:
    """Train on real normalised series (N, L, C) and return the encoder with weights averaged over all iterations.

    iterations: as published, 200 where N x L x C is at most 100,000, else 600. AdamW at 1e-3.
    """
    if iterations is None:
        iterations = 200 if real.size <= 100_000 else 600
    generator = np.random.default_rng(derive_seed(seed, "ts2vec", "crops"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_torch(seed, "ts2vec")
        encoder = TS2Vec(real.shape[2]).to(device)
        average = torch.optim.swa_utils.AveragedModel(encoder)
        average.update_parameters(encoder)
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
        x = torch.from_numpy(real[drawn_rows(real, len(real), seed, "ts2vec")])
        batches = _batches(len(x), batch_size, generator)
        for _ in range(iterations):
            first, second, shared = _two_crops(x[next(batches)].to(device), generator)
            loss = hierarchical_loss(encoder(first)[:, -shared:], encoder(second)[:, :shared])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(encoder)
    return average.module.eval().requires_grad_(False)


def _batches(rows: int, batch_size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield row numbers of full batches, epoch after epoch."""
    while True:
        order = generator.permutation(rows)
        size = min(batch_size, rows)
        yield from order[:rows - rows % size].reshape(-1, size)


def _two_crops(x: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor, int]:
    """Return two crops of each series (B, L, C), and how many steps the end of the first shares with the start of the
    second; where the pair lies is drawn for each series."""
    length = x.shape[1]
    shared = int(generator.integers(min(2, length), length + 1))
    left = int(generator.integers(length - shared + 1))
    right = left + shared
    first = int(generator.integers(left + 1))
    last = int(generator.integers(right, length + 1))
    offset = torch.from_numpy(generator.integers(-first, length - last + 1, size=len(x))).to(x.device)[:, None]

    def crop(start: int, end: int) -> Tensor:
        steps = offset + torch.arange(start, end, device=x.device)
        return x[torch.arange(len(x), device=x.device)[:, None], steps]

    return crop(first, right), crop(left, last), shared


def hierarchical_loss(first: Tensor, second: Tensor) -> Tensor:
    """Return the contrastive loss of two views (B, T, D) of the same steps of the same series.

    On every scale (time halved by maximum pooling, down to one step) each step is to find itself in the other view
    among the other series at that step (instance loss) and among the other steps of its series (temporal loss), half
    and half; the mean over scales.
    """
    losses = []
    while True:
        instance = _contrast(first.transpose(0, 1), second.transpose(0, 1))
        temporal = _contrast(first, second)
        losses.append((instance + temporal) / 2)
        if first.shape[1] == 1:
            return torch.stack(losses).mean()
        first, second = (F.max_pool1d(view.transpose(1, 2), 2).transpose(1, 2) for view in (first, second))


def _contrast(first: Tensor, second: Tensor) -> Tensor:
    """Return the cross-entropy with which items of views (G, M, D) find their partner among all others of their
    group."""
    groups, items, _ = first.shape
    both = torch.cat([first, second], dim=1)
    similarity = both @ both.transpose(1, 2)
    itself = torch.eye(2 * items, dtype=torch.bool, device=both.device)
    partner = torch.arange(2 * items, device=both.device).roll(items)
    return F.cross_entropy(similarity.masked_fill(itself, -torch.inf).flatten(0, 1), partner.repeat(groups))


@torch.no_grad()
def encode(encoder: TS2Vec, x: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Return one representation (N, 320) float32 per series (N, L, C): the maximum over its time steps."""
    device = next(encoder.parameters()).device
    parts = torch.from_numpy(np.ascontiguousarray(x)).split(batch_size)
    return torch.cat([encoder(part.to(device)).amax(dim=1).cpu() for part in parts]).numpy()


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return |m1 - m2|^2 + trace(S1 + S2 - 2 (S1 S2)^(1/2)) of the means and covariances of (N, D) and (M, D).

    The trace of the root is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which are real and not
    negative, also where the covariances are singular.
    """
    means = [x.mean(axis=0, dtype=np.float64) for x in (first, second)]
    covariances = [np.cov(x, rowvar=False, dtype=np.float64) for x in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    root_trace = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(min=0)).sum()
    between_means = ((means[0] - means[1]) ** 2).sum()
    return float(between_means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root_trace)


def context_fid(encoder: TS2Vec, real: np.ndarray, synthetic: np.ndarray, seed: int, max_rows: int = MAX_ROWS
                ) -> dict[str, float]:
    """Return the context-FID of two sets (N, L, C) and the number of `rows` used of each.

    The distance is biased upwards by about 1/N and needs many more rows than the 320 dimensions, so both sides are
    subsampled to min(N real, N synthetic, max_rows) and only values of equal `rows` compare. A single row has no
    covariance: NaN.
    """
    rows = min(len(real), len(synthetic), max_rows)
    if rows < 2:
        return {"fid": float("nan"), "rows": rows}
    codes = [encode(encoder, x[drawn_rows(x, rows, seed, "context-fid")]) for x in (real, synthetic)]
    return {"fid": frechet_distance(*codes), "rows": rows}
