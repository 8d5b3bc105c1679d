"""Files that appear whole or not at all, and tensors that are read without pickle."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import inspect
import json
import os
import pickle
import re
import shutil
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tardiff.utils.errors import UserError, first_line

JSON_TYPES = {dict: "an object", str: "text", int: "a whole number"}
RESTORE = "Restore it, or delete it and run the stage that makes it again."

# What numpy raises on a damaged .npy or .npz file, on one with Python objects, or on one that claims a huge size.
DAMAGED_ARRAYS = (OSError, EOFError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, MemoryError,
                  zipfile.BadZipFile, zlib.error, tokenize.TokenError)

TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
"""The names that `atomic_path` gives."""


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn a failure to write inside the block into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). "
                        "Free some space or choose another output folder.") from error


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, and rename it to `path` when the block succeeds.

    The file is flushed to disk before the rename, so `path` is either absent, old or complete.
    Raises UserError if the disk is full or the folder cannot be written; nothing is left behind then.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with contextlib.suppress(OSError):  # A lock tells it from what a kill left, where the system has locks.
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files of `atomic_path` that nobody writes any more, in `folder` and the folders in it."""
    for path in [*Path(folder).glob(".*.tmp"), *Path(folder).glob("*/.*.tmp")]:
        if TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(OSError), open(path, "rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, and put it in the place of `path` and all that it holds when the block
    succeeds.

    The folder, `.<name>.new`, is removed if the block fails; one that a killed run left is replaced. Raises UserError
    if the disk is full or the folder cannot be written.
    """
    path = Path(path).resolve()
    folder = path.with_name(f".{path.name}.new")
    with writing(path):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
            if path.exists():
                shutil.rmtree(path)
            folder.rename(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def require_folder(path: str | Path) -> None:
    """Raise UserError if `path`, where a folder is to be written, is a file or would stand in one."""
    found = next(place for place in (Path(path), *Path(path).parents) if place.exists())
    if not found.is_dir():
        raise UserError(f"{found}: is a file; give a folder for the output.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` atomically, as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def require_readable(path: str | Path, error: Exception) -> None:
    """Raise UserError if an error of reading says nothing of the content: the file is absent, or the system does not
    let this user read it."""
    if isinstance(error, FileNotFoundError):
        raise UserError(f"{path}: file not found.") from None
    # A damaged archive sends its reader to a place before its beginning, which the system calls an invalid argument.
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from None


def read_json(path: str | Path, *keys: str, **types: type) -> dict[str, Any]:
    """Read a JSON object. Raises UserError if the file is missing, unreadable or malformed, lacks one of the keys, or
    holds another type than those given by key."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # Also text that is none, or a number of many digits.
        require_readable(path, error)
        raise UserError(f"{path}: not valid JSON ({first_line(error)}). Restore the file or make it again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object.")
    missing = [key for key in (*keys, *types) if key not in content]
    if missing:
        raise UserError(f"{path}: missing {', '.join(missing)}.")
    for key, kind in types.items():
        if not isinstance(content[key], kind):
            raise UserError(f"{path}: '{key}' must be {JSON_TYPES[kind]}. Restore the file or make it again.")
    return content


def open_arrays(path: str | Path) -> np.ndarray | np.lib.npyio.NpzFile:
    """Open an .npy or .npz file without pickle.

    Raises what DAMAGED_ARRAYS lists, also where unpacking an archive would take more than the memory of the machine.
    """
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.lib.npyio.NpzFile):
        size = sum(entry.file_size for entry in content.zip.infolist())
        if size > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            content.close()
            raise ValueError(f"unpacked it would take {size / 1e9:,.0f} GB, more than the memory of this machine")
    return content


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors and string metadata to a safetensors file, atomically, with a hash of both."""
    metadata = dict(metadata or {})
    metadata["content"] = fingerprint(tensors, metadata)
    copies = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
              for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            # One entry, for the library writes several in any order, and equal content is to give equal bytes.
            entry = json.dumps(metadata, sort_keys=True)
            safetensors.torch.save_file(copies, temporary, {"tardiff": entry})
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error


def load_tensors(path: str | Path, *keys: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors by name (on the CPU) and its metadata.

    Raises UserError if the file is missing or unreadable, if it is not what was written, hash by hash, or if its
    metadata lack one of the keys.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
            metadata = json.loads((file.metadata() or {}).get("tardiff", "{}"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        require_readable(path, error)
        raise UserError(f"{path}: not a complete safetensors file ({first_line(error)}). {RESTORE}") from None
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: its metadata are damaged. {RESTORE}")
    missing = [key for key in ("content", *keys) if key not in metadata]
    if missing:
        raise UserError(f"{path}: not written by this version of TarDiff (its metadata lack {', '.join(missing)}). "
                        f"{RESTORE}")
    content = metadata.pop("content")
    if content != fingerprint(tensors, metadata):
        raise UserError(f"{path}: damaged, its content is not what was written. {RESTORE}")
    return tensors, metadata


def save_arrays(path: str | Path, **arrays: np.ndarray | float) -> None:
    """Write arrays and numbers by name to an .npz file, atomically, with a hash of them and of the file's name."""
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, content=_content(path, arrays), **arrays)


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read what `save_arrays` wrote. Raises UserError if the file is missing, unreadable, or not what was written."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if str(arrays.pop("content")) != _content(path, arrays):
            raise ValueError("its content is not what was written")
    except DAMAGED_ARRAYS as error:
        require_readable(path, error)
        raise UserError(f"{path}: damaged ({first_line(error)}). Delete it, and the same command makes it again."
                        ) from None
    return arrays


