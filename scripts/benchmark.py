"""Cost of the influence engine and of guided generation, as ratios measured side by side in one run."""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from classifier.models import build_classifier
from tardiff.config import BaseConfig, ClassifierModelConfig, GuidanceConfig, SamplerConfig, load_config
from tardiff.data.format import Metadata
from tardiff.data.normalize import Normalizer
from tardiff.data.simulator import simulate_cohort
from tardiff.diffusion.fitted import FittedDenoiser
from tardiff.diffusion.process import DiffusionProcess
from tardiff.influence.gradient import compute_guidance_gradient
from tardiff.influence.guidance import guidance_function
from tardiff.influence.task import DownstreamTask, norm
from tardiff.models.unet1d import UNet1d
from tardiff.sampling.generate import generate_dataset, sample_chunk, sample_series
from tardiff.sampling.samplers import Conditioning
from tardiff.utils.distributed import ProcessGroup, resolve_device
from tardiff.utils.errors import exit_on_user_error

META = Metadata("benchmark", ["channel"] * 7, [""] * 7, ["0", "1"])


def components(config: BaseConfig, device: torch.device):
    """Return an untrained denoiser and GRU guide at their real sizes, for cost does not depend on weights, and data."""
    splits, _ = simulate_cohort(4000, 0)
    normalizer = Normalizer.fit("zscore", splits["train"].x)
    torch.manual_seed(0)
    denoiser = UNet1d(7, 2, config.model).to(device).eval().requires_grad_(False)
    fitted = FittedDenoiser(denoiser, DiffusionProcess(config.diffusion), normalizer, (24, 7), META)
    task = DownstreamTask(build_classifier(ClassifierModelConfig(), (24, 7), 2).to(device))
    x, y = torch.from_numpy(normalizer.transform(splits["train"].x)), torch.from_numpy(splits["train"].y)
    return fitted, task, x, y


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def guidance_gradient_ratio(config: BaseConfig, device: torch.device) -> dict[str, float]:
    """Streamed G against a loop over single samples, on the same 2,000 series."""
    _, task, x, y = components(config, device)
    group, results = ProcessGroup(0, 1, device), {}

    def streamed(batch_size: int):
        results[batch_size] = compute_guidance_gradient(task, x[:2000], y[:2000], 2, 2000, group, batch_size)

    streamed(512)
    fast, slow = min(seconds(lambda: streamed(512)) for _ in range(3)), seconds(lambda: streamed(1))
    first, second = (results[size].direction() for size in (1, 512))
    error = norm({name: first[name] - second[name] for name in first}) / norm(first)
    return {"loop_s": slow, "streamed_s": fast, "times_faster": slow / fast, "relative_difference": error}


def guided_sampling_ratio(config: BaseConfig, device: torch.device) -> dict[str, float]:
    """The default sampler with each objective of guidance against the same without, 512 series."""
    fitted, task, x, y = components(config, device)
    direction = compute_guidance_gradient(task, x, y, 2, len(x), ProcessGroup(0, 1, device)).direction("all", "l2_norm")
    direction = {name: value.to(device) for name, value in direction.items()}
    labels, samples = (torch.arange(512) % 2).to(device), torch.arange(512, device=device)

    def sample(objective: str | None):
        conditioning = None if objective is None else Conditioning(
            guidance_function(task, direction, labels, GuidanceConfig(objective=objective)), 1.0)
        sample_series(fitted, labels, samples, 0, SamplerConfig(), conditioning)

    sample("influence")
    times = {name: min(seconds(lambda name=name: sample(name)) for _ in range(2))
             for name in (None, "classifier", "influence", "anchored")}
    return {"unguided_s": times[None], **{f"{name}_ratio": times[name] / times[None] for name in times if name}}


def generation_memory(config: BaseConfig, num_samples: int) -> float:
    """Peak resident memory in MiB of a fresh process that generates `num_samples` series in chunks of 256."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    fitted, *_ = components(config, device)
    sample = functools.partial(sample_chunk, fitted, seed=0, config=SamplerConfig(num_inference_steps=2),
                               condition=lambda labels: None)
    with tempfile.TemporaryDirectory() as folder:
        generate_dataset(sample, np.arange(num_samples) % 2, 256, Path(folder) / "synthetic", fitted.shape, META,
                         ProcessGroup(0, 1, device))
    # Linux's own peak of this process; getrusage would inherit that of the parent.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/base/cinc2012_mortality.yaml",
                        help="configuration of the denoiser whose size is measured")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    config, device = load_config(BaseConfig, options.config), resolve_device(options.device)
    results = {"device": str(device), "threads": torch.get_num_threads(),
               "guidance gradient": guidance_gradient_ratio(config, device),
               "guided sampling": guided_sampling_ratio(config, device)}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        results["peak memory of generation, MiB"] = {
            str(count): pool.apply(generation_memory, (config, count)) for count in (512, 4096, 16384)}
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    exit_on_user_error(main)
