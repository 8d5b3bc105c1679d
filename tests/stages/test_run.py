"""All stages by one command: what a later stage would refuse is refused before the first one starts."""

import pytest
from user_errors import assert_refused, contents, run_command

from tardiff.data.format import write_dataset
from tardiff.data.simulator import simulate_cohort


@pytest.mark.parametrize(("arguments", "expected"), [
    (["base=[diffusion.num_train_timesteps=5]"], ("guidance.unguided: num_inference_steps=10", "5 diffusion steps")),
    (["base=[training.label_dropout=0]", "guidance={a: sampler.cfg_scale=2}"], ("guidance.a: sampler.cfg_scale=2",)),
    (["guidance={real: configs/guidance/none.yaml}"], ("synthetic.real: this name stands for other rows",)),
    (["evaluation=[reference=typo]"], ("reference=typo",)),
    (["base=[training.stepz=3]"], ("base: 1 fault", "training.stepz", "Did you mean 'training.steps'")),
    (["classifier=[a.yaml, b.yaml]"], ("classifier: give one configuration file",)),
    (["guidance={}"], ("no synthetic set is named",))])
def test_faults_of_all_stages_speak_before_the_first(tmp_path, monkeypatch, capfd, arguments, expected):
    monkeypatch.chdir(tmp_path)
    write_dataset("data", *simulate_cohort(200, 0))
    before = contents(tmp_path)
    capfd.readouterr()
    code = run_command("run", "data=data", *arguments)
    assert_refused(code, capfd.readouterr().err, expected)
    assert contents(tmp_path) == before
