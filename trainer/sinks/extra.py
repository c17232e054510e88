"""The library of a sink that is an optional extra of the project."""

from importlib.util import find_spec


def need_library(module: str, extra: str) -> None:
    """Raise ValueError, which says what to install, if a module of an extra is not installed. Imports nothing."""
    if find_spec(module) is None:
        raise ValueError(f"the library {module} is not installed: pip install 'foretrain[{extra}]', or leave it out")
