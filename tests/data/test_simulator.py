"""The simulated cohort: valid, deterministic, plausible, and its signal lies where its docstring says."""


import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tardiff.data.format import Split, read_dataset, split_faults, write_dataset
from tardiff.data.simulator import (
    CHANNELS,
    HIGHEST,
    LOWEST,
    NUM_STEPS,
    OBSERVED,
    draw_readings,
    draw_stays,
    simulate_cohort,
)
from tardiff.utils.errors import UserError

HR, SBP, DBP, MBP, RR, TEMP, SPO2 = range(7)


@pytest.fixture(scope="module")
def cohort():
    return simulate_cohort(6000, seed=0)


@pytest.fixture(scope="module")
def stays_and_readings():
    generator = np.random.default_rng(3)
    stays = draw_stays(20_000, generator)
    return stays, draw_readings(stays, generator)


def pooled(splits: dict[str, Split]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([s.x for s in splits.values()]), np.concatenate([s.y for s in splits.values()])


def trend_features(x: np.ndarray) -> np.ndarray:
    return x[:, -6:].mean(axis=1) - x[:, :8].mean(axis=1)


def coupling_features(x: np.ndarray) -> np.ndarray:
    steps = np.diff(x.astype(np.float64), axis=1)
    spread = steps.std(axis=1) + 1e-3
    return np.stack([(steps[:, :, HR] * steps[:, :, MBP]).mean(axis=1) / spread[:, HR] / spread[:, MBP],
                     (steps[:, :, HR] * steps[:, :, RR]).mean(axis=1) / spread[:, HR] / spread[:, RR],
                     spread[:, HR]], axis=1)


def held_out_auroc(splits: dict[str, Split], features) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(features(splits["train"].x), splits["train"].y)
    return roc_auc_score(splits["test"].y, model.decision_function(features(splits["test"].x)))


def test_equal_seeds_give_equal_cohorts_and_other_seeds_do_not():
    first, second, other = (simulate_cohort(300, seed)[0] for seed in (4, 4, 5))
    for name in ("train", "val", "test"):
        assert first[name].fingerprint() == second[name].fingerprint() != other[name].fingerprint()


@pytest.mark.parametrize("num_stays", [50, 333])
def test_every_size_is_a_valid_dataset(tmp_path, num_stays):
    splits, meta = simulate_cohort(num_stays, seed=1)
    write_dataset(tmp_path / "cohort", splits, meta)
    dataset = read_dataset(tmp_path / "cohort")
    assert dataset.shape == (NUM_STEPS, len(CHANNELS))
    assert sum(len(split) for split in dataset.splits.values()) == num_stays
    assert "not patient data" in dataset.meta.source


def test_cohort_is_complete_and_stratified(cohort):
    splits, meta = cohort
    for split in splits.values():
        assert split_faults(split, meta) == [] and np.isfinite(split.x).all()
        assert 0.08 <= split.y.mean() <= 0.12
    assert meta.cohort["deaths"] == sum(int(split.y.sum()) for split in splits.values())


def test_no_subject_stands_in_two_splits_though_some_have_several_stays(cohort):
    splits, meta = cohort
    subjects = [set(split.subject.tolist()) for split in splits.values()]
    assert len(set.union(*subjects)) == sum(map(len, subjects)) == meta.cohort["subjects"]
    assert 0.8 < meta.cohort["subjects"] / meta.cohort["stays"] < 0.95


def test_only_the_last_stay_of_a_subject_ends_in_death(stays_and_readings):
    stays, _ = stays_and_readings
    last = {subject: row for row, subject in enumerate(stays.subject.tolist())}
    assert all(last[stays.subject[row]] == row for row in np.flatnonzero(stays.y))


def test_readings_are_physiological(stays_and_readings):
    _, readings = stays_and_readings
    assert (readings >= LOWEST).all() and (readings <= HIGHEST).all()
    mean = dict(zip(CHANNELS, readings.mean(axis=(0, 1)), strict=True))
    expected = {"HR": (75, 95), "SBP": (105, 130), "DBP": (55, 75), "MBP": (72, 90), "RR": (15, 22),
                "Temp": (36.5, 37.3), "SpO2": (95, 98.5)}
    assert all(low < mean[name] < high for name, (low, high) in expected.items())
    assert (readings[..., SBP] > readings[..., DBP]).mean() > 0.9999
    error = readings[..., MBP] - (readings[..., SBP] + 2 * readings[..., DBP]) / 3
    assert abs(np.median(error)) <= 0.5 and 1 < error.std() < 4
    assert (readings[..., SPO2] == 100).mean() > 0.01
    whole = readings[..., [HR, SBP, DBP, MBP, RR, SPO2]]
    assert (whole == np.rint(whole)).all()
    np.testing.assert_allclose(readings[..., TEMP] * 10, np.rint(readings[..., TEMP] * 10), atol=1e-6)


def test_gaps_are_filled_forward_and_leading_gaps_by_the_training_median():
    splits, _ = simulate_cohort(60, seed=0)

    def median(*names: str) -> np.ndarray:
        return np.nanmedian(np.concatenate([np.where(splits[n].mask, splits[n].x, np.nan) for n in names]), axis=(0, 1))

    assert (median("train") != median("train", "val", "test")).sum() >= 3, "the cohort cannot tell train from pooled"
    for split in splits.values():
        carried = np.broadcast_to(median("train"), split.x[:, 0].shape)
        for step in range(NUM_STEPS):
            carried = np.where(split.mask[:, step], split.x[:, step], carried)
            np.testing.assert_array_equal(split.x[:, step], carried.astype(np.float32))


def test_each_channel_is_observed_at_its_rate(cohort):
    mask = np.concatenate([split.mask for split in cohort[0].values()])
    np.testing.assert_allclose(mask.mean(axis=(0, 1)), OBSERVED, atol=0.03)


def test_missingness_does_not_tell_the_label(cohort):
    splits, _ = cohort
    _, y = pooled(splits)
    observed = np.concatenate([split.mask.mean(axis=(1, 2)) for split in splits.values()])
    assert abs(roc_auc_score(y, observed) - 0.5) < 0.05


@pytest.mark.parametrize("channel", CHANNELS)
def test_no_channel_mean_separates_the_classes(cohort, channel):
    x, y = pooled(cohort[0])
    assert abs(roc_auc_score(y, x[:, :, CHANNELS.index(channel)].mean(axis=1)) - 0.5) < 0.12


def test_signal_lies_in_trends_and_couplings_not_in_levels(cohort):
    splits, _ = cohort
    levels, trends, couplings, both = (held_out_auroc(splits, features) for features in (
        lambda x: x.mean(axis=1), trend_features, coupling_features,
        lambda x: np.concatenate([trend_features(x), coupling_features(x)], axis=1)))
    assert levels < 0.65
    assert trends > 0.65 and couplings > 0.65
    assert 0.72 < both < 0.92
    assert both > max(trends, couplings)


def test_coupling_of_heart_rate_and_pressure_fades_with_severity(stays_and_readings):
    stays, readings = stays_and_readings
    coupling = coupling_features(readings)[:, 0]
    calm, severe = coupling[stays.severity < 0].mean(), coupling[stays.severity > 1.5].mean()
    assert calm < -0.25 and severe > calm / 2


def test_severity_alone_does_not_decide_death(stays_and_readings):
    stays, _ = stays_and_readings
    quiet = stays.event == 0
    assert 0.85 < roc_auc_score(stays.y[quiet], stays.severity[quiet]) < 0.99


def test_sudden_events_are_rare_deadly_and_visible_late(stays_and_readings):
    stays, readings = stays_and_readings
    assert 0.10 < (stays.event[stays.y == 1] > 0).mean() < 0.20
    assert 0.5 < stays.y[stays.event > 0].mean() < 0.9
    change = readings[:, -1] - readings[:, :16].mean(axis=1)
    assert np.median(change[stays.event == 1, SPO2]) < -6
    assert np.median(change[stays.event == 2, TEMP]) < -1
    assert np.median(change[stays.event == 2, HR]) < np.median(change[stays.event == 0, HR]) - 12


@pytest.mark.parametrize("arguments, word", [
    ({"num_stays": 5}, "stays"), ({"num_stays": 10**9}, "stays"), ({"seed": -1}, "seed"),
    ({"ratios": (0.5, 0.2, 0.2)}, "sum to 1"), ({"ratios": (1.0, 0.0, 0.0)}, "positive"),
    ({"ratios": (float("nan"), 0.5, 0.5)}, "positive"),
    ({"num_stays": 50, "ratios": (0.5, 0.499, 0.001)}, "empty")])
def test_arguments_out_of_range_are_refused(arguments, word):
    with pytest.raises(UserError, match=word):
        simulate_cohort(**({"num_stays": 100, "seed": 0} | arguments))
