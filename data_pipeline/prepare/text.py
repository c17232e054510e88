"""From the bytes of a file to the text of its documents: UTF-8, and the text of JSON objects."""

import json
from collections.abc import Iterable, Iterator

from foretrain.data_pipeline.errors import CorpusError


class TextReader:
    """Reads texts, and counts in `num_replaced` those that were not valid UTF-8: U+FFFD stands for what is not."""

    def __init__(self, text_key: str) -> None:
        self._text_key = text_key
        self.num_replaced = 0

    def decode(self, data: bytes) -> str:
        """Return the text of some UTF-8 bytes, without a byte order mark."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("utf-8", errors="replace")
            self.num_replaced += 1
        return text.removeprefix("\ufeff")

    def of_lines(self, lines: Iterable[bytes], place: str) -> Iterator[str]:
        """Yield the text of each line of JSON; blank lines have none."""
        for number, line in enumerate(lines, 1):
            if not line.isspace():
                yield self.of_json(line, f"{place}:{number}")

    def of_json(self, data: bytes, place: str) -> str:
        """Return the text of a JSON object; raise CorpusError, which names the place, where it has none."""
        try:
            record = json.loads(self.decode(data))
        except (json.JSONDecodeError, RecursionError) as error:
            raise CorpusError(f"{place} is not JSON ({error}): mend or remove it") from error
        if not isinstance(record, dict):
            raise CorpusError(f'{place} is not a JSON object: it must look like {{"{self._text_key}": "..."}}')
        text = record.get(self._text_key)
        if not isinstance(text, str):
            wrong = "is not a string" if self._text_key in record else "is missing"
            raise CorpusError(
                f"{place}: the key {self._text_key!r} {wrong}; keys with a string are "
                f"{[key for key, value in record.items() if isinstance(value, str)]}: choose one with --text-key"
            )
        return self._without_surrogates(text)

    def _without_surrogates(self, text: str) -> str:
        """JSON can spell half of a surrogate pair ("\\ud800"), which no UTF-8 can hold."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            self.num_replaced += 1
            return text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")
        return text
