"""The paper's analyses of guidance, on a trained denoiser and guide, in one figure.

    python scripts/study_guidance.py --data data/simulated --base runs/simulated/base --guide runs/simulated/classifier
    python scripts/study_guidance.py ... --objective classifier --scales 0 0.5 1 2 --series 1000 --seeds 3

- A sweep of the scale from negative to positive: the mean influence of the finished series on the guidance loss, with
  its 95 % interval, and the AUROC of classifiers trained on them (TSTR).
- F1 of the positive class of such classifiers, for G of all guidance rows, of the majority and of the minority.
- The norm of the loss gradient of single guidance rows and of their mean, per class.
- How much of G is signal: the cosine between G of two halves of the guidance rows against the number of rows, beside
  what chance gives.

Classifiers are scored on the selection half, so that test stays untouched, unless --score-on test. Writes study.png and
a table for each analysis to the output folder. Series and results are kept there, so that a killed study resumes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import tardiff
from classifier.train import Guide
from tardiff.config import GuidanceConfig
from tardiff.data.format import Dataset, Split
from tardiff.data.splits import halve_validation
from tardiff.evaluation.plots import save_figure
from tardiff.evaluation.summary import write_csv
from tardiff.influence.analysis import InfluenceStudy, gradient_norm_rows, influence_summary
from tardiff.influence.signal import guidance_signal, some_rows
from tardiff.sampling.generate import label_plan
from tardiff.stages.influence import prepared
from tardiff.utils.cache import cached
from tardiff.utils.errors import exit_on_user_error

CLASSES = ("all", "majority", "minority")
SHARES = (0.125, 0.25, 0.5, 1.0)
DRAWS = 5


def sampled(options: argparse.Namespace, denoiser: tardiff.Denoiser, real: Dataset, guide: Guide, scale: float,
            classes: str) -> Split:
    """Return series guided with a scale and a choice of guidance rows, made once."""
    settings = {"objective": options.objective, "scale": scale} | (
        {"classes": classes} if GuidanceConfig(options.objective).uses_guidance_gradient else {})
    plan = label_plan("train", options.series, real.train.y, real.meta.classes)
    counts = dict(enumerate(np.bincount(plan, minlength=real.num_classes).tolist()))

    def compute() -> dict[str, np.ndarray]:
        guidance = tardiff.Guidance(guide, real, **settings)
        series = denoiser.sample(counts, seed=options.seed, steps=options.steps, guidance=guidance)
        return series.split.arrays()

    key = ("series", denoiser.fitted.fingerprint(), guide.task.fingerprint(), real.val.fingerprint(), settings,
           options.steps, options.seed, str(counts))
    return Split(**cached(options.output / "series", key, compute))


def utility(options: argparse.Namespace, real: Dataset, sets: dict[str, Split]) -> pd.DataFrame:
    """Return mean and sd over classifier seeds of the AUROC and the F1 of TSTR, by set and metric."""
    frame = tardiff.evaluate(real, sets, options.output, score_on=options.score_on, protocols=["tstr"], controls=[],
                             workers=1, seeds=options.seeds)
    return frame[frame["protocol"] == "TSTR"].set_index(["set", "metric"])[["mean", "sd"]]


def signal_rows(real: Dataset, guide: Guide) -> list[dict[str, float]]:
    """Return how far G of all and of balanced rows agrees with itself, for shares of the guidance rows, drawn by
    subject."""
    guidance, training = (replace(part, x=guide.inputs(part.x, part.mask))
                          for part in (halve_validation(real.val)[0], real.train))
    rows = []
    for share in SHARES:
        for draw in range(1 if share == 1 else DRAWS):
            part = guidance[some_rows(guidance, round(share * len(guidance)), draw)]
            signal = guidance_signal(guide.task, part, training, guide.num_classes, guide.task.device)
            for classes in ("all", "balanced"):
                found = None if signal is None else signal.agreement(classes)
                if found is not None:
                    rows.append({"classes": classes, "share": share, "rows": len(part), **vars(found)})
    return rows


def study(options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Return the tables of the analyses by name."""
    denoiser, guide = tardiff.load_denoiser(options.base), tardiff.load_guide(options.guide)
    real = tardiff.read_dataset(options.data)
    half = halve_validation(real.val)[0]
    opened = InfluenceStudy.open(options.output, guide.task, *prepared([half], guide), real.num_classes,
                                 len(real.train), guide.task.device)
    sweep = {f"scale {scale:g}": (scale, sampled(options, denoiser, real, guide, scale, options.classes))
             for scale in sorted({*options.scales, 0.0})}
    chosen = CLASSES if GuidanceConfig(options.objective).uses_guidance_gradient else ()
    choices = {classes: sampled(options, denoiser, real, guide, options.scale, classes) for classes in chosen}
    scores = utility(options, real, {name: part for name, (_, part) in sweep.items()} | choices)
    sweep_rows, class_rows = [], []
    for name, (scale, part) in sweep.items():
        influence = influence_summary(opened.scores(*prepared([part], guide)), np.arange(len(part)), 1000, 0)
        sweep_rows.append({"scale": scale, **{key: influence[key] for key in ("mean", "mean_low", "mean_high")},
                           "auroc": scores.loc[name, "auroc"]["mean"], "auroc_sd": scores.loc[name, "auroc"]["sd"]})
    for name in ["scale 0", *choices]:
        f1 = scores.loc[name, "f1_selected"]
        class_rows.append({"set": "unguided" if name == "scale 0" else name, "f1": f1["mean"], "f1_sd": f1["sd"]})
    norms = gradient_norm_rows(opened.gradient_norms(), opened.gradient, half.y, real.meta.classes)
    tables = {"scale_sweep": sweep_rows, "minority_f1": class_rows, "gradient_norms": norms,
              "signal": signal_rows(real, guide)}
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


