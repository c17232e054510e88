"""Ranks that agree pass the check, and each planted difference is reported with its rank and its parameter."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from foretrain.configs.data import DataConfig
from foretrain.configs.load import config_hash
from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.data_pipeline.stream.batches import Prefetcher
from foretrain.launcher.local.run import RankError
from foretrain.parallel.engine import Engine
from foretrain.parallel.groups import destroy_groups, init_groups
from foretrain.trainer.consistency.check import InconsistentRanksError, local_bits, shared_settings
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.model import init
from foretrain.trainer.model.spec import Param
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import Run, prepare_run
from foretrain.trainer.trainer import Trainer
from tests.conftest import RunOnRanks

SAMPLES = 12
NUM_STEPS = 3


def config(run_dir: Path, corpus: Path, parallel: ParallelConfig, **train: Any) -> Config:
    model = ModelConfig(
        num_layers=4,
        d_model=32,
        num_heads=2,
        d_ff=64,
        seq_len=16,
        tie_embeddings=True,
        norm="layernorm",
        bias=True,
        position="learned",
        qk_norm=True,
    )
    settings = {
        "num_tokens": NUM_STEPS * SAMPLES * model.seq_len,
        "global_batch_size": SAMPLES,
        "check_every": 1,
        "eval_samples": 0,
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


def with_long(names: Iterable[str], quick: list[str]) -> list[Any]:
    """The names as parameters of a test; those that are not in `quick` belong to the long suite."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.long) for name in names]


# ---- faults: each is a context in which one rank is not like the others ----


def tensor_of(trainer: Trainer, name: str) -> torch.Tensor:
    (local,) = (local for local in trainer.consistency.compared_shards.values() if local.param.name == name)
    return local_bits(local, trainer.groups.replicas.rank()).data.view(-1)


@contextmanager
def one_element(trainer: Trainer, name: str) -> Iterator[None]:
    """The last bit of one element."""
    element = tensor_of(trainer, name)[7:8]
    bits = element.view({torch.float32: torch.int32, torch.bfloat16: torch.int16}[element.dtype])
    bits ^= 1
    yield
    bits ^= 1


@contextmanager
def two_swapped(trainer: Trainer, name: str) -> Iterator[None]:
    values = tensor_of(trainer, name)
    values[[3, 5]] = values[[5, 3]]
    yield
    values[[3, 5]] = values[[5, 3]]


@contextmanager
def learning_rate(trainer: Trainer, name: str) -> Iterator[None]:
    (group,) = (group for group in trainer.engine.zero.optimizer.param_groups if group["name"] == name)
    lr, group["lr"] = group["lr"], 0.5
    yield
    group["lr"] = lr


@contextmanager
def setting(trainer: Trainer, name: str) -> Iterator[None]:
    value, trainer.consistency.settings[name] = trainer.consistency.settings[name], "other"
    yield
    trainer.consistency.settings[name] = value


Fault = tuple[int, Callable[[Trainer, str], Any], str]
"""On that rank, this, of that."""


def messages(run: Run, faults: list[Fault]) -> list[str]:
    """Train, checked at the start and after every step; then what the check says while each fault is there."""
    groups = init_groups(run.layout, "cpu", timeout_s=60.0)
    trainer = Trainer(run, groups)
    trainer.fit()
    reported = []
    for rank, plant, name in faults:
        if groups.rank == rank:
            with plant(trainer, name):
                reported.append(message(trainer))
        else:
            reported.append(message(trainer))
        trainer.consistency.check(NUM_STEPS, NUM_STEPS * SAMPLES)
    destroy_groups()
    return reported


def message(trainer: Trainer) -> str:
    try:
        trainer.consistency.check(NUM_STEPS, NUM_STEPS * SAMPLES)
    except InconsistentRanksError as error:
        return str(error)
    return "no rank differs"


