"""From the bytes of a file to the text of its documents, in UTF-8 or in JSON objects."""

import io
import json
from collections.abc import Callable, Iterator
from itertools import count

from foretrain import limits
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.unpack import too_large


class TextReader:
    """Reader of texts. It replaces invalid UTF-8 by U+FFFD, and counts the texts with such bytes in `num_replaced`.

    `bad` is called with the error of one document, of which reading continues with the next one; it may raise it.
    """

    def __init__(self, text_key: str, bad: Callable[[CorpusError], None] | None = None) -> None:
        self.key = text_key
        self.bad = bad or _raise
        self.num_replaced = 0

    def decode_file(self, data: bytes) -> str:
        """Return the text of UTF-8 bytes, without a byte order mark."""
        return self.decode(data).removeprefix("\ufeff")

    def decode(self, data: bytes) -> str:
        """Return the text of UTF-8 bytes."""
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            self.num_replaced += 1
            return data.decode("utf-8", errors="replace")

    def read_lines(self, lines: io.BufferedIOBase, place: str) -> Iterator[str]:
        """Yield the text of each line, which is a JSON object. Blank lines are skipped."""
        for number in count(1):
            line = lines.readline(limits.DOCUMENT_BYTES + 1)
            if not line:
                return
            if len(line) > limits.DOCUMENT_BYTES:
                raise too_large(f"{place}:{number}")
            if line.isspace():
                continue
            try:
                text = self.parse_json(line, f"{place}:{number}")
            except CorpusError as error:
                self.bad(error)
            else:
                yield text

    def parse_json(self, data: bytes, place: str) -> str:
        """Return the text of a JSON object. Raises CorpusError, which names the place, if it has none."""
        try:
            record = json.loads(self.decode_file(data))
        except (ValueError, RecursionError) as error:  # not only a JSONDecodeError: an integer may be too long
            raise CorpusError(f"{place} is not JSON ({error}): repair or remove it") from error
        if not isinstance(record, dict):
            raise CorpusError(f'{place} is not a JSON object: it must look like {{"{self.key}": "..."}}')
        text = record.get(self.key)
        if not isinstance(text, str):
            wrong = "is not a string" if self.key in record else "is missing"
            raise CorpusError(
                f"{place}: the key {self.key!r} {wrong}; keys with a string are "
                f"{[key for key, value in record.items() if isinstance(value, str)]}: choose one with --text-key"
            )
        return self._without_surrogates(text)

    def _without_surrogates(self, text: str) -> str:
        """Replace half surrogate pairs ("\\ud800"), which JSON allows and UTF-8 does not."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            self.num_replaced += 1
            return text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")
        return text


def _raise(error: CorpusError) -> None:
    raise error
