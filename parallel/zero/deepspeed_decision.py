"""The decision between DeepSpeed's gradient norm and its update.

DeepSpeed's optimizers take the norm inside of their step, and leave the update out themselves if the norm is not
finite. Here the norm is taken before the step, which then uses it, and DeepSpeed's own way to leave an update out is
used for every update that is not wanted.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor


class Decision(ABC):
    """The norm of DeepSpeed's reduced gradients, and whether its next step updates the parameters."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    @abstractmethod
    def grad_norm(self) -> Tensor:
        """The global L2 norm, a scalar; infinite if a gradient is not finite."""

    @abstractmethod
    def _known_norm(self) -> Mapping[str, Any]:
        """Attributes with which the step uses the norm that was taken."""

    @abstractmethod
    def _overflow(self) -> Mapping[str, Any]:
        """Attributes with which the step drops the gradients, as after an overflow of fp16."""

    @contextmanager
    def made(self, *, is_applied: bool) -> Iterator[None]:
        """A block in which the optimizer's step applies the update, or drops the gradients."""
        replaced = self._known_norm() if is_applied else self._overflow()
        before = {name: vars(self._optimizer)[name] for name in replaced if name in vars(self._optimizer)}
        for name, value in replaced.items():
            setattr(self._optimizer, name, value)
        try:
            yield
        finally:
            for name in replaced:
                delattr(self._optimizer, name)
            for name, value in before.items():
                setattr(self._optimizer, name, value)

    def _set_overflow(self, *_: object, **__: object) -> None:
        self._optimizer.overflow = True


class Stage3Decision(Decision):
    """The decision of DeepSpeed's ZeRO 3."""

    def grad_norm(self) -> Tensor:
        from deepspeed.runtime.utils import combine_grad_norm_groups

        self._groups = self._optimizer._get_norm_groups()
        norm: Tensor = combine_grad_norm_groups(self._groups)
        return norm

    def _known_norm(self) -> Mapping[str, Any]:
        return {"_get_norm_groups": lambda: self._groups}

    def _overflow(self) -> Mapping[str, Any]:
        return {"_overflow_check_and_loss_scale_update": self._set_overflow}


class OffloadDecision(Decision):
    """The decision of DeepSpeed's ZeRO 1 and 2 with states in host memory."""

    def grad_norm(self) -> Tensor:
        self._optimizer._wait_for_offload_copies()
        self._norm: Tensor = self._optimizer.scaled_global_norm()
        return self._norm

    def _known_norm(self) -> Mapping[str, Any]:
        return {"scaled_global_norm": lambda norm_type=2: self._norm}

    def _overflow(self) -> Mapping[str, Any]:
        return {"check_grad_overflow": True, "check_overflow": self._set_overflow}


def decision_of(optimizer: Any) -> Decision:
    """The decision of one of DeepSpeed's two optimizers of ZeRO."""
    return Stage3Decision(optimizer) if hasattr(optimizer, "_get_norm_groups") else OffloadDecision(optimizer)
