"""TimeGAN: an adversarial game in the latent space of an autoencoder, with a next-step predictor that teaches dynamics.

Yoon, Jarrett and van der Schaar 2019, 'Time-series generative adversarial networks'. Unconditional: one model per
class. Sizes, losses, stages and schedules are those of the released code, which wants TensorFlow 1.15; differences:

- This is a port: `torch.nn.GRU` applies the reset gate after the recurrent product, the published cell before it, and
  it has two bias vectors where the published cell has one. Initialisation follows the published cell: Glorot uniform
  over the joint kernel of input and state, gate biases whose sum is 1, other biases 0. Adam moves both bias vectors, so
  their sum moves about twice as fast.
- The released loader scales to [0, 1] and the model does so again, each with 1e-7 added to the range; here it is done
  once, exactly.
- Batches are drawn with replacement, where the released code takes the head of a fresh permutation.
- The authors report that scores depend on TensorFlow 1 and on tuning each dataset; series much longer than the
  published 24 steps often end in smooth or repeated samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tardiff.baselines.interface import Baseline, Draw, PerClass, Stage
from tardiff.config import BaselineConfig
from tardiff.sampling.noise import NoiseStream
from tardiff.utils.errors import UserError
from tardiff.utils.seeding import derive_seed
from tardiff.utils.settings import setting

DISCRIMINATOR_THRESHOLD = 0.15
"""The discriminator rests where its loss is not above this, so that the generator can catch up."""


@dataclass(frozen=True)
class Config(BaselineConfig):
    """TimeGAN."""

    output: str = setting("runs/${name}/baselines/timegan", "Run folder of the training.", semantic=False)
    hidden_size: int = setting(24, "Units of every GRU layer and size of the latent space; the paper advises four "
                                   "times the channels, the released code has 24.", low=1)
    num_layers: int = setting(3, "GRU layers of each network; the supervisor has one less.", low=2)
    embedding_steps: int = setting(50_000, "Iterations of the autoencoder alone, for each class.", low=1)
    supervised_steps: int = setting(50_000, "Iterations of the supervisor alone, for each class.", low=1)
    joint_steps: int = setting(50_000, "Iterations of the game, for each class.", low=1)
    batch_size: int = setting(128, "Series per iteration.", low=1)
    learning_rate: float = setting(1e-3, "Adam learning rate.", low=1e-8, high=1)


class RecurrentMap(nn.Module):
    """Map (B, L, inputs) to (B, L, outputs): stacked GRU layers, then one dense layer per time step."""

    def __init__(self, inputs: int, hidden_size: int, outputs: int, num_layers: int, activation: nn.Module) -> None:
        super().__init__()
        self.recurrent = nn.GRU(inputs, hidden_size, num_layers, batch_first=True)
        self.head = nn.Linear(hidden_size, outputs)
        self.activation = activation
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        for layer in range(num_layers):
            self._initialise(*(getattr(self.recurrent, f"{name}_l{layer}")
                               for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))

    @torch.no_grad()
    def _initialise(self, kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor, recurrent_bias: Tensor) -> None:
        inputs, hidden_size = kernel.shape[1], recurrent_kernel.shape[1]
        gates, candidate = slice(0, 2 * hidden_size), slice(2 * hidden_size, None)
        for rows, outputs in ((gates, 2 * hidden_size), (candidate, hidden_size)):
            bound = (6 / (inputs + hidden_size + outputs)) ** 0.5
            kernel[rows].uniform_(-bound, bound)
            recurrent_kernel[rows].uniform_(-bound, bound)
        bias.zero_()
        recurrent_bias.zero_()
        bias[gates] = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.head(self.recurrent(x)[0]))


class TimeGAN(Baseline):
    """The model of one class, of series (B, L, C) in [0, 1]."""

    scaling = "unit"

    def __init__(self, config: Config, length: int, num_channels: int) -> None:
        super().__init__()
        self.config, self.length, self.num_channels = config, length, num_channels
        hidden, layers = config.hidden_size, config.num_layers
        self.embedder = RecurrentMap(num_channels, hidden, hidden, layers, nn.Sigmoid())
        self.recovery = RecurrentMap(hidden, hidden, num_channels, layers, nn.Sigmoid())
        self.generator = RecurrentMap(num_channels, hidden, hidden, layers, nn.Sigmoid())
        self.supervisor = RecurrentMap(hidden, hidden, hidden, layers - 1, nn.Sigmoid())
        self.discriminator = RecurrentMap(hidden, hidden, 1, layers, nn.Identity())
        autoencoder = [*self.embedder.parameters(), *self.recovery.parameters()]
        generation = [*self.generator.parameters(), *self.supervisor.parameters()]
        # Each stage starts with fresh moments, so a set of weights that two stages train has two optimisers.
        self.optimizers = {name: torch.optim.Adam(parameters, lr=config.learning_rate) for name, parameters in (
            ("embedding", autoencoder), ("supervised", generation), ("joint_generation", generation),
            ("joint_embedding", autoencoder), ("discriminator", self.discriminator.parameters()))}

    def stages(self) -> list[Stage]:
        return [Stage(name, getattr(self.config, f"{name}_steps"), self.config.batch_size)
                for name in ("embedding", "supervised", "joint")]

    def train_step(self, stage: Stage, step: int, draw: Draw) -> dict[str, Tensor]:
        return {"embedding": self._embedding_step, "supervised": self._supervised_step,
                "joint": self._joint_step}[stage.name](draw)

    def sample(self, labels: Tensor, samples: Tensor, seed: int) -> Tensor:
        normal = NoiseStream(derive_seed(seed, "timegan"), samples, (self.length, self.num_channels))(0)
        uniform = torch.special.ndtr(normal.double()).float()
        return self.recovery(self.supervisor(self.generator(uniform)))

    def embedding_losses(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean squared errors of the autoencoder on x (B, L, C), and of the supervisor on the latent x."""
        h = self.embedder(x)
        return F.mse_loss(self.recovery(h), x), foretelling_loss(self.supervisor(h), h)

    def generator_losses(self, x: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Return the loss of generator and supervisor on series and noise, both (B, L, C), and its three terms."""
        with torch.no_grad():
            h = self.embedder(x)
        e = self.generator(z)
        h_supervised, h_hat = self.supervisor(torch.cat([h, e])).chunk(2)
        adversarial = sum(_cross_entropy(logits, 1.0) for logits in self.discriminator(torch.cat([h_hat, e])).chunk(2))
        supervised, moments = foretelling_loss(h_supervised, h), moment_loss(self.recovery(h_hat), x)
        return {"generator_loss": adversarial + 100 * supervised.sqrt() + 100 * moments,
                "adversarial_loss": adversarial, "supervised_loss": supervised, "moment_loss": moments}

    def discriminator_loss(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the cross-entropy on latent series: of x, which are real, and of z after and before the supervisor."""
        with torch.no_grad():
            e = self.generator(z)
            latent = torch.cat([self.embedder(x), self.supervisor(e), e])
        real, *fake = self.discriminator(latent).chunk(3)
        return _cross_entropy(real, 1.0) + sum(_cross_entropy(logits, 0.0) for logits in fake)

    def _embedding_step(self, draw: Draw) -> dict[str, Tensor]:
        x = draw()[0]
        loss = 10 * F.mse_loss(self.recovery(self.embedder(x)), x).sqrt()
        self._descend("embedding", loss)
        return {"embedding_loss": loss}

    def _supervised_step(self, draw: Draw) -> dict[str, Tensor]:
        with torch.no_grad():
            h = self.embedder(draw()[0])
        loss = foretelling_loss(self.supervisor(h), h)
        self._descend("supervised", loss)
        return {"supervised_loss": loss}

    def _joint_step(self, draw: Draw) -> dict[str, Tensor]:
        for _ in range(2):
            x = draw()[0]
            losses = self.generator_losses(x, torch.rand_like(x))
            self._descend("joint_generation", losses["generator_loss"])
            reconstruction, supervised = self.embedding_losses(x)
            self._descend("joint_embedding", 10 * reconstruction.sqrt() + 0.1 * supervised)
        x = draw()[0]
        loss = self.discriminator_loss(x, torch.rand_like(x))
        if loss > DISCRIMINATOR_THRESHOLD:
            self._descend("discriminator", loss)
        return {**losses, "discriminator_loss": loss, "reconstruction_loss": reconstruction}

    def _descend(self, name: str, loss: Tensor) -> None:
        """Step the optimiser `name`; a gradient reaches its own weights alone."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        loss.backward(inputs=optimizer.param_groups[0]["params"])
        optimizer.step()


def foretelling_loss(h_supervised: Tensor, h: Tensor) -> Tensor:
    """Return the mean squared error between what the supervisor made of latent series h (B, L, H) and the next steps of
    these."""
    return F.mse_loss(h_supervised[:, :-1], h[:, 1:])


def moment_loss(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the mean distance between the standard deviations, plus that between the means, of two batches (B, L, C),
    each taken over the batch for every time step and channel."""
    deviations = [(batch.var(dim=0, correction=0) + 1e-6).sqrt() for batch in (x_hat, x)]
    means = [batch.mean(dim=0) for batch in (x_hat, x)]
    return F.l1_loss(*deviations) + F.l1_loss(*means)


def _cross_entropy(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def build(config: Config, length: int, num_channels: int, num_classes: int) -> PerClass:
    """Return one TimeGAN per class. Raises UserError for series of a single step: there is no next one to foretell."""
    if length < 2:
        raise UserError(f"{config.data}: series have {length} time step; TimeGAN needs at least 2. "
                        "Use another baseline.")
    return PerClass([TimeGAN(config, length, num_channels) for _ in range(num_classes)])
