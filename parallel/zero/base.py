"""What an engine of data parallelism does for a training step, whichever engine it is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foretrain.configs.schema import Config
from foretrain.parallel.groups import Groups
from foretrain.parallel.placement import Fill


@dataclass(frozen=True)
class Piece:
    """What a rank keeps of the fp32 state of a module's parameter: a range of the flattened parameter."""

    start: int
    """The first element of the parameter that it holds."""
    states: Mapping[str, Tensor]
    """For "weight" and each of the moments, a flat tensor whose memory is the state itself; all have the same size."""

    @property
    def stop(self) -> int:
        """The element after the last one that it holds."""
        return self.start + len(self.states["weight"])


class Zero(ABC):
    """A module and its optimizer under data parallelism, and access to the fp32 state of each parameter.

    Attributes: `module` is called for the forward pass, and `optimizer` has the parameter groups whose learning rates
    the schedule sets. `moments` are the names of the fp32 tensors that the optimizer keeps for each parameter.
    `divisor` is what the engine divides gradients by when it sums them over the replicas: a loss must be multiplied by
    it before its backward pass.

    A step is `start_step`, the backward passes of all micro-batches, `reduce_gradients`, `squared_grad_norm`, and
    `update` or `skip_update`.
    """

    divisor: float

    def __init__(
        self,
        groups: Groups,
        stages: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        moments: Sequence[str],
        config: Config,
        fill: Fill,
        tied: Sequence[nn.Parameter] = (),
    ) -> None:
        """`fill` gives initial values. `tied` are the parameters that another pipeline rank holds too."""
        self.groups, self.optimizer, self.moments = groups, optimizer, tuple(moments)
        self.module: nn.Module = nn.ModuleList(stages) if groups.layout.pp > 1 else stages[0]
        self.tied = tuple(parameter for parameter in tied if parameter.requires_grad)
        """Their gradients are summed over `groups.embedding`."""
        self.build(stages, config, fill)
        self.init_moments()

    @abstractmethod
    def build(self, stages: Sequence[nn.Module], config: Config, fill: Fill) -> None:
        """Place the stages' parameters on the device and fill them, and set `divisor` and what else the engine has.

        Called once, when the engine is made. Afterwards the optimizer has the tensors that it updates.
        """

    @abstractmethod
    def start_step(self) -> None:
        """Begin a step, before its first backward pass."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Backward pass of one micro-batch; without a pipeline only, which does its own."""

    @abstractmethod
    def accumulate_assigned(self, parameters: Iterable[nn.Parameter]) -> None:
        """Accumulate gradients that were assigned to `grad`, as zero-bubble schedules do, and not by autograd."""

    @abstractmethod
    def reduce_gradients(self) -> None:
        """Reduce what the backward passes have not reduced yet."""

    @abstractmethod
    def squared_grad_norm(self) -> Tensor:
        """This rank's part of the squared L2 norm of the reduced gradients, a float64 scalar on the device.

        The sum over all ranks is the square of the global norm. It is not finite if a gradient is not. Before `update`
        or `skip_update`, the host must wait for it.
        """

    @abstractmethod
    def update(self, norm: float) -> None:
        """Clip the reduced gradients, whose global norm is `norm`, and update the parameters."""

    @abstractmethod
    def skip_update(self) -> None:
        """Drop the reduced gradients: weights, moments and the number of the optimizer's steps stay as they are."""

    # ---- a rank's own gradients, for replays ----

    @abstractmethod
    def start_trial(self) -> None:
        """Begin a step whose gradients are not reduced, and change nothing: its backward passes, then `end_trial`."""

    @abstractmethod
    def end_trial(self) -> None:
        """Forget the gradients of the trial."""

    @abstractmethod
    def observe_gradients(self, observer: Callable[[Tensor], None] | None) -> None:
        """Call `observer` with each part of this rank's own gradients, in a fixed order, in trials and in steps.

        It must not change them. A part is the sum over all micro-batches for some parameters, or under ZeRO 2 and 3 the
        gradient of one micro-batch. None: observe no more.
        """

    @abstractmethod
    def await_weights(self) -> None:
        """Wait until the module's parameters are those of the last update; its forward pass does so by itself."""

    @abstractmethod
    def destroy(self) -> None:
        """Give the memory of parameters and optimizer back. The engine cannot be used any more."""

    # ---- a rank's own state, for checkpoints ----

    @abstractmethod
    def piece(self, parameter: nn.Parameter) -> Piece | None:
        """What this rank keeps of the state of a module's parameter, on any device; None if it keeps none of it.

        The pieces of all replicas are the complete parameter. They do not overlap, or are all complete.
        """

    @abstractmethod
    def take_pieces(self) -> None:
        """After the pieces were overwritten: make the weights of the modules equal to them. Every rank must call it."""

    # ---- full state; all ranks of the dp group must call these together ----

    @abstractmethod
    def get(self, parameter: nn.Parameter, key: str) -> Tensor:
        """The fp32 "weight", or one of `moments`, of a module's parameter: all of this tp rank's shard."""

    @abstractmethod
    def set(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        """Overwrite what `get` returns."""

    def set_step(self, step: int) -> None:
        """Set the number of steps that the optimizer has done, for its bias correction."""
        for tensor in self.updated_tensors():
            self.optimizer.state[tensor]["step"].fill_(step)

    def init_moments(self) -> None:
        """Make the state that the optimizer would make at its first step, so that a checkpoint can fill it before."""
        # Fused kernels read the number of steps where they run; otherwise torch wants it in host memory.
        on_device = self.optimizer.defaults.get("fused") or self.optimizer.defaults.get("capturable")
        for tensor in self.updated_tensors():
            step = torch.zeros((), device=tensor.device if on_device else "cpu")
            moments = {key: torch.zeros_like(tensor, memory_format=torch.preserve_format) for key in self.moments}
            self.optimizer.state[tensor] = {"step": step, **moments}

    def updated_tensors(self) -> list[Tensor]:
        """The tensors that the optimizer updates: parameters, or the parts of them that this rank owns."""
        return [tensor for group in self.optimizer.param_groups for tensor in group["params"]]


def free(tensors: Iterable[object]) -> None:
    """Give the memory of those that are tensors back, whoever still refers to them."""
    for tensor in tensors:
        if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()).resizable():
            storage.resize_(0)  # a plugin's tensor may be memory of something else, which cannot be resized
