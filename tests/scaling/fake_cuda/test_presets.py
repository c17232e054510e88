"""Every preset of a GPU run, and random layouts, run on fake GPUs: the long part of these tests."""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice

import pytest

from foretrain.configs.load import ConfigError, load
from foretrain.configs.schema import Config
from foretrain.configs.sources import PRESETS
from foretrain.parallel.layout import Layout, LayoutError, check
from foretrain.scaling.layouts import all_layouts
from tests.scaling.fake_cuda.cases import tiny
from tests.scaling.fake_cuda.conftest import RecordOf
from tests.scaling.fake_cuda.worker import Case

pytestmark = pytest.mark.long

GIB = 2**30
NAMES = sorted(f"runs/{path.stem}" for path in (PRESETS / "runs").glob("*_a100.yaml"))
NUM_SAMPLED, MAX_PROCESSES, SEED = 12, 16, 20
MODEL = "model.num_layers=8 model.num_heads=8 model.num_kv_heads=4 model.seq_len=32"
OPTIONS = [
    "train.recompute=full",
    "train.recompute=selective",
    "train.recompute_layers=3",
    "train.micro_batch_size=2",
    "data.packing=documents",
    "data.packing=best_fit",
    "model.tie_embeddings=true",
    "model.position=learned",
    "model.norm=layernorm",
    "model.bias=true",
    "model.qk_norm=true",
    "mup.parametrization=completep",
    "optimizer.kind=sgd",
    "parallel.overlap_comm=true",
    "parallel.offload_optimizer=true",
    "parallel.offload_params=true",
]


def ranks_of_presets() -> list[tuple[str, int]]:
    """The first rank of each preset, and of those with a pipeline the last one, which has other layers."""
    layouts = {name: Layout.from_config(load(name).parallel) for name in NAMES}
    last = [(name, layout.world_size - 1) for name, layout in layouts.items() if layout.pp > 1]
    return [*((name, 0) for name in NAMES), *last]


@pytest.mark.parametrize(("name", "rank"), ranks_of_presets())
def test_the_ranks_of_a_preset_run_and_fit_its_gpus(name: str, rank: int, record_of: RecordOf) -> None:
    config = load(name)
    layout = Layout.from_config(config.parallel)
    # With 2 * pp micro-batches, as many activations are kept as with more; only buffers for messages still grow.
    batch = f"train.global_batch_size={2 * layout.pp * layout.dp * config.train.micro_batch_size}"
    record = record_of(Case(name, (batch,), rank, num_steps=2, checkpoint=True))
    assert sum(phase.num_syncs for phase in record.steps[-1]) <= 1, "more than one wait of the host in a step"
    assert 0 < record.peak_device_bytes < config.cluster.gpu_memory_gib * GIB
    assert record.save is not None
    share = 12 * record.num_parameters / (layout.dp * layout.cp)  # weights and two moments in fp32
    assert record.save.host.peak_bytes - record.build.host.live_bytes <= 1.05 * share, "a save needs more host memory"


def random_cases(seed: int) -> Iterator[Case]:
    """Random ranks of random legal layouts, with a few options each."""
    chosen = random.Random(seed)
    model = tiny(MODEL)
    config = load(model.preset, model.overrides)
    layouts = [layout for layout in all_layouts(MAX_PROCESSES) if is_legal(layout, config)]
    while True:
        layout = chosen.choice(layouts)
        words = [f"parallel.{name}={getattr(layout, name)}" for name in ("dp", "tp", "pp", "cp", "vpp", "zero_stage")]
        words += [
            f"parallel.sp={layout.sp}",
            f"parallel.schedule={layout.schedule}",
            f"train.global_batch_size={batch_size(layout)}",
        ]
        words += [f"train.precision={chosen.choice(['fp32', 'bf16'])}", *chosen.sample(OPTIONS, 3)]
        rank = chosen.randrange(layout.world_size)
        case = tiny(" ".join([MODEL, *words]), rank=rank, num_steps=2, checkpoint=True)
        try:
            options = load(case.preset, case.overrides)
        except ConfigError:
            continue
        if is_legal(layout, options):
            yield case


def batch_size(layout: Layout) -> int:
    """Samples of a step: the fewest with which every schedule can run."""
    return 2 * layout.dp * layout.pp


def is_legal(layout: Layout, config: Config) -> bool:
    train = replace(config.train, global_batch_size=batch_size(layout))
    try:
        check(layout, config.model, train)
    except LayoutError:
        return False
    return True


@cache
def sampled() -> list[Case]:
    return list(islice(random_cases(SEED), NUM_SAMPLED))


@pytest.mark.parametrize("number", range(NUM_SAMPLED))
def test_a_random_layout_runs_and_the_host_waits_for_the_device_once_in_a_step(
    number: int, record_of: RecordOf
) -> None:
    record = record_of(sampled()[number])
    assert record.num_parameters > 0
    assert sum(phase.num_syncs for phase in record.steps[-1]) == 1


def test_the_random_layouts_differ() -> None:
    assert len({case.overrides for case in sampled()}) == NUM_SAMPLED
