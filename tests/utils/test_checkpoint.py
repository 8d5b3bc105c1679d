"""Files appear whole or not at all, and no file can run code."""

import os
import pickle
import stat
import zipfile

import numpy as np
import pytest
import torch

from tardiff.utils.checkpoint import (
    atomic_path,
    fingerprint,
    load_arrays,
    load_state,
    load_tensors,
    load_weights,
    read_json,
    save_arrays,
    save_state,
    save_tensors,
    write_json,
    write_text,
)
from tardiff.utils.errors import UserError


class Creates:
    """Unpickled, it makes a file: what code in a downloaded checkpoint could do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_appears_under_its_name_only_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "folder" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(UserError if isinstance(error, OSError) else error) as caught, atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value) and str(path) in str(caught.value)


def test_a_folder_that_cannot_hold_the_file_is_named(tmp_path):
    write_text(tmp_path / "file", "")
    with pytest.raises(UserError, match=r"file/inside\.txt: cannot be written"):
        write_text(tmp_path / "file" / "inside.txt", "text")


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_json_comes_back_and_a_broken_file_is_named(tmp_path):
    value = {"a": [1, 2.5, None], "ü": "日本"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    for content in (b'{"a": ', b"\xff", b""):
        (tmp_path / "b.json").write_bytes(content)
        with pytest.raises(UserError, match=r"b\.json: not valid JSON"):
            read_json(tmp_path / "b.json")


def test_tensors_come_back_with_their_metadata(tmp_path):
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor(3), "c": torch.randn(2).bfloat16()}
    save_tensors(tmp_path / "a.safetensors", tensors, {"key": "value"})
    loaded, metadata = load_tensors(tmp_path / "a.safetensors")
    assert metadata == {"key": "value"} and loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype


def test_tied_weights_are_saved_and_loaded(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_tensors(tmp_path / "a.safetensors", model.state_dict())
    other = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    load_weights(other, load_tensors(tmp_path / "a.safetensors")[0], "a")
    assert torch.equal(other[1].weight, model[0].weight) and torch.equal(other[0].weight, model[0].weight)


def test_a_state_comes_back(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save_state(tmp_path / "a.pt", {"step": 3, "best": 0.5, "model": model.state_dict(),
                                   "optimizer": optimizer.state_dict()})
    state = load_state(tmp_path / "a.pt")
    assert state["step"] == 3 and state["best"] == 0.5
    assert torch.equal(state["model"]["weight"], model.weight)
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize("write", [
    lambda path, value: torch.save({"step": value}, path),
    lambda path, value: torch.save({"step": value}, path, _use_new_zipfile_serialization=False),
    lambda path, value: path.write_bytes(pickle.dumps({"step": value}))])
def test_code_in_a_state_is_refused_and_not_run(tmp_path, write):
    write(tmp_path / "state.pt", Creates(tmp_path / "victim"))
    with pytest.raises(UserError, match=r"state\.pt: damaged or not a TarDiff training state"):
        load_state(tmp_path / "state.pt")
    assert not (tmp_path / "victim").exists()
    with pytest.raises(UserError, match="not a complete safetensors file"):
        load_tensors(tmp_path / "state.pt")
    assert not (tmp_path / "victim").exists()


def damaged(content, seed):
    """Return a file cut short, or overwritten at its head, at its tail or anywhere."""
    generator = np.random.default_rng(seed)
    if seed % 4 == 0:
        return content[:generator.integers(len(content))]
    array = np.frombuffer(content, dtype=np.uint8).copy()
    low, high = [(0, 600), (-600, 0), (-len(content), 0)][seed % 4 - 1]
    array[generator.integers(low, high, size=4) % len(content)] = generator.integers(256, size=4)
    return array.tobytes()


def test_a_damaged_state_is_refused_or_as_it_was(tmp_path):
    save_state(tmp_path / "good.pt", {"step": 3, "weight": torch.ones(400)})
    content, refused = (tmp_path / "good.pt").read_bytes(), 0
    for seed in range(300):
        (tmp_path / "bad.pt").write_bytes(damaged(content, seed))
        try:
            state = load_state(tmp_path / "bad.pt")
        except UserError:
            refused += 1
        else:
            assert state["step"] == 3 and torch.equal(state["weight"], torch.ones(400))
    assert refused > 200


def test_damaged_tensors_never_end_in_another_error(tmp_path):
    save_tensors(tmp_path / "good.safetensors", {"weight": torch.ones(40, 4)}, {"key": "value"})
    content, refused = (tmp_path / "good.safetensors").read_bytes(), 0
    for seed in range(300):
        (tmp_path / "bad.safetensors").write_bytes(damaged(content, seed))
        try:
            load_tensors(tmp_path / "bad.safetensors")
        except UserError:
            refused += 1
    assert refused > 70


def test_missing_files_are_named(tmp_path):
    for load in (load_state, load_tensors, read_json):
        with pytest.raises(UserError, match="gone: file not found"):
            load(tmp_path / "gone")


def test_a_state_is_a_zip_archive_without_foreign_names(tmp_path):
    save_state(tmp_path / "a.pt", {"step": 3, "weight": torch.ones(2)})
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        assert b"torch" in archive.read(name) and b"tardiff" not in archive.read(name)


@pytest.mark.parametrize(("change", "message"), [
    (lambda tensors: tensors.pop("bias"), "'bias' is missing"),
    (lambda tensors: tensors.update(extra=torch.ones(1)), "'extra' is unexpected"),
    (lambda tensors: tensors.update(weight=torch.ones(3, 2)),
     r"'weight' has shape \(3, 2\), the model needs \(2, 3\)")])
def test_weights_of_another_model_are_refused(change, message):
    model = torch.nn.Linear(3, 2)
    tensors = dict(model.state_dict())
    change(tensors)
    with pytest.raises(UserError, match=f"a.safetensors: tensor {message}"):
        load_weights(model, tensors, "a.safetensors")


def test_the_fingerprint_tells_apart_type_shape_order_and_value():
    ones = np.ones((2, 3), dtype=np.float32)
    values = [(ones,), (ones.T,), (ones.astype(np.float64),), (ones, 1), (1, ones), (0 * ones,), ({"a": 1},),
              ({"a": 2},), ("a", "b"), ("ab",), ({"w": torch.ones(2)},), ({"v": torch.ones(2)},)]
    assert len({fingerprint(*value) for value in values}) == len(values)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(torch.ones(2, 3)) == fingerprint(np.asfortranarray(ones))
    first, second = torch.ones(2), torch.zeros(1)
    assert fingerprint({"w": first, "v": second}) == fingerprint({"v": second, "w": first})


@pytest.mark.parametrize(("write", "read"), [
    (lambda path: save_tensors(path, {"weight": torch.arange(12.0)}, {"key": "1"}), load_tensors),
    (lambda path: save_arrays(path, x=np.arange(6), seconds=1.5), load_arrays)])
def test_with_any_byte_flipped_a_file_is_refused_or_as_it_was(tmp_path, write, read):
    """An archive also holds dates and the like, which say nothing of its arrays."""
    path = tmp_path / "file"
    write(path)
    content, expected, refused = path.read_bytes(), repr(read(path)), 0
    for place in range(0, len(content), 2):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << (place // 2 % 8)]) + content[place + 1:])
        try:
            assert repr(read(path)) == expected
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0.3 * len(content)


def test_arrays_of_another_name_are_refused(tmp_path):
    save_arrays(tmp_path / "a.npz", x=np.arange(3))
    (tmp_path / "a.npz").rename(tmp_path / "b.npz")
    with pytest.raises(UserError, match=r"b\.npz: damaged .*Delete it"):
        load_arrays(tmp_path / "b.npz")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("read", [read_json, load_tensors, load_arrays, load_state])
def test_what_may_not_be_read_is_not_called_damaged(tmp_path, read):
    (tmp_path / "file").touch(mode=0o000)
    with pytest.raises(UserError, match=r"file: cannot be read \(Permission denied"):
        read(tmp_path / "file")


@pytest.mark.parametrize("read", [read_json, load_tensors, load_arrays, load_state])
def test_a_folder_in_place_of_a_file_is_not_called_damaged(tmp_path, read):
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
