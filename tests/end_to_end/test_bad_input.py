"""What the commands say to a user who errs: exit code 2, one clear message, nothing half-written.

Most cases run the entry points in this process, through the same main path as the command; a few run the shell scripts.
Every case works in its own copy of a folder that holds a tiny dataset `data` and finished runs of every stage.
"""

import errno
import json
import os
import pickle
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tardiff.data.format import write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.diffusion.process import DiffusionProcess
from tardiff.utils.checkpoint import load_tensors, save_tensors

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "train": ("scripts/train.py", "train.sh", [
        "data=data", "output=out", "device=cpu", "model.base_channels=8", "model.channel_multipliers=[1,1]",
        "model.num_res_blocks=1", "model.num_heads=2", "training.steps=2"]),
    "classifier": ("classifier/train.py", "classifier/train.sh", [
        "data=data", "output=out", "device=cpu", "model.rnn.hidden_size=8", "training.epochs=1"]),
    "generate": ("scripts/generate.py", "generation.sh", [
        "data=data", "base=base", "classifier=classifier", "output=out", "device=cpu", "batch_size=32",
        "sampler.num_inference_steps=2"]),
    "tstr": ("scripts/evaluate_tstr.py", None, [
        "real=data", "synthetic={guided: synthetic}", "output=out", "device=cpu", "seeds=1", "bootstrap=20",
        "model.rnn.hidden_size=8", "training.epochs=1"]),
    "experiment": ("scripts/run_experiment.py", None, ["data=data", "output=out"]),
}
COMMANDS["tsrtr"] = ("scripts/evaluate_tsrtr.py", *COMMANDS["tstr"][1:])
FINISHED = {"model.safetensors", "normalizer.json", "meta.json", "train.npz", "tstr.json", "tstr.csv", "tsrtr.json"}
USER_MODELS = """
import torch
from torch import nn

class Linear(nn.Module):
    def __init__(self, length, num_channels, num_classes, more=0):
        super().__init__()
        self.head = nn.Linear(length * num_channels, num_classes + more)
    def forward(self, x):
        return self.head(x.flatten(1))

class Coupled(Linear):
    def forward(self, x):
        return super().forward(x - x.mean(dim=0))

class NotAModule:
    def __init__(self, length, num_channels, num_classes):
        pass

def mean_loss(logits, y):
    return nn.functional.cross_entropy(logits, y)

def infinite_loss(logits, y):
    return nn.functional.cross_entropy(logits, y, reduction="none") * float("inf")
"""


def main_path(command: str, *arguments: str) -> int:
    """Run an entry point in this process as `python SCRIPT ARGUMENTS` does, and return its exit code."""
    script, _, defaults = COMMANDS[command]
    argv, sys.argv = sys.argv, [script, *defaults, *arguments]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as stop:
        return stop.code
    finally:
        sys.argv = argv
    return 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a tiny dataset and finished runs of all stages."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(ROOT / "scripts"))
        Path("user_models.py").write_text(USER_MODELS)
        for name, seed in (("data", 0), ("other_data", 1)):
            write_dataset(name, *simulate_cohort(200, seed))
        assert main_path("train", "output=base") == 0
        assert main_path("train", "output=base_minmax", "normalizer=minmax") == 0
        assert main_path("classifier", "output=classifier") == 0
        assert main_path("generate", "output=synthetic") == 0
    return folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A copy of the finished folder, made the working folder."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return tmp_path / "work"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def assert_refused(code: int, stderr: str, expected: tuple[str, ...], began: bool = False) -> None:
    """Check the exit code and the message; only a command that `began` its work may have shown progress before it."""
    assert code == 2, stderr
    assert "Traceback" not in stderr
    lines = [line.rpartition("\r")[2] for line in stderr.splitlines()]
    first = next(number for number, line in enumerate(lines) if line.startswith("error: "))
    assert began or first == 0, stderr
    message = "\n".join(lines[first:])
    assert "%|" not in message, "a progress bar stands after the message"
    for text in expected:
        assert text in message, message


def assert_clean(folder: Path, before: dict[Path, bytes], began: bool = False) -> None:
    """Check that nothing changed, or, for a command that `began`, that nothing looks finished."""
    after = contents(folder)
    assert not [path for path in after if path.suffix == ".tmp"]
    changed = {path for path in after.keys() | before.keys() if after.get(path) != before.get(path)}
    if began:
        changed = {path for path in changed if path.name in FINISHED}
    assert not changed


