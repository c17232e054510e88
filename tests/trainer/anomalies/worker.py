"""What ranks run in the tests of updates that are not applied."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, ParallelConfig, TrainConfig
from foretrain.parallel.engine import Engine, StepResult
from foretrain.parallel.groups import Groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer.build import build_engine
from foretrain.trainer.state import ModelState
from tests.parallel.workers import batch, small_model

TRAIN = TrainConfig(global_batch_size=4, micro_batch_size=1)
State = dict[str, Tensor]


def never(loss: float, grad_norm: float) -> bool:
    """Accept no update."""
    return False


def steps_left_out(parallel: ParallelConfig, ways: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each way, steps on the batches 0 to 3, of which that on batch 1 is dropped, beside steps on 0, 2 and 3.

    `ways`: "refused" by every rank's decision, or "nan" or "large" in the gradients of the last rank alone.
    """
    torch.set_num_threads(1)
    groups = init_groups(Layout.from_config(parallel), "cpu", timeout_s=60.0)
    engine, _ = _engine(groups, parallel)
    expected = [_step(engine, number) for number in (0, 2, 3)]
    engine.zero.destroy()
    return {how: _step_left_out(groups, parallel, how) | {"expected": expected} for how in ways}


def _step_left_out(groups: Groups, parallel: ParallelConfig, how: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    engine, state = _engine(groups, parallel)
    found["before"] = [_step(engine, 0)]
    kept = _copy(state)
    if how == "refused":
        found["dropped"] = _step(engine, 1, accepts=never)
    else:
        is_planted = groups.rank == groups.layout.world_size - 1
        handles = [_spoil(stage, how) for stage in engine.stages] if is_planted else []
        found["dropped"] = _step(engine, 1, accepts=lambda loss, norm: norm < 100)
        for handle in handles:
            handle.remove()
    found["is_unchanged"] = all(torch.equal(kept[name], value) for name, value in _copy(state).items())
    found["after"] = [_step(engine, number) for number in (2, 3)]
    engine.zero.destroy()
    return found


def _engine(groups: Groups, parallel: ParallelConfig) -> tuple[Engine, ModelState]:
    config = Config(model=small_model(), train=TRAIN, optimizer=OptimizerConfig(lr=1e-2), parallel=parallel)
    engine, state = build_engine(config, groups)
    engine.set_lr(1.0)
    return engine, state


def _step(engine: Engine, number: int, **options: Any) -> StepResult:
    share = engine.groups.share.samples(TRAIN.global_batch_size)
    tokens, targets = batch(number, small_model(), TRAIN)
    return engine.train_step(tokens[share], targets[share], **options)


def _copy(state: ModelState) -> State:
    """This rank's part of all states, and the steps of its optimizer."""
    copied = {f"{key} {shard.param.name}": value.clone() for key in state.keys for shard, value in state.items(key)}
    zero = state.zero
    steps = {f"step {i}": zero.optimizer.state[each]["step"].clone() for i, each in enumerate(zero.updated_tensors())}
    return copied | steps


def _spoil(stage: nn.Module, how: str) -> Any:
    """Multiply the gradient of a stage's output by NaN, or by a million."""
    factor = float("nan") if how == "nan" else 1e6

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.register_hook(lambda gradient: factor * gradient)

    return stage.register_forward_hook(hook)
