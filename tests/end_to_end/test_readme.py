"""Every command of README.md runs, in order, in a copy of the repository; long ones with fewer steps."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tardiff.cli import COMMANDS, main
from tardiff.config import BaseConfig, load_config

ROOT = Path(__file__).parents[2]
PAGES = "\n".join((ROOT / page).read_text(encoding="utf-8")
                  for page in ("README.md", "docs/data.md", "docs/guidance.md", "docs/gain_map.md"))
BLOCKS = re.findall(r"^```(bash|python|yaml)\n(.*?)^```", PAGES, flags=re.DOTALL | re.MULTILINE)

TINY_MODEL = ["model.base_channels=8", "model.channel_multipliers=[1,1]", "model.num_heads=2", "training.steps=2",
              "training.batch_size=16", "training.preview_every=0"]
TINY_SAMPLER = ["sampler.num_inference_steps=2"]
TINY_EVALUATION = ["seeds=1", "controls=[]", "bootstrap=20", "training.steps=2", "ratios=[0.2]",
                   "weights=[]"]
TINY_TEACHER = "members=[{model: logistic, seeds: 1}]"
TINY_RUN = [
    f"base=[{','.join(repr(text) for text in TINY_MODEL)}]", "classifier=training.steps=2",
    f"teacher=[{TINY_TEACHER!r}]",
    "guidance={unguided: [configs/guidance/none.yaml, 'sampler.num_inference_steps=2'], "
    "guided: ['sampler.num_inference_steps=2']}",
    f"evaluation=[{','.join(repr(text) for text in ['quick=true', *TINY_EVALUATION])}]"]
# What is added to a command so that it ends soon.
FEWER = {
    "run configs/experiment/cinc2012_mortality.yaml": ["--dry-run"], "run data=data/mine rotations": ["--dry-run"],
    "run": TINY_RUN, "simulate": ["--stays", "200"], "train": TINY_MODEL, "guide": ["training.steps=2"],
    "teach": [TINY_TEACHER, "workers=1"], "generate": TINY_SAMPLER, "evaluate": TINY_EVALUATION,
    "report": [*TINY_EVALUATION, "repeats=1", "fidelity_metrics=[marginal]", "sections=[utility, fidelity]"],
    "influence": ["fine_tuned=6", "bootstrap=20"], "baseline timevae": ["epochs=1"],
    "compare": ["--dry-run", "baselines=[timevae]"], "map configs/map/cinc2012": ["--dry-run"],
    "map": ["--dry-run", "sizes=[120]"], "advise": ["--dry-run"],
}
FEWER_IN_CODE = {"900": "180", "100}": "20}", "seeds=3": "seeds=1, controls=[], bootstrap=20, **{'training.steps': 2}"}
STAND_INS = {
    "bash scripts/quickstart.sh": [["simulate", "--stays", "200"], ["run", *TINY_RUN]],  # In full as a slow test.
    "bash scripts/test.sh": [], "source .venv/bin/activate": [], "tensorboard --logdir runs": [],
    "pip install -e '.[signals]' -c constraints.txt": [],
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The files of the repository, as a clone would hold them, and the real files at hand where they are downloaded."""
    folder = tmp_path_factory.mktemp("clone")
    names = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True,
                           capture_output=True, check=True).stdout.split()
    for name in names:
        if os.path.lexists(ROOT / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    shared = Path(os.environ.get("TARDIFF_SHARED_DATA", ROOT.parent / "shared" / "data"))
    (folder / "downloads").mkdir()
    for name in ("cinc2012", "mimic-iii-demo", "ucr_uea/ECG200"):
        if (shared / name).is_dir():
            (folder / "downloads" / Path(name).name).symlink_to(shared / name)
    return folder


@pytest.fixture
def inside(clone, monkeypatch) -> Path:
    monkeypatch.chdir(clone)
    return clone


def run_in_shell(command: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": str(folder)}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True,
                          check=False)


def run_command(command: str) -> None:
    """Run a line of a bash block, `tardiff ...` in this process and anything else in a shell, made short."""
    words = shlex.split(command, comments=True)
    of_tardiff = words[words.index("tardiff") + 1:]
    added = next((added for name, added in FEWER.items() if of_tardiff[:len(name.split())] == name.split()), [])
    if {"--dry-run", "--print-config"} & set(words):
        added = []
    if words[0] == "tardiff":
        main([*of_tardiff, *added])
    else:
        result = run_in_shell(shlex.join([*words, *added]), Path.cwd())
        assert result.returncode == 0, result.stderr


def run_code(code: str) -> None:
    """Run a block of Python, or write it to the file that its first line names."""
    named = re.match(r"# (\S+\.\w+)\n", code)
    if named:
        Path(named[1]).write_text(code, encoding="utf-8")
        return
    for long, short in FEWER_IN_CODE.items():
        code = code.replace(long, short)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def downloaded(command: str) -> list[str]:
    """Return the folders of real data that a command reads: of files, and of the datasets that presets are made for."""
    presets = re.findall(r"configs/\w+/((?:cinc2012|mimic3)\w+)", command)
    return [*re.findall(r"downloads/\S+", command), *(f"data/{name}" for name in presets)]


def write_tables() -> None:
    """Write the user's own tables that the README names: 60 patients, 3 of 4 hours measured."""
    rows = [f"{stay},2030-01-01T{hour:02d}:10:00,HR,{60 + stay % 30 + hour}\n"
            for stay in range(60) for hour in range(24) if (stay + hour) % 4]
    Path("my_vitals.csv").write_text("id,time,variable,value\n" + "".join(rows))
    labels = [f"{stay},{['healthy', 'ill'][stay % 2]},P{stay}\n" for stay in range(60)]
    Path("my_labels.csv").write_text("id,label,patient\n" + "".join(labels))


def test_every_command_of_the_readme_runs_in_order(inside):
    write_tables()
    lines = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines()]
    run_command(next(line for line in lines if line.endswith("--output data/mine")))
    for language, block in BLOCKS:
        if language != "bash":
            run_code(block)
            continue
        for command in block.splitlines():
            print(f"$ {command}", flush=True)
            if command in STAND_INS:
                for arguments in STAND_INS[command]:
                    main(arguments)
            elif all(map(os.path.exists, downloaded(command))):
                run_command(command)
    for produced in ("mine/report/report.html", "simulated/evaluation/utility.csv",
                     "simulated/influence/influence.json", "simulated/synthetic/convnet/provenance.json",
                     "simulated/synthetic/anchored-2/meta.json", "simulated/report-full/report.html",
                     "simulated/tables/guided/series.parquet", "simulated/baselines/smote/synthetic/meta.json",
                     "simulated/base-torchrun/model.safetensors"):
        assert Path("runs", produced).exists(), produced
    assert Path("guided.png").exists() and list(Path().glob("runs/simulated/base/tensorboard/events*"))


