"""TimeVQVAE: series as discrete tokens, and transformers that fill in masked tokens (Lee, Malacarne & Aune 2023,
'Vector quantized time series generation with a bidirectional prior model'), in the authors' version of late 2024.

One class-conditional model, on z-scored series. First, two autoencoders turn the low and the high frequencies of a
series into tokens (`timevqvae_autoencoder`, `timevqvae_quantiser`). Then, with these frozen, one transformer learns to
fill in the low tokens, and one the high tokens given the low ones (`timevqvae_prior`); sampling starts from masks
alone.

Deviations from the published code:
- The codes start from k-means on `kmeans_rows` series, not on one batch of 32: at 24 steps that has 192 low vectors for
  1,024 codes. Each centre starts with the weight of one vector, where the published code weighs its mean as a sum.
- A code that has fallen out of use is replaced by a random vector of the batch (`revive_below`). In the published code
  it drifts to zero and stays, so that most codes are lost. The share is small because at 24 steps a batch has 192 low
  vectors for 1,024 codes, and a code that is much in use may still be met in one batch of twenty.
- The layer normalisation inside the perceptrons of the transformers is not weight-normalised: that would leave of half
  of its scale only the sign, which the optimiser then moves at random. It has 85 weights fewer per layer in the low
  prior, and 21 in the high one; and the position tables lack a last row, which the published code never reads (128
  and 256).
- The tokens of a band are counted from its length, not after a dummy batch.
- Gaps are filled with the median of the channel, as for all baselines here, not with 0 after scaling.
- Batches are drawn with replacement. A batch of one series can be sampled.
- The optional third stage, a network that refines samples, is another paper and is left out; so is guidance by class,
  which the published configuration leaves at scale 1, where it does nothing.

The published code keeps a share cos(pi u / 2) of the tokens in training, 64 % on average; MaskGIT hides that share. The
published code is followed. Its authors evaluated series of one channel; at the published sizes all channels together
pass through 4 features, so that of many channels those that the others do not tell are learned late, and smoothed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tardiff.baselines.interface import Baseline, Draw, Stage
from tardiff.baselines.timevqvae_autoencoder import WIDTH, Autoencoder
from tardiff.baselines.timevqvae_prior import Prior, TokenContext, fill_masks, hide_tokens, masked_loss
from tardiff.config import BaselineConfig
from tardiff.diffusion.process import hide_labels
from tardiff.sampling.noise import NoiseStream
from tardiff.utils.errors import UserError
from tardiff.utils.seeding import derive_seed
from tardiff.utils.settings import setting

LOWEST_RATE = 5e-4
WARMUP_SHARE = 0.05


@dataclass(frozen=True)
class Config(BaselineConfig):
    """TimeVQVAE; the same settings are published for all lengths."""

    output: str = setting("runs/${name}/baselines/timevqvae", "Run folder of the training.", semantic=False)
    codebook_size: int = setting(1024, "Codes of each of the two codebooks.", low=2)
    kmeans_rows: int = setting(1024, "Training series on which k-means places the first codes.", low=1)
    revive_below: float = setting(0.001, "A code is replaced once the moving average of its vectors per batch falls "
                                         "below this share of the mean over codes; 0: never, as published.",
                                  low=0, high=1)
    autoencoder_steps: int = setting(20_000, "Optimiser steps of the autoencoders.", low=1)
    prior_steps: int = setting(40_000, "Optimiser steps of the transformers.", low=1)
    batch_size: int = setting(32, "Series per step.", low=2)
    learning_rate: float = setting(5e-3, "AdamW learning rate after warm-up over 5 % of the steps of a stage; it falls "
                                         "to 5e-4 along a cosine.", low=LOWEST_RATE, high=1)
    label_dropout: float = setting(0.2, "Share of labels hidden in training.", low=0, high=0.9)
    decoding_steps: int = setting(10, "Steps in which the masks of a band are filled.", low=1, semantic=False)
    temperature_low: float = setting(10.0, "Randomness of the order in which low tokens are filled.", low=0,
                                     semantic=False)
    temperature_high: float = setting(0.0, "Randomness of the order in which high tokens are filled.", low=0,
                                      semantic=False)


class TimeVQVAE(Baseline):
    """The autoencoders, the transformers and their training."""

    scaling = "zscore"

    def __init__(self, config: Config, length: int, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        size = config.codebook_size
        self.autoencoder = Autoencoder(length, num_channels, size, config.revive_below)
        low, high = self.autoencoder.low.num_tokens, self.autoencoder.high.num_tokens
        self.low_prior = Prior(low, size, num_classes, WIDTH, width=128, num_layers=4, num_heads=2)
        self.high_prior = Prior(high, size, num_classes, WIDTH, width=32, num_layers=1, num_heads=1,
                                context=TokenContext(size, high, WIDTH))
        self.optimizers["autoencoder"] = torch.optim.AdamW(self.autoencoder.parameters(), lr=config.learning_rate)
        self.optimizers["prior"] = torch.optim.AdamW([*self.low_prior.parameters(), *self.high_prior.parameters()],
                                                     lr=config.learning_rate)

    def stages(self) -> list[Stage]:
        return [Stage("autoencoder", self.config.autoencoder_steps, self.config.batch_size),
                Stage("prior", self.config.prior_steps, self.config.batch_size)]

    def begin(self, stage: Stage, x: Tensor, y: Tensor) -> None:
        if stage.name == "autoencoder":
            rows = torch.randperm(len(x), device=x.device)[:self.config.kmeans_rows]
            self.autoencoder.initialise(x[rows])

    def train_step(self, stage: Stage, step: int, draw: Draw) -> dict[str, Tensor]:
        x, y = draw()
        losses = self.autoencoder.losses(x) if stage.name == "autoencoder" else self._prior_losses(x, y)
        optimizer = self.optimizers[stage.name]
        optimizer.param_groups[0]["lr"] = learning_rate(step + 1, stage.steps, self.config.learning_rate)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        return losses

    def _prior_losses(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        # Batch statistics and dropout would change the tokens of a series from step to step.
        self.autoencoder.eval()
        low, high = self.autoencoder.tokens(x)
        low_masked, high_masked = (hide_tokens(tokens, self.config.codebook_size) for tokens in (low, high))
        hide = partial(hide_labels, y, self.config.label_dropout, self.num_classes)
        low_loss = masked_loss(self.low_prior(low_masked, hide()), low, low_masked != low)
        high_logits = self.high_prior(high_masked, hide(), self.high_prior.context(low))
        high_loss = masked_loss(high_logits, high, high_masked != high)
        return {"loss": low_loss + high_loss, "low": low_loss, "high": high_loss}

    @torch.no_grad()
    def sample(self, labels: Tensor, samples: Tensor, seed: int) -> Tensor:
        def fill(prior: Prior, purpose: str, temperature: float, **context: Tensor) -> Tensor:
            masks = torch.full((len(labels), len(prior.positions)), prior.mask, device=labels.device)
            noise = NoiseStream(derive_seed(seed, purpose), samples, (masks.shape[1], 2))
            return fill_masks(lambda tokens: prior(tokens, labels, **context), masks, prior.mask,
                              self.config.decoding_steps, temperature, noise)

        low = fill(self.low_prior, "low tokens", self.config.temperature_low)
        high = fill(self.high_prior, "high tokens", self.config.temperature_high, context=self.high_prior.context(low))
        return self.autoencoder.decode(low, high)


def learning_rate(step: int, steps: int, highest: float) -> float:
    """Return the rate of step 1..steps: a linear rise over the first 5 %, then a cosine from `highest` to 5e-4."""
    warmup = int(WARMUP_SHARE * steps)
    if step < warmup:
        return highest * step / warmup
    return LOWEST_RATE + (highest - LOWEST_RATE) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def build(config: Config, length: int, num_channels: int, num_classes: int) -> TimeVQVAE:
    """Return the model of all classes. Raises UserError for series of fewer than 3 steps, which no window fits."""
    if length < 3:
        raise UserError(f"timevqvae needs series of at least 3 time steps; these have {length}.")
    return TimeVQVAE(config, length, num_channels, num_classes)
