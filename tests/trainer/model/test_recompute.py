"""Recomputation keeps fewer activations, as many as layers declare, and the same gradients."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foretrain.configs.model import ModelConfig
from foretrain.parallel.context import ContextParallel
from foretrain.parallel.layout import Layout
from foretrain.parallel.tensor import TensorParallel
from foretrain.registry import import_plugins
from foretrain.trainer.model.block import Block
from foretrain.trainer.model.blueprint import Blueprint
from foretrain.trainer.model.gpt import Recompute, Stage, build_model
from foretrain.trainer.model.layer import Recomputed
from foretrain.trainer.model.parts import Documents
from foretrain.trainer.model.rope import rope_tables
from foretrain.trainer.model.table import block_activation_bytes, layers_of
from tests.parallel import workers

MODEL = workers.small_model()
TOKENS = torch.randint(61, (4, MODEL.seq_len), generator=torch.Generator().manual_seed(0))


def build(recompute: Recompute) -> Stage:
    return build_model(Blueprint.of(MODEL), 0, recompute)


def kept_bytes(module: nn.Module, *inputs: Any) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once, weights and constants left out."""
    constants = rope_tables(MODEL.seq_len, MODEL.block_shape.head_dim, MODEL.rope_theta, torch.device("cpu"))
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *constants)}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = module(*inputs or (TOKENS,))
    del outputs
    return sum(size for pointer, size in kept.items() if pointer not in weights)


def gradients(stage: Stage) -> list[Tensor]:
    stage(TOKENS).logsumexp(-1).sum().backward()
    return [parameter.grad for parameter in stage.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("kind", ["selective", "full"])
@pytest.mark.parametrize("num_layers", [None, 0, 2])
def test_gradients_are_bitwise_those_of_kept_activations(kind: str, num_layers: int | None) -> None:
    expected, found = gradients(build(Recompute())), gradients(build(Recompute(kind, num_layers)))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_full_keeps_less_than_selective_and_that_less_than_none() -> None:
    none, selective, full = (kept_bytes(build(Recompute(kind))) for kind in ("none", "selective", "full"))
    # A recomputed block keeps only its input; the embedding, the final norm and the head keep the same as before.
    assert full < 0.35 * none
    assert selective < 0.85 * none
    assert full < selective


def test_the_first_blocks_alone_are_recomputed() -> None:
    kept = [kept_bytes(build(Recompute("full", num_layers))) for num_layers in range(MODEL.num_layers + 1)]
    assert kept[0] == kept_bytes(build(Recompute()))
    assert kept[-1] == kept_bytes(build(Recompute("full")))
    savings = [before - after for before, after in pairwise(kept)]
    assert min(savings) > 0.95 * max(savings), "each block saves about the same"


LAYERS = {
    "llama": replace(MODEL, d_ff=80),
    "gpt2": replace(MODEL, position="learned", activation="gelu", num_kv_heads=None, bias=True),
    "plugins": replace(MODEL, attention="gated", feed_forward="costly_relu"),
}


@pytest.mark.parametrize("recompute", ["none", "selective"])
@pytest.mark.parametrize("model", LAYERS.values(), ids=LAYERS)
def test_a_layer_keeps_as_many_bytes_as_it_declares(model: ModelConfig, recompute: Recomputed) -> None:
    import_plugins(["tests.plugins.blocks"])
    block = Block(Blueprint.of(model), 0, TensorParallel(), recompute == "selective")
    x_LBD = torch.randn(model.seq_len, 3, model.d_model, requires_grad=True)
    documents = Documents.of(None, model.seq_len, model, ContextParallel(), torch.device("cpu"))
    for name, kind in layers_of(model).items():
        declared = kind.activation_bytes(model, Layout(), recompute, element_bytes=4)
        inputs = (x_LBD, documents) if name == "attn" else (x_LBD,)
        assert kept_bytes(block.get_submodule(name), *inputs) == declared * model.seq_len * 3, name


def test_a_tensor_parallel_rank_keeps_its_share_and_under_sequence_parallelism_of_inputs_too() -> None:
    alone, tp, sp = (
        block_activation_bytes(MODEL, layout) for layout in (Layout(), Layout(tp=2), Layout(tp=2, sp=True))
    )
    inputs_bytes = 2 * MODEL.d_model
    assert tp == (alone - 4 * inputs_bytes) / 2 + 4 * inputs_bytes
    assert sp == alone / 2
    assert block_activation_bytes(MODEL, Layout(), "full") == inputs_bytes
