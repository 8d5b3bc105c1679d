"""Every configuration of a baseline is valid, and builds its model at the shape of its task."""

import importlib
from pathlib import Path

import pytest

from tardiff.config import BaseConfig, load_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "baselines").rglob("*.yaml"))
BUDGETS = ("published", "reduced for 2 CPU cores", "no training")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs" / "baselines")))
def test_a_configuration_builds_its_model(path):
    module = importlib.import_module(f"tardiff.baselines.{path.stem}")
    config = load_config(module.Config, path)
    assert config.budget.startswith(BUDGETS)
    task = "simulated" if path.parent.name == "baselines" else path.parent.name
    base = load_config(BaseConfig, ROOT / "configs" / "base" / f"{task}.yaml")
    assert config.data == base.data and config.output.startswith(f"runs/{task}/baselines/")
    shape = base.expect
    model = module.build(config, shape.length or 24, shape.channels or 7, shape.classes or 2)
    assert sum(parameter.numel() for parameter in model.parameters()) > 0 or path.stem == "rules"


def test_every_task_of_the_paper_has_every_baseline():
    tasks = {path.stem for path in (ROOT / "configs" / "base").glob("*.yaml")} - {"simulated", "cinc2012_length_of_stay"}
    assert {(path.parent.name, path.stem) for path in CONFIGS if path.parent.name != "baselines"} == {
        (task, name) for task in tasks for name in ("timegan", "timevae", "timevqvae", "diffusion_ts", "biodiffusion")}
