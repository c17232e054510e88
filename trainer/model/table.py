"""The parameter table: every parameter of a model. No tensors.

Everything else is derived from it: counts, what tensor parallelism shards, initial weights, what decays, what a
checkpoint holds. The attention and the feed-forward layer that the config names declare their own parameters.
"""

from foretrain.configs.model import ModelConfig, Shape
from foretrain.configs.schema import TrainConfig
from foretrain.parallel.layout import Layout, LayoutError
from foretrain.trainer.model.attention import ATTENTION
from foretrain.trainer.model.feed_forward import FEED_FORWARD
from foretrain.trainer.model.layer import Flops, LayerKind, Recomputed
from foretrain.trainer.model.spec import Param, gain


def layers_of(model: ModelConfig) -> dict[str, LayerKind]:
    """The layers of a block by their names in it. Raises ValueError if the config names one that does not exist."""
    return {"attn": ATTENTION.get(model.attention), "mlp": FEED_FORWARD.get(model.feed_forward)}


def param_table(model: ModelConfig) -> list[Param]:
    """All parameters of `model`, in the order in which data meets them; a tied head is not listed again."""
    shape = Shape.of(model)
    size = (shape.vocab_size, shape.d_model)
    embed_std = model.init_std if model.embed_init_std is None else model.embed_init_std
    table = [Param("embed.weight", ("vocab", "embed"), size, "embedding", embed_std)]
    if model.position == "learned":
        positions = (shape.seq_len, shape.d_model)
        table.append(Param("position.weight", ("position", "embed"), positions, "embedding", embed_std))
    for block in range(shape.num_layers):
        table += block_table(model, block)
    table += _norm("final_norm", model)
    if not model.tie_embeddings:
        std = model.init_std if model.head_init_std is None else model.head_init_std
        table.append(Param("head.weight", ("vocab", "embed"), size, "output", std))
    return table


def block_table(model: ModelConfig, block: int) -> list[Param]:
    """The parameters of one block."""
    table = []
    for name, layer in layers_of(model).items():
        table += _norm(f"{name}_norm", model)
        table += [param.within(name) for param in layer.params(model)]
    return [param.within(f"blocks.{block}", block) for param in table]


def _norm(name: str, model: ModelConfig) -> list[Param]:
    return gain(name, "embed", model.d_model, bias=model.norm == "layernorm" and model.bias)


def check_sharding(model: ModelConfig, layout: Layout) -> None:
    """Raise LayoutError if tensor parallelism cannot split a parameter of a block evenly."""
    for param in block_table(model, 0):
        # Ranks may share key-value heads; the check of the layout knows when.
        if param.tp_dim is None or param.axes[param.tp_dim] == "kv":
            continue
        if param.shape[param.tp_dim] % layout.tp:
            raise LayoutError(
                f"parallel.tp = {layout.tp} does not divide the size {param.shape[param.tp_dim]} of {param.name} along "
                f"'{param.axes[param.tp_dim]}': use another tp, or change the sizes of the model"
            )


def num_params(model: ModelConfig, embeddings: bool = True) -> int:
    """Parameters of `model`; without `embeddings`, those of token and position embeddings and the head are left out."""
    outside = ("embedding", "output")
    return sum(param.num_elements for param in param_table(model) if embeddings or param.role not in outside)


def flops_per_token(model: ModelConfig, causal: bool = False) -> float:
    """FLOPs of training on one token: 6 for each element of a matrix that multiplies it, and what layers do between.

    The head counts, tied or not, and an embedding look-up does not. `causal` counts only the half of attention that is
    below the diagonal. With the default layers it is 6 N + 12 L A s (arXiv 2204.02311, appendix B).
    """
    return model.num_layers * block_flops(model, causal).total + head_flops(model)


def block_flops(model: ModelConfig, causal: bool = False) -> Flops:
    """FLOPs of one block on one token; the norms and the additions are not counted."""
    flops = [layer.flops_per_token(model, causal) for layer in layers_of(model).values()]
    return Flops(sum(each.total for each in flops), sum(each.selective for each in flops))


def recomputed_flops(block: Flops, train: TrainConfig, num_layers: int) -> float:
    """FLOPs on a token that recomputation adds to `num_layers` blocks: a third of those of what it computes again."""
    again = {"none": 0.0, "selective": block.selective / 3, "full": block.total / 3}[train.recompute]
    return again * min(train.recompute_layers or num_layers, num_layers)


def head_flops(model: ModelConfig) -> float:
    """FLOPs of the head on one token."""
    shape = Shape.of(model)
    return 6.0 * shape.vocab_size * shape.d_model


def block_activation_bytes(
    model: ModelConfig, layout: Layout, recompute: Recomputed = "none", element_bytes: int = 2
) -> float:
    """Bytes that one block keeps for the backward pass, for each token of a tensor-parallel rank's sequence.

    A block that is recomputed in full keeps its input alone; else each norm keeps its input too.
    """
    input_bytes = element_bytes * model.d_model / (layout.tp if layout.sp else 1)
    if recompute == "full":
        return input_bytes
    layers = layers_of(model).values()
    return sum(input_bytes + layer.activation_bytes(model, layout, recompute, element_bytes) for layer in layers)
