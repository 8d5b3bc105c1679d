"""The influence analysis: closed forms, plain loops, and the command on a tiny cohort."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import user_errors
from fitted_tasks import Linear, fitted_task, loop_gradient, loop_mean, series
from scipy import stats
from sklearn.metrics import roc_auc_score
from user_errors import USER_MODELS, assert_clean, assert_refused, contents, meta, run_tiny

from classifier.train import Guide
from tardiff.config import InfluenceAnalysisConfig
from tardiff.data.format import read_dataset, write_dataset
from tardiff.data.normalize import Normalizer
from tardiff.data.simulator import simulate_cohort
from tardiff.evaluation import plots
from tardiff.influence import analysis
from tardiff.influence.analysis import (
    InfluenceStudy,
    agreement,
    agreement_rows,
    gradient_norm_rows,
    gradient_norms,
    in_float64,
    influence_rows,
    influence_summary,
    influence_tables,
    loss_falls,
    rows_to_fine_tune_on,
)
from tardiff.influence.task import DownstreamTask, norm
from tardiff.utils.errors import UserError

CPU = torch.device("cpu")
TABLES = ("gradient_norms", "influence_distribution", "fine_tuned_series", "fine_tuning")
GUIDANCE = series(50, seed=2)


def residuals(task, x, y):
    """p - e_y (N, 2): the gradient of the loss in the logits."""
    with torch.no_grad():
        return torch.softmax(task.model(x), 1).double() - torch.nn.functional.one_hot(y, 2)


def study(folder, task=None):
    return InfluenceStudy.open(folder, task or fitted_task("gru", steps=20), *GUIDANCE, 2, 200, CPU)


def test_influence_of_logistic_regression_is_the_product_formula(tmp_path):
    """grad loss = (p - e_y) [x, 1]^T, so influence is the mean over guidance rows of (r_g . r)(x_g . x + 1)."""
    task, (x, y) = DownstreamTask(Linear()), series(30, seed=4)
    inner = GUIDANCE[0].flatten(1).double() @ x.flatten(1).double().T + 1
    expected = ((residuals(task, *GUIDANCE) @ residuals(task, x, y).T) * inner).mean(dim=0)
    np.testing.assert_allclose(study(tmp_path, task).scores(x, y), expected, rtol=1e-3, atol=1e-3)


def test_gradient_norms_of_logistic_regression(tmp_path):
    task = DownstreamTask(Linear())
    lengths = (GUIDANCE[0].flatten(1).double().pow(2).sum(dim=1) + 1).sqrt()
    np.testing.assert_allclose(study(tmp_path, task).gradient_norms(),
                               residuals(task, *GUIDANCE).norm(dim=1) * lengths, rtol=1e-6)


@pytest.mark.parametrize("name", ["gru", "timesnet"])
def test_gradient_norms_equal_a_loop_in_float64(name):
    task, (x, y) = fitted_task(name, steps=20), series(10, seed=5)
    precise = in_float64(task, x)
    expected = [norm(loop_gradient(precise, *row)) for row in zip(x.double(), y, strict=True)]
    np.testing.assert_allclose(gradient_norms(precise, x.double(), y), expected, rtol=1e-10)
    assert next(task.model.parameters()).dtype == torch.float32


def test_a_parameter_that_the_loss_does_not_read_has_no_gradient():
    model = Linear()
    model.unused = torch.nn.Parameter(torch.ones(3))
    x, y = series(4, seed=6)
    assert gradient_norms(DownstreamTask(model), x, y) == pytest.approx(gradient_norms(DownstreamTask(Linear()), x, y))
    assert np.isfinite(loss_falls(DownstreamTask(model), (x, y), x, y, [0.1])).all()


def test_loss_falls_equal_the_optimizer_of_torch():
    x, y = series(6, seed=7)
    task = in_float64(fitted_task("gru", steps=20), x)
    guidance = GUIDANCE[0].double(), GUIDANCE[1]
    for row, falls in zip(zip(x.double(), y, strict=True), loss_falls(task, guidance, x.double(), y, [0.01, 0.5]),
                          strict=True):
        for rate, fall in zip((0.01, 0.5), falls, strict=True):
            model = copy.deepcopy(task.model)
            before = torch.nn.functional.cross_entropy(model(guidance[0]), guidance[1]).item()
            optimizer = torch.optim.SGD(model.parameters(), lr=rate)
            torch.nn.functional.cross_entropy(model(row[0][None]), row[1][None]).backward()
            optimizer.step()
            after = torch.nn.functional.cross_entropy(model(guidance[0]), guidance[1]).item()
            assert fall == pytest.approx((before - after) / rate, rel=1e-8, abs=1e-10)


def test_falls_tend_to_influence_as_the_rate_goes_to_0(tmp_path):
    """The error of a first-order prediction is proportional to the rate."""
    (x, y), opened = series(15, seed=8), study(tmp_path)
    falls = opened.loss_falls(x, y, [1e-5, 1e-3, 1e-2])
    assert falls[:, 0] == pytest.approx(opened.scores(x, y), rel=1e-2, abs=1e-3 * np.abs(falls[:, 0]).max())
    errors = np.abs(falls[:, 1:] - falls[:, :1]).max(axis=0)
    assert errors[1] / errors[0] == pytest.approx(10, rel=0.2)


def test_guidance_rows_have_the_squared_norm_of_g_as_mean_influence(tmp_path):
    opened = study(tmp_path)
    assert opened.scores(*GUIDANCE).mean() == pytest.approx(norm(opened.gradient.direction()) ** 2, rel=1e-3)


def test_a_wrong_label_turns_the_sign_and_grows_with_the_confidence_of_the_guide(tmp_path):
    """With two classes grad loss is (p_y - 1) times the gradient of the logit difference, whatever the model: with the
    other label influence is -p_y / (1 - p_y) times as large."""
    opened, (x, y) = study(tmp_path, fitted_task("gru", steps=60)), series(80, seed=9)
    with torch.no_grad():
        confidence = torch.softmax(opened.task.model(x.double()), 1).gather(1, y[:, None])[:, 0].double().numpy()
    right, wrong = opened.scores(x, y), opened.scores(x, 1 - y)
    expected = -confidence / (1 - confidence) * right
    np.testing.assert_allclose(wrong, expected, rtol=0.02, atol=2e-3 * np.abs(wrong).max())
    sure = confidence > 0.7
    assert sure.sum() > 10 and np.abs(wrong[sure]).mean() > 3 * np.abs(right[sure]).mean()


def test_what_is_measured_is_kept_and_never_mistaken(tmp_path, monkeypatch):
    (x, y), first = series(9, seed=10), study(tmp_path)
    kept = first.scores(x, y), first.loss_falls(x, y, [0.1]), first.gradient_norms()

    def measured_again(*arguments):
        raise AssertionError("measured again")

    for name in ("influence_scores", "loss_falls", "gradient_norms"):
        monkeypatch.setattr(analysis, name, measured_again)
    again = study(tmp_path)
    repeated = (again.scores(x, y), again.loss_falls(x, y, [0.1]), again.gradient_norms())
    for before, after in zip(kept, repeated, strict=True):
        np.testing.assert_array_equal(before, after)
    other_guide = study(tmp_path, fitted_task("gru", steps=21))
    for changed in (lambda: again.scores(x, 1 - y), lambda: again.scores(x + 1, y), lambda: other_guide.scores(x, y),
                    lambda: again.loss_falls(x, y, [0.2]), other_guide.gradient_norms):
        with pytest.raises(AssertionError, match="measured again"):
            changed()


def test_summary_against_its_definitions():
    values = np.random.default_rng(0).normal(0.3, 2, size=400)
    rows = np.arange(400)
    summary = influence_summary(values, rows, 2000, 0)
    assert summary["mean"] == pytest.approx(values.mean())
    assert summary["share_positive"] == np.mean(values > 0)
    assert (summary["p10"], summary["p50"]) == pytest.approx((np.quantile(values, 0.1), np.median(values)))
    half = stats.norm.ppf(0.975) * values.std() / np.sqrt(len(values))
    assert summary["mean_low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert summary["mean_high"] == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert influence_summary(values[::-1], rows, 2000, 0) == summary


def test_the_interval_of_the_mean_is_over_subjects():
    values, subjects = np.random.default_rng(0).normal(0.3, 2, size=100).repeat(4), np.arange(100).repeat(4)
    summary = influence_summary(values, subjects, 4000, 0)
    half = stats.norm.ppf(0.975) * values.std() / np.sqrt(100)
    assert summary["mean_high"] - summary["mean_low"] == pytest.approx(2 * half, rel=0.1)
    order = np.random.default_rng(1).permutation(400)
    assert influence_summary(values[order], subjects[order], 4000, 0) == pytest.approx(summary)
    uneven = influence_summary(np.array([1.0, 1, 1, 5]), np.array([0, 0, 0, 1]), 4000, 0)
    assert (uneven["mean"], uneven["mean_low"], uneven["mean_high"]) == (2, 1, 5)


def test_rows_per_class():
    rows = influence_rows("set", np.array([1.0, -1.0, 3.0]), np.array([0, 0, 2]), np.arange(3), ["a", "b", "c"], 20, 0)
    assert [(row["class"], row["rows"], row["mean"]) for row in rows] == [("all", 3, 1.0), ("a", 2, 0.0), ("c", 1, 3.0)]


def test_gradient_norm_rows_are_the_table_of_the_paper(tmp_path):
    opened, y = study(tmp_path), GUIDANCE[1].numpy()
    norms = opened.gradient_norms()
    for label, row in enumerate(gradient_norm_rows(norms, opened.gradient, y, ["a", "b"])):
        own = norms[y == label]
        assert (row["class"], row["rows"]) == ("ab"[label], len(own))
        assert (row["mean"], row["sd"], row["p50"]) == pytest.approx((own.mean(), own.std(ddof=1), np.median(own)))
        mean = loop_mean(opened.task, GUIDANCE[0][y == label], GUIDANCE[1][y == label])
        assert row["norm_of_mean"] == pytest.approx(norm(mean), rel=1e-4)
        assert row["norm_of_mean"] < row["mean"]


def test_series_are_chosen_evenly_and_by_content():
    sets = {"many": series(100, seed=11), "few": (series(6, seed=12)[0], torch.tensor([0, 0, 0, 1, 1, 1]))}
    chosen = rows_to_fine_tune_on(sets, 22, seed=0)
    counts = {name: np.bincount(sets[name][1][rows]).tolist() for name, rows in chosen.items()}
    assert counts == {"many": [6, 6], "few": [3, 3]}
    assert len(set(chosen["many"])) == 12
    order = torch.randperm(100)
    moved = rows_to_fine_tune_on({"many": tuple(part[order] for part in sets["many"]), "few": sets["few"]}, 22, seed=0)
    assert torch.equal(sets["many"][0][order][moved["many"]], sets["many"][0][chosen["many"]])
    assert set(rows_to_fine_tune_on(sets, 22, seed=1)["many"]) != set(chosen["many"])


def test_agreement():
    influence = np.array([-2.0, -1.0, 0.5, 1.0, 3.0])
    assert agreement(influence, 2 * influence) == pytest.approx(
        {"series": 5, "spearman": 1, "pearson": 1, "slope": 2, "same_sign": 1})
    assert agreement(influence, np.array([-2.0, -1.0, -0.5, 1.0, 3.0]))["same_sign"] == 0.8
    curved = agreement(influence, np.exp(influence))
    assert curved["spearman"] == pytest.approx(1) and curved["pearson"] < 0.95
    assert agreement(influence, np.ones(5))["spearman"] is agreement(influence[:2], influence[:2])["slope"] is None
    assert agreement(influence[:0], influence[:0])["same_sign"] is None


def test_agreement_of_every_set_and_rate():
    measured = [{"set": name, "influence": value, "fall_at_0.1": value, "fall_at_1": sign * value}
                for name, sign in (("first", 1), ("second", -1)) for value in (-1.0, 0.5, 1.0)]
    rows = {(row["learning_rate"], row["set"]): row for row in agreement_rows(measured, [0.1, 1.0])}
    assert {key: row["series"] for key, row in rows.items()} == {
        (rate, name): count for rate in (0.1, 1.0) for name, count in (("all", 6), ("first", 3), ("second", 3))}
    assert rows[1.0, "first"]["pearson"] == pytest.approx(1) and rows[1.0, "second"]["pearson"] == pytest.approx(-1)


def test_a_model_that_insists_on_float32_is_refused(tmp_path):
    class Single(Linear):
        def forward(self, x):
            return super().forward(x.float())

    with pytest.raises(UserError, match=r"cannot compute in float64.*no \.float\(\)"):
        study(tmp_path, DownstreamTask(Single()))
    assert not list(tmp_path.iterdir())


def test_figures_are_drawn_of_more_sets_than_there_are_styles(tmp_path):
    opened, config = study(tmp_path), InfluenceAnalysisConfig(fine_tuned=28, learning_rates=[0.01], bootstrap=20)
    sets = {f"set {number}": series(20, seed=number) for number in range(17)}
    styles = plots.styles(sets)
    assert len({(style["color"], style["linestyle"]) for style in styles.values()}) == 16
    rows = {name: np.arange(len(y)) for name, (_, y) in sets.items()}
    tables = influence_tables(opened, sets, rows, ["a", "b"], config)
    figures = (plots.gradient_norm_bars(tables["gradient_norms"]),
               plots.influence_curves({name: (opened.scores(*rows), rows[1].numpy()) for name, rows in sets.items()},
                                      ["a", "b"]),
               plots.fine_tuning_scatter(tables["fine_tuned_series"], [0.01]))
    for number, figure in enumerate(figures):
        plots.save_figure(tmp_path / f"{number}.png", figure)
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a tiny cohort, a classifier of it, and a synthetic set with its labels and with all flipped."""
    folder = tmp_path_factory.mktemp("finished")
    splits, description = simulate_cohort(200, 0)
    other, _ = simulate_cohort(200, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_dataset("data", splits, description)
        write_dataset("other_data", other, description)
        train = splits["train"]
        write_dataset("short", {"train": replace(train, x=train.x[:, :20], mask=train.mask[:, :20])}, description)
        write_dataset("faithful", {"train": other["train"]}, description)
        write_dataset("flipped", {"train": replace(other["train"], y=1 - other["train"].y)}, description)
        Path("user_models.py").write_text(USER_MODELS)
        assert run_tiny("guide", "output=classifier", "training.batch_size=16") == 0
    return folder


@pytest.fixture
def folder(folder, monkeypatch):
    """The copy of the finished folder, and the sets that the command analyses."""
    monkeypatch.setitem(user_errors.SETTINGS, "influence", [
        *user_errors.SETTINGS["influence"], "synthetic={faithful: faithful, flipped: [flipped]}"])
    return folder


def test_the_command_tells_flipped_labels_and_reuses_what_it_measured(folder, capsys, monkeypatch):
    given = contents(folder)
    assert run_tiny("influence") == 0
    printed = capsys.readouterr().out
    assert {path: content for path, content in contents(folder).items() if path in given} == given
    result = json.loads(Path("out/influence.json").read_text())
    rows = {(row["set"], row["class"]): row for row in result["influence_distribution"]}
    assert rows["faithful", "all"]["guide_auroc"] == pytest.approx(1 - rows["flipped", "all"]["guide_auroc"])
    task, train = Guide.load("classifier", CPU).task, read_dataset("data", ("train",)).train
    x = torch.from_numpy(Normalizer.load("classifier/normalizer.json").transform(train.x))
    assert rows["real training", "all"]["guide_auroc"] == pytest.approx(
        roc_auc_score(train.y, torch.softmax(task.model(x), 1)[:, 1].detach()))
    assert {name for name, _ in rows} == {"real training", "real selection", "faithful", "flipped"}
    small = next(row for row in result["fine_tuning"] if row["set"] == "all" and row["learning_rate"] == 1e-4)
    assert small["series"] == 16 and small["spearman"] > 0.99 and small["slope"] == pytest.approx(1, abs=0.05)
    for table in TABLES:
        assert len(Path(f"out/{table}.csv").read_text().splitlines()) == 1 + len(result[table])
    for title in ("norm of their mean", "Influence: fall", "measured after one gradient step"):
        assert title in printed

    for name in ("influence_scores", "loss_falls", "gradient_norms"):
        monkeypatch.setattr(analysis, name, None)
    assert run_tiny("influence") == 0
    again = json.loads(Path("out/influence.json").read_text())
    for table in TABLES:
        assert again[table] == result[table]


def test_a_killed_analysis_looks_unfinished_and_goes_on(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(analysis, "loss_falls", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run_tiny("influence") == 130
    assert {path.name.partition("-")[0] for path in Path("out").iterdir()} == {"guidance_gradient", "measurements"}
    monkeypatch.setattr(analysis, "gradient_norms", None)
    monkeypatch.setattr(analysis, "influence_scores", None)
    assert run_tiny("influence") == 0
    assert Path("out/influence.json").exists()


def test_a_set_of_the_minority_alone(folder):
    with np.load("faithful/train.npz") as archive:
        content = dict(archive)
    np.savez("faithful/train.npz", **{name: array[content["y"] == 1] for name, array in content.items()})
    assert run_tiny("influence", "synthetic={minority: faithful}", "fine_tuned=0") == 0
    result = json.loads(Path("out/influence.json").read_text())
    rows = [row for row in result["influence_distribution"] if row["set"] == "minority"]
    assert [row["class"] for row in rows] == ["all", "died"] and rows[0]["guide_auroc"] is None
    assert "fine_tuned_series" not in result


@pytest.mark.parametrize(("arguments", "spoil", "expected"), [
    (("classifier=nowhere",), None, ("nowhere: not a run folder",)),
    (("real=nowhere",), None, ("nowhere: dataset folder not found",)),
    (("synthetic={a: 3}",), None, ("synthetic.a: expected a folder",)),
    (("synthetic={all: faithful}",), None, ("synthetic.all: this name stands for other rows",)),
    (("real=other_data",), None, ("other_data: its train and val rows are not those that classifier was trained on",)),
    (("learning_rates=[]",), None, ("'learning_rates' must hold at least one",)),
    ((), lambda: Path("classifier/model.safetensors").unlink(), ("classifier/model.safetensors: file not found",)),
    (("synthetic={a: short}",), None, ("short: shape (L, C) (20, 7), but data has (24, 7)",)),
    ((), meta({"classes": ["no", "yes"], "positive": "yes"}, "faithful/meta.json"),
     ("faithful: classes ['no', 'yes'], but data has",)),
    (("output=data/train.npz/out",), None, ("is a file; give a folder",)),
])
def test_bad_input_is_one_message(folder, capfd, arguments, spoil, expected):
    if spoil is not None:
        spoil()
    before = contents(folder)
    capfd.readouterr()
    code = run_tiny("influence", *arguments)
    assert_refused(code, capfd.readouterr().err, expected)
    assert_clean(folder, before)


def test_a_classifier_that_couples_the_batch_is_refused(folder, capfd):
    assert run_tiny("guide", "output=coupled", "model.name=custom",
                     "model.custom.import_path=user_models:Coupled") == 0
    capfd.readouterr()
    assert_refused(run_tiny("influence", "classifier=coupled"), capfd.readouterr().err,
                   ("Guidance needs a model that treats each sample alone",))
    assert not Path("out").exists()
