"""Whether this process only looks at a config, which may come from someone else, and so must start nothing of it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Inspection:
    """A command that only looks."""

    what: str
    """What looks, for messages, such as "--dry-run"."""
    typed: tuple[str, ...]
    """The texts that the user has typed: what they name may be started all the same."""

    def allows(self, text: str) -> bool:
        """Whether the user has typed `text`."""
        return any(text in each for each in self.typed)

    def allows_setting(self, key: str) -> bool:
        """Whether the user has typed the value of a setting, as an override `KEY=VALUE`."""
        return any(each.partition("=")[0].strip() == key for each in self.typed)


_inspection: ContextVar[Inspection | None] = ContextVar("_inspection", default=None)


def current() -> Inspection | None:
    """What only looks now; None if a config may start what it names."""
    return _inspection.get()


@contextmanager
def only_looking(what: str, typed: Iterable[str] = ()) -> Iterator[None]:
    """Let nothing that a config names be started inside the block, unless it is part of one of `typed`."""
    token = _inspection.set(Inspection(what, tuple(typed)))
    try:
        yield
    finally:
        _inspection.reset(token)
