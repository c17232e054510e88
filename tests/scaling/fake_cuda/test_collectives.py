"""The messages of a training step are those of a closed formula: their number, their type and their size."""

from collections import Counter

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
    """The messages of a step of a llama-like model by 1F1B, whose gradients fit into one bucket."""
    layout, model, train = Layout.from_config(config.parallel), config.model, config.train
    at, count = layout.coordinates(rank), layout.num_microbatches(train)
    assert model.vocab_size is not None and model.num_kv_heads is not None
    is_first, is_last = at.pp == 0, at.pp == layout.pp - 1
    blocks = len(layout.layers_of(at.pp, model.num_layers))
    dtype = "bfloat16" if train.precision == "bf16" else "float32"
    activations = train.micro_batch_size * model.seq_len * model.d_model

    found: Counter[Message] = Counter()
    found["all_reduce", "cpu", "int64", 1] += 1  # valid tokens, in host memory
    found["all_reduce", "world", "float64", 1] += 2  # losses, and squares of the norm

    columns = 2 * blocks + is_last  # products that need the full sequence: into attention, into the MLP, and the head
    rows = 2 * blocks + is_first  # sums over tensor-parallel ranks: out of attention, out of the MLP, and the embedding
    if layout.tp > 1 and layout.sp:
        # A column product gathers its input, in backward again, and its gradient is the reverse; a row product sums.
        found["all_gather", "tp", dtype, activations] += count * (2 * columns + rows)
        found["reduce_scatter", "tp", dtype, activations] += count * (columns + rows)
        found["all_reduce", "tp", dtype, model.d_model] += count * (2 * blocks + is_last)  # gradients of gains
    elif layout.tp > 1:
        found["all_reduce", "tp", dtype, activations] += count * (columns + rows)
    if layout.tp > 1 and is_last:  # the greatest logit, the sum of exponentials, and the logit of the target
        found["all_reduce", "tp", "float32", train.micro_batch_size * model.seq_len] += 3 * count

    if layout.pp > 1:
        per_rank = activations // (layout.tp if layout.sp else 1)
        neighbours = (not is_first) + (not is_last)
        found["send", "pp", dtype, per_rank] += count * neighbours
        found["recv", "pp", dtype, per_rank] += count * neighbours

    matrix = -(-model.vocab_size // layout.tp) * model.d_model
    heads, kv_heads = model.num_heads // layout.tp, max(1, model.num_kv_heads // layout.tp)
    width = model.block_shape.head_dim * model.d_model
    block = [2 * heads * width, 2 * kv_heads * width, 3 * model.block_shape.d_ff // layout.tp * model.d_model]
    assert all(size % 64 == 0 for size in block), "padding inside a bucket is not in the formula"
    body = blocks * (sum(block) + 2 * padded(model.d_model, 64)) + is_last * padded(model.d_model, 64)
    ends = is_first + (is_last and not (model.tie_embeddings and is_first))
    tied = model.tie_embeddings and layout.pp > 1 and ends > 0
    buckets = [body, matrix] if tied else [body + ends * padded(matrix, 64)]
    for size in (padded(size, 64 * layout.dp) for size in buckets):
        if layout.dp == 1:
            continue
        if layout.zero_stage == 0:
            found["all_reduce", "replicas", "float32", size] += 1
        else:
            found["reduce_scatter", "replicas", "float32", size] += 1
            found["all_gather", "replicas", dtype, size] += 1
    if tied:
        found["all_reduce", "embedding", "float32", padded(matrix, 64 * layout.dp) // layout.dp] += 1
    return found


def padded(size: int, factor: int) -> int:
    """`size`, rounded up to a multiple of `factor`."""
    return -(-size // factor) * factor


@pytest.mark.parametrize("name", CASES)
def test_the_messages_of_a_step_are_those_of_the_formula(name: str, record_of: RecordOf) -> None:
    case: Case = CASES[name]
    assert messages(record_of(case)) == formula(load(case.preset, case.overrides), case.rank)
