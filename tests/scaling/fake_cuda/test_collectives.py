"""The messages of a training step are those of a closed formula: their number, their type and their size."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import lcm

import pytest

from foretrain.configs.load import load
from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout
from foretrain.scaling.fake_cuda.record import RankRecord
from tests.scaling.fake_cuda.cases import tiny
from tests.scaling.fake_cuda.conftest import RecordOf
from tests.scaling.fake_cuda.worker import Case

BF16 = "train.precision=bf16"
CASES = {
    "one rank": tiny(),
    "zero 0": tiny("parallel.dp=8 parallel.zero_stage=0 train.global_batch_size=16"),
    "zero 1 fp32": tiny("parallel.dp=8 train.global_batch_size=16", rank=3),
    "zero 1 bf16": tiny(f"parallel.dp=8 train.global_batch_size=32 {BF16}", rank=7),
    "zero 2": tiny(f"parallel.dp=8 parallel.zero_stage=2 train.global_batch_size=32 {BF16}", rank=7),
    "zero 3": tiny(f"parallel.dp=8 parallel.zero_stage=3 train.global_batch_size=32 {BF16}", rank=7, num_steps=2),
    "tp": tiny(f"parallel.tp=2 {BF16}", rank=1),
    "sp": tiny(f"parallel.tp=2 parallel.sp=true parallel.dp=2 train.global_batch_size=4 {BF16}"),
    # In their first step, pipelines also run made-up tensors through the stages.
    "first of pp": tiny(f"parallel.pp=2 parallel.dp=2 train.global_batch_size=8 {BF16}", num_steps=2),
    "last of pp": tiny("parallel.pp=2 parallel.tp=2 train.global_batch_size=8", rank=3, num_steps=2),
    "middle of pp": tiny(
        "parallel.pp=3 parallel.tp=2 model.num_layers=3 train.global_batch_size=4", rank=2, num_steps=2
    ),
    "tied": tiny(
        f"parallel.pp=2 parallel.dp=2 model.tie_embeddings=true train.global_batch_size=8 {BF16}", num_steps=2
    ),
    "cp": tiny(f"parallel.cp=4 parallel.dp=2 train.global_batch_size=4 {BF16}", rank=5),
    "interleaved": tiny(
        "parallel.pp=2 parallel.vpp=2 parallel.schedule=interleaved_1f1b model.num_layers=4 train.global_batch_size=4",
        rank=1,
        num_steps=2,
    ),
    "zbv": tiny(
        f"parallel.pp=2 parallel.vpp=2 parallel.schedule=zbv model.num_layers=4 train.global_batch_size=4 {BF16}",
        num_steps=2,
    ),
    "cp and tp and pp": tiny(
        f"parallel.cp=2 parallel.tp=2 parallel.sp=true parallel.pp=2 train.global_batch_size=4 {BF16}",
        rank=5,
        num_steps=2,
    ),
}
Message = tuple[str, str, str, int]
"""Operation, group, type and elements of the larger side."""


def messages(record: RankRecord) -> Counter[Message]:
    """The messages of the last step."""
    found: Counter[Message] = Counter()
    for each in (each for phase in record.steps[-1] for each in phase.collectives):
        found[each.operation, each.group, each.dtype, each.num_elements] += each.count
    return found


def formula(config: Config, rank: int) -> Counter[Message]:
    """The messages of a step of a llama-like model whose gradients fit into one bucket.

    Under ZeRO 3, its matrices are so small that DeepSpeed keeps complete copies of them during a step.
    """
    layout, train = Layout.from_config(config.parallel), config.train
    at, count = layout.coordinates(rank), layout.num_microbatches(train)
    held = Held(config, rank)
    found: Counter[Message] = Counter()
    found["all_reduce", "cpu", "int64", 1] += 1  # valid tokens, in host memory
    if layout.world_size > 1:
        found["all_reduce", "world", "float64", 2] += 1  # the losses, and the squared gradient norm
    for message, number in (*of_tensor_parallelism(config, held), *of_context_parallelism(config, held)):
        found[message] += count * number
    for message, number in of_pipeline(config, held, layout.stages_of(at.pp)):
        found[message] += count * number
    for message, number in of_zero_3(config, held) if layout.zero_stage == 3 else of_gradients(config, held):
        found[message] += number
    return +found


class Held:
    """What a rank holds of a model: its blocks, whether it has the first and the last stage, and its activations."""

    def __init__(self, config: Config, rank: int) -> None:
        layout, model, train = Layout.from_config(config.parallel), config.model, config.train
        stages = layout.stages_of(layout.coordinates(rank).pp)
        self.is_first, self.is_last = 0 in stages, layout.num_stages - 1 in stages
        self.blocks = sum(len(layout.layers_of(stage, model.num_layers)) for stage in stages)
        self.dtype = "bfloat16" if train.precision == "bf16" else "float32"
        self.positions = train.micro_batch_size * model.seq_len // layout.cp
        self.activations = self.positions * model.d_model


def of_tensor_parallelism(config: Config, held: Held) -> Iterator[tuple[Message, int]]:
    """Messages of each micro-batch between tensor-parallel ranks."""
    if config.parallel.tp == 1:
        return
    # Products that need the full sequence: into attention, into the MLP, and the head.
    columns = 2 * held.blocks + held.is_last
    # Sums over tensor-parallel ranks: out of attention, out of the MLP, and the embedding.
    rows = 2 * held.blocks + held.is_first
    if config.parallel.sp:
        # A column product gathers its input, in backward again, and its gradient is the reverse; a row product sums.
        yield ("all_gather", "tp", held.dtype, held.activations), 2 * columns + rows
        yield ("reduce_scatter", "tp", held.dtype, held.activations), columns + rows
        yield ("all_reduce", "tp", held.dtype, config.model.d_model), 2 * held.blocks + held.is_last  # gains
    else:
        yield ("all_reduce", "tp", held.dtype, held.activations), columns + rows
    if held.is_last:  # the greatest logit, the sum of exponentials, and the logit of the target
        yield ("all_reduce", "tp", "float32", held.positions), 3


def of_context_parallelism(config: Config, held: Held) -> Iterator[tuple[Message, int]]:
    """Messages of each micro-batch between context-parallel ranks: positions are exchanged for heads, and back."""
    parallel, model = config.parallel, config.model
    if parallel.cp == 1:
        return
    assert model.num_kv_heads is not None
    heads, kv_heads = model.num_heads // parallel.tp, lcm(max(1, model.num_kv_heads // parallel.tp), parallel.cp)
    of_a_head = held.positions * model.block_shape.head_dim
    for each in (heads, kv_heads):  # queries and outputs, keys and values, forward and backward
        yield ("all_to_all", "cp", held.dtype, each * of_a_head), 2 * 2 * held.blocks


def of_pipeline(config: Config, held: Held, stages: Sequence[int]) -> Iterator[tuple[Message, int]]:
    """Messages of each micro-batch between stages on different ranks: activations forward, gradients backward."""
    layout = Layout.from_config(config.parallel)
    neighbours = [
        other
        for stage in stages
        for other in (stage - 1, stage + 1)
        if 0 <= other < layout.num_stages and other not in stages
    ]
    per_rank = held.activations // (layout.tp if layout.sp else 1)
    for operation in ("send", "recv"):
        yield (operation, "pp", held.dtype, per_rank), len(neighbours)


def of_gradients(config: Config, held: Held) -> Iterator[tuple[Message, int]]:
    """Messages of a step that sum gradients, and bring back the weights that another replica has updated."""
    layout, model = Layout.from_config(config.parallel), config.model
    replicas = layout.dp * layout.cp
    assert model.vocab_size is not None and model.num_kv_heads is not None
    matrix = -(-model.vocab_size // layout.tp) * model.d_model
    heads, kv_heads = model.num_heads // layout.tp, max(1, model.num_kv_heads // layout.tp)
    width = model.block_shape.head_dim * model.d_model
    block = [2 * heads * width, 2 * kv_heads * width, 3 * model.block_shape.d_ff // layout.tp * model.d_model]
    assert all(size % 64 == 0 for size in block), "padding inside a bucket is not in the formula"
    body = held.blocks * (sum(block) + 2 * padded(model.d_model, 64)) + held.is_last * padded(model.d_model, 64)
    ends = held.is_first + (held.is_last and not (model.tie_embeddings and held.is_first))
    tied = model.tie_embeddings and layout.pp > 1 and ends > 0
    buckets = [body, matrix] if tied else [body + ends * padded(matrix, 64)]
    for size in (padded(size, 64 * replicas) for size in buckets):
        if replicas == 1:
            continue
        if layout.zero_stage == 0:
            yield ("all_reduce", "replicas", "float32", size), 1
        else:
            num_sums = layout.num_microbatches(config.train) if layout.zero_stage == 2 else 1
            yield ("reduce_scatter", "replicas", "float32", size), num_sums
            yield ("all_gather", "replicas", held.dtype, size), 1
    if tied:
        yield ("all_reduce", "embedding", "float32", padded(matrix, 64 * replicas) // replicas), 1


def of_zero_3(config: Config, held: Held) -> Iterator[tuple[Message, int]]:
    """Messages of a step in which DeepSpeed sums gradients, and brings back the weights, without tp, pp and cp."""
    model = config.model
    assert model.vocab_size is not None and model.num_kv_heads is not None
    d_model, d_ff = model.d_model, model.block_shape.d_ff
    heads = (
        model.num_heads,
        model.num_heads + 2 * model.num_kv_heads,
    )  # the output has these; queries, keys and values
    matrices = [*(each * model.block_shape.head_dim * d_model for each in heads), 2 * d_ff * d_model, d_ff * d_model]
    ends = [padded(model.vocab_size, 64) * d_model, padded(model.vocab_size, 64) * d_model, d_model]
    sizes = [*matrices, d_model, d_model] * held.blocks + ends
    yield (
        ("reduce_scatter", "replicas", "float32", sum(sizes)),
        Layout.from_config(config.parallel).num_microbatches(config.train),
    )
    yield ("all_gather", "replicas", held.dtype, sum(sizes)), 1


def padded(size: int, factor: int) -> int:
    """`size`, rounded up to a multiple of `factor`."""
    return -(-size // factor) * factor


LONG = ("zbv", "cp and tp and pp")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in CASES])
def test_the_messages_of_a_step_are_those_of_the_formula(name: str, record_of: RecordOf) -> None:
    case: Case = CASES[name]
    assert messages(record_of(case)) == formula(load(case.preset, case.overrides), case.rank)
