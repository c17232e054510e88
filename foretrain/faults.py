"""Faults that pass: of a network, a server or a file system. A job that meets one is started again."""

import errno

PASSING_ERRNOS = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENOLINK, errno.ENOTCONN, errno.ESHUTDOWN),
        *(errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)
"""Errors of the operating system that another attempt, minutes later or on another node, may not meet. A full disk and
missing rights are not among them: someone must change something."""
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


class PassingError(OSError):
    """What stands for a fault that passes on the ranks that did not meet it."""

    is_passing = True


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or the one that it was raised from, is that a disk or a quota has no room.

    A class of errors says so by an attribute `is_full`; an OSError by its number.
    """
    return _has_cause(error, "is_full", _FULL_ERRNOS)


def is_passing(error: BaseException | None) -> bool:
    """Whether an error, or the one that it was raised from, is a fault that passes.

    A class of errors says so by an attribute `is_passing`; an OSError by its number.
    """
    return _has_cause(error, "is_passing", PASSING_ERRNOS)


def _has_cause(error: BaseException | None, attribute: str, numbers: frozenset[int]) -> bool:
    while error is not None:
        if getattr(error, attribute, False) or (isinstance(error, OSError) and error.errno in numbers):
            return True
        error = error.__cause__
    return False
