"""The fields of config.json that an import knows, with the values that the library takes where a field is missing.

A test compares the defaults with those of transformers, which the project needs for tests only. Sizes have none: every
config.json has them.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LlamaFields:
    """The fields of Llama that say what the model computes."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope_theta: float | None = None
    """Base of the rotary frequencies, where version 5 of the library has `rope_parameters`; None: 10,000."""
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0


@dataclass(frozen=True)
class MistralFields(LlamaFields):
    """The fields of Mistral, which has no biases."""

    num_key_value_heads: int | None = 8
    sliding_window: int | None = 4096


@dataclass(frozen=True)
class Qwen3Fields(LlamaFields):
    """The fields of Qwen3."""

    num_key_value_heads: int | None = 32
    head_dim: int | None = 128
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    layer_types: list[str] | None = None


@dataclass(frozen=True)
class Gpt2Fields:
    """The fields of GPT-2."""

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int | None = None
    n_ctx: int | None = None
    """The number of positions, by its name before version 4 of the library."""
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    resid_pdrop: float = 0.1


FIXED: dict[str, object] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_encoder_decoder": False,
    "partial_rotary_factor": 1.0,
    "pruned_heads": {},
    "rope_interleaved": False,
    "tie_encoder_decoder": False,
}
"""Fields of any model with which ours computes the same for one value only."""
FIXED_OF_MISTRAL: dict[str, object] = {"attention_bias": False, "mlp_bias": False}
FIXED_OF_QWEN3: dict[str, object] = {"attention_bias": False, "mlp_bias": False}
FIXED_OF_GPT2: dict[str, object] = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}

NO_MATTER = frozenset(
    {
        # what the files are, and who wrote them
        *("_name_or_path", "architectures", "dtype", "model_type", "name_or_path", "torch_dtype"),
        *("transformers.js_config", "transformers_version", "is_llama_config"),
        # initial values, and how something is computed, but not what
        *("_attn_implementation", "attn_implementation", "chunk_size_feed_forward", "initializer_range", "is_decoder"),
        *("pretraining_tp", "tf_legacy_loss", "torchscript", "use_bfloat16", "use_cache"),
        # what a call returns, and heads of other tasks
        *("finetuning_task", "id2label", "label2id", "num_labels", "output_attentions", "output_hidden_states"),
        *("problem_type", "return_dict", "return_dict_in_generate", "task_specific_params"),
        # tokens, of which the import reads the one that ends a text
        *("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id", "prefix", "sep_token_id"),
        "tokenizer_class",
        # how a text is continued
        *("bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping"),
        *("encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id"),
        *("forced_eos_token_id", "length_penalty", "max_length", "max_new_tokens", "min_length"),
        *("no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_scores"),
        *("remove_invalid_values", "repetition_penalty", "suppress_tokens", "temperature", "top_k", "top_p"),
        "typical_p",
    }
)
"""Fields of any model that change nothing of what the model computes from its weights."""
NO_MATTER_IN_QWEN3 = frozenset({"max_window_layers"})
"""With a sliding window, the layers that have it: an import takes it for all of them."""
NO_MATTER_IN_GPT2 = frozenset(
    {
        "reorder_and_upcast_attn",  # the same product in another order
        *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
    }
)
