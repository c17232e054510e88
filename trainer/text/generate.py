"""Sampling of tokens from a model: one token from logits, and the continuation of a prompt.

Shape letters: B batch (1 here), L length, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def sample(logits_V: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    """A token drawn from softmax(logits / temperature) over the `top_k` most likely tokens (0: over all).

    Temperature 0 gives the most likely token, whatever `top_k` is. The draw is made on the CPU in fp32, with a CPU
    generator, so that a seed gives the same text on every device. Raises ValueError if the logits hold a NaN.
    """
    logits_V = logits_V.detach().float().cpu()
    if logits_V.isnan().any():
        raise ValueError("the model's logits are NaN: its weights have diverged; generate from an earlier checkpoint")
    if temperature == 0:
        return int(logits_V.argmax())
    k = min(top_k, logits_V.numel()) or logits_V.numel()
    top_logits, top_tokens = logits_V.topk(k)
    choice = torch.multinomial(torch.softmax(top_logits / temperature, dim=0), 1, generator=generator)
    return int(top_tokens[choice])


@torch.no_grad()
def generate(
    model_fn: Callable[[Tensor], Tensor],
    prompt_ids: list[int],
    num_tokens: int,
    seq_len: int,
    temperature: float,
    top_k: int,
    seed: int,
    eot_id: int | None,
) -> list[int]:
    """Up to `num_tokens` new tokens that continue the prompt; the token `eot_id` ends the text and is not returned.

    `model_fn` maps tokens_BL (1, L), int64, to logits_BLV (1, L, V). L grows from the prompt's length to `seq_len`,
    then the window slides. Every token recomputes the complete window, since there is no key-value cache: this function
    is for a look at what a run has learned, not for serving. Raises ValueError if the prompt is empty.
    """
    if not prompt_ids:
        raise ValueError(
            "a prompt needs at least one token: give some text, or the end-of-text token for a new document"
        )
    generator = torch.Generator().manual_seed(seed)
    ids = list(prompt_ids)
    for _ in range(num_tokens):
        logits_BLV = model_fn(torch.tensor([ids[-seq_len:]]))
        token = sample(logits_BLV[0, -1], temperature, top_k, generator)
        if token == eot_id:
            break
        ids.append(token)
    return ids[len(prompt_ids) :]
