"""Text of unknown origin that a terminal may be given: what would steer it, or could not be seen, is spelled out."""

from unicodedata import category

KEPT = "\n\t"


def printable(text: str) -> str:
    r"""Return the text with every character that shows nothing (control, format, surrogate) written as \x1b or \u202e.

    New lines, tabs and the spaces of all scripts stay.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in KEPT or category(char) == "Zs" else _spelled_out(char) for char in text
    )


def _spelled_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
