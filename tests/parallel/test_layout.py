"""The layout: who does what, what is refused, and that all of it is arithmetic that needs no torch."""

import pkgutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain import configs
from foretrain.configs.schema import ModelConfig, ParallelConfig, TrainConfig
from foretrain.parallel.layout import Layout, LayoutError, check

SCHEDULES = ("1f1b", "interleaved_1f1b", "interleaved_zb", "zbv")
MODEL = ModelConfig(num_layers=4, d_model=32, num_heads=4, num_kv_heads=2, d_ff=64, vocab_size=61, seq_len=16)
TRAIN = TrainConfig(global_batch_size=8, micro_batch_size=1)


@st.composite
def legal_meshes(draw: st.DrawFn) -> Layout:
    """Any sizes, with as many virtual stages as the schedule takes."""
    pp = draw(st.integers(1, 6))
    schedule = draw(st.sampled_from(SCHEDULES))
    vpp = {"1f1b": 1, "zbv": 2}.get(schedule) or draw(st.integers(2, 4))
    dp, tp, cp = draw(st.tuples(*3 * [st.integers(1, 5)]))
    return Layout(dp, tp, pp, vpp if pp > 1 else 1, schedule=schedule, cp=cp)


@given(legal_meshes(), st.data())
def test_coordinates_and_rank_are_inverse_bijections(layout: Layout, data: st.DataObject) -> None:
    places = [layout.coordinates(rank) for rank in range(layout.world_size)]
    assert len(set(places)) == layout.world_size
    for rank, at in enumerate(places):
        assert 0 <= at.pp < layout.pp and 0 <= at.dp < layout.dp and 0 <= at.tp < layout.tp and 0 <= at.cp < layout.cp
        assert layout.rank(at.pp, at.dp, at.tp, at.cp) == rank


@given(legal_meshes())
def test_a_tensor_parallel_group_is_a_run_of_neighbouring_ranks(layout: Layout) -> None:
    for pp in range(layout.pp):
        for dp in range(layout.dp):
            group = [layout.rank(pp, dp, tp) for tp in range(layout.tp)]
            assert group == list(range(group[0], group[0] + layout.tp))
            assert group[0] % layout.tp == 0, "a node with a multiple of tp ranks holds the full group"


@given(legal_meshes())
def test_every_stage_is_on_exactly_one_pipeline_rank(layout: Layout) -> None:
    held = [layout.stages_of(pp_rank) for pp_rank in range(layout.pp)]
    assert sorted(stage for stages in held for stage in stages) == list(range(layout.num_stages))
    for pp_rank, stages in enumerate(held):
        assert len(stages) == layout.vpp
        assert stages == sorted(stages), "data meets a rank's stages in this order"
        assert {layout.stage_to_pp_rank(stage) for stage in stages} == {pp_rank}


@given(st.integers(2, 8))
def test_zbv_stages_go_down_the_ranks_and_up_again(pp: int) -> None:
    layout = Layout(pp=pp, vpp=2, schedule="zbv")
    path = [layout.stage_to_pp_rank(stage) for stage in range(2 * pp)]
    assert path == [*range(pp), *reversed(range(pp))]


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved_1f1b", "interleaved_zb"])
def test_other_schedules_pass_round_the_ranks(schedule: str) -> None:
    layout = Layout(pp=3, vpp=2, schedule=schedule)
    assert [layout.stage_to_pp_rank(stage) for stage in range(6)] == [0, 1, 2, 0, 1, 2]


@given(legal_meshes(), st.integers(0, 60))
def test_layers_are_an_even_ordered_partition_with_the_extra_ones_in_the_middle(layout: Layout, more: int) -> None:
    num_layers = layout.num_stages + more
    parts = [layout.layers_of(stage, num_layers) for stage in range(layout.num_stages)]
    assert [layer for part in parts for layer in part] == list(range(num_layers))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    large = [stage for stage, size in enumerate(sizes) if size > min(sizes)]
    assert all(after == before + 1 for before, after in pairwise(large)), "they are neighbours"
    assert sizes[-1] == min(sizes), "the last stage has the head"
    assert sizes[0] == min(sizes) or len(large) == len(sizes) - 1, "the first stage has the embedding"


@given(st.lists(st.integers(1, 9), min_size=2, max_size=8))
def test_a_split_by_hand_is_taken_as_it_is(sizes: list[int]) -> None:
    layout = Layout(pp=len(sizes), stage_layers=tuple(sizes))
    parts = [layout.layers_of(stage, sum(sizes)) for stage in range(layout.num_stages)]
    assert [len(part) for part in parts] == sizes
    assert [layer for part in parts for layer in part] == list(range(sum(sizes)))


