"""What tests need and may be missing: they are then skipped, or fail where nothing may be skipped."""

import os
from typing import NoReturn

import pytest

VARIABLE = "FORETRAIN_REQUIRE_ALL"
"""Set, in CI, it makes a missing tool a failure."""


def not_here(why: str) -> NoReturn:
    """Skip the test, or fail it, and say why."""
    if os.environ.get(VARIABLE):
        pytest.fail(why)
    pytest.skip(why)
