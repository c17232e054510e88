"""A changed environment of this process, for as long as a block runs."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def changed_environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Set these variables for the block; None removes one. Afterwards the environment is what it was before."""
    before = dict(os.environ)
    for name in changes:
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in changes.items() if value is not None})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
