"""The first stage of TimeVQVAE: two autoencoders, of the low and of the high frequencies of a series, each through a
codebook (Lee et al. 2023, section 3.1)."""

from __future__ import annotations

import itertools
import math
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tardiff.baselines.timevqvae_quantiser import Quantiser

NUM_FREQUENCIES = 3
WINDOW = 2 * (NUM_FREQUENCIES - 1)
FIRST_WIDTH, WIDTH = 4, 128
NUM_BLOCKS = 2
DROPOUT = 0.3


def to_spectrum(x: Tensor) -> Tensor:
    """Return the short-time Fourier transform (B, 2 C, 3, L + 1) of series x (B, L, C), for L of at least 3.

    Axis 1 holds the real and imaginary parts of each channel in turn; Hann windows of 4 steps, one at each step.
    """
    flat = rearrange(x, "b l c -> (b c) l")
    spectrum = torch.stft(flat, WINDOW, hop_length=1, window=_window(x), normalized=True, return_complex=True)
    return rearrange(torch.view_as_real(spectrum), "(b c) f w z -> b (c z) f w", c=x.shape[2])


def from_spectrum(spectrum: Tensor) -> Tensor:
    """Return the series (B, W - 1, C) of a short-time Fourier transform (B, 2 C, 3, W)."""
    parts = rearrange(spectrum, "b (c z) f w -> (b c) f w z", z=2).contiguous()
    flat = torch.istft(torch.view_as_complex(parts), WINDOW, hop_length=1, window=_window(spectrum), normalized=True)
    return rearrange(flat, "(b c) l -> b l c", b=len(spectrum))


def _window(like: Tensor) -> Tensor:
    return torch.hann_window(WINDOW, device=like.device)


class Autoencoder(nn.Module):
    """The bands `low` (frequency 0) and `high` (the others) of series of one length."""

    def __init__(self, length: int, num_channels: int, codebook_size: int, revive_below: float) -> None:
        super().__init__()
        self.low = Band(slice(0, 1), 8, length, num_channels, codebook_size, revive_below)
        self.high = Band(slice(1, NUM_FREQUENCIES), 32, length, num_channels, codebook_size, revive_below)

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        """Return the loss and its parts for series x (B, L, C), and the perplexity of the tokens in the batch."""
        spectrum = to_spectrum(x)
        low, low_tokens, low_commitment = self.low(spectrum)
        high, high_tokens, high_commitment = self.high(spectrum)
        low_loss, high_loss = F.mse_loss(low, self.low.part(spectrum)), F.l1_loss(high, self.high.part(spectrum))
        return {"loss": low_loss + high_loss + low_commitment + high_commitment, "low": low_loss, "high": high_loss,
                "commitment": low_commitment + high_commitment,
                "perplexity_low": perplexity(low_tokens, len(self.low.quantiser.codes)),
                "perplexity_high": perplexity(high_tokens, len(self.high.quantiser.codes))}

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Place the codes by k-means on series x (B, L, C)."""
        spectrum = to_spectrum(x)
        for band in (self.low, self.high):
            band.quantiser.initialise(band.encode(spectrum))

    @torch.no_grad()
    def tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of the low and of the high band, each (B, band.num_tokens) int64, of series x (B, L, C)."""
        spectrum = to_spectrum(x)
        low, high = (band.quantiser.nearest(band.quantiser.project_in(band.encode(spectrum)))
                     for band in (self.low, self.high))
        return low, high

    def decode(self, low: Tensor, high: Tensor) -> Tensor:
        """Return the series (B, L, C) of the tokens of both bands."""
        return sum(band.decode(band.quantiser.decode(tokens)) for band, tokens in ((self.low, low), (self.high, high)))