def test_the_readme_names_what_exists():
    links = re.findall(r"\]\(([^)#]+)(#[^)]*)?\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert all((ROOT / path).exists() for path, _ in links if not path.startswith("http"))
    headings = {f"#{title.lower().replace(' ', '-')}" for title in re.findall(r"^#+ (.+)$", PAGES, flags=re.MULTILINE)}
    assert set(re.findall(r"\]\((#[^)]*)\)", PAGES)) <= headings


def test_run_goes_through_all_stages_and_skips_what_is_done(inside, capsys):
    main(["simulate", "--output", "data/tiny", "--stays", "200"])
    arguments = ["run", "data=data/tiny", *TINY_RUN, "generation_seeds=2"]
    capsys.readouterr()
    main(arguments)
    first = capsys.readouterr().out
    assert re.search(r"TSTR guided .* too few seeds to judge", first)
    written = {path: path.stat().st_mtime_ns for path in Path("runs/tiny").rglob("train.npz")}
    main(arguments)
    assert len(written) == 4 and all(path.stat().st_mtime_ns == time for path, time in written.items())
    table = re.compile(r"^(?:TRTR|TSTR|TSRTR) .*", flags=re.MULTILINE)
    assert table.findall(first) == table.findall(capsys.readouterr().out)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "base").glob("*.yaml")), ids=lambda path: path.stem)
def test_base_configurations_are_valid_and_name_their_task(path):
    config = load_config(BaseConfig, path)
    assert config.data.startswith("data/") and config.output.startswith("runs/")


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.schema])
def test_help_lists_the_settings(name, capsys):
    main([name, "--help"])
    printed = capsys.readouterr().out
    assert "settings, as key=value" in printed and "--dry-run" in printed


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_scripts_have_help(script, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    try:
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.slow
def test_quickstart_from_a_fresh_clone(clone):
    result = run_in_shell("bash scripts/quickstart.sh", clone)
    assert result.returncode == 0, result.stderr
    assert re.search(r"TRTR +0\.\d+", result.stdout) and "What next" in result.stdout
