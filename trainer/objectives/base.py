"""What an objective is, and the registry of objectives. Imports no torch.

Shape letters: B samples, L positions of a sample, V this rank's part of the vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from foretrain.configs.schema import Config
from foretrain.data_pipeline.stream.batch import Batch, IntArray
from foretrain.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from foretrain.parallel.tensor import TensorParallel


class Objective(ABC):
    """Inputs, targets, kind of attention and loss of a sample.

    What it makes of a sample depends on the config and the sample's global number alone, never on the rank or the step,
    so that every layout, and a resumed run, sees the same. Every rank of a run makes one.
    """

    is_causal: ClassVar[bool] = True
    """Whether a position attends to itself and earlier positions only; if not, it attends to all of its sample."""
    options: ClassVar[Mapping[str, float]] = {}
    """Settings of its own, `objective.options.NAME`, with their defaults."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.settings = {**self.options, **config.objective.options}
        """Every option, with the config's value."""

    @abstractmethod
    def inputs_and_targets(self, batch: Batch) -> tuple[IntArray, IntArray]:
        """The tokens that the model sees and those that it must give, (B, L) both.

        A position whose target is IGNORE carries no loss. `batch.targets_BL` are the tokens that follow in the data.
        """

    def token_losses(self, logits_LBV: "Tensor", targets_BL: "Tensor", tp: "TensorParallel") -> "Tensor":
        """Loss of each position (L, B) in nats, 0 where the target is IGNORE: the cross entropy of the target.

        The loss of a step is the mean over the positions of the global batch whose target is not IGNORE.
        """
        from foretrain.parallel.loss import cross_entropy

        return cross_entropy(logits_LBV, targets_BL, tp)

    @classmethod
    def has_own_loss(cls) -> bool:
        """Whether it overrides `token_losses`, which then gets all logits of a micro-batch at once."""
        return cls.token_losses is not Objective.token_losses

    @classmethod
    def keeps_targets(cls) -> bool:
        """Whether the targets are always those of the data. If the data have no padding, each of them carries a loss,
        and ranks need not count together how many do."""
        return False

    def tensors(self, batch: Batch) -> tuple["Tensor", "Tensor", "Tensor | None"]:
        """Inputs, targets and positions of a batch, as the engine takes them; in the batch's own memory if possible."""
        import torch

        inputs_BL, targets_BL = self.inputs_and_targets(batch)
        positions = None if batch.positions_BL is None else torch.from_numpy(batch.positions_BL)
        return torch.from_numpy(inputs_BL), torch.from_numpy(targets_BL), positions


OBJECTIVES: Registry[type[Objective]] = Registry("objective", "objective.kind")


def objective_of(config: Config) -> type[Objective]:
    """The objective that a config names.

    Raises ValueError, with what to change, for an unknown kind or option, and for settings that need causal attention.
    """
    objective = OBJECTIVES.get(config.objective.kind)
    for name in config.objective.options:
        if name not in objective.options:
            known = f"it takes {', '.join(objective.options)}" if objective.options else "it takes none"
            raise ValueError(
                f"objective.options.{name}: the objective '{config.objective.kind}' has no such option: {known}"
            )
    if not objective.is_causal:
        _check_not_causal(config)
    return objective


def _check_not_causal(config: Config) -> None:
    both_ways = f"objective.kind = {config.objective.kind} attends to later positions too"
    if config.data.packing != "windows":
        raise ValueError(
            f"{both_ways}, and data.packing = {config.data.packing} keeps attention causal inside documents: set "
            "data.packing=windows, or use another objective"
        )
    if config.train.eval_tasks:
        raise ValueError(f"{both_ways}, and cannot answer problems: remove train.eval_tasks, or use another objective")
    if config.sample.prompts:
        raise ValueError(f"{both_ways}, and cannot continue a text: remove sample.prompts, or use another objective")
