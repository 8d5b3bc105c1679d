"""Training of the denoiser: one loop, resumable at any step, the same on one process or many."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from tardiff.config import BaseTrainingConfig
from tardiff.diffusion.process import DiffusionProcess, training_draws
from tardiff.models.ema import EMA
from tardiff.utils.distributed import Processes
from tardiff.utils.errors import UserError
from tardiff.utils.logging import Run
from tardiff.utils.seeding import seed_torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def train_denoiser(denoiser: nn.Module, process: DiffusionProcess, train: tuple[Tensor, Tensor],
                   validation: tuple[Tensor, Tensor], config: BaseTrainingConfig, seed: int, run: Run,
                   workers: Processes, preview: Callable[[nn.Module], Figure] | None = None) -> nn.Module:
    """Train the denoiser up to `config.steps`, resuming from the run folder, and return its moving average.

    `train` and `validation` are (x (N, L, C) float32 normalised, y (N,) int64), and stay on the device. The batch of a
    step depends on (seed, step, rank) alone, so a resumed run equals an uninterrupted one. `preview` draws a figure from
    the averaged denoiser. Writes metrics and states. Raises UserError if the loss is not finite.
    """
    device, rank = workers.device, workers.rank
    x_train, y_train = (tensor.to(device) for tensor in train)
    if config.batch_size % workers.world_size:
        raise UserError(f"training.batch_size={config.batch_size} cannot be shared by {workers.world_size} processes; use "
                        "a multiple.")
    batch_size = config.batch_size // workers.world_size
    denoiser.to(device).train()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    ema = EMA(denoiser, config.ema_decay)
    start = _restore(run, denoiser, ema, optimizer, workers.world_size)
    if start < config.steps and workers.is_main:
        run.rewind(start)
        (run.folder / "model.safetensors").unlink(missing_ok=True)  # A run with weights is a finished one.
    network = DistributedDataParallel(denoiser) if workers.world_size > 1 else denoiser
    if config.compile and device.type == "cuda":
        network = torch.compile(network)

    progress = tqdm(range(start, config.steps), initial=start, total=config.steps, desc="denoiser", unit="step",
                    disable=not workers.is_main)
    losses, clock = [], time.perf_counter()
    for step in progress:
        seed_torch(seed, "denoiser", step, rank)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(config.warmup_steps, 1))
        batch = training_draws(x_train, y_train, batch_size, process.schedule.num_train_timesteps,
                               config.label_dropout, denoiser.num_classes)
        with autocast(device, config.bf16):
            loss = process.loss(network, *batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), config.gradient_clip)
        optimizer.step()
        ema.update(denoiser, step)
        losses.append(loss.detach())

        done = step + 1
        saves = done % config.checkpoint_every == 0 or done == config.steps
        if saves or done % config.log_every == 0:  # No mean spans a state, so a resumed run logs the same ones.
            mean = float(workers.sum(torch.stack(losses).mean())) / workers.world_size
            _require_finite(mean, done)  # A diverged state is never saved: no run could resume from it.
            speed = len(losses) * batch_size * workers.world_size / (time.perf_counter() - clock)
            progress.set_postfix(loss=f"{mean:.4f}", series_per_s=f"{speed:.0f}")
            if workers.is_main:
                run.log(done, loss=mean, series_per_second=speed, learning_rate=group["lr"])
            losses = []
        if workers.is_main and done % config.validate_every == 0 or done == config.steps:
            run.log(done, validation_loss=validation_loss(ema.module, process, *validation, device, seed))
        if workers.is_main and preview is not None and config.preview_every and (
                done % config.preview_every == 0 or done == config.steps):
            run.figure("preview", preview(ema.module), done)
        if workers.is_main and saves:
            run.save_state(done, {"step": done, "denoiser": denoiser.state_dict(), "ema": ema.module.state_dict(),
                                  "optimizer": optimizer.state_dict(), "world_size": workers.world_size})
        if not losses:  # The clock stands still during validation, previews and saving.
            clock = time.perf_counter()
    if workers.is_main:
        run.close()
    workers.barrier()
    return ema.module


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


def _require_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise UserError(f"the training loss is not finite at step {step}. Lower training.learning_rate, or look for "
                        "extreme values in the training data.")


def _restore(run: Run, denoiser: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, world_size: int) -> int:
    """Load the newest state of the run, if any, and return the number of steps done.

    Raises UserError if it was made by another number of processes: they draw other batches.
    """
    state = run.latest_state()
    if state is None:
        return 0
    if state.get("world_size", world_size) != world_size:
        raise UserError(f"{run.folder}: begun with {state['world_size']} processes, now there are {world_size}. Resume with "
                        "as many, or give another output folder.")
    with run.restoring():
        denoiser.load_state_dict(state["denoiser"])
        ema.module.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        return state["step"]
