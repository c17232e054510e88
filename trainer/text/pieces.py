"""Text as it is generated: pieces that never have to be taken back, up to the first stop string."""

import codecs
import re
from collections.abc import Sequence

from tokenizers import Tokenizer

_BYTE = re.compile("<0x([0-9A-F]{2})>")
"""The name of a token that is a byte, in tokenizers which have such tokens for what they have no other token for."""
_INCOMPLETE = "\ufffd"


class StoppedText:
    """Text that arrives in pieces, and ends before the first of `stops` in it.

    What could be the beginning of a stop string is held back until more text has come, or the end. How the text is cut
    into pieces changes nothing.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.is_stopped = False
        """Whether a stop string has come. There is no more text then."""

    def add(self, text: str) -> str:
        """The text that is certain after `text` has come."""
        if self.is_stopped:
            return ""
        self._held += text
        return self._release_up_to(len(self._held) - self._possible_beginning())

    def end(self) -> str:
        """The rest of the text, if no more comes."""
        return "" if self.is_stopped else self._release_up_to(len(self._held))

    def _release_up_to(self, certain: int) -> str:
        """Release what is before the first stop string, which no text to come can begin earlier than at `certain`."""
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        first = min(places, default=certain + 1)
        self.is_stopped = first <= certain
        return self._release(min(first, certain))

    def _release(self, length: int) -> str:
        released, self._held = self._held[:length], self._held[length:]
        return released

    def _possible_beginning(self) -> int:
        """Characters at the end that may be the first ones of a stop string."""
        longest = min(len(self._held), max((len(stop) - 1 for stop in self._stops), default=0))
        for size in range(longest, 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0


class DecodedText:
    """The text of tokens that arrive one by one. A character of several tokens comes with the last of them.

    `before`: the tokens that they follow, whose text is not part of theirs. It matters to tokenizers that leave out a
    space before the first token of a text. Bytes that are no UTF-8 are shown as U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer, self._before = tokenizer, list(before)
        self._tokens: list[int] = []
        """Tokens, none of them a byte, whose text is not returned yet."""
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """The text that the token completes; "" if it completes none."""
        byte = self._byte(token)
        if byte is not None:
            # The tokenizer would replace all bytes of a sequence that has a wrong one, also those that were returned.
            rest = self._rest_of_tokens()
            self._before.append(token)
            return rest + self._bytes.decode(byte)
        self._tokens.append(token)
        text = self._text()
        return self._rest_of_bytes() + ("" if text.endswith(_INCOMPLETE) else self._rest_of_tokens())

    def end(self) -> str:
        """What is left of tokens that completed no text, as the tokenizer shows it."""
        return self._rest_of_bytes() + self._rest_of_tokens()

    def _rest_of_bytes(self) -> str:
        return self._bytes.decode(b"", final=True)

    def _rest_of_tokens(self) -> str:
        if not self._tokens:
            return ""
        text = self._text()
        self._before, self._tokens = self._tokens, []
        return text

    def _text(self) -> str:
        """The text of the tokens that is not returned yet."""
        return self._decode([*self._before, *self._tokens])[len(self._decode(self._before)) :]

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=False)
        return text

    def _byte(self, token: int) -> bytes | None:
        """The byte that a token is; None if it is another token."""
        name = self._tokenizer.id_to_token(token)
        found = _BYTE.fullmatch(name) if name else None
        return None if found is None or self._decode([token]) == name else bytes.fromhex(found[1])
