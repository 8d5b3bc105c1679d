"""Speed and memory of denoiser and guidance, each beside its like in the same run; prints a table, writes JSON.

On a CPU the denoiser of --config is measured; on CUDA the paper-sized one, with two residual blocks a level as released
and with three as in the text. There are two ways through a layer, see `tardiff.models.layers`, and both are measured on
either device. A section that fails is reported, and the rest goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from classifier.models import build_classifier
from tardiff.config import BaseConfig, ClassifierModelConfig, GuidanceConfig, SamplerConfig, load_config
from tardiff.data.format import Metadata
from tardiff.data.normalize import Normalizer
from tardiff.data.simulator import simulate_cohort
from tardiff.diffusion.fitted import FittedDenoiser
from tardiff.diffusion.gaussian import GaussianDenoiser
from tardiff.diffusion.process import DiffusionProcess, training_draws
from tardiff.diffusion.trainer import autocast, denoiser_optimizer
from tardiff.influence.gradient import compute_guidance_gradient
from tardiff.influence.guidance import guidance_function
from tardiff.influence.task import DownstreamTask, layer_parameters
from tardiff.models import layers
from tardiff.models.ema import EMA
from tardiff.models.unet1d import UNet1d
from tardiff.sampling.generate import generate_dataset, sample_chunk
from tardiff.sampling.samplers import Conditioning
from tardiff.utils.checkpoint import write_json
from tardiff.utils.distributed import ProcessGroup, resolve_device
from tardiff.utils.errors import exit_on_user_error

SHAPE, NUM_CLASSES, NUM_TRAIN = (24, 7), 2, 2000
META = Metadata("benchmark", ["channel"] * 7, [""] * 7, ["0", "1"])
GUIDANCE = {"classifier": {"objective": "classifier"},
            **{f"{objective}, {parameters}": {"objective": objective, "parameters": parameters}
               for objective in ("influence", "anchored") for parameters in ("head", "all")}}

WAYS = {"cpu": lambda x: True, "cuda": lambda x: False}

Figures = dict[str, float]


class Bench:
    """Untrained networks at their real sizes, for cost does not depend on weights, and simulated series."""

    def __init__(self, config: BaseConfig, device: torch.device, quick: bool, steps: Sequence[int] = ()) -> None:
        self.config, self.device, self.quick = config, device, quick
        self.is_cuda = device.type == "cuda"
        self.rounds = 1 if quick else 2
        self.steps = steps or ((2,) if quick else (10, 50) if self.is_cuda else (10, 25))
        splits, _ = simulate_cohort(4000, 0)
        self.normalizer = Normalizer.fit("zscore", splits["train"].x)
        self.x = torch.from_numpy(self.normalizer.transform(splits["train"].x[:NUM_TRAIN])).to(device)
        self.y = torch.from_numpy(splits["train"].y[:NUM_TRAIN]).to(device)
        self.task = DownstreamTask(build_classifier(ClassifierModelConfig(), SHAPE, NUM_CLASSES).to(device))
        self.process = DiffusionProcess(config.diffusion)

    def denoiser(self) -> nn.Module:
        torch.manual_seed(0)
        network = UNet1d(SHAPE[1], NUM_CLASSES, self.config.model)
        denoiser = GaussianDenoiser(network, self.process, SHAPE, GaussianDenoiser.num_components(NUM_TRAIN, SHAPE))
        denoiser.fit(self.x.cpu(), self.y.cpu())
        return denoiser.to(self.device).eval()

    def fitted(self) -> FittedDenoiser:
        return FittedDenoiser(self.denoiser().requires_grad_(False), self.process, self.normalizer, SHAPE, META)

    @functools.cached_property
    def flops(self) -> float:
        """The multiplications and additions of one forward pass of one series, in FLOP."""
        model = self.denoiser().cpu()
        with FlopCounterMode(display=False) as counter, torch.no_grad(), layers_of("cuda"):
            model(torch.zeros(1, *SHAPE), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        return counter.get_total_flops()

    def seconds(self, works: Mapping[str, Callable[[], object]], untimed: int = 1) -> Figures:
        """Return the least seconds of each work, all in turn in every round, after some rounds that do not count.

        On one CPU thread they are the processor's, which other processes on the machine disturb less.
        """
        clock = time.perf_counter if self.is_cuda or torch.get_num_threads() > 1 else time.process_time
        best = dict.fromkeys(works, float("inf"))
        for number in range(untimed + self.rounds):
            for name, work in works.items():
                self._wait()
                start = clock()
                work()
                self._wait()
                if number >= untimed:
                    best[name] = min(best[name], clock() - start)
        return best

    def _wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()


def layers_of(device: str) -> contextlib.AbstractContextManager:
    """Return a context in which the denoiser goes through its layers as it does on `cpu` or `cuda`, wherever it is."""
    return mock.patch.object(layers, "channels_last", WAYS[device])


def matmul_rate(bench: Bench) -> Figures:
    """The device's own rate of square products, in FLOP/s: the yardstick of the other sections."""
    size = 8192 if bench.is_cuda else 512 if bench.quick else 2048
    matrix = torch.randn(size, size, device=bench.device, dtype=torch.bfloat16 if bench.is_cuda else torch.float32)
    return {"flops_per_s": 2 * size**3 / bench.seconds({"product": lambda: matrix @ matrix})["product"]}


