"""What every generative baseline must pass: checks shared by their tests, on noisy sinusoids of two classes."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tardiff.baselines.training import BaselineRun
from tardiff.data.format import Dataset, Metadata, Split
from tardiff.evaluation.ts2vec import context_fid, train_encoder
from tardiff.utils.checkpoint import load_tensors


class Killed(Exception):
    pass


def sinusoids(rows, length=24, num_channels=2, num_classes=2, seed=0):
    """Return noisy x (rows, length, num_channels) and y: class k has k + 1 cycles, of random amplitude and phase."""
    generator = np.random.default_rng(seed)
    y = np.arange(rows) % num_classes
    amplitude, phase = generator.uniform(0.7, 1.3, (rows, 1, 1)), generator.uniform(-0.6, 0.6, (rows, 1, 1))
    time = np.arange(length)[None, :, None] / length
    angle = 2 * np.pi * (y[:, None, None] + 1) * time + phase + np.pi / 3 * np.arange(num_channels)
    return (10 + amplitude * np.sin(angle) + generator.normal(0, 0.2, angle.shape)).astype(np.float32), y


def rows_as_dataset(x, y):
    """Return x (N, L, C) and y (N,) as the training split of a dataset without a folder."""
    names = [str(channel) for channel in range(x.shape[2])]
    meta = Metadata("rows", names, names, [str(label) for label in range(y.max() + 1)])
    return Dataset(None, meta, {"train": Split(x, y)})


def trained(folder, module, x, y, **settings):
    """Train a baseline on x and y and return it."""
    run = BaselineRun(module, rows_as_dataset(x, y), module.Config(output=str(folder), device="cpu", **settings))
    run.train(folder)
    return run


def killed_after(module, steps):
    """Return a baseline like `module` whose training raises Killed after so many steps in all."""
    def build(*arguments):
        model = module.build(*arguments)
        train_step, left = model.train_step, iter(range(steps))

        def killed_step(*arguments):
            if next(left, None) is None:
                raise Killed
            return train_step(*arguments)

        model.train_step = killed_step
        return model

    return SimpleNamespace(__name__=module.__name__, Config=module.Config, build=build)


def assert_resumes_exactly(folder, module, x, y, kills, **settings):
    """Kill the training at each of the steps `kills`, resume it, and compare all weights with an unbroken one."""
    settings = {"checkpoint_every": 3, "log_every": 1, **settings}
    trained(folder / "whole", module, x, y, **settings)
    whole = load_tensors(folder / "whole" / "model.safetensors")[0]
    for step in kills:
        with pytest.raises(Killed):
            trained(folder / str(step), killed_after(module, step), x, y, **settings)
        trained(folder / str(step), module, x, y, **settings)
        resumed = load_tensors(folder / str(step) / "model.safetensors")[0]
        assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def assert_rows_stand_alone(run, shape, num_classes):
    """Check that a series depends on its number and label alone, and that exactly the rows asked for come out."""
    labels, samples = torch.arange(5) % num_classes, torch.arange(5) + 3
    series = run.sample(labels, 0, samples)
    assert series.shape == (5, *shape) and series.dtype == np.float32 and np.isfinite(series).all()
    assert np.ptp(series, axis=0).max() > 0
    for rows in ([1], [4, 0, 3]):
        some = run.sample(labels[rows], 0, samples[rows])
        assert some.shape == (len(rows), *shape)
        np.testing.assert_allclose(some, series[rows], rtol=1e-5, atol=1e-5)


@dataclasses.dataclass
class Study:
    """Accuracy on real test series of a linear classifier trained on real and on synthetic series, and the context-FID
    of synthetic series and of white noise with the mean and standard deviation of each channel."""

    real_accuracy: float
    synthetic_accuracy: float
    synthetic_fid: float
    noise_fid: float


def study(folder, module, **settings):
    """Train a baseline on 400 sinusoids of 24 steps and 2 channels, and judge 400 samples of it."""
    (x, y), (x_test, y_test) = sinusoids(400), sinusoids(400, seed=1)
    synthetic = trained(folder, module, x, y, **settings).sample(y, seed=0)
    mean, deviation = x.mean(axis=(0, 1)), x.std(axis=(0, 1))
    noise = np.random.default_rng(2).normal(mean, deviation, x.shape).astype(np.float32)

    def accuracy(train):
        flat, flat_test = (((series - mean) / deviation).reshape(len(series), -1) for series in (train, x_test))
        return LogisticRegression(max_iter=1000).fit(flat, y).score(flat_test, y_test)

    real, *others = ((series - mean) / deviation for series in (x, synthetic, noise))
    encoder = train_encoder(real, seed=0)
    fids = [context_fid(encoder, real, other, seed=0)["fid"] for other in others]
    result = Study(accuracy(x), accuracy(synthetic), *fids)
    print(result)
    return result
