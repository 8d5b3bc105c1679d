"""What the commands say to a user who errs: exit code 2, one clear message, nothing half-written.

Most cases run the entry points in this process, through the same main path as the command; a few run the shell scripts.
Every case works in its own copy of a folder that holds a tiny dataset `data` and finished runs of every stage.
"""

import errno
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from user_errors import (
    ROOT,
    SETTINGS,
    Case,
    arrays,
    assert_clean,
    assert_refused,
    contents,
    cut,
    flip,
    meta,
    placed,
    run_command,
    run_tiny,
    text,
    without_metadata,
)

from tardiff.cli import COMMANDS
from tardiff.diffusion.process import DiffusionProcess
from tardiff.utils.checkpoint import load_state, load_tensors, save_state


def npz_cases() -> list[Case]:
    """Those of every kind stand in the tests of the format."""
    faults = [
        ("x_missing", lambda a: {"x": None}, "array x missing"),
        ("label_high", lambda a: {"y": placed(a["y"], 3, 2)}, "array y, row 3: label 2 is outside 0..1 (1 such rows)"),
        ("mask_scalar", lambda a: {"mask": np.array(True)}, "array mask must be"),
        ("subject_scalar", lambda a: {"subject": np.array(3)}, "array subject must be (N,)"),
        ("y_length", lambda a: {"y": a["y"][:9]}, "array y has 9 rows, array x has"),
        ("class_missing", lambda a: {"y": 0 * a["y"]}, "no row of class 1 (died)"),
        ("object_array", lambda a: {"subject": np.array([None] * len(a["y"]))}, "holds Python objects"),
    ]
    return [Case(name, "train", ("data/train.npz", *expected), spoil=arrays(change))
            for name, change, *expected in faults]


def one_subject_in_two_splits() -> None:
    with np.load("data/train.npz") as train:
        subject = train["subject"][0]
    arrays(lambda a: {"subject": placed(a["subject"], 0, subject)}, "val")()


DATA = [
    Case("no_folder", "train", ("nowhere: dataset folder not found",), ("data=nowhere",)),
    Case("no_test_split", "evaluate", ("data/test.npz: file not found",), spoil=lambda: Path("data/test.npz").unlink()),
    *npz_cases(),
    Case("two_faulty_files", "train", ("data/train.npz: array y", "data/val.npz: file not found"),
         spoil=lambda: (arrays(lambda a: {"y": a["y"] + 5})(), Path("data/val.npz").unlink())),
    Case("shared_subject", "train", ("data: subject", "stands in train and in val"), spoil=one_subject_in_two_splits),
    Case("lengths_differ", "train", ("data: splits differ in (length, channels)", "(24, 7)", "(20, 7)"),
         spoil=arrays(lambda a: {"x": a["x"][:, :20], "mask": a["mask"][:, :20]}, "val")),
    Case("selection_without_a_class", "guide", ("the selection half of data/val.npz: no row of class 1 (died)",),
         spoil=arrays(lambda a: {"y": 0 * a["y"]}, "val")),
    Case("test_without_a_class", "evaluate", ("data/test.npz", "class 0 (survived)"),
         spoil=arrays(lambda a: {"y": 0 * a["y"] + 1}, "test")),
    Case("npz_truncated", "train", ("data/train.npz: not a readable .npz",), spoil=cut("data/train.npz")),
    Case("npz_damaged", "train", ("data/train.npz: not a readable .npz",), spoil=flip("data/train.npz")),
    Case("npz_empty", "train", ("data/train.npz: not a readable .npz",), spoil=cut("data/train.npz", 0)),
    Case("npz_pickle", "train", ("data/train.npz: not a readable .npz", "Python objects, which are never loaded"),
         spoil=lambda: Path("data/train.npz").write_bytes(pickle.dumps({"x": 1}))),
    Case("npz_is_npy", "train", ("data/train.npz", "expected an .npz archive"),
         spoil=lambda: (np.save("data/train.npy", np.zeros(3)), os.replace("data/train.npy", "data/train.npz"))),
    Case("npz_is_folder", "train", ("data/train.npz: not a readable .npz",),
         spoil=lambda: (Path("data/train.npz").unlink(), Path("data/train.npz").mkdir())),
    Case("meta_missing", "train", ("data/meta.json: file not found",), spoil=lambda: Path("data/meta.json").unlink()),
    Case("meta_malformed", "train", ("data/meta.json: not valid JSON",), spoil=cut("data/meta.json")),
    Case("meta_list", "train", ("data/meta.json: not a JSON object",), spoil=text("data/meta.json", "[]")),
    Case("meta_folder", "train", ("data/meta.json: cannot be read",),
         spoil=lambda: (Path("data/meta.json").unlink(), Path("data/meta.json").mkdir())),
    Case("meta_key_missing", "train", ("data/meta.json: missing units",), spoil=meta({"units": None})),
    Case("meta_channels", "train", ("data/train.npz: array x has 7 channels, meta.json names 2",),
         spoil=meta({"channels": ["a", "b"], "units": ["", ""], "imputation": None})),
    Case("meta_units", "train", ("data/meta.json: 7 channels but 1 units",), spoil=meta({"units": [""]})),
    Case("meta_one_class", "train", ("data/meta.json: 'classes'", "at least 2"), spoil=meta({"classes": ["all"]})),
    Case("not_expected", "train", ("data: not the dataset", "expect.length=48, the dataset has 24"),
         ("expect.length=48",)),
]

