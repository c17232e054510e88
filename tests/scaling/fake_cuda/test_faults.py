"""What goes wrong on a GPU shows in a record: each fault is planted, and found."""

import pytest

from foretrain.scaling.fake_cuda.record import Phase
from tests.scaling.fake_cuda.cases import tiny
from tests.scaling.fake_cuda.conftest import RankError, RecordOf
from tests.scaling.fake_cuda.faults import FAULTS, NUM_COPIED, NUM_KEPT, NUM_REDUCED

pytestmark = pytest.mark.long

NUM_MICROBATCHES = 3
BATCH = f"train.global_batch_size={NUM_MICROBATCHES}"
SOUND = tiny(BATCH)
FAULTY = {fault: tiny(BATCH, fault=fault) for fault in FAULTS}


def sound_and_faulty(fault: str, record_of: RecordOf) -> tuple[Phase, Phase]:
    """The forward and backward passes without and with the fault."""
    return record_of(SOUND).phase("forward_backward"), record_of(FAULTY[fault]).phase("forward_backward")


@pytest.mark.parametrize(
    "operation", ["item", "nonzero", "copy to host", "copy to device", "synchronize", "stream.synchronize"]
)
def test_each_wait_of_the_host_in_a_micro_batch_is_counted_with_its_place(operation: str, record_of: RecordOf) -> None:
    sound, faulty = sound_and_faulty("wait", record_of)
    (added,) = (sync for sync in set(faulty.syncs) - set(sound.syncs) if sync.operation == operation)
    assert added.count == NUM_MICROBATCHES
    assert added.site.ours.startswith("tests.scaling.fake_cuda.faults:") and added.site.ours.endswith(" wait")


def test_there_are_no_other_waits(record_of: RecordOf) -> None:
    sound, faulty = sound_and_faulty("wait", record_of)
    assert faulty.num_syncs == sound.num_syncs + 6 * NUM_MICROBATCHES


def test_a_kernel_is_counted_with_the_bytes_that_it_reads_and_writes(record_of: RecordOf) -> None:
    sound, faulty = sound_and_faulty("multiply", record_of)
    logits_bytes, copied_bytes = 16 * 64 * 4, NUM_COPIED * 4  # 61 tokens are padded to 64
    assert faulty.num_kernels == sound.num_kernels + 2 * NUM_MICROBATCHES
    added_bytes = faulty.bytes_outside_products - sound.bytes_outside_products
    assert added_bytes == NUM_MICROBATCHES * 2 * (logits_bytes + copied_bytes)


def test_a_copy_from_pinned_memory_that_does_not_block_is_no_wait(record_of: RecordOf) -> None:
    sound, faulty = sound_and_faulty("multiply", record_of)
    assert faulty.syncs == sound.syncs


def test_a_collective_is_shown_with_its_group_and_size(record_of: RecordOf) -> None:
    sound, faulty = sound_and_faulty("reduce_and_keep", record_of)
    (added,) = set(faulty.collectives) - set(sound.collectives)
    assert (added.operation, added.group, added.group_size, added.count) == ("all_reduce", "replicas", 1, 1)
    assert (added.device, added.dtype) == ("cuda", "float32")
    assert (added.num_elements, added.num_bytes) == (NUM_REDUCED, 4 * NUM_REDUCED)


def test_a_tensor_that_is_kept_raises_live_and_peak_bytes_by_its_size(record_of: RecordOf) -> None:
    sound, faulty = record_of(SOUND), record_of(FAULTY["reduce_and_keep"])
    assert faulty.build.device == sound.build.device
    for old, new in zip(sound.steps[-1], faulty.steps[-1], strict=True):
        assert new.device.peak_bytes == old.device.peak_bytes + NUM_KEPT, new.name
        assert new.device.live_bytes == old.device.live_bytes + NUM_KEPT, new.name


def test_a_tensor_that_is_left_on_the_cpu_is_an_error(record_of: RecordOf) -> None:
    with pytest.raises(RankError, match="found at least two devices, cuda:0 and cpu"):
        record_of(FAULTY["on_the_cpu"])
