"""What to do about broken inputs: leave them out and report them, or raise one error about all of them."""

import re
from collections.abc import Sequence

from foretrain.data_pipeline.corpus.report import MAX_CHARS, Finding
from foretrain.data_pipeline.errors import CorpusError
from foretrain.printable import quotable

MAX_ERRORS = 10
"""Errors that one message names."""
ERROR_CHARS = 300
"""Characters of each of several errors."""


class SetupError(CorpusError):
    """A file is not read for a reason that is not in the file: it is never left out as a broken one."""


def all_of(errors: Sequence[CorpusError], num_errors: int) -> CorpusError:
    """Return one error for several, of which `errors` are the first; the only one as it is."""
    if num_errors == 1:
        return errors[0]
    shown = [f"  {str(error)[:ERROR_CHARS]}" for error in errors[:MAX_ERRORS]]
    more = [f"  and {num_errors - len(shown):,} more"] if num_errors > len(shown) else []
    return CorpusError("\n".join([f"{num_errors:,} errors, which --skip-bad would leave out:", *shown, *more]))


def finding_of(file: str, error: CorpusError) -> Finding:
    """Return the record of an error about a file, which begins with the name of the file."""
    rest = str(error).removeprefix(quotable(file))
    return Finding(file, re.sub(r"^:(\d+)", r"line \1", rest).lstrip(": ")[:MAX_CHARS])
