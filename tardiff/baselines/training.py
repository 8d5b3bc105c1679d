"""One training loop for every baseline: stage after stage, resumable at any step."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tardiff.baselines.interface import Baseline, Scaler, Stage
from tardiff.config import BaselineConfig
from tardiff.sampling.generate import SampleChunk
from tardiff.utils.checkpoint import load_tensors, load_weights, save_tensors, write_json
from tardiff.utils.errors import UserError
from tardiff.utils.logging import Run
from tardiff.utils.seeding import seed_torch


def train_baseline(model: Baseline, scaler: Scaler, x: np.ndarray, y: np.ndarray, config: BaselineConfig, run: Run,
                   device: torch.device) -> None:
    """Train through all stages, resuming from the run folder, and write the weights and `budget.json`.

    x (N, L, C) float32 in raw units, without NaN, y (N,) int64. The batches of a step depend on (seed, stage, step)
    alone, so a resumed run equals an uninterrupted one. Raises UserError if a loss is not finite.
    """
    scaler.fit(torch.from_numpy(x))
    model.to(device)
    scaler.to(device)
    x_scaled, labels = scaler(torch.from_numpy(x).to(device)), torch.from_numpy(y).to(device)
    model.observe(x_scaled, labels)
    weights = run.folder / "model.safetensors"
    if weights.exists():
        load_weights(_whole(model, scaler), load_tensors(weights)[0], weights)
        return
    stages = model.stages()
    number, step, steps_done, seconds = _restore(run, model)
    run.rewind(steps_done)
    with tqdm(total=sum(stage.steps for stage in stages), initial=steps_done, desc="baseline", unit="step") as progress:
        while number < len(stages):
            stage = stages[number]
            rows = torch.arange(len(y), device=device) if stage.label is None else torch.nonzero(labels == stage.label)[:, 0]
            progress.set_description(stage.name)
            if step == 0:
                seed_torch(config.seed, "baseline", number, "begin")
                model.begin(stage, x_scaled[rows], labels[rows])
            saved, started = step, time.perf_counter()
            step = _train_until_saved(model, stage, number, step, steps_done, (x_scaled, labels, rows), config, run, progress)
            steps_done, seconds = steps_done + step - saved, seconds + time.perf_counter() - started
            if step == stage.steps or model.finished(stage):
                number, step = number + 1, 0
            run.save_state(steps_done, {
                "stage": number, "step": step, "steps_done": steps_done, "seconds": seconds, "model": model.state_dict(),
                "optimizers": {name: optimizer.state_dict() for name, optimizer in model.optimizers.items()},
                "extra": model.extra_state()})
    write_json(run.folder / "budget.json", {
        "budget": config.budget, "optimiser_steps": steps_done, "training_seconds": seconds, "device": str(device),
        "parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "stages": [dataclasses.asdict(stage) for stage in stages]})
    save_tensors(weights, _whole(model, scaler).state_dict())
    run.close()


def chunk_sampler(model: Baseline, scaler: Scaler, seed: int, device: torch.device) -> SampleChunk:
    """Return the sampler of a trained baseline for `generate_dataset`: series in raw units."""
    model.to(device).eval()
    scaler.to(device)

    @torch.no_grad()
    def sample(labels: Tensor, samples: Tensor) -> np.ndarray:
        series = scaler.inverse(model.sample(labels, samples, seed))
        finite = torch.isfinite(series).flatten(1).all(dim=1)
        if not finite.all():
            raise UserError(f"series {int(samples[~finite][0])} is not finite: the training diverged. Lower the learning "
                            "rate, and train again in another output folder.")
        return series.float().cpu().numpy()

    return sample


def _train_until_saved(model: Baseline, stage: Stage, number: int, step: int, steps_done: int,
                       data: tuple[Tensor, Tensor, Tensor], config: BaselineConfig, run: Run, progress: tqdm) -> int:
    """Train a stage from `step` to the next step at which the state is saved, and return that step."""
    x, y, rows = data

    def draw() -> tuple[Tensor, Tensor]:
        chosen = rows[torch.randint(len(rows), (stage.batch_size,), device=rows.device)]
        return x[chosen], y[chosen]

    model.train()
    end = min(stage.steps, step + config.checkpoint_every)
    window, clock, start = [], time.perf_counter(), step
    while step < end and not model.finished(stage):
        seed_torch(config.seed, "baseline", number, step)
        window.append({name: value.detach() for name, value in model.train_step(stage, step, draw).items()})
        step += 1
        progress.update()
        if step % config.log_every == 0 or step == end:
            means = {name: float(torch.stack([losses[name] for losses in window if name in losses]).mean())
                     for name in dict.fromkeys(name for losses in window for name in losses)}
            _require_finite(means, stage, step)
            speed = len(window) * stage.batch_size / (time.perf_counter() - clock)
            progress.set_postfix(loss=f"{next(iter(means.values())):.4f}", series_per_s=f"{speed:.0f}")
            run.log(steps_done + step - start, **means, series_per_second=speed)
            window, clock = [], time.perf_counter()
    return step


def _require_finite(losses: dict[str, float], stage: Stage, step: int) -> None:
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(f"the loss '{wrong[0]}' is not finite at step {step} of '{stage.name}'. Lower the learning rate, "
                        "or look for extreme values in the training data.")


def _restore(run: Run, model: Baseline) -> tuple[int, int, int, float]:
    """Load the newest state, if any, and return stage, step in it, steps done in all, and seconds spent."""
    state = run.latest_state()
    if state is None:
        return 0, 0, 0, 0.0
    with run.restoring():
        model.load_state_dict(state["model"])
        for name, optimizer in model.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        model.load_extra_state(state["extra"])
        return state["stage"], state["step"], state["steps_done"], state["seconds"]


def _whole(model: Baseline, scaler: Scaler) -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict({"model": model, "scaler": scaler})
