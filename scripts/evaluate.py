"""Everything that is measured of synthetic sets, in one report: utility, fidelity, privacy, influence and pictures.

    python scripts/evaluate.py --real data/X --synthetic runs/A runs/B --output report
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import analyze_influence
import numpy as np
import report_pictures
from report_inputs import check_classifier, check_rows, check_settings, describe
from synthetic_sets import inputs_exist, named_by_folder, read_sets, synthetic_folders
from utility_table import build_protocol

from tardiff.cli import Flag, folder_flag, repository_path, run_stage
from tardiff.config import InfluenceAnalysisConfig, ReportConfig
from tardiff.data.format import Dataset, Split, read_dataset
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import halve_validation
from tardiff.evaluation.cache import ResultCache
from tardiff.evaluation.metrics import chance_average_precision, reliability_curve
from tardiff.evaluation.report import write_report
from tardiff.evaluation.sections import evaluate_fidelity, evaluate_privacy, fidelity_metrics
from tardiff.evaluation.tables import format_table, without_nan, write_tables
from tardiff.evaluation.utility import Arm, minority_class, score_arms
from tardiff.utils.checkpoint import read_json, write_json, write_text
from tardiff.utils.distributed import resolve_device
from tardiff.utils.logging import provenance
from tardiff.utils.parallel import worker_count
from tardiff.utils.settings import to_yaml


def main(config: ReportConfig, dry_run: bool) -> None:
    folders, device = synthetic_folders(config), resolve_device(config.device)
    metrics = fidelity_metrics(config.fidelity_metrics)
    check_settings(config, folders)
    if not inputs_exist(config, folders, dry_run):
        return
    real = read_dataset(config.real)
    sets = read_sets(folders, real)
    check_classifier(config, real, device)
    check_rows(config, real, {name: [part.y for part in parts] for name, parts in sets.items()})
    print(f"{len(real.train):,} training and {len(real.test):,} test series against "
          f"{', '.join(f'{name} ({len(parts)} x {len(parts[0]):,})' for name, parts in sets.items())}; on {device}")
    if dry_run:
        return
    output = Path(config.output)
    scaler = Normalizer.fit("zscore", real.train.x)
    cache = ResultCache(output / "metrics", worker_count(config.processes, device))
    scaled = {name: [scaler.transform(part.x) for part in parts] for name, parts in sets.items()}
    train, test = (dataclasses.replace(split, x=scaler.transform(split.x)) for split in (real.train, real.test))
    results = describe(config, real, sets, folders)
    if "utility" in config.sections:
        results["utility"] = utility(config, real, sets)
    if "fidelity" in config.sections:
        results["fidelity"] = evaluate_fidelity(train, test, scaled, metrics, config.repeats, cache, device)
    if "privacy" in config.sections:
        halves = [dataclasses.replace(half, x=scaler.transform(half.x)) for half in halve_validation(real.val)]
        results["privacy"] = evaluate_privacy(train, *halves, test, scaled, cache, device)
    if "influence" in config.sections and config.classifier is not None:
        analyze_influence.main(InfluenceAnalysisConfig(
            classifier=config.classifier, data=config.real, synthetic=folders, output=str(output / "influence"),
            device=config.device, fine_tuned=config.fine_tuned), dry_run=False)
        tables = read_json(output / "influence" / "influence.json", *analyze_influence.TITLES)
        results["influence"] = {title: tables[name] for name, title in analyze_influence.TITLES.items()}
    pictures = report_pictures.draw(output, real, sets, test.x, scaled, results)
    for part in ("fidelity", "privacy"):
        if part in results:
            report_pictures.write_csv(output / f"{part}.csv", results[part])
    if "utility" in results:
        write_tables(output, "utility", results["utility"]["rows"], {"config": dataclasses.asdict(config), **provenance()})
    write_text(output / "settings.yaml", to_yaml(config))
    write_json(output / "results.json", without_nan(results))
    print(f"\nwritten to {write_report(output, results, pictures)}, results.json, CSV and PNG")


def utility(config: ReportConfig, real: Dataset, sets: dict[str, list[Split]]) -> dict[str, Any]:
    """Run TRTR, TSTR and TSRTR, print and write the table, and return it with the reliability of TRTR and TSTR."""
    protocol = build_protocol(config, real, sets)
    reference = config.reference if config.reference in sets else None
    complete = [name for name, parts in sets.items()  # A set of some classes can only be added to real rows.
                if all(set(part.y) == set(protocol.real.y) for part in parts)]
    alone = [Arm("TRTR"), *(Arm("TSTR", name) for name in complete)]
    results = protocol.predictions(alone + [Arm("TSRTR", name, ratio) for name in sets for ratio in config.ratios],
                                   config.seeds)
    rows = score_arms(results, protocol, reference, config.bootstrap)
    print(format_table(rows, reference))
    minority = minority_class(protocol.real.y)
    curves = {arm.label: reliability_curve(protocol.scored.y, np.mean([scored for _, scored in results[arm]], axis=0),
                                           label=minority, subjects=protocol.scored.subjects()) for arm in alone}
    return {"rows": rows, "seeds": config.seeds, "reference": reference, "scored_rows": len(protocol.scored),
            "scored_subjects": len(np.unique(protocol.scored.subjects())), "reliability_class": minority,
            "chance_auprc": chance_average_precision(protocol.scored.y, real.num_classes),
            "fewest_datasets": min(config.seeds, *map(len, sets.values())),
            "reliability": {name: {key: values.tolist() for key, values in curve.items()} for name, curve in curves.items()}}


if __name__ == "__main__":
    run_stage(ReportConfig, main, "Evaluate synthetic sets and write one report.",
              repository_path("configs/evaluation/report.yaml"), (
                  folder_flag("real", "real dataset folder"), folder_flag("output", "folder of the report"),
                  Flag("--synthetic", "synthetic dataset folders; NAME-seed0, NAME-seed1 are one set", named_by_folder,
                       many=True)))
