"""Documents that share a sample do not attend to one another: each has the logits that it has alone."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.configs.schema import ModelConfig
from foretrain.parallel.loss import IGNORE, cross_entropy
from foretrain.parallel.segments import Segments
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.model.blueprint import Blueprint
from foretrain.trainer.model.gpt import Recompute, Stage, build_model
from foretrain.trainer.model.parts import Documents
from foretrain.trainer.model.rope import rope_tables
from tests.trainer.model.huggingface import Family
from tests.trainer.model.test_transformers import MODELS, build, every_model, tokens_of, weights

TOLERANCE = 1e-5
LENGTHS = [[24], [5, 1, 11, 7], [1, 1, 1, 21], [8, 8, 8]]
"""Lengths of the documents of each sample."""
POSITIONS = torch.stack([torch.cat([torch.arange(length) for length in sample]) for sample in LENGTHS])
DOCUMENTS = [
    (sample, slice(start, end))
    for sample, lengths in enumerate(LENGTHS)
    for start, end in pairwise([0, *torch.tensor(lengths).cumsum(0).tolist()])
]
families = pytest.mark.parametrize(
    "name", ["gpt2", "llama, grouped queries", pytest.param("qwen3", marks=pytest.mark.long)]
)


def targets_of(tokens_BL: Tensor) -> Tensor:
    """The next token as the target, with some targets that have no loss."""
    targets_BL = F.pad(tokens_BL[:, 1:], (0, 1), value=IGNORE)
    targets_BL[1, 3:9] = IGNORE
    return targets_BL


def losses_of(logits_BLV: Tensor, targets_BL: Tensor) -> Tensor:
    """The loss of each token, (B, L)."""
    return F.cross_entropy(logits_BLV.transpose(1, 2), targets_BL, ignore_index=IGNORE, reduction="none")


@families
@torch.no_grad()
def test_another_document_changes_no_logit_and_no_loss_bitwise(name: str) -> None:
    model = MODELS[name][1]
    stage, tokens = build(model), tokens_of(model)
    logits = stage(tokens, positions=POSITIONS).transpose(0, 1)
    losses = losses_of(logits, targets_of(tokens))
    for sample, place in DOCUMENTS:
        changed = tokens.clone()
        changed[sample, place] = (changed[sample, place] + 1) % 61
        found = stage(changed, positions=POSITIONS).transpose(0, 1)
        others = torch.ones_like(tokens, dtype=torch.bool)
        others[sample, place] = False
        assert torch.equal(found[others], logits[others])
        assert not torch.isclose(found[~others], logits[~others]).all(dim=-1).any(), "its own logits change"
        assert torch.equal(losses_of(found, targets_of(tokens))[others], losses[others])


@families
def test_no_gradient_flows_from_a_document_to_another(name: str) -> None:
    model = MODELS[name][1]
    stage, tokens = build(model), tokens_of(model)
    assert stage.embed is not None
    embedded: list[Tensor] = []
    stage.embed.register_forward_hook(lambda module, inputs, output: embedded.append(output))
    logits = stage(tokens, positions=POSITIONS).transpose(0, 1)
    for sample, place in DOCUMENTS:
        (gradient,) = torch.autograd.grad(logits[sample, place].square().sum(), embedded, retain_graph=True)
        assert gradient[place, sample].any(dim=-1).all()
        gradient[place, sample] = 0.0
        assert not gradient.any()


@families
@torch.no_grad()
def test_a_document_has_the_logits_it_has_alone(name: str) -> None:
    model = MODELS[name][1]
    stage, tokens = build(model), tokens_of(model)
    logits = stage(tokens, positions=POSITIONS).transpose(0, 1)
    for sample, place in DOCUMENTS:
        alone = stage(tokens[sample : sample + 1, place]).transpose(0, 1)[0]
        assert (logits[sample, place] - alone).abs().max() <= TOLERANCE


@torch.no_grad()
def test_samples_of_one_document_have_the_logits_of_plain_windows() -> None:
    for _, model in MODELS.values():
        stage, tokens = build(model), tokens_of(model)
        positions = torch.arange(model.seq_len).repeat(len(tokens), 1)
        assert (stage(tokens, positions=positions) - stage(tokens)).abs().max() <= TOLERANCE


def library_mask() -> Tensor:
    """The mask that is added to scores, (B, 1, L, L)."""
    number_BL = (POSITIONS == 0).cumsum(1)
    sees_BLL = (number_BL[:, :, None] == number_BL[:, None]).tril()
    return torch.zeros(sees_BLL.shape).masked_fill(~sees_BLL, torch.finfo().min)[:, None]


def library_difference(family: Family, model: ModelConfig, mask: Tensor, positions: Tensor) -> float:
    """Largest difference of our logits from the library's with a dense mask."""
    stage, tokens = build(model), tokens_of(model)
    theirs = family.model(model, weights(stage))(tokens, attention_mask=mask, position_ids=positions).logits
    return (stage(tokens, positions=POSITIONS).transpose(0, 1) - theirs).abs().max().item()


