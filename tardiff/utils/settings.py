"""Typed settings: dataclasses with documented, range-checked fields, filled from YAML and `key=value`.

OmegaConf resolves what refers to other settings, `${...}`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
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
from tardiff.utils.plain_yaml import MOST_QUOTED, NULL, Plain, as_typed, guessed, parse, quoted, read_mapping, reason

OmegaConf.register_resolver("folder_name", lambda path: Path(os.path.abspath(path)).name, replace=True)


def setting(default: Any, text: str, *, choices: tuple = (), low: float | None = None, high: float | None = None,
            semantic: bool = True, arguments_of: type | None = None) -> Any:
    """Declare a configuration field.

    `text` documents it in `--help`; `choices`, `low` and `high` (both inclusive) bound its value; `semantic=False`
    marks a field whose change does not alter the result, so that a run may resume with another value. Defaults may
    hold interpolations: `runs/${name}`. A field that holds the arguments of another command names its schema.
    """
    metadata = {"text": text, "choices": choices, "low": low, "high": high, "semantic": semantic,
                "arguments_of": arguments_of}
    if isinstance(default, (list, dict, type)):  # A type is the dataclass of a section.
        factory = default if isinstance(default, type) else default.copy
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def load_settings(schema: type, path: str | Path | None = None, overrides: Sequence[str] = (),
                  values: Mapping[str, Any] | None = None) -> Any:
    """Build an instance of the dataclass `schema`: defaults < YAML file < `key=value` texts < `values` by dotted name.

    Every unknown key, wrong type, value out of range and setting that cannot apply (what a method `faults` of a
    dataclass yields, by field name) is collected into one UserError that names the source.
    """
    leaves = _leaves(schema())
    config, sources = OmegaConf.create(dataclasses.asdict(schema())), dict.fromkeys(leaves, "default")
    faults: list[str] = []
    for source, key, value in _assignments(leaves, path, overrides, values or {}, faults):
        name = next((leaf for leaf in leaves if f"{key}.".startswith(f"{leaf}.")), None)
        if name is None or (key != name and dict not in _parts(leaves[name].hint)):
            faults.append(f"{source}: {_unknown(key, leaves, config)}")
            continue
        hint = leaves[name].hint if key == name else Any
        try:
            OmegaConf.update(config, key, _converted(value, hint), merge=False, force_add=True)
            sources[name] = source
        except GrammarParseError as error:
            faults.append(f"{source}: '{key}' is no valid interpolation ({reason(error)}).")
        except (OmegaConfBaseException, ValueError):
            expected = (f"'{key}' must be {_type_name(hint)}" if key == name else
                        f"{quoted(key)} needs a mapping under '{name}' ({name}={{...}})")
            faults.append(f"{source}: {expected}, got {quoted(value)}.")
    settings = {}
    for name, leaf in leaves.items():
        try:
            value = OmegaConf.select(config, name, throw_on_missing=True)
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            settings[name] = _converted(value, leaf.hint)
            faults += [f"{sources[name]}: {fault}" for fault in _range_faults(name, settings[name], leaf.bounds)]
        except OmegaConfBaseException as error:
            if sources[name] != "default" or not faults:  # A default fails because of what it refers to.
                faults.append(f"{sources[name]}: '{name}': {reason(error)}.")
        except ValueError:
            faults.append(f"{sources[name]}: '{name}' must be {_type_name(leaf.hint)}, got {quoted(value)}.")
    misapplied: list[tuple[str, str]] = []
    instance = None if faults else _instance(schema, settings, misapplied)
    faults += [f"{sources.get(name, 'default')}: '{name}' {fault}" for name, fault in misapplied]
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
        choices = f" One of {', '.join(map(str, leaf.bounds['choices']))}." if leaf.bounds["choices"] else ""
        lines.append(f"  {name}={as_typed(leaf.value)}\n      {leaf.bounds['text']}{choices}")
    return lines


class _Leaf(typing.NamedTuple):
    """One setting: its type, what `setting` said of it, its value, and whether that decides the result."""

    hint: Any
    bounds: Mapping[str, Any]
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


def _instance(schema: type, settings: Mapping[str, Any], faults: list[tuple[str, str]], prefix: str = "") -> Any:
    """Return a dataclass, and the dataclasses in it, of values by dotted name, and add to `faults` the dotted name and
    the fault of each setting that cannot apply, as they themselves tell."""
    instance = schema(**{
        name: _instance(hint, settings, faults, f"{prefix}{name}.") if dataclasses.is_dataclass(hint)
        else settings[prefix + name] for name, hint in typing.get_type_hints(schema).items()})
    faults += [(prefix + name, fault) for name, fault in getattr(instance, "faults", tuple)()]
    return instance


def _assignments(leaves: Mapping[str, _Leaf], path: str | Path | None, overrides: Sequence[str],
                 values: Mapping[str, Any], faults: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield (source, dotted key, value) of every assignment, the last of which wins."""
    if path is not None:
        yield from _flat(leaves, str(path), read_mapping(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = _parts(leaves[key].hint) if key in leaves else {Any}
        try:
            override.encode()
            if not equals or not all(key.split(".")):
                raise ValueError("expected key=value")
            is_text = str in parts and not (parts & {list, dict} and text.startswith(("[", "{")))
            value = Plain(text) if is_text else parse(text)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            advice = " Put quotes around items such as 'key=[1, 2]' in a list." if text.count("[") > 1 else ""
            faults.append(f"command line: {quoted(override)} cannot be read ({reason(error)}).{advice}")
            continue
        yield from _flat(leaves, f"command line {quoted(override)}", {key: value})
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


def _parts(hint: Any) -> set[Any]:
    """Return the types of a union, or the one type, without those of items."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return {typing.get_origin(part) or part for part in parts}


def _converted(value: Any, hint: Any) -> Any:
    """Return a value as what the type asks for, an interpolation as it is. Raises ValueError on anything else."""
    parts = _parts(hint)
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (list, tuple)) and parts & {list, Any}:
        return [_converted(item, _item_hint(hint, list)) for item in value]
    if isinstance(value, dict) and parts & {dict, Any}:
        return {key: _converted(item, _item_hint(hint, dict)) for key, item in value.items()}
    if isinstance(value, str):
        return str(value) if "${" in value else _of_text(value, parts)
    if type(value) is int and float in parts and int not in parts:
        return float(value) if abs(value) < 1e300 else math.inf
    if type(value) not in ({int, float, bool, type(None)} if Any in parts else parts):
        raise ValueError
    return value


def _of_text(text: str, parts: set[Any]) -> Any:
    """Return text as what one of the types asks for. Raises ValueError if it fits none."""
    if isinstance(text, Plain) and text in NULL and type(None) in parts:
        return None
    if {str, float} <= parts:
        with contextlib.suppress(ValueError):
            return float(text)
    if str in parts:
        return str(text)
    if bool in parts:
        return ["false", "true"].index(text.lower()) == 1
    if int in parts:
        number = int(text) if text.isdecimal() else float(text)  # Decimal, whatever it begins with.
        if number % 1:
            raise ValueError
        return int(number)
    if float in parts:
        return float(text)
    if Any in parts:
        return guessed(text)
    raise ValueError


def _item_hint(hint: Any, kind: type) -> Any:
    """Return the type of the items of a list or the values of a dict, also where it is one part of a union."""
    parts = [part for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is kind]
    return typing.get_args(parts[0])[-1] if parts else Any


def _range_faults(name: str, value: Any, bounds: Mapping[str, Any]) -> Iterator[str]:
    low, high = bounds["low"], 2**63 - 1 if bounds["high"] is None else bounds["high"]
    for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]:
        if bounds["choices"] and item is not None and item not in bounds["choices"]:
            known = [str(choice) for choice in bounds["choices"]]
            close = difflib.get_close_matches(str(item)[:MOST_QUOTED], known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            yield f"'{name}' must be one of {', '.join(known)}, got {quoted(item)}.{hint}"
        if type(item) not in (int, float):
            continue
        if item in (math.inf, -math.inf) or item != item:
            yield f"'{name}' must be a finite number, got {item}."
        elif low is not None and item < low:
            yield f"'{name}' must be at least {low}, got {quoted(item)}."
        elif item > high:
            yield f"'{name}' must be at most {high}, got {quoted(item)}."


def _unknown(key: str, leaves: Mapping[str, _Leaf], config: DictConfig) -> str:
    """Say that a key is no setting, and which one may be meant: one so named in a section, one spelt alike, or one more
    among the arguments of another command, as `config` has them so far."""
    if any(leaf.startswith(f"{key}.") for leaf in leaves):
        return f"'{key}' must hold settings ({key}.KEY=...)."
    of_commands = {name: leaf.bounds["arguments_of"] for name, leaf in leaves.items() if leaf.bounds["arguments_of"]}
    owners = {name: key for name, schema in of_commands.items() if key in _leaves(schema())}
    owners |= {name: key.removeprefix(f"{name}.") for name in of_commands if key.startswith(f"{name}.")}
    if owners:
        values, meant = OmegaConf.to_container(config), []
        for name, one in owners.items():
            given = [values[name]] if isinstance(values[name], str) else values[name] or []
            meant.append(f"'{name}={as_typed([*given, f'{one}=...'])}'")
        return f"unknown key {quoted(key)}. Did you mean {' or '.join(meant)}?"
    prefix = f"{key.rpartition('.')[0]}." if "." in key else ""
    if not any(leaf.startswith(prefix) for leaf in leaves):
        prefix = ""
    known = dict.fromkeys(prefix + leaf[len(prefix):].partition(".")[0] for leaf in leaves if leaf.startswith(prefix))
    in_sections = [leaf for leaf in leaves if leaf.endswith(f".{key}")]
    close = in_sections or difflib.get_close_matches(key[:MOST_QUOTED], known, n=1, cutoff=0.8 if prefix else 0.6)
    hint = f"Did you mean '{' or '.join(close)}'?" if close else f"Known: {', '.join(known)}."
    return f"unknown key {quoted(key)}. {hint}"


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
