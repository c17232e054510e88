"""What ranks run in tests of parallelism: a few steps of a small model on random tokens."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.parallel.engine import Engine, StepResult
from foretrain.parallel.groups import destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.parallel.loss import IGNORE
from foretrain.trainer.build import build_engine
from foretrain.trainer.verification.probe import make_positions


def small_model(**changes: object) -> ModelConfig:
    """A model that every tested layout divides, with grouped queries and a vocabulary that tp must pad."""
    sizes = {"num_layers": 4, "d_model": 32, "num_heads": 4, "num_kv_heads": 2, "d_ff": 64, "vocab_size": 61}
    return ModelConfig(**(sizes | {"seq_len": 16, "init_std": 0.1} | changes))  # type: ignore[arg-type]


def gpt2_model() -> ModelConfig:
    """What `small_model` is not: tied, with biases and learned positions, and layers that stages do not divide."""
    return small_model(
        num_layers=5,
        num_kv_heads=None,
        norm="layernorm",
        position="learned",
        activation="gelu_tanh",
        bias=True,
        tie_embeddings=True,
        qk_norm=True,
    )


def max_difference(a: list[StepResult], b: list[StepResult]) -> float:
    """Largest relative difference of any step's loss or gradient norm."""
    losses = [abs(x.loss - y.loss) / abs(y.loss) for x, y in zip(a, b, strict=True)]
    return max(losses + [abs(x.grad_norm - y.grad_norm) / y.grad_norm for x, y in zip(a, b, strict=True)])


def batch(step: int, model: ModelConfig, train: TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """A global batch in which samples carry unequal numbers of valid tokens."""
    assert model.vocab_size
    generator = torch.Generator().manual_seed(1000 + step)
    shape = (train.global_batch_size, model.seq_len)
    tokens = torch.randint(model.vocab_size, shape, generator=generator)
    targets = (tokens * 7 + 3) % model.vocab_size
    for sample in range(train.global_batch_size):
        targets[sample, : sample % (model.seq_len - 2)] = IGNORE
    return tokens, targets


@dataclass(frozen=True)
class Case:
    """A few steps of a model under a layout. Of `parallel`, only what is not in the layout counts."""

    kind: Literal["steps", "documents", "held_out"]
    layout: Layout
    model: ModelConfig
    train: TrainConfig
    optimizer: OptimizerConfig
    num_steps: int = 6
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


Curve = tuple[list[StepResult], list[float]]
"""Each step, and the losses of unseen batches: before each step of documents, and around each step of held_out."""


def curves(cases: Sequence[Case]) -> list[Curve | str]:
    """The curve of each case, or the traceback of its error. All layouts must have as many ranks as there are."""
    found: list[Curve | str] = []
    for case in cases:
        try:
            found.append(KINDS[case.kind](case))
        except Exception:  # noqa: BLE001 (the test of this case reports it)
            found.append(traceback.format_exc())
    destroy_groups()
    return found


def make_engine(
    layout: Layout,
    model: ModelConfig,
    train: TrainConfig,
    optimizer: OptimizerConfig,
    parallel: ParallelConfig | None = None,
) -> Engine:
    """The engine of this rank, after its process groups; see Case."""
    torch.set_num_threads(1)
    groups = init_groups(layout, "cpu", timeout_s=60.0)
    config = Config(model=model, train=train, optimizer=optimizer, parallel=parallel or ParallelConfig())
    return build_engine(config, groups)[0]


def _engine(case: Case) -> tuple[Engine, slice]:
    """The engine, and this rank's samples of a global batch."""
    engine = make_engine(case.layout, case.model, case.train, case.optimizer, case.parallel)
    engine.set_lr(1.0)
    return engine, engine.groups.share.samples(case.train.global_batch_size)


def _steps(case: Case) -> Curve:
    engine, share = _engine(case)
    batches = [batch(step, case.model, case.train) for step in range(case.num_steps)]
    return [engine.train_step(tokens[share], targets[share]) for tokens, targets in batches], []


def _documents(case: Case) -> Curve:
    """Samples hold made-up documents."""
    engine, share = _engine(case)

    def local(step: int) -> list[torch.Tensor]:
        positions = make_positions(step, case.train.global_batch_size, case.model.seq_len)
        return [part[share] for part in (*batch(step, case.model, case.train), positions)]

    results, losses = [], []
    for step in range(case.num_steps):
        total, count = engine.eval_step(*local(100 + step))
        losses.append(float(total.sum() / count.sum()))
        results.append(engine.train_step(*local(step)))
    return results, losses


def _held_out(case: Case) -> Curve:
    """Evaluation and training alternate."""
    engine, share = _engine(case)
    results, losses = [], []
    for step in range(case.num_steps + 1):
        if step > 0:
            tokens, targets = batch(step, case.model, case.train)
            results.append(engine.train_step(tokens[share], targets[share]))
        tokens, targets = batch(100, case.model, case.train)
        total, count = engine.eval_step(tokens[share], targets[share])
        losses.append(float(total.sum() / count.sum()))
    return results, losses


KINDS: dict[str, Callable[[Case], Curve]] = {"steps": _steps, "documents": _documents, "held_out": _held_out}
