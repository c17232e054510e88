"""One curve of samples that hold several documents: under every layout attention and positions stay inside one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foretrain.configs.data import DataConfig
from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.parallel.context import ContextParallel
from foretrain.parallel.layout import Layout
from foretrain.parallel.segments import Segments
from foretrain.trainer.model.gpt import Stage
from foretrain.trainer.verification.probe import make_positions
from foretrain.trainer.verification.reference import reference
from tests.conftest import RunOnRanks
from tests.parallel import workers
from tests.parallel.conftest import CurveOf
from tests.parallel.workers import Case, Curve

TRAIN = TrainConfig(global_batch_size=16, micro_batch_size=4)
OPTIMIZER = OptimizerConfig(lr=1e-3, clip_norm=0.5)
LLAMA = workers.small_model(qk_norm=True)
GPT2 = workers.gpt2_model()
MODELS = {"rope": LLAMA, "learned": GPT2}


def case(positions: str, layout: Layout, **train: Any) -> Case:
    return Case("documents", layout, MODELS[positions], replace(TRAIN, **train), OPTIMIZER, num_steps=4)


ONE_PROCESS = {positions: case(positions, Layout(zero_stage=0)) for positions in MODELS}
CASES = [
    case("rope", Layout(), micro_batch_size=8),
    case("rope", Layout(cp=2)),
    case("learned", Layout(pp=2, vpp=2, schedule="zbv")),
]
LONG_CASES = [
    case("rope", Layout(dp=2, zero_stage=3)),
    case("rope", Layout(tp=2, sp=True)),
    case("rope", Layout(pp=2), recompute="selective"),
    case("rope", Layout(pp=2, vpp=2, schedule="interleaved_zb"), recompute="full"),
    case("learned", Layout(tp=2, cp=2, sp=True), recompute="selective"),
    case("learned", Layout(pp=2, vpp=2, schedule="interleaved_1f1b")),
]
SHARED = [[*ONE_PROCESS.values(), *CASES], LONG_CASES]


def difference(a: Curve, b: Curve) -> float:
    """Largest relative difference of any step's loss, gradient norm or held-out loss."""
    held_out = [abs(x - y) / y for x, y in zip(a[1], b[1], strict=True)]
    return max(workers.max_difference(a[0], b[0]), *held_out)


@pytest.mark.parametrize(
    "each",
    [*CASES, *(pytest.param(each, marks=pytest.mark.long) for each in LONG_CASES)],
    ids=[f"{each.model.position} {each.layout} {each.train.recompute}" for each in (*CASES, *LONG_CASES)],
)
def test_every_layout_and_micro_batch_size_gives_the_curve_of_one_process(each: Case, curve_of: CurveOf) -> None:
    assert difference(curve_of(each), curve_of(ONE_PROCESS[each.model.position])) < 1e-5


# ---- planted faults ----


def segments_ignored_on_the_last_stage() -> None:
    forward = Stage.forward

    def ignore(self: Stage, x: Tensor, positions: Tensor | None = None) -> Tensor:
        return forward(self, x, None if self.is_last else positions)

    Stage.forward = ignore  # type: ignore[method-assign,assignment]


def segments_of_its_own_slice() -> None:
    """A context-parallel rank uses its part of the positions as those of the full sequence."""
    attention = ContextParallel.attention
    of = Segments.of

    def of_both(positions_BL: Tensor, device: torch.device) -> Segments:
        found = of(positions_BL, device)
        object.__setattr__(found, "positions_BL", positions_BL)
        return found

    def of_slice(self: ContextParallel, q: Tensor, k: Tensor, v: Tensor, is_causal: bool, segments: Any) -> Tensor:
        positions_BL = segments.positions_BL
        mine_BL = positions_BL[:, self.sequence_slice(positions_BL.shape[1])]
        return attention(self, q, k, v, is_causal, of(mine_BL.repeat(1, self.size), mine_BL.device))

    Segments.of = of_both  # type: ignore[method-assign]
    ContextParallel.attention = of_slice  # type: ignore[method-assign,assignment]


