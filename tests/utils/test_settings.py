"""Settings: what wins over what, and every fault at once with the place it came from."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from user_errors import assert_refused, run_command

from tardiff import config as configs
from tardiff.cli import COMMANDS
from tardiff.config import BaseConfig, EvaluationConfig, GenerationConfig, GuidanceConfig, load_config
from tardiff.utils.errors import UserError
from tardiff.utils.plain_yaml import as_typed
from tardiff.utils.settings import describe, load_settings, semantic_values, setting, to_yaml

MOST_OF_A_MESSAGE = 1500
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


@dataclass(frozen=True)
class Several:
    first: list[str] = setting([], "Arguments of a command.", arguments_of=Outer)
    second: str | list[str] = setting(["kind=fast"], "Arguments of another.", arguments_of=Inner)


def load(text="", *overrides, schema=Outer, tmp_path=None):
    if not text:
        return load_settings(schema, None, overrides)
    (tmp_path / "config.yaml").write_text(text)
    return load_settings(schema, tmp_path / "config.yaml", overrides)


@pytest.mark.parametrize(("override", "expected"), [
    ("inner.rate=1", "'inner.rate'. Did you mean 'first=[a.yaml, steps=3, inner.rate=...]'?"),
    ("rate=1", "Did you mean 'second=[kind=fast, rate=...]'?"), ("nothing=1", "Known: first,"),
    ("first.steps=1", "'first.steps'. Did you mean 'first=[a.yaml, steps=3, steps=...]'?")])
def test_a_setting_of_another_command_is_found_in_its_arguments(override, expected):
    with pytest.raises(UserError, match=re.escape(expected)):
        load("", "first=[a.yaml, steps=3]", override, schema=Several)


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
             tmp_path=tmp_path)  # What is typed over counts no more.
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
    assert message.startswith("11 faults") and len(message.splitlines()) == 12


@pytest.mark.parametrize("overrides", [
    ("which=[1, 2]", "which.died=40"), ("which=[1, 2]", "which.7=5"), ("which=[1]", "which.[0]=2"),
    ("names={a: [1]}", "names.a.b=1")])
def test_a_name_below_what_is_no_mapping_is_refused(overrides):
    with pytest.raises(UserError, match=f"'{re.escape(overrides[1].partition('=')[0])}' needs a mapping under"):
        load("", *overrides)


@pytest.mark.parametrize(("override", "message"), [
    ("inner.kind=fats", "one of slow, fast, got 'fats'. Did you mean 'fast'?"),
    ("inner=3", "must hold settings (inner.KEY=...)"),
    ("steps=1.5", "a whole number"), ("steps=true", "a whole number"), ("steps=null", "a whole number"),
    ("flag=yes please", "true or false"), ("share=nan", "a finite number"), ("share=inf", "finite"),
    ("share=many", "a number"), ("inner.rate=true", "a number"), ("sizes=3", "a list"),
    ("sizes=[1,true]", "a list"), ("sizes=[0]", "at least 1"),
    ("which=[x]", "text or a list, each item a whole number or a mapping"), ("names=[1]", "a mapping"),
    (f"steps={'[' * 80}1{']' * 80}", "steps="),
    ("sizes=[1", "cannot be read"), ("sizes=[a=[1]]", "Put quotes around"), ("=3", "cannot be read")])
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
    for path, reason in ((tmp_path, "is a folder"), (tmp_path / "none.yaml", "cannot be read")):
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


def resolved(key, value, schema=BaseConfig):
    """The setting `key` that a text on the command line gives."""
    config = load_config(schema, None, [f"{key}={value}"])
    for part in key.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(("key", "typed", "expected"), [
    ("data", "/x/Study #1/data", "/x/Study #1/data"), ("output", "010", "010"), ("data", "2026-13-45", "2026-13-45"),
    ("data", "!!int x", "!!int x"), ("data", "a: b", "a: b"), ("data", "[a", "[a"), ("data", "yes", "yes"),
    ("data", "null", "null"), ("name", "1e3", "1e3"), ("data", "'quoted'", "'quoted'"), ("data", "a=b", "a=b"),
    ("seed", "010", 10), ("seed", "1e3", 1000), ("seed", "+7", 7), ("seed", "7.0", 7),
    ("training.learning_rate", "1e-4", 1e-4), ("training.learning_rate", "1", 1.0),
    ("model.channel_multipliers", "[1, 010, 1e1]", [1, 10, 10]), ("expect.length", "null", None)])
def test_text_is_taken_as_typed_and_numbers_are_decimal(key, typed, expected):
    value = resolved(key, typed)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(("content", "key", "expected"), [
    ("data: /x/Study#1/data", "data", "/x/Study#1/data"), ("data: '/x/Study #1/data'", "data", "/x/Study #1/data"),
    ("output: 010", "output", "010"), ("data: 2026-13-45", "data", "2026-13-45"), ("data: yes", "data", "yes"),
    ("seed: 010", "seed", 10), ("seed: 1e3", "seed", 1000)])
def test_yaml_follows_the_same_rules(tmp_path, content, key, expected):
    (tmp_path / "config.yaml").write_text(content)
    value = getattr(load_config(BaseConfig, tmp_path / "config.yaml"), key)
    assert value == expected and type(value) is type(expected)


DIGITS = {400: "9" * 400, 5000: "9" * 5000}
WHOLE = "'seed' must be a whole number"


@pytest.mark.parametrize(("typed", "message"), [
    ("seed=1:30", WHOLE), ("seed=0x10", WHOLE), ("seed=0o10", WHOLE), ("seed=2026-13-45", WHOLE),
    ("seed=2026-01-02", WHOLE), ("seed=!!int x", WHOLE), ("seed=", WHOLE), ("seed=1.5", WHOLE), ("seed=1e400", WHOLE),
    (f"seed={DIGITS[400]}", "'seed' must be at most"), (f"seed={DIGITS[5000]}", WHOLE),
    (f"training.learning_rate={DIGITS[5000]}", "finite number"), (f"{DIGITS[5000]}=1", "unknown key"),
    ("data=\udcff", "cannot be read"), ("seed=\udcff", "cannot be read"), ("\udcff=1", "cannot be read"),
    ("model.channel_multipliers=[&a 1, *a]", "aliases"), ("training={steps: 5, steps: 6}", "a key stands twice"),
    ("training={[a]: 5}", "a key must be text"), (f"training={'[' * 500}", "nested too deeply"),
    (f"training={'{a: ' * 500}", "nested too deeply"), ("seed=${name}", "'seed'"),
    ("output=${nope}", "'nope' not found"),
    ("output=${", "'output' cannot be '${'"), ("data=${data}", "Recursive interpolation"),
    ("data=${oc.env:TARDIFF_NOT_SET}", "Environment variable 'TARDIFF_NOT_SET' not found"),
    ("steps=500", "Did you mean 'training.steps'?"), ("trainig.steps=5", "unknown key"),
    ("data.x=1", "unknown key 'data.x'. Did you mean 'data'?"), ("model=5", "must hold settings (model.KEY=...)"),
    ("trianing.yaml", "configuration file not found. A setting is written key=value."),
    ("configs/base/cinc2012_mortalty.yaml", "Did you mean 'configs/base/cinc2012_mortality.yaml'?"),
    ("\udcff.yaml", "configuration file not found")])
def test_a_command_refuses_in_one_short_message(typed, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    code, error = run_command("train", typed), capfd.readouterr().err
    assert_refused(code, error, (message,))
    assert ".yaml" in typed or (len(error) < MOST_OF_A_MESSAGE and error.startswith("error: 1 fault in"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("content", "message"), [
    ("a: &a [x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b, *b]", "aliases"),
    ("seed: 1\nseed: 2", "a key stands twice"), ("training: {steps: 1, steps: 2}", "a key stands twice"),
    ("? [1, 2]\n: 3", "a key must be text"), ("data: " + "[" * 500, "nested too deeply"),
    ("data: " + "{a: " * 500 + "1" + "}" * 500, "nested too deeply"), ('data: "\\ud800"', "surrogates not allowed"),
    (b"data: \xff", "codec can't decode"), ("data: \x00", "special characters"), (f"seed: {DIGITS[400]}", "at most"),
    (f"seed: {DIGITS[5000]}", WHOLE), ("seed: 2026-13-45", WHOLE), ("seed: !!python/object:os.system x", WHOLE),
    ("seed: 1:30", WHOLE), ("data: [a, b]", "'data' must be text"), ("training: [1]", "must hold settings"),
    ("1: 2", "unknown key '1'"), ("<<: {seed: 1}", "unknown key '<<'"), ("seed: 1\n---\nseed: 2", "single document"),
    ("data: ${oc.env:TARDIFF_NOT_SET}", "'TARDIFF_NOT_SET' not found"), ("name: ${output}", "Recursive interpolation"),
    (f"? {DIGITS[5000]}\n: 1", "unknown key"), (f"data:\n  ? {DIGITS[5000]}\n  : 1", "'data' must be text")])
def test_a_file_is_refused_in_one_short_message(content, message, tmp_path, capfd):
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, error = run_command("train", str(path)), capfd.readouterr().err
    assert_refused(code, error, (message, str(path)))
    assert len(error) < MOST_OF_A_MESSAGE and list(tmp_path.iterdir()) == [path]


def test_a_message_quotes_at_most_200_characters_of_a_value():
    with pytest.raises(UserError) as error:
        load_config(BaseConfig, None, [f"device={'y' * 99}", f"seed={'x' * 5000}"])
    assert max(map(len, re.findall("x+", str(error.value)))) == 200


def test_interpolation(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", "/data/of mine")
    (tmp_path / "config.yaml").write_text(
        "data: ${oc.env:DATA}\nname: study\noutput: runs/${name}/${seed}\nbase: ${output}/base\nseed: 3\n")
    config = load_config(GenerationConfig, tmp_path / "config.yaml")
    assert (config.data, config.output, config.base) == ("/data/of mine", "runs/study/3", "runs/study/3/base")
    config = load_config(GenerationConfig, tmp_path / "config.yaml", ["name=other"], {"seed": 4})
    assert (config.output, config.base, config.classifier) == (
        "runs/other/4", "runs/other/4/base", "runs/other/classifier")
    assert load_config(GenerationConfig, None, ["data=/x/my cohort/"]).base == "runs/my cohort/base"
    assert resolved("synthetic", "{one: '${output}/one'}", EvaluationConfig) == {"one": "runs/simulated/evaluation/one"}


def test_a_mistyped_preset_lists_those_beside_it():
    with pytest.raises(UserError) as error:
        load_config(GenerationConfig, "configs/guidance/papr.yaml")
    lines = str(error.value).splitlines()
    assert "Did you mean 'configs/guidance/paper.yaml'? TarDiff comes with:" in lines[0]
    folder = configs.CONFIGS / "guidance"
    assert [line.strip() for line in lines[1:]] == sorted(f"configs/guidance/{path.name}" for path in folder.iterdir())


@pytest.mark.parametrize(("command", "arguments", "message"), [
    ("guide", ["model.custom.import_path=a:B"], "'model.custom.import_path' has no effect with model.name=gru"),
    ("guide", ["model.name=custom", "model.custom.loss_path=a:b"], "has no effect without model.custom.import_path"),
    ("guide", ["training.keep=last", "training.min_steps=5"], "'training.min_steps' has no effect with"),
    ("generate", ["guidance.location=x_t", "guidance.through_denoiser=true"], "no effect with guidance.location=x_t"),
    ("generate", ["guidance.through_denoiser=true", "guidance.location=x_t"], "no effect with guidance.location=x_t"),
    ("generate", ["sampler.name=ddpm", "sampler.eta=0.5"], "'sampler.eta' is the noise of ddim and has no effect"),
    ("compare", ["model.inputs=values+mask"], "needs sets with masks"),
    ("evaluate", ["model.custom.import_path=a:B"], "'model.custom.import_path' has no effect")])
def test_a_setting_that_cannot_apply_is_refused(command, arguments, message, capfd):
    code = run_command(command, *arguments)
    assert_refused(code, capfd.readouterr().err, ("1 fault", message, "command line"))


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if command.schema])
def test_help_shows_what_the_command_would_use_and_a_yaml_of_paths_changes_nothing_else(command, tmp_path, capsys):
    """One meaning of default: no command has another model without CONFIG than with one that names its paths alone."""
    assert run_command(command, "--help") == 0
    shown = dict(re.findall(r"^  ([\w.]+)=(.*)$", capsys.readouterr().out, flags=re.MULTILINE))
    assert run_command(command, "--print-config") == 0
    used = yaml.safe_load(capsys.readouterr().out)
    assert shown == {name: as_typed(resolved_value(used, name)) for name in shown}
    assert len(shown) == len(describe(COMMANDS[command].schema))
    data = "data" if "data" in used else "real"
    (tmp_path / "mine.yaml").write_text(f"{data}: {used[data]}\noutput: {used['output']}\n")
    assert run_command(command, str(tmp_path / "mine.yaml"), "--print-config") == 0
    assert yaml.safe_load(capsys.readouterr().out) == used


def resolved_value(values, name):
    for part in name.split("."):
        values = values[part]
    return values


LEAVES = [(schema, line.strip().partition("=")[0]) for schema in SCHEMAS for line in describe(schema)]
VALUES = ["0", "1", "-1", "010", "1e3", "1e-4", "0.5", "1e999", "nan", "true", "null", "text", "''", "'1'", "[]", "[1]",
          "[x, 1]", "[[1]]", "{}", "{a: 1}", "{1: 0.5, a: [b]}", "${name}", "${nothing.of.this}", "${", "*a", "[",
          "!!python/object:os.system x", "2026-01-02", *DIGITS.values(), "[" * 400, "\ud800", "${data}",
          "${oc.env:A}", "\0", "-" * 3000]
TEXTS = st.one_of(
    st.text(max_size=30), st.text(st.sampled_from("0123456789eE+-._:xob"), max_size=12),
    st.text(st.sampled_from("[]{}:,&*!|>'\"#%@`?-~ \n\t$.ab01"), max_size=20),
    st.recursive(st.sampled_from(["1", "x", "null", "true", "1e3", "${seed}", "''", "a: 1", "*a", "&a 1", "!!int x"]),
                 lambda inner: st.lists(inner, max_size=4).map(", ".join).flatmap(
                     lambda items: st.sampled_from([f"[{items}]", f"{{{items}}}"])), max_leaves=8),
    st.sampled_from(VALUES))


def taken_or_refused(schema, path, overrides):
    """Check that settings are taken, and can be written, or refused in one bounded message; tell which."""
    try:
        config = load_config(schema, path, overrides)
    except UserError as error:
        assert len(str(error)) < MOST_OF_A_MESSAGE and str(error).encode("utf-8", "backslashreplace")
        return False
    assert isinstance(config, schema) and to_yaml(config).encode()
    return True


@hypothesis_settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(LEAVES), TEXTS, st.none() | TEXTS)
@example((GenerationConfig, "guidance.classes"), "1", "x" * 5000)
@example((EvaluationConfig, "synthetic"), "${real}", "a" * 5000)
def test_any_text_is_a_setting_or_one_bounded_message(leaf, text, below):
    schema, name = leaf
    taken_or_refused(schema, None, [f"{name}={text}" if below is None else f"{name}.{below}={text}"])


@pytest.mark.parametrize("every", [97, pytest.param(1, marks=pytest.mark.slow)])
def test_so_is_any_value_of_any_setting_typed_or_in_a_file(every, tmp_path):
    cases, taken = [(*leaf, value) for leaf in LEAVES for value in VALUES][::every], 0
    for schema, name, value in cases:
        *sections, last = name.split(".")
        text = "".join(f"{'  ' * depth}{section}:\n" for depth, section in enumerate(sections))
        (tmp_path / "config.yaml").write_text(f"{text}{'  ' * len(sections)}{last}: {value}\n", "utf-8",
                                              "surrogatepass")
        taken += taken_or_refused(schema, tmp_path / "config.yaml", []) + taken_or_refused(
            schema, None, [f"{name}={value}"])
    assert 0.1 < taken / (2 * len(cases)) < 0.9


def test_help_names_every_setting_with_default_and_choices():
    lines = "\n".join(describe(Outer))
    for expected in ("  steps=10\n      Steps.", "  share=null", "  flag=false", "  inner.kind=slow\n",
                     "One of slow, fast."):
        assert expected in lines
    assert len(describe(EvaluationConfig)) == len(_leaves(dataclasses.asdict(EvaluationConfig())))


def _leaves(values):
    return [name for key, value in values.items()
            for name in (_leaves(value) if isinstance(value, dict) and key not in ("synthetic", "options") else [key])]


def test_settings_of_guidance_that_the_objective_does_not_use_are_known():
    assert GuidanceConfig("classifier", classes="nonsense", influence_weight=3.0).without_effect() == [
        "classes", "influence_weight"]
    assert GuidanceConfig("anchored", classes="minority", influence_weight=3.0).without_effect() == []
    assert GuidanceConfig().without_effect() == GuidanceConfig("none").without_effect() == []
