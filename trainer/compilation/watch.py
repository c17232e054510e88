"""What this process compiles: how many functions, for how long, how many of them it found, and where it gave up."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from foretrain.trainer.goodput.clock import Clock

_GIVES_UP = "torch._dynamo hit config."
"""How the message begins in which torch says that it compiles a function no more."""


@dataclass
class Compiled:
    """What was compiled in the block of `watching`."""

    seconds: float = 0.0
    num_functions: int = 0
    """Functions, forward and backward ones, that were compiled or found."""
    num_found: int = 0
    """Those of them that an earlier start has left in its folder."""
    given_up: str = ""
    """A function that has been compiled so often that torch compiles it no more, and why it must be; "" if none."""


@contextmanager
def watching(spent: Clock) -> Iterator[Compiled]:
    """A block in which `spent` counts the time of compiling for "compile", and all that is compiled is added up."""
    from torch._dynamo.callback import callback_handler

    watch = _Watch(spent)
    gives_up = logging.getLogger("torch._dynamo.convert_frame")
    callback_handler.register_start_callback(watch.note_start)
    callback_handler.register_end_callback(watch.note_end)
    gives_up.addFilter(watch.keep_note)
    try:
        yield watch.compiled
    finally:
        gives_up.removeFilter(watch.keep_note)
        callback_handler.remove_end_callback(watch.note_end)
        callback_handler.remove_start_callback(watch.note_start)


class _Watch:
    def __init__(self, spent: Clock) -> None:
        self.compiled = Compiled()
        self._spent, self._compiling = spent, ExitStack()
        self._found, self._made = _counts()

    def note_start(self, _: Any) -> None:
        """Called when torch begins to compile. Functions that it compiles for this one are not called for again."""
        self._since_s = self._spent.read().get("compile", 0.0)
        self._compiling.enter_context(self._spent.within("compile"))

    def note_end(self, _: Any) -> None:
        self._compiling.close()
        self.compiled.seconds += self._spent.read().get("compile", 0.0) - self._since_s
        found, made = _counts()
        self.compiled.num_found += found - self._found
        self.compiled.num_functions += found - self._found + made - self._made
        self._found, self._made = found, made

    def keep_note(self, record: logging.LogRecord) -> bool:
        """Take the message that torch gives up, which the run reports itself, out of the log."""
        message = record.getMessage()
        if not message.startswith(_GIVES_UP):
            return True
        lines = [line.strip() for line in message.splitlines()]
        self.compiled.given_up = ", ".join(line for line in lines if line.startswith(("function:", "last reason:")))
        return False


def _counts() -> tuple[int, int]:
    """Functions that torch has found in its folder, and that it has compiled, since this process started."""
    from torch._dynamo.utils import counters

    inductor = counters["inductor"]
    return inductor["fxgraph_cache_hit"], inductor["fxgraph_cache_miss"] + inductor["fxgraph_cache_bypass"]
