"""TimeVQVAE against plain loops: its spectra, its codebook, its masks and how they are filled."""

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
from tardiff.baselines.timevqvae_prior import Attention, fill_masks, hide_tokens, masked_loss
from tardiff.baselines.timevqvae_quantiser import Quantiser
from tardiff.sampling.noise import NoiseStream
from tardiff.utils.errors import UserError

TINY = {"codebook_size": 16, "batch_size": 4, "autoencoder_steps": 2, "prior_steps": 2}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("length", "num_channels", "expected", "low", "high"), [
    (24, 7, 55_552, 6, 24), (288, 3, 157_668, 9, 72), (256, 16, 176_544, 8, 64), (300, 15, 174_228, 9, 74)])
def test_autoencoder_has_the_published_parameters_and_tokens(length, num_channels, expected, low, high):
    model = Autoencoder(length, num_channels, 1024, 0.0).eval()
    assert count(model) == expected
    tokens = model.tokens(torch.randn(1, length, num_channels))
    assert [part.shape for part in tokens] == [(1, low), (1, high)] == [(1, model.low.num_tokens),
                                                                       (1, model.high.num_tokens)]


def test_priors_have_the_published_parameters_but_those_without_effect():
    model = build(Config(), 24, 7, 2)
    # Weight normalisation of the inner layer norms: 4 layers of 85 and one of 21. Position tables: a row of 128, of 256.
    assert count(model.low_prior) == 656_208 - 4 * 85 - 128
    assert count(model.high_prior) == 784_084 - 21 - 256
    other = build(Config(codebook_size=1000), 24, 7, 5)
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


def test_snake_is_its_formula():
    layer, x = Snake(2), torch.randn(1, 2, 3, 4)
    for channel, frequency in enumerate(layer.frequency.flatten().tolist()):
        assert 0.2 <= frequency <= 0.5
        torch.testing.assert_close(layer(x)[:, channel], x[:, channel] + (frequency * x[:, channel]).sin() ** 2 / frequency)


def test_the_loss_adds_up_squares_of_the_low_and_distances_of_the_high_band():
    torch.manual_seed(0)
    model, x = Autoencoder(24, 2, 8, 0.0).eval(), torch.randn(3, 24, 2)
    spectrum, losses, expected = to_spectrum(x), model.losses(x), 0.0
    for band, distance in ((model.low, lambda error: error.pow(2)), (model.high, torch.abs)):
        features = band.encode(spectrum)
        torch.testing.assert_close(features.norm(dim=2), torch.ones(3, band.num_tokens))
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


def test_attention_against_a_loop():
    torch.manual_seed(0)
    layer, x = Attention(12, 2), torch.randn(1, 3, 12)
    torch.nn.init.uniform_(layer.query_scale, 0, 9)
    normed = F.layer_norm(x, (12,))[0]
    query = layer.query(normed).view(3, 2, 64)
    key, value = layer.key_value(normed).view(3, 2, 2, 64).unbind(dim=1)
    attended = torch.zeros(3, 2, 64)
    for place in range(3):
        for head in range(2):
            keys = [layer.null[0, head, 0], *key[:, head]]
            values = [layer.null[1, head, 0], *value[:, head]]
            scores = [(query[place, head] / query[place, head].norm() * layer.query_scale
                       * (other / other.norm()) * layer.key_scale).sum() / 8 for other in keys]
            weights = torch.softmax(torch.stack(scores), dim=0)
            attended[place, head] = sum(weight * other for weight, other in zip(weights, values, strict=True))
    expected = F.layer_norm(layer.output(attended.view(3, 128)), (12,))
    torch.testing.assert_close(layer(x)[0], expected, atol=1e-5, rtol=1e-4)


def test_dropout_spares_masked_tokens():
    torch.manual_seed(0)
    prior = build(Config(**TINY), 24, 1, 2).low_prior.train()
    labels = torch.zeros(1, dtype=torch.int64)
    masks, tokens = torch.full((1, 6), 16), torch.zeros(1, 6, dtype=torch.int64)
    torch.testing.assert_close(prior(masks, labels), prior(masks, labels))
    assert not torch.allclose(prior(tokens, labels), prior(tokens, labels))


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


def test_high_tokens_depend_on_low_tokens_and_both_on_the_label():
    torch.manual_seed(0)
    model = build(Config(**TINY), 24, 2, 2).eval()
    low, masks = torch.zeros(1, 6, dtype=torch.int64), torch.full((1, 24), 16)
    labels = torch.zeros(1, dtype=torch.int64)
    logits = model.high_prior(masks, labels, model.high_prior.context(low))
    assert not torch.allclose(logits, model.high_prior(masks, labels, model.high_prior.context(low + 1)))
    assert not torch.allclose(logits, model.high_prior(masks, labels + 1, model.high_prior.context(low)))
    assert not torch.allclose(model.low_prior(low, labels), model.low_prior(low, labels + 2))


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
