"""Run folders: configuration, provenance, metrics and the states from which a killed run resumes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

import tardiff
from tardiff.utils.checkpoint import (
    atomic_path,
    load_state,
    read_json,
    require_folder,
    save_state,
    write_json,
    write_text,
    writing,
)
from tardiff.utils.errors import UserError
from tardiff.utils.settings import load_settings, semantic_values, to_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

SETTING_OF_INPUT = {"train": "data", "val": "data", "guidance data": "data",
                    "denoiser": "base", "classifier": "classifier", "teacher": "teacher"}
"""The setting that names the folder an input of a run comes from."""

WRITTEN = ("config.yaml", "*.json", "*.jsonl", "*.npz", "*.safetensors", "*.pt", "*.png", "chunks", "tensorboard")
"""What runs write into their folder."""


class Run:
    """A run folder that is open for writing; made by `open_run`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = None
        self._purge_step: int | None = None

    def latest_state(self) -> dict[str, Any] | None:
        """Return the newest saved state, or None for a new run or where the user deleted the state.

        Raises UserError if it is damaged.
        """
        pointer = self.folder / "latest.json"
        path = self.folder / read_json(pointer, state=str)["state"] if pointer.exists() else None
        return load_state(path) if path is not None and path.exists() else None

    def save_state(self, step: int, state: dict[str, Any]) -> None:
        """Write `state-<step>.pt`, then point `latest.json` at it, then drop older states."""
        name = f"state-{step}.pt"
        save_state(self.folder / name, state)
        write_json(self.folder / "latest.json", {"state": name, "step": step})
        for path in self.folder.glob("state-*.pt"):
            if path.name != name:
                path.unlink()

    def rewind(self, step: int) -> None:
        """Drop metrics logged after `step` by a run that was killed, so that a resumed run logs each step once."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            write_text(path, "".join(f"{json.dumps(row)}\n" for row in read_metrics(path) if row["step"] <= step))
        self.close()
        self._purge_step = step + 1

    def log(self, step: int, **scalars: float) -> None:
        """Append one row to `metrics.jsonl` and to TensorBoard."""
        path = self.folder / "metrics.jsonl"
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        with writing(self.folder / "tensorboard"):
            for name, value in scalars.items():
                self._tensorboard().add_scalar(name, value, step)

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """Add a figure to TensorBoard and write it as `<name>.png`."""
        with atomic_path(self.folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=110, format="png")
        with writing(self.folder / "tensorboard"):
            self._tensorboard().add_figure(name, figure, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._writer is not None:
            with writing(self.folder / "tensorboard"):
                self._writer.close()
            self._writer = None

    def _tensorboard(self) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # Slow to import, and needed only where a run logs.

            self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self._purge_step)
        return self._writer


def open_run(folder: str | Path, config: Any, inputs: dict[str, str], main: bool = True,
             record: str = "run.json") -> Run:
    """Open a run folder: new, or the one that the same configuration and inputs began.

    `inputs` names the fingerprints of what the run reads. `main=False` only reads (processes other than the first).
    `record` is the file that keeps configuration, inputs, seed, command and versions.
    Raises UserError that prints both values where a semantic setting or an input differs from those of the folder, and
    where the folder holds something else, of which nothing is written over.
    """
    folder = Path(folder)
    require_folder(folder)
    if (folder / record).exists():
        before = _refuse_other_settings(folder, config, inputs, record)
        if main and before != config:
            write_text(folder / "config.yaml", to_yaml(config))
    elif main:
        for name, what in (("meta.json", "a dataset"), ("run.json", "another run"), ("provenance.json", "another run")):
            if name != record and (folder / name).exists():
                raise UserError(f"{folder}: holds {what} ({name}). Give another output folder.")
        _refuse_files_of_others(folder, to_yaml(config))
        write_text(folder / "config.yaml", to_yaml(config))
        write_json(folder / record, {"inputs": inputs, "seed": config.seed, **provenance(),
                                     "config": dataclasses.asdict(config)})
    return Run(folder)


def _refuse_files_of_others(folder: Path, settings: str) -> None:
    """Raise UserError if a folder without the record of a run holds files that a run would write over or remove."""
    own = folder / "config.yaml"  # A run that was killed at once has left no more than this.
    kept = {own} if own.is_file() and own.read_bytes() == settings.encode() else set()
    taken = sorted({path for pattern in WRITTEN for path in folder.glob(pattern)} - kept)
    if taken:
        raise UserError(f"{folder}: holds {taken[0].name}, which no run in this folder has written, and which this one "
                        "would write over. Give another output folder.")


def saved_step(folder: str | Path) -> int:
    """Return the step of the newest state of a run folder; 0 where there is none."""
    pointer = Path(folder) / "latest.json"
    latest = read_json(pointer, state=str, step=int) if pointer.exists() else None
    return latest["step"] if latest is not None and (Path(folder) / latest["state"]).exists() else 0


def read_run_config(folder: str | Path, schema: type) -> Any:
    """Return the settings of a run folder. Raises UserError if it holds none."""
    path = Path(folder) / "config.yaml"
    if not path.exists():
        raise UserError(f"{folder}: not a run folder (no config.yaml). Train this stage first, tardiff train, "
                        "tardiff guide or tardiff teach, or give its run folder.")
    try:
        return load_settings(schema, path)
    except UserError as error:
        raise UserError(f"{folder}: its config.yaml does not fit this stage; is it the run folder of another one? "
                        f"{error}") from None


def settings_record(config: Any) -> str:
    """Return what decides the result of a training, as weights keep it with them."""
    return json.dumps(semantic_values(config), sort_keys=True)


def require_settings(folder: str | Path, config: Any, record: str) -> None:
    """Raise UserError if settings of a run folder are not those that its weights were trained with."""
    now = json.loads(settings_record(config))
    other = [f"  - {key}: {value!r}, now {now.get(key)!r}" for key, value in json.loads(record).items()
             if value != now.get(key)]
    if other:
        raise UserError(f"{folder}: its config.yaml is not the one that the weights were trained with:\n"
                        + "\n".join(other) + "\nRestore the file, or train again in another folder.")


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Return the rows of a `metrics.jsonl`; a line that is none, as one cut short by a kill, is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def provenance() -> dict[str, Any]:
    """Return the command, the versions and the commit that produce a result."""
    return {"argv": sys.argv, "tardiff": tardiff.__version__, "commit": _commit(),
            "python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}


def _commit() -> str | None:
    """Return the commit of this repository, marked -dirty where files were changed; None outside of a repository."""
    root = Path(tardiff.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=root, text=True,
                                   capture_output=True, check=False)
    except OSError:  # No git on this machine.
        return None
    return described.stdout.strip() or None


def _refuse_other_settings(folder: Path, config: Any, inputs: dict[str, str], record: str) -> Any:
    """Return the settings of the folder, whose semantic values and inputs are these."""
    recorded = read_run_config(folder, type(config))
    before = semantic_values(recorded) | {f"content of {name}": value
                                          for name, value in read_json(folder / record, inputs=dict)["inputs"].items()}
    now = semantic_values(config) | {f"content of {name}": value for name, value in inputs.items()}
    differences = [f"  - {key}: {_difference(key, before.get(key), now.get(key), recorded, config)}"
                   for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if differences:
        raise UserError(f"{folder}: begun with other settings, so it cannot be resumed with these:\n"
                        + "\n".join(differences)
                        + "\nGive another output folder, or delete this one to start again.")
    return recorded


def _difference(key: str, before: Any, now: Any, recorded: Any, config: Any) -> str:
    """Say how a value differs; of an input whose folder a setting names, which folder the run was made on."""
    origin = SETTING_OF_INPUT.get(key.removeprefix("content of ")) if key.startswith("content of ") else None
    if None in (before, now) or not hasattr(recorded, str(origin)):
        return f"the run has {before!r}, now {now!r}"
    first, second = getattr(recorded, origin), getattr(config, origin)
    return f"{first} has changed since" if first == second else f"the run was made on {first}, now {origin}={second}"
