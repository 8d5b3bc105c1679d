"""TimeVQVAE as a whole: its stages, rates, labels and temperatures, any shape, resuming, and what it learns."""

import pytest
import torch
from baseline_checks import sinusoids, study

from tardiff.baselines import timevqvae
from tardiff.baselines.interface import Stage
from tardiff.baselines.timevqvae import Config, build, learning_rate
from tardiff.baselines.timevqvae_autoencoder import perplexity
from tardiff.utils.errors import UserError

TINY = {"codebook_size": 16, "batch_size": 4, "autoencoder_steps": 2, "prior_steps": 2}


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
    model, y, labels_given = build(Config(**TINY), 3, 1, 2), torch.arange(200) % 2, []
    for prior in (model.low_prior, model.high_prior):
        prior.register_forward_pre_hook(lambda _, inputs: labels_given.append(inputs[1]))
    model.train_step(Stage("prior", 4, 200), 0, lambda: (torch.randn(200, 3, 1), y))
    for labels in labels_given:
        hidden = labels == 2
        assert torch.equal(labels[~hidden], y[~hidden]) and 0.1 < hidden.float().mean() < 0.3
    assert len(labels_given) == 2


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


def test_each_stage_trains_its_weights_at_the_rate_of_the_step():
    model, draw = build(Config(**TINY), 24, 1, 2), lambda: (torch.randn(4, 24, 1), torch.arange(4) % 2)
    for stage, modules in (("autoencoder", [model.autoencoder]), ("prior", [model.low_prior, model.high_prior])):
        model.train_step(Stage(stage, 40, 4), 19, draw)
        optimizer = model.optimizers[stage]
        [group] = optimizer.param_groups
        assert group["lr"] == learning_rate(20, 40, 5e-3)
        assert set(group["params"]) == {weight for module in modules for weight in module.parameters()}


def test_series_too_short_for_a_window_are_refused():
    with pytest.raises(UserError, match="at least 3 time steps; these have 2"):
        build(Config(), 2, 7, 2)


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
