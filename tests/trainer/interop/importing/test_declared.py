"""What a config.json declares: the model section that computes the same, and refusals of everything else."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.model import ModelConfig
from foretrain.trainer.interop.importing.declared import declared_model
from foretrain.trainer.interop.importing.errors import UnfitError
from foretrain.trainer.interop.importing.kinds import KINDS
from tests.trainer.interop.importing.theirs import ABSENT, CLASSES, change, their_config

PUBLISHED: dict[str, tuple[dict[str, Any], ModelConfig]] = {
    "gpt2": (
        {
            "activation_function": "gelu_new",
            "architectures": ["GPT2LMHeadModel"],
            "attn_pdrop": 0.1,
            "bos_token_id": 50256,
            "embd_pdrop": 0.1,
            "eos_token_id": 50256,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "model_type": "gpt2",
            "n_ctx": 1024,
            "n_embd": 768,
            "n_head": 12,
            "n_layer": 12,
            "n_positions": 1024,
            "resid_pdrop": 0.1,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
            "vocab_size": 50257,
        },
        ModelConfig(
            name="m",
            num_layers=12,
            d_model=768,
            num_heads=12,
            vocab_size=50257,
            seq_len=1024,
            norm="layernorm",
            position="learned",
            activation="gelu_tanh",
            bias=True,
            tie_embeddings=True,
        ),
    ),
    "llama": (
        {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "hidden_act": "silu",
            "hidden_size": 576,
            "initializer_range": 0.041666666666666664,
            "intermediate_size": 1536,
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "num_attention_heads": 9,
            "num_hidden_layers": 30,
            "num_key_value_heads": 3,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_interleaved": False,
            "rope_scaling": None,
            "rope_theta": 100000,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.40.1",
            "use_cache": True,
            "vocab_size": 49152,
        },
        ModelConfig(
            name="m",
            num_layers=30,
            d_model=576,
            num_heads=9,
            num_kv_heads=3,
            d_ff=1536,
            vocab_size=49152,
            seq_len=8192,
            rope_theta=100_000.0,
            tie_embeddings=True,
        ),
    ),
    "qwen3": (
        {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 1024,
            "initializer_range": 0.02,
            "intermediate_size": 3072,
            "max_position_embeddings": 40960,
            "max_window_layers": 28,
            "model_type": "qwen3",
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.51.0",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        ModelConfig(
            name="m",
            num_layers=28,
            d_model=1024,
            num_heads=16,
            num_kv_heads=8,
            head_dim=128,
            d_ff=3072,
            vocab_size=151936,
            seq_len=40960,
            norm_eps=1e-6,
            rope_theta=1_000_000.0,
            tie_embeddings=True,
            qk_norm=True,
        ),
    ),
}
"""The config.json of models that earlier versions of transformers have written, and our model sections."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_understood(name: str, tmp_path: Path) -> None:
    written, model = PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert declared_model(tmp_path, None, "m").model == model


@pytest.mark.parametrize("kind", CLASSES)
def test_defaults_are_those_of_transformers(kind: str) -> None:
    """A field that config.json lacks has the value that the class of the library gives it."""
    theirs = {each.name: each for each in dataclasses.fields(CLASSES[kind])}
    compared = 0
    for each in dataclasses.fields(KINDS[kind].fields):
        if each.name in theirs and each.default is not dataclasses.MISSING:
            assert theirs[each.name].default == each.default, each.name
            compared += 1
    assert compared >= 7
    assert CLASSES[kind].default_theta == 10_000.0
    for name, value in KINDS[kind].fixed.items():
        if name in theirs:
            assert theirs[name].default == value, name


@pytest.mark.parametrize("kind", CLASSES)
def test_every_field_that_transformers_knows_is_known(kind: str) -> None:
    known = {each.name for each in dataclasses.fields(KINDS[kind].fields)} | KINDS[kind].fixed.keys()
    their_fields = {each.name for each in dataclasses.fields(CLASSES[kind])}
    assert their_fields - known - KINDS[kind].no_matter == set()


