"""A config that others have written reads no secret, and costs no more than the limits."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.configs.data import SourceConfig
from foretrain.configs.load import ConfigError, load
from tests.configs.files import refusal, write


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "value",
    ["${oc.env:HF_TOKEN}", "a-${ oc.env : HF_TOKEN }", "${${model.name}:HF_TOKEN}", "${oc.decode:${oc.env:HF_TOKEN}}"],
)
def test_a_config_cannot_read_a_secret_from_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush")
    message = refusal("model.name=oc.env", f"run_dir='{value}'")
    assert "run_dir: " in message and "calls a function" in message and "hush" not in message
    with pytest.raises(ConfigError, match="calls a function"):
        load("run", ["model.name=oc.env", f"sample.prompts=['{value}']"])


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["\\", "$", "${", "{", "}", ":", "oc.env", "HF_TOKEN", "model.name", " "]), max_size=12)
)
def test_no_text_makes_a_config_read_the_environment(parts: list[str]) -> None:
    write("run.yaml", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hush")
        try:
            found = load("run", ["model.name=oc.env", f"run_dir='{''.join(parts)}'"]).run_dir
        except ConfigError as error:
            found = str(error)
        assert "hush" not in found


def test_an_escaped_call_is_text() -> None:
    write("run.yaml", "")
    assert load("run", ["run_dir='\\${oc.env:HOME}'"]).run_dir == "${oc.env:HOME}"


def aliases(levels: int) -> str:
    """YAML of a few hundred bytes for 10^levels values."""
    first = " - &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    more = (f" - &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, levels))
    return f"plugins:\n{first}{''.join(more)}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (aliases(6), r"more than 100000 keys and values.*\(run\.yaml:\d+\): leave the aliases out"),
        ("plugins: &a [*a]\n", r"an alias of YAML contains itself \(run\.yaml:1\)"),
        ("model: &a\n  name: *a\n", r"an alias of YAML contains itself"),
        (f"plugins: {'[' * 60}{']' * 60}\n", r"nested more than 50 levels deep \(run\.yaml:1\)"),
        (f"plugins: {'[' * 9000}{']' * 9000}\n", r"nested too deeply \(run\.yaml:1\)"),
        ("# " + "x" * 2**20, r"^run\.yaml has more than 1048576 bytes"),
        (f"train: {{num_tokens: {'9' * 100_000}}}\n", r"^train\.num_tokens: 9{20}"),
    ],
    ids=lambda value: value[:20],
)
def test_a_config_beyond_a_limit_is_one_short_error_with_its_place(text: str, words: str) -> None:
    write("run.yaml", text)
    with pytest.raises(ConfigError, match=words) as found:
        load("run")
    assert len(str(found.value)) <= 4_000
    override = text.partition(": ")[2]
    if text.startswith("plugins: "):
        with pytest.raises(ConfigError):
            load("runs/dry_run", [f"plugins={override}"])


def test_files_that_extend_each_other_many_times_are_refused() -> None:
    write("level0.yaml", "")
    for level in range(1, 8):
        write(f"level{level}.yaml", f"extends: [{', '.join([f'level{level - 1}'] * 10)}]\n")
    assert "a config may read 1000 files" in refusal(path="level7")


def test_a_config_may_repeat_itself_by_aliases() -> None:
    write("run.yaml", "data:\n  sources:\n    a: &same {path: x, weight: 2}\n    b: *same\n")
    assert load("run").data.sources["b"] == SourceConfig("x", 2.0)


def test_references_that_repeat_each_other_are_refused_before_they_are_filled_in() -> None:
    lines = ["data:", "  sources:", f"    a: {{path: {'x' * 100}}}"]
    for before, name in zip("abcdefg", "bcdefgh", strict=True):
        lines.append(f"    {name}: {{path: '{f'${{data.sources.{before}.path}}' * 10}'}}")
    write("run.yaml", "\n".join(lines))
    assert "data.sources.e.path has more than 1048576 characters when its references" in refusal()


@pytest.mark.parametrize("step", [1, -1])
def test_a_reference_through_too_many_settings_is_refused_in_any_order(step: int) -> None:
    chain = [f"    s{n}: {{path: '${{data.sources.s{n - 1}.path}}'}}" for n in range(1, 1500)]
    write("run.yaml", "\n".join(["data:", "  sources:", *["    s0: {path: x}", *chain][::step]]))
    message = refusal()
    assert "through more than 50 of them (run.yaml:" in message and len(message) < 500