def _content(path: str | Path, arrays: Mapping[str, np.ndarray]) -> str:
    return fingerprint(Path(path).name, *[part for name in sorted(arrays) for part in (name, arrays[name])])


def save_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a training state (tensors, numbers, strings and containers of them) atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:  # What torch makes of a failed write.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a training state with `weights_only=True`, on the CPU. Raises UserError if it is missing or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            if (entry := archive.testzip()) is not None:
                raise zipfile.BadZipFile(entry)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile,
            zlib.error) as error:
        require_readable(path, error)
        raise UserError(f"{path}: damaged or not a TarDiff training state. Delete it, and the run starts again."
                        ) from None


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Load `tensors` into `module`. Raises UserError naming the first mismatch if they do not fit exactly."""
    expected = module.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            state = "missing" if name in expected else "unexpected"
            raise UserError(f"{source}: tensor '{name}' is {state}; the weights belong to another model configuration, "
                            "or to an earlier version, whose models must be trained again.")
        if expected[name].shape != tensors[name].shape:
            raise UserError(f"{source}: tensor '{name}' has shape {tuple(tensors[name].shape)}, "
                            f"the model needs {tuple(expected[name].shape)}.")
        if not torch.isfinite(tensors[name]).all():
            raise UserError(f"{source}: tensor '{name}' is not finite: the training diverged. Train again with a lower "
                            "learning rate, in another output folder.")
    module.load_state_dict(tensors)


def source_fingerprint(thing: Any) -> str:
    """Return a hash of the source file in which a class, function or instance is defined; of its type's name where
    there is no source."""
    defined = thing if inspect.isclass(thing) or inspect.isfunction(thing) else type(thing)
    try:
        return fingerprint(Path(inspect.getsourcefile(defined)).read_text(encoding="utf-8"))
    except (OSError, TypeError):
        return fingerprint(f"{defined.__module__}.{defined.__qualname__}")


def fingerprint(*values: Any) -> str:
    """Return a short SHA-256 of arrays, tensors, strings and JSON-like values in order: equal content, equal result."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            value = (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()  # numpy has none.
        if isinstance(value, np.ndarray):
            if value.dtype == object or value.dtype.kind == "U":
                value = np.char.encode(value.astype(str), "utf-8")  # As wide as the longest text, not as declared.
            digest.update(f"{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        elif isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values()):
            digest.update(fingerprint(*[part for name in sorted(value) for part in (name, value[name])]).encode())
        else:
            digest.update(json.dumps(value, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]
