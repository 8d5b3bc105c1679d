"""Pickles of plain numpy arrays, read without running anything that a pickle asks for.

The original release of TarDiff keeps its data as pickled tuples `(x, y)`. A pickle is a program; this reader refuses
every instruction that arrays do not need before it follows the first one, and then lends the rest stand-ins for the few
names of numpy that arrays ask for. The stand-ins only collect type, shape and bytes, check that these agree, and make
the array of the bytes in the file. No code of numpy, and of nothing else, is called with what a pickle supplies.
"""

from __future__ import annotations

import math
import mmap
import pickle
import pickletools
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tardiff.utils.errors import UserError

# What pickles of tuples of arrays are made of, in protocols 0 to 5. Containers that hash or grow are not among it.
OPCODES = frozenset((
    "PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS",
    "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
))
# An unpickler makes room for the number that one of these names, however large.
MEMO_WRITES = ("PUT", "BINPUT", "LONG_BINPUT")
NOT_ARRAYS = ("Expected a pickled tuple (x, y) of plain numpy arrays. Open it where you trust it and save it with "
              "numpy.savez(file, x=x, y=y).")
# What an unpickler raises on a stream that is damaged or means something else.
UNREADABLE = (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError,
              OverflowError,               MemoryError)


class Refused(Exception):
    """The pickle asks for something that arrays do not need; the message says what."""


class TypeStandIn:
    """Stands for `numpy.dtype`: numbers, truth values and text of a fixed size, nothing else."""

    def __init__(self, code: str, align: Any = False, copy: Any = True) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"b1|[iu][1248]|f[248]|U[1-9]\d{0,3}", code)):
            raise Refused(f"an array of type {code!r:.40}; only numbers, truth values and text are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        byte_order = state[1]
        if byte_order not in ("<", ">", "|", "="):
            raise Refused(f"an array with byte order {byte_order!r:.40}")
        self.dtype = self.dtype.newbyteorder(byte_order)


class ArrayStandIn:
    """Stands for `numpy.ndarray`, empty until `__setstate__` fills it."""

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, is_fortran, content = state
        self.array = array_of(content, kind, shape, "F" if is_fortran else "C")


def array_of(content: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    """View bytes as an array of this type and shape. Raises Refused if they do not have exactly the length for it."""
    if not isinstance(kind, TypeStandIn):
        raise Refused("an array whose type is not a numpy.dtype")
    if not isinstance(content, bytes | bytearray):
        raise Refused("an array whose values are not bytes; arrays of Python objects are never read")
    if not (isinstance(shape, tuple) and len(shape) <= 3 and all(type(size) is int and size >= 0 for size in shape)):
        raise Refused(f"an array of shape {shape!r:.40}; at most 3 axes are read")
    if math.prod(shape) * kind.dtype.itemsize != len(content):
        raise Refused(f"an array of shape {shape} {kind.dtype} in {len(content):,} bytes")
    array = np.frombuffer(content, kind.dtype)
    if kind.dtype.kind == "U" and len(content) and array.view(kind.dtype.str[0] + "u4").max() > sys.maxunicode:
        raise Refused("text that is not Unicode")
    return array.reshape(shape, order=order)


def reconstruct(array_type: Any, shape: Any, code: Any) -> ArrayStandIn:
    """Stand for `numpy.core.multiarray._reconstruct`, which makes an array that BUILD fills later."""
    if array_type is not ArrayStandIn:
        raise Refused("an array of a class other than numpy.ndarray")
    return ArrayStandIn()


def from_buffer(content: Any, kind: Any, shape: Any, order: Any, axis_order: Any = None) -> ArrayStandIn:
    """Stand for `numpy.core.numeric._frombuffer`, which protocol 5 uses."""
    filled = ArrayStandIn()
    if order == "K":
        filled.array = array_of(content, kind, shape, "C").transpose(axis_order)
    else:
        filled.array = array_of(content, kind, shape, "F" if order == "F" else "C")
    return filled


def encode_latin1(text: Any, encoding: Any) -> bytes:
    """Stand for `_codecs.encode`, by which protocols 0 to 2 write bytes as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"_codecs.encode with encoding {encoding!r:.40}")
    return text.encode("latin1")


# The names that pickles of numpy 1 (core) and numpy 2 (_core) ask for.
STAND_INS = {
    ("numpy", "ndarray"): ArrayStandIn, ("numpy", "dtype"): TypeStandIn, ("_codecs", "encode"): encode_latin1,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): from_buffer for core in ("core", "_core")},
}


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler for which nothing exists but the stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a name. Raises Refused, naming it, if arrays do not need it."""
        if (module, name) not in STAND_INS:
            raise Refused(f"{module}.{name}")
        return STAND_INS[module, name]


def read_arrays(path: Path) -> tuple[np.ndarray, ...]:
    """Read a pickled tuple or list of numpy arrays, written in any protocol; each has at most 3 axes and may be
    read-only.

    Raises UserError that names what was refused, and on a file that is truncated or no pickle.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            check_opcodes(content)
            content.seek(0)
            value = ArrayUnpickler(content).load()
    except Refused as refusal:
        raise UserError(f"{path}: refused, for this pickle asks for {refusal}. Nothing in it was run. "
                        f"{NOT_ARRAYS}") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: not a complete pickle ({error}). {NOT_ARRAYS}") from None
    if not isinstance(value, tuple | list) or not all(isinstance(item, ArrayStandIn) and item.array is not None
                                                      for item in value):
        raise UserError(f"{path}: holds something other than arrays. {NOT_ARRAYS}")
    return tuple(item.array for item in value)


def check_opcodes(content: mmap.mmap) -> None:
    """Go through the instructions of a pickle without following them.

    Raises Refused at the first that arrays do not need, and ValueError where the stream is damaged or ends too early.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name == "GLOBAL" and tuple(argument.split(" ", 1)) not in STAND_INS:
            raise Refused(argument.replace(" ", "."))
        if opcode.name not in OPCODES:
            raise Refused(f"the instruction {opcode.name}")
        if opcode.name in MEMO_WRITES and argument > len(content):
            raise Refused(f"room for {argument:,} objects in a file of {len(content):,} bytes")
