"""A teacher's probabilities beside the labels of a synthetic set: by the command, resumed, and refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from user_errors import assert_refused, contents, interrupted_after, run_command, run_tiny

from classifier.teacher import Teacher
from tardiff.data.format import read_dataset, write_dataset
from tardiff.data.simulator import simulate_cohort
from tardiff.sampling import generate
from tardiff.utils.checkpoint import read_json

TEACH = ["data=data", "device=cpu", "workers=1", "model.rnn.hidden_size=4", "model.boosting.trees=4",
         "training.steps=10", "training.min_steps=0", "training.batch_size=32"]
PLAIN = ["guidance.objective=none", "num_samples=20", "batch_size=8"]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset("data", *simulate_cohort(200, 0))
    assert run_tiny("train", "output=base") == 0
    members = "members=[{model: gru, seeds: 1}, {model: boosting, seeds: 1}]"
    assert run_command("teach", *TEACH, members, "output=teacher") == 0
    return tmp_path


def test_generation_writes_what_the_teacher_says_of_each_series(workplace, monkeypatch, capsys):
    assert run_tiny("generate", *PLAIN, "output=plain") == 0
    with monkeypatch.context() as patch:
        patch.setattr(generate, "save_arrays", interrupted_after(1, generate.save_arrays))
        assert run_tiny("generate", *PLAIN, "teacher=teacher") == 130
    assert run_tiny("generate", *PLAIN, "teacher=teacher") == 0
    plain, labelled = (read_dataset(folder, ("train",)).train for folder in ("plain", "out"))
    assert plain.p is None and plain.x.tobytes() == labelled.x.tobytes() and np.array_equal(plain.y, labelled.y)
    teacher = Teacher.load("teacher", read_dataset("data", ("train", "val")), torch.device("cpu"))
    np.testing.assert_allclose(labelled.p, teacher.predict(labelled.x), atol=1e-6)
    assert labelled.p[:, 1].std() > 0
    assert read_json("out/provenance.json")["inputs"]["teacher"] == teacher.fingerprint()
    before = contents(workplace)
    assert run_tiny("generate", *PLAIN, "teacher=teacher") == 0 and contents(workplace) == before
    capsys.readouterr()
    assert_refused(run_tiny("generate", *PLAIN), capsys.readouterr().err, ("content of teacher: the run has",))
    other = ["members=[{model: logistic, seeds: 1}]", "output=other"]
    assert run_command("teach", *TEACH, *other) == 0
    capsys.readouterr()
    code = run_tiny("generate", *PLAIN, "teacher=other")
    assert_refused(code, capsys.readouterr().err, ("content of teacher: the run was made on teacher, now teacher=oth",))


def test_the_teacher_of_a_set_is_a_control_and_no_other_one_is(workplace, capsys):
    assert run_tiny("generate", *PLAIN, "teacher=teacher") == 0
    evaluate = ["evaluate", "real=data", "synthetic={made: out}", "output=table", "device=cpu", "workers=1", "seeds=2",
                "bootstrap=20", "ratios=[0.1]", "weights=[0.2,0.4]", "model.rnn.hidden_size=4", "training.steps=10"]
    assert run_command(*evaluate, "teacher=teacher", "controls=[teacher_labels,mixup]") == 0
    rows = {re.sub(r"(mixed made) 0\.\d", r"\1", row["arm"]): row for row in read_json("table/utility.json")["rows"]}
    assert list(rows) == ["TRTR", "control teacher_labels", "control mixup", "TSTR made", "TSTR made, soft",
                          "TSRTR made 0.1", "TSRTR mixed made", "TSRTR made 0.1, soft", "TSRTR mixed made, soft"]
    assert rows["TSRTR mixed made, soft"]["weight"] in (0.2, 0.4) and rows["TSTR made"]["weight"] is None
    for arm in ("TSTR made, soft", "TSRTR mixed made"):
        np.testing.assert_allclose(rows[arm]["auroc_minus_teacher"]["values"], np.subtract(
            rows[arm]["auroc"]["values"], rows["control teacher_labels"]["auroc"]["values"]))
    assert "auroc_minus_teacher" not in rows["control mixup"]
    write_dataset("other_data", *simulate_cohort(200, 1))
    assert run_command("teach", *TEACH, "members=[{model: logistic, seeds: 1}]", "output=other") == 0
    capsys.readouterr()
    for given, expected in (
            (["teacher=other"], "out: was labelled by another teacher than other"),
            (["teacher=[other,teacher]"], "out: was labelled by another teacher than other"),
            (["teacher=teacher", "real=other_data", "synthetic={}"], "taught other train rows than those"),
            (["teacher=data"], "data: not a run folder")):
        assert_refused(run_command(*evaluate, *given), capsys.readouterr().err, (expected,))


def test_a_teacher_that_is_none_is_refused_before_sampling(workplace, capsys):
    write_dataset("other_data", *simulate_cohort(200, 1))
    assert run_tiny("train", "data=other_data", "output=other_base") == 0
    for given, expected in (
            (["teacher=data"], "data: not a run folder"), (["teacher=base"], "base: its config.yaml does not fit"),
            (["teacher=absent", "--dry-run"], "absent: not a run folder"),
            (["teacher=teacher", "data=other_data", "base=other_base"], "teacher: taught other train rows than those")):
        capsys.readouterr()
        assert_refused(run_tiny("generate", *PLAIN, *given), capsys.readouterr().err, (expected,))
        assert not Path("out").exists()
