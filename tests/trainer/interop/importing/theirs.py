"""Folders of small models with random weights, as transformers writes them."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from tests.trainer.interop.made import VOCAB_SIZE, tokenizer_json

WEIGHTS = "model.safetensors"
CLASSES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen3": Qwen3Config, "gpt2": GPT2Config}
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
}
GPT2_SHAPE = {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, grouped queries, tied": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama, biases, wide heads, another eps and base": (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "head_dim": 12, "rms_norm_eps": 1e-3, "rope_theta": 500.0},
    ),
    "mistral": ("mistral", {"num_key_value_heads": 2, "sliding_window": 24}),  # just as long as the sequence
    "mistral, no window, wide heads": ("mistral", {"num_key_value_heads": 1, "sliding_window": None, "head_dim": 12}),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 12}),
    "qwen3, tied": ("qwen3", {"num_key_value_heads": 4, "head_dim": 8, "tie_word_embeddings": True}),
    "gpt2": ("gpt2", {}),
    "gpt2, exact gelu, untied, narrow": (
        "gpt2",
        {"activation_function": "gelu", "tie_word_embeddings": False, "n_inner": 40},
    ),
}
"""Models that are imported: their kind, and their settings beside the shape."""


def their_config(kind: str, **settings: Any) -> PreTrainedConfig:
    """The settings of a small model."""
    shape = GPT2_SHAPE if kind == "gpt2" else SHAPE
    config = CLASSES[kind](**{**shape, "initializer_range": 0.2, "eos_token_id": 0, "bos_token_id": 0, **settings})
    assert isinstance(config, PreTrainedConfig)
    return config


@cache
def their_model(name: str) -> PreTrainedModel:
    """A model of THEIRS with random weights, of which gains and biases are not 1 and 0. No test changes it."""
    kind, settings = THEIRS[name]
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(their_config(kind, **settings))
    with torch.no_grad():
        for param in model.parameters():
            if param.dim() == 1:
                param.add_(0.3 * torch.randn_like(param))
    return model.eval()


def write_theirs(folder: Path, name: str = "llama", dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """The folder of a model of THEIRS, with a tokenizer."""
    model = their_model(name)
    weights = {key: value.to(dtype) for key, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights, **options)
    (folder / TOKENIZER).write_text(tokenizer_json(), encoding="utf-8")
    return folder


def change(folder: Path, **fields: Any) -> None:
    """Change fields of a folder's config.json; one that is ABSENT is removed."""
    path = folder / "config.json"
    found = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not ABSENT}))


def rewritten(folder: Path, change_weights: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """The folder of a model, with other tensors in its file."""
    file = folder / WEIGHTS
    save_file({key: value.contiguous() for key, value in change_weights(load_file(file)).items()}, file)
    return folder


ABSENT = object()
