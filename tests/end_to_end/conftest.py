"""A tiny dataset and finished runs of the first three stages, made once by the shell scripts and only read by tests."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tardiff.data.format import write_dataset
from tardiff.data.simulator import simulate_cohort

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
STAGES = {
    "base": ("train.sh", [
        "configs/base/simulated.yaml", "model.base_channels=8", "model.channel_multipliers=[1,1]",
        "model.num_res_blocks=1", "model.num_heads=2", "model.dropout=0.1", "training.steps=60",
        "training.batch_size=32", "training.checkpoint_every=10", "training.log_every=4", "training.validate_every=15",
        "training.preview_every=0"]),
    "classifier": ("classifier/train.sh", [
        "configs/classifier/gru.yaml", "model.rnn.hidden_size=16", "training.batch_size=8", "training.epochs=10",
        "training.patience=10"]),
    "synthetic": ("generation.sh", [
        "configs/guidance/anchored.yaml", "num_samples=60", "batch_size=7", "sampler.num_inference_steps=12"]),
}


@dataclass(frozen=True)
class Workplace:
    """A folder with `data`, `base`, `classifier` and `synthetic`."""

    folder: Path

    def settings(self, stage: str) -> list[str]:
        """Return the configuration file and the sizes of a stage."""
        return STAGES[stage][1]

    def arguments(self, stage: str, output: str | Path, *overrides: str) -> list[str]:
        """Return the configuration file and all settings of a stage."""
        inputs = ["data", *(["base", "classifier"] if stage == "synthetic" else [])]
        return [*self.settings(stage), *(f"{name}={self.folder / name}" for name in inputs), f"output={output}",
                "device=cpu", *overrides]

    def start(self, stage: str, output: str | Path, *overrides: str) -> subprocess.Popen:
        """Start a stage by its shell script."""
        return self._start("bash", str(ROOT / STAGES[stage][0]), *self.arguments(stage, output, *overrides))

    def run(self, stage: str, output: str | Path, *overrides: str) -> None:
        """Run a stage to its end by its shell script."""
        self._finish(self.start(stage, output, *overrides))

    def run_two(self, script: str | Path, *arguments: str) -> None:
        """Run a script to its end as two processes under torchrun."""
        self._finish(self._start(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
                                 str(ROOT / script), *arguments))

    def _start(self, *command: str) -> subprocess.Popen:
        return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, start_new_session=True, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def _finish(self, process: subprocess.Popen) -> None:
        with process:
            printed = process.communicate(timeout=120)[0]
        assert process.returncode == 0, printed


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Workplace:
    made = Workplace(tmp_path_factory.mktemp("workplace"))
    write_dataset(made.folder / "data", *simulate_cohort(200, seed=0))
    for stage in STAGES:
        made.run(stage, made.folder / stage)
    return made