@dataclass(frozen=True)
class Case:
    """A command, what is spoilt before it runs, and what its message must contain."""

    name: str
    command: str
    expected: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    spoil: Callable[[], object] = lambda: None
    began: bool = False


def arrays(change: Callable[[dict], dict], split: str = "train") -> Callable[[], None]:
    """Return a function that replaces arrays of a split by those that `change(arrays)` gives; None removes one."""
    def spoil() -> None:
        path = Path("data", f"{split}.npz")
        with np.load(path) as archive:
            content = dict(archive)
        content |= change(content)
        np.savez(path, **{name: array for name, array in content.items() if array is not None})
    return spoil


def placed(array: np.ndarray, index: tuple | int, value: float) -> np.ndarray:
    result = array.copy()
    result[index] = value
    return result


def meta(change: dict, path: str = "data/meta.json") -> Callable[[], object]:
    """Return a function that changes entries of a JSON file; None removes one."""
    def spoil() -> None:
        content = json.loads(Path(path).read_text()) | change
        Path(path).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return spoil


def text(path: str, content: str) -> Callable[[], object]:
    return lambda: Path(path).write_text(content)


def cut(path: str, share: float = 0.5) -> Callable[[], None]:
    """Return a function that keeps the first part of the file that matches `path`."""
    def spoil() -> None:
        (found,) = Path().glob(path)
        os.truncate(found, int(found.stat().st_size * share))
    return spoil


def flip(path: str) -> Callable[[], None]:
    """Return a function that overwrites bytes in the middle of a file."""
    def spoil() -> None:
        content = bytearray(Path(path).read_bytes())
        middle = len(content) // 2
        content[middle:middle + 64] = bytes(byte ^ 255 for byte in content[middle:middle + 64])
        Path(path).write_bytes(content)
    return spoil


def npz_cases() -> list[Case]:
    faults = [
        ("x_rank", lambda a: {"x": a["x"][0]}, "array x must be (N, L, C) float32, got (24, 7) float32"),
        ("x_float64", lambda a: {"x": a["x"].astype(float)}, "array x must be (N, L, C) float32, got", "float64"),
        ("x_missing", lambda a: {"x": None}, "array x missing"),
        ("y_float", lambda a: {"y": a["y"].astype(float)}, "array y must be (N,) int64", "float64"),
        ("label_high", lambda a: {"y": placed(a["y"], 3, 2)}, "array y, row 3: label 2 is outside 0..1 (1 such rows)"),
        ("label_negative", lambda a: {"y": placed(a["y"], 4, -1)}, "array y, row 4: label -1 is outside 0..1"),
        ("nan_without_mask", lambda a: {"x": placed(a["x"], (4, 5, 6), np.nan), "mask": None},
         "array x, row 4, step 5, channel 6: nan", "there is no mask"),
        ("nan_observed", lambda a: {"x": placed(a["x"], (4, 5, 6), np.nan), "mask": placed(a["mask"], (4, 5, 6), True)},
         "row 4, step 5, channel 6: nan", "NaN is allowed only where mask is False"),
        ("inf", lambda a: {"x": placed(a["x"], (4, 5, 6), np.inf), "mask": placed(a["mask"], (4, 5, 6), False)},
         "row 4, step 5, channel 6: inf"),
        ("mask_shape", lambda a: {"mask": a["mask"][:, :5]}, "array mask must be", "bool, got"),
        ("mask_type", lambda a: {"mask": a["mask"].astype(int)}, "array mask must be", "int64"),
        ("mask_scalar", lambda a: {"mask": np.array(True)}, "array mask must be"),
        ("subject_length", lambda a: {"subject": a["subject"][:9]}, "array subject has 9 rows, array x has"),
        ("subject_scalar", lambda a: {"subject": np.array(3)}, "array subject must be (N,)"),
        ("y_length", lambda a: {"y": a["y"][:9]}, "array y has 9 rows, array x has"),
        ("empty", lambda a: {name: array[:0] for name, array in a.items()}, "the split is empty"),
        ("no_steps", lambda a: {"x": a["x"][:, :0], "mask": None}, "array x has length 0"),
        ("class_missing", lambda a: {"y": 0 * a["y"]}, "no row of class 1 (died)"),
        ("object_array", lambda a: {"subject": np.array([None] * len(a["y"]))}, "holds Python objects"),
    ]
    return [Case(name, "train", ("data/train.npz", *expected), spoil=arrays(change)) for name, change, *expected in faults]


