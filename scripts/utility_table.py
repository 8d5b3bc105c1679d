"""What the TSTR and TSRTR entry points share: reading the sets, running the arms, writing the table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from synthetic_sets import inputs_exist, read_sets, synthetic_folders

from classifier.models import build_classifier, custom_source
from classifier.rnn import RNNClassifier
from classifier.timesnet import TimesNet
from classifier.train import fit_classifier
from tardiff.config import EvaluationConfig
from tardiff.data.format import Dataset, Split, absent_classes, read_dataset
from tardiff.data.normalize import Normalizer
from tardiff.data.splits import halve_validation
from tardiff.evaluation.tables import format_table, write_tables
from tardiff.evaluation.utility import Arm, Protocol, score_arms
from tardiff.utils.checkpoint import source_fingerprint
from tardiff.utils.distributed import resolve_device
from tardiff.utils.errors import UserError
from tardiff.utils.logging import provenance
from tardiff.utils.parallel import worker_count


def evaluate(config: EvaluationConfig, dry_run: bool, name: str, arms: list[Arm]) -> None:
    """Run the arms, print the table, and write `<name>.json` and `<name>.csv` to the output folder."""
    folders = synthetic_folders(config)
    if not inputs_exist(config, folders, dry_run):
        return
    real = read_dataset(config.real, ("train", "val", *(["test"] if config.score_on == "test" else [])))
    protocol = build_protocol(config, real, read_sets(folders, real))
    print(f"{len(arms)} arms x {config.seeds} seeds: {len(protocol.real):,} real training, {len(protocol.selection):,} "
          f"selection and {len(protocol.scored):,} {config.score_on} series")
    if dry_run:
        return
    rows = score_arms(protocol.predictions(arms, config.seeds), protocol, config.reference, config.bootstrap)
    context = {"scored on": config.score_on, "config": dataclasses.asdict(config), **provenance()}
    write_tables(config.output, name, rows, context)
    print(f"\n{name.upper()}, scored on {config.score_on}: mean (sd over {config.seeds} seeds)")
    print(format_table(rows, config.reference if config.reference in folders else None))
    if min((len(paths) for paths in folders.values()), default=2) < 2:
        print("One synthetic dataset per set: sd and intervals do not cover the chance of generation.")
    print(f"\nwritten to {Path(config.output) / name}.json and .csv")


def build_protocol(config: EvaluationConfig, real: Dataset, sets: dict[str, list[Split]]) -> Protocol:
    """Return what the arms share. Raises UserError if a class is missing where epochs are chosen or results computed."""
    _, selection = halve_validation(real.val)
    faults = absent_classes(selection, real.meta, f"the selection half of {real.path}/val.npz")
    if config.score_on == "test":
        faults += absent_classes(real.test, real.meta, f"{real.path}/test.npz")
    if faults:
        raise UserError("\n".join(faults))
    device = resolve_device(config.device)
    build_classifier(config.model, real.shape, real.num_classes)

    def fit(train, chosen_on, x_scored, seed):
        fitted = fit_classifier(train, chosen_on, real.num_classes, config.model, config.training, seed, device)
        return fitted.predict(chosen_on[0]), fitted.predict(x_scored)

    code = [source_fingerprint(thing) for thing in (fit_classifier, RNNClassifier, TimesNet)]
    recipe = {"model": dataclasses.asdict(config.model), "training": dataclasses.asdict(config.training),
              **custom_source(config.model), "code": code, "device": device.type}
    return Protocol(real.train, selection, selection if config.score_on == "selection" else real.test, sets,
                    Normalizer.fit(config.normalizer, real.train.x), fit, recipe, Path(config.output),
                    worker_count(config.processes, device))
