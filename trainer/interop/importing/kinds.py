"""The kinds of models that can be imported: when ours computes the same, and the model section for it. No torch."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, ClassVar

from foretrain import limits
from foretrain.configs.model import ModelConfig
from foretrain.trainer.interop.family import Family
from foretrain.trainer.interop.gpt2 import Gpt2
from foretrain.trainer.interop.importing import fields as known
from foretrain.trainer.interop.importing.errors import shown
from foretrain.trainer.interop.llama import Llama, Qwen3

_ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_ROPE_THETA = 10_000.0
_FULL, _SLIDING = "full_attention", "sliding_attention"
_GELUS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


class Kind(ABC):
    """The models of one class of transformers."""

    name: ClassVar[str]
    """Its name in words."""
    architecture: ClassVar[str]
    """The class of transformers."""
    model_type: ClassVar[str]
    """The name of the class in config.json."""
    family: ClassVar[Family]
    """The family that says which of its tensors are which of our parameters."""
    fields: ClassVar[type[Any]]
    """The dataclass of the fields that say what the model computes."""
    fixed: ClassVar[Mapping[str, object]] = known.FIXED
    """The only value of a field with which ours computes the same."""
    no_matter: ClassVar[frozenset[str]] = known.NO_MATTER
    """Fields that change nothing of what the model computes."""
    prefix: ClassVar[str]
    """What the names of its tensors begin with, unless the files were written without the head."""
    recomputed: ClassVar["re.Pattern[str]"]
    """Tensors that earlier versions stored, and that follow from config.json."""

    def refusals(self, found: Any, seq_len: int | None) -> Iterator[str]:
        """Each field with which ours computes something else, its value, and what it needs."""
        sizes = list(self._wrong_sizes(found))
        yield from sizes or self._differing(found, seq_len)

    def _wrong_sizes(self, found: Any) -> Iterator[str]:
        for each in fields(self.fields):
            value = getattr(found, each.name)
            if type(value) is int and each.type in (int, int | None):
                most = limits.MODEL_LAYERS if each.name in ("num_hidden_layers", "n_layer") else limits.MODEL_SIZE
                if not 1 <= value <= most:
                    yield f"{each.name} = {shown(value)} (it needs 1 to {most:,})"

    @abstractmethod
    def _differing(self, found: Any, seq_len: int | None) -> Iterator[str]:
        """The same as `refusals`, for fields whose sizes are sound."""

    @abstractmethod
    def model(self, found: Any, seq_len: int | None, name: str) -> ModelConfig:
        """The model section that computes the same, for fields that are not refused. Of several, the shortest one."""

    @abstractmethod
    def dropouts(self, found: Any) -> dict[str, float]:
        """The fields that ask for dropout in training, which ours does not have."""


class LlamaKind(Kind):
    """Llama, with biases in all linear layers of a block or in none."""

    name, architecture, model_type = "Llama", "LlamaForCausalLM", "llama"
    family, fields, prefix = Llama(), known.LlamaFields, "model."
    recomputed = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")

    def _differing(self, found: Any, seq_len: int | None) -> Iterator[str]:
        heads, kv_heads = found.num_attention_heads, found.num_key_value_heads
        if found.hidden_act not in ("silu", "swish"):
            yield f"hidden_act = {shown(found.hidden_act)} (it needs silu)"
        if kv_heads is not None and heads % kv_heads:
            yield f"num_key_value_heads = {kv_heads} (it needs a divisor of num_attention_heads = {heads})"
        if found.head_dim is None and found.hidden_size % heads:
            yield f"hidden_size = {found.hidden_size} (without head_dim, a multiple of num_attention_heads = {heads})"
        elif _head_dim(found) % 2:
            yield f"head_dim = {_head_dim(found)} (it needs an even number: rotations are of pairs)"
        if found.attention_bias != found.mlp_bias:
            biases = f"attention_bias = {shown(found.attention_bias)} with mlp_bias = {shown(found.mlp_bias)}"
            yield f"{biases} (it needs biases in all linear layers of a block, or in none)"
        yield from _rope_refusals(found)
        yield from _seq_len_refusals(seq_len, found.max_position_embeddings)
        if (window := self._window(found)) is not None and window < (positions := _positions(found, seq_len)):
            yield f"sliding_window = {window} (shorter than the sequence of {positions:,} tokens: --seq-len {window})"

    def _window(self, found: Any) -> int | None:
        """Tokens to which a token attends at most; None: all before it."""
        return None

    def model(self, found: Any, seq_len: int | None, name: str) -> ModelConfig:
        heads, kv_heads, d_model = found.num_attention_heads, found.num_key_value_heads, found.hidden_size
        return ModelConfig(
            name=name,
            num_layers=found.num_hidden_layers,
            d_model=d_model,
            num_heads=heads,
            num_kv_heads=None if kv_heads == heads else kv_heads,
            head_dim=None if _head_dim(found) * heads == d_model else _head_dim(found),
            d_ff=None if found.intermediate_size == 4 * d_model else found.intermediate_size,
            vocab_size=found.vocab_size,
            seq_len=_positions(found, seq_len),
            norm="rmsnorm",
            norm_eps=_as_float("rms_norm_eps", found.rms_norm_eps),
            position="rope",
            rope_theta=_rope_theta(found),
            activation="swiglu",
            bias=found.mlp_bias,
            tie_embeddings=found.tie_word_embeddings,
            qk_norm=isinstance(self.family, Qwen3),
        )

    def dropouts(self, found: Any) -> dict[str, float]:
        return {"attention_dropout": found.attention_dropout}


class MistralKind(LlamaKind):
    """Mistral (arXiv 2310.06825): Llama whose attention ends at a sliding window."""

    name, architecture, model_type = "Mistral", "MistralForCausalLM", "mistral"
    fields, fixed = known.MistralFields, {**known.FIXED, **known.FIXED_OF_MISTRAL}

    def _window(self, found: Any) -> int | None:
        window: int | None = found.sliding_window
        return window


class Qwen3Kind(LlamaKind):
    """Qwen3, dense."""

    name, architecture, model_type = "Qwen3", "Qwen3ForCausalLM", "qwen3"
    family, fields, fixed = Qwen3(), known.Qwen3Fields, {**known.FIXED, **known.FIXED_OF_QWEN3}
    no_matter = known.NO_MATTER | known.NO_MATTER_IN_QWEN3

    def _differing(self, found: Any, seq_len: int | None) -> Iterator[str]:
        yield from super()._differing(found, seq_len)
        allowed = {_FULL} if self._window(found) is None else {_FULL, _SLIDING}
        if found.layer_types is not None and not allowed.issuperset(found.layer_types):
            other = next(each for each in found.layer_types if each not in allowed)
            yield f"layer_types has {shown(other)} (it needs {' or '.join(sorted(allowed))})"
        if found.layer_types is not None and len(found.layer_types) != found.num_hidden_layers:
            num = len(found.layer_types)
            yield f"layer_types has {num} entries (it needs num_hidden_layers = {found.num_hidden_layers})"

    def _window(self, found: Any) -> int | None:
        return found.sliding_window if found.use_sliding_window else None


class Gpt2Kind(Kind):
    """GPT-2. Its layers always have biases."""

    name, architecture, model_type = "GPT-2", "GPT2LMHeadModel", "gpt2"
    family, fields, prefix = Gpt2(), known.Gpt2Fields, "transformer."
    fixed: ClassVar[Mapping[str, object]] = {**known.FIXED, **known.FIXED_OF_GPT2}
    no_matter = known.NO_MATTER | known.NO_MATTER_IN_GPT2
    recomputed = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")

    def _differing(self, found: Any, seq_len: int | None) -> Iterator[str]:
        if found.activation_function not in _GELUS:
            yield f"activation_function = {shown(found.activation_function)} (it needs {' or '.join(_GELUS)})"
        if found.n_embd % found.n_head:
            yield f"n_embd = {found.n_embd} (it needs a multiple of n_head = {found.n_head})"
        if found.n_ctx not in (None, found.n_positions):
            yield f"n_ctx = {found.n_ctx} (it needs n_positions = {found.n_positions})"
        if seq_len not in (None, found.n_positions):
            yield f"n_positions = {found.n_positions}, which are learned (--seq-len must be that, and it is {seq_len})"

    def model(self, found: Any, seq_len: int | None, name: str) -> ModelConfig:
        return ModelConfig(
            name=name,
            num_layers=found.n_layer,
            d_model=found.n_embd,
            num_heads=found.n_head,
            d_ff=None if found.n_inner in (None, 4 * found.n_embd) else found.n_inner,
            vocab_size=found.vocab_size,
            seq_len=found.n_positions,
            norm="layernorm",
            norm_eps=_as_float("layer_norm_epsilon", found.layer_norm_epsilon),
            position="learned",
            activation=_GELUS[found.activation_function],  # type: ignore[arg-type]  # one of the values of a Literal
            bias=True,
            tie_embeddings=found.tie_word_embeddings,
        )

    def dropouts(self, found: Any) -> dict[str, float]:
        return {name: getattr(found, name) for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop")}


KINDS: Mapping[str, Kind] = {kind.model_type: kind for kind in (LlamaKind(), MistralKind(), Qwen3Kind(), Gpt2Kind())}


def _head_dim(found: Any) -> int:
    head_dim: int = found.hidden_size // found.num_attention_heads if found.head_dim is None else found.head_dim
    return head_dim


def _positions(found: Any, seq_len: int | None) -> int:
    positions: int = found.max_position_embeddings if seq_len is None else seq_len
    return positions


def _seq_len_refusals(seq_len: int | None, positions: int) -> Iterator[str]:
    if seq_len is not None and not 1 <= seq_len <= positions:
        yield f"max_position_embeddings = {positions} (--seq-len must be 1 to that, and it is {seq_len})"


def _rope_refusals(found: Any) -> Iterator[str]:
    for name, rope in _ropes(found):
        is_plain = (
            rope.keys() <= _ROPE_KEYS
            and rope.get("rope_type", rope.get("type", "default")) == "default"
            and rope.get("partial_rotary_factor", 1.0) == 1.0
            and type(rope.get("rope_theta", 1.0)) in (int, float)
        )
        if not is_plain:
            yield f"{name} = {shown(rope)} (it needs rotations that are not scaled: rope_type = default)"
    thetas = _rope_thetas(found)
    if any(theta != next(iter(thetas.values())) for theta in thetas.values()):
        yield " with ".join(f"{name} = {shown(theta)}" for name, theta in thetas.items()) + " (it needs one value)"


def _ropes(found: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(found, name)
        if rope is not None:
            yield name, rope


def _rope_thetas(found: Any) -> dict[str, Any]:
    """The base of the rotary frequencies, by each field that has it."""
    thetas = {f"{name}.rope_theta": rope["rope_theta"] for name, rope in _ropes(found) if "rope_theta" in rope}
    return thetas if found.rope_theta is None else {"rope_theta": found.rope_theta, **thetas}


def _rope_theta(found: Any) -> float:
    for name, theta in _rope_thetas(found).items():  # they are all the same
        return _as_float(name, theta)
    return _ROPE_THETA


def _as_float(name: str, value: float) -> float:
    """The value of a field, which may be an integer. Raises ValueError if no float is so large."""
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is an integer that is too large for a floating-point number") from None
