"""Imports DeepSpeed and megatron-core, without torch's compiler. Import it before them.

megatron-core decorates functions with torch.compile when it is imported, and decorating imports the compiler: two of
the ten CPU seconds that a rank takes to import everything. The project calls none of these functions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Have torch.compile return functions as they are."""
    original = torch.compile
    torch.compile = _unchanged  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = original


def _unchanged(function: Any = None, **_: Any) -> Any:
    return function if function is not None else _unchanged


with _without_compiler():
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401  # DeepSpeed imports it for each engine
    import megatron.core.parallel_state
    import megatron.core.tensor_parallel  # noqa: F401
