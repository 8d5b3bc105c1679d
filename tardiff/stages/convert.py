"""Make a dataset folder of the files of a source: `convert SOURCE ...` runs `data_preprocess.SOURCE`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from tardiff.utils.errors import UserError

SOURCES = ("mimic3", "eicu", "cinc2012", "ptb", "adftd", "apava", "tdbrain", "tables", "arrays", "target")


def main(argv: Sequence[str], prog: str = "tardiff convert") -> None:
    """Run the source that the first argument names, with the other arguments; without one, list the sources.

    Raises UserError that lists them if it names none.
    """
    source, *arguments = argv or ["--help"]
    if source in ("-h", "--help"):
        print(f"usage: {prog} SOURCE --input DIR [--output DIR] [--help] ...\n\n{sources_with_titles()}")
    elif source in SOURCES:
        # By name, so that the packages that another source needs are never imported.
        importlib.import_module(f"data_preprocess.{source}").main(arguments, prog=f"{prog} {source}")
    else:
        raise UserError(f"'{source[:200]}' is no source; expected one of\n{sources_with_titles()}")


def sources_with_titles() -> str:
    """Return a line a source: its name and the first line of what its module says of itself, without importing it."""
    lines = []
    for source in SOURCES:
        text = Path(importlib.util.find_spec(f"data_preprocess.{source}").origin).read_text(encoding="utf-8")
        lines.append(f"  {source:<10}{ast.get_docstring(ast.parse(text)).splitlines()[0]}")
    return "\n".join(lines)