def forward(bench: Bench, rate: float, compiled: bool) -> Figures:
    """Milliseconds a series of one forward pass as sampling does it, by either way through the layers; compiled, which
    takes a minute, by the device's own."""
    results = {"GFLOP a forward": bench.flops / 1e9}
    ways = (bench.device.type,) if compiled else tuple(WAYS)
    precisions = (False, True) if bench.is_cuda and not compiled else (bench.is_cuda,)
    for size in (64,) if bench.quick else (4096,) if bench.is_cuda else (128, 256, 512):
        t, labels = torch.zeros((2, size), dtype=torch.int64, device=bench.device)
        x = torch.randn(size, *SHAPE, device=bench.device)

        def once(model: nn.Module, way: str, bf16: bool, x=x, t=t, labels=labels) -> None:
            with torch.no_grad(), layers_of(way), autocast(bench.device, bf16):
                model(x, t, labels)

        works = {}
        for way, bf16 in itertools.product(ways, precisions):
            model = bench.fitted().denoiser
            if compiled:
                model.compile()
            name = f"{size}, layers of {way}" + ", bf16" * bf16
            works[name] = functools.partial(once, model, way, bf16)
        for name, taken in bench.seconds(works).items():
            results[f"{name}, ms a series"] = taken / size * 1e3
            results[f"{name}, share of matmul rate"] = bench.flops * size / taken / rate
    return results


