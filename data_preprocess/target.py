"""A target of its own: train on rows of a source, guide, select and test with rows of a target.

    python -m data_preprocess.target --input data/surgical --target data/medical --output data/surgical_to_medical

Source (--input) and target are dataset folders with the same channels, units, classes, length and interval. The new
dataset trains on the train rows of the source; the train rows of the target are its guidance half, its val rows the
selection half, and its test rows are tested. Gaps are filled as those of the source, whose medians a generator knows.

Where one source of files holds both, `--source CONDITION` and `--target CONDITION` of its own command are simpler.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_preprocess import command, count_tables
from tardiff.data.format import Dataset, Metadata, Split, read_dataset
from tardiff.data.splits import with_target
from tardiff.utils.errors import UserError

CONDITION = "COLUMN in (A, B), not in (A, B), = A, != A, < 5, <= 5, > 5 or >= 5; several joined by 'and'"
CONDITION_COLUMN = "condition {}"
"""What the table of stays calls a column that a condition names."""
VALUE = r"""(?:'[^']*'|"[^"]*"|[^\s,()'"<>=!]+)"""
TERM = re.compile(rf"""\s*(?P<column>\w+)\s*(?:(?P<relation><=|>=|!=|=|<|>)\s*(?P<value>{VALUE})
                       |(?P<no>\s+not)?\s+in\s*\(\s*(?P<values>{VALUE}(?:\s*,\s*{VALUE})*)\s*\))\s*""",
                  re.IGNORECASE | re.VERBOSE)


@dataclass(frozen=True)
class Term:
    """A column, in lower case, compared with values."""

    column: str
    relation: str
    values: tuple[str, ...]

    def holds(self, texts: np.ndarray) -> np.ndarray:
        """Tell for each text (N,) of the column whether the term holds (N,) bool; it never does of a missing one, ''.

        Texts are equal, or are numbers that are. Raises UserError where a text to be ordered is no number.
        """
        known = texts != ""
        if self.relation in ("in", "not in"):
            found = np.isin(texts, self.values) | np.isin(numbers(texts), numbers(np.array(self.values)))
            return known & (found == (self.relation == "in"))
        ordered, (bound,) = numbers(texts), numbers(np.array(self.values))
        wrong = known & np.isnan(ordered)
        if wrong.any():
            raise UserError(f"column '{self.column}' holds '{texts[wrong][0]}', which {self.relation} cannot compare "
                            "with a number. Use in (...).")
        compare = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}[self.relation]
        return compare(ordered, bound)


def numbers(texts: np.ndarray) -> np.ndarray:
    """Return texts (N,) as float64, NaN where one is no number."""
    def number(text: str) -> float:
        return float(text) if re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text) else np.nan

    unique, inverse = np.unique(texts, return_inverse=True)
    return np.array([number(text) for text in unique.tolist()], dtype=np.float64)[inverse]


def parse(option: str, text: str) -> list[Term]:
    """Return the terms of a condition, all of which must hold. Raises UserError that shows the form if it is none."""
    terms, position = [], 0
    while match := TERM.match(text, position):
        values = re.findall(VALUE, match["value"] or match["values"])
        relation = match["relation"] or ("not in" if match["no"] else "in")
        terms.append(Term(match["column"].lower(), {"=": "in", "!=": "not in"}.get(relation, relation),
                          tuple(value[1:-1] if value[0] in "'\"" else value for value in values)))
        position = match.end()
        if position == len(text):
            break
        if not (joint := re.compile(r"and\s", re.IGNORECASE).match(text, position)):
            break
        position = joint.end()
    ordered = [term for term in terms if term.relation not in ("in", "not in")]
    if not terms or position < len(text) or any(np.isnan(numbers(np.array(term.values))).any() for term in ordered):
        raise UserError(f"--{option} '{text}': expected a condition such as --{option} \"ICUType in (2, 4)\": "
                        f"{CONDITION}. Numbers and words stand as they are, others in quotes.")
    return terms


def add_options(parser: argparse.ArgumentParser, columns: str) -> None:
    """Add `--target` and `--source`; columns: what a condition may name, for the help text."""
    parser.add_argument("--target", metavar="CONDITION",
                        help=f"rows of a target of its own, to guide by and to test on, such as {CONDITION}; the "
                        "others train. Of --ratios, train is its guidance half and val the selection half. "
                        f"Columns: {columns}")
    parser.add_argument("--source", metavar="CONDITION", dest="source_rows",
                        help="with --target: the rows that train (default: all others)")


def conditions(options: argparse.Namespace) -> dict[str, list[Term]]:
    """Return the terms of `--target` and `--source` where they are given. Raises UserError if one is no condition, or
    where the target is missing."""
    given = {name: parse(name, text) for name, text in (("target", options.target), ("source", options.source_rows))
             if text is not None}
    if given and "target" not in given:
        raise UserError("--source: needs --target, the rows to test on.")
    return given


