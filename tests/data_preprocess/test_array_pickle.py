"""Pickles of arrays: every protocol of numpy 1 and 2 reads back, and nothing that a hostile one asks for ever runs."""

import os
import pickle
import pickletools
import struct
import tracemalloc

import numpy as np
import pytest

from data_preprocess.array_pickle import read_arrays
from tardiff.utils.errors import UserError

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def read(path, content):
    path.write_bytes(content)
    return read_arrays(path)


def refusal(path, content):
    with pytest.raises(UserError) as refused:
        read(path, content)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and "numpy.savez" in message
    return message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train_tuple.pkl"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("module", [b"numpy._core", b"numpy.core"])
def test_every_protocol_reads_back(path, protocol, module):
    y = np.array(["died", "é"])
    for x in (X, X.astype(np.float64), X.astype(">f4"), np.asfortranarray(X), X.transpose(0, 2, 1), X[:, ::2],
              X.astype(np.int16), X > 5, X.astype(np.float16), X[:0]):
        content = pickle.dumps((x, y, np.array([1, 0])), protocol)
        if module == b"numpy.core":
            # Names stand in lines in protocols 0 to 3; later ones tell their lengths.
            content = content.replace(b"numpy._core", module) if protocol < 4 else renamed(content)
        if not x.size and protocol < 3:
            assert "__builtin__.bytes" in refusal(path, content)  # how these protocols write no bytes
            continue
        found, classes, numbers = read(path, content)
        assert found.dtype == x.dtype and classes.tolist() == ["died", "é"] and numbers.tolist() == [1, 0]
        np.testing.assert_array_equal(found, x, err_msg=f"{x.dtype} {x.strides}")


def renamed(content):
    """Turn the names of numpy 2 in a pickle of protocol 4 or 5 into those of numpy 1."""
    for name in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + name, b"numpy.core." + name
        content = content.replace(bytes([len(new)]) + new, bytes([len(old)]) + old)
    start = content.index(b"\x95") + 1  # the frame is as much shorter as the file
    names = sum(content.count(b"numpy.core." + name) for name in (b"multiarray", b"numeric"))
    length = struct.unpack("<Q", content[start:start + 8])[0]
    return content[:start] + struct.pack("<Q", length - names) + content[start + 8:]


def test_a_list_of_arrays_reads_as_a_tuple_does(path):
    np.testing.assert_array_equal(read(path, pickle.dumps([X, X]))[1], X)


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def hostile(marker):
    """Ways to make the file `marker` or to load another pickle, by the name that the message must tell."""
    command = f"touch {marker}"
    payload = pickle.dumps(Call(os.system, command), 2)
    return {
        f"{os.system.__module__}.system": Call(os.system, command),
        "builtins.eval|__builtin__.eval": Call(eval, f"open({str(marker)!r}, 'w')"),
        "builtins.exec|__builtin__.exec": Call(exec, f"open({str(marker)!r}, 'w')"),
        "builtins.getattr|__builtin__.getattr": Call(getattr, X, "tofile"),
        "numpy.load": Call(np.load, str(marker), None, True),
        "numpy.fromfile|numpy._core.multiarray.fromfile": Call(np.fromfile, "/dev/zero", np.uint8, 4),
        "numpy.memmap": Call(np.memmap, str(marker), "u1", "w+", 0, (4,)),
        "pickle.loads|_pickle.loads|cPickle.loads": Call(pickle.loads, payload),
        "numpy.array|numpy._core.multiarray.array": Call(np.array, [1]),
        "numpy._core.multiarray.scalar": np.float64(1),
        "numpy.ma": np.ma.masked_array([1.0], [True]),
        "Call": Call,
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("position", ["alone", "after arrays", "in an object array", "in a state"])
def test_hostile_pickles_are_refused_by_name_and_run_nothing(tmp_path, path, protocol, position):
    marker = tmp_path / "run"
    for names, value in hostile(marker).items():
        if position == "after arrays":
            value = (X, X, value)
        elif position == "in an object array":
            value = (np.array([value, None], dtype=object), X)
        elif position == "in a state":
            value = Call(np.dtype, value)
        message = refusal(path, pickle.dumps(value, protocol))
        assert "refused" in message and not marker.exists()
        if position in ("alone", "after arrays"):
            assert any(name in message for name in names.split("|")), (names, message)


def test_a_payload_in_raw_instructions_is_refused_and_runs_nothing(tmp_path, path):
    marker = tmp_path / "run"
    call = f"touch {marker}".encode()
    for content in (b"cos\nsystem\n(S'" + call + b"'\ntR.", b"(S'" + call + b"'\nios\nsystem\n.",
                    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(call)]) + call + b"\x85R.",
                    b"cnumpy\nndarray.__class__\n.", b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93."):
        assert "refused" in refusal(path, content)
        assert not marker.exists()


