"""Converts an export to GGUF and continues prompts with llama.cpp, both in fp32: `python gguf_text.py ASKED ANSWER`.

ASKED is a JSON file with "exported", "gguf", "prompts", "num_tokens" and "seq_len". ANSWER gets the token ids of the
prompts, and the ids and the text of their continuations. It needs gguf, safetensors and llama-cpp-python.
"""

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from llama_cpp import GGML_TYPE_F32, Llama
from safetensors.numpy import load_file

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3, "gpt2": gguf.MODEL_ARCH.GPT2}
TRANSPOSED = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
"""Matrices that transformers stores (in, out), as convolutions."""
ROTATED = (".q_proj.weight", ".q_proj.bias", ".k_proj.weight", ".k_proj.bias")


def convert(exported: Path, out: Path) -> None:
    """Write the model and the tokenizer of an export as one GGUF file."""
    config = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[architecture])
    layers = _add_shape(writer, config)
    _add_tokenizer(writer, config, json.loads((exported / "tokenizer.json").read_text(encoding="utf-8")))
    names = gguf.get_tensor_name_map(architecture, layers)
    for name, values in sorted(load_file(exported / "model.safetensors").items()):
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise ValueError(f"GGUF has no place for {name}")
        writer.add_tensor(place, np.ascontiguousarray(_as_stored(name, values, config)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> int:
    """Add what config.json says, and return the number of blocks."""
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config["vocab_size"])
    if config["model_type"] == "gpt2":
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_block_count(config["n_layer"])
        writer.add_feed_forward_length(config["n_inner"])
        writer.add_head_count(config["n_head"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return int(config["n_layer"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    return int(config["num_hidden_layers"])


def _add_tokenizer(writer: gguf.GGUFWriter, config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    """Add a byte-level BPE that cuts texts into words as GPT-2 does, which is what foretrain trains."""
    special = {each["id"] for each in tokenizer["added_tokens"] if each["special"]}
    tokens = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    # The embedding may have more rows than the tokenizer has tokens.
    listed = [tokens.get(number, f"[unused {number}]") for number in range(config["vocab_size"])]
    kinds = [
        gguf.TokenType.CONTROL
        if number in special
        else gguf.TokenType.NORMAL
        if number in tokens
        else gguf.TokenType.UNUSED
        for number in range(len(listed))
    ]
    merges = [each if isinstance(each, str) else " ".join(each) for each in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(listed)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _as_stored(name: str, values: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """A tensor in the order in which GGUF keeps it."""
    if name.endswith(TRANSPOSED):
        return values.T
    if config["model_type"] == "llama" and name.endswith(ROTATED):
        # GGUF's Llama rotates pairs of neighbours, and transformers' the pairs (i, i + head_dim / 2).
        half = config["head_dim"] // 2
        return values.reshape(-1, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    return values


def continue_texts(asked: dict[str, Any]) -> dict[str, Any]:
    """The greedy continuations of all prompts, each computed alone."""
    model = Llama(
        asked["gguf"],
        n_ctx=asked["seq_len"],
        n_threads=1,
        n_threads_batch=1,
        type_k=GGML_TYPE_F32,
        type_v=GGML_TYPE_F32,
        flash_attn=False,
        verbose=False,
    )
    prompts, tokens, texts = [], [], []
    for prompt in asked["prompts"]:
        ids = model.tokenize(prompt.encode(), add_bos=False, special=False)
        found: list[int] = []
        model.reset()
        for token in model.generate(ids, top_k=0, top_p=1.0, min_p=0.0, temp=0.0, repeat_penalty=1.0):
            if token == model.token_eos() or len(found) == asked["num_tokens"]:
                break
            found.append(token)
        prompts.append(ids)
        tokens.append(found)
        texts.append(model.detokenize(found, prev_tokens=ids).decode(errors="replace"))
    return {"prompt_ids": prompts, "tokens": tokens, "texts": texts}


if __name__ == "__main__":
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    convert(Path(order["exported"]), Path(order["gguf"]))
    Path(sys.argv[2]).write_text(json.dumps(continue_texts(order)), encoding="utf-8")