def columns_named(options: argparse.Namespace) -> list[str]:
    """Return the columns, in lower case, that the conditions name."""
    return list(dict.fromkeys(term.column for terms in conditions(options).values() for term in terms))


def condition_columns(options: argparse.Namespace, stays: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the text (N,) of the columns that the conditions name, of stays that have them under CONDITION_COLUMN."""
    return {name: stays[CONDITION_COLUMN.format(name)].to_numpy(dtype=str) for name in columns_named(options)}


def divided(options: argparse.Namespace, columns: Mapping[str, np.ndarray], subject: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Return which rows are kept (N,) bool, which of the kept are of the target (n,) bool, None where all are of one
    population, and what `meta.json` says of it; print where the rows went.

    columns: texts (N,) by name, '' where missing. subject (N,): a patient with rows of the target has none in train.
    Raises UserError where a column is unknown, or rows are both of source and of target.
    """
    given = conditions(options)
    if not given:
        return np.ones(len(subject), dtype=bool), None, {}
    for name in columns_named(options):
        if name not in columns:
            raise UserError(f"column '{name}' of a condition is not there; there are {', '.join(columns)}.")
    holds = {name: np.all([term.holds(np.asarray(columns[term.column], dtype=str)) for term in terms], axis=0)
             for name, terms in given.items()}
    target = holds["target"]
    source = holds.get("source", ~target)
    if (both := int((source & target).sum())):
        raise UserError(f"{both:,} rows are of --source and of --target. Give conditions that exclude each other.")
    shared = source & np.isin(subject, subject[target])
    kept = target | (source & ~shared)
    counts = {"rows of the target": int(target.sum()), "rows of the source": int((source & ~shared).sum()),
              "rows of the source, of patients of the target": int(shared.sum()),
              "rows of neither": int((~source & ~target).sum())}
    count_tables.print_attrition({"rows": counts})
    texts = {"target": options.target, "source": options.source_rows or "all others"}
    return kept, target[kept], {"target": {**texts, **counts}}


def composed(source: Dataset, target: Dataset, other_patients: bool) -> tuple[dict[str, Split], Metadata]:
    """Return the splits of a dataset that trains on the train rows of `source` and tests on `target`, and their
    description. other_patients: subjects of equal name are two patients. A part without subjects or ids stays without.

    Raises UserError if the two do not fit.
    """
    for what in ("channels", "units", "classes", "sampling_interval"):
        first, second = getattr(source.meta, what), getattr(target.meta, what)
        if first != second:
            raise UserError(f"{what}: {source.path} has {first}, {target.path} has {second}. Convert both alike.")
    if source.shape != target.shape:
        raise UserError(f"(length, channels): {source.path} has {source.shape}, {target.path} has {target.shape}.")
    parts = {"source": source.train, **{f"target {name}": split for name, split in target.splits.items()}}
    for name in ("subject", "id"):
        arrays = {part: array for part, split in parts.items() if (array := getattr(split, name)) is not None}
        if other_patients or len({array.dtype.kind for array in arrays.values()}) > 1:
            prefix = {part: part.split()[0] + " " if other_patients else "" for part in arrays}
            arrays = {part: np.array([f"{prefix[part]}{own}" for own in array.tolist()])
                      for part, array in arrays.items()}
        parts |= {part: replace(parts[part], **{name: array}) for part, array in arrays.items()}
    meta = replace(source.meta, positive=source.meta.with_positive(source.train.y).positive,
                   name=f"{source.meta.name} to {target.meta.name}",
                   source=f"{source.meta.source}; {target.meta.source}",
                   cohort={"target": {"source": source.meta.cohort, "target": target.meta.cohort}})
    splits = with_target(parts["source"], {name: parts[f"target {name}"] for name in target.splits})
    if meta.imputation is not None and all(split.mask is not None for split in splits.values()):
        splits = {name: replace(split, x=meta.filled(np.where(split.mask, split.x, np.float32(np.nan))))
                  for name, split in splits.items()}
    return splits, meta


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line."""
    parser = command.source_parser("target", __doc__, prog, "dataset folder whose train rows train",
                                   "data/<source>_to_<target>")
    parser.add_argument("--target", type=Path, required=True, help="dataset folder to guide by and to test on")
    parser.add_argument("--other-patients", action="store_true",
                        help="patients of the two have nothing in common, even those of the same name")

    def preprocess(options: argparse.Namespace) -> tuple[dict[str, Split], Metadata]:
        source, target = read_dataset(options.input, ("train",)), read_dataset(options.target, every_class=False)
        splits, meta = composed(source, target, options.other_patients)
        counts = count_tables.summarize_splits(splits, meta, "rows")
        return splits, replace(meta, cohort={**meta.cohort, "splits": counts})

    command.run(parser, arguments, lambda options: Path("data", f"{options.input.name}_to_{options.target.name}"),
                preprocess)


if __name__ == "__main__":
    main()
