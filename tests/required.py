"""Tools that tests need. If one is missing, the test is skipped, or fails if nothing may be skipped."""

import os
from typing import NoReturn

import pytest

VARIABLE = "FORETRAIN_REQUIRE_ALL"
"""The variable that, if it is set as in CI, makes a missing tool a failure."""


def not_here(why: str) -> NoReturn:
    """Skip the test, or let it fail, for the reason `why`."""
    if os.environ.get(VARIABLE):
        pytest.fail(why)
    pytest.skip(why)


def forbidden_here(why: str) -> NoReturn:
    """Skip the test, also in CI, since what it does is not allowed on this machine, which no installation changes.

    For tests beside which another one, that is never skipped, keeps the promise.
    """
    pytest.skip(why)
