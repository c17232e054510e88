"""Where in the project, and where in a library, something was called."""

import sys
import sysconfig
from types import FrameType

from foretrain.scaling.fake_cuda.record import Site

_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
_PLUMBING = (
    "contextlib",
    "foretrain.scaling.fake_cuda",
    "functools",
    "typing_extensions",
    "torch._compile",
    "torch._dynamo",
    "torch._ops",
    "torch._subclasses",
    "torch._tensor",
    "torch.utils._",
    "torch.distributed.c10d_logger",
    "torch.distributed.distributed_c10d",
    "deepspeed.comm",
    "deepspeed.utils.nvtx",
)
"""Beginnings of the names of modules that every call goes through; they say nothing."""


def call_site() -> Site:
    """The innermost place in a library, and the innermost place in this project, a plugin or a program."""
    theirs = ""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(_PLUMBING):
            if not frame.f_code.co_filename.startswith((*_LIBRARIES, "<")):
                return Site(_text(frame, name), theirs)
            theirs = theirs or _text(frame, name)
        frame = frame.f_back
    return Site("", theirs)


def _text(frame: FrameType, module: str) -> str:
    return f"{module}:{frame.f_lineno} {frame.f_code.co_name}"
