"""What ranks run in tests of parallelism: a few steps of a small model on random tokens."""

import torch

from configs.schema import ModelConfig, OptimizerConfig, TrainConfig
from parallel import groups as parallel_groups
from parallel.engine import Engine, StepResult
from parallel.layout import Layout
from parallel.tensor import IGNORE, TensorParallel
from trainer.model.gpt import build_stages
from trainer.optim import build_optimizer


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


def make_engine(layout: Layout, model: ModelConfig, train: TrainConfig, optimizer: OptimizerConfig) -> Engine:
    """Join the world and build the model on this rank."""
    torch.set_num_threads(1)
    groups = parallel_groups.start(layout, "cpu", timeout_s=60.0)
    tp = TensorParallel.of(groups)
    stages = build_stages(model, layout, groups.at.pp, tp, train.seed)
    local_params = [local for stage in stages for local in stage.local_params()]
    tied = [local.parameter for local in local_params if model.tie_embeddings and local.param.name == "embed.weight"]
    return Engine(
        groups,
        stages,
        tp.cross_entropy,
        build_optimizer(local_params, optimizer),
        train,
        optimizer.clip_norm,
        tied=tied,
    )


def curve(
    layout: Layout, model: ModelConfig, train: TrainConfig, optimizer: OptimizerConfig, num_steps: int
) -> list[StepResult]:
    """Loss and gradient norm of each step."""
    engine = make_engine(layout, model, train, optimizer)
    share = train.global_batch_size // layout.dp
    rows = slice(engine.groups.at.dp * share, (engine.groups.at.dp + 1) * share)
    results = []
    for step in range(num_steps):
        tokens, targets = batch(step, model, train)
        engine.set_lr(1.0)
        results.append(engine.train_step(tokens[rows], targets[rows]))
    parallel_groups.stop()
    return results
