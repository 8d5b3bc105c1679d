"""Every command of README.md runs, in order, in a copy of the repository; long ones with fewer steps."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tardiff.config import BaseConfig, load_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TINY = ["model.base_channels=8", "model.channel_multipliers=[1,1]", "model.num_res_blocks=1", "model.num_heads=2",
        "training.steps=2", "training.batch_size=16"]

# What is added to a command so that it ends soon; the first pattern that is found in the command decides.
FEWER = [
    (r"simulate\.py", ["--stays", "200"]),
    (r"classifier/train\.sh", ["training.epochs=1"]),
    (r"train\.(sh|py)", TINY),
    (r"generat(ion\.sh|e\.py)", ["sampler.num_inference_steps=2", "batch_size=64"]),
    (r"evaluate\.py", ["seeds=1", "bootstrap=20", "training.epochs=1", "repeats=1", "fidelity_metrics=[marginal]",
                      "ratios=[0.2]"]),
    (r"analyze_influence", ["fine_tuned=6", "bootstrap=20"]),
    (r"baseline\.sh rules", []),
    (r"baseline\.sh timevae", ["epochs=1"]),
    (r"data_preprocess", []),
    (r"evaluate_", ["seeds=1", "bootstrap=20", "training.epochs=1"]),
    (r"compare\.py", ["--dry-run", "methods=[timevae]", "generation_seeds=1"]),
    (r"run_experiment", ["--dry-run"]),
    (r"cinc2012", []),
]
ELSEWHERE = {
    "bash scripts/quickstart.sh": "test_quickstart_from_a_fresh_clone (slow) and test_run_experiment",
    "bash scripts/test.sh": "runs these tests",
    "source .venv/bin/activate": "needs no test",
    "pip install -e '.[signals]' -c constraints.txt": "needs no test",
    "tensorboard --logdir runs": "a server; the event files are read below",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The files of the repository, as a clone would hold them."""
    folder = tmp_path_factory.mktemp("clone")
    names = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True,
                           capture_output=True, check=True).stdout.split()
    for name in names:
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHON": sys.executable, "HOME": str(folder),
                   "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True,
                          check=False)


def link_downloads(clone: Path) -> None:
    """Put the real files that are at hand where the README has them downloaded."""
    shared = Path(os.environ.get("TARDIFF_SHARED_DATA", ROOT.parent / "shared" / "data"))
    (clone / "downloads").mkdir()
    for name in ("cinc2012", "mimic-iii-demo", "ucr_uea/ECG200"):
        if (shared / name).is_dir():
            (clone / "downloads" / Path(name).name).symlink_to(shared / name)


def write_tables(folder: Path) -> None:
    """Write the user's own tables that the README names: 40 patients, 3 of 4 hours measured."""
    rows = [(stay, f"2030-01-01T{hour:02d}:10:00", "HR", 60 + stay % 30 + hour)
            for stay in range(40) for hour in range(24) if (stay + hour) % 4]
    (folder / "my_vitals.csv").write_text("id,time,variable,value\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows))
    (folder / "my_labels.csv").write_text("id,label,patient\n" + "".join(f"{stay},{stay % 2},P{stay}\n" for stay in range(40)))


def without_its_files(command: str, clone: Path) -> bool:
    """Tell whether a command reads downloads that are not at hand, or what such a command would have written."""
    needed = re.findall(r"downloads/\S+", command) + (["data/cinc2012_mortality"] if "run_experiment" in command else [])
    return any(not (clone / path).exists() for path in needed)


def test_every_command_of_the_readme_runs_in_order(clone):
    link_downloads(clone)
    write_tables(clone)
    writer, model = blocks("python")
    (clone / "my_models.py").write_text(model)
    subprocess.run([sys.executable, "-c", writer], cwd=clone, check=True)
    for command in COMMANDS:
        if command in ELSEWHERE or without_its_files(command, clone):
            continue
        added = next(arguments for pattern, arguments in FEWER if re.search(pattern, command))
        result = run(" ".join([command, *(f"'{argument}'" for argument in added)]), clone)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    for produced in ("runs/simulated/evaluation/tstr.json", "runs/simulated/evaluation/tsrtr.csv",
                     "runs/mine/evaluation/tstr.json", "runs/simulated/synthetic/convnet/provenance.json",
                     "runs/simulated/synthetic/anchored-1/meta.json", "data/my_tables/meta.json",
                     "runs/simulated/report/report.html", "runs/simulated/influence/influence.json",
                     "runs/simulated/baselines/smote/synthetic/meta.json"):
        assert (clone / produced).exists(), produced
    assert list(clone.glob("runs/simulated/base/tensorboard/events*"))


def test_run_experiment_goes_through_all_stages_and_skips_what_is_done(clone):
    (clone / "tiny.yaml").write_text("model: {base_channels: 8, channel_multipliers: [1, 1], num_res_blocks: 1, "
                                     "num_heads: 2}\ntraining: {steps: 2, batch_size: 16}\n")
    (clone / "tiny_classifier.yaml").write_text("training: {epochs: 1}\n")
    (clone / "tiny_evaluation.yaml").write_text("training: {epochs: 1}\nseeds: 2\nbootstrap: 20\n")
    command = ("python scripts/simulate.py --output data/tiny --stays 200 && python scripts/run_experiment.py "
               "data=data/tiny output=runs/tiny base=tiny.yaml classifier=tiny_classifier.yaml evaluation=tiny_evaluation.yaml "
               "tsrtr=false generation_seeds=2 'guidance={unguided: [configs/guidance/none.yaml, "
               "sampler.num_inference_steps=2], guided: [configs/guidance/anchored.yaml, sampler.num_inference_steps=2]}'")
    first = run(command, clone)
    assert first.returncode == 0, first.stderr
    assert re.search(r"TSTR guided .* too few seeds to judge", first.stdout)
    written = {path: path.stat().st_mtime_ns for path in clone.glob("runs/tiny/**/*.safetensors")}
    written |= {path: path.stat().st_mtime_ns for path in clone.glob("runs/tiny/synthetic/*/train.npz")}
    again = run(command, clone)
    assert again.returncode == 0 and first.stdout.split("TSTR, scored")[1] == again.stdout.split("TSTR, scored")[1]
    assert len(written) == 7 and all(path.stat().st_mtime_ns == time for path, time in written.items()
                                     if path.name == "train.npz")


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "base").glob("*.yaml")), ids=lambda path: path.stem)
def test_base_configurations_are_valid_and_name_their_task(path):
    config = load_config(BaseConfig, path)
    assert config.data.startswith("data/") and config.output.startswith("runs/")


@pytest.mark.parametrize("script", ["scripts/train.py", "classifier/train.py", "scripts/generate.py",
                                    "scripts/evaluate_tstr.py", "scripts/evaluate_tsrtr.py", "scripts/run_experiment.py",
                                    "scripts/evaluate.py", "scripts/analyze_influence.py"])
def test_help_lists_the_settings(script, clone):
    result = run(f"python {script} --help", clone)
    assert result.returncode == 0 and "settings (key=default)" in result.stdout and "--dry-run" in result.stdout


@pytest.mark.slow
def test_quickstart_from_a_fresh_clone(clone):
    result = run("unset PYTHON; bash scripts/quickstart.sh", clone)
    assert result.returncode == 0, result.stderr
    assert re.search(r"TRTR +0\.\d+", result.stdout) and "What next" in result.stdout
