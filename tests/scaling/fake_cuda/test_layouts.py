"""Ranks of many layouts run on fake GPUs, and their records say what the layout makes of a step."""

import pytest

from foretrain.scaling.fake_cuda.record import STEP_PHASES, Collective, RankRecord
from tests.scaling.fake_cuda.cases import tiny
from tests.scaling.fake_cuda.conftest import RecordOf
from tests.scaling.fake_cuda.worker import Case

DATA = "parallel.dp=8 train.global_batch_size=8"
PIPELINE = "parallel.pp=2 model.num_layers=4 train.global_batch_size=4 train.precision=bf16"
SINGLE = tiny(num_steps=2, checkpoint=True)
CASES = {
    "single": SINGLE,
    "tp": tiny("parallel.tp=2 parallel.sp=true train.precision=bf16", rank=1, checkpoint=True),
    "zero 0": tiny(f"{DATA} parallel.zero_stage=0"),
    "zero 1": tiny(f"{DATA} train.precision=bf16", rank=7),
    "zero 2": tiny(f"{DATA} parallel.zero_stage=2"),
    "zero 3": tiny(f"{DATA} parallel.zero_stage=3", rank=5, checkpoint=True),
    "1f1b": tiny(f"{PIPELINE} model.tie_embeddings=true model.position=learned", checkpoint=True),
    "zbv": tiny(f"{PIPELINE} parallel.vpp=2 parallel.schedule=zbv"),
    "cp": tiny("parallel.cp=2", rank=1),
}
LONG_CASES = {
    "offload": tiny("parallel.offload_optimizer=true train.precision=bf16"),
    "interleaved": tiny(f"{PIPELINE} parallel.vpp=2 parallel.schedule=interleaved_1f1b", rank=1),
    "documents": tiny("data.packing=documents parallel.cp=2 parallel.tp=2"),
}
AGAIN = tiny("model.name=again", num_steps=2, checkpoint=True)
"""The same as SINGLE, later in the same process."""


@pytest.mark.parametrize(
    "case",
    [*CASES.values(), *(pytest.param(case, marks=pytest.mark.long) for case in LONG_CASES.values())],
    ids=[*CASES, *LONG_CASES],
)
def test_a_rank_runs_and_is_recorded(case: Case, record_of: RecordOf) -> None:
    record = record_of(case)
    assert [len(step) for step in record.steps] == [3] * case.num_steps
    assert {phase.name for phase in record.steps[-1]} == set(STEP_PHASES)
    assert (record.save is None) == (record.load is None) == (not case.checkpoint)
    assert record.num_parameters > 0
    for phase in record.phases:
        assert phase.num_kernels > 0 or phase.name == "reduce"  # which may be done in the backward pass
        assert phase.device.peak_bytes >= phase.device.live_bytes > 0
    assert record.phase("forward_backward").syncs
    assert record.phase("forward_backward").collectives


def test_equal_runs_have_equal_records(record_of: RecordOf) -> None:
    first, again = record_of(SINGLE), record_of(AGAIN)
    assert first.steps[0] != first.steps[1]  # the first makes tables that later steps use
    for old, new in zip((first.build, *first.steps), (again.build, *again.steps), strict=True):
        assert new == old
    assert (first.save, first.load) == (again.save, again.load)


def collectives(record: RankRecord, operation: str, group: str) -> list[Collective]:
    """Those of the last step."""
    every = (each for phase in record.steps[-1] for each in phase.collectives)
    return [each for each in every if (each.operation, each.group) == (operation, group)]


def test_tensor_parallel_ranks_exchange_parts_of_the_sequence(record_of: RecordOf) -> None:
    record = record_of(CASES["tp"])
    activations = 16 * 32
    for operation in ("all_gather", "reduce_scatter"):
        found = [each for each in collectives(record, operation, "tp") if each.num_elements == activations]
        # For each micro-batch, two layers of two blocks, forward and backward, and the vocabulary's ends.
        assert sum(each.count for each in found) >= 2 * 2 * 2 * 2
        assert {each.group_size for each in found} == {2}


@pytest.mark.parametrize("name", ["zero 0", "zero 1", "zero 2", "zero 3"])
def test_replicas_reduce_every_gradient_once(name: str, record_of: RecordOf) -> None:
    record = record_of((CASES | LONG_CASES)[name])
    reduced = [
        each.num_elements * each.count
        for operation in ("all_reduce", "reduce_scatter", "reduce")
        for each in collectives(record, operation, "replicas")
        if each.num_elements > 1
    ]
    padding = 8 * 64 + record.num_parameters // 32 * 64  # the most that parameters and buckets can have
    assert record.num_parameters <= sum(reduced) <= record.num_parameters + padding


def test_marks_on_parameters_survive_the_move_to_the_device(record_of: RecordOf) -> None:
    """Only the first tensor-parallel rank counts gains in the gradient norm: megatron-core marks what is sharded."""
    stacked = [each.num_bytes for each in record_of(CASES["tp"]).phase("update").kernels if each.name == "stack"]
    num_matrices = 4 * 2 + 2  # four in each of two blocks, the embedding and the head
    assert stacked == [num_matrices * 2 * 8], "the norm of each counted tensor, in float64, is read and written"


def test_a_pipeline_rank_receives_and_sends_every_micro_batch_once_in_each_direction(record_of: RecordOf) -> None:
    record = record_of(CASES["1f1b"])
    for operation in ("send", "recv"):
        found = collectives(record, operation, "pp")
        assert sum(each.count for each in found) == record.num_microbatches
        assert {(each.num_elements, each.dtype) for each in found} == {(16 * 32, "bfloat16")}
    assert collectives(record, "all_reduce", "embedding")


def test_context_parallel_ranks_exchange_positions_for_heads(record_of: RecordOf) -> None:
    found = collectives(record_of(CASES["cp"]), "all_to_all", "cp")
    # Queries, keys, values and outputs, of two blocks and two micro-batches, forward and backward.
    assert sum(each.count for each in found) == 4 * 2 * 2 * 2


@pytest.mark.parametrize("name", ["single", "zero 1", "cp"])
def test_attention_to_grouped_queries_needs_no_matrix_of_scores_in_any_precision(
    name: str, record_of: RecordOf
) -> None:
    names = {kernel.name for kernel in record_of(CASES[name]).phase("forward_backward").kernels}
    assert "flash_attention" in names
    assert not names & {"_softmax", "_safe_softmax", "bmm"}


@pytest.mark.parametrize(("name", "num_copies"), [("single", 1), ("1f1b", 1), ("tp", 1), ("zero 3", 8)])
def test_a_checkpoint_needs_host_memory_for_a_copy_of_what_the_rank_owns_and_5_percent(
    name: str, num_copies: int, record_of: RecordOf
) -> None:
    record = record_of(CASES[name])
    assert record.save is not None
    share = 3 * 4 * record.num_parameters / num_copies
    assert record.save.host.peak_bytes - record.build.host.live_bytes <= 1.05 * share
    assert record.save.device.peak_bytes == record.save.device.live_bytes


@pytest.mark.long
def test_offloaded_states_are_on_the_host(record_of: RecordOf) -> None:
    offloaded = record_of(LONG_CASES["offload"])
    assert offloaded.build.host.live_bytes >= 3 * 4 * offloaded.num_parameters
    assert offloaded.build.device.live_bytes < 3 * 4 * offloaded.num_parameters
