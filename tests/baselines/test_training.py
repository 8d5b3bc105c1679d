"""The training loop of the baselines, with a tiny model of two stages: resuming, classes, scaling, refusals."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from tardiff.baselines.interface import Baseline, PerClass, Scaler, Stage
from tardiff.baselines.training import chunk_sampler, train_baseline
from tardiff.config import BaselineConfig
from tardiff.sampling.noise import NoiseStream
from tardiff.utils.checkpoint import load_tensors
from tardiff.utils.errors import UserError
from tardiff.utils.logging import open_run, read_metrics

CONFIG = BaselineConfig(checkpoint_every=4, log_every=2)
CPU = torch.device("cpu")


class Mean(Baseline):
    """Learns the mean by gradient descent, after a stage that only counts; the second stage ends early."""

    scaling = "unit"

    def __init__(self, rate=0.1):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(6, 2))
        self.optimizers["adam"] = torch.optim.Adam([self.mean], lr=rate)
        self.count, self.begun = 0, []

    def stages(self):
        return [Stage("count", 5, 4), Stage("learn", 40, 16)]

    def begin(self, stage, x, y):
        self.begun.append((stage.name, len(x), y.unique().tolist()))

    def train_step(self, stage, step, draw):
        if stage.name == "count":
            self.count += 1
            return {"count": torch.tensor(float(self.count))}
        x, _ = draw()
        loss = (x - self.mean).pow(2).mean()
        self.optimizers["adam"].zero_grad()
        loss.backward()
        self.optimizers["adam"].step()
        return {"loss": loss}

    def finished(self, stage):
        return stage.name == "learn" and self.optimizers["adam"].state and next(
            iter(self.optimizers["adam"].state.values()))["step"] >= 30

    def extra_state(self):
        return {"count": self.count}

    def load_extra_state(self, state):
        self.count = state["count"]

    def sample(self, labels, samples, seed):
        return self.mean + 0.01 * NoiseStream(seed, samples, (6, 2))(0)


class Killed(Exception):
    pass


class KilledAt(Mean):
    def __init__(self, after):
        super().__init__()
        self.left = after

    def train_step(self, stage, step, draw):
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().train_step(stage, step, draw)


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    y = np.repeat([0, 1], [60, 20])
    return (generator.uniform(10, 20, (80, 6, 2)) + 100 * y[:, None, None]).astype(np.float32), y


def fit(folder, data, model, config=CONFIG):
    config = dataclasses.replace(config, output=str(folder))
    scaler = Scaler(model.scaling, 6, 2)
    train_baseline(model, scaler, *data, config, open_run(folder, config, {}), CPU)
    return scaler


@pytest.mark.parametrize("after", [2, 5, 7, 17, 34])
def test_a_killed_training_ends_with_the_same_weights_and_metrics(tmp_path, data, after):
    fit(tmp_path / "whole", data, Mean())
    with pytest.raises(Killed):
        fit(tmp_path / "killed", data, KilledAt(after))
    fit(tmp_path / "killed", data, Mean())
    whole, resumed = (load_tensors(tmp_path / name / "model.safetensors")[0] for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    rows = [[{key: value for key, value in row.items() if key != "series_per_second"}
             for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("whole", "killed")]
    assert rows[0] == rows[1]
    assert [json.loads((tmp_path / name / "budget.json").read_text())["optimiser_steps"]
            for name in ("whole", "killed")] == [35, 35]


def test_a_finished_training_is_read_and_not_repeated(tmp_path, data):
    model, again = Mean(), KilledAt(0)
    fit(tmp_path, data, model)
    fit(tmp_path, data, again)
    assert torch.equal(model.mean, again.mean)


def test_a_model_per_class_sees_its_own_rows_and_gives_them_back_in_order(tmp_path, data):
    x, y = data
    pair = PerClass([Mean(), Mean()])
    scaler = fit(tmp_path, data, pair)
    assert [model.begun for model in pair.models] == [[("count", 60, [0]), ("learn", 60, [0])],
                                                      [("count", 20, [1]), ("learn", 20, [1])]]
    sample = chunk_sampler(pair, scaler, 0, CPU)
    labels = torch.tensor([1, 0, 0, 1, 0])
    series = sample(labels, torch.arange(5))
    assert series.shape == (5, 6, 2)
    means = [x[y == label].mean() for label in (0, 1)]
    assert [abs(row.mean() - means[0]) > abs(row.mean() - means[1]) for row in series] == labels.bool().tolist()
    np.testing.assert_array_equal(sample(labels[3:4], torch.tensor([3])), series[3:4])
    np.testing.assert_array_equal(sample(labels[:1].repeat(2) * 0, torch.tensor([1, 2])), series[1:3])


def test_a_loss_that_is_not_finite_is_one_message(tmp_path, data):
    with pytest.raises(UserError, match="'loss' is not finite at step . of 'learn'"):
        fit(tmp_path, data, Mean(rate=1e25))
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(("kind", "low", "high"), [("unit", 0, 1), ("unit_per_step", 0, 1), ("symmetric", -1, 1)])
def test_scalers_map_the_training_range_and_invert(data, kind, low, high):
    x = torch.from_numpy(data[0])
    scaler = Scaler(kind, 6, 2)
    scaler.fit(x)
    scaled = scaler(x)
    axes = (0,) if kind == "unit_per_step" else (0, 1)
    torch.testing.assert_close(scaled.amin(axes), torch.full_like(scaled.amin(axes), low), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.amax(axes), torch.full_like(scaled.amax(axes), high), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaler.inverse(scaled), x, rtol=1e-5, atol=0)


def test_zscore_and_a_constant_channel(data):
    x = torch.from_numpy(data[0]).clone()
    x[..., 1] = 7
    scaler = Scaler("zscore", 6, 2)
    scaler.fit(x)
    scaled = scaler(x)
    assert scaled[..., 0].mean().abs() < 1e-5 and scaled[..., 0].std(correction=0) == pytest.approx(1, abs=1e-5)
    assert torch.equal(scaled[..., 1], torch.zeros_like(scaled[..., 1]))
    torch.testing.assert_close(scaler.inverse(scaled), x)
