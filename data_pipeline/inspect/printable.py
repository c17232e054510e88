"""Text of unknown origin made safe for a terminal: characters that control it or are invisible are escaped."""

from unicodedata import category

KEPT = "\n\t"


def printable(text: str) -> str:
    r"""Return the text with every control, format or surrogate character escaped, as in \x1b or \u202e.

    New lines, tabs and the spaces of all scripts are kept.
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or char in KEPT or category(char) == "Zs"
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
