"""Training of the denoiser: one step of it, and what is evaluated on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tardiff.config import BaseTrainingConfig
from tardiff.diffusion.process import DiffusionProcess, training_draws
from tardiff.models.ema import EMA
from tardiff.utils.distributed import ProcessGroup
from tardiff.utils.errors import UserError, first_line
from tardiff.utils.logging import Run
from tardiff.utils.loop import TrainingLoop
from tardiff.utils.seeding import seed_torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def train_denoiser(denoiser: nn.Module, process: DiffusionProcess, train: tuple[Tensor, Tensor],
                   validation: tuple[Tensor, Tensor], config: BaseTrainingConfig, seed: int, run: Run,
                   group: ProcessGroup, preview: Callable[[nn.Module], Figure] | None = None) -> nn.Module:
    """Train the denoiser up to `config.steps`, resuming from the run folder, and return its moving average.

    `train` and `validation` are (x (N, L, C) float32 normalised, y (N,) int64), and stay on the device. The batch of a
    step depends on (seed, step, rank) alone, so a resumed run equals an uninterrupted one. `preview` draws a figure
    from the averaged denoiser. Raises UserError as `TrainingLoop` does, and on a batch that the processes cannot share.
    """
    device = group.device
    x_train, y_train = (tensor.to(device) for tensor in train)
    if config.batch_size % group.world_size:
        raise UserError(f"training.batch_size={config.batch_size} cannot be shared by {group.world_size} processes; "
                        "use a multiple.")
    batch_size = config.batch_size // group.world_size
    denoiser.to(device).train()
    optimizer = denoiser_optimizer(denoiser, config)
    ema = EMA(denoiser, config.ema_decay)
    loop = TrainingLoop({"denoiser": denoiser, "ema": ema.module, "optimizer": optimizer}, run, group,
                        config.log_every, config.checkpoint_every)
    if loop.step < config.steps and group.is_main:
        (run.folder / "model.safetensors").unlink(missing_ok=True)  # A run with weights is a finished one.
    network = DistributedDataParallel(denoiser, broadcast_buffers=False) if group.world_size > 1 else denoiser
    if config.compile and device.type == "cuda":
        network = torch.compile(network)

    def train_step(step: int) -> dict[str, Tensor | float]:
        seed_torch(seed, "denoiser", step, group.rank)
        learning_rate = config.learning_rate * min(1.0, (step + 1) / max(config.warmup_steps, 1))
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate
        batch = training_draws(x_train, y_train, batch_size, process.schedule.num_train_timesteps,
                               config.label_dropout, denoiser.num_classes)
        with autocast(device, config.bf16):
            loss = process.loss(network, *batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), config.gradient_clip)
        optimizer.step()
        ema.update(denoiser, step)
        return {"loss": loss, "learning_rate": learning_rate}

    def evaluate(done: int, is_last: bool) -> dict[str, float]:
        validates = is_last or done % config.validate_every == 0
        previews = preview is not None and config.preview_every and (is_last or done % config.preview_every == 0)
        if previews:
            loop.bar.set_postfix_str("preview")
            try:
                run.figure("preview", preview(ema.module), done)
            except Exception as error:  # Whatever a figure meets, hours of training do not end for it.
                loop.bar.write(f"warning: no preview at step {done}: {first_line(error)}")
        return {"validation_loss": validation_loss(ema.module, process, *validation, device, seed)} if validates else {}

    loop.train("denoiser", config.steps, config.batch_size, train_step, evaluate=evaluate)
    if group.is_main:
        run.close()
    group.barrier()
    return ema.module


def denoiser_optimizer(denoiser: nn.Module, config: BaseTrainingConfig) -> torch.optim.Optimizer:
    """Return AdamW at the learning rate after warm-up, fused, for the denoiser has hundreds of small parameters."""
    return torch.optim.AdamW(denoiser.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay,
                             fused=True)


@torch.no_grad()
def validation_loss(denoiser: nn.Module, process: DiffusionProcess, x: Tensor, y: Tensor, device: torch.device,
                    seed: int, batch_size: int = 512) -> float:
    """Return the mean loss over x (N, L, C), y (N,), with steps and noise that are the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(process.schedule.num_train_timesteps, (len(x),), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    total = 0.0
    for start in range(0, len(x), batch_size):
        part = [tensor[start:start + batch_size].to(device) for tensor in (x, y, t, noise)]
        total += float(process.loss(denoiser, *part)) * len(part[0])
    return total / len(x)


def autocast(device: torch.device, bf16: bool) -> contextlib.AbstractContextManager:
    """Return a bfloat16 autocast context on CUDA where asked for, else a context that does nothing."""
    return torch.autocast("cuda", torch.bfloat16) if bf16 and device.type == "cuda" else contextlib.nullcontext()
