"""The real package, except for its `__main__`."""

from pathlib import Path

__path__.append(str(Path(__file__).parents[4] / "foretrain"))