class Band(nn.Module):
    """Encoder, quantiser and decoder of some frequencies of a series.

    frequencies: the rows of the spectrum. width: the steps that remain after encoding, to the nearest power of 2.
    """

    def __init__(self, frequencies: slice, width: int, length: int, num_channels: int, codebook_size: int,
                 revive_below: float) -> None:
        super().__init__()
        self.frequencies, self.length = frequencies, length
        self.height = frequencies.stop - frequencies.start
        rate = round(length / width) if length >= width else 1
        halvings = max(1, round(math.log2(rate)))
        # A halving takes W steps to W // 2, and the spectrum has one step more than the series.
        self.num_tokens = self.height * ((length + 1) >> halvings)
        reach = 1 if self.height == 1 else 3
        widths = [FIRST_WIDTH * 2**level for level in range(halvings)]
        resize = {"kernel_size": (reach, 4), "stride": (1, 2), "padding": (reach // 2, 1)}
        halving = partial(_resizing, nn.Conv2d, padding_mode="replicate", **resize)
        doubling = partial(_resizing, nn.ConvTranspose2d, **resize)
        encoder: list[nn.Module] = [halving(2 * num_channels, widths[0])]
        decoder: list[nn.Module] = [ResidualBlock(WIDTH, widths[-1], reach)]
        for inputs, outputs in itertools.pairwise(widths):
            encoder += [halving(inputs, outputs), *_blocks(outputs, reach)]
        for outputs, inputs in reversed(list(itertools.pairwise(widths))):
            decoder += [*_blocks(inputs, reach), doubling(inputs, outputs)]
        self.encoder = nn.Sequential(*encoder, ResidualBlock(widths[-1], WIDTH, reach))
        self.decoder = nn.Sequential(
            *decoder,
            nn.ConvTranspose2d(widths[0], widths[0], groups=widths[0], **resize),
            nn.ConvTranspose2d(widths[0], 2 * num_channels, 1),
            nn.ConvTranspose2d(2 * num_channels, 2 * num_channels, **resize),
            nn.ConvTranspose2d(2 * num_channels, 2 * num_channels, 1))
        self.quantiser = Quantiser(WIDTH, codebook_size, revive_below)

    def forward(self, spectrum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction (B, L, C) of this band of a spectrum (B, 2 C, 3, L + 1), its tokens (B, num_tokens)
        and the commitment loss."""
        quantised, tokens, commitment = self.quantiser(self.encode(spectrum))
        return self.decode(quantised), tokens, commitment

    def part(self, spectrum: Tensor) -> Tensor:
        """Return the series (B, L, C) that this band alone makes of a spectrum (B, 2 C, 3, L + 1)."""
        return from_spectrum(self._alone(spectrum[:, :, self.frequencies]))

    def encode(self, spectrum: Tensor) -> Tensor:
        """Return features (B, num_tokens, 128) of length 1 of a spectrum (B, 2 C, 3, L + 1)."""
        features = F.normalize(self.encoder(spectrum[:, :, self.frequencies]), dim=1)
        return rearrange(features, "b d f w -> b (f w) d")

    def decode(self, features: Tensor) -> Tensor:
        """Return the series (B, L, C) of features (B, num_tokens, 128)."""
        spectrum = self.decoder(rearrange(features, "b (f w) d -> b d f w", f=self.height))
        series = from_spectrum(self._alone(spectrum)).transpose(1, 2)
        return F.interpolate(series, self.length, mode="linear").transpose(1, 2)

    def _alone(self, rows: Tensor) -> Tensor:
        return F.pad(rows, (0, 0, self.frequencies.start, NUM_FREQUENCIES - self.frequencies.stop))


class Snake(nn.Module):
    """x + sin(a x)^2 / a, with one a per channel (Ziyin et al. 2020), of (B, channels, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.empty(channels, 1, 1).uniform_(0.2, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.frequency * x) ** 2 / self.frequency


class ResidualBlock(nn.Module):
    """Two separable convolutions around a shortcut: (B, inputs, H, W) -> (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, reach: int) -> None:
        super().__init__()
        same = {"kernel_size": (reach, 3), "padding": (reach // 2, 1)}
        self.body = nn.Sequential(
            Snake(inputs), *_separable(nn.Conv2d, inputs, outputs, **same), nn.BatchNorm2d(outputs),
            Snake(outputs), *_separable(nn.Conv2d, outputs, outputs, **same), nn.Dropout(DROPOUT))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


def _separable(layer: type, inputs: int, outputs: int, **options) -> list[nn.Module]:
    """Return a weight-normalised convolution of each channel alone, and one across the channels of each position."""
    return [weight_norm(layer(inputs, inputs, groups=inputs, **options)), weight_norm(layer(inputs, outputs, 1))]


def _resizing(layer: type, inputs: int, outputs: int, **options) -> nn.Sequential:
    return nn.Sequential(*_separable(layer, inputs, outputs, **options), nn.BatchNorm2d(outputs), Snake(outputs))


def _blocks(width: int, reach: int) -> list[nn.Module]:
    return [ResidualBlock(width, width, reach) for _ in range(NUM_BLOCKS)]


def perplexity(tokens: Tensor, codebook_size: int) -> Tensor:
    """Return exp(entropy) of the shares of the codes among tokens (...): the number of codes in use, a scalar."""
    shares = torch.bincount(tokens.flatten(), minlength=codebook_size) / tokens.numel()
    return torch.special.entr(shares).sum().exp()