def positions_of_the_first_microbatch() -> None:
    from torch.distributed.pipelining import schedules

    split = schedules._PipelineSchedule._split_inputs

    def first(self: Any, *args: Any) -> Any:
        inputs, keywords = split(self, *args)
        return inputs, [keywords[0]] * len(keywords)

    schedules._PipelineSchedule._split_inputs = first  # type: ignore[method-assign,assignment]


def learned_positions_not_restarted() -> None:
    embed = Stage._embed
    Stage._embed = lambda self, tokens_BL, positions_BL: embed(self, tokens_BL, None)  # type: ignore[method-assign]


def learned_positions_from_the_start() -> None:
    """Each rank of a cut sequence looks up the positions of its beginning."""
    embed = Stage._embed

    def from_start(self: Stage, tokens_BL: Tensor, positions_BL: Tensor | None) -> Tensor:
        assert positions_BL is not None
        part = tokens_BL.shape[1]
        return embed(self, tokens_BL, positions_BL[:, :part].repeat(1, self._tp.context.size))

    Stage._embed = from_start  # type: ignore[method-assign]


def faulty_curve(fault: str, each: Case) -> list[Curve | str]:
    globals()[fault]()
    return workers.curves([each])


FAULTS = [
    (segments_of_its_own_slice, case("rope", Layout(cp=2))),
    (segments_ignored_on_the_last_stage, case("rope", Layout(pp=2))),
    (positions_of_the_first_microbatch, case("rope", Layout(pp=2))),
    (learned_positions_not_restarted, case("learned", Layout())),
    (learned_positions_from_the_start, case("learned", Layout(cp=2))),
]


@pytest.mark.parametrize(
    ("fault", "each"),
    [FAULTS[0], *(pytest.param(*fault, marks=pytest.mark.long) for fault in FAULTS[1:])],
    ids=[fault.__name__ for fault, _ in FAULTS],
)
def test_a_planted_fault_changes_the_curve(fault: Callable, each: Case, curve_of: CurveOf, ranks: RunOnRanks) -> None:
    ((curve,), *_) = ranks(each.layout.world_size, faulty_curve, fault.__name__, replace(each, num_steps=2))
    steps, losses = curve_of(ONE_PROCESS[each.model.position])
    assert difference(curve, (steps[:2], losses[:2])) > 1e-4


# ---- one process, and what its documents are ----


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_one_process_has_the_curve_of_documents_run_one_by_one(model: ModelConfig, ranks: RunOnRanks) -> None:
    config = Config(model=model, train=TRAIN, optimizer=OPTIMIZER, data=DataConfig(packing="documents"))
    (curve,) = ranks(1, probe_alone, config)
    exact, windows = (reference(each, "float64", 2) for each in (config, replace(config, data=DataConfig())))
    assert curve.losses == pytest.approx(exact.losses, rel=1e-5)
    assert curve.grad_norms == pytest.approx(exact.grad_norms, rel=1e-5)
    assert curve.losses != pytest.approx(windows.losses, rel=1e-4), "documents matter"


def probe_alone(config: Config) -> Any:
    from foretrain.trainer.verification.probe import probe

    return probe(config, Layout(), 2)


def test_made_up_documents_cross_every_cut_of_a_sequence_and_differ_between_microbatches() -> None:
    positions_BL = make_positions(0, 16, 16)
    assert (positions_BL[:, 0] == 0).all()
    assert ((positions_BL[:, 1:] == 0) | (positions_BL[:, 1:] == positions_BL[:, :-1] + 1)).all()
    for cut in (4, 8, 12):
        assert (positions_BL[:, cut] != 0).any() and (positions_BL[:, cut] != cut).any()
    microbatches = positions_BL.split(2)
    assert not all(torch.equal(microbatches[0], other) for other in microbatches[1:])
