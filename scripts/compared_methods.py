"""The methods of a comparison: the sets that each is sampled into, and the commands that train and sample it."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

from run_experiment import Command, find, script

from tardiff.baselines import BASELINES
from tardiff.baselines.rules import RULES
from tardiff.baselines.training import sampling_settings
from tardiff.config import CompareConfig, load_config
from tardiff.utils.errors import UserError

TRAINED = [name for name in BASELINES if name != "rules"]
METHODS = [*TRAINED, *RULES]


def compared_sets(config: CompareConfig) -> dict[str, dict[str, Command]]:
    """Return the commands that make the datasets of each set, by set and folder: of each method, and then of its variants.

    Raises UserError on a method that does not exist or has no settings, and on a variant that is not one.
    """
    wanted = METHODS if "all" in config.methods else list(dict.fromkeys(config.methods))
    unknown = [name for name in wanted if name not in METHODS]
    if unknown:
        raise UserError(f"methods: '{unknown[0]}' is none of {', '.join(METHODS)}, or all.")
    variants = {str(name): value for name, value in config.variants.items()}
    for name, value in variants.items():
        if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
            raise UserError(f"variants.{name}: expected a method and its settings, [METHOD, key=value, ...], got {value!r}.")
        if value[0] not in TRAINED:
            raise UserError(f"variants.{name}: '{value[0]}' is none of {', '.join(TRAINED)}, the methods that are trained.")
        if name in METHODS:
            raise UserError(f"variants.{name}: this is the name of a method. Choose another.")
    folder, sets = folder_of_configs(config), {}
    for method in wanted:
        trained = [training(config, folder, method, seed) for seed in range(config.generation_seeds)]
        sets[method] = {str(made(config, method, seed) / "synthetic"): command for seed, command in enumerate(trained)}
        for name, (sampled, *changes) in variants.items():
            if sampled == method:
                check_variant(name, method, trained[0], changes)
                sets[name] = dict(sampling(command, changes, str(made(config, name, seed)))
                                  for seed, command in enumerate(trained))
    return sets


def sampling(trained: Command, changes: list[str], synthetic: str) -> tuple[str, Command]:
    """Return the dataset folder of a variant, and the command that samples it from the method of `trained`."""
    schema, program, arguments = trained
    return synthetic, (schema, program, [*arguments, *changes, f"synthetic={synthetic}"])


def made(config: CompareConfig, name: str, seed: int) -> Path:
    """Return the run folder of a method, or the dataset folder of a variant."""
    return Path(config.output) / "methods" / f"{name}-seed{seed}"


def check_variant(name: str, method: str, command: Command, changes: list[str]) -> None:
    """Raise UserError if a variant changes more than the sampling of the method that `command` trains."""
    schema, _, (path, *overrides) = command
    trained = load_config(schema, path, overrides)
    settings = sampling_settings(trained)
    try:
        variant = load_config(schema, path, [*overrides, *changes])
    except UserError as error:
        raise UserError(f"variants.{name}: {error}") from None
    other = [field.name for field in dataclasses.fields(schema) if field.name not in settings
             and getattr(variant, field.name) != getattr(trained, field.name)]
    if other:
        raise UserError(f"variants.{name}: {other[0]} is not a setting of sampling, and a variant is sampled from {method} as "
                        f"it was trained. Those are: {', '.join(settings)}.")


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


def training(config: CompareConfig, folder: str, method: str, seed: int) -> Command:
    """Return the schema, the program and the arguments that train and sample a method."""
    module = "rules" if method in RULES else method
    preset = find(str(Path(folder) / f"{module}.yaml"))
    if not Path(preset).exists() and module != "rules":
        raise UserError(f"configs: {folder} has no {module}.yaml. Write one, or leave {method} out of methods.")
    arguments = [preset if Path(preset).exists() else find("configs/baselines/rules.yaml"), f"data={config.real}",
                 f"output={made(config, method, seed)}", "synthetic=null", f"seed={seed}", "sample_seed=null", f"device={config.device}",
                 *([f"rule={method}"] if method in RULES else [])]
    return importlib.import_module(f"tardiff.baselines.{module}").Config, [script("baseline.py"), module], arguments