CONFIG = [
    Case("several_faults", "guide",
         ("3 faults in the configuration", "user.yaml: unknown key 'sed'", "'model.name' must be one of",
          "command line 'training.steps=0': 'training.steps' must be at least 1"),
         ("user.yaml", "training.steps=0"), text("user.yaml", "sed: 1\nmodel: {name: transformer}\n")),
    Case("yaml_binary", "train", ("base/model.safetensors: not valid YAML",), ("base/model.safetensors",)),
    Case("two_configs", "train", ("one configuration file, not 2: one.yaml, two.yaml",), ("one.yaml", "two.yaml"),
         lambda: (text("one.yaml", "")(), text("two.yaml", "")())),
    Case("no_equals_sign", "train", ("training.steps: configuration file not found", "written key=value"),
         ("training.steps", "seed=1")),
    Case("option_unknown", "train", ("unrecognized arguments: --steps",), ("--steps", "seed=1")),
    Case("device_unknown", "train", ("device 'banana' is unknown; use auto, cpu, cuda",), ("device=banana",)),
    Case("device_unsupported", "evaluate", ("device 'meta' is not supported",), ("device=meta",)),
    Case("no_levels", "train", ("channel_multipliers",), ("model.channel_multipliers=[]",)),
    Case("num_heads", "train", ("8 channels cannot be divided among num_heads=3",), ("model.num_heads=3",)),
    Case("top_k", "guide", ("top_k=13", "between 1 and 12"), ("model.name=timesnet", "model.timesnet.top_k=13")),
    Case("boosting_guides", "guide", ("boosting has no gradient that could guide",), ("model.name=boosting",)),
    Case("experiment_preset", "run", ("guidance.guided", "of key=value, got 5."), ("guidance={guided: 5}",)),
    Case("experiment_masks", "run", ("evaluation: model.inputs=values+mask needs sets with masks",),
         ("evaluation=[model.inputs=values+mask]", "base=[configs/base/simulated.yaml, mask=false]")),
    Case("experiment_guide_masks", "run", ("classifier: model.inputs=values+mask needs sets with masks",),
         ("classifier=[model.inputs=values+mask]", "base=[configs/base/simulated.yaml, mask=false]")),
    Case("experiment_stage", "run", ("unknown key 'guidance.scal'", "Did you mean 'guidance.scale'?"),
         ("guidance={guided: [configs/guidance/classifier.yaml, guidance.scal=2]}",)),
    Case("experiment_config", "run", ("nowhere.yaml: configuration file not found",),
         ("evaluation=nowhere.yaml",)),
]


def custom(name: str, *more: str) -> tuple[str, ...]:
    return ("model.name=custom", f"model.custom.import_path={name}", *more)


def classifier_of_three_classes() -> None:
    """Train `more_classes` on the same series with one label more, so that the normaliser is the same."""
    content = {path: path.read_bytes() for path in Path("data").iterdir()}
    for split in ("train", "val"):
        arrays(lambda a: {"y": np.where((a["y"] == 0) & (np.arange(len(a["y"])) % 3 == 0), 2, a["y"])}, split)()
    meta({"classes": ["survived", "died", "moved"]})()
    assert run_tiny("guide", "output=more_classes") == 0
    for path, before in content.items():
        path.write_bytes(before)


