"""What computes the logits of a trained model, with or without a cache of the keys and values of earlier positions.

Shape letters: B samples, L positions, R texts, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from foretrain.trainer.model.cache import Continuation, KeyValueCache


class Cache(Protocol):
    """The keys and values of texts, wherever they are."""

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these texts only, in this order."""


class Network(ABC):
    """Maps tokens to logits in fp32. No graph is built."""

    @abstractmethod
    def logits(self, tokens_BL: Tensor, positions_BL: Tensor | None = None) -> Tensor:
        """The logits (L, B, V) after each position, on the device of the model.

        `positions_BL` are those of the tokens in their documents, on the CPU; None: a sample is one document.
        """

    @abstractmethod
    def cache(self, num_texts: int, capacity: int) -> Cache:
        """An empty cache of `num_texts` texts, each with at most `capacity` positions."""

    @abstractmethod
    def continued(self, cache: Cache, tokens_RL: Tensor, rows: slice, starts: Sequence[int]) -> Tensor:
        """The logits (R, V) after the last of some new tokens, on the device of the model.

        They belong to the texts `rows` of the cache, which has `starts` positions of each, and gets the new ones.
        """


class StageNetwork(Network):
    """A network of a model's only stage in this process. A tensor-parallel rank gives its part (V / tp) of logits."""

    def __init__(self, stage: nn.Module) -> None:
        self._stage, self._device = stage, next(stage.parameters()).device

    @torch.no_grad()
    def logits(self, tokens_BL: Tensor, positions_BL: Tensor | None = None) -> Tensor:
        logits_LBV: Tensor = self._stage(tokens_BL.to(self._device), positions_BL)
        return logits_LBV.float()

    def cache(self, num_texts: int, capacity: int) -> KeyValueCache:
        return KeyValueCache(num_texts, capacity)

    @torch.no_grad()
    def continued(self, cache: Cache, tokens_RL: Tensor, rows: slice, starts: Sequence[int]) -> Tensor:
        assert isinstance(cache, KeyValueCache), "a cache of another network"
        continued = Continuation.of(cache, rows, starts, tokens_RL.shape[1], self._device)
        logits_1RV: Tensor = self._stage(tokens_RL.to(self._device), continued=continued)
        return logits_1RV[0].float()
