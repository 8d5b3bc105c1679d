"""The command line: `tardiff COMMAND [CONFIG] [key=value ...]`. Every command is one module of `tardiff.stages`."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tardiff import __version__
from tardiff.config import (
    AdviceConfig,
    BaseConfig,
    ClassifierConfig,
    CompareConfig,
    EvaluationConfig,
    ExperimentConfig,
    GenerationConfig,
    InfluenceAnalysisConfig,
    MapConfig,
    ReportConfig,
    TeacherConfig,
    find_config,
    load_config,
)
from tardiff.utils.errors import UserError, exit_on_user_error
from tardiff.utils.settings import describe, to_yaml


@dataclass(frozen=True)
class Flag:
    """A short form of a setting: `name` as typed, help `text`, and the setting that its values stand for."""

    name: str
    text: str
    setting: Callable[[list[str]], dict[str, Any]]
    many: bool = False
    value: str = "DIR"


def folder_flag(name: str, text: str) -> Flag:
    """Return the flag `--name DIR` for the setting `name`."""
    return Flag(f"--{name}", text, lambda values: {name: values[0]})


@dataclass(frozen=True)
class Command:
    """What `tardiff NAME` does: help `text`, the `module` that does it, and the `schema` of its settings.

    The module has `run(config, dry_run)`; without a schema it has `main(arguments, program)` and reads its own.
    in_processes: whether the processes of torchrun share its work.
    """

    text: str
    module: str
    schema: type | None = None
    flags: tuple[Flag, ...] = ()
    in_processes: bool = False

    def run(self, config: Any, dry_run: bool) -> None:
        """Do the work of a command with its settings, while no other command writes its output folder."""
        from tardiff.utils.checkpoint import require_folder  # Here, so that --help does not wait for torch.
        from tardiff.utils.lock import sole_writer

        work = importlib.import_module(self.module).run
        require_folder(config.output)
        with contextlib.nullcontext() if dry_run else sole_writer(config.output):
            work(config, dry_run)


def _named_by_folder(paths: list[str]) -> dict[str, Any]:
    """Return the setting `synthetic` for folders: named after each, NAME-seed0, NAME-seed1, ... being one set NAME."""
    sets: dict[str, list[str]] = {}
    for path in paths:
        folder = next(part for part in reversed(Path(os.path.abspath(path)).parts) if part != "synthetic")
        name = re.sub(r"-seed\d+$", "", folder)
        sets.setdefault(name, []).append(path)
    clash = next((group for group in sets.values() if len(set(group)) < len(group) or (
        len(group) > 1 and not all(re.search(r"-seed\d+(/synthetic)?/?$", path) for path in group))), None)
    if clash:
        raise UserError(f"--synthetic: {' and '.join(clash)} would have the same name. Give each folder once, or name "
                        "them: 'synthetic={first: DIR, second: DIR}'.")
    return {"synthetic": sets}


EVALUATION = (
    folder_flag("real", "real dataset folder"),
    Flag("--synthetic", "synthetic dataset folders; NAME-seed0, NAME-seed1 are one set", _named_by_folder, many=True),
    folder_flag("output", "folder of what is written"))
BASELINES = Flag("--baselines", "baselines, or all", lambda names: {"baselines": names}, many=True, value="NAME")
COMMANDS = {
    "run": Command("all four stages on one dataset", "tardiff.stages.run", ExperimentConfig),
    "train": Command("stage 1: train the label-conditional denoiser", "tardiff.stages.train", BaseConfig,
                     in_processes=True),
    "guide": Command("stage 2: train the classifier that guides", "tardiff.stages.guide", ClassifierConfig),
    "teach": Command("stage 2: fit the ensemble whose probabilities label synthetic series", "tardiff.stages.teach",
                     TeacherConfig),
    "generate": Command("stage 3: sample a synthetic dataset, steered by the classifier", "tardiff.stages.generate",
                        GenerationConfig, in_processes=True),
    "evaluate": Command("stage 4: TSTR and TSRTR against training on real series alone", "tardiff.stages.evaluate",
                        EvaluationConfig, EVALUATION),
    "report": Command("stage 4: utility, fidelity, privacy, influence and pictures on one page",
                      "tardiff.stages.report", ReportConfig, EVALUATION),
    "influence": Command("what the guide makes of real and synthetic series", "tardiff.stages.influence",
                         InfluenceAnalysisConfig, EVALUATION),
    "baseline": Command("train a baseline and sample from it", "tardiff.stages.baseline"),
    "compare": Command("baselines, and TarDiff, trained, sampled and evaluated in one report",
                       "tardiff.stages.compare", CompareConfig, (*EVALUATION, BASELINES)),
    "map": Command("what synthetic series add, against the number of labelled rows", "tardiff.stages.map", MapConfig),
    "advise": Command("whether synthetic series help here, from training and validation rows alone",
                      "tardiff.stages.advise", AdviceConfig),
    "simulate": Command("write a simulated ICU cohort (not patient data)", "tardiff.stages.simulate"),
    "convert": Command("turn files of a source into a dataset", "tardiff.stages.convert"),
    "export": Command("write a dataset as CSV or Parquet tables", "tardiff.stages.export"),
}


def main(arguments: Sequence[str] | None = None, command: str | None = None) -> None:
    """Run one command, given or the first of the arguments; exit 2 on a user error, with one message."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    exit_on_user_error(lambda: _main(typed, command))