def epsilon_without_its_diffusion() -> None:
    """Train `epsilon`, whose config.yaml then ends before it says what the denoiser predicts."""
    assert run_tiny("train", "output=epsilon", "diffusion.prediction_type=epsilon") == 0
    path = Path("epsilon/config.yaml")
    path.write_text(path.read_text().partition("diffusion:")[0])


RUNS = [
    Case("model_truncated", "generate", ("base/model.safetensors: not a complete safetensors",), ("guidance.scale=0",),
         cut("base/model.safetensors")),
    Case("classifier_truncated", "generate", ("classifier/model.safetensors: not a complete safetensors",),
         spoil=cut("classifier/model.safetensors")),
    Case("other_architecture", "generate", ("base: its config.yaml is not the one that the weights were trained with",
                                            "model.num_res_blocks: 1, now 2", "Restore the file"),
         spoil=lambda: Path("base/config.yaml").write_text(
             Path("base/config.yaml").read_text().replace("num_res_blocks: 1", "num_res_blocks: 2"))),
    Case("weights_of_another_stage", "generate",
         ("classifier: its config.yaml is not the one that the weights were trained with",),
         spoil=lambda: shutil.copy("base/model.safetensors", "classifier/model.safetensors")),
    Case("base_metadata_missing", "generate", ("base/model.safetensors: not written by this version of TarDiff",),
         spoil=without_metadata("base/model.safetensors")),
    Case("classifier_metadata_missing", "generate",
         ("classifier/model.safetensors: not written by this version of TarDiff",),
         spoil=without_metadata("classifier/model.safetensors")),
    Case("other_normalizer", "generate", ("classifier: trained with another normaliser than the denoiser",),
         ("base=base_minmax",)),
    Case("normalizer_altered", "generate", ("base/normalizer.json: the content does not match its fingerprint",),
         spoil=meta({"fill": [0.0] * 7}, "base/normalizer.json")),
    Case("normalizer_replaced", "generate", ("base: normalizer.json is not the one",),
         spoil=lambda: shutil.copy("base_minmax/normalizer.json", "base/normalizer.json")),
    Case("unfinished_base", "generate", ("base/model.safetensors: file not found; the training of this run has not",),
         spoil=lambda: Path("base/model.safetensors").unlink()),
    Case("not_a_run", "generate", ("data: not a run folder (no config.yaml)",), ("base=data",)),
    Case("run_of_another_stage", "generate",
         ("classifier: its config.yaml does not fit this stage", "the run folder of another one",
          "unknown key 'training.keep'"),
         ("base=classifier",)),
    Case("state_truncated", "train", ("base/state-2.pt: damaged", "Delete it"), ("output=base", "training.steps=4"),
         cut("base/state-*.pt"), began=True),
    Case("state_of_another_stage", "guide", ("classifier: the saved state does not fit this model",),
         ("output=classifier",), lambda: shutil.copy("base/state-2.pt", "classifier/state-1.pt")),
    Case("pointer_malformed", "train", ("base/latest.json: missing state",), ("output=base",),
         text("base/latest.json", "{}")),
    Case("fewer_steps", "train", ("base: trained for 2 steps already, training.steps=1",),
         ("output=base", "training.steps=1")),
    Case("other_world_size", "train", ("base: begun with 2 processes, now there are 1",),
         ("output=base", "training.steps=4"), began=True, spoil=lambda: save_state(
             "base/state-2.pt", {**load_state("base/state-2.pt"), "world_size": 2})),
    Case("cfg_without_null_label", "generate", ("cfg_scale=2", "training.label_dropout above 0"),
         ("sampler.cfg_scale=2", "base=plain"),
         spoil=lambda: run_tiny("train", "output=plain", "training.label_dropout=0")),
    Case("config_cut", "generate", ("epsilon: its config.yaml is not the one",
                                    "diffusion.prediction_type: 'epsilon', now 'v_prediction'"), ("base=epsilon",),
         spoil=epsilon_without_its_diffusion),
    Case("weights_flipped", "generate", ("base/model.safetensors: damaged, its content is not what was written",),
         spoil=flip("base/model.safetensors")),
    Case("classes_swapped", "generate", ("base/dataset.json: not of the dataset that the denoiser was trained on",),
         spoil=meta({"classes": ["died", "survived"]}, "base/dataset.json")),
    Case("gradient_flipped", "generate", ("classifier/guidance_gradient-", "damaged", "Delete it"),
         ("guidance.objective=influence",), began=True, spoil=lambda: (
             run_tiny("generate", "guidance.objective=influence", "output=influence"),
             flip(next(map(str, Path("classifier").glob("guidance_gradient-*"))))())),
    Case("too_many_inference_steps", "generate", ("num_inference_steps=201", "200"),
         ("sampler.num_inference_steps=201",)),
    Case("reference_unknown", "evaluate", ("reference=unguidd", "guided"), ("reference=unguidd",)),
    Case("tstr_of_one_class", "evaluate", ("synthetic set 'guided' lacks a class", "TSRTR"),
         spoil=lambda: np.savez("synthetic/train.npz", x=np.zeros((9, 24, 7), np.float32), y=np.ones(9, np.int64))),
    Case("setting_changed", "train", ("base: begun with other settings", "seed: the run has 0, now 7",
                                      "model.dropout: the run has 0.0, now 0.5"),
         ("output=base", "seed=7", "model.dropout=0.5")),
    Case("data_changed", "guide", ("classifier: begun with other settings", "content of train"),
         ("output=classifier", "data=other_data")),
    Case("classifier_of_other_classes", "generate",
         ("more_classes: reads (length, channels) (24, 7) and classes", "moved"),
         ("classifier=more_classes",), classifier_of_three_classes),
    Case("other_data", "generate", ("other_data: its train rows are not those that base was trained on",),
         ("data=other_data",)),
    Case("output_is_file", "train", ("user_models.py: is a file; give a folder",), ("output=user_models.py",)),
    Case("output_is_file_generate", "generate", ("user_models.py: is a file",), ("output=user_models.py",)),
    Case("output_is_file_tstr", "evaluate", ("user_models.py: is a file",), ("output=user_models.py",)),
    Case("output_under_file", "evaluate", ("user_models.py: is a file",), ("output=user_models.py/out",)),
    Case("name_too_long", "train", (f"error: {'a' * 300}: File name too long",), (f"data={'a' * 300}",)),
    Case("output_is_dataset", "generate", ("data: holds a dataset", "another output folder"), ("output=data",)),
    Case("output_is_run", "generate", ("base: holds another run", "another output folder"), ("output=base",)),
    *(Case(f"output_holds_{name}", command, (f"mine: holds {name}, which no run in this folder has written",),
           ("output=mine",), spoil=lambda name=name: (os.mkdir("mine"), text(f"mine/{name}", "mine: 1")()))
      for command, name in (("train", "config.yaml"), ("guide", "model.safetensors"), ("generate", "train.npz"))),
    Case("chunk_truncated", "generate", ("out/chunks/000000000-000000032.npz: damaged", "Delete it"), began=True,
         spoil=lambda: (run_tiny("generate"), os.remove("out/meta.json"), os.mkdir("out/chunks"),
                        text("out/chunks/000000000-000000032.npz", "x")())),
    Case("labels_length", "generate", ("labels=[5, 5, 5]: expected 2 counts",), ("labels=[5,5,5]",)),
    Case("labels_name", "generate", ("labels='balance': expected train, balanced",), ("labels=balance",)),
    Case("class_number_unknown", "generate", ("'5' is not a class", "survived (0), died (1)"),
         ("guidance.objective=influence", "guidance.classes=[5]")),
    Case("class_name_unknown", "generate", ("'dead' is not a class", "survived (0), died (1)"),
         ("guidance.objective=influence", "guidance.classes={dead: 1}")),
    Case("synthetic_missing", "evaluate", ("no finished dataset at", "- nowhere"), ("synthetic={guided: nowhere}",)),
    Case("synthetic_number", "evaluate", ("synthetic.guided: expected a folder or a list of folders, got 5",),
         ("synthetic={guided: 5}",)),
    Case("synthetic_shape", "evaluate", ("synthetic: shape (L, C) (20, 7), but data has (24, 7)",),
         spoil=lambda: np.savez("synthetic/train.npz", x=np.zeros((4, 20, 7), np.float32), y=np.array([0, 1, 0, 1]))),
    Case("generator_of_other_rows", "evaluate",
         ("synthetic: its generator was trained on other rows than those of other_data/train.npz (it names data)",),
         ("real=other_data",)),
    Case("ratio_too_large", "evaluate", ("synthetic set 'guided' has", "the ratio needs", "lower ratios"),
         ("protocols=[tsrtr]", "ratios=[0.5, 9]")),
    Case("fit_damaged", "evaluate", ("out/fits/", "Delete it"), began=True,
         spoil=lambda: (run_tiny("evaluate", "synthetic={}"), cut("out/fits/*.npz")(), os.remove("out/tstr.json"),
                        os.remove("out/tstr.csv"))),
    Case("guide_without_masks", "guide", ("data/val.npz: has no mask, which model.inputs=values+mask reads",),
         ("model.inputs=values+mask",), arrays(lambda a: {"mask": None}, "val")),
    Case("guide_of_masks", "generate", ("masks: reads masks (model.inputs=values+mask), and this denoiser generates",),
         ("classifier=masks", "base=plain"),
         lambda: (run_tiny("guide", "output=masks", "model.inputs=values+mask"),
                  run_tiny("train", "output=plain", "mask=false"))),
    Case("influence_without_masks", "influence",
         ("masks reads masks:", "synthetic set 'guided': has no mask, which model.inputs=values+mask reads"),
         ("classifier=masks",), lambda: (run_tiny("guide", "output=masks", "model.inputs=values+mask"),
                                         arrays(lambda a: {"mask": None}, "../synthetic/train")())),
    Case("custom_unnamed", "guide", ("needs model.custom.import_path",), ("model.name=custom",)),
    Case("custom_module", "guide", ("import_path='nowhere:Model': cannot be imported",), custom("nowhere:Model")),
    Case("custom_class", "guide", ("import_path='user_models:Model': cannot be imported",),
         custom("user_models:Model")),
    Case("custom_import_fails", "guide", ("import_path='broken:Model': cannot be imported (ZeroDivisionError",),
         custom("broken:Model"), text("broken.py", "1 / 0")),
    Case("custom_construction_fails", "guide", ("user_models:Fails: cannot be built", "no such part"),
         custom("user_models:Fails", "model.custom.options={at: built}")),
    Case("custom_forward_fails", "guide",
         ("user_models:Fails: cannot read a batch of shape (2, 24, 7): 'no such part'",),
         custom("user_models:Fails", "model.custom.options={at: evaluated}")),
    Case("custom_training_fails", "guide", ("user_models.py, line", "in forward: KeyError: 'no such part'"),
         custom("user_models:Fails", "model.custom.options={at: trained}"), began=True),
    Case("custom_training_fails_in_a_worker", "evaluate", ("user_models.py, line", "in forward: KeyError"),
         custom("user_models:Fails", "model.custom.options={at: trained}", "seeds=2", "workers=2"), began=True),
    Case("custom_relative", "guide", ("import_path='..models:Model': cannot be imported",),
         custom("..models:Model")),
    Case("custom_form", "guide", ("expected 'package.module:name'",), custom("user_models.Linear")),
    Case("custom_not_a_module", "guide", ("user_models:NotAModule: gave a NotAModule",),
         custom("user_models:NotAModule")),
    Case("custom_option", "guide", ("user_models:Linear: cannot be built", "depth"),
         custom("user_models:Linear", "model.custom.options={depth: 2}")),
    Case("custom_locked", "guide", ("user_models:Locked: cannot be copied", "lock"), custom("user_models:Locked")),
    Case("custom_logits", "guide", ("returned (2, 5) for 2 series; expected logits (2, 2)",),
         custom("user_models:Linear", "model.custom.options={more: 3}")),
    Case("custom_loss_shape", "guide", ("user_models:mean_loss", "expected one loss per sample (2,)"),
         custom("user_models:Linear", "model.custom.loss_path=user_models:mean_loss")),
    Case("custom_loss_not_callable", "guide", ("os:sep: cannot read logits (2, 2)", "not callable"),
         custom("user_models:Linear", "model.custom.loss_path=os:sep")),
    Case("custom_loss_infinite", "guide", ("training loss is not finite", "learning_rate"),
         custom("user_models:Linear", "model.custom.loss_path=user_models:infinite_loss"), began=True),
    Case("batch_coupled", "generate", ("logits change by up to", "the other samples of the batch"),
         ("classifier=coupled",), lambda: run_tiny("guide", "output=coupled", *custom("user_models:Coupled"))),
]


