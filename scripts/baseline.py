"""A baseline: train it and write its synthetic dataset."""

from __future__ import annotations

import functools
import importlib
import sys

from tardiff.baselines import BASELINES
from tardiff.cli import repository_path, run_stage
from tardiff.stages import baseline
from tardiff.utils.errors import UserError, exit_on_user_error


def main() -> None:
    names = ", ".join(BASELINES)
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print("usage: baseline.py NAME [CONFIG] [key=value ...]\n\n"
              f"NAME is one of {names}. NAME --help lists its settings.")
        return
    if len(sys.argv) < 2 or sys.argv[1] not in BASELINES:
        given = f"'{sys.argv[1]}' is not a baseline" if len(sys.argv) > 1 else "no baseline is named"
        raise UserError(f"{given}. Give one of {names}, then [CONFIG] [key=value ...]; NAME --help lists its settings.")
    name = sys.argv.pop(1)
    schema = importlib.import_module(f"tardiff.baselines.{name}").Config
    run_stage(schema, functools.partial(baseline.run, name), f"Train {name} and write its synthetic dataset.",
              repository_path(f"configs/baselines/{name}.yaml"))


if __name__ == "__main__":
    exit_on_user_error(main)
