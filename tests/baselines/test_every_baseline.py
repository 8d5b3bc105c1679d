"""What every baseline must do: give the rows asked for in any shape, resume exactly, and learn two classes."""

import pytest
import torch
from baseline_checks import assert_resumes_exactly, assert_rows_stand_alone, sinusoids, study, trained

from tardiff.baselines import biodiffusion, diffusion_ts, timegan, timevae, timevqvae

TINY = {
    timegan: {"hidden_size": 6, "num_layers": 2, "batch_size": 8, "embedding_steps": 2, "supervised_steps": 2,
              "joint_steps": 2},
    timevae: {"latent_size": 3, "filters": [4, 5], "epochs": 2, "batch_size": 8},
    timevqvae: {"codebook_size": 16, "batch_size": 4, "autoencoder_steps": 2, "prior_steps": 2},
    diffusion_ts: {"width": 8, "num_heads": 2, "encoder_blocks": 1, "decoder_blocks": 1, "num_train_timesteps": 6,
                   "batch_size": 4, "gradient_accumulation": 1, "steps": 10},
    biodiffusion: {"base_channels": 8, "channel_multipliers": [1, 2], "num_train_timesteps": 25, "batch_size": 4,
                   "steps": 2},
}


def name_of(baseline):
    return baseline.__name__.rpartition(".")[2]


@pytest.mark.parametrize(("baseline", "shape", "num_classes", "settings"), [
    (timegan, (25, 1), 3, {}),
    (timegan, (30, 4), 2, {}),
    (timevae, (25, 1), 3, {"trend_degree": 1, "seasons": [[5, 4]]}),
    (timevae, (30, 4), 2, {}),
    (timevqvae, (3, 1), 2, {}),
    (timevqvae, (25, 2), 3, {}),
    (timevqvae, (30, 1), 2, {}),
    (diffusion_ts, (5, 2), 2, {}),
    (diffusion_ts, (25, 1), 3, {"num_inference_steps": 3}),
    (diffusion_ts, (30, 1), 2, {}),
    # In a chain of few steps the first multiplies rounding where the clean series is not clipped, as it nearly always
    # is in one of many.
    (biodiffusion, (25, 1), 3, {}),
    (biodiffusion, (30, 2), 2, {"num_train_timesteps": 50, "num_inference_steps": 25})],
    ids=lambda value: name_of(value) if hasattr(value, "build") else None)
def test_any_shape_gives_the_rows_asked_for(tmp_path, baseline, shape, num_classes, settings):
    x, y = sinusoids(12, *shape, num_classes)
    run = trained(tmp_path, baseline, x, y, **TINY[baseline] | settings)
    assert_rows_stand_alone(run, shape, num_classes)


@pytest.mark.parametrize(("baseline", "kills", "settings"), [
    (timegan, (5, 12), {"joint_steps": 4}),
    # Two classes of 3 epochs of 2 steps; the third epoch without an improvement ends the training.
    (timevae, (1, 4, 5, 9), {"epochs": 40, "stopping_patience": 2, "halving_patience": 1}),
    # States are saved after 2 steps of each stage, so that both kills lose a step that was taken.
    (timevqvae, (3, 7), {"autoencoder_steps": 4, "prior_steps": 4, "checkpoint_every": 2}),
    (diffusion_ts, (11, 17), {"steps": 11, "warmup_steps": 2, "patience": 1}),
    (biodiffusion, (4,), {"steps": 5})], ids=lambda value: name_of(value) if hasattr(value, "build") else None)
def test_a_killed_training_resumes_exactly(tmp_path, monkeypatch, baseline, kills, settings):
    monkeypatch.setattr(timevae, "STOPPING_IMPROVEMENT", 1e6)
    monkeypatch.setattr(timevae, "HALVING_IMPROVEMENT", 1e6)
    assert_resumes_exactly(tmp_path, baseline, *sinusoids(32, length=6), kills, **TINY[baseline] | settings)


@pytest.mark.parametrize(("baseline", "kind", "published"), [
    (timegan, torch.optim.Adam, {"lr": 1e-3}),
    (timevae, torch.optim.Adam, {"lr": 1e-3, "eps": 1e-7}),
    (timevqvae, torch.optim.AdamW, {"lr": 5e-3}),
    (diffusion_ts, torch.optim.Adam, {"lr": 1e-5, "betas": (0.9, 0.96)}),
    (biodiffusion, torch.optim.AdamW, {"lr": 3e-4})], ids=map(name_of, TINY))
def test_optimisers_are_the_published_ones(baseline, kind, published):
    """What is not published is torch's default. The rate of Diffusion-TS is the one from which it rises."""
    model = baseline.build(baseline.Config(**TINY[baseline]), 24, 2, 1)
    for optimizer in model.optimizers.values():
        assert type(optimizer) is kind and optimizer.defaults == kind([torch.ones(1)], **published).defaults


@pytest.mark.slow
@pytest.mark.parametrize(("baseline", "settings"), [
    (timegan, {"batch_size": 64, "embedding_steps": 400, "supervised_steps": 200, "joint_steps": 200,
               "learning_rate": 3e-3}),
    (timevae, {"steps": 1000}),
    (diffusion_ts, {"width": 32, "encoder_blocks": 2, "decoder_blocks": 1, "num_train_timesteps": 200, "steps": 800,
                    "batch_size": 64, "gradient_accumulation": 1, "learning_rate": 2e-3, "warmup_steps": 50,
                    "num_inference_steps": 50}),
    (biodiffusion, {"base_channels": 16, "channel_multipliers": [1, 2, 4], "num_train_timesteps": 200, "steps": 1000,
                    "learning_rate": 1e-3, "num_inference_steps": 50})],
    ids=lambda value: name_of(value) if hasattr(value, "build") else None)
def test_a_classifier_learns_from_samples_as_from_real_series(tmp_path, baseline, settings):
    result = study(tmp_path, baseline, **settings)
    assert result.real_accuracy > 0.9
    assert result.synthetic_accuracy > 0.95 * result.real_accuracy
    assert result.synthetic_fid < result.noise_fid / 2