@pytest.mark.parametrize("case", [*DATA, *CONFIG, *RUNS], ids=lambda case: case.name)
def test_user_error_is_named_and_leaves_nothing(case, folder, capfd):
    case.spoil()
    before = contents(folder)
    capfd.readouterr()
    code = run_tiny(case.command, *case.arguments)
    assert_refused(code, capfd.readouterr().err, case.expected)
    assert_clean(folder, before, case.began)


def test_torchrun_of_a_command_that_is_one_process(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in COMMANDS.keys() - {"train", "generate"}:
        assert_refused(run_command(name), capfd.readouterr().err,
                       (f"tardiff {name} runs as one process", "tardiff train and tardiff generate alone"))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(folder, capfd):
    before = contents(folder)
    code = run_tiny("train", "device=cuda")
    assert_refused(code, capfd.readouterr().err, ("device 'cuda' is not available", "device=cpu"))
    assert_clean(folder, before)


@pytest.mark.parametrize("options", ["training.checkpoint_every=1", "training.log_every=1"])
def test_loss_that_becomes_infinite(options, folder, capfd, monkeypatch):
    loss = DiffusionProcess.loss
    monkeypatch.setattr(DiffusionProcess, "loss", lambda *arguments: loss(*arguments) * float("inf"))
    code = run_tiny("train", options)
    expected = ("the training loss is not finite at step 1", "learning_rate")
    assert_refused(code, capfd.readouterr().err, expected)
    assert not [*Path("out").glob("state-*"), *Path("out").glob("model*")]


def test_a_damaged_state_that_was_deleted_starts_the_run_again(folder):
    finished = load_tensors("base/model.safetensors")[0]
    cut("base/state-2.pt")()
    Path("base/model.safetensors").unlink()
    assert run_tiny("train", "output=base") == 2
    Path("base/state-2.pt").unlink()
    assert run_tiny("train", "output=base") == 0
    again = load_tensors("base/model.safetensors")[0]
    assert all(torch.equal(again[name], tensor) for name, tensor in finished.items())


@pytest.fixture
def small_disk(folder, monkeypatch):
    """Return a function that gives a folder on a disk of so many KiB; without the right to mount, every flush fails."""
    disk = folder / "disk"
    disk.mkdir()

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def make(kibibytes: int) -> Path:
        command = f"mount -t tmpfs -o size={kibibytes}k tmpfs '{disk}'"
        if subprocess.run(["sh", "-c", command], check=False, capture_output=True).returncode:
            monkeypatch.setattr(os, "fsync", fsync)
        (disk / "used").write_bytes(bytes(4096))
        return disk

    yield make
    if disk.is_mount():
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize(("command", "kibibytes"), [
    *((command, kibibytes) for command in ("train", "guide", "generate", "evaluate") for kibibytes in (4, 12, 20)),
    ("train", 64), ("train", 250)])
def test_full_disk(command, kibibytes, small_disk, folder, capfd):
    disk = small_disk(kibibytes)
    before = contents(folder)
    code = run_tiny(command, f"output={disk}/out", *(["training.preview_every=1"] if command == "train" else []))
    assert_refused(code, capfd.readouterr().err, (str(disk), "cannot be written", "Free some space"))
    assert_clean(folder, before, began=True)


@pytest.mark.parametrize(("script", "name", "arguments", "expected"), [
    ("train.sh", "train", ["data=nowhere"], "nowhere: dataset folder not found"),
    ("classifier/train.sh", "guide", custom("user_models:Linear", "model.custom.loss_path=user_models:infinite_loss"),
     "not finite"),
    ("generation.sh", "generate", ["base=nowhere"], "nowhere: not a run folder"),
    (None, "run", ["data=nowhere"], "nowhere: dataset folder not found")])
def test_shell(script, name, arguments, expected, folder):
    before = contents(folder)
    program = ["bash", ROOT / script] if script else [sys.executable, "-m", "tardiff", name]
    done = subprocess.run([*program, *SETTINGS[name], *arguments], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)})
    began = "infinite" in arguments[-1]
    assert_refused(done.returncode, done.stderr, (expected,))
    assert_clean(folder, before, began)