def written(folder: Path, kind: str, **fields: Any) -> Path:
    """A folder with the config.json of a small model, with other fields."""
    their_config(kind, architectures=[KINDS[kind].architecture]).save_pretrained(folder)
    change(folder, **fields)
    return folder


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "another model": ("llama", {"model_type": "gemma2"}, 'model_type = "gemma2"'),
    "no model_type": ("llama", {"model_type": ABSENT}, "model_type = null"),
    "a model_type that is a list": ("llama", {"model_type": []}, "model_type = []"),
    "another head": (
        "llama",
        {"architectures": ["LlamaForSequenceClassification"]},
        'architectures = ["LlamaForSequenceClassification"]',
    ),
    "no size": ("llama", {"hidden_size": ABSENT}, "it has no hidden_size"),
    "a size that is a text": ("llama", {"hidden_size": "32"}, "its hidden_size is '32'"),
    "a size that is true": ("llama", {"num_hidden_layers": True}, "its num_hidden_layers is True"),
    "a size of 0": ("llama", {"num_attention_heads": 0}, "num_attention_heads = 0 (it needs 1 to"),
    "a huge number of layers": ("gpt2", {"n_layer": 10**9}, "n_layer = 1000000000 (it needs 1 to 10,000)"),
    "a huge size": ("qwen3", {"vocab_size": 10**12}, "vocab_size = 1000000000000 (it needs 1 to"),
    "scaled rotations": (
        "llama",
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "rope_parameters": ABSENT},
        'rope_scaling = {"rope_type": "llama3", "factor": 8.0} (it needs',
    ),
    "scaled rotations, by an old name": (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": ABSENT},
        'rope_scaling = {"type": "linear"',
    ),
    "scaled rotations, by a new name": (
        "mistral",
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
        'rope_parameters = {"rope_type": "yarn"',
    ),
    "rotations of a part": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "rope_parameters = ",
    ),
    "rotations of a part, by another name": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    "two bases of rotations": (
        "llama",
        {"rope_theta": 5e5},
        "rope_theta = 500000.0 with rope_parameters.rope_theta = 10000.0 (it needs one value)",
    ),
    "two other bases of rotations": (
        "qwen3",
        {"rope_scaling": {"type": "default", "rope_theta": 77}},
        "rope_parameters.rope_theta = 10000.0 with rope_scaling.rope_theta = 77 (it needs one value)",
    ),
    "a base of rotations that is no number": (
        "llama",
        {"rope_parameters": {"rope_theta": [1]}},
        'rope_parameters = {"rope_theta": [1]} (it needs rotations',
    ),
    "a window": ("mistral", {"sliding_window": 23}, "sliding_window = 23 (shorter than the sequence of 24 tokens"),
    "a window by default": (
        "mistral",
        {"sliding_window": ABSENT, "max_position_embeddings": 5000},
        "sliding_window = 4096 (shorter than the sequence of 5,000 tokens: --seq-len 4096)",
    ),
    "a window that is in use": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 8},
        "sliding_window = 8 (shorter",
    ),
    "layers with a window": (
        "qwen3",
        {"layer_types": ["full_attention", "sliding_attention"]},
        'layer_types has "sliding_attention" (it needs full_attention)',
    ),
    "kinds of other layers": (
        "qwen3",
        {"layer_types": ["full_attention"]},
        "layer_types has 1 entries (it needs num_hidden_layers = 2)",
    ),
    "an integer beyond all floats": (
        "llama",
        {"rms_norm_eps": 10**400},
        "rms_norm_eps is an integer that is too large",
    ),
    "a base beyond all floats": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10**400}},
        "rope_parameters.rope_theta is an integer that is too large",
    ),
    "chunked layers": ("qwen3", {"layer_types": ["chunked_attention"] * 2}, 'layer_types has "chunked_attention"'),
    "biases of attention": (
        "llama",
        {"attention_bias": True},
        "attention_bias = true with mlp_bias = false (it needs biases in all linear layers of a block, or in none)",
    ),
    "biases of qwen3": ("qwen3", {"attention_bias": True}, "attention_bias = true (it needs false)"),
    "biases of mistral": ("mistral", {"mlp_bias": 1}, "mlp_bias = 1 (it needs false)"),
    "gelu": ("llama", {"hidden_act": "gelu"}, 'hidden_act = "gelu" (it needs silu)'),
    "relu": ("gpt2", {"activation_function": "relu"}, 'activation_function = "relu" (it needs gelu or'),
    "heads that do not divide": (
        "llama",
        {"head_dim": None, "num_attention_heads": 5},
        "hidden_size = 32 (without head_dim, a multiple of num_attention_heads = 5)",
    ),
    "key-value heads that do not divide": ("llama", {"num_key_value_heads": 3}, "num_key_value_heads = 3 (it needs"),
    "odd heads": ("llama", {"head_dim": 7}, "head_dim = 7 (it needs an even number"),
    "heads of gpt2": ("gpt2", {"n_head": 5}, "n_embd = 32 (it needs a multiple of n_head = 5)"),
    "fewer positions": ("gpt2", {"n_ctx": 12}, "n_ctx = 12 (it needs n_positions = 24)"),
    "attention that is not scaled": (
        "gpt2",
        {"scale_attn_weights": False},
        "scale_attn_weights = false (it needs true)",
    ),
    "attention that is scaled by depth": (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True},
        "scale_attn_by_inverse_layer_idx = true",
    ),
    "cross-attention": ("gpt2", {"add_cross_attention": True}, "add_cross_attention = true (it needs false)"),
    "an eps of 0": ("llama", {"rms_norm_eps": 0.0}, "norm_eps = 0.0 must be greater than 0"),
    "a soft cap": ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0 (not known: delete it"),
    "a factor": ("llama", {"embedding_multiplier": 12.0}, "embedding_multiplier = 12.0 (not known"),
    "code": ("llama", {"auto_map": {"AutoModel": "modeling.Model"}}, 'auto_map = {"AutoModel"'),
    "quantized": ("llama", {"quantization_config": {"bits": 4}}, 'quantization_config = {"bits": 4}'),
    "two reasons": ("llama", {"hidden_act": "gelu", "logit_scale": 2}, "logit_scale = 2 (not known"),
    "a name that controls the terminal": ("llama", {"\x1b[31m": 1}, r"\x1b[31m = 1 (not known"),
}
"""A kind, fields of its config.json, and what the refusal must say."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_computes_something_else_is_refused_with_the_field_and_its_value(
    name: str, tmp_path: Path
) -> None:
    kind, fields, words = REFUSED[name]
    written(tmp_path, kind, **fields)
    with pytest.raises(UnfitError) as refused:
        declared_model(tmp_path, None, "m")
    assert words in str(refused.value) and str(tmp_path / "config.json") in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("content", ["", "[]", "{", "\xff", '{"a": ' * 100_000], ids=range(5))
def test_a_config_that_is_no_object_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UnfitError, match=r"config\.json is not (JSON|a JSON object)"):
        declared_model(tmp_path, None, "m")


def test_a_shorter_sequence_is_imported_and_a_longer_one_is_not(tmp_path: Path) -> None:
    written(tmp_path, "mistral", sliding_window=12, num_key_value_heads=4)
    assert declared_model(tmp_path, 12, "m").model.seq_len == 12
    for seq_len in (0, 13, 25):
        with pytest.raises(UnfitError, match=r"sliding_window = 12|--seq-len must be 1 to that, and it is"):
            declared_model(tmp_path, seq_len, "m")
    written(tmp_path, "gpt2")
    assert declared_model(tmp_path, 24, "m").model.seq_len == 24
    with pytest.raises(UnfitError, match=r"n_positions = 24, which are learned \(--seq-len must be that"):
        declared_model(tmp_path, 12, "m")


def test_fields_that_change_nothing_may_have_any_value(tmp_path: Path) -> None:
    fields = {name: "anything" for name in KINDS["llama"].no_matter if name not in ("architectures", "model_type")}
    written(tmp_path, "llama", **fields, rope_scaling=None, unknown=None)
    assert declared_model(tmp_path, None, "m").dropouts == {}


def test_dropout_is_reported(tmp_path: Path) -> None:
    written(tmp_path, "gpt2", attn_pdrop=0.0)
    assert declared_model(tmp_path, None, "m").dropouts == {"embd_pdrop": 0.1, "resid_pdrop": 0.1}
