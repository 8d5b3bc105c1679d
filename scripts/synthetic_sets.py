"""Synthetic sets: how they are named, found and read. A set is one or more datasets, one for each generation seed."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tardiff.config import EvaluationConfig
from tardiff.data.format import Dataset, Split, read_dataset
from tardiff.utils.checkpoint import require_folder
from tardiff.utils.errors import UserError


def inputs_exist(config: EvaluationConfig, folders: dict[str, list[str]], dry_run: bool) -> bool:
    """Tell whether all datasets are there; where not, a dry run says so, and any other raises UserError."""
    require_folder(config.output)
    needed = [config.real, *(path for paths in folders.values() for path in paths)]
    missing = [path for path in needed if not (Path(path) / "meta.json").exists()]
    if missing and not dry_run:
        raise UserError("no finished dataset at:\n" + "\n".join(f"  - {path}" for path in missing)
                        + "\nGenerate it first, or change 'real' or 'synthetic'.")
    if missing:
        print(f"settings are valid. Missing input: {', '.join(missing)}.")
    return not missing


def synthetic_folders(config: EvaluationConfig) -> dict[str, list[str]]:
    """Return the folders of each synthetic set; a single folder stands for a list of one."""
    folders = {str(name): [paths] if isinstance(paths, str) else paths for name, paths in config.synthetic.items()}
    wrong = [name for name, paths in folders.items()
             if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths)]
    if wrong:
        raise UserError(f"synthetic.{wrong[0]}: expected a folder or a list of folders, got {folders[wrong[0]]!r}.")
    return folders


def named_by_folder(paths: list[str]) -> str:
    """Return the setting `synthetic` for folders: named after each, NAME-seed0, NAME-seed1, ... being one set NAME."""
    sets: dict[str, list[str]] = {}
    for path in paths:
        name = re.sub(r"-seed\d+$", "", next(part for part in reversed(Path(path).resolve().parts) if part != "synthetic"))
        sets.setdefault(name, []).append(path)
    clash = next((group for group in sets.values() if len(set(group)) < len(group) or (
        len(group) > 1 and not all(re.search(r"-seed\d+(/synthetic)?/?$", path) for path in group))), None)
    if clash:
        raise UserError(f"--synthetic: {' and '.join(clash)} would have the same name. Give each folder once, or name them: "
                        "'synthetic={first: DIR, second: DIR}'.")
    return f"synthetic={json.dumps(sets)}"


def read_sets(folders: dict[str, list[str]], real: Dataset) -> dict[str, list[Split]]:
    """Read the rows of all synthetic datasets, by set."""
    return {name: [read_matching(path, real).train for path in paths] for name, paths in folders.items()}


def read_matching(path: str, real: Dataset) -> Dataset:
    """Read a synthetic dataset. Raises UserError if its shape, channels or classes are not those of the real one."""
    synthetic = read_dataset(path, ("train",), every_class=False)
    for what, mine, theirs in (("shape (L, C)", synthetic.shape, real.shape),
                               ("channels", synthetic.meta.channels, real.meta.channels),
                               ("classes", synthetic.meta.classes, real.meta.classes)):
        if mine != theirs:
            raise UserError(f"{path}: {what} {mine}, but {real.path} has {theirs}. Evaluate against the dataset it was "
                            "generated from.")
    return synthetic
