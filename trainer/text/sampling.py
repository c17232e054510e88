"""One token from logits.

Shape letters: V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: the limits apply in the order of these fields, to what the ones before have left."""

    temperature: float = 1.0
    """Divisor of the logits; 0: always the most likely token."""
    top_k: int = 0
    """The number of most likely tokens to choose from; 0: all."""
    top_p: float = 1.0
    """The smallest set of most likely tokens whose probabilities sum to at least this is left (arXiv 1904.09751)."""
    min_p: float = 0.0
    """Tokens less likely than this share of the most likely one are left out (arXiv 2407.01082)."""


def sample(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """A token drawn from softmax(logits / temperature), over the tokens that the limits leave.

    The draw is made on the CPU in fp32, with a CPU generator, so that a seed gives the same text on every device.
    Raises ValueError if the logits hold a NaN.
    """
    logits_V = logits_V.detach().float().cpu()
    if logits_V.isnan().any():
        raise ValueError("the model's logits are NaN: its weights have diverged; generate from an earlier checkpoint")
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    k = min(sampling.top_k, logits_V.numel()) or logits_V.numel()
    top_logits, top_tokens = logits_V.topk(k)  # from the most likely one on
    probabilities = torch.softmax(top_logits / sampling.temperature, dim=0)
    if sampling.top_p < 1:
        before = probabilities.cumsum(0) - probabilities
        before[0] = 0.0
        probabilities = probabilities * (before < sampling.top_p)
    probabilities = probabilities * (probabilities >= sampling.min_p * probabilities[0])
    choice = torch.multinomial(probabilities, 1, generator=generator)
    return int(top_tokens[choice])
