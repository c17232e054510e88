"""A step that is computed again finds the rank that computes wrongly, and changes nothing in a sound run."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from foretrain.configs.data import DataConfig
from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.launcher.local.run import RankError
from foretrain.parallel.engine import Engine
from foretrain.parallel.exchanges import Channel, Exchanges
from foretrain.parallel.layout import Layout
from foretrain.trainer.consistency.verdict import (
    FIRST_SHIFTS,
    deciding_shifts,
    has_difference,
    rank_with_samples,
    verdict,
)
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.model.feed_forward.dense_module import DenseModule
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import Run, prepare_run
from tests.conftest import RunOnRanks

SAMPLES = 12
NUM_STEPS = 4


# ---- the verdict: pure ----

LAYOUTS = st.builds(
    lambda dp, tp, cp, pp: Layout(dp=dp, tp=tp, cp=cp, pp=pp),
    st.integers(1, 6),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
)


def replayed(layout: Layout, shifts: list[int], computed: Callable[[int, int], int]) -> list[list[int]]:
    """The checksums of each round: `computed(rank, source)` is what `rank` gets from the samples of `source`."""
    return [
        [computed(rank, rank_with_samples(layout, rank, shift)) for rank in range(layout.world_size)]
        for shift in shifts
    ]


def all_rounds(layout: Layout) -> list[int]:
    return [*FIRST_SHIFTS, *deciding_shifts(layout.dp)]


@given(LAYOUTS)
def test_ranks_that_compute_the_same_have_no_difference(layout: Layout) -> None:
    words = replayed(layout, all_rounds(layout), lambda rank, source: source)
    assert not has_difference(layout, all_rounds(layout), words)
    assert verdict(layout, all_rounds(layout), words, ["n"] * layout.world_size) == []


@given(LAYOUTS.filter(lambda layout: layout.dp >= 2), st.data())
def test_a_rank_that_always_computes_wrongly_differs_in_the_first_rounds(layout: Layout, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, layout.world_size - 1))
    words = replayed(layout, list(FIRST_SHIFTS), lambda rank, source: source - 1000 * (rank == bad))
    assert has_difference(layout, FIRST_SHIFTS, words)


@given(LAYOUTS.filter(lambda layout: layout.dp >= 3), st.data())
def test_of_three_replicas_the_rank_that_always_computes_wrongly_is_named_alone(
    layout: Layout, data: st.DataObject
) -> None:
    bad = data.draw(st.integers(0, layout.world_size - 1))
    words = replayed(layout, all_rounds(layout), lambda rank, source: source - 1000 * (rank == bad))
    (line,) = verdict(layout, all_rounds(layout), words, [f"n{rank}" for rank in range(layout.world_size)])
    assert line.startswith(f"rank {bad} (node n{bad}): ")


@given(LAYOUTS.filter(lambda layout: layout.dp == 2), st.data())
def test_of_two_replicas_that_each_repeat_their_values_both_are_named(layout: Layout, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, layout.world_size - 1))
    other = rank_with_samples(layout, bad, 1)
    words = replayed(layout, all_rounds(layout), lambda rank, source: source - 1000 * (rank == bad))
    (line,) = verdict(layout, all_rounds(layout), words, ["n"] * layout.world_size)
    assert line.startswith(f"ranks {min(bad, other)}, {max(bad, other)}, with no majority: ")


@given(LAYOUTS, st.data())
def test_a_wrong_value_that_comes_once_is_found_and_its_rank_named_alone(layout: Layout, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, layout.world_size - 1))
    at_round = data.draw(st.sampled_from([0, 1]))
    words = replayed(layout, all_rounds(layout), lambda rank, source: source)
    words[at_round][bad] -= 1000
    assert has_difference(layout, all_rounds(layout), words)
    lines = verdict(layout, all_rounds(layout), words, ["n"] * layout.world_size)
    assert [line.partition(" (")[0] for line in lines] == [f"rank {bad}"]


# ---- runs ----


def config(run_dir: Path, corpus: Path, parallel: ParallelConfig, **train: Any) -> Config:
    model = ModelConfig(num_layers=4, d_model=32, num_heads=2, d_ff=64, seq_len=16, tie_embeddings=True)
    settings = {
        "num_tokens": NUM_STEPS * SAMPLES * model.seq_len,
        "global_batch_size": SAMPLES,
        "micro_batch_size": 2,
        "eval_samples": 0,
        "replay_every": 2,
        **train,
    }
    return Config(
        run_dir=str(run_dir),
        model=model,
        data=DataConfig(path=str(corpus)),
        parallel=parallel,
        optimizer=OptimizerConfig(lr=1e-2),
        train=TrainConfig(**settings),
    )


class OneBit(torch.autograd.Function):
    """The identity, whose gradient has the lowest bit of its first element flipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        wrong = gradients[0].clone()
        wrong.view(torch.int32).view(-1)[0] ^= 1
        return wrong


def train_with_a_wrong_rank(run: Run, rank: int, only: str) -> None:
    """Train, while one rank computes its gradients wrongly: "always", "step" for steps and not for replays, or "once",
    in the second round of the first replay."""
    if int(os.environ["RANK"]) == rank:
        spoil(only)
    train_rank(run)


