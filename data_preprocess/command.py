"""What every source of data shares: its command line, `--input`, `--output`, and where it splits, `--ratios`, `--seed`;
and the writing of its dataset."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tardiff.data.format import Metadata, Split, absent_classes, check_splits, replace_dataset, require_replaceable
from tardiff.data.splits import check_ratios, halve_validation
from tardiff.utils.errors import UserError, exit_on_user_error
from tardiff.utils.lock import sole_writer


def source_parser(module: str, docstring: str, prog: str | None, files: str,
                  default_output: str) -> argparse.ArgumentParser:
    """Return a parser with `--input` and `--output`, described by the module's docstring.

    module: its name below `data_preprocess`. prog: the command as it was typed, where it is not `python -m`. files:
    what the input folder holds. default_output: for the help text.
    """
    run_as_module = f"python -m data_preprocess.{module}"
    prog = prog or run_as_module
    title, _, details = docstring.replace(run_as_module, prog).partition("\n")
    parser = argparse.ArgumentParser(prog=prog, description=title, epilog=details,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.set_defaults(source=module)
    parser.add_argument("--input", type=Path, required=True, help=files)
    parser.add_argument("--output", type=Path, help=f"dataset folder to write (default: {default_output})")
    return parser


def add_split_options(parser: argparse.ArgumentParser) -> None:
    """Add `--ratios` and `--seed`, for sources that publish no split of their own."""
    parser.add_argument("--ratios", type=float, nargs=3, default=(0.6, 0.2, 0.2), metavar=("TRAIN", "VAL", "TEST"),
                        help="shares of the splits, by subject (default: 0.6 0.2 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, default_output: Callable[..., Path],
        preprocess: Callable[[argparse.Namespace], tuple[dict[str, Split], Metadata]]) -> None:
    """Parse the arguments, check the output folder, the ratios and the seed before any reading, and write the dataset
    that `preprocess` makes.

    default_output: from the options, the folder to write where `--output` is not given. A user's mistake is printed
    as one message, exit code 2.
    """
    options = parser.parse_args(arguments)
    options.output = options.output or default_output(options)

    def checked() -> None:
        made_by = arguments_of(options)
        require_replaceable(options.output, "command", made_by)
        if "ratios" in options:
            check_ratios(options.ratios, options.seed)
        require_input(options.input)
        with sole_writer(options.output):
            splits, meta = preprocess(options)
            check_splits(options.output, splits, meta)
            warn_of_absent_classes(splits, meta)
            replace_dataset(options.output, splits, replace(meta, cohort={**meta.cohort, "command": made_by}))
        print(f"written to {options.output}")

    exit_on_user_error(checked)


def require_input(source: Path) -> None:
    """Raise UserError if the input is not there, or if a named pipe is among its files, whose reading would never
    end."""
    if not source.exists():
        raise UserError(f"{source}: not found. --help says which files are expected, and where they are published.")
    for path in [source, *source.rglob("*")]:
        if path.is_fifo():
            raise UserError(f"{path}: a named pipe; expected a file. Save what it delivers, or remove it.")


def arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what decides a dataset, for `meta.json`: the source and its options, with whole paths; a target where one
    is given."""
    deciding = {name: value for name, value in vars(options).items() if name not in ("output", "memory_limit")
                and not (name in ("target", "source_rows") and value is None)}
    return json.loads(json.dumps(deciding, default=lambda path: str(path.resolve())))


def warn_of_absent_classes(splits: dict[str, Split], meta: Metadata) -> None:
    """Warn on stderr of classes without a row in the selection half of val, which the later stages refuse."""
    if "val" not in splits:
        return
    try:
        faults = absent_classes(halve_validation(splits["val"])[1], meta, "the selection half of val")
    except UserError as error:
        faults = [str(error)]
    for fault in faults:
        print(f"warning: {fault} Classifiers cannot be trained and scored so: give val a larger share, or leave rare "
              "classes out (arrays and tables: --drop-class).", file=sys.stderr)
