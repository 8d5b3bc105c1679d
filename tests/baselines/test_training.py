"""Training and sampling of baselines, with a tiny model of two stages: resuming, classes, scaling, refusals."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from baseline_checks import Killed, killed_after, rows_as_dataset, trained
from torch import nn
from user_errors import run_command

from tardiff.baselines.interface import Baseline, PerClass, Scaler, Stage
from tardiff.baselines.training import BaselineRun
from tardiff.config import BaselineConfig
from tardiff.data.format import read_dataset, write_dataset
from tardiff.sampling.noise import NoiseStream
from tardiff.utils.checkpoint import load_tensors
from tardiff.utils.errors import UserError
from tardiff.utils.logging import read_metrics
from tardiff.utils.settings import setting


@dataclass(frozen=True)
class Config(BaselineConfig):
    checkpoint_every: int = setting(4, "", semantic=False)
    log_every: int = setting(2, "", semantic=False)
    rate: float = setting(0.1, "Learning rate.")
    width: float = setting(0.01, "Standard deviation of the samples.", semantic=False)


class Mean(Baseline):
    """Learns the mean by gradient descent, after a stage that only counts; the second stage ends early."""

    scaling = "unit"

    def __init__(self, config):
        super().__init__()
        self.width = config.width
        self.mean = nn.Parameter(torch.zeros(6, 2))
        self.optimizers["adam"] = torch.optim.Adam([self.mean], lr=config.rate)
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
            iter(self.optimizers["adam"].state.values()))["step"] >= 31

    def extra_state(self):
        return {"count": self.count}

    def load_extra_state(self, state):
        self.count = state["count"]

    def sample(self, labels, samples, seed):
        return self.mean + self.width * NoiseStream(seed, samples, (6, 2))(0)


MEAN = SimpleNamespace(__name__="mean", Config=Config, build=lambda config, *shape: Mean(config))
PAIR = SimpleNamespace(__name__="pair", Config=Config,
                       build=lambda config, *shape: PerClass([Mean(config), Mean(config)]))


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    y = np.repeat([0, 1], [60, 20])
    return (generator.uniform(10, 20, (80, 6, 2)) + 100 * y[:, None, None]).astype(np.float32), y


@pytest.mark.parametrize(("baseline", "after"), [(MEAN, 2), (MEAN, 17), (PAIR, 5), (PAIR, 34)],
                         ids=["mean-2", "mean-17", "pair-5", "pair-34"])
def test_a_killed_training_ends_with_the_same_weights_and_metrics(tmp_path, data, baseline, after):
    trained(tmp_path / "whole", baseline, *data)
    with pytest.raises(Killed):
        trained(tmp_path / "killed", killed_after(baseline, after), *data)
    trained(tmp_path / "killed", baseline, *data)
    whole, resumed = (load_tensors(tmp_path / name / "model.safetensors")[0] for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    rows = [[{key: value for key, value in row.items() if key != "series_per_second"}
             for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("whole", "killed")]
    assert rows[0] == rows[1]
    steps = 36 if baseline is MEAN else 72
    assert rows[0][-1]["step"] == steps, "an early end is logged"
    for name in ("whole", "killed"):
        budget = json.loads((tmp_path / name / "budget.json").read_text())
        assert budget["iterations"] == steps
        assert budget["optimiser_steps"] == steps * 31 // 36, "the 5 iterations of the first stage only count"


def test_a_finished_training_is_read_and_not_repeated(tmp_path, data):
    run, again = trained(tmp_path, MEAN, *data), trained(tmp_path, killed_after(MEAN, 0), *data)
    assert torch.equal(run.model.mean, again.model.mean)


def test_a_model_per_class_sees_its_own_rows_in_its_own_scale_and_gives_them_back_in_order(tmp_path, data):
    x, y = data
    run = trained(tmp_path, PAIR, x, y)
    assert [model.begun for model in run.model.models] == [[("count", 60, [0]), ("learn", 60, [0])],
                                                             [("count", 20, [1]), ("learn", 20, [1])]]
    for label in (0, 1):
        rows = run.x[y == label]
        torch.testing.assert_close(rows.amin((0, 1)), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(rows.amax((0, 1)), torch.ones(2), atol=1e-5, rtol=0)
    labels = torch.tensor([1, 0, 0, 1, 0])
    series = run.sample(labels, 0)
    assert series.shape == (5, 6, 2)
    means = [x[y == label].mean() for label in (0, 1)]
    assert [abs(row.mean() - means[0]) > abs(row.mean() - means[1]) for row in series] == labels.bool().tolist()
    np.testing.assert_array_equal(run.sample(labels[3:4], 0, torch.tensor([3])), series[3:4])
    np.testing.assert_array_equal(run.sample([0, 0], 0, torch.tensor([1, 2])), series[1:3])
    assert not np.array_equal(run.sample(labels, 1), series)


def test_any_number_of_series_is_sampled_a_bounded_number_at_a_time(tmp_path, data, monkeypatch):
    run = trained(tmp_path, MEAN, *data, sampling_batch_size=3)
    whole, rows, sample = run.sample([0] * 3, 0), [], run.model.sample
    monkeypatch.setattr(run.model, "sample", lambda *arguments: rows.append(len(arguments[0])) or sample(*arguments))
    series = run.sample([0] * 7, 0)
    assert rows == [3, 3, 1] and series.shape == (7, 6, 2)
    np.testing.assert_array_equal(series[:3], whole)


def test_gaps_are_filled_with_the_median_of_the_channel(data):
    x, y = data
    x[3, 2, 1] = np.nan
    run = BaselineRun(MEAN, rows_as_dataset(x, y), Config(device="cpu"))
    assert run.scaler.inverse(run.x, run.y)[3, 2, 1].item() == pytest.approx(np.nanmedian(x[..., 1]), rel=1e-5)


@pytest.mark.parametrize("settings", [{}, {"log_every": 100, "checkpoint_every": 100}])
def test_a_loss_that_is_not_finite_is_one_message(tmp_path, data, settings):
    with pytest.raises(UserError, match=r"not finite at step .* of 'mean, learn' \(loss\).*in another output folder"):
        trained(tmp_path, MEAN, *data, rate=1e25, **settings)
    assert not (tmp_path / "model.safetensors").exists()


def write(folder, data, synthetic, baseline=MEAN, **settings):
    """Train, or find trained, and sample the label plan into `synthetic`; return the series."""
    trained(folder, baseline, *data, **{"labels": [1, 2], **settings}).write_samples(synthetic)
    return read_dataset(synthetic, ("train",), every_class=False).train


def test_a_trained_model_is_sampled_again_with_other_settings_and_not_trained_again(tmp_path, data):
    finished = killed_after(MEAN, 0)
    first = write(tmp_path / "run", data, tmp_path / "first")
    second = write(tmp_path / "run", data, tmp_path / "second", finished, labels="balanced", num_samples=4,
                   sampling_batch_size=3)
    third = write(tmp_path / "run", data, tmp_path / "third", finished, width=1.0)
    fourth = write(tmp_path / "run", data, tmp_path / "fourth", finished, sample_seed=1)
    assert [np.bincount(part.y).tolist() for part in (first, second, third, fourth)] == [[1, 2], [2, 2], [1, 2], [1, 2]]
    assert third.x.std() > 5 * first.x.std() and not np.array_equal(fourth.x, first.x)


@pytest.mark.parametrize(("folder", "settings", "what"), [
    ("run", {"labels": [2, 1]}, r"labels: the run has \[1, 2\], now \[2, 1\]"),
    ("run", {"num_samples": 3}, "num_samples"),
    ("run", {"width": 1.0}, "width: the run has 0.01, now 1.0"), ("run", {"sample_seed": 1}, "sample_seed"),
    ("other", {"seed": 1, "sample_seed": 0}, "weights")])
def test_series_of_other_settings_or_models_are_never_kept_nor_mixed(tmp_path, data, folder, settings, what):
    write(tmp_path / "run", data, tmp_path / "series")
    before = (tmp_path / "series" / "train.npz").read_bytes()
    for finished in (True, False):
        if not finished:
            for name in ("meta.json", "train.npz"):
                (tmp_path / "series" / name).unlink()
        with pytest.raises(UserError, match=rf"(?s){what}.*The trained mean is kept: synthetic="):
            write(tmp_path / folder, data, tmp_path / "series", **settings)
    write(tmp_path / "run", data, tmp_path / "series", sample_seed=0, log_every=7)
    assert (tmp_path / "series" / "train.npz").read_bytes() == before


def test_the_command_samples_a_trained_model_into_another_folder(tmp_path, data, capfd):
    dataset = rows_as_dataset(*data)
    write_dataset(tmp_path / "data", dataset.splits, dataset.meta)

    def command(*settings):
        code = run_command("baseline", "timevae", f"data={tmp_path / 'data'}", "epochs=1", "device=cpu", "filters=[4]",
                           f"output={tmp_path / 'run'}", *settings)
        return code, "".join(capfd.readouterr())

    code, printed = command("labels=[3, 2]")
    assert code == 0 and "at most 6 iterations" in printed, printed
    weights = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    code, printed = command("labels=[1, 4]")
    assert code == 2 and "labels: the run has [3, 2], now [1, 4]" in printed and "synthetic=" in printed, printed
    code, printed = command("labels=[1, 4]", f"synthetic={tmp_path / 'run' / 'other'}")
    assert code == 0, printed
    assert [np.bincount(read_dataset(tmp_path / "run" / name, ("train",)).train.y).tolist()
            for name in ("synthetic", "other")] == [[3, 2], [1, 4]]
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == weights


def test_the_record_of_a_dataset_names_the_baseline_and_its_weights(tmp_path, data):
    inputs = []
    for seed in (0, 1):
        write(tmp_path / f"run{seed}", data, tmp_path / f"series{seed}", seed=seed)
        inputs.append(json.loads((tmp_path / f"series{seed}" / "provenance.json").read_text())["inputs"])
    assert inputs[0]["baseline"] == "mean" and inputs[0]["weights"] != inputs[1]["weights"]
    assert inputs[0]["train"] == inputs[1]["train"] == rows_as_dataset(*data).train.fingerprint()


@pytest.mark.parametrize(("kind", "low", "high"), [("unit", 0, 1), ("unit_per_step", 0, 1), ("symmetric", -1, 1)])
def test_scalers_map_the_training_range_and_invert(data, kind, low, high):
    x = torch.from_numpy(data[0])
    y = torch.from_numpy(data[1])
    scaler = Scaler(kind, 6, 2, num_classes=2, per_class=False)
    scaler.fit(x, y)
    scaled = scaler(x, y)
    axes = (0,) if kind == "unit_per_step" else (0, 1)
    torch.testing.assert_close(scaled.amin(axes), torch.full_like(scaled.amin(axes), low), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.amax(axes), torch.full_like(scaled.amax(axes), high), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaler.inverse(scaled, y), x, rtol=1e-5, atol=0)


def test_zscore_and_a_constant_channel(data):
    x = torch.from_numpy(data[0]).clone()
    x[..., 1] = 7
    y = torch.from_numpy(data[1])
    scaler = Scaler("zscore", 6, 2, num_classes=2, per_class=False)
    scaler.fit(x, y)
    scaled = scaler(x, y)
    assert scaled[..., 0].mean().abs() < 1e-5 and scaled[..., 0].std(correction=0) == pytest.approx(1, abs=1e-5)
    assert torch.equal(scaled[..., 1], torch.zeros_like(scaled[..., 1]))
    torch.testing.assert_close(scaler.inverse(scaled, y), x)