def figure_of(tables: dict[str, pd.DataFrame], positive: str) -> Figure:
    """Draw the analyses, one panel each; the sweep has two."""
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    panels = list(figure.subplots(2, 3).flat)
    sweep = tables["scale_sweep"]
    panels[0].fill_between(sweep["scale"], sweep["mean_low"], sweep["mean_high"], alpha=0.25)
    panels[0].plot(sweep["scale"], sweep["mean"], marker="o", markersize=4)
    panels[1].errorbar(sweep["scale"], sweep["auroc"], sweep["auroc_sd"], marker="o", markersize=4, capsize=3)
    titles = "mean influence of the series", "TSTR AUROC (mean and sd over seeds)"
    for axis, title in zip(panels, titles, strict=False):
        axis.axvline(0, color="black", linestyle=":", linewidth=1)
        axis.set(title=title, xlabel="guidance scale")
        if sweep["scale"].abs().max() > 4:
            axis.set_xscale("symlog", linthresh=1)
    f1 = tables["minority_f1"]
    panels[2].bar(f1["set"], f1["f1"], yerr=f1["f1_sd"], capsize=3, color="C0")
    panels[2].set(title=f"TSTR F1 of '{positive}'", xlabel="guidance rows behind G")
    norms = tables["gradient_norms"]
    places = np.arange(len(norms))
    panels[3].bar(places - 0.2, norms["mean"], 0.4, yerr=norms["sd"], capsize=3, label="mean norm of a row (sd)")
    panels[3].bar(places + 0.2, norms["norm_of_mean"], 0.4, label="norm of the mean")
    panels[3].set_xticks(places, norms["class"])
    panels[3].set(title="loss gradients of the guidance rows")
    panels[3].legend(fontsize=8, frameon=False)
    for axis, classes in zip(panels[4:], ("all", "balanced"), strict=True):
        draw_signal(axis, tables["signal"], classes)
    return figure


def draw_signal(axis: Axes, signal: pd.DataFrame, classes: str) -> None:
    """Draw the cosines of G of a choice of classes against the number of guidance rows."""
    axis.set(title=f"is G of {classes} rows signal?", xlabel="guidance rows", ylabel="cosine")
    axis.axhline(0, color="black", linewidth=0.8)
    if len(signal) == 0 or not (signal["classes"] == classes).any():
        return
    of_share = signal[signal["classes"] == classes].groupby("share").mean(numeric_only=True)
    axis.fill_between(of_share["rows"], of_share["chance_low"], of_share["chance_high"], color="0.85",
                      label="chance, 95 %")
    axis.plot(of_share["rows"], of_share["halves"], marker="o", markersize=4, label="two halves")
    axis.plot(of_share["rows"], of_share["training"], marker="s", markersize=4, linestyle="--",
              label="a half and training rows")
    axis.legend(fontsize=8, frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the dataset that both were trained on")
    parser.add_argument("--base", required=True, help="run folder of the denoiser")
    parser.add_argument("--guide", required=True, help="run folder of the classifier")
    parser.add_argument("--output", type=Path, default=Path("runs/study_guidance"))
    parser.add_argument("--objective", choices=("influence", "anchored", "classifier"), default="influence")
    parser.add_argument("--scales", type=float, nargs="+", default=[-2, -1, -0.5, 0, 0.5, 1, 2])
    parser.add_argument("--scale", type=float, default=1.0, help="of the comparison of guidance rows")
    parser.add_argument("--classes", default="all", help="guidance rows behind G in the sweep")
    parser.add_argument("--series", type=int, help="series in each set (default: as many as in train)")
    parser.add_argument("--steps", type=int, help="steps of the sampler (default: its own)")
    parser.add_argument("--seed", type=int, default=0, help="of the series")
    parser.add_argument("--seeds", type=int, default=5, help="of the classifiers that are trained on them")
    parser.add_argument("--score-on", choices=("selection", "test"), default="selection")
    options = parser.parse_args()
    tables = study(options)
    meta = tardiff.read_dataset(options.data, ("train",))
    for name, table in tables.items():
        write_csv(options.output / f"{name}.csv", table)
        print(f"\n{name}\n{table.to_string(index=False, float_format='{:.3g}'.format)}")
    save_figure(options.output / "study.png", figure_of(tables, meta.meta.classes[meta.positive]))
    print(f"\nwritten to {options.output}: study.png and {', '.join(f'{name}.csv' for name in tables)}")


if __name__ == "__main__":
    exit_on_user_error(main)
