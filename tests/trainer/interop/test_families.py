"""Which family of transformers a config fits, and the settings with which it fits none."""

from dataclasses import replace
from typing import Any

import pytest

from foretrain.configs.schema import Config, ModelConfig
from foretrain.trainer.interop.families import family_of
from foretrain.trainer.interop.family import targets_of
from foretrain.trainer.interop.tensors import Target, file_names, files_of
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.objectives.base import OBJECTIVES
from foretrain.trainer.objectives.next_token import NextToken
from tests.trainer.interop.cases import GPT2, LLAMA, MODELS, QWEN3, config_of


@pytest.mark.parametrize("name", MODELS)
def test_each_config_is_of_its_family(name: str) -> None:
    assert family_of(config_of(MODELS[name])).model_type == name.split(",")[0]


REFUSED: dict[str, tuple[ModelConfig, str]] = {
    "layernorm": (replace(LLAMA, norm="layernorm"), "model.norm = layernorm (it needs rmsnorm)"),
    "learned": (replace(LLAMA, position="learned"), "model.position = learned (it needs rope)"),
    "gelu": (replace(LLAMA, activation="gelu"), "model.activation = gelu (it needs swiglu)"),
    "qwen3 with biases": (replace(QWEN3, bias=True), "model.bias = true (it needs false)"),
    "gpt2 with rope": (replace(GPT2, position="rope"), "model.position = rope (it needs learned)"),
    "gpt2 with swiglu": (replace(GPT2, activation="swiglu"), "model.activation = swiglu (it needs gelu or gelu_tanh)"),
    "gpt2 with norms of queries": (replace(GPT2, qk_norm=True), "model.qk_norm = true (it needs false)"),
    "gpt2 with grouped queries": (
        replace(GPT2, num_kv_heads=2),
        "num_kv_heads = 2 (it needs model.num_heads = 4)",
    ),
    "gpt2 with wide heads": (replace(GPT2, head_dim=12), "model.head_dim = 12 (it needs d_model / num_heads)"),
    "llama with a width that heads do not divide": (
        replace(LLAMA, num_heads=3, head_dim=8),
        "model.d_model = 32 (it needs a multiple of model.num_heads = 3)",
    ),
    "attention of a plugin": (replace(LLAMA, attention="gated"), "model.attention = gated: no family"),
    "feed-forward layer of a plugin": (replace(LLAMA, feed_forward="router"), "model.feed_forward = router: no family"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_no_family_computes_is_refused_in_one_line_that_names_the_setting(name: str) -> None:
    model, words = REFUSED[name]
    with pytest.raises(ValueError, match="export") as refused:
        family_of(Config(model=model))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_objective_that_is_not_causal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class BothWays(NextToken):
        is_causal = False

    monkeypatch.setitem(OBJECTIVES._entries, "both_ways", BothWays)
    config = config_of(LLAMA)
    config.objective.kind = "both_ways"
    with pytest.raises(ValueError, match=r"objective.kind = both_ways attends to later positions"):
        family_of(config)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_in_one_tensor_and_no_tensor_is_there_twice(name: str) -> None:
    config = config_of(MODELS[name])
    made = blueprint(config)
    targets = targets_of(family_of(config), made)
    assert len({target.name for target in targets}) == len(targets)
    sources = [source.name for target in targets for source in target.sources]
    assert sorted(sources) == sorted(param.name for param in made.table)


def test_a_tied_head_is_not_stored() -> None:
    for model, head in ((LLAMA, True), (replace(LLAMA, tie_embeddings=True), False), (GPT2, True)):
        config = config_of(model)
        names = [target.name for target in targets_of(family_of(config), blueprint(config))]
        assert ("lm_head.weight" in names) is head


def sizes(*num_elements: int) -> list[Target]:
    return [Target.zeros(str(number), size) for number, size in enumerate(num_elements)]


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ([10], [[10]]),
        ([4, 4, 2], [[4, 4, 2]]),
        ([4, 4, 3], [[4, 4], [3]]),
        ([4, 99, 1], [[4], [99], [1]]),
        ([99, 1, 1], [[99], [1, 1]]),
    ],
)
def test_a_file_is_no_larger_than_allowed_unless_it_has_one_tensor(
    elements: list[int], expected: list[list[int]]
) -> None:
    files = files_of(sizes(*elements), 2, 20)
    assert [[target.num_elements for target in file] for file in files] == expected


def test_files_have_the_names_that_the_library_looks_for() -> None:
    assert list(file_names(1)) == ["model.safetensors"]
    assert list(file_names(2)) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_settings_are_those_of_our_config() -> None:
    model = replace(LLAMA, num_kv_heads=1, bias=True, head_dim=12, norm_eps=1e-3)
    found: dict[str, Any] = family_of(config_of(model)).settings(model)
    assert (found["head_dim"], found["num_key_value_heads"], found["rms_norm_eps"]) == (12, 1, 1e-3)
    assert found["rope_theta"] == found["rope_parameters"]["rope_theta"] == 500.0
    assert found["attention_bias"] and found["mlp_bias"]
