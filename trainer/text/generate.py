"""The continuation of prompts, token by token."""

from collections.abc import Iterator, Sequence

import torch

from foretrain.trainer.text.decoding import Decoder
from foretrain.trainer.text.sampling import Sampling, sample


class Generation:
    """Continues prompts with a decoder, all of them at the same time.

    Each has a seed of its own, so that its text does not depend on the other prompts. The token `eot_id` ends a text
    and is not part of it. Raises ValueError if a prompt is empty.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        num_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        eot_id: int | None,
    ) -> None:
        """`num_tokens`: the largest number of new tokens of each."""
        if not all(prompts):
            raise ValueError(
                "a prompt needs at least one token: give some text, or the end-of-text token for a new document"
            )
        self._decoder, self._prompts, self._num_tokens = decoder, prompts, num_tokens
        self._sampling, self._eot_id = sampling, eot_id
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._stopped: set[int] = set()

    def stop(self, number: int) -> None:
        """End the text of a prompt; it has no more tokens."""
        self._stopped.add(number)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The number of a prompt and the next token of its text, for each prompt in turn, as long as any continues."""
        numbers = list(range(len(self._prompts)))
        if not numbers:
            return
        logits = self._decoder.start(self._prompts)
        for count in range(1, self._num_tokens + 1):
            tokens = []
            for number, logits_V in zip(numbers, logits, strict=True):
                token = sample(logits_V, self._sampling, self._generators[number])
                tokens.append(token)
                if token == self._eot_id:
                    self.stop(number)
                else:
                    yield number, token
            rows = [row for row, number in enumerate(numbers) if number not in self._stopped]
            if not rows or count == self._num_tokens:
                return
            if len(rows) < len(numbers):
                self._decoder.keep(rows)
                numbers, tokens = [numbers[row] for row in rows], [tokens[row] for row in rows]
            logits = self._decoder.append(tokens)
