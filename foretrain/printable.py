"""Text of unknown origin made safe for terminals and logs: characters that control them or are invisible are escaped.

Errors about files, servers and configs pass through here when they are made, and every other text of unknown origin
where it is printed.
"""

import re
from typing import TextIO
from unicodedata import category

KEPT = "\n\t"
MESSAGE_CHARS = 4_000
"""More of a message would show what is wrong no better."""
HAS_PASSWORD = re.compile(r"(://[^/@\s]*:)[^/\s]*@")
"""URLs such as ftp://USER:PASSWORD@HOST/PATH."""


def printable(text: str, kept: str = KEPT) -> str:
    r"""Return the text with every control, format or surrogate character escaped, as in \x1b or \u202e.

    The characters `kept`, which are new lines and tabs, and the spaces of all scripts are not escaped.
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or char in kept or category(char) == "Zs"
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def quotable(text: str) -> str:
    """The text, printable, with every password of a URL replaced by ***: for messages that quote what others wrote."""
    return printable(HAS_PASSWORD.sub(r"\1***@", text))


def error_message(text: str) -> str:
    """What an error says that quotes others: as `quotable`, and no longer than MESSAGE_CHARS."""
    return quotable(text[:MESSAGE_CHARS])[:MESSAGE_CHARS]  # escapes are longer than what they stand for


def for_stream(text: str, stream: TextIO) -> str:
    """The text as it may be written to a stream: as it is to a file or a pipe, and printable to a terminal."""
    return printable(text) if stream.isatty() else text
