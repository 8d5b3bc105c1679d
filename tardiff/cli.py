"""One command line for every stage: `[CONFIG] [key=value ...] [--help] [--print-config] [--dry-run]`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tardiff.config import load_config
from tardiff.utils.errors import UserError, exit_on_user_error
from tardiff.utils.settings import describe, to_yaml


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are user errors like all others."""

    def error(self, message: str) -> None:
        raise UserError(f"{message}. A setting is written key=value; --help lists them.")


@dataclass(frozen=True)
class Flag:
    """A short form of a setting: `name` as typed, help `text`, and the `key=value` that its values stand for."""

    name: str
    text: str
    override: Callable[[list[str]], str]
    many: bool = False
    value: str = "DIR"


def folder_flag(name: str, text: str) -> Flag:
    """Return the flag `--name DIR` for the setting `name`."""
    return Flag(f"--{name}", text, lambda values: f"{name}={json.dumps(values[0])}")


def run_stage(schema: type, stage: Callable[[Any, bool], None], description: str, default: str | None = None,
              flags: tuple[Flag, ...] = ()) -> None:
    """Parse the command line, build the settings and run `stage(config, dry_run)`; exit 2 on a user error.

    `default` is the YAML used when no CONFIG is given. A dry run checks settings and inputs and starts nothing.
    """
    parser = _Parser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=" ".join(["%(prog)s [CONFIG] [key=value ...]", *(f"[{flag.name} {flag.value}{' ...' * flag.many}]" for flag in flags),
                        "[--print-config] [--dry-run]"]),
        epilog="settings (key=default), which CONFIG and key=value override; --print-config shows the result:\n"
               + "\n".join(describe(schema)))
    parser.add_argument("arguments", nargs="*", metavar="CONFIG | key=value",
                        help=f"a YAML file (default: {default or 'the built-in defaults'}), then overrides")
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings and stop")
    parser.add_argument("--dry-run", action="store_true", help="check settings and inputs, describe the work and stop")
    for flag in flags:
        parser.add_argument(flag.name, nargs="+" if flag.many else 1, help=flag.text, metavar=flag.value)
    exit_on_user_error(lambda: _run(schema, stage, default, parser.parse_intermixed_args(), flags))


def _run(schema: type, stage: Callable[[Any, bool], None], default: str | None, options: argparse.Namespace,
         flags: tuple[Flag, ...]) -> None:
    overrides = []
    for flag in flags:
        given = getattr(options, flag.name.strip("-")) or []
        # A setting may follow a flag of many values; what holds a slash before the sign is a path.
        settings = [value for value in given if "=" in value and "/" not in value.partition("=")[0]]
        options.arguments += settings
        values = [value for value in given if value not in settings]
        overrides += [flag.override(values)] if values else []
    files = [argument for argument in options.arguments if "=" not in argument]
    missing = [path for path in files if not Path(path).exists()]
    if missing:
        raise UserError(f"{missing[0]}: configuration file not found. A setting is written key=value, in quotes where it "
                        "holds spaces or brackets: 'labels=[0, 100]'.")
    if len(files) > 1:
        raise UserError(f"give one configuration file, not {len(files)}: {', '.join(files)}.")
    path = files[0] if files else default
    config = load_config(schema, path, overrides + [argument for argument in options.arguments if "=" in argument])
    if options.print_config:
        print(to_yaml(config), end="")
        return
    stage(config, options.dry_run)


def repository_path(relative: str) -> str:
    """Return a path inside this repository, for the default configuration of an entry point."""
    return str(Path(__file__).parents[1] / relative)
