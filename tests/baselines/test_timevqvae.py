"""TimeVQVAE against its specification and plain loops: its networks, spectra, codebook, masks and how they are filled."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from baseline_checks import assert_resumes_exactly, assert_rows_stand_alone, sinusoids, study, trained

from tardiff.baselines import timevqvae
from tardiff.baselines.interface import Stage
from tardiff.baselines.timevqvae import Config, build, learning_rate
from tardiff.baselines.timevqvae_autoencoder import (
    Autoencoder,
    Snake,
    from_spectrum,
    perplexity,
    to_spectrum,
)
from tardiff.baselines.timevqvae_prior import fill_masks, hide_tokens, masked_loss
from tardiff.baselines.timevqvae_quantiser import Quantiser
from tardiff.sampling.noise import NoiseStream
from tardiff.utils.errors import UserError

TINY = {"codebook_size": 16, "batch_size": 4, "autoencoder_steps": 2, "prior_steps": 2}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def perturbed(module):
    """Move all weights and statistics of a module away from where they start, which may hide what they do."""
    for value in module.state_dict().values():
        if value.is_floating_point():
            value += torch.rand_like(value) - 0.5
    return module


def weights_of(module):
    """Return copies of the tensors of a module by name; a normalised weight is a length times a direction."""
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    for name in [name for name in weights if name.endswith("original1")]:
        length, direction = weights[name.replace("original1", "original0")], weights[name]
        norm = direction.flatten(1).norm(dim=1).view_as(length)
        weights[name.replace("parametrizations.weight.original1", "weight")] = length * direction / norm
    return weights


@pytest.fixture
def known_dropout(monkeypatch):
    """Let dropout shrink all values alike instead of removing some, so that training can be computed by hand."""
    monkeypatch.setattr(F, "dropout", lambda x, p=0.5, training=True, inplace=False: x * (1 - p) if training else x)


# The specification measures 55,552 at 24 x 7 and gives the others as 0.16 M, 0.18 M and, with 33 channels, 0.24 M.
@pytest.mark.parametrize(("length", "num_channels", "expected", "low", "high"), [
    (24, 7, 55_552, 6, 24), (288, 3, 157_668, 9, 72), (256, 16, 176_544, 8, 64), (256, 33, 237_948, 8, 64),
    (300, 15, 174_228, 9, 74)])
def test_autoencoder_has_the_published_parameters_and_tokens(length, num_channels, expected, low, high):
    model = Autoencoder(length, num_channels, 1024, 0.0).eval()
    assert count(model) == expected
    tokens = model.tokens(torch.randn(1, length, num_channels))
    assert [part.shape for part in tokens] == [(1, low), (1, high)] == [(1, model.low.num_tokens),
                                                                       (1, model.high.num_tokens)]


# The specification measures 656,208 + 784,084 at 24 x 7 and gives the others as 1.45 M, of which 745 are without effect:
# the weight normalisation of the inner layer norms, 4 layers of 85 and one of 21, and a row of each position table.
@pytest.mark.parametrize(("length", "num_channels", "low", "both"), [
    (24, 7, 656_208 - 4 * 85 - 128, 656_208 + 784_084 - 745), (288, 3, 656_124, 1_452_219), (256, 16, 655_996, 1_450_043)])
def test_priors_have_the_published_parameters_but_those_without_effect(length, num_channels, low, both):
    model = build(Config(), length, num_channels, 2)
    assert count(model.low_prior) == low and count(model.low_prior) + count(model.high_prior) == both


def test_codes_and_classes_have_their_rows_in_the_priors():
    model, other = build(Config(), 24, 7, 2), build(Config(codebook_size=1000), 24, 7, 5)
    # A code has a row in the table of each band that reads it and a direction, a length and a bias in the head.
    assert count(model.low_prior) - count(other.low_prior) == 24 * (128 + 130) - 3 * 128
    assert count(model.high_prior) - count(other.high_prior) == 24 * (2 * 128 + 34) - 3 * 256


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
        assert spectrum[2 * channel, frequency, step].item() == pytest.approx((terms * np.cos(angle)).sum(), abs=1e-5)
        assert spectrum[2 * channel + 1, frequency, step].item() == pytest.approx((terms * np.sin(angle)).sum(), abs=1e-5)


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
    """Return the series (B, C, W - 1) of a spectrum (B, 2 C, 3, W): the sum of its frames, each under its Hann window, over
    that of the squared windows, without the two steps by which the transform extends a series at either end."""
    window = torch.tensor([0, 0.5, 1, 0.5])
    frames = 2 * torch.fft.irfft(torch.complex(spectrum[:, 0::2], spectrum[:, 1::2]), n=4, dim=2)
    series, squares = spectrum.new_zeros(2, *frames.shape[:2], frames.shape[3] + 3)
    for step in range(frames.shape[3]):
        series[..., step:step + 4] += window * frames[..., step]
        squares[..., step:step + 4] += window**2
    return (series / squares)[..., 2:-2]


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
        for place, layer in enumerate(layers):
            x = layer(f"encoder.{place}", x)
        return (x / x.norm(dim=1, keepdim=True)).flatten(2).transpose(1, 2)

    def tokens(self, features):
        vectors = self.linear("quantiser.project_in", features)
        return (vectors[:, :, None] - self.weights["quantiser.codes"]).norm(dim=3).argmin(dim=2)

    def decode(self, tokens):
        features = self.linear("quantiser.project_out", self.weights["quantiser.codes"][tokens])
        x = features.transpose(1, 2).unflatten(2, (len(self.rows), -1))
        layers = [self.residual, *(self.halvings - 1) * [self.residual, self.residual, self.doubling]]
        for place, layer in enumerate(layers):
            x = layer(f"decoder.{place}", x)
        double = {"stride": (1, 2), "padding": (self.reach, 1)}
        for place, options in enumerate([{**double, "groups": x.shape[1]}, {}, double, {}], start=len(layers)):
            x = self.convolution(f"decoder.{place}", x, F.conv_transpose2d, **options)
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


def quantiser(revive_below=0.0, size=5, width=6):
    torch.manual_seed(0)
    return Quantiser(width, size, revive_below)


def test_quantiser_against_a_plain_nearest_neighbour():
    model, z = quantiser().eval(), torch.randn(3, 4, 6)
    quantised, tokens, commitment = model(z)
    squares = []
    for row, place in np.ndindex(3, 4):
        vector = model.project_in(z[row, place])
        distances = [(vector - code).pow(2).sum().item() for code in model.codes]
        assert tokens[row, place] == int(np.argmin(distances))
        squares.append(min(distances) / 8)
        torch.testing.assert_close(quantised[row, place], model.project_out(model.codes[tokens[row, place]]))
    assert commitment.item() == pytest.approx(np.mean(squares), rel=1e-5)
    torch.testing.assert_close(model.decode(tokens), quantised)


def test_gradients_pass_straight_through_the_codes():
    model, z = quantiser().eval(), torch.randn(2, 3, 6, requires_grad=True)
    weights = torch.randn(2, 3, 6)
    (model(z)[0] * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights @ model.project_out.weight @ model.project_in.weight)


def test_codes_follow_their_vectors_by_the_moving_average():
    model = quantiser()
    counts, sums = model.counts.double().clone(), model.sums.double().clone()
    for _ in range(3):
        z, codes = torch.randn(2, 4, 6), model.codes.clone()
        vectors = model.project_in(z).detach().flatten(0, 1)
        counts, sums = 0.8 * counts, 0.8 * sums
        for vector in vectors:
            token = int((codes - vector).pow(2).sum(dim=1).argmin())
            counts[token] += 0.2
            sums[token] += 0.2 * vector
        quantised, tokens, _ = model(z)
        torch.testing.assert_close(quantised, model.project_out(codes[tokens]))
        expected = torch.stack([sums[code] / ((counts[code] + 1e-5) / (counts.sum() + 5e-5) * counts.sum())
                                for code in range(5)])
        torch.testing.assert_close(model.codes.double(), expected, atol=1e-5, rtol=1e-4)
    before = model.codes.clone()
    model.eval()(torch.randn(2, 4, 6))
    assert torch.equal(model.codes, before)


def test_kmeans_finds_separate_clusters():
    model = quantiser(size=30)
    centres = 5 * torch.randn(10, 6)
    model.initialise((centres.repeat(20, 1) + 0.01 * torch.randn(200, 6)).view(20, 10, 6))
    distance = torch.cdist(model.project_in(centres), model.codes).min(dim=1).values
    assert distance.max() < 0.1 and torch.equal(model.sums, model.codes) and (model.counts == 1).all()


@pytest.mark.parametrize(("revive_below", "revived"), [(0.1, True), (0.0, False)])
def test_a_code_out_of_use_is_revived_from_the_batch(revive_below, revived):
    model, z = quantiser(revive_below), torch.randn(1, 4, 6)
    model.codes[4] = model.sums[4] = 1e3
    for _ in range(11):
        model(z)
    # Its count is now 0.8^11 = 0.086 and the mean (4 + 0.086) / 5 = 0.817.
    assert model.codes[4].min() > 990
    model(z)
    distance = torch.cdist(model.codes[4:], model.project_in(z)[0]).min()
    assert distance < 1e-5 if revived else distance > 990


def fitted_quantiser(size, rows, revive_below, steps=300):
    """Return a quantiser that followed clusters, some rare and all moving, and its squared error on other vectors."""
    model = quantiser(revive_below, size, width=8)
    generator = torch.Generator().manual_seed(1)
    centres, weights = torch.randn(300, 8, generator=generator), torch.rand(300, generator=generator) ** 4
    shift = torch.zeros(8)

    def draw(count):
        chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
        return (centres[chosen] + shift + 0.2 * torch.randn(count, 8, generator=generator))[None]

    model.initialise(draw(6 * 1024))
    for _ in range(steps):
        shift += 0.01
        model(draw(rows))
    vectors = model.project_in(draw(4000)).detach()
    return model, (vectors - model.codes[model.nearest(vectors)]).pow(2).mean().item()


@pytest.mark.parametrize(("size", "rows"), [(1024, 192), (1024, 768), (64, 192)])
def test_reviving_codes_does_not_harm_also_where_a_batch_has_fewer_vectors_than_codes(size, rows):
    revived, without = (fitted_quantiser(size, rows, share)[1] for share in (Config().revive_below, 0.0))
    assert revived <= 1.02 * without


def test_few_codes_of_the_published_size_are_replaced_in_a_step(monkeypatch):
    placed = []
    monkeypatch.setattr(Quantiser, "_place", lambda model, which, vectors, place=Quantiser._place: (
        placed.append(int(which.sum())), place(model, which, vectors)))
    fitted_quantiser(1024, 192, Config().revive_below)
    assert 0 < np.mean(placed[50:]) < 15


def test_dead_codes_come_back_to_use():
    model = fitted_quantiser(64, 192, Config().revive_below, steps=0)[0]
    model.codes[:20] = model.sums[:20] = 1e3
    z = torch.randn(1, 192, 8)
    for _ in range(40):
        model(z)
    assert len(model.nearest(model.project_in(z)).unique()) > 50 and model.codes.abs().max() < 100


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.tensor([[0, 3], [5, 6]]), 8).item() == pytest.approx(4)
    assert perplexity(torch.tensor([2, 2, 2]), 8).item() == pytest.approx(1)


class PriorByHand(ByHand):
    """A transformer that predicts tokens 0..15, of which 16 masks one."""

    def __init__(self, prior, num_layers, num_heads):
        super().__init__(prior)
        self.num_layers, self.num_heads = num_layers, num_heads

    def attention(self, name, x):
        x = self.layer_norm(f"{name}.norm", x)
        projected = self.linear(f"{name}.query", x), *self.linear(f"{name}.key_value", x).chunk(2, dim=2)
        heads = zip(*(part.chunk(self.num_heads, dim=2) for part in projected), *self.weights[f"{name}.null"], strict=True)
        attended = []
        for query, key, value, null_key, null_value in heads:
            keys = torch.cat([null_key.expand(len(x), 1, 64), key], dim=1)
            values = torch.cat([null_value.expand(len(x), 1, 64), value], dim=1)
            scaled_query = F.normalize(query, dim=2) * self.weights[f"{name}.query_scale"]
            scaled_keys = F.normalize(keys, dim=2) * self.weights[f"{name}.key_scale"]
            attended.append(torch.softmax(scaled_query @ scaled_keys.transpose(1, 2) / math.sqrt(64), dim=2) @ values)
        return self.layer_norm(f"{name}.norm_output", self.linear(f"{name}.output", torch.cat(attended, dim=2)))

    def perceptron(self, name, x):
        inner = F.gelu(self.linear(f"{name}.1", self.layer_norm(f"{name}.0", x)))
        return self.linear(f"{name}.4", self.layer_norm(f"{name}.3", inner))

    def context(self, low, num_tokens):
        """Return features (B, num_tokens, 128) of low tokens (B, M), each repeated to as many as there are high tokens."""
        embedded = F.dropout(self.weights["context.tokens.weight"][low], 0.3, self.training)
        repeated = embedded[:, torch.arange(num_tokens) * low.shape[1] // num_tokens].transpose(1, 2)
        x = F.gelu(self.convolution("context.layers.0", repeated, F.conv1d, padding=3))
        x = self.batch_norm("context.layers.2", x)
        return self.convolution("context.layers.3", x, F.conv1d, padding=6, dilation=2).transpose(1, 2)

    def logits(self, tokens, labels, low=None):
        features = self.weights["tokens.weight"][tokens]
        features[tokens < 16] = F.dropout(features[tokens < 16], 0.3, self.training)
        if low is not None:
            features = torch.cat([self.context(low, tokens.shape[1]), features], dim=2)
        label = self.weights["classes.weight"][labels][:, None]
        x = self.linear("entry", torch.cat([label, features + self.weights["positions"]], dim=1))
        for layer in range(self.num_layers):
            x = x + self.attention(f"attention.{layer}", x)
            x = x + self.perceptron(f"perceptrons.{layer}", x)
        return self.linear("head.3", self.layer_norm("head.2", F.gelu(self.linear("head.0", x[:, 1:])), eps=1e-12))


@pytest.mark.usefixtures("known_dropout")
@pytest.mark.parametrize("training", [False, True])
def test_the_priors_are_those_of_the_specification(training):
    torch.manual_seed(0)
    model = perturbed(build(Config(**TINY), 24, 2, 2)).double().train(training)
    low_by_hand, high_by_hand = PriorByHand(model.low_prior, 4, 2), PriorByHand(model.high_prior, 1, 1)
    low, low_masked, high_masked = torch.randint(16, (3, 6)), torch.randint(17, (3, 6)), torch.randint(17, (3, 24))
    assert (low_masked == 16).any() and (high_masked == 16).any()
    # The last of the labels means 'no class'.
    labels = torch.arange(3)
    torch.testing.assert_close(model.low_prior(low_masked, labels), low_by_hand.logits(low_masked, labels))
    logits = model.high_prior(high_masked, labels, model.high_prior.context(low))
    torch.testing.assert_close(logits, high_by_hand.logits(high_masked, labels, low))


def test_training_hides_all_tokens_but_the_floor_of_a_cosine(monkeypatch):
    torch.manual_seed(0)
    tokens = torch.randint(50, (4000, 6))
    uniform = torch.rand(4000, 1)
    draws = iter([uniform, torch.rand(4000, 6)])
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda *_, **__: next(draws))
        masked = hide_tokens(tokens, 50)
    hidden = masked == 50
    assert torch.equal(masked[~hidden], tokens[~hidden])
    expected = [6 - min(5, math.floor(6 * math.cos(math.pi * u / 2))) for u in uniform[:, 0].tolist()]
    assert hidden.sum(dim=1).tolist() == expected
    # Each place is hidden about as often as any other.
    assert hidden.float().mean(dim=0).std() < 0.02
    assert hide_tokens(torch.zeros(5, 1, dtype=torch.int64), 7).tolist() == [[7]] * 5


def test_the_share_kept_is_about_two_thirds():
    torch.manual_seed(0)
    kept = (hide_tokens(torch.zeros(3000, 100, dtype=torch.int64), 9) == 0).float().mean().item()
    assert kept == pytest.approx(2 / math.pi - 0.005, abs=0.02)


def test_the_loss_sees_hidden_tokens_alone():
    logits, tokens = torch.randn(2, 3, 4), torch.tensor([[0, 1, 2], [3, 0, 1]])
    hidden = torch.tensor([[True, False, True], [False, False, True]])
    expected = -np.mean([torch.log_softmax(logits[row, place], dim=0)[tokens[row, place]].item()
                         for row, place in ((0, 0), (0, 2), (1, 2))])
    assert masked_loss(logits, tokens, hidden).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("num_tokens", [1, 6, 24])
def test_masks_are_filled_by_the_cosine_and_what_is_filled_stays(num_tokens):
    seen = []

    def predict(tokens):
        seen.append(tokens)
        return torch.zeros(*tokens.shape, 5)

    noise = NoiseStream(0, torch.arange(3), (num_tokens, 2))
    seen.append(fill_masks(predict, torch.full((3, num_tokens), 5), 5, 10, 10.0, noise))
    assert [(tokens == 5).sum(dim=1).tolist() for tokens in seen] == [
        [math.floor(num_tokens * math.cos(math.pi / 2 * step / 10)) if 0 < step < 10 else num_tokens * (step == 0)] * 3
        for step in range(11)]
    for before, after in itertools.pairwise(seen):
        assert torch.equal(after[before != 5], before[before != 5])
    assert seen[-1].max() < 5


def test_without_temperature_the_surest_tokens_are_kept_first():
    # Place i has i + 1 tokens to choose from, each as likely, so that what is drawn there has probability 1 / (i + 1).
    logits = torch.full((8, 8), -torch.inf).masked_fill(torch.ones(8, 8).tril().bool(), 0.0)
    seen = []

    def predict(tokens):
        seen.append(torch.nonzero(tokens[0] == 8)[:, 0].tolist())
        return logits[None]

    fill_masks(predict, torch.full((1, 8), 8), 8, 4, 0.0, NoiseStream(0, torch.arange(1), (8, 2)))
    assert seen == [list(range(8)), list(range(1, 8)), list(range(3, 8)), list(range(5, 8))]


def test_filling_masks_against_a_plain_loop():
    torch.manual_seed(0)
    table = torch.randn(6, 6, 5)

    def predict(tokens):
        # What is likely at a place depends on what the place before holds.
        return table[tokens.roll(1, dims=1), torch.arange(6)]

    noise = NoiseStream(3, torch.arange(20), (6, 2))
    expected = torch.full((20, 6), 5)
    for step in range(4):
        probabilities, uniform = predict(expected).double().softmax(dim=2), torch.special.ndtr(noise(step).double())
        for row in range(20):
            confidence = [math.inf] * 6
            for place in range(6):
                if expected[row, place] == 5:
                    token, left = 0, uniform[row, place, 0] - probabilities[row, place, 0]
                    while left > 0:
                        token += 1
                        left -= probabilities[row, place, token]
                    expected[row, place] = token
                    gumbel = -math.log(-math.log(uniform[row, place, 1]))
                    confidence[place] = math.log(probabilities[row, place, token] + 1e-5) + 3 * (1 - (step + 1) / 4) * gumbel
            for place in np.argsort(confidence)[:math.floor(6 * math.cos(math.pi / 2 * (step + 1) / 4))]:
                expected[row, place] = 5
    assert torch.equal(fill_masks(predict, torch.full((20, 6), 5), 5, 4, 3.0, noise), expected)


def test_tokens_are_drawn_with_the_predicted_probabilities():
    probability = torch.tensor([0.5, 0.3, 0.15, 0.05])
    tokens = fill_masks(lambda tokens: probability.log().expand(*tokens.shape, 4), torch.full((2000, 10), 4), 4, 1,
                        0.0, NoiseStream(0, torch.arange(2000), (10, 2)))
    shares = torch.bincount(tokens.flatten(), minlength=4) / tokens.numel()
    torch.testing.assert_close(shares, probability, atol=0.01, rtol=0)


def test_the_rate_rises_over_a_twentieth_of_the_steps_and_falls_along_a_cosine():
    rates = [learning_rate(step, 1000, 5e-3) for step in range(1, 1001)]
    assert rates[:50] == pytest.approx([5e-3 * step / 50 for step in range(1, 51)])
    assert rates[49 + 475] == pytest.approx((5e-3 + 5e-4) / 2) and rates[-1] == pytest.approx(5e-4)
    assert learning_rate(1, 1, 5e-3) == pytest.approx(5e-4)


def test_the_second_stage_sees_a_frozen_autoencoder():
    torch.manual_seed(0)
    model = build(Config(**TINY), 24, 2, 2).train()
    x, y = torch.randn(8, 24, 2), torch.arange(8) % 2
    model.begin(Stage("autoencoder", 4, 8), x, y)
    before = {name: value.clone() for name, value in model.autoencoder.state_dict().items()}
    prior = {name: value.clone() for name, value in model.low_prior.named_parameters()}
    tokens = []
    original = model.autoencoder.tokens
    model.autoencoder.tokens = lambda series: tokens.append(original(series)) or tokens[-1]
    for step in range(2):
        model.train()
        model.train_step(Stage("prior", 4, 8), step, lambda: (x, y))
    assert all(torch.equal(first, second) for first, second in zip(*tokens, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in model.autoencoder.state_dict().items())
    assert not all(torch.equal(value, prior[name]) for name, value in model.low_prior.named_parameters())


def test_training_hides_a_fifth_of_the_labels():
    torch.manual_seed(0)
    model, y, seen = build(Config(**TINY), 24, 1, 2), torch.arange(200) % 2, []
    for prior in (model.low_prior, model.high_prior):
        prior.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    model.train_step(Stage("prior", 4, 200), 0, lambda: (torch.randn(200, 24, 1), y))
    for labels in seen:
        hidden = labels == 2
        assert torch.equal(labels[~hidden], y[~hidden]) and 0.1 < hidden.float().mean() < 0.3
    assert len(seen) == 2


def test_samples_fill_low_tokens_at_temperature_10_then_high_ones_given_these_at_0(monkeypatch):
    torch.manual_seed(0)
    model, labels, calls = build(Config(**TINY), 24, 1, 2).eval(), torch.tensor([0, 1]), []
    low, high = torch.randint(16, (2, 6)), torch.randint(16, (2, 24))
    filled = iter([low, high])

    def fill(predict, masks, mask, steps, temperature, noise):
        calls.append((masks, steps, temperature, predict(masks)))
        return next(filled)

    monkeypatch.setattr(timevqvae, "fill_masks", fill)
    series = model.sample(labels, torch.arange(2), 0)
    low_masks, high_masks = torch.full((2, 6), 16), torch.full((2, 24), 16)
    high_logits = model.high_prior(high_masks, labels, model.high_prior.context(low))
    torch.testing.assert_close(calls, [(low_masks, 10, 10.0, model.low_prior(low_masks, labels)),
                                       (high_masks, 10, 0.0, high_logits)])
    torch.testing.assert_close(series, model.autoencoder.decode(low, high))


def test_each_stage_trains_its_weights_by_adamw_with_the_usual_decay_at_the_rate_of_the_step():
    model, draw = build(Config(**TINY), 24, 1, 2), lambda: (torch.randn(4, 24, 1), torch.arange(4) % 2)
    for stage, modules in (("autoencoder", [model.autoencoder]), ("prior", [model.low_prior, model.high_prior])):
        model.train_step(Stage(stage, 40, 4), 19, draw)
        optimizer = model.optimizers[stage]
        [group] = optimizer.param_groups
        assert type(optimizer) is torch.optim.AdamW and (group["weight_decay"], group["betas"]) == (0.01, (0.9, 0.999))
        assert group["lr"] == learning_rate(20, 40, 5e-3)
        assert set(group["params"]) == {weight for module in modules for weight in module.parameters()}


@pytest.mark.parametrize(("length", "num_channels", "num_classes"), [(24, 2, 2), (25, 1, 3), (30, 1, 2), (3, 1, 2)])
def test_any_shape_gives_the_rows_asked_for(tmp_path, length, num_channels, num_classes):
    x, y = sinusoids(12, length, num_channels, num_classes)
    rival = trained(tmp_path, timevqvae, x, y, **TINY)
    assert_rows_stand_alone(rival, (length, num_channels), num_classes)


def test_series_too_short_for_a_window_are_refused():
    with pytest.raises(UserError, match="at least 3 time steps; these have 2"):
        build(Config(), 2, 7, 2)


def test_a_killed_training_resumes_exactly(tmp_path):
    x, y = sinusoids(12)
    # States are saved after 2 steps of each stage, so that both kills lose a step that was taken.
    settings = {**TINY, "autoencoder_steps": 4, "prior_steps": 4, "checkpoint_every": 2}
    assert_resumes_exactly(tmp_path, timevqvae, x, y, (3, 7), **settings)


@pytest.mark.slow
def test_it_learns_two_classes_of_sinusoids_and_uses_its_codes(tmp_path, monkeypatch):
    models = []
    monkeypatch.setattr(timevqvae, "build", lambda *arguments: models.append(build(*arguments)) or models[-1])
    result = study(tmp_path, timevqvae, codebook_size=64, autoencoder_steps=300, prior_steps=400)
    assert result.synthetic_accuracy > 0.95 * result.real_accuracy and result.real_accuracy > 0.9
    assert result.synthetic_fid < result.noise_fid / 2
    x = torch.from_numpy(sinusoids(400)[0])
    tokens = models[0].autoencoder.tokens((x - x.mean(dim=(0, 1))) / x.std(dim=(0, 1), correction=0))
    used = [perplexity(part, 64).item() for part in tokens]
    print("perplexity", used)
    assert min(used) > 32
