"""The loss from logits in parts is the loss from all logits: losses, gradients and curves, in a part of the memory."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config, TrainConfig
from foretrain.parallel import loss_in_parts
from foretrain.parallel.groups import destroy_groups
from foretrain.parallel.layers import Head
from foretrain.parallel.layout import Layout
from foretrain.parallel.loss import IGNORE, cross_entropy
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.model import logits
from foretrain.trainer.verification.curve import Curve
from foretrain.trainer.verification.probe import probe
from foretrain.trainer.verification.reference import reference
from tests.conftest import RunOnRanks
from tests.parallel import workers
from tests.parallel.workers import Case

TRAIN = TrainConfig(global_batch_size=8, micro_batch_size=2)
MODEL = workers.small_model()  # 61 tokens, which are padded to 64
OPTIMIZER = OptimizerConfig(lr=1e-2)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}


def losses_and_gradients(head: Head, x_LBD: Tensor, targets_BL: Tensor, weight_LB: Tensor, in_parts: bool) -> Any:
    losses_LB = head(x_LBD, targets_BL) if in_parts else cross_entropy(head(x_LBD), targets_BL, TensorParallel())
    return losses_LB.detach(), *torch.autograd.grad((losses_LB * weight_LB).sum(), (x_LBD, head.weight))


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of tensors, relative to the norm of the expected one."""
    for each, other in zip(found, expected, strict=True):
        assert each.dtype == other.dtype and each.shape == other.shape
    pairs = [(each.double(), other.double()) for each, other in zip(found, expected, strict=True)]
    return max(float((each - other).norm() / (other.norm() + 1e-30)) for each, other in pairs)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a batch and of a head, and how its losses are computed."""

    length: int
    batch: int
    rows: int
    padding: int
    rows_of_part: int
    dtype: torch.dtype
    splits_backward: bool
    seed: int
    size: float


def compared(case: Sizes) -> float:
    """The difference between parts and all logits at once."""
    generator = torch.Generator().manual_seed(case.seed)
    x_LBD = case.size * torch.randn(case.length, case.batch, 8, generator=generator, dtype=torch.float64)
    rows = torch.randn(case.rows + case.padding, 8, generator=generator, dtype=torch.float64)
    weight_VD = nn.Parameter(rows.to(case.dtype))
    targets_BL = torch.randint(case.rows, (case.batch, case.length), generator=generator)
    targets_BL[torch.rand(case.batch, case.length, generator=generator) < 0.3] = IGNORE
    weight_LB = torch.rand(case.length, case.batch, generator=generator) - 0.5
    head = Head(TensorParallel(splits_backward=case.splits_backward), weight_VD, case.rows, case.rows_of_part)
    batch_of = head, x_LBD.to(case.dtype).requires_grad_(), targets_BL, weight_LB
    found, expected = (losses_and_gradients(*batch_of, in_parts=in_parts) for in_parts in (True, False))
    return difference(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Sizes,
        length=st.integers(1, 5),
        batch=st.integers(1, 3),
        rows=st.integers(1, 40),
        padding=st.integers(0, 3),
        rows_of_part=st.integers(1, 45),
        dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
        splits_backward=st.booleans(),
        seed=st.integers(0, 2**31),
        size=st.sampled_from([0.1, 1.0, 100.0]),
    )
)
@example(Sizes(3, 2, 37, 3, 8, torch.float32, False, 0, 100.0))
def test_losses_and_gradients_are_those_of_all_logits_at_once(case: Sizes) -> None:
    assert compared(case) <= TOLERANCE[case.dtype]


@pytest.mark.parametrize("fault", ["sum not scaled to the largest logit", "target of another part"])
def test_a_planted_bug_would_be_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "target of another part":
        real = loss_in_parts._Targets.parts

        def every_part_has_it(self: Any) -> Any:
            return ((part, row_N1, row_N1[:, 0] >= 0) for part, row_N1, _ in real(self))

        monkeypatch.setattr(loss_in_parts._Targets, "parts", every_part_has_it)
    else:
        monkeypatch.setattr(loss_in_parts, "_exp", lambda logits_NP, _: (logits_NP - logits_NP.amax(1)[:, None]).exp())
    assert compared(Sizes(5, 2, 37, 3, 8, torch.float32, False, 0, 1.0)) > 1e-2


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors of operations in this context have at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {x.untyped_storage()._cdata for x in torch.utils._pytree.tree_leaves(args) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._known and key not in before:
                    self._known.add(key)
                    self.live += size
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._forget, key, size)
        return out

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def test_a_part_of_the_logits_exists_at_a_time() -> None:
    num_rows, positions, width, rows_of_part = 32768, 64, 16, 1024
    head = Head(TensorParallel(), nn.Parameter(torch.randn(num_rows, width)), num_rows, rows_of_part)
    x_LBD = torch.randn(positions, 1, width, requires_grad=True)
    targets_BL = torch.randint(num_rows, (1, positions))
    peaks = []
    for in_parts in (True, False):
        with PeakBytes() as peak:
            losses_and_gradients(head, x_LBD, targets_BL, torch.ones(positions, 1), in_parts)
        peaks.append(peak.peak)
    logits_bytes, weight_bytes = 4 * num_rows * positions, 4 * num_rows * width
    assert peaks[0] - weight_bytes < 3 * logits_bytes * rows_of_part / num_rows
    assert peaks[1] > 2 * logits_bytes, "the measurement sees logits of all rows"


def use_parts(rows: int = 8) -> None:
    """Let every model's logits be computed in parts of `rows` rows, in this process."""
    logits.LARGE_BYTES = logits.HUGE_BYTES = logits.PART_BYTES = 0
    logits.ROW_UNIT = rows