@every_model
@torch.no_grad()
def test_logits_are_those_of_the_library_with_a_dense_mask_and_positions(family: Family, model: ModelConfig) -> None:
    assert library_difference(family, model, library_mask(), POSITIONS) <= TOLERANCE


@every_model
def test_loss_and_every_gradient_are_those_of_the_library_with_a_dense_mask(family: Family, model: ModelConfig) -> None:
    stage, tokens = build(model), tokens_of(model)
    targets = targets_of(tokens)
    theirs = family.model(model, weights(stage))
    their_logits = theirs(tokens, attention_mask=library_mask(), position_ids=POSITIONS).logits
    their_loss = losses_of(their_logits, targets).sum()
    their_loss.backward()
    loss = cross_entropy(stage(tokens, positions=POSITIONS), targets, TensorParallel()).sum()
    loss.backward()
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-6)
    expected = family.gradients(model, theirs)
    for shard in stage.shards():
        name = shard.param.name
        assert shard.tensor.grad is not None, name
        # A bias of the keys shifts all scores of a query alike: its gradient is rounding noise around 0.
        scale = expected[name.replace("attn.k.bias", "attn.q.bias")].norm()
        assert (shard.tensor.grad[shard.rows] - expected[name]).norm() <= 1e-5 * scale, name


@families
@torch.no_grad()
def test_another_mask_or_other_positions_in_the_library_give_other_logits(name: str) -> None:
    family, model = MODELS[name]
    not_restarted = torch.arange(model.seq_len).expand_as(POSITIONS)
    causal = torch.full((model.seq_len, model.seq_len), torch.finfo().min).triu(1).expand(len(POSITIONS), 1, -1, -1)
    assert library_difference(family, model, causal, POSITIONS) > 10 * TOLERANCE
    if model.position == "learned":  # rotary embeddings depend on distances only, and these are the same
        assert library_difference(family, model, library_mask(), not_restarted) > 10 * TOLERANCE


def test_rotary_positions_restart() -> None:
    """The tables show it; products of queries and keys depend on distances, which a restart does not change."""
    model = MODELS["llama"][1]
    rope = Documents.of(POSITIONS, 24, model, TensorParallel().context, torch.device("cpu")).rope
    assert rope is not None
    for found, table in zip(rope, rope_tables(24, 8, model.rope_theta, torch.device("cpu")), strict=True):
        assert torch.equal(found[:, :, 0].transpose(0, 1), table[POSITIONS])


@pytest.mark.parametrize("kind", ["selective", "full"])
@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_recomputed_gradients_are_bitwise_those_of_kept_activations(kind: str, name: str) -> None:
    model = MODELS[name][1]

    def gradients(recompute: Recompute) -> list[Tensor | None]:
        stage = build_model(Blueprint.of(model), 0, recompute)
        stage(tokens_of(model), positions=POSITIONS).logsumexp(-1).sum().backward()
        return [parameter.grad for parameter in stage.parameters()]

    for found, expected in zip(gradients(Recompute(kind)), gradients(Recompute()), strict=True):
        assert found is not None and expected is not None
        assert torch.equal(found, expected)


def test_segments_are_found_once_for_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Segments] = []
    real = Segments.of

    def count(positions_BL: Tensor, device: torch.device) -> Segments:
        calls.append(real(positions_BL, device))
        return calls[-1]

    monkeypatch.setattr(Segments, "of", count)
    stage: Stage = build(replace(MODELS["llama"][1], num_layers=4))
    stage(tokens_of(MODELS["llama"][1]), positions=POSITIONS)
    assert len(calls) == 1
