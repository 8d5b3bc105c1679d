"""Two processes under torchrun (gloo, CPU) give what one gives; this file is also the program that they run."""

import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from tardiff.config import BaseConfig, load_config
from tardiff.data.format import read_dataset
from tardiff.data.normalize import Normalizer
from tardiff.diffusion.fitted import FittedDenoiser
from tardiff.diffusion.gaussian import GaussianDenoiser
from tardiff.diffusion.process import training_draws
from tardiff.stages import train
from tardiff.utils.checkpoint import load_arrays, load_state, load_tensors, save_tensors
from tardiff.utils.distributed import ProcessGroup, process_group
from tardiff.utils.logging import read_metrics
from tardiff.utils.seeding import seed_torch

STEPS = "training.steps=12"


def new_denoiser(config: BaseConfig, dataset) -> GaussianDenoiser:
    seed_torch(config.seed, "denoiser", "initialisation")
    return train.new_denoiser(config, dataset)


def train_as_part_of_a_group(folder: Path, settings: list[str]) -> None:
    """Train `whole` as the command does, `first` for one step, and `parts` for ten and then two; write the weights that
    each rank ends with."""
    with process_group("cpu") as group:
        train.process_group = lambda device: nullcontext(group)
        for output, overrides in (("whole", [STEPS]), ("first", ["training.steps=1", "model.dropout=0"]),
                                  ("parts", ["training.steps=10"])):
            config = load_config(BaseConfig, None, [*settings, *overrides, f"output={folder / output}"])
            train.run(config, dry_run=False)
        config = load_config(BaseConfig, None, [*settings, STEPS, f"output={folder / 'parts'}"])
        dataset = read_dataset(config.data)
        denoiser = new_denoiser(config, dataset)
        train._train(config, dataset, denoiser, group)
        save_tensors(folder / f"rank{group.rank}.safetensors", denoiser.state_dict())


@pytest.fixture(scope="module")
def trained(workplace, tmp_path_factory):
    """What `train_as_part_of_a_group` leaves."""
    folder = tmp_path_factory.mktemp("processes")
    _, *settings = workplace.arguments("base", "")
    workplace.run_two(__file__, str(folder), *settings)
    return folder


def test_both_ranks_end_with_the_same_finite_weights(trained):
    first, second = (load_tensors(trained / f"rank{rank}.safetensors")[0] for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) and torch.isfinite(first[name]).all() for name in first)


def test_two_processes_resume_bit_for_bit(trained):
    whole, parts = (load_tensors(trained / name / "model.safetensors")[0] for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) and torch.isfinite(whole[name]).all() for name in whole)
    losses = [[(row["step"], row["loss"]) for row in read_metrics(trained / name / "metrics.jsonl") if "loss" in row]
              for name in ("whole", "parts")]
    assert losses[0] == losses[1] and [step for step, _ in losses[0]] == [4, 8, 10, 12]


def test_one_step_of_two_processes_is_one_step_on_both_batches(trained, workplace):
    """The gradient and the logged loss are those of the two half batches laid together."""
    config = load_config(BaseConfig, trained / "first" / "config.yaml")
    dataset = read_dataset(workplace.folder / "data", ("train",))
    denoiser, normalizer = new_denoiser(config, dataset).train(), Normalizer.fit(config.normalizer, dataset.observed)
    fitted = FittedDenoiser(denoiser, denoiser.process, normalizer, dataset.shape, dataset.meta, mask=True)
    x, y = fitted.encode(dataset.train, 0), torch.from_numpy(dataset.train.y)
    denoiser.fit(x, y)
    halves = []
    for rank in (0, 1):
        seed_torch(config.seed, "denoiser", 0, rank)
        halves.append(training_draws(x, y, 16, 200, 0.1, 2))
    loss = denoiser.process.loss(denoiser, *map(torch.cat, zip(*halves, strict=True)))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(denoiser.parameters(), config.training.gradient_clip)
    moments = load_state(trained / "first" / "state-1.pt")["optimizer"]["state"]
    for number, parameter in enumerate(denoiser.parameters()):
        torch.testing.assert_close(moments[number]["exp_avg"], 0.1 * parameter.grad, rtol=1e-4, atol=1e-7)
    (row,) = [row for row in read_metrics(trained / "first" / "metrics.jsonl") if "loss" in row]
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_guided_generation_by_two_processes_equals_that_by_one(workplace, tmp_path):
    """Each takes half of the guidance set for G, and every other chunk of the samples."""
    classifier = shutil.copytree(workplace.folder / "classifier", tmp_path / "classifier")
    (kept,) = classifier.glob("guidance_gradient-*.npz")
    kept.unlink()
    workplace.run_two("-m", "tardiff", "generate", *workplace.arguments("synthetic", tmp_path / "synthetic",
                                                                       f"classifier={classifier}"))
    two, one = (load_arrays(folder / kept.name) for folder in (classifier, workplace.folder / "classifier"))
    assert two.keys() == one.keys() and any(np.abs(value).max() > 1e-3 for value in one.values())
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-5)
    two, one = (read_dataset(folder / "synthetic", ("train",)).train for folder in (tmp_path, workplace.folder))
    normalizer = Normalizer.load(workplace.folder / "base" / "normalizer.json")
    np.testing.assert_array_equal(two.y, one.y)
    np.testing.assert_allclose(normalizer.transform(two.x), normalizer.transform(one.x), atol=1e-4)


def test_a_sum_over_one_process_is_the_value_itself():
    alone, value = ProcessGroup(0, 1, torch.device("cpu")), torch.arange(3.0)
    assert torch.equal(alone.sum(value), value) and alone.is_main
    alone.barrier()


if __name__ == "__main__":
    train_as_part_of_a_group(Path(sys.argv[1]), sys.argv[2:])