def training(bench: Bench, rate: float, compiled: bool) -> Figures:
    """Milliseconds of one training step as `train_denoiser` takes it, by either way through the layers, and its share
    of the matmul rate (three forwards). On CUDA also with the network's kernels replayed as CUDA graphs, which spares
    the time to launch them; compiled, with and without."""
    config = bench.config.training
    size = 16 if bench.quick else config.batch_size

    def step_of(network: Callable[[nn.Module], nn.Module], way: str) -> Callable[[], None]:
        model = bench.denoiser().train()
        optimizer, average = denoiser_optimizer(model, config), EMA(model, 0.99)
        with layers_of(way):
            called = network(model)

        def step() -> None:
            batch = training_draws(bench.x, bench.y, size, bench.process.schedule.num_train_timesteps, 0.1, NUM_CLASSES)
            with layers_of(way), autocast(bench.device, config.bf16):
                loss = bench.process.loss(called, *batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update(model, 1000)

        return step

    def graphed(model: nn.Module) -> nn.Module:
        batch = training_draws(bench.x, bench.y, size, bench.process.schedule.num_train_timesteps, 0.1, NUM_CLASSES)
        # Casts of the weights must be part of the graph: a cached one would keep those of the capture.
        with torch.autocast("cuda", torch.bfloat16, config.bf16, cache_enabled=False):
            return torch.cuda.make_graphed_callables(model, (batch[3], batch[2], batch[1]))

    own = bench.device.type
    if compiled:
        works = {f"compiled, {mode}": step_of(functools.partial(torch.compile, mode=mode), own)
                 for mode in ("default", "reduce-overhead")}
    else:
        works = {f"layers of {way}": step_of(lambda model: model, way) for way in WAYS}
        works |= {"CUDA graphs": step_of(graphed, own)} if bench.is_cuda else {}
    results: Figures = {"batch": size}
    # CUDA graphs are recorded in the second call of a compiled network.
    for name, taken in bench.seconds(works, untimed=3 if compiled else 1).items():
        results[f"{name}, ms a step"] = taken * 1e3
        results[f"{name}, share of matmul rate"] = 3 * bench.flops * size / taken / rate
    return results


def sampling(bench: Bench, rate: float, compiled: bool) -> Figures:
    """Seconds a series of sampling, unguided and with each objective of guidance by a GRU, and their ratios; with many
    steps, of which a GPU takes more, `anchored` alone."""
    fitted, count = bench.fitted(), 16 if bench.quick else 4096 if bench.is_cuda else 256
    if compiled:
        fitted.denoiser.compile()
    labels, samples = (torch.arange(count) % 2).to(bench.device), torch.arange(count, device=bench.device)
    gradient = compute_guidance_gradient(bench.task, bench.x, bench.y, NUM_CLASSES, NUM_TRAIN,
                                         ProcessGroup(0, 1, bench.device))
    results: Figures = {}
    for steps in bench.steps:

        def sample(settings: Mapping[str, str] | None, steps: int = steps) -> None:
            sample_chunk(fitted, labels, samples, 0, SamplerConfig(num_inference_steps=steps),
                         functools.partial(conditioning, bench, gradient, settings), bf16=bench.is_cuda)

        guided = GUIDANCE if not (compiled or steps > 25) else {"anchored, all": GUIDANCE["anchored, all"]}
        works = {name: functools.partial(sample, settings) for name, settings in {"unguided": None, **guided}.items()}
        taken = bench.seconds(works)
        share = steps * count * bench.flops / taken["unguided"] / rate
        results[f"{steps} steps unguided, share of matmul rate"] = share
        for name, seconds in taken.items():
            results[f"{steps} steps {name}, s a series"] = seconds / count
            results[f"{steps} steps {name}, times unguided"] = seconds / taken["unguided"]
    return results


def conditioning(bench: Bench, gradient, settings: Mapping[str, str] | None, labels: torch.Tensor
                 ) -> Conditioning | None:
    if settings is None:
        return None
    config = GuidanceConfig(**settings)
    names = layer_parameters(bench.task.head(bench.x[:2])) if config.parameters == "head" else None
    direction = gradient.direction("all", "l2_norm", names)
    direction = {name: value.to(bench.device) for name, value in direction.items()}
    return Conditioning(guidance_function(bench.task, direction, labels, config), 1.0)


def generation_memory(config: BaseConfig, num_samples: int) -> float:
    """Return the peak resident memory in MiB of a fresh process that generates series in chunks of 256."""
    torch.set_num_threads(1)
    bench = Bench(config, resolve_device("cpu"), quick=True)
    sample = functools.partial(sample_chunk, bench.fitted(), seed=0, config=SamplerConfig(num_inference_steps=2),
                               condition=lambda labels: None)
    with tempfile.TemporaryDirectory() as folder:
        generate_dataset(sample, np.arange(num_samples) % 2, 256, Path(folder) / "synthetic", SHAPE, META,
                         ProcessGroup(0, 1, bench.device))
    # Linux's own peak of this process; getrusage would inherit that of the parent.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def memory(bench: Bench) -> Figures:
    """Peak memory of generation, which must not grow with the number of series."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return {f"{count} series, MiB": pool.apply(generation_memory, (bench.config, count))
                for count in ((64, 512) if bench.quick else (512, 4096, 16384))}


def sections(benches: Mapping[str, Bench]) -> Iterator[tuple[str, Callable[[float], Figures]]]:
    """Yield name and work(matmul rate) of each section, those first that matter most."""
    first = next(iter(benches.values()))
    works = {"forward": forward, "training": training, "sampling": sampling}
    for name, bench in benches.items():
        for kind, work in works.items():
            yield f"{kind}, {name}", functools.partial(work, bench, compiled=False)
        if bench.is_cuda and bench is first:
            for kind, work in works.items():
                yield f"{kind}, {name}, compiled", functools.partial(work, bench, compiled=True)
    if not first.is_cuda:
        yield "memory of generation", lambda rate: memory(first)


def measured(bench: Bench, name: str, work: Callable[[], Figures]) -> Figures | str:
    """Print and return the figures of one section, on CUDA with its peak memory, or what it failed with."""
    print(f"\n{name}", flush=True)
    if bench.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    try:
        figures = work()
    except Exception as error:
        traceback.print_exc()
        return f"failed: {error}"
    if bench.is_cuda:
        figures["peak memory, MiB"] = torch.cuda.max_memory_allocated() / 2**20
    figures["section took, s"] = time.perf_counter() - start
    for key, value in figures.items():
        print(f"  {key:<48}{value:>14.5g}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="configuration of the denoiser; by default that of CinC 2012 on a CPU and "
                                         "the paper-sized one of MIMIC-III on CUDA")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, nargs="+", default=(),
                        help="steps of the sampler; by default 10 and 25 on a CPU, 10 and 50 on CUDA")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that every section runs")
    parser.add_argument("--output", default="benchmark.json", help="JSON file of all figures")
    options = parser.parse_args()
    device = resolve_device(options.device)
    name = "mimic3_mortality" if device.type == "cuda" else "cinc2012_mortality"
    config = load_config(BaseConfig, options.config or f"configs/base/{name}.yaml")
    blocks = (2, 3) if device.type == "cuda" and options.config is None else (config.model.num_res_blocks,)
    benches = {}
    for count in blocks:
        model = dataclasses.replace(config.model, num_res_blocks=count)
        bench = Bench(dataclasses.replace(config, model=model), device, options.quick, options.steps)
        parameters = sum(parameter.numel() for parameter in bench.denoiser().parameters())
        benches[f"{count} blocks a level, {parameters / 1e6:.1f} M"] = bench
    results = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "torch": torch.__version__,
               "threads": torch.get_num_threads()}
    print(*(f"{key}: {value}" for key, value in results.items()), sep="\n")
    rate = measured(bench, "matmul", lambda: matmul_rate(bench))
    results["matmul"] = rate
    yardstick = rate["flops_per_s"] if isinstance(rate, dict) else float("nan")
    for name, work in sections(benches):
        results[name] = measured(bench, name, functools.partial(work, yardstick))
        write_json(options.output, results)
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    exit_on_user_error(main)
