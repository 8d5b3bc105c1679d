"""What preprocessing tells of its work: tables of what was kept and left out, and published counts beside them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from tardiff.data.format import Metadata, Split


def print_attrition(attrition: Mapping[str, Mapping[str, int]]) -> None:
    """Print counts `{source: {step: count}}`: one row a step, one column a source, and the total of several sources."""
    steps = next(iter(attrition.values()))
    total = ["total"] if len(attrition) > 1 else []
    counts = [[source[step] for source in attrition.values()] for step in steps]
    print_table([["cohort", *attrition, *total],
                 *([step, *row, *([sum(row)] if total else [])] for step, row in zip(steps, counts, strict=True))])


def compare_with_published(published: Mapping[str, int], observed: Mapping[str, int]) -> None:
    """Print the published count of each observed item beside it, and warn on stderr of each difference."""
    checks = [(item, count, observed[item]) for item, count in published.items() if item in observed]
    if checks:
        print_table([("check", "published", "observed"), *checks])
    for item, expected, found in checks:
        if found != expected:
            print(f"warning: {item}: {found:,} observed, {expected:,} published. The files may be incomplete or of "
                  "another version.", file=sys.stderr)


def summarize_splits(splits: Mapping[str, Split], meta: Metadata, rows: str) -> dict[str, dict[str, int]]:
    """Print the rows of each split and class, and return the counts `{split: {class: count}}` for `meta.json`.

    rows: what a row is, such as `stays` or `beats`. meta: with the positive class, whose share is printed.
    """
    counts = {name: {label: int((split.y == number).sum()) for number, label in enumerate(meta.classes)}
              for name, split in splits.items()}
    print_table([["split", rows, *meta.classes, f"share {meta.positive}"],
                 *([name, len(splits[name]), *labels.values(), f"{labels[meta.positive] / len(splits[name]):.1%}"]
                   for name, labels in counts.items())])
    return counts


def print_table(rows: Sequence[Sequence[str | int]]) -> None:
    """Print rows of text and counts in aligned columns, the first to the left and the others to the right."""
    text = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    for row in text:
        print("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]))
    print()
