"""What the project must know about an optimizer, and the registry of optimizers. Imports no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from foretrain.configs.optimization import OptimizerConfig
from foretrain.parallel.layout import Layout, LayoutError
from foretrain.registry import Registry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class OptimizerEntry:
    """An optimizer as a config names it."""

    make: Callable[[list[dict[str, Any]], OptimizerConfig], "torch.optim.Optimizer"]
    """Returns the optimizer of torch's parameter groups. It imports torch when it is called, not before."""
    states: tuple[str, ...]
    """Names of the fp32 tensors that it keeps for each parameter, of the parameter's shape and 0 at first. Checkpoints
    save them. Beside them the state has `step`, a scalar tensor: the number of steps done."""
    step_degree: float | None
    """A step is proportional to lr * gradient^step_degree: 0 for Adam, whose steps are as large as lr whatever the
    gradient, 1 for SGD. Every parametrization derives its learning rates from it. None: not known, and then only
    `mup.parametrization = standard` is accepted."""
    uses_eps: bool = False
    """Whether it reads `eps` of its parameter groups, which grows with the gradient's entries under muP."""
    needs_matrices: bool = False
    """Whether it works on matrices as the model has them. ZeRO 1 to 3 and tensor parallelism hand out parts of them."""
    options: Mapping[str, float] = field(default_factory=dict)
    """Settings of its own, `optimizer.options.NAME`, with their defaults."""

    def build(self, groups: list[dict[str, Any]], config: OptimizerConfig) -> "torch.optim.Optimizer":
        """The optimizer of torch's parameter groups, with every option filled in."""
        return self.make(groups, replace(config, options={**self.options, **config.options}))


OPTIMIZERS: Registry[OptimizerEntry] = Registry("optimizer", "optimizer.kind")


def entry_of(config: OptimizerConfig) -> OptimizerEntry:
    """The entry that a config names. Raises ValueError for an unknown kind, and for an option that it does not have."""
    entry = OPTIMIZERS.get(config.kind)
    for name in config.options:
        if name not in entry.options:
            known = f"it takes {', '.join(entry.options)}" if entry.options else "it takes none"
            raise ValueError(f"optimizer.options.{name}: the optimizer '{config.kind}' has no such option: {known}")
    return entry


def check_layout(config: OptimizerConfig, layout: Layout) -> None:
    """Raise LayoutError, with what to change, if the optimizer cannot work on what `layout` leaves of a matrix."""
    if not entry_of(config).needs_matrices:
        return
    needed = {"parallel.tp": (layout.tp, 1), "parallel.zero_stage": (layout.zero_stage, 0)}
    wrong = {key: values for key, values in needed.items() if values[0] != values[1]}
    if wrong:
        found = " and ".join(f"{key} = {value}" for key, (value, _) in wrong.items())
        fixed = " and ".join(f"{key}={value}" for key, (_, value) in wrong.items())
        raise LayoutError(
            f"{found}: the optimizer.kind '{config.kind}' needs each matrix in one piece: set {fixed}, or use another "
            "optimizer"
        )
