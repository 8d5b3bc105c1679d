"""Results that are kept: computed once for what decides them, the same from several workers, and refused when
damaged."""

from functools import partial

import numpy as np
import pytest

from tardiff.evaluation.learned_scores import discriminative_score
from tardiff.utils import cache
from tardiff.utils.cache import Job, cached, cached_jobs, cached_where_writable
from tardiff.utils.errors import UserError


def test_a_result_is_computed_once_for_what_decides_it(tmp_path, monkeypatch):
    calls = []

    def compute():
        calls.append(1)
        return {"rows": np.arange(6, dtype=np.float32).reshape(2, 3), "labels": np.array([3]), "score": 0.1,
                "none": np.nan}

    first, again = (cached(tmp_path, ("toy", 1, np.ones(3)), compute) for _ in range(2))
    assert len(calls) == 1 and [path.name.partition("-")[0] for path in tmp_path.iterdir()] == ["toy"]
    for result in (first, again):
        assert result["rows"].dtype == np.float32 and result["rows"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert result["labels"].dtype == np.int64 and isinstance(result["score"], float)
        assert result["score"] == 0.1 and np.isnan(result["none"])
    cached(tmp_path, ("toy", 2, np.ones(3)), compute)
    cached(tmp_path, ("toy", 1, np.zeros(3)), compute)
    assert len(calls) == 3
    monkeypatch.setattr(cache, "RECIPE", cache.RECIPE + 1)
    cached(tmp_path, ("toy", 1, np.ones(3)), compute)
    monkeypatch.setattr(cache.torch, "__version__", "0.0")
    cached(tmp_path, ("toy", 1, np.ones(3)), compute)
    assert len(calls) == 5


def test_where_nothing_may_be_written_what_is_kept_is_read_and_the_rest_computed(tmp_path, monkeypatch):
    cached(tmp_path, ("toy", 1), lambda: {"score": 0.1})
    monkeypatch.setattr(cache.os, "access", lambda *_: False)
    found = [cached_where_writable(tmp_path, ("toy", key), lambda: {"score": 0.2})["score"] for key in (1, 2)]
    assert found == [0.1, 0.2]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("spoil", [
    lambda content: content[:100], lambda content: b"", lambda content: b"no archive",
    lambda content: content[:60] + bytes(byte ^ 255 for byte in content[60:200]) + content[200:]])
def test_a_damaged_file_is_one_message(tmp_path, spoil):
    cached(tmp_path, ("toy",), lambda: {"values": np.arange(100.0)})
    (path,) = tmp_path.iterdir()
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=rf"{path.name}: damaged .*Delete it"):
        cached(tmp_path, ("toy",), lambda: {"values": np.arange(100.0)})


def test_what_fails_leaves_nothing_behind(tmp_path):
    def fail():
        raise UserError("no such rows")

    with pytest.raises(UserError, match="no such rows"):
        cached(tmp_path, ("toy",), fail)
    assert not list(tmp_path.iterdir())


def test_results_do_not_depend_on_the_number_of_workers(tmp_path):
    generator = np.random.default_rng(0)
    real = generator.standard_normal((4000, 12, 6)).astype(np.float32)  # Large enough to be shared rather than copied.
    kept = real.copy()
    jobs = [Job(("score", seed), partial(discriminative_score, real, real[::-1] + 0.3, seed, iterations=5), "toy")
            for seed in range(2)]
    alone, together = (cached_jobs(tmp_path / str(count), jobs, count, "scores", "result") for count in (1, 2))
    assert alone == together and len({result["accuracy"] for result in alone}) > 1
    assert np.array_equal(real, kept)


def test_equal_jobs_are_computed_once_and_without_a_folder_nothing_is_kept(tmp_path):
    calls = []
    job = Job(("count", 1), lambda: {"calls": len(calls)} | (calls.append(1) or {}), "toy")
    assert cached_jobs(tmp_path, [job, job], 1, "count", "job") == [{"calls": 0}] * 2
    assert cached_jobs(tmp_path, [job], 1, "count", "job") == [{"calls": 0}] and len(calls) == 1
    assert cached_jobs(None, [job], 1, "count", "job") == [{"calls": 1}] and len(list(tmp_path.iterdir())) == 1
