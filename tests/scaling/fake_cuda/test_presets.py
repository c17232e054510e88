"""Every preset of a GPU run, and random layouts, run on fake GPUs: the long part of these tests."""

from functools import cache

import pytest

from foretrain.configs.load import load
from foretrain.configs.sources import PRESETS
from foretrain.parallel.layout import Layout
from foretrain.scaling.verify.plan import LayoutTrial, VerifyPlan, make_plan
from tests.scaling.fake_cuda.conftest import RecordOf
from tests.scaling.fake_cuda.worker import Case

pytestmark = pytest.mark.long

GIB = 2**30
NAMES = sorted(f"runs/{path.stem}" for path in (PRESETS / "runs").glob("*_a100.yaml"))
NUM_SAMPLED = 24
MAX_PROCESSES = 16
VOCABULARY = "model.vocab_size=61"


def ranks_of(name: str) -> list[Case]:
    """The first, the middle and the last rank of a preset, with the fewest micro-batches that fill its pipeline."""
    config = load(name)
    layout = Layout.from_config(config.parallel)
    per_pass = layout.dp * config.train.micro_batch_size
    batch = f"train.global_batch_size={2 * per_pass if layout.pp == 1 else layout.pp * per_pass}"
    ranks = (0, layout.world_size // 2, layout.world_size - 1)
    return [Case(name, (batch,), rank, checkpoint=True) for rank in ranks]


PRESET_CASES = [case for name in NAMES for case in ranks_of(name)]


@pytest.mark.parametrize("case", PRESET_CASES, ids=str)
def test_the_ranks_of_a_preset_run_and_fit_its_gpus(case: Case, record_of: RecordOf) -> None:
    record = record_of(case)
    assert 0 < record.peak_device_bytes < load(case.preset).cluster.gpu_memory_gib * GIB
    assert record.save is not None and record.save.host.peak_bytes >= 12 * record.num_parameters


@cache
def sampled() -> VerifyPlan:
    """Random legal layouts of the dry run's model, made small."""
    return make_plan(
        load("runs/dry_run", [VOCABULARY]), max_processes=MAX_PROCESSES, precision="both", sample=NUM_SAMPLED, seed=20
    )
