"""Loading, overriding, saving, hashing and comparing configs."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.configs.data import SourceConfig, StageConfig
from foretrain.configs.keys import KEYS, NAME
from foretrain.configs.load import ConfigError, config_hash, diff, load, save
from foretrain.configs.schema import Config
from foretrain.configs.values import convert
from tests.configs.files import refusal, write
from tests.configs.strategies import CONFIGS


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read_back(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tmp_path_factory.getbasetemp() / "saved.yaml"
    save(config, path)
    return load(path)


def test_an_empty_file_gives_the_defaults() -> None:
    write("run.yaml", "# nothing yet\n")
    assert load("run.yaml") == Config()


@settings(max_examples=15)
@given(config=CONFIGS)
def test_a_saved_config_loads_back_equal(config: Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    loaded = read_back(config, tmp_path_factory)
    assert loaded == config
    assert config_hash(loaded) == config_hash(config)


def test_a_saved_config_is_resolved() -> None:
    write("run.yaml", "extends: base\nrun_dir: runs/${model.name}\n")
    write("base.yaml", "model: {name: tiny, d_ff: '${model.d_model}', d_model: 64}\n")
    save(load("run"), "saved.yaml")
    text = Path("saved.yaml").read_text()
    assert "extends" not in text
    assert "${" not in text
    assert load("saved").run_dir == "runs/tiny"
    assert load("saved").model.d_ff == 64


# Overrides and values


@given(count=st.integers(1, 10**12))
def test_an_integer_may_be_written_in_any_usual_way(count: int) -> None:
    for text in (str(count), f"{count:_}", f"{count:e}" if float(f"{count:e}") == count else f"{count}.0"):
        assert convert(text, int) == count


@pytest.mark.parametrize(
    ("text", "value"), [("2e6", 2_000_000), ("300e9", 300_000_000_000), ("2^20", 2**20), ("2**20", 2**20)]
)
def test_a_whole_number_in_floating_notation_is_an_integer(text: str, value: int) -> None:
    write("run.yaml", f"train:\n  num_tokens: {text}\n")
    for config in (load("run"), load("run", [f"train.num_tokens={text}"])):
        assert config.train.num_tokens == value
        assert type(config.train.num_tokens) is int


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1", 1.0), ("1_000.5", 1000.5), ("2^-7", 2**-7), ("2**-7.5", 2**-7.5)]
)
def test_a_float_may_be_written_in_any_usual_way(text: str, value: float) -> None:
    write("run.yaml", f"optimizer:\n  lr: {text}\n")
    for config in (load("run"), load("run", [f"optimizer.lr={text}"])):
        assert config.optimizer.lr == value
        assert type(config.optimizer.lr) is float


@given(value=st.floats(min_value=1e-300, max_value=1e300))
def test_a_float_is_read_exactly(value: float) -> None:
    assert convert(repr(value), float) == value


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("sample.prompts=[a, 'b: c']", ["a", "b: c"]),
        ("sample.prompts=[]", []),
        ("model.bias=yes", True),
        ("model.bias=false", False),
        ("model.vocab_size=null", None),
        ("model.norm=layernorm", "layernorm"),
        ("parallel.zero_stage=3", 3),
        ("optimizer.clip_norm=.inf", float("inf")),
        ("data.path=s3://bucket/a=b", "s3://bucket/a=b"),
        ("model.name=on", "on"),
        ("model.name=007", "007"),
        ("model.name=2024-01-01", "2024-01-01"),
        ("model.d_ff=${model.d_model}", 128),
    ],
)
def test_the_schema_decides_what_a_value_is(override: str, value: object) -> None:
    write("run.yaml", "sample: {prompts: [x, y, z]}\nmodel: {vocab_size: 10}")
    section, name = override.partition("=")[0].split(".")
    assert getattr(getattr(load("run", [override]), section), name) == value


def test_an_override_may_set_several_keys_of_a_section() -> None:
    write("run.yaml", "model: {d_model: 64}")
    model = load("run", ["model={num_layers: 2, num_heads: 8}"]).model
    assert (model.d_model, model.num_layers, model.num_heads) == (64, 2, 8)


def test_overrides_win_over_the_file_and_later_ones_over_earlier_ones() -> None:
    write("run.yaml", "train: {seed: 1}\ndata: {seed: 1}\nsample: {seed: 1}")
    config = load("run", ["data.seed=2", "sample.seed=2", "sample.seed=3"])
    assert (config.train.seed, config.data.seed, config.sample.seed) == (1, 2, 3)


# What files extend


def test_later_files_win_over_several_levels() -> None:
    write("run.yaml", "extends: [shapes/big.yaml, b]\nsample: {seed: 5}")
    write("shapes/big.yaml", "extends: base\ndata: {seed: 2}\nmodel: {num_layers: 9}")
    write("shapes/base.yaml", "train: {seed: 1}\ndata: {seed: 1}\nsample: {seed: 1}\nmodel: {name: base}")
    write("b.yaml", "data: {seed: 3}\nsample: {seed: 3}")
    config = load("run")
    assert (config.train.seed, config.data.seed, config.sample.seed) == (1, 3, 5)
    assert (config.model.name, config.model.num_layers) == ("base", 9)


def test_a_file_may_be_extended_twice_without_a_circle() -> None:
    write("run.yaml", "extends: [a, b]")
    write("a.yaml", "extends: base\ndata: {seed: 2}")
    write("b.yaml", "extends: base")
    write("base.yaml", "data: {seed: 1}")
    assert load("run").data.seed == 1


def test_a_packaged_preset_may_be_extended_from_anywhere() -> None:
    write("run.yaml", "extends: [models/llama_7b, clusters/a100_80gb.yaml]\nmodel: {num_layers: 2}")
    config = load("run")
    assert (config.model.num_layers, config.model.d_ff) == (2, 11008)


def test_files_that_extend_one_another_in_a_circle_are_refused() -> None:
    write("run.yaml", "extends: a")
    write("a.yaml", "extends: sub/b")
    write("sub/b.yaml", "extends: ../a.yaml")
    assert refusal() == "extends goes in a circle: a.yaml -> sub/b.yaml -> a.yaml"


@pytest.mark.parametrize("extends", ["", "[a, null]", "[[a]]"])
def test_extends_must_name_files(extends: str) -> None:
    write("run.yaml", f"extends: {extends}")
    assert refusal() == "extends must be a file or a list of files (run.yaml:1)"


# Where files are found


def test_a_preset_is_found_by_its_bare_name_and_the_working_directory_comes_first() -> None:
    assert load("runs/dry_run") == load("runs/dry_run.yaml")
    Path("runs/dry_run").mkdir(parents=True)  # the folder that the run itself makes
    assert load("runs/dry_run").run_dir == "runs/dry_run"
    write("runs/dry_run.yaml", "run_dir: mine")
    assert load("runs/dry_run").run_dir == "mine"


def test_a_name_with_a_dot_is_found() -> None:
    assert load("models/gpt3_6.7b").model.name == "gpt3_6.7b"


@pytest.mark.parametrize("name", ["runs/dryrun", "dry_run", "elsewhere/dry_runs.yaml"])
def test_a_missing_file_lists_the_nearest_presets(name: str) -> None:
    assert refusal(path=name).startswith(f"no config file '{name}': the nearest presets are runs/dry_run, ")


def test_the_refusal_of_a_missing_extended_file_names_the_line_that_extends_it() -> None:
    write("run.yaml", "run_dir: x\nextends: models/gpt2_124\n")
    assert "'models/gpt2_124' (run.yaml:2): the nearest presets are models/gpt2_124m," in refusal()


# What is refused, and how


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("model.num_layer", "did you mean model.num_layers?"),
        ("modle.num_layers", "did you mean model.num_layers?"),
        ("num_layers", "did you mean model.num_layers?"),
        ("train.lr", "did you mean optimizer.lr?"),
        ("sample.num_token", "did you mean sample.num_tokens?"),
        ("optimiser", "did you mean optimizer?"),
        ("data.zzz", "valid keys are data.path, data.sources, data.stages, "),
        ("data.sources.web.weigth", "did you mean data.sources.NAME.weight?"),
        ("data.sources.web.zzz", "valid keys are data.sources.web.path, data.sources.web.weight, "),
        ("data.sources.a b.path", "did you mean data.sources.NAME.path?"),
        ("model.name.zzz", "valid keys are model.name, "),
        ("zzz", "valid keys are run_dir, plugins, model, "),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_one(key: str, advice: str) -> None:
    assert f"there is no key {key} (override '{key}=1'): {advice}" in refusal(f"{key}=1")
    write("run.yaml", f"run_dir: x\n{key}: 1\n")
    assert f"there is no key {key} (run.yaml:2): {advice}" in refusal()


FIXED_KEYS = [key for key in KEYS if not key.endswith(NAME)]
"""Keys whose last part is a name of the schema, not of a user."""


@settings(max_examples=25)
@given(key=st.sampled_from(FIXED_KEYS), letter=st.sampled_from("xqz"))
def test_a_key_with_one_letter_too_many_is_refused_with_the_right_key(key: str, letter: str) -> None:
    name = key.rpartition(".")[2]
    advice = f"did you mean {key}?" if len(name) > 2 else ""
    assert advice in refusal(f"{key}{letter}=1")


@pytest.mark.parametrize(
    ("key", "text", "complaint"),
    [
        ("model.num_layers", "four", "'four' is not a number"),
        ("model.num_layers", "2.5", "2.5 is not a whole number"),
        ("model.num_layers", "1e999", "1e999 is not a whole number"),
        ("model.num_layers", "true", "'true' is not a number"),
        ("model.num_layers", "null", "null is not allowed here"),
        ("model.num_layers", "[1]", "a list is not allowed here"),
        ("model.bias", "2", "'2' is neither true nor false"),
        ("model.norm", "batchnorm", "'batchnorm' is not one of rmsnorm, layernorm"),
        ("parallel.zero_stage", "4", "'4' is not one of 0, 1, 2, 3"),
        ("optimizer.lr", "fast", "'fast' is not a number"),
        ("optimizer.lr", "0^-1", "'0^-1' is not a number"),
        ("sample.prompts", "a", "'a' is not a list, which is written [a]"),
        ("sample.prompts", "[a, [b]]", "a list is not allowed here"),
        ("sample.prompts", "[a, null]", "null is not allowed here"),
        ("model.vocab_size", "none", "'none' is not a number"),
    ],
)
def test_a_wrong_type_is_refused_with_its_key_and_origin(key: str, text: str, complaint: str) -> None:
    assert refusal(f"{key}={text}") == f"{key}: {complaint} (override '{key}={text}')"
    section, name = key.split(".")
    write("run.yaml", f"{section}:\n  # why\n  {name}: {text}\n")
    assert refusal() == f"{key}: {complaint} (run.yaml:3)"


def test_a_section_takes_no_value() -> None:
    assert "data is a section and takes no value (override 'data=1'): valid keys are data.path," in refusal("data=1")
    write("run.yaml", "model:\ndata: {path: x}")
    assert "model is a section and takes no value (run.yaml:1)" in refusal()


def test_an_impossible_value_names_its_section_and_who_set_it() -> None:
    write("run.yaml", "extends: base\nmodel:\n  d_model: 100\n  num_heads: 5\n")
    write("base.yaml", "optimizer:\n  lr: -1\n")
    message = refusal("optimizer.lr=1", "model.num_heads=3")
    assert message == (
        "model: d_model = 100 is not a multiple of num_heads = 3: change one, or set head_dim "
        "(model.d_model from run.yaml:3, model.num_heads from override 'model.num_heads=3')"
    )
    assert refusal() == "optimizer: lr = -1.0 must be greater than 0 (optimizer.lr from base.yaml:2)"


@pytest.mark.parametrize("value", ["${nope}", "${run_dir}", "${model}", "???"])
def test_a_value_that_cannot_be_resolved_names_its_origin(value: str) -> None:
    assert f"(run_dir from override 'run_dir={value}')" in refusal(f"run_dir={value}")


def test_a_reference_must_fit_the_type() -> None:
    assert "(model.d_ff from override 'model.d_ff=${run_dir}')" in refusal("model.d_ff=${run_dir}")
    assert "run_dir: " in refusal("run_dir=${")


@pytest.mark.parametrize("override", ["model.d_model", "=3", "", "--help"])
def test_an_override_without_a_key_and_a_value_is_refused(override: str) -> None:
    assert refusal(override) == f"override '{override}' is not key=value, as in optimizer.lr=1e-3"


def test_a_key_that_is_set_twice_in_a_file_is_refused() -> None:
    write("run.yaml", "train:\n  seed: 1\ndata: {seed: 1}\ntrain:\n  seed: 2\n")
    assert refusal() == "train.seed is set twice: run.yaml:2 and run.yaml:5"


@pytest.mark.parametrize(
    ("text", "line"), [("run_dir: x\nmodel: {", 2), ("a: b: c", 1), ("--- 1\n--- 2", 2), ("x\n\0", 1)]
)
def test_broken_yaml_is_refused_with_its_line(text: str, line: int) -> None:
    write("run.yaml", text)
    assert refusal().startswith(f"not valid YAML (run.yaml:{line}): ")


def test_a_file_that_is_no_mapping_is_refused() -> None:
    write("run.yaml", "- model")
    assert refusal() == "a config holds keys with values, as in `model: {num_layers: 4}` (run.yaml:1)"


def test_what_a_user_gets_wrong_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)


# Sections with names of the user's own


def test_named_sections_are_made_by_whoever_sets_a_key_of_them() -> None:
    write("run.yaml", "data:\n  sources: {web: {path: a, weight: 2}}\n")
    sources = load("run", ["data.sources.code.path=b", "data.sources.code.max_epochs=4"]).data.sources
    assert sources == {"web": SourceConfig("a", 2.0), "code": SourceConfig("b", 1.0, 4.0)}
    stages = load("run", ["data.stages.end={from_tokens: 1e6, weights: {web: 1}}"]).data.stages
    assert stages == {"end": StageConfig(1_000_000, {"web": 1.0})}


def test_a_named_section_is_checked_like_any_other() -> None:
    write("run.yaml", "data:\n  sources: {web: {path: a}}\n")
    assert "every source needs a path" in refusal("data.sources.code.weight=1")
    assert "weight = -1.0 must not be negative" in refusal("data.sources.web.weight=-1")
    assert "stages.end has a weight for cod, but the sources are web" in refusal(
        "data.stages.end={from_tokens: 1, weights: {cod: 1}}"
    )
    assert "data.sources is a section and takes no value" in refusal("data.sources=x")
    assert "data.sources.web is a section and takes no value" in refusal("data.sources.web=x")


def test_a_diff_shows_named_sections_that_only_one_config_has() -> None:
    write("run.yaml", "data:\n  sources: {web: {path: a}}\n")
    lines = diff(load("run"), load("run", ["data.sources.code.path=b"]))
    assert "data.sources.code.path: (not there) -> b" in lines
    assert diff(load("run"), load("run")) == []


# Comparing


@settings(max_examples=30)
@given(a=CONFIGS, b=CONFIGS)
def test_two_configs_have_one_hash_exactly_if_they_are_equal_and_their_diff_is_empty(a: Config, b: Config) -> None:
    assert (config_hash(a) == config_hash(b)) == (a == b) == (not diff(a, b))
    assert config_hash(a) == config_hash(dataclasses.replace(a))
    assert not diff(a, dataclasses.replace(a))


def test_1_and_1_point_0_have_one_hash() -> None:
    values = ["optimizer.lr=1", "train.num_tokens=1e6"]
    write("run.yaml", "")
    config = load("run", values)
    config.optimizer.lr = 1  # equal to 1.0
    assert config_hash(config) == config_hash(load("run", values))
    assert len(config_hash(config)) == 64


def test_a_diff_has_a_line_for_each_setting_that_differs() -> None:
    write("run.yaml", "")
    a, b = load("run"), load("run", ["optimizer.lr=2e-3", "run_dir=x", "model.vocab_size=7"])
    assert diff(a, b) == ["run_dir: runs/run -> x", "model.vocab_size: None -> 7", "optimizer.lr: 0.001 -> 0.002"]


def test_references_are_filled_in() -> None:
    write("run.yaml", "run_dir: runs/${model.name}\nmodel: {name: '${..data.path}-x'}\ndata: {path: here}\n")
    assert load("run").run_dir == "runs/here-x"
