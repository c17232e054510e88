"""What compiled code must leave as it is: functions that communicate, or whose shapes change from step to step."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., object])


class Wrap(Protocol):
    """Returns a function that computes the same as another one."""

    def __call__(self, function: Function, /) -> Function: ...


def as_it_is(function: Function) -> Function:
    """`function` itself, where nothing is compiled."""
    return function


def outside_graphs(function: Function) -> Function:
    """`function`, which compiled code calls as it is: one of its graphs ends before the call, another begins after it.

    Nothing that it calls is compiled either. Imports torch's compiler, which takes two seconds.
    """
    return torch.compiler.disable(function, reason="it communicates, or its shapes change from step to step")
