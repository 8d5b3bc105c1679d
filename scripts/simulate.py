"""Write a simulated ICU cohort (not patient data) as a dataset folder.

    python scripts/simulate.py --output data/simulated --stays 3000 --seed 0

The same command again finds the cohort and skips; a folder made with other parameters is refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tardiff.data.format import Split, read_dataset, read_metadata, write_dataset
from tardiff.data.simulator import RATIOS, cohort_parameters, simulate_cohort
from tardiff.utils.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a fault in the arguments or the output folder."""
    parser = argparse.ArgumentParser(description="Write a simulated ICU cohort (not patient data) as a dataset folder.",
                                     allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/simulated"), help="dataset folder to write")
    parser.add_argument("--stays", type=int, default=3000, help="number of ICU stays")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal cohorts")
    parser.add_argument("--ratios", type=float, nargs=3, default=RATIOS, metavar=("TRAIN", "VAL", "TEST"),
                        help="share of the subjects in each split")
    arguments = parser.parse_args(argv)
    try:
        splits = _find(arguments.output, cohort_parameters(arguments.stays, arguments.seed, arguments.ratios))
        if splits is not None:
            print(f"{arguments.output}: already holds this cohort; nothing to do.")
        else:
            splits, meta = simulate_cohort(arguments.stays, arguments.seed, arguments.ratios)
            write_dataset(arguments.output, splits, meta)
            print(f"{arguments.output}: simulated cohort written (not patient data).")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print_table(splits)
    return 0


def _find(folder: Path, parameters: dict) -> dict[str, Split] | None:
    """Return the cohort in `folder` if it was made with these parameters; None if it must be (re)written.

    Raises UserError if the folder holds another dataset.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --output must name a folder.")
    if not (folder / "meta.json").exists():
        return None
    found = read_metadata(folder).cohort.get("parameters")
    if found != parameters:
        raise UserError(f"{folder}: holds another dataset, made with {found}; asked for {parameters}. "
                        "Choose another --output, or delete the folder.")
    try:
        return read_dataset(folder).splits
    except UserError as error:
        print(f"{error}\n{folder}: damaged; writing it again.", file=sys.stderr)
        return None


def _print_table(splits: dict[str, Split]) -> None:
    print(f"{'split':<6}{'rows':>8}{'subjects':>10}{'deaths':>8}{'prevalence':>12}")
    for name, split in splits.items():
        print(f"{name:<6}{len(split):>8}{len(set(split.subjects().tolist())):>10}{int(split.y.sum()):>8}"
              f"{split.y.mean():>12.1%}")


if __name__ == "__main__":
    sys.exit(main())
