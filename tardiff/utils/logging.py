"""Run folders: configuration, provenance, metrics and the states from which a killed run resumes."""

from __future__ import annotations

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
from tardiff.utils.checkpoint import load_state, read_json, save_state, write_json, write_text
from tardiff.utils.errors import UserError
from tardiff.utils.settings import load_settings, semantic_values, to_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Run:
    """A run folder that is open for writing; made by `open_run`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = None

    def latest_state(self) -> dict[str, Any] | None:
        """Return the newest saved state, or None for a new run. Raises UserError if it is damaged."""
        pointer = self.folder / "latest.json"
        return load_state(self.folder / read_json(pointer)["state"]) if pointer.exists() else None

    def save_state(self, step: int, state: dict[str, Any]) -> None:
        """Write `state-<step>.pt`, then point `latest.json` at it, then drop older states and what a kill left of one."""
        name = f"state-{step}.pt"
        save_state(self.folder / name, state)
        write_json(self.folder / "latest.json", {"state": name, "step": step})
        for path in [*self.folder.glob("state-*.pt"), *self.folder.glob(".state-*.tmp")]:
            if path.name != name:
                path.unlink()

    def rewind(self, step: int) -> None:
        """Drop metrics logged after `step` by a run that was killed, so that a resumed run logs each step once."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            write_text(path, "".join(f"{json.dumps(row)}\n" for row in read_metrics(path) if row["step"] <= step))
        if self._writer is not None:
            self._writer.close()
        from torch.utils.tensorboard import SummaryWriter  # Slow to import, and needed only where a run logs.

        self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, **scalars: float) -> None:
        """Append one row to `metrics.jsonl` and to TensorBoard."""
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """Add a figure to TensorBoard and write it as `<name>.png`."""
        figure.savefig(self.folder / f"{name}.png", dpi=110)
        self._writer.add_figure(name, figure, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._writer is not None:
            self._writer.close()


def open_run(folder: str | Path, config: Any, inputs: dict[str, str], main: bool = True,
             record: str = "run.json") -> Run:
    """Open a run folder: new, or the one that the same configuration and inputs began.

    `inputs` names the fingerprints of what the run reads. `main=False` only reads (processes other than the first).
    `record` is the file that keeps configuration, inputs, seed, command and versions.
    Raises UserError that prints both values where a semantic setting or an input differs from those of the folder.
    """
    folder = Path(folder)
    if (folder / record).exists():
        before = _refuse_other_settings(folder, config, inputs, record)
        if main and before != config:
            write_text(folder / "config.yaml", to_yaml(config))
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a folder for the run.")
    elif main:
        write_text(folder / "config.yaml", to_yaml(config))
        write_json(folder / record, {"inputs": inputs, "seed": config.seed, **provenance(),
                                     "config": dataclasses.asdict(config)})
    return Run(folder)


def read_run_config(folder: str | Path, schema: type) -> Any:
    """Return the settings of a run folder. Raises UserError if it holds none."""
    path = Path(folder) / "config.yaml"
    if not path.exists():
        raise UserError(f"{folder}: not a run folder (no config.yaml). Train this stage first, or give its run folder.")
    return load_settings(schema, path)


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Return the rows of a `metrics.jsonl`; a last line cut short by a kill is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def provenance() -> dict[str, Any]:
    """Return the command, the versions and the commit that produce a result."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(tardiff.__file__).parent, capture_output=True,
                            text=True, check=False)
    return {"argv": sys.argv, "tardiff": tardiff.__version__, "commit": commit.stdout.strip() or None,
            "python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}


def _refuse_other_settings(folder: Path, config: Any, inputs: dict[str, str], record: str) -> Any:
    """Return the settings of the folder, whose semantic values and inputs are these."""
    recorded = load_settings(type(config), folder / "config.yaml")
    before = semantic_values(recorded) | {f"content of {name}": value
                                          for name, value in read_json(folder / record)["inputs"].items()}
    now = semantic_values(config) | {f"content of {name}": value for name, value in inputs.items()}
    differences = [f"  - {key}: the run has {before.get(key)!r}, now {now.get(key)!r}"
                   for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if differences:
        raise UserError(f"{folder}: begun with other settings, so it cannot be resumed with these:\n"
                        + "\n".join(differences)
                        + "\nGive another output folder, or delete this one to start again.")
    return recorded
