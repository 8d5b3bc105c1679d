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
from omegaconf.errors import OmegaConfBaseException

from tardiff.utils.errors import UserError
from tardiff.utils.plain_yaml import MOST_QUOTED, NULL, Plain, as_typed, guessed, parse, quoted, read_mapping, reason

OmegaConf.register_resolver("folder_name", lambda path: Path(os.path.abspath(path)).name, replace=True)

UNIONS = (typing.Union, types.UnionType)
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null",
         dict: "a mapping {name: value, ...}"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is declared of a field.

    `text` documents it in `--help`; `choices`, `low` and `high` (both inclusive) bound its value or its items;
    `semantic=False` marks a field whose change does not alter the result, so that a run may resume with another value.
    A field that holds the arguments of another command names its schema. Its type and its value are those in a schema.
    """

    text: str
    choices: tuple = ()
    low: float = -math.inf
    high: float = 2**63 - 1
    semantic: bool = True
    arguments_of: type | None = None
    hint: Any = None
    value: Any = None


def setting(default: Any, text: str, **declared: Any) -> Any:
    """Declare a configuration field, as `Setting` says. Defaults may hold interpolations: `runs/${name}`; a type is the
    dataclass of a section."""
    metadata = vars(Setting(text, **declared))
    if isinstance(default, (list, dict, type)):
        factory = default if isinstance(default, type) else default.copy
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def load_settings(schema: type, path: str | Path | None = None, overrides: Sequence[str] = (),
                  values: Mapping[str, Any] | None = None) -> Any:
    """Build an instance of the dataclass `schema`: defaults < YAML file < `key=value` texts < `values` by dotted name.

    Every unknown key is collected into one UserError that names the source, and of the values that stand in the end
    every wrong type, value out of range and setting that cannot apply (what a method `faults` of a dataclass yields, by
    field name).
    """
    settings = _settings(schema())
    config = OmegaConf.create(dataclasses.asdict(schema()), flags={"allow_objects": True})
    sources, faults = dict.fromkeys(settings, "default"), []
    for source, key, value in _assignments(settings, path, overrides, values or {}, faults):
        name = next((name for name in settings if f"{key}.".startswith(f"{name}.")), None)
        if name is None or (key != name and dict not in _kinds(settings[name].hint)):
            faults.append(f"{source}: {_unknown(key, settings, config)}")
            continue
        with contextlib.suppress(ValueError):  # One that refers to another setting takes its type from that, below.
            value = _converted(value, settings[name].hint if key == name else Any)
        try:
            OmegaConf.update(config, key, value, merge=False, force_add=True)
            sources[name] = source
        except (OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
            fault = (f"cannot be {quoted(value)} ({reason(error)})" if key == name else
                     f"needs a mapping under '{name}' ({name}={{...}}), got {quoted(value)}")
            faults.append(f"{source}: {quoted(key)} {fault}.")
    loaded = {}
    for name, declared in settings.items():
        try:
            value = OmegaConf.select(config, name, throw_on_missing=True)
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            loaded[name] = _checked(value, declared)
        except OmegaConfBaseException as error:
            if sources[name] != "default" or not faults:  # A default fails because of what it refers to.
                faults.append(f"{sources[name]}: '{name}': {reason(error)}.")
        except ValueError as error:
            faults.append(f"{sources[name]}: '{name}' must be {error}")
    if not faults:
        instance = _filled(schema(), loaded)
        faults = [f"{sources.get(prefix + name, 'default')}: '{prefix}{name}' {fault}"
                  for prefix, section in _sections(instance) for name, fault in getattr(section, "faults", tuple)()]
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise UserError(f"{count} in the configuration:\n" + "\n".join(f"  - {fault}" for fault in faults))
    return instance


def to_yaml(instance: Any) -> str:
    """Return a settings instance as YAML, in the order of its fields."""
    return yaml.safe_dump(dataclasses.asdict(instance), sort_keys=False, allow_unicode=True)


def semantic_values(instance: Any) -> dict[str, Any]:
    """Return the dotted names and values of the fields that decide the result."""
    return {name: declared.value for name, declared in _settings(instance).items() if declared.semantic}


def describe(schema: type) -> list[str]:
    """Return help on each setting of `schema`: its dotted name, the value that a command would use, and what it is."""
    lines = []
    for name, declared in _settings(load_settings(schema)).items():
        choices = f" One of {', '.join(declared.choices)}." if declared.choices else ""
        lines.append(f"  {name}={as_typed(declared.value)}\n      {declared.text}{choices}")
    return lines


def _sections(instance: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a dataclass and the dataclasses in it, each after what the dotted names of its settings begin with."""
    yield prefix, instance
    for name, value in vars(instance).items():
        if dataclasses.is_dataclass(value):
            yield from _sections(value, f"{prefix}{name}.")


def _settings(instance: Any) -> dict[str, Setting]:
    """Return every setting of a dataclass and of the dataclasses in it, by dotted name."""
    settings = {}
    for prefix, section in _sections(instance):
        hints = typing.get_type_hints(type(section))
        for field in dataclasses.fields(section):
            if not dataclasses.is_dataclass(hints[field.name]):
                settings[prefix + field.name] = Setting(**field.metadata | {
                    "hint": hints[field.name], "value": getattr(section, field.name)})
    return settings


def _filled(section: Any, loaded: Mapping[str, Any], prefix: str = "") -> Any:
    """Return a dataclass with values by dotted name, and so the dataclasses in it."""
    return dataclasses.replace(section, **{
        name: _filled(value, loaded, f"{prefix}{name}.") if dataclasses.is_dataclass(value) else loaded[prefix + name]
        for name, value in vars(section).items()})


