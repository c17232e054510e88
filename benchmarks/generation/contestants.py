"""What continues prompts: foretrain with and without its cache of keys and values, and transformers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from foretrain.trainer.text.decoding import Decoder, RecomputingDecoder
from foretrain.trainer.text.generate import Generation
from foretrain.trainer.text.inference import Model
from foretrain.trainer.text.sampling import Sampling

OURS, WITHOUT_CACHE, TRANSFORMERS = "foretrain", "all positions computed again", "transformers"

Prompts = Sequence[Sequence[int]]
Contestant = Callable[[Prompts, int], list[list[int]]]
"""The most likely next tokens of each prompt, as many as the number says; the prompts have one length."""


def contestants(model: Model, exported: Path) -> dict[str, Contestant]:
    """All contestants by their names. `exported` is the folder of the same model for transformers."""
    return {
        OURS: lambda prompts, count: _generated(model.decoder(len(prompts[0]) + count), prompts, count),
        WITHOUT_CACHE: lambda prompts, count: _generated(
            RecomputingDecoder(model.logits, model.config.model.seq_len), prompts, count
        ),
        TRANSFORMERS: _transformers(exported),
    }


def _generated(decoder: Decoder, prompts: Prompts, count: int) -> list[list[int]]:
    most_likely = Sampling(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)
    texts: list[list[int]] = [[] for _ in prompts]
    for number, token in Generation(decoder, prompts, count, most_likely, [0] * len(prompts), eot_id=None):
        texts[number].append(token)
    return texts


def _transformers(exported: Path) -> Contestant:
    from transformers import AutoModelForCausalLM, GenerationConfig

    model: Any = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    model.generation_config = GenerationConfig(do_sample=False, use_cache=True, pad_token_id=0)

    def generated(prompts: Prompts, count: int) -> list[list[int]]:
        tokens_BL = torch.tensor(prompts)
        mask_BL = torch.ones_like(tokens_BL)
        with torch.no_grad():
            found_BL = model.generate(tokens_BL, attention_mask=mask_BL, max_new_tokens=count)
        found: list[list[int]] = found_BL[:, tokens_BL.shape[1] :].tolist()
        return found

    return generated
