"""TimesNet for classification, with its periods fixed on the training set.

Wu et al. 2023, "TimesNet: Temporal 2D-Variation Modeling for General Time Series Analysis" (ICLR), section 3, as the
authors' Time-Series-Library builds it for classification: no per-series normalisation, no time features. The library
picks the periods from each batch, which ties a series' logits to its batch-mates; here they are fitted once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tardiff.utils.errors import UserError

FIT_CHUNK = 1024


class TimesNet(nn.Module):
    """Classify series of a fixed length from their 2-D variation at the training set's strongest periods.

    Call `fit_periods` on the training inputs before the first `forward`; the chosen bins are the int64 buffer
    `frequencies (top_k,)`, saved in the state_dict. Each sample's logits depend on that sample alone.

    Raises UserError if `top_k` is not within 1..length // 2, the number of frequency bins of the series.
    """

    def __init__(self, length: int, num_channels: int, num_classes: int, d_model: int = 32, d_ff: int = 64,
                 num_blocks: int = 2, top_k: int = 3, num_kernels: int = 6, dropout: float = 0.1) -> None:
        super().__init__()
        if not 1 <= top_k <= length // 2:
            raise UserError(f"TimesNet: top_k={top_k}, but series of length {length} have {length // 2} frequency bins "
                            f"besides the constant. Set top_k between 1 and {length // 2}, or use longer series.")
        self.length = length
        self.token = nn.Conv1d(num_channels, d_model, kernel_size=3, padding=1, padding_mode="circular", bias=False)
        nn.init.kaiming_normal_(self.token.weight, mode="fan_in", nonlinearity="leaky_relu")
        self.blocks = nn.ModuleList(TimesBlock(d_model, d_ff, num_kernels) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(length * d_model, num_classes)
        self.register_buffer("positions", sinusoidal_positions(length, d_model), persistent=False)
        self.register_buffer("frequencies", torch.zeros(top_k, dtype=torch.int64))

    @torch.no_grad()
    def fit_periods(self, x: Tensor) -> None:
        """Store the `top_k` bins with the largest mean amplitude over the training inputs `x (N, L, C)` float.

        `x` is in the units that `forward` receives. The constant part (bin 0) never counts; of equal bins the lower
        comes first (Wu et al. 2023, equation 1, averaged over the training set).
        """
        amplitudes = sum(torch.fft.rfft(chunk.double(), dim=1).abs().sum(dim=(0, 2)) for chunk in x.split(FIT_CHUNK))
        strongest_first = amplitudes[1:].argsort(descending=True, stable=True) + 1
        self.frequencies.copy_(strongest_first[:len(self.frequencies)])

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, K)` float for series `x (B, L, C)` float in normalised units.

        Raises RuntimeError if no periods have been fitted or loaded.
        """
        frequencies = self.frequencies.tolist()
        if 0 in frequencies:
            raise RuntimeError("TimesNet has no periods yet: call fit_periods(x) with the training inputs, or load a "
                               "state_dict that holds 'frequencies'.")
        periods = [self.length // frequency for frequency in frequencies]
        tokens = rearrange(self.token(rearrange(x, "b l c -> b c l")), "b d l -> b l d")
        features = self.dropout(tokens + self.positions)
        for block in self.blocks:
            features = self.norm(block(features, self.frequencies, periods))
        return self.head(rearrange(self.dropout(F.gelu(features)), "b l d -> b (l d)"))


class TimesBlock(nn.Module):
    """Fold the series at each period into a grid, convolve it, and add the results weighted by amplitude.

    Wu et al. 2023, equations 3 to 5 (TimesBlock, Inception, adaptive aggregation).
    """

    def __init__(self, d_model: int, d_ff: int, num_kernels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(Inception(d_model, d_ff, num_kernels), nn.GELU(),
                                          Inception(d_ff, d_model, num_kernels))

    def forward(self, x: Tensor, frequencies: Tensor, periods: list[int]) -> Tensor:
        """Return `(B, L, d_model)` for features `x` of that shape.

        `frequencies (k,)` int64 are bins of the series' spectrum, `periods` their lengths in steps.
        """
        amplitudes = torch.fft.rfft(x, dim=1)[:, frequencies].abs().mean(dim=2)
        weights = amplitudes.softmax(dim=1)
        # Neighbouring high bins share a period (24 // 9 == 24 // 10), and then the same convolution.
        by_period = {period: self._convolve_folded(x, period) for period in dict.fromkeys(periods)}
        return x + sum(weights[:, i, None, None] * by_period[period] for i, period in enumerate(periods))

    def _convolve_folded(self, x: Tensor, period: int) -> Tensor:
        length = x.shape[1]
        padded = F.pad(x, (0, 0, 0, -length % period))
        grid = rearrange(padded, "b (cycle phase) d -> b d cycle phase", phase=period)
        return rearrange(self.convolutions(grid), "b d cycle phase -> b (cycle phase) d")[:, :length]


class Inception(nn.Module):
    """Average 2-D convolutions with square kernels of sizes 1, 3, ..., 2 * num_kernels - 1 ("Inception block V1")."""

    def __init__(self, in_channels: int, out_channels: int, num_kernels: int) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(nn.Conv2d(in_channels, out_channels, 2 * i + 1) for i in range(num_kernels))
        for kernel in self.kernels:
            nn.init.kaiming_normal_(kernel.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(kernel.bias)

    def forward(self, grid: Tensor) -> Tensor:
        """Return `(B, out_channels, H, W)` for `grid (B, in_channels, H, W)`, same padding with zeros."""
        # The mean of convolutions is the convolution with the mean kernel: one pass instead of num_kernels. Taps that
        # reach past the far edge of the grid from anywhere in it only ever meet padding, so they are cut.
        reach = [min(len(self.kernels), size) - 1 for size in grid.shape[2:]]
        weight = torch.stack([_resize_kernel(kernel.weight, reach) for kernel in self.kernels]).mean(dim=0)
        bias = torch.stack([kernel.bias for kernel in self.kernels]).mean(dim=0)
        return F.conv2d(grid, weight, bias, padding=reach)


def sinusoidal_positions(length: int, d_model: int) -> Tensor:
    """Return fixed positions `(length, d_model)` float32, sine and cosine interleaved (Vaswani et al. 2017, 3.5)."""
    rates = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(10000.0) / d_model))
    angles = torch.arange(length)[:, None] * rates
    return rearrange(torch.stack([angles.sin(), angles.cos()]), "wave l rate -> l (rate wave)")[:, :d_model].float()


def _resize_kernel(weight: Tensor, reach: list[int]) -> Tensor:
    """Pad with zeros or crop `weight (out, in, S, S)` about its centre to sides of `2 * reach + 1`."""
    own = weight.shape[-1] // 2
    return F.pad(weight, (reach[1] - own, reach[1] - own, reach[0] - own, reach[0] - own))
