"""The methods of a comparison: what trains and samples each, and under which name its synthetic sets go."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from run_experiment import Command, find, script

from tardiff.baselines import BASELINES
from tardiff.baselines.rules import RULES
from tardiff.config import BaselineConfig, CompareConfig, load_config
from tardiff.utils.errors import UserError
from tardiff.utils.settings import semantic_values

METHODS = (*(name for name in BASELINES if name != "rules"), *RULES)


def compared_sets(config: CompareConfig) -> dict[str, tuple[str, list[str]]]:
    """Return method and settings of sampling of each set, by name: every method, and after it the variants of it.

    Raises UserError on a method that does not exist, and on a variant that is not written as one.
    """
    methods = METHODS if "all" in config.methods else config.methods
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise UserError(f"methods: '{unknown[0]}' is none of {', '.join(METHODS)}, or all.")
    variants = {str(name): value for name, value in config.variants.items()}
    for name, value in variants.items():
        if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
            raise UserError(f"variants.{name}: expected a method and its settings, [METHOD, key=value, ...], got {value!r}.")
        if name in METHODS or value[0] not in METHODS:
            raise UserError(f"variants.{name}: [{', '.join(value)}] must begin with one of {', '.join(METHODS)}, and have "
                            "another name.")
    return {name: (method, overrides) for method in methods
            for name, overrides in ((method, []), *((name, value[1:]) for name, value in variants.items()
                                                    if value[0] == method))}


def method_sets(config: CompareConfig) -> dict[str, list[str]]:
    """Return the folders of the synthetic datasets of the methods, by set, in the order of their seeds."""
    return {name: [str(folder(config, method, seed) / "synthetic" if name == method else folder(config, name, seed))
                   for seed in range(config.generation_seeds)] for name, (method, _) in compared_sets(config).items()}


def method_commands(config: CompareConfig) -> Iterator[Command]:
    """Yield the stages that train and sample the methods, each before its variants.

    Raises UserError on a variant that would need another training than its method.
    """
    configs = folder_of_configs(config)
    for name, (method, overrides) in compared_sets(config).items():
        for seed, synthetic in enumerate(method_sets(config)[name]):
            schema, program, arguments = training(config, configs, method, seed)
            if name != method:
                own, wanted = (trained_with(load_config(schema, path, rest)) for path, *rest in (
                    arguments, [*arguments, *overrides]))
                other = [key for key in own if own[key] != wanted[key]]
                if other:
                    raise UserError(f"variants.{name}: {other[0]} belongs to the training, and a variant is sampled from "
                                    f"{method} as it was trained.")
                arguments = [*arguments, *overrides, f"synthetic={synthetic}"]
            yield schema, program, arguments


def trained_with(config: BaselineConfig) -> dict[str, Any]:
    """Return what decides the weights of a method and where they are, by name of the setting."""
    return semantic_values(config) | {"data": config.data, "output": config.output}


def folder(config: CompareConfig, name: str, seed: int) -> Path:
    """Return the run folder of a method, or the dataset folder of a variant."""
    return Path(config.output) / "methods" / f"{name}-seed{seed}"


def folder_of_configs(config: CompareConfig) -> str:
    """Return the folder with the settings of the methods: the given one, or that of the dataset, or the general one."""
    if config.configs is not None:
        if not Path(find(config.configs)).is_dir():
            raise UserError(f"configs: folder {config.configs} not found.")
        return config.configs
    own = f"configs/baselines/{Path(config.real).resolve().name}"
    if Path(find(own)).is_dir():
        return own
    print("configs/baselines: budgets for the simulated cohort on 2 CPU cores are used, for want of settings for "
          f"{config.real}. Others: configs=FOLDER.")
    return "configs/baselines"


def training(config: CompareConfig, configs: str, name: str, seed: int) -> Command:
    """Return the schema, the program and the arguments that train and sample a method."""
    module = "rules" if name in RULES else name
    preset = find(str(Path(configs) / f"{module}.yaml"))
    if not Path(preset).exists() and module != "rules":
        raise UserError(f"configs: {configs} has no {module}.yaml. Write one, or leave {name} out of methods.")
    arguments = [preset if Path(preset).exists() else find("configs/baselines/rules.yaml"), f"data={config.real}",
                 f"output={folder(config, name, seed)}", "synthetic=null", f"seed={seed}", "sample_seed=null",
                 f"device={config.device}", *([f"rule={name}"] if name in RULES else [])]
    return importlib.import_module(f"tardiff.baselines.{module}").Config, [script("baseline.py"), module], arguments
