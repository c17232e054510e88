"""FLOPs and parameters of a model by its table, against those that torch counts in its forward and backward pass."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from foretrain.configs.load import load
from foretrain.configs.schema import Config, ModelConfig
from foretrain.trainer.api import build_model
from foretrain.trainer.model import layer, table
from foretrain.trainer.model.attention.grouped_query import GroupedQuery
from foretrain.trainer.model.feed_forward.dense import Dense
from foretrain.trainer.model.size import ModelSize
from tests.plugins import blocks  # noqa: F401  (it registers its layers)

BATCH = 2
SIZES = {"num_layers": 2, "d_model": 48, "num_heads": 6, "d_ff": 80, "vocab_size": 61, "seq_len": 24}
LLAMA: dict[str, object] = {"num_kv_heads": 2, "qk_norm": True}
GPT2: dict[str, object] = {
    "norm": "layernorm",
    "position": "learned",
    "activation": "gelu_tanh",
    "bias": True,
    "tie_embeddings": True,
}
KINDS: dict[str, dict[str, object]] = {
    "grouped queries, swiglu, rope": LLAMA,
    "gelu, biases, learned positions, tied": GPT2,
    "heads narrower than the model": {"head_dim": 4, "num_kv_heads": 1},
    "gated attention of a plugin": {"attention": "gated"},
    "a feed-forward layer with a loss of its own": {"feed_forward": "costly_relu"},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On matrices as small as these, threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def counted(model: ModelConfig, kernel: SDPBackend = SDPBackend.MATH) -> tuple[int, int]:
    """(FLOPs of a forward and backward pass for each token, parameters) of the module, counted by torch."""
    module = build_model(Config(model=model))
    tokens_BL = torch.arange(BATCH * model.seq_len).view(BATCH, -1) % SIZES["vocab_size"]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(kernel):
        module(tokens_BL, loss_scale=1.0).float().logsumexp(-1).sum().backward()
    flops_per_token, rest = divmod(counter.get_total_flops(), tokens_BL.numel())
    assert rest == 0
    return flops_per_token, sum(parameter.numel() for parameter in module.parameters())


def model_of(kind: str) -> ModelConfig:
    return ModelConfig(**(SIZES | KINDS[kind]))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_flops_and_parameters_are_those_that_torch_counts_in_a_forward_and_backward_pass(kind: str) -> None:
    """SDPA's kernel `MATH` is made of matrix products, all of which torch's counter sees."""
    model = model_of(kind)
    size = ModelSize.of(model)
    assert (size.flops_per_token, size.num_params) == counted(model)


def test_fused_attention_is_counted_by_torch_otherwise_and_the_difference_is_known() -> None:
    """The fused kernels compute the scores again in the backward pass, which torch's counter includes: 5 products
    there, and 7 in all, where a backward pass that keeps the scores has 4, and 6 in all. Recomputation is no part of
    the size of a model, so it counts 6. The counter has no formula for the fused kernel of CPUs: it counts 0."""
    model = model_of("grouped queries, swiglu, rope")
    head_dim, length = model.block_shape.head_dim, model.seq_len
    queries, keys = (1, model.num_heads, length, head_dim), (1, model.block_shape.num_kv_heads, length, head_dim)
    two_products = model.num_layers * sdpa_flop_count(queries, keys, keys) // length
    size = ModelSize.of(model)
    assert size.flops_per_token - counted(model, SDPBackend.FLASH_ATTENTION)[0] == 3 * two_products
    backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
    formula = FlopCounterMode(display=False).flop_registry[backward]
    zeros = (torch.empty(shape, device="meta") for shape in (queries, queries, keys, keys))
    assert model.num_layers * formula(*zeros) // length == 5 * two_products // 2


def without_head() -> AbstractContextManager[object]:
    return patch.object(table, "head_flops", lambda model: 0.0)


def without_scores() -> AbstractContextManager[object]:
    return patch.object(GroupedQuery, "flops_per_token", layer.LayerKind.flops_per_token)


def halved_scores() -> AbstractContextManager[object]:
    full = GroupedQuery.flops_per_token
    return patch.object(GroupedQuery, "flops_per_token", lambda kind, model, causal: full(kind, model, causal=True))


def without_gate() -> AbstractContextManager[object]:
    return patch.object(Dense, "names", lambda kind, model: ["up"])


@pytest.mark.parametrize("bug", [without_head, without_scores, halved_scores, without_gate])
def test_a_count_that_leaves_something_out_is_found(bug: Callable[[], AbstractContextManager[object]]) -> None:
    model = model_of("grouped queries, swiglu, rope")
    right, _ = counted(model)
    for maybe, is_right in ((nullcontext, True), (bug, False)):
        with maybe():
            assert (ModelSize.of(model).flops_per_token == right) == is_right


def test_parameters_without_embeddings_are_those_of_the_blocks_and_the_final_norm() -> None:
    gpt2 = ModelSize.of(load("models/gpt2_124m").model)
    assert gpt2.num_params == 124_439_808
    assert gpt2.num_params_without_embeddings == 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    tied, untied = (ModelSize.of(ModelConfig(**SIZES, tie_embeddings=tie)) for tie in (True, False))  # type: ignore[arg-type]
    assert untied.num_params - tied.num_params == 61 * 48, "a tied head counts once"
    assert untied.num_params_without_embeddings == tied.num_params_without_embeddings
    assert untied.flops_per_token == tied.flops_per_token, "it multiplies all the same"


def test_flops_of_a_run_are_exact_where_floats_are_not() -> None:
    size = ModelSize(3, 2, 10**12 + 1)
    assert size.flops(10**13 + 1) == (10**12 + 1) * (10**13 + 1)
    assert size.flops_6nd(7) == 6 * 3 * 7
