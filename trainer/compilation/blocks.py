"""Blocks that are computed by one compiled function."""

from collections.abc import Iterable
from types import MethodType

import torch

from foretrain.parallel.layout import Layout
from foretrain.trainer.compilation.machine import check_machine
from foretrain.trainer.model.block import Block
from foretrain.trainer.model.gpt import Stage


def compile_blocks(stages: Iterable[Stage], layout: Layout) -> None:
    """Compile what all blocks of `stages` compute, when the first of them is called.

    Their parameters are inputs of the compiled function, so that blocks of one kind share it. Hooks of the blocks,
    which wait for weights, run before it and are no part of it. Raises ValueError if this machine cannot compile.
    """
    check_machine()
    from torch._inductor import config as inductor

    # Compiled headers would be in a folder of /tmp whose name everybody knows, wherever the compiled code is. They save
    # less than the time in which they are compiled. torch reads its variable for this when it is imported: too early.
    inductor.cpp_cache_precompile_headers = False
    if layout.splits_backward:
        from torch._functorch import config as functorch

        # The same backward function is called for the gradients of inputs, and again for those of weights: it must not
        # use the memory of what it has saved for its results.
        functorch.donated_buffer = False
    forward = torch.compile(Block.forward)
    for stage in stages:
        for block in stage.blocks.values():
            block.forward = MethodType(forward, block)
