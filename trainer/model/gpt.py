"""The GPT of one pipeline stage, and the parameters of the table that it holds.

Legend: L sequence, B batch, D model width, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.parallel.layout import Layout
from foretrain.parallel.tensor import Embedding, TensorParallel
from foretrain.trainer.model import init
from foretrain.trainer.model.blueprint import Blueprint
from foretrain.trainer.model.layers import Block, Documents, Norm, Piece, scaled
from foretrain.trainer.model.spec import Param, Shape


@dataclass(frozen=True)
class LocalParam:
    """This rank's part of one parameter of the table.

    Rows `rows` of the module's tensor `parameter` hold rows or columns `cut` of the whole parameter along `tp_dim`, or
    all of it where that is None: no axis of it can be cut, or this layout does not cut it.
    """

    param: Param
    parameter: nn.Parameter
    rows: slice
    tp_dim: int | None
    cut: slice
    shared: bool = False
    """A second copy of a tied embedding: the first stage's copy speaks for it in norms and checkpoints."""


@dataclass(frozen=True)
class Recompute:
    """What is computed again for the backward pass: "none", "selective" or "full", in the first `num_layers` blocks."""

    kind: str = "none"
    num_layers: int | None = None

    def of(self, layer: int) -> str:
        """What block `layer` recomputes."""
        return self.kind if self.num_layers is None or layer < self.num_layers else "none"


KEEP_ALL = Recompute()


class Stage(nn.Module):
    """Consecutive blocks, with the embedding on the first stage and the final norm and head on the last."""

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
    ) -> None:
        """`tied_to`: the first stage, where it is on this rank too: a tied head then uses that stage's embedding."""
        super().__init__()
        model, shape = blueprint.model, Shape.of(blueprint.model)
        self._blueprint, self._tp = blueprint, tp
        self.is_first, self.is_last = is_first, is_last
        self._num_padded_rows = -(-shape.vocab_size // tp.size) * tp.size
        self.embed: Embedding | None = None
        if is_first or (is_last and model.tie_embeddings):
            self.embed = tied_to.embed if tied_to else tp.embedding(self._num_padded_rows, shape.d_model)
        self.position: nn.Parameter | None = None
        if is_first and model.position == "learned":
            self.position = nn.Parameter(torch.empty(shape.seq_len, shape.d_model))
        self.blocks = nn.ModuleDict({str(layer): Block(blueprint, tp, recompute.of(layer)) for layer in layers})
        self.final_norm = Norm(model, shape.d_model, tp) if is_last else None
        # An embedding module, since its rows are cut over ranks just as the head's are.
        self.head = tp.embedding(self._num_padded_rows, shape.d_model) if is_last and not model.tie_embeddings else None
        # Rows of this rank's slice of the vocabulary that are not padding.
        rows = self._num_padded_rows // tp.size
        self.num_valid_rows = max(0, min(rows, shape.vocab_size - tp.rank * rows))

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """First stage: tokens (B, L) in; last stage: this rank's logits (L, B, V / tp) out; else (L, B, D).

        `positions`, (B, L) on the CPU and never cut over ranks, are those of the tokens in their documents: attention
        stays inside a document. None: a sample is one document.
        """
        documents = (
            None if positions is None else Documents.of(positions, self._blueprint.model, self._tp.context, x.device)
        )
        if self.is_first:
            x = self._embed(x, positions)
        for block in self.blocks.values():
            x = block(x, documents=documents)
        return self._logits(x) if self.is_last else x

    def _embed(self, tokens_BL: Tensor, positions_BL: Tensor | None) -> Tensor:
        assert self.embed is not None
        multipliers = self._blueprint.multipliers
        x_LBD = scaled(self.embed(tokens_BL), multipliers.embed)
        if self.position is not None:
            mine = self._tp.sequence_slice(tokens_BL.shape[1])
            weight = scaled(self._tp.replicated(self.position), multipliers.position)
            if positions_BL is None:
                return x_LBD + weight[mine, None]
            mine_LB = positions_BL[:, mine].T.to(tokens_BL.device, non_blocking=True)
            x_LBD = x_LBD + F.embedding(mine_LB, weight)
        return x_LBD

    def _logits(self, x_LBD: Tensor) -> Tensor:
        embedding = self.head or self.embed
        assert embedding is not None and self.final_norm is not None
        weight_VD = embedding.weight
        padding = len(weight_VD) - self.num_valid_rows
        x_LBD = scaled(self.final_norm(x_LBD), self._blueprint.multipliers.head)
        logits_LBV = self._tp.head(x_LBD, weight_VD[: self.num_valid_rows] if padding else weight_VD)
        return F.pad(logits_LBV, (0, padding), value=-torch.inf) if padding else logits_LBV

    def _pieces(self) -> Iterator[Piece]:
        if self.embed is not None:
            yield Piece("embed.weight", self.embed.weight, slice(0, self.num_valid_rows))
        if self.position is not None:
            yield Piece("position.weight", self.position, slice(0, len(self.position)))
        for layer, block in self.blocks.items():
            assert isinstance(block, Block)
            yield from block.pieces(f"blocks.{layer}")
        if self.final_norm is not None:
            yield from self.final_norm.pieces("final_norm")
        if self.head is not None:
            yield Piece("head.weight", self.head.weight, slice(0, self.num_valid_rows))

    def local_params(self) -> list[LocalParam]:
        """What this stage holds of the parameter table, on this tensor-parallel rank."""
        table = {param.name: param for param in self._blueprint.table}
        return [self._local(table[piece.name], piece) for piece in self._pieces()]

    def _local(self, param: Param, piece: Piece) -> LocalParam:
        shared = piece.name == "embed.weight" and not self.is_first
        if param.tp_dim is None or not piece.is_cut:
            return LocalParam(param, piece.parameter, piece.rows, None, slice(0, param.shape[0]), shared)
        # ceil: only the vocabulary may be padded, and then the last ranks hold fewer rows
        part = -(-param.shape[param.tp_dim] // self._tp.size)
        start = min(self._tp.rank * part, param.shape[param.tp_dim])
        cut = slice(start, min(start + part, param.shape[param.tp_dim]))
        return LocalParam(param, piece.parameter, piece.rows, param.tp_dim, cut, shared)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Fill every parameter from (seed, name, global index); padding rows are zero."""
        for parameter in self.parameters():
            parameter.zero_()
        for local in self.local_params():
            whole = slice(0, local.param.shape[0])
            rows, columns = (whole, local.cut) if local.tp_dim == 1 else (local.cut, None)
            init.fill(local.parameter.data[local.rows], local.param, seed, rows, columns)


def build_stages(
    blueprint: Blueprint,
    layout: Layout,
    pp_rank: int,
    tp: TensorParallel,
    seed: int,
    recompute: Recompute = KEEP_ALL,
) -> list[Stage]:
    """This rank's stages, initialised, on the CPU in fp32."""
    model = blueprint.model
    stages: list[Stage] = []
    for index in layout.stages_of(pp_rank):
        is_last = index == layout.num_stages - 1
        tied_to = stages[0] if is_last and stages and stages[0].is_first and model.tie_embeddings else None
        layers = layout.layers_of(index, model.num_layers)
        stages.append(
            Stage(blueprint, layers, tp, is_first=index == 0, is_last=is_last, tied_to=tied_to, recompute=recompute)
        )
        stages[-1].initialize(seed)
    return stages