def _assignments(settings: Mapping[str, Setting], path: str | Path | None, overrides: Sequence[str],
                 values: Mapping[str, Any], faults: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield (source, dotted key, value) of every assignment, the last of which wins."""
    if path is not None:
        yield from _flat(settings, str(path), read_mapping(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        kinds = _kinds(settings[key].hint) if key in settings else {Any}
        is_text = str in kinds and not (kinds & {list, dict} and text.startswith(("[", "{")))
        try:
            override.encode()
            if not equals or not all(key.split(".")):
                raise ValueError("expected key=value")
            value = Plain(text) if is_text else parse(text)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            advice = " Put quotes around items such as 'key=[1, 2]' in a list." if text.count("[") > 1 else ""
            faults.append(f"command line: {quoted(override)} cannot be read ({reason(error)}).{advice}")
            continue
        yield from _flat(settings, f"command line {quoted(override)}", {key: value})
    yield from _flat(settings, "settings", values)


def _flat(settings: Mapping[str, Setting], source: str, values: Mapping[str, Any], prefix: str = ""
          ) -> Iterator[tuple[str, str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and any(leaf.startswith(f"{name}.") for leaf in settings):
            yield from _flat(settings, source, value, f"{name}.")
        else:
            yield source, name, value


def _unknown(key: str, settings: Mapping[str, Setting], config: DictConfig) -> str:
    """Say that a key is no setting, and which one may be meant: one more among the arguments of another command, as
    `config` has them so far, one of this name in a section, or one of the same section that is spelt alike."""
    if any(name.startswith(f"{key}.") for name in settings):
        return f"'{key}' must hold settings ({key}.KEY=...)."
    of_commands = {name: key.removeprefix(f"{name}.") for name, declared in settings.items()
                   if declared.arguments_of is not None
                   and (key.startswith(f"{name}.") or key in _settings(declared.arguments_of()))}
    if of_commands:
        given = {name: OmegaConf.to_container(config)[name] or [] for name in of_commands}
        listed = {name: [value] if isinstance(value, str) else value for name, value in given.items()}
        meant = [f"'{name}={as_typed([*listed[name], f'{own}=...'])}'" for name, own in of_commands.items()]
        return f"unknown key {quoted(key)}. Did you mean {' or '.join(meant)}?"
    section = f"{key.rpartition('.')[0]}."
    section = section if any(name.startswith(section) for name in settings) else ""
    known = dict.fromkeys(section + name.removeprefix(section).partition(".")[0]
                          for name in settings if name.startswith(section))
    close = ([name for name in settings if name.endswith(f".{key}")]
             or difflib.get_close_matches(key[:MOST_QUOTED], known, n=1, cutoff=0.8 if section else 0.6))
    hint = f"Did you mean '{' or '.join(close)}'?" if close else f"Known: {', '.join(known)}."
    return f"unknown key {quoted(key)}. {hint}"


def _kinds(hint: Any) -> set[Any]:
    """Return the types of a union, or the one type, without those of items."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)
    return {typing.get_origin(part) or part for part in parts}


def _checked(value: Any, declared: Setting) -> Any:
    """Return a value as a setting holds it. Raises ValueError that says what was expected, and what was given."""
    try:
        value = _converted(value, declared.hint)
    except ValueError:
        raise ValueError(f"{_words(declared.hint)}, got {quoted(value)}.") from None
    for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]:
        if declared.choices and item is not None and item not in declared.choices:
            close = difflib.get_close_matches(str(item)[:MOST_QUOTED], declared.choices, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise ValueError(f"one of {', '.join(declared.choices)}, got {quoted(item)}.{hint}")
        if type(item) not in (int, float):
            continue
        if item in (math.inf, -math.inf) or item != item:
            raise ValueError(f"a finite number, got {item}.")
        if not declared.low <= item <= declared.high:
            limit = f"at least {declared.low}" if item < declared.low else f"at most {declared.high}"
            raise ValueError(f"{limit}, got {quoted(item)}.")
    return value


def _converted(value: Any, hint: Any) -> Any:
    """Return a value as a type has it, text as what it looks like where that is Any. Raises ValueError if it does not
    fit."""
    kind, items = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in UNIONS:
        if type(None) in items and isinstance(value, Plain) and value in NULL:
            return None
        for part in items:
            with contextlib.suppress(ValueError):
                return _converted(value, part)
    of_item = items[-1] if items else Any
    if isinstance(value, (list, tuple)) and kind in (list, Any):
        return [_converted(item, of_item) for item in value]
    if isinstance(value, dict) and kind in (dict, Any):
        return {key: _converted(item, of_item) for key, item in value.items()}
    if isinstance(value, str) and kind in OF_TEXT:
        return OF_TEXT[kind](value)
    value = value.item() if isinstance(value, np.generic) else value
    if type(value) is int and kind is float:
        return float(str(value))  # Of text, for which no number is too large.
    if type(value) is kind or (kind is Any and type(value) in (int, float, bool, type(None))):
        return value
    raise ValueError


def _whole(text: str) -> int:
    number = int(text) if text.isdecimal() else float(text)  # Decimal, whatever it begins with.
    if number % 1:
        raise ValueError
    return int(number)


OF_TEXT = {str: str, int: _whole, float: float, Any: guessed,
           bool: lambda text: ["false", "true"].index(text.lower()) == 1}


def _words(hint: Any) -> str:
    """Return what a type is called in messages."""
    kind, items = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is list:
        return f"a list, each item {_words(items[0])}"
    if kind is dict and items and items[1] is not Any:
        return f"{WORDS[dict]} to {_words(items[1])}"
    return " or ".join(map(_words, items)) if kind in UNIONS else WORDS[kind]
