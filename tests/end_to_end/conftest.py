"""A tiny dataset and finished runs of the first three stages, made once and only read by tests."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from user_errors import USER_MODELS, run_command, run_tiny

from tardiff.data.format import write_dataset
from tardiff.data.simulator import simulate_cohort

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
COMMANDS = {"base": ("train", "train.sh"), "classifier": ("guide", "classifier/train.sh"),
            "synthetic": ("generate", "generation.sh")}
SETTINGS = {
    "base": [
        "configs/base/simulated.yaml", "model.base_channels=8", "model.channel_multipliers=[1,1]",
        "model.num_res_blocks=1", "model.num_heads=2", "model.dropout=0.1", "training.steps=40",
        "training.batch_size=32", "training.checkpoint_every=10", "training.log_every=4", "training.validate_every=15",
        "training.preview_every=0"],
    "classifier": [
        "configs/classifier/gru.yaml", "model.rnn.hidden_size=16", "training.batch_size=8", "training.steps=160",
        "training.evaluate_every=4"],
    "synthetic": [
        "configs/guidance/anchored.yaml", "num_samples=60", "batch_size=7", "sampler.num_inference_steps=12"],
}


@dataclass(frozen=True)
class Workplace:
    """A folder with `data`, `base`, `classifier` and `synthetic`."""

    folder: Path

    def settings(self, stage: str) -> list[str]:
        """Return the configuration file and the sizes of a stage."""
        return SETTINGS[stage]

    def arguments(self, stage: str, output: str | Path, *overrides: str) -> list[str]:
        """Return the configuration file and all settings of a stage."""
        inputs = ["data", *(["base", "classifier"] if stage == "synthetic" else [])]
        return [*self.settings(stage), *(f"{name}={self.folder / name}" for name in inputs), f"output={output}",
                "device=cpu", *overrides]

    def run(self, stage: str, output: str | Path, *overrides: str) -> None:
        """Run a stage to its end in this process."""
        assert run_command(COMMANDS[stage][0], *self.arguments(stage, output, *overrides)) == 0

    def start(self, stage: str, output: str | Path, *overrides: str) -> subprocess.Popen:
        """Start a stage by its shell script."""
        return self._start("bash", str(ROOT / COMMANDS[stage][1]), *self.arguments(stage, output, *overrides))

    def run_two(self, *command: str) -> None:
        """Run a script, or a module after -m, to its end as two processes under torchrun."""
        with self._start(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
                         *command) as process:
            printed = process.communicate(timeout=120)[0]
        assert process.returncode == 0, printed

    def _start(self, *command: str) -> subprocess.Popen:
        return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, start_new_session=True, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Workplace:
    made = Workplace(tmp_path_factory.mktemp("workplace"))
    write_dataset(made.folder / "data", *simulate_cohort(200, seed=0))
    for stage in COMMANDS:
        made.run(stage, made.folder / stage)
    return made


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with a tiny dataset and finished runs of all stages."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("user_models.py").write_text(USER_MODELS)
        for name, seed in (("data", 0), ("other_data", 1)):
            write_dataset(name, *simulate_cohort(200, seed))
        assert run_tiny("train", "output=base") == 0
        assert run_tiny("train", "output=base_minmax", "normalizer=minmax") == 0
        assert run_tiny("guide", "output=classifier") == 0
        assert run_tiny("generate", "output=synthetic") == 0
    return folder
