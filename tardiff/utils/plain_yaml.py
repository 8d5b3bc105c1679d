"""YAML as it is typed: a scalar stays text until its type is known, and nothing in a file is run or grows by itself."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import yaml

from tardiff.utils.errors import UserError

MOST_QUOTED = 200
NULL = ("null", "~", "")


class Plain(str):
    """A YAML scalar without quotes, as it was typed; the schema decides what it is."""

    __slots__ = ()
    __repr__ = str.__str__


class _Loader(yaml.BaseLoader):
    """YAML without dates, octal or base-60 numbers, tags, and aliases, a few bytes of which grow beyond any memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write the value out, or refer to a setting as ${key}")
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.MappingNode):
            if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
                raise yaml.YAMLError("a key must be text or a number")
            keys = [guessed(self.construct_object(key)) for key, _ in node.value]
            if len(set(keys)) < len(keys):
                raise yaml.YAMLError(f"a key stands twice in one mapping: {keys}")
            return dict(zip(keys, (self.construct_object(value) for _, value in node.value), strict=True))
        if isinstance(node, yaml.SequenceNode):
            return [self.construct_object(item) for item in node.value]
        node.value.encode()  # Raises ValueError on half of a surrogate pair, which nothing could print or open.
        return Plain(node.value) if node.style is None else node.value


def parse(text: str) -> Any:
    """Return what a text of YAML holds. Raises YAMLError, ValueError or RecursionError on one that is none."""
    return yaml.load(text, _Loader)


def read_mapping(path: str | Path) -> dict:
    """Return the mapping in a YAML file; an empty one of an empty file. Raises UserError if it holds anything else."""
    try:
        content = parse(Path(path).read_text(encoding="utf-8"))
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected a YAML configuration file. A folder is given to a setting, "
                        f"such as data={path}.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({reason(error)}).") from None
    if not isinstance(content, dict | None):
        raise UserError(f"{path}: expected 'key: value' lines, got {quoted(content)}.")
    return content or {}


def guessed(text: str) -> Any:
    """Return text as what it looks like, where no type is known; text in quotes stays text."""
    if isinstance(text, Plain):
        if text in NULL:
            return None
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return str(text)


def as_typed(value: Any) -> str:
    """Return a value as it is typed after `key=`."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).removesuffix("...\n").strip()


def quoted(value: Any) -> str:
    """Return a value as a message quotes it: printable, and at most MOST_QUOTED characters long."""
    try:
        text = repr(value).encode("utf-8", "backslashreplace").decode()
    except ValueError:
        text = "a number of more digits than are read"
    return text if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]}..."


def reason(error: Exception) -> str:
    """Return in one short line what went wrong while settings were read."""
    text = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
    return text.partition(" full_key:")[0][:MOST_QUOTED]
