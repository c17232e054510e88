"""Tools and rights that tests need. If one is missing, the test is skipped, or fails if nothing may be skipped."""

import os
from typing import NoReturn

import pytest

VARIABLE = "FORETRAIN_REQUIRE_ALL"
"""The variable that, if it is set as in CI, makes what is missing a failure."""


def not_here(why: str) -> NoReturn:
    """Skip the test, or let it fail, for the reason `why`."""
    if os.environ.get(VARIABLE):
        pytest.fail(why)
    pytest.skip(why)
