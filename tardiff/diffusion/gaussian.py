"""What denoising a Gaussian with the moments of the training rows predicts; the network learns the rest."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tardiff.diffusion.process import DiffusionProcess
from tardiff.models.embeddings import timestep_embedding
from tardiff.models.layers import zeroed

MAX_COMPONENTS = 256
ROWS_PER_COMPONENT = 8
"""Training rows behind each principal component, so that few rows are not taken for all there can be."""
MAX_ROWS = 10_000
"""Rows whose covariance is taken, drawn from the training rows."""
LEAST_VARIANCE = 1e-4
"""Of what components leave, and of a component where it divides: that of a constant signal is rounding."""
TIME_FEATURES, GAIN_WIDTH = 32, 128
"""Of the network of gains: the size of its embedding of t, and its width."""
SMALL_VARIANCE, SMALL_SIGNAL = 0.01, 1e-4
"""Of the network of gains: variances over time below the first are not told apart, and x_start is not told through a
signal, squared, below the second."""
BLOCK_EDGES = (4, 8, 16, 32, 64, 128)
"""Between blocks of components in which the mean of a class is drawn toward that of all rows alike."""


class GaussianDenoiser(nn.Module):
    """The best denoiser of Gaussian data, scaled to the spread of each series, plus the output of a network of the same
    interface.

    Each label, and 'no label', has a mean and a covariance: principal components, and one variance for what they leave
    (probabilistic PCA, Tipping & Bishop 1999). What the Gaussian predicts is most of the score where noise is strong
    (Wang & Vastola 2024, 'The Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models'), and
    there the level of a series is decided: a network alone is long in learning it, and gives levels too little spread
    until then.

    But a Gaussian has one spread for all series, and patients differ in how restless they are (CinC 2012: the standard
    deviation of the hourly change of heart rate is 2.8 to 13 in the middle 90 % of stays, 4.9 to 10.7 of series made
    without this). So what it predicts, and x_t, are multiplied by gains of each series and channel, which a small
    network reads from the mean and the variance over time of every channel. The U-Net cannot: its normalisation takes
    the spread of a series out.
    """

    def __init__(self, network: nn.Module, process: DiffusionProcess, signals: tuple[int, int], num_components: int
                 ) -> None:
        """signals: the shape (L, C) of what is diffused. Until `fit` the Gaussian is white noise."""
        super().__init__()
        self.network, self.process, self.num_classes = network, process, network.num_classes
        labels, size = self.num_classes + 1, signals[0] * signals[1]
        self.register_buffer("means", torch.zeros(labels, size))
        self.register_buffer("components", torch.zeros(labels, size, num_components))
        self.register_buffer("variances", torch.ones(labels, num_components))
        self.register_buffer("rest", torch.ones(labels, 1))
        inputs, outputs = TIME_FEATURES + labels + 3 * signals[1], zeroed(nn.Linear(GAIN_WIDTH, 2 * signals[1]))
        self.gains = nn.Sequential(nn.Linear(inputs, GAIN_WIDTH), nn.SiLU(), nn.Linear(GAIN_WIDTH, GAIN_WIDTH),
                                   nn.SiLU(), outputs)

    @staticmethod
    def num_components(rows: int, signals: tuple[int, int]) -> int:
        """Return how many components this many training rows of shape (L, C) bear."""
        return min(MAX_COMPONENTS, rows // ROWS_PER_COMPONENT, signals[0] * signals[1] - 1)

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor) -> None:
        """Take the moments of rows x (N, L, C) float32 normalised, y (N,) int64, on the CPU, from the generator
        state.

        The covariance of a class of n rows counts n / (n + L C) in its own, the rest is the one within all classes
        (regularised discriminant analysis, Friedman 1989). The mean of a class is drawn toward that of all rows
        (`_shrunk`): what few rows have in common by chance would be a mark of their class, in every series of it.
        """
        rows = x.flatten(1)
        counts = torch.bincount(y, minlength=self.num_classes)
        means = torch.stack([rows[y == label].mean(dim=0) if counts[label] else rows.mean(dim=0)
                             for label in range(self.num_classes)])
        self.means[-1] = rows.mean(dim=0)
        chosen = torch.randperm(len(rows))[:MAX_ROWS]
        within = rows[chosen] - means[y[chosen]]
        self._set_covariance(self.num_classes, within)
        for label, count in enumerate(counts.tolist()):
            self.means[label] = self.means[-1] + self._shrunk(means[label] - self.means[-1], count, len(rows))
            is_own = (y[chosen] == label).float()
            share = is_own.sum() / (is_own.sum() + rows.shape[1])
            weights = share * is_own / is_own.sum().clamp(min=1) + (1 - share) / len(within)
            self._set_covariance(label, within * (weights * len(within)).sqrt()[:, None])
        self._set_covariance(self.num_classes, rows[chosen] - self.means[-1])

    def _set_covariance(self, label: int, centred: Tensor) -> None:
        """Set the covariance of a label to that of rows (N, L C) of mean 0."""
        count = self.variances.shape[1]
        if count:
            _, singular, self.components[label] = torch.svd_lowrank(centred, q=count, niter=4)
            self.variances[label] = singular.square() / len(centred)
        left = centred.square().mean(dim=0).sum() - self.variances[label].sum()
        self.rest[label] = (left / (centred.shape[1] - count)).clamp(min=LEAST_VARIANCE)

    def _shrunk(self, difference: Tensor, count: int, total: int) -> Tensor:
        """Return the difference (L C) of the mean of a class of `count` among `total` rows to that of all, without most
        of what chance put there.

        Positive-part James-Stein in each block of components of the covariance within classes, which stands in the
        place of 'no label' here, and in what these leave.
        """
        chance, basis = 1 / max(count, 1) - 1 / total, self.components[-1]
        along = difference @ basis
        left = difference - basis @ along
        shrunk = left * _james_stein(left.square() / self.rest[-1], len(left) - len(along), chance)
        edges = [0, *(edge for edge in BLOCK_EDGES if edge < len(along)), len(along)]
        for start, end in itertools.pairwise(edges):
            block = along[start:end]
            variances = self.variances[-1, start:end].clamp(min=LEAST_VARIANCE)
            kept = _james_stein(block.square() / variances, end - start, chance)
            shrunk += kept * (basis[:, start:end] @ block)
        return shrunk

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return the prediction (B, L, C) for x_t (B, L, C) float in normalised units, t (B,) int64, 0-based, and
        labels (B,) int64 in 0..num_classes."""
        with torch.autocast(x_t.device.type, enabled=False):  # Gains near 0 are added to 1, and bf16 would round that.
            of_gaussian, of_x_t = self.gains(self._told(x_t, t, labels))[:, None].chunk(2, dim=2)
        return (1 + of_gaussian) * self.gaussian(x_t, t, labels) + of_x_t * x_t + self.network(x_t, t, labels)

    def _told(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return what gains are read from, (B, features): the step, the label, and of every channel over time the mean,
        the log variance and that of x_start which it implies."""
        signal, spread = (part[..., 0] for part in self.process.signal_and_spread(t, x_t))
        variance = x_t.var(dim=1, correction=0)
        of_start = (variance - spread**2).clamp(min=0) / (signal**2).clamp(min=SMALL_SIGNAL)
        return torch.cat([timestep_embedding(t, TIME_FEATURES), F.one_hot(labels, len(self.means)), x_t.mean(dim=1),
                          *((part + SMALL_VARIANCE).log() for part in (variance, of_start))], dim=1)

    def gaussian(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Return what the Gaussian alone predicts; arguments and result are those of `forward`.

        Where x_t = a x_start + s noise, and x_start varies by v in some direction, the deviation of x_t from its mean
        times a v / (a^2 v + s^2) is the expected one of x_start.
        """
        with torch.autocast(x_t.device.type, enabled=False):
            signal, spread = (part[..., 0] for part in self.process.signal_and_spread(t, x_t))

            def share(variance: Tensor) -> Tensor:
                return signal * variance / (signal**2 * variance + spread**2)

            mean, rest = self.means[labels], share(self.rest[labels])
            deviation = x_t.flatten(1) - signal * mean
            # The components of all labels side by side, and those of others times 0: one product, and no gathering.
            bases = self.components.transpose(0, 1).flatten(1)
            gains = F.one_hot(labels, len(self.means))[..., None] * (share(self.variances[labels]) - rest)[:, None]
            x0_pred = mean + rest * deviation + (deviation @ bases * gains.flatten(1)) @ bases.T
            x0_pred = x0_pred.view_as(x_t)
            return self.process.target(x0_pred, t, self.process.eps_from_x0(x0_pred, x_t, t))


def _james_stein(squares: Tensor, freedom: int, chance: float) -> Tensor:
    """Return the share of a difference that is kept: its squares are in units of the variance within classes, of which
    `chance` is the variance of each by chance (James & Stein 1961, 'Estimation with Quadratic Loss')."""
    return (1 - chance * max(freedom - 2, 0) / squares.sum().clamp(min=1e-12)).clamp(min=0)
