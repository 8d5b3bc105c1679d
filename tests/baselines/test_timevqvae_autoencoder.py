"""The autoencoders of TimeVQVAE against their specification: spectra, bands, layers and losses."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_hand import ByHand, num_parameters, perturbed

from tardiff.baselines.timevqvae_autoencoder import Autoencoder, Snake, from_spectrum, perplexity, to_spectrum


# The specification measures 55,552 at 24 x 7 and gives the others as 0.16 M, 0.18 M and, with 33 channels, 0.24 M.
@pytest.mark.parametrize(("length", "num_channels", "expected", "low", "high"), [
    (24, 7, 55_552, 6, 24), (288, 3, 157_668, 9, 72), (256, 16, 176_544, 8, 64), (256, 33, 237_948, 8, 64),
    (300, 15, 174_228, 9, 74)])
def test_autoencoder_has_the_published_parameters_and_tokens(length, num_channels, expected, low, high):
    model = Autoencoder(length, num_channels, 1024, 0.0).eval()
    assert num_parameters(model) == expected
    tokens = model.tokens(torch.randn(1, length, num_channels))
    assert [part.shape for part in tokens] == [(1, low), (1, high)] == [(1, model.low.num_tokens),
                                                                       (1, model.high.num_tokens)]


@pytest.mark.parametrize("length", [3, 24, 25, 30])
def test_spectrum_round_trip_and_the_bands_add_up(length):
    torch.manual_seed(0)
    x, model = torch.randn(4, length, 3), Autoencoder(length, 3, 8, 0.0)
    spectrum = to_spectrum(x)
    assert spectrum.shape == (4, 6, 3, length + 1)
    torch.testing.assert_close(from_spectrum(spectrum), x, atol=1e-5, rtol=0)
    low, high = model.low.part(spectrum), model.high.part(spectrum)
    torch.testing.assert_close(low + high, x, atol=1e-5, rtol=0)
    assert low.abs().max() > 0.1 and high.abs().max() > 0.1


def test_spectrum_against_a_plain_sum():
    x = torch.randn(1, 9, 2, generator=torch.Generator().manual_seed(0))
    padded = np.pad(x[0].double().numpy(), ((2, 2), (0, 0)), mode="reflect")
    window = np.array([0, 0.5, 1, 0.5])
    spectrum = to_spectrum(x)[0]
    for channel, frequency, step in np.ndindex(2, 3, 10):
        angle = -2 * np.pi * frequency * np.arange(4) / 4
        terms = window * padded[step:step + 4, channel] / math.sqrt(4)
        parts = spectrum[2 * channel:2 * channel + 2, frequency, step].tolist()
        assert parts == pytest.approx([(terms * np.cos(angle)).sum(), (terms * np.sin(angle)).sum()], abs=1e-5)


def test_the_low_band_is_a_short_average():
    model, x = Autoencoder(24, 1, 8, 0.0), torch.randn(1, 24, 1)
    # Windows overlap in 4 places: the correlation of the Hann window with itself over 4 times its squared sum.
    weights = np.correlate([0, 0.5, 1, 0.5], [0, 0.5, 1, 0.5], mode="full")[1:-1] / (4 * 1.5)
    expected = np.convolve(x[0, :, 0], weights, mode="valid")
    np.testing.assert_allclose(model.low.part(to_spectrum(x))[0, 2:-2, 0], expected, atol=1e-5)


def test_frequencies_of_snakes_start_between_a_fifth_and_a_half():
    snakes = [module for module in Autoencoder(24, 1, 8, 0.0).modules() if isinstance(module, Snake)]
    frequencies = torch.cat([snake.frequency.flatten() for snake in snakes])
    assert 0.2 <= frequencies.min() < 0.21 and 0.49 < frequencies.max() <= 0.5


def overlapped(spectrum):
    """Return the series (B, C, W - 1) of a spectrum (B, 2 C, 3, W): the sum of its frames, each under its Hann window,
    over that of the squared windows, without the two steps by which the transform extends a series at either end."""
    window = torch.tensor([0, 0.5, 1, 0.5])
    frames = 2 * torch.fft.irfft(torch.complex(spectrum[:, 0::2], spectrum[:, 1::2]), n=4, dim=2)
    series, squares = spectrum.new_zeros(2, *frames.shape[:2], frames.shape[3] + 3)
    for step in range(frames.shape[3]):
        series[..., step:step + 4] += window * frames[..., step]
        squares[..., step:step + 4] += window**2
    return (series / squares)[..., 2:-2]


class BandByHand(ByHand):
    """A band of the autoencoder: it keeps `rows` of the three of a spectrum, and halves its steps `halvings` times."""

    def __init__(self, band, rows, halvings):
        super().__init__(band)
        self.rows, self.halvings, self.length = rows, halvings, band.length
        # The high band, of two rows, looks one row up and down; the low one, of one row, does not.
        self.reach = len(rows) - 1

    def separable(self, name, first, x, layer=F.conv2d, **options):
        each_alone = self.convolution(f"{name}.{first}", x, layer, groups=x.shape[1], **options)
        return self.convolution(f"{name}.{first + 1}", each_alone, layer)

    def snake(self, name, x):
        frequency = self.weights[f"{name}.frequency"]
        return x + (frequency * x).sin() ** 2 / frequency

    def halving(self, name, x):
        extended = F.pad(x, (1, 1, self.reach, self.reach), mode="replicate")
        return self.snake(f"{name}.3", self.batch_norm(f"{name}.2", self.separable(name, 0, extended, stride=(1, 2))))

    def doubling(self, name, x):
        doubled = self.separable(name, 0, x, F.conv_transpose2d, stride=(1, 2), padding=(self.reach, 1))
        return self.snake(f"{name}.3", self.batch_norm(f"{name}.2", doubled))

    def residual(self, name, x):
        # The published code extends a series by its ends where it halves, and by zeros here.
        body, same = f"{name}.body", {"padding": (self.reach, 1)}
        y = self.separable(body, 1, self.snake(f"{body}.0", x), **same)
        y = self.separable(body, 5, self.snake(f"{body}.4", self.batch_norm(f"{body}.3", y)), **same)
        shortcut = x if x.shape == y.shape else self.convolution(f"{name}.shortcut", x)
        return shortcut + F.dropout(y, 0.3, self.training)

    def encode(self, spectrum):
        x = spectrum[:, :, self.rows]
        layers = [self.halving, *(self.halvings - 1) * [self.halving, self.residual, self.residual], self.residual]
        for index, layer in enumerate(layers):
            x = layer(f"encoder.{index}", x)
        return (x / x.norm(dim=1, keepdim=True)).flatten(2).transpose(1, 2)

    def tokens(self, features):
        vectors = self.linear("quantiser.project_in", features)
        return (vectors[:, :, None] - self.weights["quantiser.codes"]).norm(dim=3).argmin(dim=2)

    def decode(self, tokens):
        features = self.linear("quantiser.project_out", self.weights["quantiser.codes"][tokens])
        x = features.transpose(1, 2).unflatten(2, (len(self.rows), -1))
        layers = [self.residual, *(self.halvings - 1) * [self.residual, self.residual, self.doubling]]
        for index, layer in enumerate(layers):
            x = layer(f"decoder.{index}", x)
        double = {"stride": (1, 2), "padding": (self.reach, 1)}
        for index, options in enumerate([{**double, "groups": x.shape[1]}, {}, double, {}], start=len(layers)):
            x = self.convolution(f"decoder.{index}", x, F.conv_transpose2d, **options)
        spectrum = x.new_zeros(len(x), x.shape[1], 3, x.shape[3])
        spectrum[:, :, self.rows] = x
        return F.interpolate(overlapped(spectrum), self.length, mode="linear").transpose(1, 2)


@pytest.mark.usefixtures("known_dropout")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("length", "low_halvings", "high_halvings"), [(24, 2, 1), (97, 4, 2)])
def test_the_autoencoder_is_that_of_the_specification(length, low_halvings, high_halvings, training):
    torch.manual_seed(0)
    model = perturbed(Autoencoder(length, 2, 16, 0.0)).double().train(training)
    x = torch.randn(3, length, 2, dtype=torch.float64)
    low, high = BandByHand(model.low, [0], low_halvings), BandByHand(model.high, [1, 2], high_halvings)
    spectrum = to_spectrum(x)
    features = [low.encode(spectrum), high.encode(spectrum)]
    torch.testing.assert_close([model.low.encode(spectrum), model.high.encode(spectrum)], features)
    tokens = low.tokens(features[0]), high.tokens(features[1])
    torch.testing.assert_close(model.tokens(x), tokens)
    torch.testing.assert_close(model.decode(*tokens), low.decode(tokens[0]) + high.decode(tokens[1]))


def test_the_loss_adds_up_squares_of_the_low_and_distances_of_the_high_band():
    torch.manual_seed(0)
    model, x = Autoencoder(24, 2, 8, 0.0).eval(), torch.randn(3, 24, 2)
    spectrum, losses, expected = to_spectrum(x), model.losses(x), 0.0
    for band, distance in ((model.low, lambda error: error.pow(2)), (model.high, torch.abs)):
        features = band.encode(spectrum)
        vectors = band.quantiser.project_in(features)
        codes = band.quantiser.codes[torch.cdist(vectors, band.quantiser.codes).argmin(dim=2)]
        series = band.decode(band.quantiser.project_out(codes))
        expected += distance(series - band.part(spectrum)).mean().item() + (vectors - codes).pow(2).mean().item()
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-4)
    low, high = model.tokens(x)
    reconstruction = model.low(spectrum)[0] + model.high(spectrum)[0]
    torch.testing.assert_close(model.decode(low, high), reconstruction, atol=1e-5, rtol=1e-4)


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.tensor([[0, 3], [5, 6]]), 8).item() == pytest.approx(4)
    assert perplexity(torch.tensor([2, 2, 2]), 8).item() == pytest.approx(1)
