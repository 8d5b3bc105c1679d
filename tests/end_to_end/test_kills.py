"""`tardiff run` and `compare` killed again and again at random moments end where uninterrupted ones do.

The environment variable KILLS says how often each is killed.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import yaml
from user_errors import run_command

FORK = multiprocessing.get_context("fork")
REPORT = ["device=cpu", "sections=[utility,fidelity]", "protocols=[tstr]", "fidelity_metrics=[marginal]", "repeats=1",
          "workers=1", "seeds=1", "bootstrap=20", "model.rnn.hidden_size=8", "training.steps=6"]


def arguments_of(command, workplace, folder):
    """The arguments of a small run of a command, without its output."""
    experiment = {
        "base": [*workplace.settings("base"), "training.steps=20"],
        "classifier": [*workplace.settings("classifier"), "training.steps=12"],
        "teacher": ["members=[{model: logistic, seeds: 1}]", "workers=1"],
        "guidance": {"guided": [*workplace.settings("synthetic"), "num_samples=40", "sampler.num_inference_steps=4"]}}
    if command == "run":
        settings = {**experiment, "evaluation": REPORT[1:], "data": str(workplace.folder / "data"), "device": "cpu"}
        (folder / "run.yaml").write_text(yaml.safe_dump(settings))
        return [str(folder / "run.yaml")]
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    (folder / "configs").mkdir()
    (folder / "configs" / "timevae.yaml").write_text("steps: 30\nfilters: [4, 4]\n")
    return ["--real", str(workplace.folder / "data"), "--baselines", "jitter", "timevae", *REPORT,
            "generation_seeds=1", f"experiment={folder / 'experiment.yaml'}", f"configs={folder / 'configs'}"]


def results(folder):
    """The bytes of all that does not tell times: weights, series and tables."""
    return {path.relative_to(folder): path.read_bytes() for pattern in ("*.safetensors", "train.npz", "*.csv")
            for path in folder.rglob(pattern)}


def run_silently(command, arguments, output, said):
    sys.stdout = sys.stderr = open(said, "w")  # noqa: SIM115 - it ends with the process
    sys.exit(run_command(command, *arguments, f"output={output}"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "compare"])
def test_killed_often_it_ends_as_if_it_had_not_been(workplace, tmp_path, command):
    kills, output = int(os.environ.get("KILLS", "30")), tmp_path / "output"
    arguments = arguments_of(command, workplace, tmp_path)
    begun = time.monotonic()
    assert run_command(command, *arguments, f"output={tmp_path / 'whole'}") == 0
    whole, duration = results(tmp_path / "whole"), time.monotonic() - begun
    random, killed, ends = np.random.default_rng(0), 0, 0
    while killed < kills or ends == 0:
        process = FORK.Process(target=run_silently, args=(command, arguments, output, tmp_path / "said"))
        process.start()
        process.join(random.uniform(0, duration / 3) if killed < kills else None)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
            continue
        assert process.exitcode == 0, (tmp_path / "said").read_text()
        assert results(output) == whole
        assert not list(output.rglob(".*"))
        shutil.rmtree(output)
        ends += 1