def _main(arguments: list[str], name: str | None) -> None:
    if name is None:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
            return
        if arguments[0] == "--version":
            print(f"tardiff {__version__}")
            return
        name = arguments.pop(0)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        raise UserError(f"'{name}' is no command.{f' Did you mean {close[0]}?' if close else ''}\n{_usage()}")
    command, program = COMMANDS[name], f"tardiff {name}"
    if not command.in_processes and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        shared = " and ".join(f"tardiff {other}" for other in COMMANDS if COMMANDS[other].in_processes)
        raise UserError(f"{program} runs as one process; torchrun is for {shared} alone.")
    if command.schema is None:
        importlib.import_module(command.module).main(arguments, program)
    else:
        run_stage(command.schema, command.run, f"{program}: {command.text}.", arguments, program,
                  command.flags)


def _usage() -> str:
    commands = "\n".join(f"  {name:<10} {command.text}" for name, command in COMMANDS.items())
    return f"usage: tardiff COMMAND [CONFIG] [key=value ...] [--help]\n\n{commands}"


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are user errors like all others."""

    def error(self, message: str) -> None:
        raise UserError(f"{message}. A setting is written key=value; --help lists them.")


def run_stage(schema: type, run: Callable[[Any, bool], None], description: str, arguments: Sequence[str], program: str,
              flags: Sequence[Flag] = ()) -> None:
    """Parse `[CONFIG] [key=value ...] [--print-config] [--dry-run]` and call `run(config, dry_run)` with the settings.

    A dry run checks settings and inputs and starts nothing.
    """
    flag_usage = [f"[{flag.name} {flag.value}{' ...' * flag.many}]" for flag in flags]
    usage = ["%(prog)s [CONFIG] [key=value ...]", *flag_usage, "[--print-config] [--dry-run]"]
    parser = _Parser(prog=program, description=description, usage=" ".join(usage), allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False)
    parser.add_argument("arguments", nargs="*", metavar="CONFIG | key=value", help="a YAML file, then settings over it")
    parser.add_argument("--help", "-h", action="store_true", help="explain every setting and stop")
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings and stop")
    parser.add_argument("--dry-run", action="store_true", help="check settings and inputs, describe the work and stop")
    for flag in flags:
        parser.add_argument(flag.name, nargs="+" if flag.many else 1, help=flag.text, metavar=flag.value)
    options = parser.parse_intermixed_args(arguments)
    if options.help:
        parser.epilog = "\n".join(["settings, as key=value, with what the command would use:", *describe(schema)])
        parser.print_help()
        return
    path, overrides, values = _read_arguments(options, flags)
    config = load_config(schema, path, overrides, values)
    if options.print_config:
        print(to_yaml(config), end="")
        return
    run(config, options.dry_run)


def _read_arguments(options: argparse.Namespace, flags: Sequence[Flag]) -> tuple[str | None, list[str], dict[str, Any]]:
    """Return the configuration file, the `key=value` texts and the settings that flags stand for."""
    values: dict[str, Any] = {}
    for flag in flags:
        given = getattr(options, flag.name.strip("-").replace("-", "_")) or []
        # A setting may follow a flag of many values.
        after = [text for text in given if flag.many and _is_setting(text)]
        options.arguments += after
        if folders := [text for text in given if text not in after]:
            values |= flag.setting(folders)
    overrides = [text for text in options.arguments if _is_setting(text)]
    typed = {text.partition("=")[0] for text in overrides}
    values = {name: value for name, value in values.items() if name not in typed}  # What is typed in full wins.
    files = [text for text in options.arguments if not _is_setting(text)]
    for path in files:
        find_config(path)
    if len(files) > 1:
        raise UserError(f"give one configuration file, not {len(files)}: {', '.join(files)}.")
    return files[0] if files else None, overrides, values


def _is_setting(text: str) -> bool:
    """Tell `key=value` from a path, which may hold the sign as well."""
    return "=" in text and "/" not in text.partition("=")[0] and not os.path.exists(text)
