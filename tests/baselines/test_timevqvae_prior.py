"""The priors of TimeVQVAE against their specification: layers, tokens hidden in training, masks filled in sampling."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_hand import ByHand, num_parameters, perturbed

from tardiff.baselines.timevqvae import Config, build
from tardiff.baselines.timevqvae_prior import fill_masks, hide_tokens, masked_loss
from tardiff.sampling.noise import NoiseStream


# The specification measures 656,208 + 784,084 at 24 x 7 and gives the others as 1.45 M, of which 745 are without
# effect: the weight normalisation of the inner layer norms, 4 layers of 85 and one of 21, and a row of each position
# table.
@pytest.mark.parametrize(("length", "num_channels", "low", "both"), [
    (24, 7, 656_208 - 4 * 85 - 128, 656_208 + 784_084 - 745), (288, 3, 656_124, 1_452_219),
    (256, 16, 655_996, 1_450_043)])
def test_priors_have_the_published_parameters_but_those_without_effect(length, num_channels, low, both):
    model = build(Config(), length, num_channels, 2)
    sizes = [num_parameters(prior) for prior in (model.low_prior, model.high_prior)]
    assert sizes == [low, both - low]


def test_codes_and_classes_have_their_rows_in_the_priors():
    model, other = build(Config(), 24, 7, 2), build(Config(codebook_size=1000), 24, 7, 5)
    # A code has a row in the table of each band that reads it and a direction, a length and a bias in the head.
    assert num_parameters(model.low_prior) - num_parameters(other.low_prior) == 24 * (128 + 130) - 3 * 128
    assert num_parameters(model.high_prior) - num_parameters(other.high_prior) == 24 * (2 * 128 + 34) - 3 * 256


class PriorByHand(ByHand):
    """A transformer that predicts tokens 0..15, of which 16 masks one."""

    def __init__(self, prior, num_layers, num_heads):
        super().__init__(prior)
        self.num_layers, self.num_heads = num_layers, num_heads

    def attention(self, name, x):
        x = self.layer_norm(f"{name}.norm", x)
        projected = self.linear(f"{name}.query", x), *self.linear(f"{name}.key_value", x).chunk(2, dim=2)
        chunks = [part.chunk(self.num_heads, dim=2) for part in projected]
        heads = zip(*chunks, *self.weights[f"{name}.null"], strict=True)
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
        """Return features (B, num_tokens, 128) of low tokens (B, M), repeated to as many as there are high tokens."""
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
    model = perturbed(build(Config(codebook_size=16), 24, 2, 2)).double().train(training)
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


def test_the_loss_sees_hidden_tokens_alone():
    logits, tokens = torch.randn(2, 3, 4), torch.tensor([[0, 1, 2], [3, 0, 1]])
    hidden = torch.tensor([[True, False, True], [False, False, True]])
    expected = -np.mean([torch.log_softmax(logits[row, place], dim=0)[tokens[row, place]].item()
                         for row, place in ((0, 0), (0, 2), (1, 2))])
    assert masked_loss(logits, tokens, hidden).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("num_tokens", [1, 6, 24])
def test_masks_are_filled_by_the_cosine_and_what_is_filled_stays(num_tokens):
    steps = []

    def predict(tokens):
        steps.append(tokens)
        return torch.zeros(*tokens.shape, 5)

    noise = NoiseStream(0, torch.arange(3), (num_tokens, 2))
    steps.append(fill_masks(predict, torch.full((3, num_tokens), 5), 5, 10, 10.0, noise))
    assert [(tokens == 5).sum(dim=1).tolist() for tokens in steps] == [
        [math.floor(num_tokens * math.cos(math.pi / 2 * step / 10)) if 0 < step < 10 else num_tokens * (step == 0)] * 3
        for step in range(11)]
    for before, after in itertools.pairwise(steps):
        assert torch.equal(after[before != 5], before[before != 5])
    assert steps[-1].max() < 5


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_filling_masks_against_a_plain_loop(temperature):
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
                    randomness = temperature * (1 - (step + 1) / 4) * gumbel
                    confidence[place] = math.log(probabilities[row, place, token] + 1e-5) + randomness
            for place in np.argsort(confidence)[:math.floor(6 * math.cos(math.pi / 2 * (step + 1) / 4))]:
                expected[row, place] = 5
    assert torch.equal(fill_masks(predict, torch.full((20, 6), 5), 5, 4, temperature, noise), expected)


def test_the_share_kept_is_about_two_thirds():
    torch.manual_seed(0)
    kept = (hide_tokens(torch.zeros(3000, 100, dtype=torch.int64), 9) == 0).float().mean().item()
    assert kept == pytest.approx(2 / math.pi - 0.005, abs=0.02)


def test_tokens_are_drawn_with_the_predicted_probabilities():
    probability = torch.tensor([0.5, 0.3, 0.15, 0.05])
    tokens = fill_masks(lambda tokens: probability.log().expand(*tokens.shape, 4), torch.full((2000, 10), 4), 4, 1,
                        0.0, NoiseStream(0, torch.arange(2000), (10, 2)))
    shares = torch.bincount(tokens.flatten(), minlength=4) / tokens.numel()
    torch.testing.assert_close(shares, probability, atol=0.01, rtol=0)
