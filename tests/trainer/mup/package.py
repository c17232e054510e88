"""The values that the `mup` package and our tables assign to the parameters of a plain GPT, and both trained.

The package (microsoft/mup 1.0.0) is an argument, `mup`, because it may be missing. It uses the same form as our tables,
Tensor Programs V (arXiv 2203.03466), table 8: the readout's 1/m is a multiplier, and its learning rate that of an
embedding. So entries are compared one by one, without products of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.configs.schema import Config, ModelConfig
from foretrain.parallel.loss import IGNORE
from foretrain.trainer.model import init
from foretrain.trainer.model.resize import resized
from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.model.table import param_table
from foretrain.trainer.mup.parametrize import base_model, blueprint, scaled_table
from foretrain.trainer.mup.table import Parametrization
from foretrain.trainer.optimizers.param_groups import build_optimizer
from foretrain.trainer.verification.probe import make_batch
from tests.trainer.mup.torch_gpt import GPT

Entries = dict[tuple[str, str], float]
"""By parameter and quantity (std, multiplier, and lr and decay under adamw and sgd): what multiplies the base's."""
HEAD = "head.weight"
KINDS = ("adamw", "sgd")


def at_base(config: Config) -> Config:
    """The config of its base model."""
    return replace(config, model=base_model(config.model, config.mup.base))


def plain(mup: Any, model: ModelConfig, **settings: Any) -> GPT:
    """The model in plain torch, with the package's readouts."""
    return GPT(model, mup.MuReadout, shared_readout=mup.MuSharedReadout, **settings)


def shaped(
    mup: Any, config: Config, *, delta: ModelConfig | None = None, do_assert: bool = True, **settings: Any
) -> GPT:
    """The model of `plain`, with the base's shape set by the package's set_base_shapes.

    The package takes the sizes that differ between the base and `delta` for widths; None: the base twice as wide.
    """
    base = at_base(config).model
    theirs = plain(mup, config.model, **settings)
    other = plain(mup, delta or resized(base, 2 * base.d_model), **settings)
    mup.set_base_shapes(theirs, plain(mup, base, **settings), delta=other, do_assert=do_assert)
    return theirs


def of_package(mup: Any, config: Config, **settings: Any) -> Entries:
    """The values that the package assigns to the config's model."""
    model = shaped(mup, config, **settings)
    names = {parameter: name for name, parameter in model.named_parameters()}
    entries: Entries = {}
    for kind, optimizer in zip(KINDS, (mup.MuAdamW, mup.MuSGD), strict=True):
        for group in optimizer(model.parameters(), lr=1.0, weight_decay=1.0).param_groups:
            for parameter in group["params"]:
                entries[names[parameter], f"{kind} lr"] = group["lr"]
                entries[names[parameter], f"{kind} decay"] = group["weight_decay"]
    x, weight = torch.ones(config.model.d_model), model.get_parameter(HEAD)
    entries[HEAD, "multiplier"] = (model.head(x).norm() / F.linear(x, weight).norm()).item()
    for name, parameter in model.named_parameters():
        entries[name, "std"] = drawn_std(mup, parameter)
        entries.setdefault((name, "multiplier"), 1.0)
    return entries


def of_tables(config: Config, table: Parametrization | None = None) -> Entries:
    """The values that our tables assign to the config's model; `table` is that of `scaled_table`."""
    standard = {param.name: param.std for param in param_table(config.model)}
    entries: Entries = {}
    for kind in KINDS:
        for row in scaled_table(replace(config, optimizer=replace(config.optimizer, kind=kind)), table):
            name = row.param.name
            entries[name, f"{kind} lr"] = row.param.scale.lr
            entries[name, f"{kind} decay"] = row.param.scale.weight_decay
            # Constants, standard deviation 0, start at the same value at every width, in the package too.
            entries[name, "std"] = row.param.std / standard[name] if standard[name] else 1.0
            entries[name, "multiplier"] = row.param.multiplier
    if config.model.tie_embeddings:
        entries[HEAD, "multiplier"] = blueprint(config, table).multipliers.head
    return entries


def differing(one: Entries, other: Entries) -> set[tuple[str, str]]:
    """The entries that differ by more than rounding in fp32."""
    common = one.keys() & other.keys()
    return (one.keys() ^ other.keys()) | {key for key in common if abs(one[key] / other[key] - 1) > 1e-6}