def one_subject_in_two_splits() -> None:
    with np.load("data/train.npz") as train:
        subject = train["subject"][0]
    arrays(lambda a: {"subject": placed(a["subject"], 0, subject)}, "val")()


DATA = [
    Case("no_folder", "train", ("nowhere: dataset folder not found",), ("data=nowhere",)),
    Case("no_folder_classifier", "classifier", ("nowhere: dataset folder not found",), ("data=nowhere",)),
    Case("no_test_split", "tstr", ("data/test.npz: file not found",), spoil=lambda: Path("data/test.npz").unlink()),
    *npz_cases(),
    Case("two_faulty_files", "train", ("data/train.npz: array y", "data/val.npz: file not found"),
         spoil=lambda: (arrays(lambda a: {"y": a["y"] + 5})(), Path("data/val.npz").unlink())),
    Case("shared_subject", "train", ("data: subject", "stands in train and in val"), spoil=one_subject_in_two_splits),
    Case("lengths_differ", "train", ("data: splits differ in (length, channels)", "(24, 7)", "(20, 7)"),
         spoil=arrays(lambda a: {"x": a["x"][:, :20], "mask": a["mask"][:, :20]}, "val")),
    Case("selection_without_a_class", "classifier", ("data/val.npz", "class 1 (died)"),
         spoil=arrays(lambda a: {"y": 0 * a["y"]}, "val")),
    Case("test_without_a_class", "tstr", ("data/test.npz", "class 0 (survived)"),
         spoil=arrays(lambda a: {"y": 0 * a["y"] + 1}, "test")),
    Case("npz_truncated", "train", ("data/train.npz: not a readable .npz",), spoil=cut("data/train.npz")),
    Case("npz_damaged", "train", ("data/train.npz: not a readable .npz",), spoil=flip("data/train.npz")),
    Case("npz_empty", "train", ("data/train.npz: not a readable .npz",), spoil=cut("data/train.npz", 0)),
    Case("npz_pickle", "train", ("data/train.npz: not a readable .npz", "Python objects, which are never loaded"),
         spoil=lambda: Path("data/train.npz").write_bytes(pickle.dumps({"x": 1}))),
    Case("npz_is_npy", "train", ("data/train.npz: expected an .npz archive",),
         spoil=lambda: (np.save("data/train.npy", np.zeros(3)), os.replace("data/train.npy", "data/train.npz"))),
    Case("npz_is_folder", "train", ("data/train.npz: not a readable .npz",),
         spoil=lambda: (Path("data/train.npz").unlink(), Path("data/train.npz").mkdir())),
    Case("meta_missing", "train", ("data/meta.json: file not found",), spoil=lambda: Path("data/meta.json").unlink()),
    Case("meta_malformed", "train", ("data/meta.json: not valid JSON",), spoil=cut("data/meta.json")),
    Case("meta_list", "train", ("data/meta.json: expected a JSON object",), spoil=text("data/meta.json", "[]")),
    Case("meta_folder", "train", ("data/meta.json: cannot be read",),
         spoil=lambda: (Path("data/meta.json").unlink(), Path("data/meta.json").mkdir())),
    Case("meta_key_missing", "train", ("data/meta.json: missing units",), spoil=meta({"units": None})),
    Case("meta_channels", "train", ("data/train.npz: array x has 7 channels, meta.json names 2",),
         spoil=meta({"channels": ["a", "b"], "units": ["", ""]})),
    Case("meta_units", "train", ("data/meta.json: 7 channels but 1 units",), spoil=meta({"units": [""]})),
    Case("meta_one_class", "train", ("data/meta.json: 'classes'", "at least 2"), spoil=meta({"classes": ["all"]})),
    Case("not_expected", "train", ("data: not the dataset", "expect.length=48, the dataset has 24"), ("expect.length=48",)),
]

