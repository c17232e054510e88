"""One pipeline stage of the model, and its shards of the parameters.

Legend: L sequence, B batch, D model width, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.configs.model import Shape
from foretrain.parallel.layers import Embedding, Head
from foretrain.parallel.layout import Layout
from foretrain.parallel.placement import allocate, without_memory
from foretrain.parallel.tensor import TensorParallel
from foretrain.parallel.transfer import to_device
from foretrain.trainer.model.block import Block
from foretrain.trainer.model.blueprint import Blueprint
from foretrain.trainer.model.cache import Continuation
from foretrain.trainer.model.init import InitialWeights
from foretrain.trainer.model.parts import Documents, Norm, checkpointed, scaled
from foretrain.trainer.model.shard import Held, ParamShard, held_by
from foretrain.trainer.model.table import layers_of


@dataclass(frozen=True)
class Recompute:
    """What the backward pass computes again ("none", "selective" or "full"), in the first `num_layers` blocks."""

    kind: str = "none"
    num_layers: int | None = None

    def of(self, block: int) -> str:
        """What block number `block` recomputes."""
        return self.kind if self.num_layers is None or block < self.num_layers else "none"


KEEP_ALL = Recompute()


class Stage(nn.Module):
    """Consecutive blocks, with the embedding on the first stage and the final norm and head on the last.

    Its parameters have no memory when it is made (`parallel/placement.py`).
    """

    def __init__(
        self,
        blueprint: Blueprint,
        layers: range,
        tp: TensorParallel,
        *,
        is_first: bool,
        is_last: bool,
        tied_to: "Stage | None" = None,
        recompute: Recompute = KEEP_ALL,
        rows_of_part: int | None = None,
    ) -> None:
        """`tied_to`: the first stage, if it is on this rank too: a tied head then uses the first stage's embedding.

        `rows_of_part`: if not None, the last stage can compute losses, with logits of as many rows at one time.
        """
        super().__init__()
        model, shape = blueprint.model, Shape.of(blueprint.model)
        self._blueprint, self._tp = blueprint, tp
        self.is_first, self.is_last = is_first, is_last
        self.embed: Embedding | None = None
        if is_first or (is_last and model.tie_embeddings):
            self.embed = tied_to.embed if tied_to else self._vocabulary_matrix()
        self.position: nn.Parameter | None = None
        if is_first and model.position == "learned":
            self.position = nn.Parameter(torch.empty(shape.seq_len, shape.d_model))
        self.blocks = nn.ModuleDict(
            {
                str(number): without_memory(Block(blueprint, number, tp, recompute.of(number) == "selective"))
                for number in layers
            }
        )
        self._recomputed = {str(number) for number in layers if recompute.of(number) == "full"}
        self.takes_loss_scale = any(kind.has_loss for kind in layers_of(model).values())
        self.takes_targets = is_last and rows_of_part is not None
        self.final_norm = Norm(model, shape.d_model, tp) if is_last else None
        rows = tp.vocabulary_rows(shape.vocab_size)
        self.num_valid_rows = max(0, min(rows, shape.vocab_size - tp.rank * rows))
        """Rows of this rank's shard of the vocabulary that are not padding."""
        self.head: Head | None = None
        if is_last:
            # An embedding's matrix in any case, since its rows are sharded just as the head's are.
            matrix = self.embed if model.tie_embeddings else self._vocabulary_matrix()
            assert matrix is not None
            self.head = Head(tp, matrix.weight, self.num_valid_rows, rows_of_part)
        without_memory(self)

    def _vocabulary_matrix(self) -> Embedding:
        shape, tp = Shape.of(self._blueprint.model), self._tp
        return without_memory(Embedding(tp, tp.vocabulary_rows(shape.vocab_size) * tp.size, shape.d_model))

    def forward(
        self,
        x: Tensor,
        positions: Tensor | None = None,
        loss_scale: float | None = None,
        targets: Tensor | None = None,
        continued: Continuation | None = None,
    ) -> Tensor:
        """First stage: tokens (B, L) in; last stage: this rank's logits (L, B, V / tp) out; else (L, B, D).

        `positions`, (B, L) on the CPU and never split over ranks, are those of the tokens in their documents: attention
        stays inside a document. None: a sample is one document. `loss_scale`: what the losses of layers are multiplied
        by, if any layer has one (`takes_loss_scale`). With `targets`, (B, L), a last stage that `takes_targets` returns
        the cross entropy of each position, (L, B), in the place of logits.

        `continued`: `x` has only the new positions of samples whose earlier ones are in a cache. The last stage returns
        the logits of the last of them alone, (1, B, V / tp).
        """
        if continued is not None:
            positions = continued.positions_RL
        if self.is_first:
            x = self._embed(x, positions)
        documents = self._documents(x, positions, continued)
        # A fill, for which the host does not wait.
        scale = None if loss_scale is None else torch.full((), loss_scale, dtype=torch.float64, device=x.device)
        for number, block in self.blocks.items():
            run = partial(checkpointed, block) if number in self._recomputed else block
            x = run(x, documents, scale)
        if not self.is_last:
            return x
        return self._logits(x if continued is None else x[-1:], targets)

    def _documents(self, x_LBD: Tensor, positions_BL: Tensor | None, continued: Continuation | None) -> Documents:
        tp, context, model = self._tp, self._tp.context, self._blueprint.model
        if continued is not None:
            assert context.size == 1 and not tp.sp, "a cache has complete sequences"
            return Documents.of_continuation(continued, model, x_LBD.device)
        seq_len = len(x_LBD) * (tp.size if tp.sp else 1) * context.size
        return Documents.of(positions_BL, seq_len, model, context, x_LBD.device)

    def _embed(self, tokens_BL: Tensor, positions_BL: Tensor | None) -> Tensor:
        assert self.embed is not None
        table = self._blueprint.by_name
        x_LBD = scaled(self.embed(tokens_BL), table["embed.weight"].multiplier)
        if self.position is not None:
            own = self._tp.sequence_slice(tokens_BL.shape[1])
            weight = scaled(self._tp.allreduce_grad_if_sp(self.position), table["position.weight"].multiplier)
            if positions_BL is None:
                return x_LBD + weight[own, None]
            own_LB = to_device(positions_BL[:, own].T, tokens_BL.device)
            x_LBD = x_LBD + F.embedding(own_LB, weight)
        return x_LBD

    def _logits(self, x_LBD: Tensor, targets_BL: Tensor | None) -> Tensor:
        """Logits, or with targets their losses."""
        assert self.head is not None and self.final_norm is not None
        return self.head(scaled(self.final_norm(x_LBD), self._blueprint.multipliers.head), targets_BL)

    def units(self) -> Iterator[nn.Module]:
        """Modules that alone read their parameters, and only when they are called, in the order of their calls."""
        yield from self.blocks.values()
        yield from (module for module in (self.final_norm, self.head) if module is not None)

    def shards(self) -> list[ParamShard]:
        """This rank's shards of the parameters that the stage holds."""
        table, tp = self._blueprint.by_name, (self._tp.rank, self._tp.size)
        shards = [ParamShard.of(table[name], tensor, rows, tp) for name, tensor, rows in self._held()]
        # The last stage's own embedding is the tied head.
        return shards if self.is_first else [replace(shard, is_copy=shard.param.is_token_embedding) for shard in shards]

    def _held(self) -> Iterator[Held]:
        if self.embed is not None:
            yield "embed.weight", self.embed.weight, slice(0, self.num_valid_rows)
        if self.position is not None:
            yield "position.weight", self.position, slice(0, len(self.position))
        for layer, block in self.blocks.items():
            yield from held_by(block, f"blocks.{layer}")
        if self.final_norm is not None:
            yield from held_by(self.final_norm, "final_norm")
        if self.head is not None and not self._blueprint.model.tie_embeddings:
            yield "head.weight", self.head.weight, slice(0, self.num_valid_rows)


