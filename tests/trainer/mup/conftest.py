"""The `mup` package, where it is installed."""

import importlib
from typing import Any

import pytest

from tests.required import not_here


@pytest.fixture(scope="session")
def mup() -> Any:
    """The package, or no test."""
    try:
        return importlib.import_module("mup")
    except ImportError:
        not_here("mup is not installed: pip install --no-deps 'mup>=1,<2'")