def test_a_layout_says_its_split_only_where_it_has_one_of_its_own() -> None:
    assert str(Layout(pp=2, stage_layers=(1, 3))) == "dp=1 tp=1 pp=2 1f1b layers=1,3 zero=1"
    assert str(Layout(pp=2)) == "dp=1 tp=1 pp=2 1f1b zero=1"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_a_pipeline_the_schedule_does_not_matter(schedule: str) -> None:
    layout = Layout(schedule=schedule)
    check(layout, MODEL, TRAIN)
    assert layout.stages_of(0) == [0]


@given(st.none() | st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 64) | st.none())
def test_a_layout_from_a_config_has_as_many_ranks_as_were_started(
    dp: int | None, tp: int, pp: int, world_size: int | None
) -> None:
    config = ParallelConfig(dp=dp, tp=tp, pp=pp)
    fits = world_size is None or (world_size % (tp * pp) == 0 and dp in (None, world_size // (tp * pp)))
    try:
        layout = Layout.from_config(config, world_size)
    except LayoutError:
        assert not fits
    else:
        assert fits and (layout.tp, layout.pp) == (tp, pp)
        assert layout.world_size == (world_size or (dp or 1) * tp * pp)


def test_a_layout_from_a_config_keeps_every_setting() -> None:
    config = ParallelConfig(dp=3, tp=2, pp=2, vpp=2, sp=True, schedule="zbv", zero_stage=0, stage_layers=[1, 2, 3, 1])
    assert Layout.from_config(config) == Layout(3, 2, 2, 2, True, "zbv", 0, (1, 2, 3, 1))


@dataclass(frozen=True)
class Refusal:
    """A setting that cannot run, the words of the message, and the fixed settings that it advises."""

    says: tuple[str, ...]
    layout: Layout
    fixed: Layout | None = None
    model: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)
    fixed_model: dict = field(default_factory=dict)
    fixed_train: dict = field(default_factory=dict)


REFUSALS = {
    "kv heads": Refusal(
        ("parallel.tp = 2", "model.num_kv_heads = 3", "1 or 3", "a multiple of it"),
        Layout(tp=2),
        Layout(tp=3),
        {"num_heads": 6, "num_kv_heads": 3, "head_dim": 8, "d_ff": 66},
    ),
    "cp and heads": Refusal(
        ("parallel.cp = 3", "num_heads / tp = 2", "1 or 2"), Layout(tp=2, cp=3), Layout(tp=2, cp=2), {"seq_len": 18}
    ),
    "cp and length": Refusal(
        ("parallel.cp = 2", "model.seq_len = 15"), Layout(cp=2), model={"seq_len": 15}, fixed_model={"seq_len": 16}
    ),
    "width": Refusal(("parallel.tp = 2", "model.d_ff = 63", "1, 3, 7"), Layout(tp=2), Layout(tp=1), {"d_ff": 63}),
    "sp of one rank": Refusal(("parallel.sp = true", "parallel.tp = 1", "sp=false"), Layout(sp=True), Layout(sp=False)),
    "sp of odd length": Refusal(
        ("parallel.sp", "model.seq_len = 15", "parallel.tp = 2", "sp=false"),
        Layout(tp=2, sp=True),
        Layout(tp=2, sp=False),
        {"seq_len": 15},
    ),
    "stage without layer": Refusal(
        ("model.num_layers = 3", "2 * 2 = 4", "lower parallel.pp or parallel.vpp"),
        Layout(pp=2, vpp=2, schedule="zbv"),
        Layout(pp=2),
        {"num_layers": 3},
    ),
    "split with too few stages": Refusal(
        ("parallel.stage_layers = [1, 3]", "4 blocks on 2 stages", "2 * 2 = 4 stages", "4 numbers whose sum is 4"),
        Layout(pp=2, vpp=2, schedule="zbv", stage_layers=(1, 3)),
        Layout(pp=2, vpp=2, schedule="zbv", stage_layers=(1, 1, 1, 1)),
    ),
    "split with too few blocks": Refusal(
        ("parallel.stage_layers = [1, 2]", "3 blocks on 2 stages", "model.num_layers = 4", "whose sum is 4"),
        Layout(pp=2, stage_layers=(1, 2)),
        Layout(pp=2),
    ),
    "zero 2": Refusal(
        ("parallel.zero_stage = 2", "parallel.pp = 1", "zero_stage=1"), Layout(pp=2, zero_stage=2), Layout(pp=2)
    ),
    "zero 3": Refusal(
        ("parallel.zero_stage = 3", "parallel.pp = 1", "zero_stage=1"), Layout(pp=2, zero_stage=3), Layout(pp=2)
    ),
    "vpp without pipeline": Refusal(("parallel.vpp = 2", "parallel.pp = 1", "vpp=1"), Layout(vpp=2), Layout()),
    "vpp with 1f1b": Refusal(
        ("parallel.schedule = 1f1b", "parallel.vpp = 1, not 2", "schedule=interleaved_1f1b"),
        Layout(pp=2, vpp=2),
        Layout(pp=2, vpp=2, schedule="interleaved_1f1b"),
    ),
    "interleaved 1f1b of one": Refusal(
        ("parallel.schedule = interleaved_1f1b", "parallel.vpp", "vpp=2"),
        Layout(pp=2, schedule="interleaved_1f1b"),
        Layout(pp=2, vpp=2, schedule="interleaved_1f1b"),
    ),
    "interleaved zb of one": Refusal(
        ("parallel.schedule = interleaved_zb", "parallel.vpp", "schedule=1f1b"),
        Layout(pp=2, schedule="interleaved_zb"),
        Layout(pp=2),
    ),
    "zbv of one": Refusal(
        ("parallel.schedule = zbv", "parallel.vpp=2, not 1"),
        Layout(pp=2, schedule="zbv"),
        Layout(pp=2, vpp=2, schedule="zbv"),
    ),
    "zbv of three": Refusal(
        ("parallel.schedule = zbv", "parallel.vpp=2, not 3"),
        Layout(pp=2, vpp=3, schedule="zbv"),
        Layout(pp=2, vpp=2, schedule="zbv"),
        {"num_layers": 6},
    ),
    "batch that dp does not divide": Refusal(
        ("train.global_batch_size = 8", "train.micro_batch_size", "3 * 1 = 3", "use 9"),
        Layout(dp=3),
        fixed_train={"global_batch_size": 9},
    ),
    "batch smaller than one pass": Refusal(
        ("train.global_batch_size = 1", "train.micro_batch_size", "2 * 2 = 4", "use 4"),
        Layout(dp=2),
        train={"global_batch_size": 1, "micro_batch_size": 2},
        fixed_train={"global_batch_size": 4},
    ),
    "few microbatches for 1f1b": Refusal(
        ("parallel.schedule = 1f1b", "parallel.pp = 4", "train.global_batch_size=16", "train.micro_batch_size"),
        Layout(dp=2, pp=4),
        train={"micro_batch_size": 2},
        fixed_train={"global_batch_size": 16},
    ),
    "few microbatches for zbv": Refusal(
        ("parallel.schedule = zbv", "2 * parallel.pp = 4", "train.global_batch_size=16", "train.micro_batch_size"),
        Layout(dp=2, pp=2, vpp=2, schedule="zbv"),
        train={"micro_batch_size": 2},
        fixed_train={"global_batch_size": 16},
    ),
    "odd microbatches for interleaved": Refusal(
        ("parallel.schedule = interleaved_zb", "parallel.pp = 2", "train.global_batch_size=12"),
        Layout(dp=2, pp=2, vpp=2, schedule="interleaved_zb"),
        train={"global_batch_size": 10},
        fixed_train={"global_batch_size": 12},
    ),
    "no masters": Refusal(
        ("parallel.zero_stage = 0", "train.precision = bf16", "parallel.zero_stage=1"),
        Layout(zero_stage=0),
        Layout(zero_stage=1),
        train={"precision": "bf16"},
    ),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_names_the_keys_and_following_its_advice_is_accepted(case: Refusal) -> None:
    model, train = replace(MODEL, **case.model), replace(TRAIN, **case.train)
    with pytest.raises(LayoutError) as refused:
        check(case.layout, model, train)
    message = str(refused.value)
    assert "\n" not in message, "one reason, one line"
    assert [words for words in case.says if words not in message] == []
    check(case.fixed or case.layout, replace(model, **case.fixed_model), replace(train, **case.fixed_train))


def test_a_refusal_has_every_reason_at_once() -> None:
    with pytest.raises(LayoutError) as refused:
        check(Layout(dp=3, tp=3, pp=8, zero_stage=3), MODEL, TRAIN)
    keys = ("num_heads", "d_ff", "num_kv_heads", "num_layers", "zero_stage", "global_batch_size")
    lines = str(refused.value).splitlines()
    assert [key in line for key, line in zip(keys, lines, strict=True)] == [True] * len(keys)


def test_ranks_that_cannot_be_divided_are_refused_with_the_number_to_start() -> None:
    with pytest.raises(LayoutError, match=r"6 ranks .* 2 \* 2 = 4.* multiple of 4 .*parallel\.tp or parallel\.pp"):
        Layout.from_config(ParallelConfig(tp=2, pp=2), 6)
    Layout.from_config(ParallelConfig(tp=2, pp=2), 8)


def test_another_number_of_ranks_than_dp_asks_for_is_refused_with_both_ways_out() -> None:
    with pytest.raises(LayoutError, match=r"parallel\.dp = 4 .*16 ranks.* 8: start 16 ranks, .*parallel\.dp=2"):
        Layout.from_config(ParallelConfig(dp=4, tp=2, pp=2), 8)
    Layout.from_config(ParallelConfig(dp=4, tp=2, pp=2), 16)
    Layout.from_config(ParallelConfig(dp=2, tp=2, pp=2), 8)
    Layout.from_config(ParallelConfig(dp=None, tp=2, pp=2), 8)


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    num_kv_heads = draw(st.integers(1, 4))
    num_heads = num_kv_heads * draw(st.integers(1, 2))
    return ModelConfig(
        num_layers=draw(st.integers(1, 12)),
        d_model=num_heads * 8,
        num_heads=num_heads,
        num_kv_heads=draw(st.sampled_from([None, num_kv_heads])),
        d_ff=draw(st.none() | st.integers(1, 12)),
        seq_len=draw(st.integers(1, 12)),
    )


small = st.integers(1, 3)
layouts = st.builds(
    Layout, small, small, small, small, st.booleans(), st.sampled_from(SCHEDULES), st.sampled_from((0, 1, 2, 3))
)
trains = st.builds(
    TrainConfig,
    global_batch_size=st.integers(1, 36),
    micro_batch_size=small,
    precision=st.sampled_from(("fp32", "bf16")),
)


@given(legal_meshes() | layouts, models(), trains)
def test_check_passes_exactly_the_layouts_that_divide_the_work(
    layout: Layout, model: ModelConfig, train: TrainConfig
) -> None:
    try:
        check(layout, model, train)
        passed = True
    except LayoutError:
        passed = False
    samples_of_rank, rest = divmod(train.global_batch_size, layout.dp)
    num_microbatches, rest_of_rank = divmod(samples_of_rank, train.micro_batch_size)
    kv, d_ff = model.num_kv_heads or model.num_heads, model.d_ff or 4 * model.d_model
    shares_heads = kv % layout.tp == 0 or layout.tp % kv == 0
    is_even = model.num_heads % layout.tp == 0 and shares_heads and d_ff % layout.tp == 0
    if layout.cp > 1:
        is_even = is_even and model.num_heads // layout.tp % layout.cp == 0 and model.seq_len % layout.cp == 0
    is_split = not layout.sp or (layout.tp > 1 and model.seq_len % (layout.tp * layout.cp) == 0)
    is_divisible = rest == 0 and rest_of_rank == 0
    is_scheduled = layout.vpp == 1
    if layout.pp > 1:
        is_scheduled = {
            "1f1b": layout.vpp == 1 and num_microbatches >= layout.pp,
            "interleaved_1f1b": layout.vpp > 1 and num_microbatches % layout.pp == 0,
            "interleaved_zb": layout.vpp > 1 and num_microbatches % layout.pp == 0,
            "zbv": layout.vpp == 2 and num_microbatches >= 2 * layout.pp,
        }[layout.schedule]
    has_layers = model.num_layers >= layout.pp * layout.vpp
    has_zero = layout.zero_stage < 2 or layout.pp == 1
    has_masters = layout.zero_stage > 0 or train.precision == "fp32"
    facts = [is_even, is_split, is_divisible, is_scheduled, has_layers, has_zero, has_masters]
    assert passed == all(facts), facts
    if passed:
        assert layout.num_microbatches(train) == num_microbatches > 0


TORCHLESS = [
    "foretrain.parallel.layout",
    "foretrain.trainer.model.spec",
    "foretrain.trainer.schedule",
    "foretrain.trainer.stages.cost",
    "foretrain.trainer.run.setup",
    "foretrain.data_pipeline.stream.order",
    *(f"foretrain.configs.{module.name}" for module in pkgutil.iter_modules(configs.__path__)),
]
WHO_IMPORTS_TORCH = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        print(name)
        break
"""


def test_what_is_known_before_a_run_is_known_without_torch() -> None:
    assert "foretrain.configs.schema" in TORCHLESS
    planted = "foretrain.trainer.model.init"  # comes last, to show that the check can fail
    command = [sys.executable, "-c", WHO_IMPORTS_TORCH, *TORCHLESS, planted]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == [planted]
