"""Settings: what wins over what, and every fault at once with the place it came from."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tardiff import config as configs
from tardiff.config import BaseConfig, EvaluationConfig, GenerationConfig, load_config
from tardiff.utils.errors import UserError
from tardiff.utils.settings import describe, load_settings, semantic_values, setting, to_yaml

SCHEMAS = [schema for name, schema in vars(configs).items() if name.endswith("Config")]


@dataclass(frozen=True)
class Inner:
    rate: float = setting(0.1, "A rate.", low=0, high=1)
    kind: str = setting("slow", "A kind.", choices=("slow", "fast"))


@dataclass(frozen=True)
class Outer:
    steps: int = setting(10, "Steps.", low=1, semantic=False)
    share: float | None = setting(None, "A share.", low=0)
    flag: bool = setting(False, "A flag.")
    sizes: list[int] = setting([1, 2], "Sizes.", low=1)
    which: str | list[int] | dict[Any, float] = setting("all", "A choice.")
    names: dict = setting({"one": 1}, "Names.")
    inner: Inner = setting(Inner, "")


def load(text="", *overrides, schema=Outer, tmp_path=None):
    if not text:
        return load_settings(schema, None, overrides)
    (tmp_path / "config.yaml").write_text(text)
    return load_settings(schema, tmp_path / "config.yaml", overrides)


def test_defaults_then_yaml_then_command_line(tmp_path):
    assert load() == Outer()
    text = "steps: 20\ninner: {rate: 0.2}\nsizes: [5]"
    assert load(text, tmp_path=tmp_path) == Outer(steps=20, sizes=[5], inner=Inner(rate=0.2))
    loaded = load(text, "steps=30", "inner.kind=fast", "steps=40", tmp_path=tmp_path)
    assert loaded == Outer(steps=40, sizes=[5], inner=Inner(rate=0.2, kind="fast"))


def test_defaults_are_not_shared_between_instances():
    load().sizes.append(99)
    load().names["two"] = 2
    assert load() == Outer() and Outer().sizes == [1, 2] and Outer().names == {"one": 1}


@pytest.mark.parametrize(("override", "name", "value"), [
    ("sizes=[3,4,5]", "sizes", [3, 4, 5]), ("sizes=[]", "sizes", []), ("share=null", "share", None),
    ("share=3", "share", 3.0), ("share=1e-4", "share", 1e-4), ("share='1e-4'", "share", 1e-4),
    ("share=5.", "share", 5.0), ("flag=true", "flag", True), ("which=minority", "which", "minority"),
    ("which=[0,2]", "which", [0, 2]),
    ("which={0: 0.25, 1: 0.75}", "which", {0: 0.25, 1: 0.75}), ("names={a: [x, y=z]}", "names", {"a": ["x", "y=z"]}),
    ("inner={rate: 0.5}", "inner", Inner(rate=0.5))])
def test_values_of_every_type_come_from_the_command_line(override, name, value):
    loaded = getattr(load("", override), name)
    assert loaded == value and type(loaded) is type(value)


def test_a_mapping_is_replaced_whole_and_extended_by_a_dotted_key(tmp_path):
    text = "names: {a: 1, b: 2}\nwhich: {0: 1.0}"
    assert load(text, "names={c: 3}", tmp_path=tmp_path).names == {"c": 3}
    assert load(text, "names.b=4", "names.d=5", tmp_path=tmp_path).names == {"a": 1, "b": 4, "d": 5}
    assert load(text, "which=all", tmp_path=tmp_path).which == "all"


def test_yaml_writes_small_numbers_as_text_and_they_are_read_as_numbers(tmp_path):
    assert yaml.safe_load("rate: 1e-4") == {"rate": "1e-4"}
    assert load("inner: {rate: 1e-4}", tmp_path=tmp_path).inner.rate == 1e-4


def test_every_fault_is_reported_at_once_with_its_source(tmp_path):
    text = "stepps: 3\nflag: 3\ninner: {rate: 2, kind: fats}\nsizes: [1, 0, x]\nshare: yes please"
    with pytest.raises(UserError) as error:
        load(text, "inner.speed=3", "steps=0", "noequals", "names=7", "inner.kind=quick", "share=-1", "a..b=3",
             tmp_path=tmp_path)
    message = str(error.value)
    source = str(tmp_path / "config.yaml")
    for expected in (
            f"{source}: unknown key 'stepps'. Did you mean 'steps'?",
            f"{source}: 'flag' must be true or false, got 3",
            f"{source}: 'inner.rate' must be at most 1, got 2",
            f"{source}: 'sizes' must be a list, each item a whole number, got [1, 0, x]",
            "command line 'inner.speed=3': unknown key 'inner.speed'. Known: inner.rate, inner.kind",
            "command line 'steps=0': 'steps' must be at least 1, got 0",
            "command line: 'noequals'", "command line: 'a..b=3'",
            "command line 'names=7': 'names' must be a mapping {name: value, ...}, got 7",
            "command line 'inner.kind=quick': 'inner.kind' must be one of slow, fast, got 'quick'",
            "command line 'share=-1': 'share' must be at least 0"):
        assert expected in message
    assert message.startswith("12 faults") and len(message.splitlines()) == 13


@pytest.mark.parametrize(("override", "message"), [
    ("inner.kind=fats", "Did you mean 'fast'?"), ("inner=3", "must hold settings (inner.KEY=...)"),
    ("steps=1.5", "a whole number"), ("steps=true", "a whole number"), ("steps=null", "a whole number"),
    ("flag=yes please", "true or false"), ("share=nan", "finite"), ("share=inf", "finite"), ("share=many", "a number"),
    ("inner.rate=true", "a number"), ("sizes=3", "a list"), ("sizes=[1,true]", "a list"), ("sizes=[0]", "at least 1"),
    ("which=[x]", "text or a list, each item a whole number or a mapping"), ("names=[1]", "a mapping"),
    ("sizes=[1", "cannot be read"), ("=3", "cannot be read")])
def test_a_wrong_value_says_what_was_expected(override, message):
    with pytest.raises(UserError, match="1 fault in the configuration") as error:
        load("", override)
    assert message in str(error.value) and override in str(error.value)


@pytest.mark.parametrize(("content", "message"), [
    (b"- a\n- b", "expected 'key: value' lines, got \\[a, b\\]"), (b"a: [", "not valid YAML"),
    (b"\xff\xfe\x00", "not valid YAML")])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, message):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_settings(Outer, tmp_path / "config.yaml")
    for path, reason in ((tmp_path, "is a folder"), (tmp_path / "none.yaml", "not found")):
        with pytest.raises(UserError, match=reason):
            load_settings(Outer, path)


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "config.yaml").write_text("# nothing\n")
    assert load_settings(Outer, tmp_path / "config.yaml") == Outer()


@pytest.mark.parametrize("schema", SCHEMAS)
def test_resolved_settings_read_back_as_they_are(schema, tmp_path):
    resolved = load_config(schema)
    (tmp_path / "config.yaml").write_text(to_yaml(resolved))
    assert load_config(schema, tmp_path / "config.yaml") == resolved


def test_unusual_values_read_back_as_they_are(tmp_path):
    written = load_config(GenerationConfig, None, [
        "guidance.objective=influence", "guidance.classes={0: 0.25, 1: 0.75}", "labels=[10,0]",
        "sampler.num_inference_steps=null", "guidance.scale=-1e-7", "output=runs/x: y # z", "num_samples=10"])
    (tmp_path / "config.yaml").write_text(to_yaml(written))
    assert load_config(GenerationConfig, tmp_path / "config.yaml") == written
    assert written.guidance.classes == {0: 0.25, 1: 0.75} and written.guidance.scale == -1e-7


def test_semantic_values_leave_out_what_does_not_alter_the_result():
    values = semantic_values(Outer())
    assert values == {"share": None, "flag": False, "sizes": [1, 2], "which": "all", "names": {"one": 1},
                      "inner.rate": 0.1, "inner.kind": "slow"}
    base = semantic_values(BaseConfig())
    assert {"seed", "normalizer", "model.dropout", "training.batch_size", "diffusion.loss"} <= base.keys()
    assert not {"data", "output", "device", "training.steps", "training.log_every", "expect.length"} & base.keys()


def test_help_names_every_setting_with_default_and_choices():
    lines = "\n".join(describe(Outer))
    for expected in ("  steps=10\n      Steps.", "  share=null", "  flag=false", "  inner.kind=slow\n",
                     "One of slow, fast."):
        assert expected in lines
    assert len(describe(EvaluationConfig)) == len(_leaves(dataclasses.asdict(EvaluationConfig())))


def _leaves(values):
    return [name for key, value in values.items()
            for name in (_leaves(value) if isinstance(value, dict) and key not in ("synthetic", "options") else [key])]
