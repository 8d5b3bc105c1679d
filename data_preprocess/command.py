"""What every source of data shares: its command line, `--input`, `--output`, and where it splits, `--ratios`, `--seed`;
and the writing of its dataset."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from tardiff.data.format import SPLIT_NAMES, Metadata, Split, read_metadata, write_dataset
from tardiff.data.splits import check_ratios
from tardiff.utils.checkpoint import require_folder
from tardiff.utils.errors import UserError, exit_on_user_error
from tardiff.utils.lock import sole_writer

DATASET_FILES = {"meta.json", *(f"{name}.npz" for name in SPLIT_NAMES)}


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
    parser.add_argument("--input", type=Path, required=True, help=files)
    parser.add_argument("--output", type=Path, help=f"dataset folder to write (default: {default_output})")
    return parser


def add_split_options(parser: argparse.ArgumentParser) -> None:
    """Add `--ratios` and `--seed`, for sources that publish no split of their own."""
    parser.add_argument("--ratios", type=float, nargs=3, default=(0.6, 0.2, 0.2), metavar=("TRAIN", "VAL", "TEST"),
                        help="shares of the splits, by subject (default: 0.6 0.2 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")


def require_replaceable(output: Path, source: str | None = None) -> None:
    """Raise UserError if the folder holds anything but a dataset of this source, as `meta.json` names it.

    source: None where it is not known yet; a dataset of any passes.
    """
    require_folder(output)
    files = {path.name for path in output.iterdir() if not path.name.startswith(".")} if output.is_dir() else set()
    advice = "Give another folder as --output, or delete this one first."
    if not files <= DATASET_FILES:
        raise UserError(f"{output}: holds files that no source of data makes. {advice}")
    # A run that is killed while it writes leaves splits without meta.json.
    found = read_metadata(output / "meta.json").source if "meta.json" in files else source
    if source not in (None, found):
        raise UserError(f"{output}: holds a dataset of '{found}', not of '{source}'. {advice}")


def write(output: Path, splits: dict[str, Split], meta: Metadata) -> None:
    """Write the dataset, in the place of one of the same source alone. Raises UserError before anything is written."""
    require_replaceable(output, meta.source)
    write_dataset(output, splits, meta)
    print(f"written to {output}")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, default_output: Callable[..., Path],
        preprocess: Callable[[argparse.Namespace], None]) -> None:
    """Parse the arguments, check the output folder, the ratios and the seed before any reading, and run `preprocess`.

    default_output: from the options, the folder to write where `--output` is not given. A user's mistake is printed
    as one message, exit code 2.
    """
    options = parser.parse_args(arguments)
    options.output = options.output or default_output(options)

    def checked() -> None:
        require_replaceable(options.output)
        if options.output.resolve() == options.input.resolve():
            raise UserError(f"{options.output}: is the input. Give another folder as --output.")
        if "ratios" in options:
            check_ratios(options.ratios, options.seed)
        with sole_writer(options.output):
            preprocess(options)

    exit_on_user_error(checked)
