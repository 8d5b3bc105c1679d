"""Typed settings: dataclasses with documented, range-checked fields, filled from YAML and `key=value`.

OmegaConf resolves what refers to other settings, `${...}`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import os
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from tardiff.utils.errors import UserError

MOST_QUOTED = 200
SCALARS = {int, float, bool, type(None)}
OmegaConf.register_resolver("folder_name", lambda path: Path(os.path.abspath(path)).name, replace=True)


def setting(default: Any, text: str, *, choices: tuple = (), low: float | None = None, high: float | None = None,
            semantic: bool = True) -> Any:
    """Declare a configuration field.

    `text` documents it in `--help`; `choices`, `low` and `high` (both inclusive) bound its value; `semantic=False`
    marks a field whose change does not alter the result, so that a run may resume with another value. Defaults may
    hold interpolations: `runs/${name}`.
    """
    metadata = {"text": text, "choices": choices, "low": low, "high": high, "semantic": semantic}
    if dataclasses.is_dataclass(default) and isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def load_settings(schema: type, path: str | Path | None = None, overrides: Sequence[str] = (),
                  values: Mapping[str, Any] | None = None) -> Any:
    """Build an instance of the dataclass `schema`: defaults < YAML file < `key=value` texts < `values` by dotted name.

    Every unknown key, wrong type, value out of range and setting that cannot apply (what a method `faults` of a
    dataclass yields, by field name) is collected into one UserError that names the source.
    """
    leaves = _leaves(schema())
    settings, sources = {name: leaf.value for name, leaf in leaves.items()}, dict.fromkeys(leaves, "default")
    faults: list[str] = []
    for source, key, value in _assignments(leaves, path, overrides, values or {}, faults):
        name = next((leaf for leaf in leaves if f"{key}.".startswith(f"{leaf}.")), None)
        if name is None or (key != name and dict not in _parts(leaves[name].hint)):
            faults.append(f"{source}: {_unknown(key, leaves)}")
            continue
        try:
            if key == name:
                settings[name] = _converted(value, leaves[name].hint)
            else:
                _put(settings[name], key.removeprefix(f"{name}.").split("."), _converted(value, Any))
            sources[name] = source
        except GrammarParseError as error:
            faults.append(f"{source}: '{key}' is no valid interpolation ({_reason(error)}).")
        except (ValueError, OverflowError):
            expected = (f"'{key}' must be {_type_name(leaves[name].hint)}" if key == name else
                        f"{_quoted(key)} needs a mapping under '{name}' ({name}={{...}})")
            faults.append(f"{source}: {expected}, got {_quoted(value)}.")
    tree = OmegaConf.create()
    for name, value in settings.items():
        OmegaConf.update(tree, name, value, merge=False, force_add=True)
    for name, leaf in leaves.items():
        try:
            value = _resolved(tree, name, settings[name])
            settings[name] = _converted(value, leaf.hint)
            faults += [f"{sources[name]}: {fault}" for fault in _range_faults(name, settings[name], leaf.metadata)]
        except OmegaConfBaseException as error:
            if sources[name] != "default" or not faults:  # A default fails because of what it refers to.
                faults.append(f"{sources[name]}: '{name}': {_reason(error)}.")
        except ValueError:
            faults.append(f"{sources[name]}: '{name}' must be {_type_name(leaf.hint)}, got {_quoted(value)}.")
    if not faults:
        instance = _instance(schema, settings)
        faults = [f"{sources.get(name, 'default')}: '{name}' {fault}" for name, fault in _misapplied(instance)]
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise UserError(f"{count} in the configuration:\n" + "\n".join(f"  - {fault}" for fault in faults))
    return instance


def to_yaml(instance: Any) -> str:
    """Return a settings instance as YAML, in the order of its fields."""
    return yaml.safe_dump(dataclasses.asdict(instance), sort_keys=False, allow_unicode=True)


def semantic_values(instance: Any) -> dict[str, Any]:
    """Return the dotted names and values of the fields that decide the result."""
    return {name: leaf.value for name, leaf in _leaves(instance).items() if leaf.semantic}


def describe(schema: type) -> list[str]:
    """Return help on each setting of `schema`: its dotted name, the value that a command would use, and what it is."""
    lines = []
    for name, leaf in _leaves(load_settings(schema)).items():
        choices = f" One of {', '.join(map(str, leaf.metadata['choices']))}." if leaf.metadata["choices"] else ""
        lines.append(f"  {name}={as_typed(leaf.value)}\n      {leaf.metadata['text']}{choices}")
    return lines


class _Leaf(typing.NamedTuple):
    """One setting: its type, what `setting` said of it, its value, and whether that decides the result."""

    hint: Any
    metadata: Mapping[str, Any]
    value: Any
    semantic: bool


def _leaves(instance: Any, prefix: str = "", semantic: bool = True) -> dict[str, _Leaf]:
    """Return every setting of a dataclass and of the dataclasses in it, by dotted name."""
    leaves: dict[str, _Leaf] = {}
    hints = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        name, value = prefix + field.name, getattr(instance, field.name)
        decides = semantic and field.metadata.get("semantic", True)
        if dataclasses.is_dataclass(value):
            leaves |= _leaves(value, f"{name}.", decides)
        else:
            leaves[name] = _Leaf(hints[field.name], field.metadata, value, decides)
    return leaves


def _instance(schema: type, settings: Mapping[str, Any], prefix: str = "") -> Any:
    """Return a dataclass, and the dataclasses in it, of values by dotted name."""
    hints = typing.get_type_hints(schema)
    return schema(**{name: _instance(hint, settings, f"{prefix}{name}.") if dataclasses.is_dataclass(hint)
                     else settings[prefix + name] for name, hint in hints.items()})


class _Plain(str):
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
            keys = [_converted(self.construct_object(key), Any) for key, _ in node.value]
            if len(set(keys)) < len(keys):
                raise yaml.YAMLError(f"a key stands twice in one mapping: {keys}")
            return dict(zip(keys, (self.construct_object(value) for _, value in node.value), strict=True))
        if isinstance(node, yaml.SequenceNode):
            return [self.construct_object(item) for item in node.value]
        node.value.encode()  # Raises ValueError on half of a surrogate pair, which nothing could print or open.
        return _Plain(node.value) if node.style is None else node.value


def _assignments(leaves: Mapping[str, _Leaf], path: str | Path | None, overrides: Sequence[str],
                 values: Mapping[str, Any], faults: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield (source, dotted key, value) of every assignment, the last of which wins."""
    if path is not None:
        yield from _flat(leaves, str(path), _read_yaml(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = _parts(leaves[key].hint) if key in leaves else {Any}
        try:
            override.encode()
            if not equals or not all(key.split(".")):
                raise ValueError("expected key=value")
            is_text = str in parts and not (parts & {list, dict} and text.startswith(("[", "{")))
            value = _Plain(text) if is_text else yaml.load(text, _Loader)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            faults.append(f"command line: {_quoted(override)} cannot be read ({_reason(error)}).")
            continue
        yield from _flat(leaves, f"command line {_quoted(override)}", {key: value})
    for key, value in values.items():
        yield from _flat(leaves, "settings", {key: value})


def _flat(leaves: Mapping[str, _Leaf], source: str, values: Mapping[str, Any], prefix: str = ""
          ) -> Iterator[tuple[str, str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and any(leaf.startswith(f"{name}.") for leaf in leaves):
            yield from _flat(leaves, source, value, f"{name}.")
        else:
            yield source, name, value


def _read_yaml(path: str | Path) -> dict:
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: configuration file not found.") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected a YAML configuration file.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({_reason(error)}).") from None
    if not isinstance(content, dict | None):
        raise UserError(f"{path}: expected 'key: value' lines, got {_quoted(content)}.")
    return content or {}


def _parts(hint: Any) -> set[Any]:
    """Return the types of a union, or the one type, without those of items."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return {typing.get_origin(part) or part for part in parts}


def _converted(value: Any, hint: Any) -> Any:
    """Return a value as what the type asks for; an interpolation as it is.

    Raises ValueError if the value is something else, and GrammarParseError if an interpolation is malformed.
    """
    parts = _parts(hint)
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (list, tuple)) and parts & {list, Any}:
        return [_converted(item, _item_hint(hint, list)) for item in value]
    if isinstance(value, dict) and parts & {dict, Any} and all(isinstance(key, (str, int, float)) for key in value):
        return {key: _converted(item, _item_hint(hint, dict)) for key, item in value.items()}
    if isinstance(value, str):
        if "${" in value:
            OmegaConf.create([value])
            return str(value)
        return _of_text(value, parts)
    if type(value) is int and float in parts and int not in parts:
        return float(value)
    if type(value) not in (SCALARS if Any in parts else parts):
        raise ValueError
    return value


def _of_text(text: str, parts: set[Any]) -> Any:
    """Return text as the first type of a union that it fits. Raises ValueError if it fits none."""
    is_plain = isinstance(text, _Plain)
    if is_plain and text in ("null", "~", "") and parts & {Any, type(None)}:
        return None
    if str in parts:
        return str(text)
    if bool in parts:
        return ["false", "true"].index(text.lower()) == 1
    if int in parts:  # Numbers are decimal, whatever they begin with.
        with contextlib.suppress(ValueError):
            return int(text)
        if not float(text).is_integer():
            raise ValueError
        return int(float(text))
    if float in parts:
        return float(text)
    if Any not in parts:
        raise ValueError
    with contextlib.suppress(ValueError):
        return json.loads(text) if is_plain else str(text)
    return str(text)


def _item_hint(hint: Any, kind: type) -> Any:
    """Return the type of the items of a list or the values of a dict, also where it is one part of a union."""
    parts = [part for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is kind]
    return typing.get_args(parts[0])[-1] if parts else Any


def _put(place: Any, keys: Sequence[str], value: Any) -> None:
    """Set an item of mappings in mappings. Raises ValueError where something else stands in the way."""
    if not isinstance(place, dict):
        raise ValueError
    if len(keys) == 1:
        place[keys[0]] = value
    else:
        _put(place.setdefault(keys[0], {}), keys[1:], value)


def _resolved(tree: DictConfig, name: str, typed: Any) -> Any:
    """Return the value of a setting in place of what was typed, with the values of others where it refers to them."""
    value = OmegaConf.select(tree, name, throw_on_missing=True)
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    return _Plain(value) if isinstance(value, str) and value != typed else value


def _range_faults(name: str, value: Any, bounds: Mapping[str, Any]) -> list[str]:
    faults = []
    low, high = bounds["low"], 2**63 - 1 if bounds["high"] is None else bounds["high"]
    for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]:
        if bounds["choices"] and item is not None and item not in bounds["choices"]:
            known = [str(choice) for choice in bounds["choices"]]
            close = difflib.get_close_matches(str(item)[:MOST_QUOTED], known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            faults.append(f"'{name}' must be one of {', '.join(known)}, got {_quoted(item)}.{hint}")
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            if isinstance(item, float) and not math.isfinite(item):
                faults.append(f"'{name}' must be a finite number, got {item}.")
            elif low is not None and item < low:
                faults.append(f"'{name}' must be at least {low}, got {_quoted(item)}.")
            elif item > high:
                faults.append(f"'{name}' must be at most {high}, got {_quoted(item)}.")
    return faults


def _misapplied(instance: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted name and the fault of each setting that cannot apply, as the dataclasses themselves tell."""
    for field in dataclasses.fields(instance):
        if dataclasses.is_dataclass(getattr(instance, field.name)):
            yield from _misapplied(getattr(instance, field.name), f"{prefix}{field.name}.")
    for name, fault in getattr(instance, "faults", tuple)():
        yield f"{prefix}{name}", fault


def _unknown(key: str, leaves: Mapping[str, _Leaf]) -> str:
    """Say that a key is no setting, and which one may be meant: one so named in a section, or one spelt alike."""
    if any(leaf.startswith(f"{key}.") for leaf in leaves):
        return f"'{key}' must hold settings ({key}.KEY=...)."
    prefix = f"{key.rpartition('.')[0]}." if "." in key else ""
    if not any(leaf.startswith(prefix) for leaf in leaves):
        prefix = ""
    inside = [leaf for leaf in leaves if leaf.startswith(prefix)]
    known = dict.fromkeys(prefix + leaf.removeprefix(prefix).partition(".")[0] for leaf in inside)
    in_sections = [leaf for leaf in leaves if leaf.endswith(f".{key}")]
    close = in_sections or difflib.get_close_matches(key[:MOST_QUOTED], known, n=1, cutoff=0.8 if prefix else 0.6)
    hint = f"Did you mean '{' or '.join(close)}'?" if close else f"Known: {', '.join(known)}."
    return f"unknown key {_quoted(key)}. {hint}"


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null",
             dict: "a mapping {name: value, ...}"}
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is list:
        return f"a list, each item {_type_name(parts[0])}"
    if typing.get_origin(hint) is dict:
        return f"a mapping {{name: value, ...}} to {_type_name(parts[1])}"
    if parts:
        return " or ".join(_type_name(part) for part in parts)
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def as_typed(value: Any) -> str:
    """Return a value as it is typed after `key=`."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).removesuffix("...\n").strip()


def _quoted(value: Any) -> str:
    """Return a value as a message quotes it: printable, and at most MOST_QUOTED characters long."""
    try:
        text = repr(value).encode("utf-8", "backslashreplace").decode()
    except ValueError:
        text = "a number of more digits than are read"
    return text if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]}..."


def _reason(error: Exception) -> str:
    """Return in one short line what went wrong while settings were read."""
    text = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
    return text.partition(" full_key:")[0][:MOST_QUOTED]
