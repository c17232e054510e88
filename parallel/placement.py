"""When modules get memory: they are made without, and an engine then places their parameters and fills them.

So no rank ever holds more of a model than the engine leaves it with.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

Fill = Callable[[nn.Parameter, Tensor, int], object]
"""fill(parameter, out, start) writes the initial values of a parameter, as one flat sequence from `start` on, to `out`.

`out` is one-dimensional, of any type and on any device.
"""

Module = TypeVar("Module", bound=nn.Module)


def without_memory(module: Module) -> Module:
    """The module, whose parameters keep their shapes and give their memory back: all of them read as NaN."""
    for parameter in module.parameters():
        # A tensor on "meta" could not become one on another device without becoming another parameter.
        parameter.data = torch.full((1,), torch.nan, dtype=parameter.dtype).expand(parameter.shape)
    return module


@torch.no_grad()
def allocate(parameters: Iterable[nn.Parameter], fill: Fill, device: torch.device, dtype: torch.dtype) -> None:
    """Give parameters memory on `device`, and their initial values."""
    for parameter in parameters:
        data = torch.empty(parameter.shape, dtype=dtype, device=device)
        fill(parameter, data.view(-1), 0)
        parameter.data = data
