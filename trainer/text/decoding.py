"""The logits of the next token of several texts: from a cache of keys and values, or by computing all again.

Shape letters: R texts, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foretrain.trainer.text.network import Cache, Network


class Decoder(ABC):
    """Gives the logits of the next token of texts, which it keeps in its own order."""

    @abstractmethod
    def start(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Forget all texts, take these, and return the logits (R, V) that follow each."""

    @abstractmethod
    def append(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each text, and return the logits (R, V) that follow."""

    @abstractmethod
    def keep(self, rows: Sequence[int]) -> None:
        """Keep these texts only, in this order."""


class RecomputingDecoder(Decoder):
    """A decoder that computes the latest `seq_len` tokens of each text again for every token.

    `model_fn` maps tokens (1, L), int64, to logits (1, L, V).
    """

    def __init__(self, model_fn: Callable[[Tensor], Tensor], seq_len: int) -> None:
        self._model_fn, self._seq_len = model_fn, seq_len
        self._texts: list[list[int]] = []

    @torch.no_grad()
    def start(self, texts: Sequence[Sequence[int]]) -> Tensor:
        self._texts = [list(text) for text in texts]
        windows = (torch.tensor([text[-self._seq_len :]]) for text in self._texts)
        return torch.stack([self._model_fn(window)[0, -1] for window in windows])

    def append(self, tokens: Sequence[int]) -> Tensor:
        return self.start([[*text, token] for text, token in zip(self._texts, tokens, strict=True)])

    def keep(self, rows: Sequence[int]) -> None:
        self._texts = [self._texts[row] for row in rows]


class CachedDecoder(Decoder):
    """A decoder that keeps the keys and values of what it has computed.

    A text may have `max_tokens` tokens at the most. The model sees up to `seq_len` of them at a time: of a text that
    becomes longer, the later half of its window is computed once more, and is the beginning of a new window.
    """

    def __init__(self, network: Network, seq_len: int, max_tokens: int) -> None:
        self._network, self._seq_len = network, seq_len
        self._capacity = min(seq_len, max_tokens)
        self._texts: list[list[int]] = []
        self._starts: list[int] = []
        self._cache: Cache

    def start(self, texts: Sequence[Sequence[int]]) -> Tensor:
        self._texts = [list(text) for text in texts]
        self._starts = [max(0, len(text) - self._seq_len) for text in self._texts]  # where the window begins
        self._cache = self._network.cache(len(texts), self._capacity)
        return torch.cat([self._compute_window(row) for row in range(len(texts))])

    def append(self, tokens: Sequence[int]) -> Tensor:
        starts, is_full = [], False
        for row, (text, token) in enumerate(zip(self._texts, tokens, strict=True)):
            text.append(token)
            starts.append(len(text) - 1 - self._starts[row])
            is_full |= starts[-1] == self._seq_len
        if is_full:
            return self._append_with_new_windows(starts)
        return self._run(torch.tensor(tokens)[:, None], slice(0, len(tokens)), starts)

    def keep(self, rows: Sequence[int]) -> None:
        self._texts, self._starts = [self._texts[row] for row in rows], [self._starts[row] for row in rows]
        self._cache.keep(rows)

    def _append_with_new_windows(self, starts: Sequence[int]) -> Tensor:
        """The logits after the last token of each text, some of whose windows are full."""
        found = []
        for row, start in enumerate(starts):
            if start == self._seq_len:
                self._starts[row] = len(self._texts[row]) - max(1, self._seq_len // 2)
                found.append(self._compute_window(row))
            else:
                last = torch.tensor([self._texts[row][-1:]])
                found.append(self._run(last, slice(row, row + 1), [start]))
        return torch.cat(found)

    def _compute_window(self, row: int) -> Tensor:
        """The logits (1, V) after a text, all of whose window is computed."""
        window = torch.tensor([self._texts[row][self._starts[row] :]])
        return self._run(window, slice(row, row + 1), [0])

    def _run(self, tokens_RL: Tensor, rows: slice, starts: Sequence[int]) -> Tensor:
        return self._network.continued(self._cache, tokens_RL, rows, starts).cpu()
