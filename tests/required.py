"""Tools and rights that tests need. If one is missing, the test is skipped, or fails if nothing may be skipped."""

import os
from importlib.util import find_spec
from typing import NoReturn

import pytest

from foretrain.trainer.compilation.machine import check_machine

VARIABLE = "FORETRAIN_REQUIRE_ALL"
"""The variable that, if it is set as in CI, makes what is missing a failure."""
EXTRAS_VARIABLE = "FORETRAIN_REQUIRE_EXTRAS"
"""The same for the modules of optional extras, which CI installs after all other tests."""


def need_to_compile() -> None:
    """Skip the test if this machine cannot compile blocks. It sets the variable of the folder for what is compiled."""
    try:
        check_machine()
    except ValueError as error:
        not_here(str(error))


def need_module(name: str) -> None:
    """Skip the test if a module of an optional extra is not installed, or let it fail if EXTRAS_VARIABLE is set."""
    if find_spec(name) is None:
        why = f"the module {name} is not installed: pip install 'foretrain[eval,mlflow,wandb]'"
        if os.environ.get(EXTRAS_VARIABLE):
            pytest.fail(why)
        pytest.skip(why)


def not_here(why: str) -> NoReturn:
    """Skip the test, or let it fail, for the reason `why`."""
    if os.environ.get(VARIABLE):
        pytest.fail(why)
    pytest.skip(why)
