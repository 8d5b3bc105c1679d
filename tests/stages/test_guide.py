"""What is said of a guide that is no better than chance, when it is trained and when it guides, and of a loss of one's
own."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from user_errors import USER_MODELS, run_tiny

from classifier.train import Guide, chance_warning, guide_auroc
from tardiff.data.format import Dataset, Metadata, Split, write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.data.splits import halve_validation

WARNING = "warning: the classifier is not shown to be better than chance"


def dataset(y, x):
    split = Split(x.astype(np.float32)[:, None, None], y, np.arange(len(y)))
    return Dataset(Path("memory"), Metadata("toy", ["a"], [""], ["no", "yes"]), {"train": split, "val": split})


def first_channel(x):
    """A fitted classifier, as far as it is asked: the value itself is the score."""
    return np.stack([-x[:, 0, 0], x[:, 0, 0]], axis=1)


def aurocs(rows, positives, shift, seed):
    """Return the AUROC of scores N(0, 1), and N(shift, 1) of positives, with its interval; and the dataset."""
    generator = np.random.default_rng(seed)
    y = generator.permutation(np.arange(rows) < positives).astype(np.int64)
    real = dataset(y, generator.normal(size=rows) + shift * y)
    return guide_auroc(SimpleNamespace(predict=first_channel), halve_validation(real.val)[0].x, real), real


def test_the_auroc_of_a_guide_is_of_the_guidance_half_with_an_interval_that_holds_the_truth():
    """Scores N(0, 1) and N(1, 1) have AUROC Phi(1 / sqrt 2) = 0.760; of noise it is 0.5."""
    held = {0.7602: 0, 0.5: 0}
    for truth, shift in ((0.7602, 1), (0.5, 0)):
        for seed in range(60):
            (value, low, high), real = aurocs(200, 60, shift, seed)
            guidance, _ = halve_validation(real.val)
            assert value == pytest.approx(roc_auc_score(guidance.y, guidance.x[:, 0, 0]))
            held[truth] += low <= truth <= high
            assert (chance_warning(value, low, high, real) is None) == (low > 0.5)
    assert min(held.values()) >= 52 and held[0.5] < 60


def test_noise_with_few_positives_is_warned_of_and_a_half_without_any_too():
    """One in 40 may go unwarned by chance."""
    found = [aurocs(60, 6, 0, seed) for seed in range(100)]
    warned = [chance_warning(*interval, real) is not None for interval, real in found]
    assert sum(warned) >= 96
    (value, low, high), real = aurocs(60, 0, 0, 0)
    assert np.isnan(value) and (low, high) == (0, 1) and chance_warning(value, low, high, real) is not None


@pytest.mark.parametrize(("positives", "few"), [(0, "0 subjects"), (2, "1 subject"), (38, "19 subjects"), (40, None)])
def test_who_has_too_few_patients_is_not_advised_to_train_for_longer(positives, few):
    """Of the positives one half is in the guidance half; each row is a subject."""
    advice = chance_warning(0.5, 0.4, 0.6, aurocs(200, positives, 0, 0)[1])
    assert ("Train it for longer" in advice) == (few is None)
    assert few is None or ("More patients are needed" in advice and few in advice)


@pytest.mark.parametrize("informative", [True, False])
def test_a_guide_at_chance_is_told_of_in_training_and_in_generation(informative, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    splits, meta = simulate_cohort(1000, seed=0)
    generator = np.random.default_rng(1)
    for name, split in splits.items():
        x = generator.normal(size=split.x.shape).astype(np.float32) + 3 * informative * split.y[:, None, None]
        splits[name] = Split(x.astype(np.float32), split.y, split.subject)
    write_dataset("data", splits, meta)
    Path("user_models.py").write_text(USER_MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    custom = ["model.name=custom", "model.custom.import_path=user_models:Linear",
              "model.custom.loss_path=user_models:own_loss", "training.steps=60"]
    assert run_tiny("guide", "output=classifier", *custom) == 0
    printed = capsys.readouterr().out
    assert (WARNING in printed) != informative
    assert "G of all (" in printed and "G of balanced (" in printed and "cosine between two halves" in printed
    auroc = Guide.load("classifier", torch.device("cpu")).auroc
    assert (auroc[1] > 0.5) == informative and auroc[1] <= auroc[0] <= auroc[2]
    assert run_tiny("train", "output=base") == 0
    capsys.readouterr()
    for settings, warned, noted in (((), not informative, True), (("guidance.objective=none",), False, False),
                                    (("guidance.objective=influence",), not informative, False)):
        assert run_tiny("generate", "--dry-run", *settings) == 0
        printed = capsys.readouterr().out
        assert (WARNING in printed) == warned and ("only where the loss is cross-entropy" in printed) == noted