def findings_on_ranks(ranks: RunOnRanks, config: Config, faults: list[Fault]) -> list[str]:
    """The indented lines of each message, without names of nodes."""
    run = prepare_run(config)
    reported = ranks(run.layout.world_size, messages, run, faults)
    assert all(other == reported[0] for other in reported), "ranks raise different errors"
    lines = []
    for text in reported[0]:
        lines.append("; ".join(line.strip() for line in text.splitlines() if line.startswith("  ")))
        assert "equal after step 3: resume from a checkpoint of that step or an earlier one" in text, text
    return [line.partition(" (node ")[0] + line.partition(")")[2] if "(node" in line else line for line in lines]


SOUND = {
    "one rank": ParallelConfig(),
    "zero 0": ParallelConfig(dp=2, zero_stage=0),
    "zero 2": ParallelConfig(dp=2, zero_stage=2),
    "zero 3": ParallelConfig(dp=2, zero_stage=3),
    "sp": ParallelConfig(tp=2, sp=True),
    "zero 3 with padded shards": ParallelConfig(dp=3, tp=2, zero_stage=3),
    "cp": ParallelConfig(cp=2),
    "tied ends that sum in different orders": ParallelConfig(dp=4, pp=2),
    "virtual stages": ParallelConfig(pp=2, vpp=2, schedule="interleaved_1f1b"),
}


