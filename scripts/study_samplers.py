"""How good series are for the steps they take: every sampler with few and many steps, on trained denoisers.

    python scripts/study_samplers.py --base runs/cinc2012_mortality/base-seed* --data data/cinc2012_mortality
    python scripts/study_samplers.py ... --steps 10 25 --series 768 --quick

Without guidance and without test: fidelity is measured against the selection half, which TSTR is scored on as well.
Writes samplers.csv and samplers.png to the output folder. Series and results are kept there, so that a killed study
resumes. Columns: `level`, the variance over series of their mean over time, and `within`, the mean of their variance
over time, each synthetic / real in normalised units, as mean over channels and per channel; the first figures of
marginal distances, context-FID and strong discriminative score; AUROC and AUPRC of TSTR. Of several denoisers all are
means, and `level sd` is the standard deviation over them. `--quick` measures only what trains no network.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import tardiff
from tardiff.data.format import Split
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import halve_validation
from tardiff.evaluation.plots import save_figure, styles
from tardiff.evaluation.sections import evaluate_fidelity, fidelity_metrics
from tardiff.evaluation.summary import write_csv
from tardiff.sampling.generate import label_plan
from tardiff.sampling.samplers import SAMPLERS
from tardiff.utils.cache import cached
from tardiff.utils.errors import exit_on_user_error

TITLES = {"level": "variance of a series' mean\nsynthetic / real",
          "within": "variance within a series\nsynthetic / real",
          "ks": "KS distance of single values", "fid": "context-FID", "score": "discriminative score",
          "auroc": "TSTR AUROC", "auprc": "TSTR AUPRC"}
METRICS = {"marginal": "ks", "context_fid": "fid", "discriminative": "score"}
REAL = "real training rows"


def variances(x: np.ndarray) -> dict[str, np.ndarray]:
    """Return per channel the variance over series x (N, L, C) of their mean, and the mean of that within them."""
    return {"level": x.mean(axis=1, dtype=np.float64).var(axis=0),
            "within": x.var(axis=1, dtype=np.float64).mean(axis=0)}


def sampled(denoiser: tardiff.Denoiser, counts: dict[int, int], seed: int, sampler: str, steps: int, folder: Path
            ) -> dict[str, np.ndarray]:
    """Return x (N, L, C) in raw units, y (N,) and the seconds that sampling took, once."""
    def compute() -> dict[str, np.ndarray]:
        start = time.perf_counter()
        series = denoiser.sample(counts, seed=seed, sampler=sampler, steps=steps)
        return {"x": series.x, "y": series.y, "seconds": np.array(time.perf_counter() - start)}

    return cached(folder, (f"{sampler}-{steps}", denoiser.fitted.fingerprint(), str(counts), seed), compute)


def study(options: argparse.Namespace) -> pd.DataFrame:
    """Return one row for the real training rows and each sampler and number of steps."""
    denoisers, real = [tardiff.load_denoiser(base) for base in options.base], tardiff.read_dataset(options.data)
    scaler, (_, selection) = Normalizer.fit("zscore", real.train.x), halve_validation(real.val)
    train, held_out = (Split(scaler.transform(rows.x), rows.y, rows.subject) for rows in (real.train, selection))
    plan = label_plan("train", options.series, real.train.y, real.meta.classes)
    counts = dict(enumerate(np.bincount(plan, minlength=real.num_classes).tolist()))
    rows, sets, splits = {REAL: {"sampler": REAL, "level": 1.0, "within": 1.0}}, {}, {}
    normalizer = denoisers[0].fitted.normalizer
    of_real = variances(normalizer.transform(real.train.x))
    for steps in options.steps:
        for sampler in options.samplers:
            name = f"{sampler} {steps}"
            found = [sampled(denoiser, counts, options.seed, sampler, steps, options.output / "series")
                     for denoiser in denoisers]
            splits[name] = [Split(of_one["x"], of_one["y"]) for of_one in found]
            sets[name] = [scaler.transform(of_one["x"]) for of_one in found]
            rows[name] = {"sampler": sampler, "steps": steps,
                          "seconds": np.mean([of_one["seconds"] for of_one in found])}
            of_all = [variances(normalizer.transform(of_one["x"])) for of_one in found]
            for key, real_values in of_real.items():
                ratios = np.array([of_one[key] / real_values for of_one in of_all])
                rows[name] |= {key: ratios.mean(), f"{key} sd": ratios.mean(axis=1).std(ddof=min(len(found) - 1, 1)),
                               **{f"{key} {channel}": ratio for channel, ratio in
                                  zip(real.meta.channels, ratios.mean(axis=0), strict=True)}}
            print(f"{name}: {rows[name]['seconds']:.0f} s, level {rows[name]['level']:.3f}, within "
                  f"{rows[name]['within']:.3f}", flush=True)
    metrics = fidelity_metrics(["marginal"] if options.quick else list(METRICS))
    frame = evaluate_fidelity(train, held_out, sets, metrics, options.repeats, options.output / "metrics", 1,
                              torch.device("cpu"))
    for (name, metric), values in frame.groupby(["set", "metric"]):
        if (of := {"real": REAL}.get(name, name)) in rows:
            rows[of][METRICS[metric]] = values.loc[values["key"] == METRICS[metric], "value"].mean()
    if not options.quick:
        utility = tardiff.evaluate(real, splits, options.output, score_on="selection", protocols=["tstr"], controls=[],
                                   workers=1, normalizer=normalizer.kind, seeds=options.repeats)
        for (name, metric), values in utility.groupby([utility["set"].fillna(REAL), "metric"]):
            rows[name] |= {metric: values["mean"].item()} if metric in TITLES else {}
    return pd.DataFrame(rows.values())


def figure_of(frame: pd.DataFrame) -> Figure:
    """Draw each measure against the number of steps, one line a sampler; dashed: the real training rows."""
    drawn = [key for key in TITLES if key in frame]
    figure = Figure(figsize=(3.2 * ((len(drawn) + 1) // 2), 5.6), layout="constrained")
    panels = figure.subplots(2, (len(drawn) + 1) // 2).flat
    for axis in panels[len(drawn):]:
        axis.set_visible(False)
    steps = frame["steps"].dropna().unique().astype(int)
    for axis, key in zip(panels, drawn, strict=False):
        axis.axhline(frame[key].iloc[0], color="black", linestyle="--", linewidth=1, label=REAL)
        for sampler, style in styles(SAMPLERS).items():
            of_sampler = frame[frame["sampler"] == sampler]
            if len(of_sampler):
                axis.plot(of_sampler["steps"], of_sampler[key], label=sampler, markersize=4, **style)
        axis.set_xscale("log")
        axis.set_xticks(steps, steps)
        axis.minorticks_off()
        axis.set_title(TITLES[key], fontsize=9)
    figure.supxlabel("steps", fontsize=9)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, nargs="+", help="run folders of denoisers of one dataset")
    parser.add_argument("--data", required=True, help="the dataset that they were trained on")
    parser.add_argument("--output", type=Path, default=Path("runs/study_samplers"))
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 8, 10, 15, 25, 50, 200])
    parser.add_argument("--series", type=int, help="series to sample (default: as many as in train)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--repeats", type=int, default=3,
                        help="seeds of the networks that measure; seed r takes denoiser r modulo their number")
    parser.add_argument("--quick", action="store_true", help="leave out what trains networks")
    options = parser.parse_args()
    frame = study(options)
    write_csv(options.output / "samplers.csv", frame)
    save_figure(options.output / "samplers.png", figure_of(frame))
    shown = ["sampler", "steps", "seconds", *(key for key in TITLES if key in frame)]
    print(frame[shown].round(3).to_string(index=False))


if __name__ == "__main__":
    exit_on_user_error(main)