@pytest.mark.parametrize("value", [np.array([1, None], dtype=object), np.zeros(2, dtype=[("a", "f4")]),
                                   np.zeros(2, dtype="datetime64[s]"), np.zeros(2, dtype=complex),
                                   np.zeros((1, 1, 1, 1)),
                                   np.zeros(2, dtype="V4"), {"x": X}, {1, 2}], ids=lambda value: str(type(value)))
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_other_types_are_refused(path, value, protocol):
    assert "refused" in refusal(path, pickle.dumps((X, value), protocol))


@pytest.mark.parametrize("value", [X, (X, 1), (X, [0, 1]), (X, "text"), None])
def test_what_is_no_tuple_of_arrays_is_named(path, value):
    assert "holds something other than arrays" in refusal(path, pickle.dumps(value, 4))


@pytest.mark.parametrize("protocol", range(6))
def test_every_truncation_is_refused(path, protocol):
    content = pickle.dumps((X, np.arange(2)), protocol)
    for length in range(0, len(content), 29):
        refusal(path, content[:length])


def bombs():
    """Pickles of a few bytes that ask for much memory or time."""
    array = pickle.dumps((X[0, 0],), 4)
    wide = bytes.fromhex("8a06") + (1 << 44).to_bytes(6, "little")
    length = array.rindex(b"K\x04\x85")
    grown = array[:length].replace(b"\x95", b"\x95", 1) + wide + array[length + 2:]
    frame = grown.index(b"\x95")
    nested = b"\x80\x04)" + b"".join(b"\x94h" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(100))
    return {
        "shape": grown[:frame] + grown[frame + 9:],  # without its frame, whose length is another now
        "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 46) + b"x.",
        "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 46) + b"x.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 46) + b"N.",
        "memo": b"\x80\x02Nr\xff\xff\xff\xff.",
        "text memo": b"Np99999999999999\n.",
        "nested keys": nested + b"}" + b"h\x63Ns.",
        "reconstruct": pickle.dumps((Call(np._core.multiarray._reconstruct, np.ndarray, (1 << 44,), b"b"),), 2),
        "type": pickle.dumps((Call(np.dtype, "U999999999"),), 2),
        "number": b"L" + b"9" * 100_000 + b"L\n.",
    }


@pytest.mark.parametrize("bomb", bombs())
def test_bombs_are_refused_in_little_memory(path, bomb):
    path.write_bytes(bombs()[bomb])
    tracemalloc.start()
    with pytest.raises(UserError):
        read_arrays(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_shape_that_the_bytes_do_not_fill_is_refused(path):
    content = pickle.dumps((X[0, 0],), 4)
    assert content.count(b"K\x04\x85") == 1
    for size in (0, 3, 5, 255):
        assert "in 16 bytes" in refusal(path, content.replace(b"K\x04\x85", b"K" + bytes([size]) + b"\x85"))


def test_text_that_is_not_unicode_is_refused(path):
    content = pickle.dumps((np.array(["ab"]),), 4)
    assert "not Unicode" in refusal(path, content.replace(b"a\0\0\0b\0\0\0", b"a\0\0\0b\0\0\xff"))


def test_random_damage_never_escapes(path):
    """Whatever bytes change, the result is arrays or one UserError."""
    generator = np.random.default_rng(0)
    for protocol in (0, 2, 4, 5):
        content = pickle.dumps((X, np.array(["a", "b"])), protocol)
        for _ in range(60):
            damaged = bytearray(content)
            for position in generator.integers(len(content), size=generator.integers(1, 4)):
                damaged[position] = generator.integers(256)
            path.write_bytes(damaged)
            try:
                arrays = read_arrays(path)
            except UserError:
                continue
            assert all(isinstance(array, np.ndarray) for array in arrays)


def test_every_opcode_allowed_exists():
    from data_preprocess.array_pickle import OPCODES
    assert {opcode.name for opcode in pickletools.opcodes} >= OPCODES
