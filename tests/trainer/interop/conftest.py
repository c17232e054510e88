"""Fixtures for the tests of trainer/interop."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_waits_for_the_disk() -> Iterator[None]:
    """No file of these tests must survive a power cut, and a busy disk needs seconds for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
