"""The gain map: an experiment on subsets of several numbers of labelled rows, and what synthetic series add to each."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from classifier.models import custom_source
from classifier.teacher import members_of
from tardiff.config import (
    BaseConfig,
    ClassifierConfig,
    ExperimentConfig,
    GenerationConfig,
    MapConfig,
    ReportConfig,
    TeacherConfig,
)
from tardiff.data.format import Dataset, Split, read_dataset
from tardiff.data.splits import subset_of_rows
from tardiff.evaluation.gain_map import CellScores, map_rows, map_table, mean_over_seeds, packed, unpacked
from tardiff.evaluation.plots import gain_curves, save_figure
from tardiff.evaluation.protocol import Arm, scores_of
from tardiff.evaluation.sets import reference_of
from tardiff.evaluation.summary import FEWEST_SEEDS, HEADERS, counted, seen_beforehand, write_csv
from tardiff.stages.estimate import told_minutes, utility_minutes
from tardiff.stages.evaluate import arms_of, judge_of, read_protocol
from tardiff.stages.run import (
    Step,
    config_of,
    evaluation_of,
    generation_steps,
    planned_sets,
    require_usable,
    run_steps,
    write_parts,
)
from tardiff.utils.cache import Job, Values, cached_jobs, result_path
from tardiff.utils.distributed import resolve_device
from tardiff.utils.errors import UserError
from tardiff.utils.parallel import worker_count

LOG = "log.txt"


@dataclass(frozen=True)
class Cell:
    """A subset of n labelled rows, as the dataset of an experiment: its stages, and what their sets are evaluated by.

    alone: whether it is the only subset of n rows.
    """

    n: int
    alone: bool
    part: Dataset
    steps: list[Step]
    evaluation: ReportConfig

    @property
    def planned(self) -> dict[str, list[Split]]:
        return planned_sets(self.part, self.steps, self.evaluation)

    def count(self, schema: type) -> int:
        """Return how many stages have settings of a schema."""
        return sum(isinstance(step.config, schema) for step in self.steps)

    @property
    def device(self) -> torch.device:
        """A device that a stage is not on the CPU with, if there is one."""
        devices = [resolve_device(config.device) for config in (self.evaluation, *(step.config for step in self.steps))]
        return max(devices, key=lambda device: device.type != "cpu")

    @cached_property
    def arms(self) -> list[Arm]:
        return arms_of(self.evaluation, self.part.train, self.planned)

    @cached_property
    def key(self) -> tuple:
        """All that decides the scores."""
        device = resolve_device(self.evaluation.device)
        recipes: list[Any] = [judge_of(model, self.evaluation.training, self.part, device).recipe
                              for model in self.evaluation.judge_models.values()]
        for config in (step.config for step in self.steps):
            if isinstance(config, ClassifierConfig):
                recipes.append(custom_source(config.model))
            elif isinstance(config, TeacherConfig):
                recipes += [member.recipe(config, resolve_device(config.device)) for member in members_of(config)]
        return ("cell", self.alone, *(split.fingerprint() for split in self.part.splits.values()), recipes,
                [asdict(step.config) for step in self.steps], asdict(self.evaluation))


def run(config: MapConfig, dry_run: bool) -> None:
    """Train, sample and evaluate cell by cell, resuming, and write the table and the figure of the map; what a cell
    would refuse is refused before the first one starts."""
    experiment_of(config, Path(config.output))
    whole = read_dataset(config.data)
    cells, kept = cells_of(config, whole), Path(config.output) / "scores"
    reference = reference_of(cells[0].evaluation, cells[0].planned)
    workers = worker_count(config.workers, cells[0].device)
    describe(cells, [cell for cell in cells if not result_path(kept, cell.key).exists()], whole, workers)
    if dry_run:
        print("\nThe first cell:")
        run_steps(cells[0].steps, True, [str(cells[0].part.path)])
        return
    write_parts([cell.part for cell in cells], f"subset of {config.data} as it is now, of seed {config.seed}")
    print(f"What the stages of a cell tell is written to {config.output}/cells/NAME/{LOG}.", flush=True)
    jobs = [Job(cell.key, partial(_scores, cell), cell.part.meta.name) for cell in cells]
    scores: dict[int, list[CellScores]] = {}
    for cell, values in zip(cells, cached_jobs(kept, jobs, workers, "map", "cell"), strict=True):
        scores.setdefault(cell.n, []).append(unpacked(values))
    rows = map_rows(scores, reference)
    write_csv(Path(config.output) / "map.csv", map_table(rows, cells[0].count(BaseConfig)))
    save_figure(Path(config.output) / "map.png", gain_curves(rows, HEADERS))
    for n in (cell.n for cell in cells if cell.alone and cell.count(BaseConfig) == 1):
        print(f"\nOf {n:,} rows there is one subset, with one denoiser: intervals do not cover the chance of "
              "generation by another.")
    print(f"\nwritten to {config.output}/map.csv and map.png")


def experiment_of(config: MapConfig, folder: Path) -> ExperimentConfig:
    """Return the experiment of a cell that is kept in a folder. Raises UserError on settings that no map can have."""
    device = {} if config.device is None else {"device": config.device}
    values = {"data": str(folder / "data"), "name": folder.name, "output": str(folder), **device}
    experiment, _ = config_of(ExperimentConfig, "experiment", config.experiment, values)
    if experiment.rotations > 1:
        raise UserError("experiment: a map has subsets, whose test rows are the same, in place of rotations. Give "
                        "rotations=1.")
    if evaluation_of(experiment).score_on != "test":
        raise UserError("experiment: a map is scored on test, for every subset has another selection half. Give "
                        "score_on=test.")
    return experiment


def cells_of(config: MapConfig, whole: Dataset) -> list[Cell]:
    """Return the cells of a map, n by n. Raises UserError if one of them could not be trained or evaluated."""
    rows = len(whole.train) + len(whole.val)
    cells = []
    for n in sorted({rows if size is None else size for size in config.sizes}):
        alone = n == rows or config.subsets == 1
        for number in range(1 if alone else config.subsets):
            folder = Path(config.output) / "cells" / ("all" if n == rows else f"n{n}-subset{number}")
            experiment = experiment_of(config, folder)
            part = replace(subset_of_rows(whole, n, number, config.seed), path=folder / "data")
            cells.append(Cell(n, alone, part, generation_steps(experiment), evaluation_of(experiment)))
    for cell in cells:
        require_usable([cell.part], cell.steps, cell.evaluation, f"sizes: {cell.n} rows are too few. Give more.")
    return cells


def describe(cells: list[Cell], missing: list[Cell], whole: Dataset, workers: int) -> None:
    """Print how much work a map is."""
    evaluation, arms = cells[0].evaluation, len(cells[0].arms)
    counts = Counter(cell.n for cell in cells)
    print(f"{counted(len(cells), 'cell')}, {len(cells) - len(missing)} of them finished: of "
          f"{len(whole.train) + len(whole.val):,} labelled rows "
          + ", ".join(f"{n:,} ({counted(count, 'subset')})" for n, count in counts.items()))
    print(f"in each {counted(cells[0].count(BaseConfig), 'denoiser')}, "
          f"{counted(cells[0].count(GenerationConfig), 'synthetic set')}, and {counted(arms, 'arm')} x "
          f"{counted(evaluation.seeds, 'seed')}, judged by {', '.join(evaluation.judge_models)}: "
          f"{counted(arms * evaluation.seeds, 'fit')}, scored on {len(whole.test):,} test series")
    print(seen_beforehand(whole.test.y, whole.test.subjects(), whole.meta.classes))
    if any(counts[cell.n] < FEWEST_SEEDS and not cell.alone for cell in cells):
        print(f"note: of fewer than {FEWEST_SEEDS} subsets no gain is judged.")
    left, at_once = Counter(cell.n for cell in missing), max(min(workers, len(missing)), 1)
    alone = replace(evaluation, workers=evaluation.workers or (1 if at_once > 1 else None))
    minutes = sum(left[cell.n] * utility_minutes(alone, cell.part, cell.planned)
                  for cell in {cell.n: cell for cell in missing}.values()) / at_once
    print(told_minutes(minutes, counted(len(missing), "cell")), flush=True)


def _scores(cell: Cell) -> Values:
    """Return the scores of a cell, whose stages run or resume first; of several subsets they are means over seeds.

    Raises UserError that names the log of the cell, in which all stands that they print.
    """
    path = cell.part.path.parent / LOG
    try:
        with open(path, "a", buffering=1) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            run_steps(cell.steps, dry_run=False)
            protocol = read_protocol(cell.evaluation)
            results = protocol.predictions(cell.arms, cell.evaluation.seeds)
            scores = scores_of(results, protocol, cell.evaluation.bootstrap)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return packed(scores if cell.alone else {arm: mean_over_seeds(own) for arm, own in scores.items()})