def curves_in_parts(all_at_once: Case, cases: Sequence[Case]) -> list[workers.Curve]:
    """The curve of `all_at_once` with all logits at once, and the curves of the others with parts of them."""
    found = [workers.KINDS[all_at_once.kind](all_at_once)]
    use_parts()
    found += [workers.KINDS[case.kind](case) for case in cases]
    destroy_groups()
    return found


case = partial(Case, "held_out", model=workers.gpt2_model(), train=TRAIN, optimizer=OPTIMIZER, num_steps=2)
TWO_RANKS = [
    Layout(dp=2),
    Layout(dp=2, zero_stage=3),
    Layout(tp=2),
    Layout(tp=2, sp=True),
    Layout(cp=2),
    Layout(pp=2),
    Layout(pp=2, vpp=2, schedule="zbv"),
]
FOUR_RANKS = [Layout(tp=2, pp=2, sp=True, vpp=2, schedule=each) for each in ("interleaved_zb", "zbv")]


@pytest.mark.parametrize("layouts", [TWO_RANKS, pytest.param(FOUR_RANKS, marks=pytest.mark.long)], ids=["two", "four"])
def test_every_kind_of_layout_has_the_curve_of_all_logits_at_once(layouts: list[Layout], ranks: RunOnRanks) -> None:
    """With a tied embedding, a batch of which some targets are ignored, and evaluations between steps."""
    all_at_once = case(layout=Layout(dp=layouts[0].world_size))
    per_rank = ranks(layouts[0].world_size, curves_in_parts, all_at_once, [case(layout=each) for each in layouts])
    (steps, losses), *others = per_rank[0]
    for layout, (other_steps, other_losses) in zip(layouts, others, strict=True):
        assert workers.max_difference(other_steps, steps) < 1e-5, layout
        assert other_losses == pytest.approx(losses, rel=1e-6), layout


def probe_in_parts(config: Config, layout: Layout, num_steps: int) -> Curve:
    use_parts()
    return probe(config, layout, num_steps)


def probe_with_wrong_gradient(config: Config, layout: Layout, num_steps: int) -> Curve:
    """The gradient of the weight is that of a head without the multiplier of muP, which is 1/2 here."""
    backward = loss_in_parts._Gradients.backward

    def wrong(ctx: Any, gradient_N: Tensor) -> Any:
        of_input, of_weight, *rest = backward(ctx, gradient_N)
        assert of_weight is not None
        return of_input, 2 * of_weight, *rest

    loss_in_parts._Gradients.backward = staticmethod(wrong)  # type: ignore[method-assign]
    return probe_in_parts(config, layout, num_steps)


@pytest.mark.parametrize("is_tied", [False, pytest.param(True, marks=pytest.mark.long)], ids=["own head", "tied"])
def test_mup_has_the_curve_of_the_reference(is_tied: bool, ranks: RunOnRanks) -> None:
    mup = MupConfig(parametrization="mup", base=BaseConfig(d_model=16))
    config = Config(model=replace(MODEL, tie_embeddings=is_tied), train=TRAIN, optimizer=OPTIMIZER, mup=mup)
    expected = reference(config, "float32", 3)
    layout = Layout(tp=2, sp=True)
    curve = ranks(2, probe_in_parts, config, layout, 3)[0]
    assert curve.losses == pytest.approx(expected.losses, rel=1e-6)
    assert curve.grad_norms == pytest.approx(expected.grad_norms, rel=1e-5)
    wrong = ranks(2, probe_with_wrong_gradient, config, layout, 3)[0]
    assert wrong.grad_norms != pytest.approx(expected.grad_norms, rel=1e-3), "a wrong gradient would be seen"


def losses_both_ways(layout: Layout) -> tuple[list[float], list[float]]:
    """The losses of the samples of a batch, from parts and from logits that a measure gets, around a step."""
    use_parts()
    engine = workers.make_engine(layout, MODEL, TRAIN, OPTIMIZER)
    tokens, targets = workers.batch(0, MODEL, TRAIN)
    engine.train_step(tokens, targets)
    parts, _ = engine.eval_step(tokens, targets)
    of_logits = engine.measure([partial(cross_entropy, tp=TensorParallel.of(engine.groups))], tokens, targets)[0]
    again, _ = engine.eval_step(tokens, targets)
    assert torch.equal(parts, again)
    destroy_groups()
    return parts.tolist(), of_logits.tolist()


@pytest.mark.parametrize("layout", [Layout(pp=2), pytest.param(Layout(tp=2), marks=pytest.mark.long)], ids=str)
def test_measures_of_an_evaluation_still_get_logits(layout: Layout, ranks: RunOnRanks) -> None:
    for parts, of_logits in ranks(2, losses_both_ways, layout):
        assert parts == pytest.approx(of_logits, rel=1e-6)