def build_stages(
    blueprint: Blueprint,
    layout: Layout,
    pp_rank: int,
    tp: TensorParallel,
    recompute: Recompute = KEEP_ALL,
    rows_of_part: int | None = None,
) -> list[Stage]:
    """This rank's stages. Their parameters have no memory yet: an engine places and fills them."""
    model = blueprint.model
    stages: list[Stage] = []
    for index in layout.stages_of(pp_rank):
        is_last = index == layout.num_stages - 1
        tied_to = stages[0] if is_last and stages and stages[0].is_first and model.tie_embeddings else None
        layers = layout.layers_of(index, model.num_layers)
        stages.append(
            Stage(
                blueprint,
                layers,
                tp,
                is_first=index == 0,
                is_last=is_last,
                tied_to=tied_to,
                recompute=recompute,
                rows_of_part=rows_of_part,
            )
        )
    return stages


def build_model(blueprint: Blueprint, seed: int, recompute: Recompute = KEEP_ALL) -> Stage:
    """The complete model in one process, on the CPU in fp32, with its initial weights."""
    (stage,) = build_stages(blueprint, Layout(), 0, TensorParallel(), recompute)
    initial = InitialWeights(stage.shards(), seed)
    allocate(stage.parameters(), initial.fill, torch.device("cpu"), torch.float32)
    return stage