@pytest.mark.parametrize("name", with_long(SOUND, quick=["virtual stages"]))
def test_a_sound_run_passes_every_check(name: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    assert findings_on_ranks(ranks, config(tmp_path, corpus, SOUND[name]), []) == []


GAIN, QUERY, EMBEDDING = "blocks.0.attn_norm.weight", "blocks.0.attn.q.weight", "embed.weight"
FAULTS: dict[str, tuple[ParallelConfig, dict[str, Any], list[tuple[Fault, str]]]] = {
    "dp": (
        ParallelConfig(dp=3),
        {},
        [
            ((1, one_element, QUERY), f"rank 1: {QUERY}"),
            ((0, one_element, "position.weight"), "rank 0: position.weight"),
            ((2, two_swapped, "blocks.3.mlp.down.weight"), "rank 2: blocks.3.mlp.down.weight"),
            (
                (2, learning_rate, "lr x1, eps x1, no decay"),
                "rank 2: learning rate of lr x1, eps x1, no decay = 0.5 (most have 0.001)",
            ),
            ((0, setting, "data fingerprint"), "rank 0: data fingerprint = other (most have {fingerprint})"),
            ((1, setting, "config hash"), "rank 1: config hash = other (most have {config})"),
        ],
    ),
    "tp": (
        ParallelConfig(dp=2, tp=2),
        {"precision": "bf16"},
        [
            ((3, one_element, GAIN), f"rank 3: {GAIN}"),
            ((0, one_element, "blocks.2.attn.q_norm.weight"), "rank 0: blocks.2.attn.q_norm.weight"),
            # What tp cuts is on two ranks only, and either may be at fault.
            ((2, one_element, QUERY), f"ranks 0, 2, with no majority: {QUERY}[tp=0]"),
        ],
    ),
    "pp tied": (
        ParallelConfig(dp=2, pp=2),
        {},
        [((2, one_element, EMBEDDING), f"rank 2: {EMBEDDING}"), ((1, one_element, EMBEDDING), f"rank 1: {EMBEDDING}")],
    ),
    "tp of zero 3": (
        ParallelConfig(dp=2, tp=2, zero_stage=3),
        {},
        [((1, one_element, GAIN), f"ranks 0, 1, with no majority: {GAIN}[shard=0]")],
    ),
}


@pytest.mark.parametrize("name", with_long(FAULTS, quick=["tp"]))
def test_a_planted_difference_is_reported_with_its_rank_and_what_differs(
    name: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    parallel, train, faults = FAULTS[name]
    settings = config(tmp_path, corpus, parallel, **train)
    reported = findings_on_ranks(ranks, settings, [fault for fault, _ in faults])
    run = prepare_run(settings)
    shared = shared_settings(run.config)
    fingerprints = f"{run.data.fingerprint} {run.data.mixture_fingerprint}"
    words = {"config": config_hash(shared), "fingerprint": fingerprints}
    assert reported == [expected.format(**words) for _, expected in faults]


# ---- when the loop checks ----


def faulty_run(run: Run, fault: str, rank: int) -> None:
    """A run of which one rank is at fault from the start, or from step 2 on."""
    if int(os.environ["RANK"]) == rank:
        globals()[fault]()
    train_rank(run)


def start_otherwise() -> None:
    fill = init.fill

    def fill_otherwise(out: torch.Tensor, param: Param, *law: Any) -> None:
        fill(out, param, *law)
        out += float(param.name == GAIN)

    init.fill = fill_otherwise  # type: ignore[assignment]


def repeat_a_batch() -> None:
    take = Prefetcher.__next__

    def take_again(self: Prefetcher) -> Any:
        batch = take(self)
        self.samples_consumed -= SAMPLES * (self.samples_consumed == 2 * SAMPLES)
        return batch

    Prefetcher.__next__ = take_again  # type: ignore[method-assign]


def flip_a_bit() -> None:
    train_step = Engine.train_step
    done = count(1)

    def train_and_flip(self: Engine, *batch: torch.Tensor, **options: Any) -> Any:
        result = train_step(self, *batch, **options)
        if next(done) == 2:
            self.zero.await_weights()
            weight = self.stages[0].get_parameter("blocks.1.mlp_norm.weight")
            bits = weight.data.view(torch.int32)
            bits[0] ^= 1
        return result

    Engine.train_step = train_and_flip  # type: ignore[method-assign,assignment]


def change_a_moment() -> None:
    train_step = Engine.train_step
    done = count(1)

    def train_and_change(self: Engine, *batch: torch.Tensor, **options: Any) -> Any:
        result = train_step(self, *batch, **options)
        if next(done) == 2:
            weight = self.stages[0].get_parameter("blocks.1.mlp_norm.weight")
            bits = self.zero.get(weight, "exp_avg").view(torch.int32)
            bits[0] ^= 1 << 29  # a lower bit may be lost when the weight is rounded
        return result

    Engine.train_step = train_and_change  # type: ignore[method-assign,assignment]


# DeepSpeed sends the first dp rank's weights to the others when it starts, so a bad start is seen over tp.
ASTRAY = [
    (start_otherwise, ParallelConfig(tp=2), 0, f"ranks 0, 1, with no majority: {GAIN}\nThey differ from the start"),
    (repeat_a_batch, ParallelConfig(dp=3), 2, r"rank 1 .*: samples consumed = 12 \(most have 24\)\nThey were equal"),
    (
        change_a_moment,
        ParallelConfig(dp=3, zero_stage=0),
        3,
        "rank 1 .*: blocks.1.mlp_norm.weight\nThey were equal after step 2",
    ),
    (flip_a_bit, ParallelConfig(dp=3), 2, "rank 1 .*: blocks.1.mlp_norm.weight\nThey were equal after step 1"),
]


@pytest.mark.long
@pytest.mark.parametrize(("fault", "parallel", "step", "finding"), ASTRAY, ids=[fault.__name__ for fault, *_ in ASTRAY])
def test_a_run_ends_at_the_first_check_after_a_rank_went_astray(
    fault: Callable[[], None],
    parallel: ParallelConfig,
    step: int,
    finding: str,
    tmp_path: Path,
    corpus: Path,
    ranks: RunOnRanks,
) -> None:
    run = prepare_run(config(tmp_path, corpus, parallel))
    with pytest.raises(RankError, match=f"after step {step}, .*\n  {finding}"):
        ranks(run.layout.world_size, faulty_run, run, fault.__name__, 1)


@pytest.mark.parametrize(("check_every", "steps_done"), [(3, 3), pytest.param(0, NUM_STEPS, marks=pytest.mark.long)])
def test_a_run_checks_as_often_as_check_every_says(
    check_every: int, steps_done: int, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    run = prepare_run(config(tmp_path, corpus, ParallelConfig(dp=3), check_every=check_every))
    with pytest.raises(RankError, match="after step 3") if check_every else nullcontext():
        ranks(3, faulty_run, run, repeat_a_batch.__name__, 1)
    records = read_metrics(tmp_path / METRICS_FILE)
    assert [record["step"] for record in records] == list(range(1, steps_done + 1))
