"""Results by what they were computed from, so that a killed evaluation goes on metric by metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tardiff.utils.checkpoint import fingerprint, read_json, write_json


class ResultCache:
    """A folder with one JSON file per result."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, name: str, inputs: list[Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result `name` for these inputs, which decide it (see `fingerprint`), computed once and then read."""
        path = self.folder / f"{name}-{fingerprint(*inputs)}.json"
        if path.exists():
            return read_json(path, "result")["result"]
        result = compute()
        write_json(path, {"result": result})
        return result