def drawn_std(mup: Any, parameter: Tensor) -> float:
    """The factor that the package applies to a normal draw of std 1 for this parameter.

    The draw stays in `parameter`.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        mup.init.normal_(parameter)
        torch.manual_seed(0)
        return (parameter.norm() / torch.empty_like(parameter).normal_().norm()).item()


def package_model(mup: Any, config: Config, **settings: Any) -> GPT:
    """The plain GPT with the package's initial weights: our draws, with standard deviations that the package scales."""
    model = shaped(mup, config, **settings)
    for param in param_table(config.model):
        parameter = model.get_parameter(param.name)
        scale = drawn_std(mup, parameter)
        init.fill(parameter.data, param, config.train.seed, slice(0, param.shape[0]))
        parameter.data *= scale if param.std else 1.0
    return model


def package_optimizer(mup: Any, config: Config, model: GPT) -> torch.optim.Optimizer:
    """The package's optimizer, with the user's part: gains and biases do not decay."""
    settings = config.optimizer
    groups = [
        {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer
    if settings.kind == "sgd":
        optimizer = mup.MuSGD(groups, lr=settings.lr, momentum=settings.beta1)
    else:
        betas = settings.beta1, settings.beta2
        optimizer = mup.MuAdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps)
    return optimizer


def our_model(mup: Any, config: Config) -> GPT:
    """The plain GPT with our initial weights and multipliers: the package's readout has the head's."""
    model = shaped(mup, config, attention=blueprint(config).multipliers.attention)
    for row in scaled_table(config):
        init.fill(model.get_parameter(row.param.name).data, row.param, config.train.seed, slice(0, row.param.shape[0]))
    return model


def our_optimizer(config: Config, model: GPT) -> torch.optim.Optimizer:
    """Our optimizer of the plain GPT's parameters."""
    shards = [
        ParamShard.of(row.param, model.get_parameter(row.param.name), slice(None)) for row in scaled_table(config)
    ]
    return build_optimizer(shards, config.optimizer)


def losses(model: nn.Module, optimizer: torch.optim.Optimizer, config: Config, num_steps: int) -> list[float]:
    """Losses of the steps that `foretrain.trainer.verification.reference` takes."""
    torch.set_num_threads(1)
    found = []
    for step in range(num_steps):
        assert config.model.vocab_size is not None
        tokens, targets = make_batch(
            step, config.model.vocab_size, config.train.global_batch_size, config.model.seq_len
        )
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@dataclass(frozen=True)
class Moved:
    """A tensor of the forward pass, on one batch, before and after training."""

    size: float
    """Root mean square at first."""
    change: float
    """Root mean square of the change."""

    def __truediv__(self, other: "Moved") -> "Moved":
        return Moved(self.size / other.size, self.change / other.change)


See = Callable[[Mapping[str, Tensor]], Tensor]
"""A function from the outputs of modules, by name, to the tensor that is compared."""


def moved_by_package(mup: Any, config: Config, num_steps: int, see: See, **settings: Any) -> Moved:
    """The ratio to the base model, of the initial size and of the change, if the package trains both."""

    def at(config: Config) -> Moved:
        model = package_model(mup, config, **settings)
        return _moved(model, package_optimizer(mup, config, model), config, num_steps, see)

    return at(config) / at(at_base(config))


def moved_by_tables(mup: Any, config: Config, num_steps: int, see: See) -> Moved:
    """The same as `moved_by_package` with our initial weights, multipliers and optimizer."""

    def at(config: Config) -> Moved:
        model = our_model(mup, config)
        return _moved(model, our_optimizer(config, model), config, num_steps, see)

    return at(config) / at(at_base(config))


def _moved(model: GPT, optimizer: torch.optim.Optimizer, config: Config, num_steps: int, see: See) -> Moved:
    assert config.model.vocab_size is not None
    tokens, _ = make_batch(0, config.model.vocab_size, config.train.global_batch_size, config.model.seq_len)
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output.detach()))

    def look() -> Tensor:
        model(tokens)
        return see(seen)

    before = look()
    losses(model, optimizer, config, num_steps)
    return Moved(before.square().mean().sqrt().item(), (look() - before).square().mean().sqrt().item())
