"""Recomputation keeps fewer activations, and the same gradients."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from foretrain.parallel.layout import Layout
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.model.blueprint import Blueprint
from foretrain.trainer.model.gpt import Recompute, Stage, build_stages
from tests.parallel import workers

MODEL = workers.small_model()
TOKENS = torch.randint(61, (4, MODEL.seq_len), generator=torch.Generator().manual_seed(0))


def build(recompute: Recompute) -> Stage:
    (stage,) = build_stages(Blueprint.of(MODEL), Layout(), 0, TensorParallel(), 0, recompute)
    return stage


def kept_bytes(stage: Stage) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in stage.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = stage(TOKENS)
    del logits
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
    # A whole block keeps its input alone; the embedding, the final norm and the head keep what they always do.
    assert full < 0.35 * none
    assert selective < 0.85 * none
    assert full < selective


def test_the_first_blocks_alone_are_recomputed() -> None:
    kept = [kept_bytes(build(Recompute("full", num_layers))) for num_layers in range(MODEL.num_layers + 1)]
    assert kept[0] == kept_bytes(build(Recompute()))
    assert kept[-1] == kept_bytes(build(Recompute("full")))
    savings = [before - after for before, after in pairwise(kept)]
    assert min(savings) > 0.95 * max(savings), "each block saves about the same"
