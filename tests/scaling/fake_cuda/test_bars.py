"""What runs on GPUs must hold: no wait of the host in a micro-batch, fp32 sums of gradients, and bounds of memory."""

import pytest

from foretrain.configs.load import load
from foretrain.scaling.fake_cuda.record import RankRecord
from foretrain.trainer.model.table import param_table
from tests.scaling.fake_cuda.cases import tiny
from tests.scaling.fake_cuda.conftest import RecordOf
from tests.scaling.fake_cuda.worker import Case

GIB = 2**30
LARGE = "model.d_model=512 model.d_ff=1024"
"""DeepSpeed gathers a matrix for each use if it has more than 100,000 elements, and keeps smaller ones."""
LAYOUTS = {
    "dp": "parallel.dp=8 train.precision=bf16",
    "tp": "parallel.tp=2 parallel.sp=true train.precision=bf16",
    "zero 2": "parallel.dp=8 parallel.zero_stage=2 train.precision=bf16",
    "zero 3": "parallel.dp=8 parallel.zero_stage=3 train.precision=bf16",
    "pp": "parallel.pp=2 model.num_layers=4 train.precision=bf16",
}
LONG_LAYOUTS = {
    "zero 3, fp32": "parallel.dp=8 parallel.zero_stage=3",
    "zero 3, tp": "parallel.dp=8 parallel.tp=2 parallel.sp=true parallel.zero_stage=3 train.precision=bf16",
    "zero 3, recompute": f"{LAYOUTS['zero 3']} train.recompute=full",
    "zero 3, overlap": f"{LAYOUTS['zero 3']} parallel.overlap_comm=true",
    "zero 3, no clipping": f"{LAYOUTS['zero 3']} optimizer.clip_norm=0",
    "zero 3, weights on the host": f"{LAYOUTS['zero 3']} parallel.offload_params=true",
    # Matrices are so large that they are gathered in each micro-batch.
    "zero 3, large": f"{LAYOUTS['zero 3']} parallel.overlap_comm=true {LARGE}",
    "zero 3, large, weights on the host": f"{LAYOUTS['zero 3']} parallel.offload_params=true {LARGE}",
    "zero 3, large, one replica": f"parallel.zero_stage=3 parallel.offload_params=true {LARGE}",
    "zero 1, masters on the host": f"{LAYOUTS['dp']} parallel.offload_optimizer=true",
    "zero 2, masters on the host": f"{LAYOUTS['zero 2']} parallel.offload_optimizer=true",
    "pp, masters on the host": f"{LAYOUTS['pp']} parallel.offload_optimizer=true",
    "zero 3, masters on the host": f"{LAYOUTS['zero 3']} parallel.offload_optimizer=true",
    "zero 3, all on the host": (
        f"{LAYOUTS['zero 3']} parallel.offload_optimizer=true parallel.offload_params=true {LARGE}"
    ),
}
EVERY = LAYOUTS | LONG_LAYOUTS


def with_microbatches(layout: str, count: int) -> Case:
    num_replicas = 8 if "dp=8" in layout else 1
    num_steps = 4 if "zero_stage=3" in layout else 2  # DeepSpeed plans ahead from the third micro-batch on
    return tiny(f"{layout} train.global_batch_size={count * num_replicas}", num_steps=num_steps)


LONG = [pytest.param(name, marks=pytest.mark.long) for name in LONG_LAYOUTS]


def num_waits(record: RankRecord) -> int:
    """How often the host waits for the device in the last step."""
    return sum(sync.count for phase in record.steps[-1] for sync in phase.syncs)


@pytest.mark.parametrize("name", [*LAYOUTS, *LONG])
def test_the_host_does_not_wait_for_the_device_in_a_micro_batch(name: str, record_of: RecordOf) -> None:
    few, many = (num_waits(record_of(with_microbatches(EVERY[name], count))) for count in (2, 4))
    assert few == many


@pytest.mark.parametrize("name", [*LAYOUTS, *LONG])
def test_the_host_waits_for_the_device_once_in_a_step(name: str, record_of: RecordOf) -> None:
    assert num_waits(record_of(with_microbatches(EVERY[name], 4))) == 1


@pytest.mark.parametrize("name", ["dp", "zero 2", "zero 3"])
def test_gradients_of_bf16_runs_are_summed_in_fp32(name: str, record_of: RecordOf) -> None:
    record = record_of(with_microbatches(LAYOUTS[name], 4))
    sums = [
        each
        for phase in record.steps[-1]
        for each in phase.collectives
        if each.operation in ("all_reduce", "reduce_scatter") and each.group == "replicas" and each.num_elements > 1
    ]
    assert sums and {each.dtype for each in sums} == {"float32"}


@pytest.mark.long
def test_a_7b_model_on_8_gpus_with_zero_1_and_full_recomputation_fits_in_50_gib(record_of: RecordOf) -> None:
    overrides = (
        *("parallel.dp=8", "parallel.tp=1", "parallel.sp=false", "parallel.zero_stage=1", "model.vocab_size=32000"),
        *("train.global_batch_size=16", "train.recompute=full"),
    )
    record = record_of(Case("runs/llama_7b_a100", overrides))
    assert record.peak_device_bytes <= 50.5 * GIB


@pytest.mark.long
def test_a_70b_model_on_512_gpus_with_zero_3_is_built_a_parameter_at_a_time(record_of: RecordOf) -> None:
    overrides = (
        *("parallel.dp=512", "parallel.tp=1", "parallel.pp=1", "parallel.vpp=1", "parallel.sp=false"),
        *("parallel.schedule=1f1b", "parallel.zero_stage=3", "model.vocab_size=32000", "train.global_batch_size=512"),
    )
    case = Case("runs/llama_70b_a100", overrides, num_steps=0)
    record = record_of(case)
    table = param_table(load(case.preset, case.overrides).model)
    # Weights and their master copies, two moments, and sums of gradients: 2 + 4 + 8 + 4 bytes.
    share_bytes = 18 * record.num_parameters / 512
    block_bytes = 2 * sum(param.num_elements for param in table if param.block == 0)
    assert record.num_parameters > 65e9
    assert record.build.host.peak_bytes <= 2 * GIB
    assert record.build.device.peak_bytes <= 1.2 * share_bytes + block_bytes


def test_zero_2_keeps_a_share_of_the_gradients_between_steps(record_of: RecordOf) -> None:
    kept = {}
    for name in ("dp", "zero 2"):
        record = record_of(with_microbatches(LAYOUTS[name], 4))
        kept[name] = record.phase("update").device.live_bytes
    others = 4 * record.num_parameters * 7 / 8
    assert kept["dp"] - kept["zero 2"] == pytest.approx(others, rel=0.05)


def test_an_update_of_adamw_makes_no_temporary_of_the_size_of_the_parameters(record_of: RecordOf) -> None:
    record = record_of(tiny("train.precision=bf16", num_steps=2))
    update = record.phase("update")
    assert update.device.peak_bytes - update.device.live_bytes < record.num_parameters
