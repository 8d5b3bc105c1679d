"""Typed settings: dataclasses with documented, range-checked fields, filled from YAML and `key=value` arguments."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from pathlib import Path
from typing import Any

import yaml

from tardiff.utils.errors import UserError


def setting(default: Any, text: str, *, choices: tuple = (), low: float | None = None, high: float | None = None,
            semantic: bool = True) -> Any:
    """Declare a configuration field.

    `text` documents it in `--help`; `choices`, `low` and `high` (both inclusive) bound its value; `semantic=False`
    marks a field whose change does not alter the result, so that a run may resume with another value.
    """
    metadata = {"text": text, "choices": choices, "low": low, "high": high, "semantic": semantic}
    if dataclasses.is_dataclass(default) and isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def load_settings(schema: type, path: str | Path | None = None, overrides: list[str] = ()) -> Any:
    """Build an instance of the dataclass `schema` from its defaults, a YAML file and `key=value` overrides, in order.

    Every unknown key, wrong type and value out of range is collected into one UserError that names the source.
    """
    faults: list[str] = []
    values: dict = {}
    sources: dict[str, str] = {}
    if path is not None:
        _lay(values, _read_yaml(path), schema, str(path), "", sources)
    for override in overrides:
        key, equals, text = override.partition("=")
        try:
            if not equals or not all(key.split(".")):
                raise ValueError("expected key=value")
            _lay(values, _nested(key, yaml.safe_load(text), values), schema, f"command line '{override}'", "", sources)
        except (ValueError, yaml.YAMLError) as error:
            faults.append(f"command line: '{override}' cannot be read ({' '.join(str(error).split())}).")
    instance = _build(schema, values, sources, "", faults)
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise UserError(f"{count} in the configuration:\n" + "\n".join(f"  - {fault}" for fault in faults))
    return instance


def to_yaml(instance: Any) -> str:
    """Return a settings instance as YAML, in the order of its fields."""
    return yaml.safe_dump(dataclasses.asdict(instance), sort_keys=False, allow_unicode=True)


def semantic_values(instance: Any, prefix: str = "") -> dict[str, Any]:
    """Return the dotted names and values of the fields that decide the result."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if not field.metadata.get("semantic", True):
            continue
        if dataclasses.is_dataclass(value):
            values |= semantic_values(value, f"{prefix}{field.name}.")
        else:
            values[prefix + field.name] = value
    return values


def describe(schema: type, prefix: str = "") -> list[str]:
    """Return one line of help per field of `schema`: dotted name, default and text."""
    lines = []
    for field in dataclasses.fields(schema):
        if field.default_factory is not dataclasses.MISSING and dataclasses.is_dataclass(field.default_factory):
            lines += describe(field.default_factory, f"{prefix}{field.name}.")
            continue
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        choices = f" One of {', '.join(map(str, field.metadata['choices']))}." if field.metadata["choices"] else ""
        lines.append(f"  {prefix}{field.name}={_short(default)}\n      {field.metadata['text']}{choices}")
    return lines


def _read_yaml(path: str | Path) -> dict:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: configuration file not found.") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected a YAML configuration file.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({error}).") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected 'key: value' lines, got a {type(content).__name__}.")
    return content


def _nested(key: str, value: Any, values: dict) -> dict:
    """Return {a: {b: value}} for the dotted key a.b. Where a holds a mapping in `values` its other entries are kept, so
    that a.b=value sets one entry and a={...} the whole."""
    head, _, rest = key.partition(".")
    if not rest:
        return {head: value}
    current = values.get(head)
    inner = current if isinstance(current, dict) else {}
    return {head: {**inner, **_nested(rest, value, inner)}}


def _lay(values: dict, layer: dict, schema: type, source: str, prefix: str, sources: dict[str, str]) -> None:
    """Lay a layer over `values`, setting by setting, and note for each dotted key that changes which source set it."""
    nested = {field.name: field.default_factory for field in dataclasses.fields(schema)
              if dataclasses.is_dataclass(field.default_factory)}
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if key in nested and isinstance(value, dict):
            if not isinstance(values.get(key), dict):
                values[key] = {}
            _lay(values[key], value, nested[key], source, f"{name}.", sources)
        elif key not in values or values[key] is not value:
            values[key] = value
            sources[name] = source


def _build(schema: type, values: dict, sources: dict[str, str], prefix: str, faults: list[str]) -> Any:
    fields = {field.name: field for field in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema)
    arguments = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        source = sources.get(name, "configuration")
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f" Did you mean '{prefix}{close[0]}'?" if close else f" Known: {', '.join(fields)}."
            faults.append(f"{source}: unknown key '{name}'.{hint}")
            continue
        field = fields[key]
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                faults.append(f"{source}: '{name}' must hold settings ({name}.KEY=...), got {value!r}.")
                continue
            arguments[key] = _build(hints[key], value, sources, f"{name}.", faults)
            continue
        value, fits = _coerce(value, hints[key])
        if not fits:
            faults.append(f"{source}: '{name}' must be {_type_name(hints[key])}, got {value!r}.")
            continue
        faults += [f"{source}: {fault}" for fault in _range_faults(name, value, field.metadata)]
        arguments[key] = value
    return schema(**arguments)


def _range_faults(name: str, value: Any, bounds: typing.Mapping) -> list[str]:
    faults = []
    for item in value if isinstance(value, list) else [value]:
        if bounds["choices"] and item is not None and item not in bounds["choices"]:
            close = difflib.get_close_matches(str(item), map(str, bounds["choices"]), n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            faults.append(f"'{name}' must be one of {', '.join(map(str, bounds['choices']))}, got {item!r}.{hint}")
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            if not math.isfinite(item):
                faults.append(f"'{name}' must be a finite number, got {item}.")
            elif bounds["low"] is not None and item < bounds["low"]:
                faults.append(f"'{name}' must be at least {bounds['low']}, got {item}.")
            elif bounds["high"] is not None and item > bounds["high"]:
                faults.append(f"'{name}' must be at most {bounds['high']}, got {item}.")
    return faults


def _coerce(value: Any, hint: Any) -> tuple[Any, bool]:
    """Return the value as the hinted type (an int passes for a float, "1e-4" too) and whether it fits."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value, True
    if origin in (typing.Union, types.UnionType):
        for part in parts:
            converted, fits = (value, value is None) if part is type(None) else _coerce(value, part)
            if fits:
                return converted, True
        return value, False
    if origin is list:
        if not isinstance(value, list):
            return value, False
        pairs = [_coerce(item, parts[0]) for item in value]
        return ([item for item, _ in pairs] if all(fits for _, fits in pairs) else value), all(f for _, f in pairs)
    if origin is dict:
        return value, isinstance(value, dict)
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value), True
        except ValueError:
            return value, False
    if hint is int and isinstance(value, bool):
        return value, False
    return value, isinstance(value, hint)


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null",
             dict: "a mapping of names to values"}
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is list:
        return f"a list, each item {_type_name(parts[0])}"
    if parts:
        return " or ".join(_type_name(part) for part in parts)
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _short(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