def spoil(only: str) -> None:
    """Make the backward passes of this process wrong by one bit, where they enter a feed-forward layer."""
    in_step, num_tries = [False], [0]
    train_step, try_step = Engine.train_step, Engine.try_step

    def train(self: Engine, *batch: Any, **options: Any) -> Any:
        in_step[0] = True
        try:
            return train_step(self, *batch, **options)
        finally:
            in_step[0] = False

    def count(self: Engine, *batch: Any) -> None:
        num_tries[0] += 1
        try_step(self, *batch)

    def flip(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        if not isinstance(module, DenseModule) or not output.requires_grad:
            return None
        is_wrong = {"always": True, "step": in_step[0], "once": not in_step[0] and num_tries[0] == 2}[only]
        return OneBit.apply(output) if is_wrong else None

    Engine.train_step = train  # type: ignore[method-assign]
    Engine.try_step = count  # type: ignore[method-assign,assignment]
    register_module_forward_hook(flip)  # type: ignore[arg-type]  # torch's type has no result


def losses(run_dir: Path) -> list[tuple[float, float]]:
    return [(record["loss"], record["grad_norm"]) for record in read_metrics(run_dir / METRICS_FILE)]


LAYOUTS_OF_RUNS = {
    "one rank": ParallelConfig(),
    "zero 0": ParallelConfig(dp=2, zero_stage=0),
    "zero 1": ParallelConfig(dp=3),
    "zero 2": ParallelConfig(dp=2, zero_stage=2),
    "zero 3": ParallelConfig(dp=2, zero_stage=3),
    "zero 3, masters in host memory": ParallelConfig(dp=2, zero_stage=3, offload_optimizer=True),
    "zero 3, tp": ParallelConfig(dp=2, tp=2, zero_stage=3),
    "zero 3, one rank": ParallelConfig(zero_stage=3),
    "masters in host memory": ParallelConfig(dp=2, offload_optimizer=True),
    "tp": ParallelConfig(dp=2, tp=2, sp=True),
    "cp": ParallelConfig(dp=2, cp=2),
    "pp tied": ParallelConfig(dp=2, pp=2),
    "zero bubble": ParallelConfig(dp=2, pp=2, vpp=2, schedule="zbv"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "zero 1" else pytest.mark.long) for name in LAYOUTS_OF_RUNS]
)
def test_replays_find_no_fault_in_a_sound_run_and_leave_its_curve_to_the_bit(
    name: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    micro_batch_size = 1 if name == "zero bubble" else 2
    for folder, every in (("with", 1), ("without", 0)):
        settings = {"replay_every": every, "micro_batch_size": micro_batch_size}
        run = prepare_run(config(tmp_path / folder, corpus, LAYOUTS_OF_RUNS[name], **settings))
        ranks(run.layout.world_size, train_rank, run)
    assert len(losses(tmp_path / "with")) == NUM_STEPS
    assert losses(tmp_path / "with") == losses(tmp_path / "without")


def exchanges_of(run: Run) -> list[Channel]:
    """Train, and return what this rank has noted of its exchanges with other ranks."""
    noted: list[Exchanges] = []
    make = Exchanges.__init__

    def keep(self: Exchanges, **options: Any) -> None:
        make(self, **options)
        noted.append(self)

    Exchanges.__init__ = keep  # type: ignore[method-assign]
    train_rank(run)
    (exchanges,) = noted
    return exchanges.channels


@pytest.mark.long
def test_both_ranks_note_each_exchange_of_samples_so_that_a_hang_names_it(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    found = ranks(3, exchanges_of, prepare_run(config(tmp_path, corpus, ParallelConfig(dp=3))))
    ends = Counter((channel.key, channel.count) for channels in found for channel in channels)
    # In each of two replays, a rank computes the gradients of the next replica too.
    pairs = [("rank 1", "rank 0"), ("rank 2", "rank 1"), ("rank 0", "rank 2")]
    assert ends == {(("samples of a replay", *pair), 2): 2 for pair in pairs}
    assert all(channel.awaited == 0 for channels in found for channel in channels)


SPOILED = {
    "always, of three": (ParallelConfig(dp=3), "always", 1, r"rank 1 \(node .*\): gradients of the samples of rank"),
    "always, of two": (ParallelConfig(dp=2, zero_stage=2), "always", 1, "ranks 0, 1, with no majority: gradients"),
    "always, of three under zero 3": (
        ParallelConfig(dp=3, zero_stage=3),
        "always",
        1,
        r"rank 1 \(node .*\): gradients of the samples of rank",
    ),
    "once, of two": (ParallelConfig(dp=2), "once", 1, r"rank 1 \(node .*\): differs from its own repetition"),
    "in the step only under zero 3": (
        ParallelConfig(dp=2, zero_stage=3),
        "step",
        1,
        r"rank 1 \(node .*\): the step differs from its own",
    ),
    "in the step only": (ParallelConfig(dp=3), "step", 2, r"rank 2 \(node .*\): the step differs from its own"),
    "in the step of one process": (ParallelConfig(), "step", 0, r"rank 0 \(node .*\): the step differs from its own"),
    # The backward pass hands the wrong value on to the stage before, which is on rank 1.
    "in a pipeline": (
        ParallelConfig(dp=3, pp=2),
        "always",
        4,
        r"rank 1 \(node .*\): .*\n  rank 4 \(node .*\): gradients",
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "always, of three" else pytest.mark.long) for name in SPOILED]
)
def test_one_wrong_bit_in_a_gradient_ends_the_run_at_the_next_replay_and_names_the_rank(
    name: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    parallel, only, rank, finding = SPOILED[name]
    run = prepare_run(config(tmp_path, corpus, parallel))
    with pytest.raises(RankError, match=rf"step 2, computed again, .*\n  {finding}"):
        ranks(run.layout.world_size, train_with_a_wrong_rank, run, rank, only)