CONFIG = [
    Case("unknown_key", "train", ("training.stepps", "Did you mean 'training.steps'?"), ("training.stepps=3",)),
    Case("wrong_type", "train", ("'training.steps' must be a whole number, got 'many'",), ("training.steps=many",)),
    Case("out_of_range", "generate", ("'sampler.eta' must be at most 1, got 2",), ("sampler.eta=2",)),
    Case("choice", "generate", ("'guidance.objective' must be one of", "Did you mean 'influence'?"),
         ("guidance.objective=influnce",)),
    Case("several_faults", "classifier",
         ("3 faults in the configuration", "user.yaml: unknown key 'sed'", "'model.name' must be one of",
          "command line 'training.epochs=0': 'training.epochs' must be at least 1"),
         ("user.yaml", "training.epochs=0"), text("user.yaml", "sed: 1\nmodel: {name: transformer}\n")),
    Case("yaml_syntax", "train", ("user.yaml: not valid YAML", "line 2"), ("user.yaml",),
         text("user.yaml", "seed: 1\ntraining: [1\n")),
    Case("yaml_list", "train", ("user.yaml: expected 'key: value' lines, got a list",), ("user.yaml",),
         text("user.yaml", "- seed\n- 1\n")),
    Case("yaml_binary", "train", ("base/model.safetensors: not valid YAML",), ("base/model.safetensors",)),
    Case("config_missing", "train", ("nowhere.yaml: configuration file not found",), ("nowhere.yaml",)),
    Case("config_folder", "train", ("data: is a folder",), ("data",)),
    Case("config_under_a_file", "train", ("data/meta.json/user.yaml: cannot be read",), ("data/meta.json/user.yaml",)),
    Case("two_configs", "train", ("one configuration file, not 2: one.yaml, two.yaml",), ("one.yaml", "two.yaml")),
    Case("no_equals_sign", "train", ("'training.steps' is not of the form key=value",), ("training.steps", "seed=1")),
    Case("option_unknown", "train", ("unrecognized arguments: --steps",), ("--steps", "seed=1")),
    Case("unclosed", "train", ("command line 'data=[a' cannot be read",), ("data=[a",)),
    Case("device_unknown", "train", ("device 'banana' is unknown; use auto, cpu, cuda",), ("device=banana",)),
    Case("device_unsupported", "tstr", ("device 'meta' is not supported",), ("device=meta",)),
    Case("no_levels", "train", ("channel_multipliers",), ("model.channel_multipliers=[]",)),
    Case("num_heads", "train", ("8 channels cannot be divided among num_heads=3",), ("model.num_heads=3",)),
    Case("top_k", "classifier", ("top_k=13", "between 1 and 12"), ("model.name=timesnet", "model.timesnet.top_k=13")),
    Case("experiment_preset", "experiment", ("guidance.guided", "got 5"), ("guidance={guided: 5}",)),
    Case("experiment_stage", "experiment", ("configs/guidance", "guidance.scal", "Did you mean 'guidance.scale'?"),
         ("generation=[guidance.scal=2]",)),
    Case("experiment_config", "experiment", ("nowhere.yaml: configuration file not found",), ("evaluation=nowhere.yaml",)),
]


def without_metadata(path: str) -> Callable[[], None]:
    return lambda: save_tensors(path, load_tensors(path)[0])


def custom(name: str, *more: str) -> tuple[str, ...]:
    return ("model.name=custom", f"model.custom.import_path={name}", *more)


