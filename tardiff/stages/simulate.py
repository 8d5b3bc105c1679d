"""Write a simulated ICU cohort (not patient data) as a dataset folder.

    tardiff simulate --output data/simulated --stays 3000 --seed 0

The same command again finds the cohort and skips; a folder made with other parameters is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tardiff.data.format import Split, is_dataset, read_dataset, replace_dataset, require_replaceable
from tardiff.data.simulator import RATIOS, cohort_parameters, simulate_cohort
from tardiff.utils.errors import UserError, exit_on_user_error
from tardiff.utils.lock import sole_writer


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line; a fault in the arguments or the output folder is one message and exit code 2."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.partition("\n")[0], allow_abbrev=False,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/simulated"), help="dataset folder to write")
    parser.add_argument("--stays", type=int, default=3000, help="number of ICU stays")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal cohorts")
    parser.add_argument("--ratios", type=float, nargs=3, default=RATIOS, metavar=("TRAIN", "VAL", "TEST"),
                        help="share of the subjects in each split")
    options = parser.parse_args(argv)
    exit_on_user_error(lambda: simulate(options.output, options.stays, options.seed, options.ratios))


def simulate(output: Path, num_stays: int, seed: int, ratios: tuple[float, float, float]) -> None:
    """Write the cohort unless it is there, and print what it holds. Raises UserError if the folder holds anything
    else."""
    with sole_writer(output):
        splits = _find(output, cohort_parameters(num_stays, seed, ratios))
        if splits is not None:
            print(f"{output}: already holds this cohort; nothing to do.")
        else:
            splits, meta = simulate_cohort(num_stays, seed, ratios)
            replace_dataset(output, splits, meta)
            print(f"{output}: simulated cohort written (not patient data).")
    _print_table(splits)


def _find(folder: Path, parameters: dict) -> dict[str, Split] | None:
    """Return the cohort in `folder` if it was made with these parameters; None if it must be (re)written.

    Raises UserError if the folder holds another dataset.
    """
    require_replaceable(folder, "parameters", parameters)
    if not is_dataset(folder):
        return None
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
