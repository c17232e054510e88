"""What ranks run in tests of parallelism: a few steps of a small model on random tokens."""

import torch

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.parallel.engine import Engine, StepResult
from foretrain.parallel.groups import destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.parallel.loss import IGNORE
from foretrain.trainer.build import build_engine
from foretrain.trainer.probe import make_positions


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


def make_engine(
    layout: Layout,
    model: ModelConfig,
    train: TrainConfig,
    optimizer: OptimizerConfig,
    parallel: ParallelConfig | None = None,
) -> Engine:
    """Join the world and build the model on this rank; of `parallel`, only what is not in the layout counts."""
    torch.set_num_threads(1)
    groups = init_groups(layout, "cpu", timeout_s=60.0)
    config = Config(model=model, train=train, optimizer=optimizer, parallel=parallel or ParallelConfig())
    engine, _ = build_engine(config, groups)
    return engine


def curve(
    layout: Layout,
    model: ModelConfig,
    train: TrainConfig,
    optimizer: OptimizerConfig,
    num_steps: int,
    parallel: ParallelConfig | None = None,
) -> list[StepResult]:
    """Loss and gradient norm of each step."""
    engine = make_engine(layout, model, train, optimizer, parallel)
    share = train.global_batch_size // layout.dp
    rows = slice(engine.groups.at.dp * share, (engine.groups.at.dp + 1) * share)
    results = []
    for step in range(num_steps):
        tokens, targets = batch(step, model, train)
        engine.set_lr(1.0)
        results.append(engine.train_step(tokens[rows], targets[rows]))
    destroy_groups()
    return results


def curve_of_documents(
    layout: Layout, model: ModelConfig, train: TrainConfig, optimizer: OptimizerConfig, num_steps: int
) -> tuple[list[StepResult], list[float]]:
    """Each step, and the loss of an unseen batch before it, of samples that hold made-up documents."""
    engine = make_engine(layout, model, train, optimizer)
    share = train.global_batch_size // layout.dp
    rows = slice(engine.groups.at.dp * share, (engine.groups.at.dp + 1) * share)

    def mine(step: int) -> list[torch.Tensor]:
        positions = make_positions(step, train.global_batch_size, model.seq_len)
        return [part[rows] for part in (*batch(step, model, train), positions)]

    results, losses = [], []
    engine.set_lr(1.0)
    for step in range(num_steps):
        total, count = engine.eval_step(*mine(100 + step))
        losses.append(total / count)
        results.append(engine.train_step(*mine(step)))
    destroy_groups()
    return results, losses


def held_out(layout: Layout, model: ModelConfig, train: TrainConfig, optimizer: OptimizerConfig) -> list[float]:
    """Loss of an unseen batch before, between and after two steps: evaluation and training take turns."""
    engine = make_engine(layout, model, train, optimizer)
    share = train.global_batch_size // layout.dp
    rows = slice(engine.groups.at.dp * share, (engine.groups.at.dp + 1) * share)
    losses = []
    for step in range(3):
        if step > 0:
            tokens, targets = batch(step, model, train)
            engine.train_step(tokens[rows], targets[rows])
        tokens, targets = batch(100, model, train)
        total, count = engine.eval_step(tokens[rows], targets[rows])
        losses.append(total / count)
    destroy_groups()
    return losses
