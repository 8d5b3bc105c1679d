"""Labels of synthetic series, and the writing of a dataset in batches that may change on the way."""

import numpy as np
import pytest
import torch

from tardiff.data.format import Metadata, read_dataset
from tardiff.sampling.generate import generate_dataset, label_plan, mixed_labels
from tardiff.utils.checkpoint import read_json
from tardiff.utils.distributed import ProcessGroup
from tardiff.utils.errors import UserError

CLASSES = ["survived", "died", "moved"]
META = Metadata("mine", ["HR"], ["bpm"], ["survived", "died"])
TRAIN = np.repeat([0, 1, 2], [700, 90, 10])


@pytest.mark.parametrize("plan", ["train", "balanced"])
def test_the_label_of_a_series_does_not_depend_on_how_many_there_are(plan):
    long = label_plan(plan, 3000, TRAIN, CLASSES)
    for size in (1, 17, 70, 800, 801, 2999):
        np.testing.assert_array_equal(label_plan(plan, size, TRAIN, CLASSES), long[:size])


@pytest.mark.parametrize(("plan", "size", "counts"), [
    ("train", None, [700, 90, 10]), ("train", 80, [70, 9, 1]), ("train", 1600, [1400, 180, 20]),
    ("balanced", 300, [100, 100, 100]), ("balanced", 4, [2, 1, 1]), ([0, 400, 1], None, [0, 400, 1]),
    ({"died": 400}, None, [0, 400, 0]), ({"died": 3, 0: 5}, 8, [5, 3, 0])])
def test_counts_are_those_asked_for(plan, size, counts):
    assert np.bincount(label_plan(plan, size, TRAIN, CLASSES), minlength=3).tolist() == counts


def test_every_stretch_from_the_start_holds_the_shares_to_within_a_series():
    for weights in ([700, 90, 10], [1, 1, 1], [997, 3], [5, 4, 3, 2, 1] * 4):
        labels = mixed_labels(weights, 2000)
        counts = np.cumsum(labels[:, None] == np.arange(len(weights)), axis=0)
        exact = np.arange(1, 2001)[:, None] * np.array(weights) / sum(weights)
        assert np.abs(counts - exact).max() < 1.01


def test_series_do_not_depend_on_the_batches_that_a_resumed_call_finds(tmp_path):
    labels = mixed_labels([3, 1], 50)
    made, calls_left = [], [0]

    def sample(labels, numbers):
        calls_left[0] -= 1
        if calls_left[0] < 0:
            raise KeyboardInterrupt
        made.append(numbers)
        return (labels * 1000 + numbers)[:, None, None].float().numpy()

    for calls_left[0], batch_size, world_size in ((2, 7, 1), (2, 5, 2), (3, 20, 1), (100, 3, 1)):
        group = ProcessGroup(0, 1, torch.device("cpu"))
        if world_size == 2:
            group = ProcessGroup(1, 2, torch.device("cpu"))  # It leaves gaps where the other would be at work.
        try:
            generate_dataset(sample, labels, batch_size, tmp_path, (1, 1), META, group)
        except KeyboardInterrupt:
            assert not (tmp_path / "train.npz").exists()
    assert torch.cat(made).sort().values.tolist() == list(range(50)) and {*map(len, made)} > {1, 5, 7}
    written = read_dataset(tmp_path, ("train",)).train
    np.testing.assert_array_equal(written.x[:, 0, 0], labels * 1000 + np.arange(50))
    np.testing.assert_array_equal(written.y, labels)
    runtime = read_json(tmp_path / "runtime.json")
    assert runtime["series"] == 50 and runtime["seconds"] > 0 and not (tmp_path / "chunks").exists()


def test_the_time_of_sampling_survives_a_kill_before_it_is_written(tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    arguments = (lambda labels, numbers: np.zeros((len(labels), 1, 1), dtype=np.float32), mixed_labels([1, 1], 8), 3,
                 tmp_path, (1, 1), META, ProcessGroup(0, 1, torch.device("cpu")))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tardiff.sampling.generate.write_json", killed)
        generate_dataset(*arguments)
    generate_dataset(*arguments)
    assert read_json(tmp_path / "runtime.json")["seconds"] > 0


@pytest.mark.parametrize("error", [
    MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried")])
def test_want_of_memory_names_the_setting_and_keeps_what_is_done(tmp_path, error):
    def sample(labels, numbers):
        if numbers[0] > 0:
            raise error
        return np.zeros((len(labels), 1, 1), dtype=np.float32)

    with pytest.raises(UserError, match=r"memory ran out .* Lower sampling_batch_size, and the same command goes on"):
        generate_dataset(sample, np.zeros(8, dtype=np.int64), 5, tmp_path, (1, 1), META,
                         ProcessGroup(0, 1, torch.device("cpu")), setting="sampling_batch_size")
    assert [path.name for path in (tmp_path / "chunks").iterdir()] == ["000000000-000000005.npz"]


def test_chunks_that_do_not_fit_together_are_refused(tmp_path):
    (tmp_path / "chunks").mkdir()
    for name in ("000000000-000000003.npz", "000000002-000000004.npz"):
        np.savez(tmp_path / "chunks" / name, x=np.zeros((2, 1, 1)), seconds=1.0)
    with pytest.raises(UserError, match="holds series twice or too few"):
        generate_dataset(lambda *_: None, np.zeros(4, dtype=np.int64), 4, tmp_path, (1, 1), META,
                         ProcessGroup(0, 1, torch.device("cpu")))