RUNS = [
    Case("model_truncated", "generate", ("base/model.safetensors: not a complete safetensors",), ("guidance.scale=0",),
         cut("base/model.safetensors")),
    Case("classifier_truncated", "generate", ("classifier/model.safetensors: not a complete safetensors",),
         spoil=cut("classifier/model.safetensors")),
    Case("other_architecture", "generate", ("base/model.safetensors: tensor", "another model configuration"),
         spoil=lambda: Path("base/config.yaml").write_text(
             Path("base/config.yaml").read_text().replace("num_res_blocks: 1", "num_res_blocks: 2"))),
    Case("weights_of_another_stage", "generate", ("classifier/model.safetensors: tensor", "another model configuration"),
         spoil=lambda: shutil.copy("base/model.safetensors", "classifier/model.safetensors")),
    Case("base_metadata_missing", "generate", ("base/model.safetensors: not written by TarDiff",),
         spoil=without_metadata("base/model.safetensors")),
    Case("classifier_metadata_missing", "generate", ("classifier/model.safetensors: not written by TarDiff",),
         spoil=without_metadata("classifier/model.safetensors")),
    Case("other_normalizer", "generate", ("classifier: trained with another normaliser than base_minmax",),
         ("base=base_minmax",)),
    Case("normalizer_altered", "generate", ("base/normalizer.json: the content does not match its fingerprint",),
         spoil=meta({"fill": [0.0] * 7}, "base/normalizer.json")),
    Case("normalizer_replaced", "generate", ("base: normalizer.json is not the one",),
         spoil=lambda: shutil.copy("base_minmax/normalizer.json", "base/normalizer.json")),
    Case("unfinished_base", "generate", ("base/model.safetensors: file not found; the training of this run has not",),
         spoil=lambda: Path("base/model.safetensors").unlink()),
    Case("not_a_run", "generate", ("data: not a run folder (no config.yaml)",), ("base=data",)),
    Case("run_of_another_stage", "generate", ("classifier/config.yaml: unknown key 'training.epochs'",),
         ("base=classifier",)),
    Case("state_truncated", "train", ("base/state-2.pt: damaged", "Delete it"), ("output=base", "training.steps=3"),
         cut("base/state-*.pt")),
    Case("state_of_another_stage", "classifier", ("classifier: the saved state does not fit this model",),
         ("output=classifier",), lambda: shutil.copy("base/state-2.pt", "classifier/state-1.pt")),
    Case("pointer_malformed", "train", ("base/latest.json: missing state",), ("output=base",),
         text("base/latest.json", "{}")),
    Case("setting_changed", "train", ("base: begun with other settings", "seed: the run has 0, now 7",
                                      "model.dropout: the run has 0.0, now 0.5"),
         ("output=base", "seed=7", "model.dropout=0.5")),
    Case("data_changed", "classifier", ("classifier: begun with other settings", "content of train"),
         ("output=classifier", "data=other_data")),
    Case("other_data", "generate", ("other_data: not the dataset that base was trained on",), ("data=other_data",)),
    Case("output_is_file", "train", ("user_models.py: is a file; give a folder",), ("output=user_models.py",)),
    Case("output_is_file_generate", "generate", ("user_models.py: is a file",), ("output=user_models.py",)),
    Case("output_is_file_tstr", "tstr", ("user_models.py: is a file",), ("output=user_models.py",)),
    Case("output_under_file", "train", ("user_models.py/out", "cannot be written"), ("output=user_models.py/out",)),
    Case("output_is_dataset", "generate", ("data: holds a dataset", "another output folder"), ("output=data",)),
    Case("output_is_run", "generate", ("base: holds another run", "another output folder"), ("output=base",)),
    Case("chunk_truncated", "generate", ("out/chunks/000000.npy: damaged", "Delete it"), began=True,
         spoil=lambda: (main_path("generate"), os.remove("out/meta.json"), os.mkdir("out/chunks"),
                        text("out/chunks/000000.npy", "x")())),
    Case("labels_length", "generate", ("labels=[5, 5, 5]: expected 2 counts",), ("labels=[5,5,5]",)),
    Case("labels_name", "generate", ("labels='balance': expected train, balanced",), ("labels=balance",)),
    Case("class_absent", "generate", ("guidance.classes=[5]", "classes with guidance rows [0, 1]"),
         ("guidance.objective=influence", "guidance.classes=[5]"), began=True),
    Case("class_not_a_number", "generate", ("guidance.classes={'died': 1}",),
         ("guidance.objective=influence", "guidance.classes={died: 1}"), began=True),
    Case("synthetic_missing", "tstr", ("no finished dataset at", "- nowhere"), ("synthetic={guided: nowhere}",)),
    Case("synthetic_number", "tstr", ("synthetic.guided: expected a folder or a list of folders, got 5",),
         ("synthetic={guided: 5}",)),
    Case("synthetic_shape", "tstr", ("synthetic: shape (L, C) (20, 7), but data has (24, 7)",),
         spoil=lambda: np.savez("synthetic/train.npz", x=np.zeros((4, 20, 7), np.float32), y=np.array([0, 1, 0, 1]))),
    Case("ratio_too_large", "tsrtr", ("synthetic set 'guided' has", "the ratio needs", "lower ratios"), ("ratios=[0.5, 9]",)),
    Case("fit_damaged", "tstr", ("out/fits/", "Delete it"), began=True,
         spoil=lambda: (main_path("tstr", "synthetic={}"), cut("out/fits/*.npz")(), os.remove("out/tstr.json"),
                        os.remove("out/tstr.csv"))),
    Case("custom_unnamed", "classifier", ("needs model.custom.import_path",), ("model.name=custom",)),
    Case("custom_module", "classifier", ("import_path='nowhere:Model': cannot be imported",), custom("nowhere:Model")),
    Case("custom_class", "classifier", ("import_path='user_models:Model': cannot be imported",), custom("user_models:Model")),
    Case("custom_form", "classifier", ("expected 'package.module:name'",), custom("user_models.Linear")),
    Case("custom_not_a_module", "classifier", ("user_models:NotAModule: gave a NotAModule",), custom("user_models:NotAModule")),
    Case("custom_option", "classifier", ("user_models:Linear: cannot be built", "depth"),
         custom("user_models:Linear", "model.custom.options={depth: 2}")),
    Case("custom_logits", "classifier", ("returned (2, 5) for 2 series; expected logits (2, 2)",),
         custom("user_models:Linear", "model.custom.options={more: 3}")),
    Case("custom_loss_shape", "classifier", ("user_models:mean_loss", "expected one loss per sample (2,)"),
         custom("user_models:Linear", "model.custom.loss_path=user_models:mean_loss")),
    Case("custom_loss_infinite", "classifier", ("training loss is not finite", "training.learning_rate"),
         custom("user_models:Linear", "model.custom.loss_path=user_models:infinite_loss"), began=True),
    Case("batch_coupled", "generate", ("logits change by up to", "the other samples of the batch"), ("classifier=coupled",),
         spoil=lambda: main_path("classifier", "output=coupled", *custom("user_models:Coupled"))),
]


