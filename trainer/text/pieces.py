"""Text as it is generated: pieces that never have to be taken back, up to the first stop string."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class StoppedText:
    """Text that arrives in pieces, and ends before the first of `stops` in it.

    What could be the beginning of a stop string is held back until more text has come, or the end.
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
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return self._release(min(found))
        return self._release(len(self._held) - self._possible_beginning())

    def end(self) -> str:
        """The rest of the text, if no more comes."""
        return "" if self.is_stopped else self._release(len(self._held))

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
    """The text of tokens that arrive one by one. A character of several tokens comes with the last of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._stream = tokenizer, DecodeStream(skip_special_tokens=False)
        self._tokens: list[int] = []
        self._num_characters = 0

    def add(self, token: int) -> str:
        """The text that the token completes; "" if it completes none."""
        self._tokens.append(token)
        text: str = self._stream.step(self._tokenizer, token) or ""
        self._num_characters += len(text)
        return text

    def end(self) -> str:
        """What is left of tokens that completed no text, as the tokenizer shows it."""
        text: str = self._tokenizer.decode(self._tokens, skip_special_tokens=False)
        return text[self._num_characters :]
