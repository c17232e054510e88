"""Where studies print their tables."""

from rich.console import Console


def console_for_tables() -> Console:
    """Standard output; wide enough for a table where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)