@pytest.mark.parametrize("case", [*DATA, *CONFIG, *RUNS], ids=lambda case: case.name)
def test_user_error_is_named_and_leaves_nothing(case, folder, capfd):
    case.spoil()
    before = contents(folder)
    capfd.readouterr()
    code = main_path(case.command, *case.arguments)
    assert_refused(code, capfd.readouterr().err, case.expected, case.began)
    assert_clean(folder, before, case.began)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(folder, capfd):
    before = contents(folder)
    assert_refused(main_path("train", "device=cuda"), capfd.readouterr().err, ("device 'cuda' is not available", "device=cpu"))
    assert_clean(folder, before)


@pytest.mark.parametrize("options", [("training.checkpoint_every=1",), ("training.log_every=1",)])
def test_loss_that_becomes_infinite(options, folder, capfd, monkeypatch):
    loss = DiffusionProcess.loss
    monkeypatch.setattr(DiffusionProcess, "loss", lambda *arguments: loss(*arguments) * float("inf"))
    code = main_path("train", *options)
    assert_refused(code, capfd.readouterr().err, ("the training loss is not finite at step 1", "learning_rate"), began=True)
    assert not [*Path("out").glob("state-*"), *Path("out").glob("model*")]


@pytest.fixture(params=[0, 16, 64])
def small_disk(folder, request, monkeypatch):
    """A folder on a disk with so many KiB left; where mounting is not allowed, a disk that fails at fsync."""
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={request.param + 4}k", "tmpfs", disk],
                             capture_output=True, check=False).returncode == 0
    if mounted:
        (disk / "ballast").write_bytes(bytes(4096))
    else:
        def fsync(handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(os, "fsync", fsync)
    yield disk
    if mounted:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("command", ["train", "classifier", "generate", "tstr"])
def test_full_disk(command, small_disk, folder, capfd):
    before = contents(folder)
    code = main_path(command, f"output={small_disk}/out")
    assert_refused(code, capfd.readouterr().err, (str(small_disk), "No space left on device"), began=True)
    assert_clean(folder, before, began=True)


@pytest.mark.parametrize(("command", "arguments", "expected"), [
    ("train", ["data=nowhere"], "nowhere: dataset folder not found"),
    ("classifier", ["model.name=transformer"], "'model.name' must be one of"),
    ("generate", ["base=nowhere"], "nowhere: not a run folder"),
    ("tstr", ["synthetic={guided: nowhere}"], "- nowhere"),
    ("tsrtr", ["ratios=[9]"], "the ratio needs"),
    ("experiment", ["data=nowhere"], "nowhere: dataset folder not found")])
def test_shell(command, arguments, expected, folder):
    before = contents(folder)
    script, shell, defaults = COMMANDS[command]
    program = ["bash", ROOT / shell] if shell else [sys.executable, ROOT / script]
    done = subprocess.run([*program, *defaults, *arguments], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)})
    assert_refused(done.returncode, done.stderr, (expected,))
    assert_clean(folder, before)
