"""What ranks run in the tests of compiled blocks: steps and evaluations, and what torch compiles for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from foretrain.parallel import context
from foretrain.parallel.compiled import as_it_is
from foretrain.parallel.engine import StepResult
from foretrain.parallel.groups import destroy_groups
from foretrain.parallel.loss import IGNORE
from foretrain.registry import import_plugins
from foretrain.trainer.model.block import Block
from foretrain.trainer.verification.probe import make_positions
from tests.parallel import workers
from tests.parallel.workers import Case

Planted = Literal["", "segments in graphs", "a constant of each block"]


@dataclass(frozen=True)
class Found:
    """The results of a case."""

    steps: list[StepResult]
    held_out: list[float]
    num_first: int
    """Graphs after the first step and the first evaluation."""
    num_graphs: int
    """Graphs at the end."""


def compiled(cases: Sequence[Case], backend: str, planted: Planted = "", plugins: Sequence[str] = ()) -> list[Found]:
    """What each case gives, in which a compiler that makes no machine code, such as "aot_eager", may compile.

    A function that is compiled again and again is an error here.
    """
    import torch._dynamo

    torch.compile = partial(torch.compile, backend=backend)
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    _plant(planted)
    import_plugins(plugins)
    found = []
    for case in cases:
        torch._dynamo.reset()
        found.append(_run(case))
    destroy_groups()
    return found


def _run(case: Case) -> Found:
    from torch._dynamo.utils import counters

    counters.clear()
    engine = workers.make_engine(case.layout, case.model, case.train, case.optimizer, case.parallel)
    engine.set_lr(1.0)
    share = engine.groups.share.samples(case.train.global_batch_size)
    found = Found([], [], 0, 0)

    def local(step: int) -> list[torch.Tensor]:
        parts = list(workers.batch(step, case.model, case.train))
        parts[1][0, : 1 + step % 7] = IGNORE  # so that the scale of the loss differs from step to step
        if case.kind == "documents":
            parts.append(make_positions(step, case.train.global_batch_size, case.model.seq_len))
        return [part[share] for part in parts]

    num_first = 0
    for step in range(case.num_steps):
        found.steps.append(engine.train_step(*local(step)))
        total, count = engine.eval_step(*local(100 + step))
        found.held_out.append(float(total.sum() / count.sum()))
        num_first = num_first or counters["stats"]["unique_graphs"]
    engine.zero.destroy()
    return Found(found.steps, found.held_out, num_first, counters["stats"]["unique_graphs"])


def _plant(planted: Planted) -> None:
    if planted == "segments in graphs":
        context.outside_graphs = as_it_is
        torch._dynamo.config.recompile_limit = 3  # enough to see that it is reached
    elif planted == "a constant of each block":
        initialize = Block.__init__

        def with_constant(self: Block, blueprint: object, number: int, *rest: object) -> None:
            initialize(self, blueprint, number, *rest)  # type: ignore[arg-type]
            self._residual = 1 + 2**-30 * number

        Block.__init__ = with_constant  # type: ignore[assignment,method-assign]
