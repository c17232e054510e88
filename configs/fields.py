"""`setting`: a field of the schema, with what the rest of the project must know about it besides its default."""

from collections.abc import Callable
from dataclasses import MISSING, field
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
def setting(default: T, *, changes_curve: bool = True, since: str | None = None) -> T: ...
@overload
def setting(*, default_factory: Callable[[], T], changes_curve: bool = True, since: str | None = None) -> T: ...
def setting(
    default: Any = MISSING, *, default_factory: Any = MISSING, changes_curve: bool = True, since: str | None = None
) -> Any:
    """A dataclass field. A section passes on what is said of it to all its settings.

    `changes_curve`: whether another value gives another loss curve. If it does, a run cannot be resumed with another
    value, and the trials of a sweep with different values are different trials.

    `since`: the version that added the setting, None for the first release. While such a setting has its default, it is
    left out of a config's hash: the hashes of runs and the names of trials from before that version stay valid.
    """
    metadata = {"changes_curve": changes_curve, "since": since}
    return field(default=default, default_factory=default_factory, metadata=metadata)
