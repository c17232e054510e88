"""What foretrain computes with the models: greedy continuations, how clear each choice was, and losses. In fp32."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional

from foretrain.configs.schema import SampleConfig
from foretrain.trainer.text.generate import Generation
from foretrain.trainer.text.inference import Model, continue_all, load_model
from foretrain.trainer.text.sampling import Sampling

PROMPTS = (
    "def wrap(",
    "class Queue:\n",
    "    def __init__(self",
    "The heap",
    "import ",
    "        if not self.",
    "# 日本 é",
    '"""Text wrapping and filling.\n"""\n\n# Copyright (C) 1999-2001',
)
NUM_TOKENS = 48
"""Tokens that continue each prompt."""


class Ours:
    """One of the models, its continuations of PROMPTS, and its losses."""

    def __init__(self, run_dir: Path) -> None:
        self.model: Model = load_model(run_dir, device="cpu")
        self.prompt_ids = [self.model.tokenizer.encode(each, add_special_tokens=False).ids for each in PROMPTS]

    @cached_property
    def texts(self) -> list[str]:
        """What `foretrain generate --temperature 0` prints after each prompt."""
        sample = SampleConfig(num_tokens=NUM_TOKENS, temperature=0.0)
        return [text for _, text in continue_all(self.model, PROMPTS, sample)]

    @cached_property
    def tokens(self) -> list[list[int]]:
        """The tokens of the texts. Without the token that ends a text, as theirs."""
        found: list[list[int]] = [[] for _ in PROMPTS]
        decoder = self.model.decoder(max(map(len, self.prompt_ids)) + NUM_TOKENS)
        seeds = [0] * len(PROMPTS)
        for number, token in Generation(
            decoder, self.prompt_ids, NUM_TOKENS, Sampling(temperature=0), seeds, self.model.eot_id
        ):
            found[number].append(token)
        return found

    def gap(self, prompt: int, position: int, ours: int, theirs: int) -> float:
        """How far the logit of the token `ours` is above that of `theirs`, at a position of a continuation."""
        logits_V = self._logits(prompt)[position]
        return float(logits_V[ours] - logits_V[theirs])

    @cached_property
    def margins(self) -> list[float]:
        """The distance of the two largest logits at each token of all continuations, from small to large."""
        found = []
        for prompt, tokens in enumerate(self.tokens):
            largest = self._logits(prompt)[: len(tokens)].topk(2, dim=-1).values
            found += (largest[:, 0] - largest[:, 1]).tolist()
        return sorted(found)

    @property
    def median_margin(self) -> float:
        """The median of the margins."""
        return median(self.margins)

    def ended_rows(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts, each with the token that ends a document."""
        return [[*self.model.tokenizer.encode(each, add_special_tokens=False).ids, self.model.eot_id] for each in texts]

    def loss(self, rows: Sequence[Sequence[int]]) -> float:
        """The mean cross entropy of all tokens of some texts but the first of each, nats."""
        losses = []
        for row in rows:
            tokens_1L = torch.tensor([row])
            logits_LV = self.model.logits(tokens_1L[:, :-1])[0]
            losses.append(functional.cross_entropy(logits_LV, tokens_1L[0, 1:], reduction="none"))
        return float(torch.cat(losses).mean())

    def _logits(self, prompt: int) -> torch.Tensor:
        """The logits (L, V) of the token at each position of a continuation, and of the one after it."""
        ids = self.prompt_ids[prompt]
        return self.model.logits(torch.tensor([ids + self.tokens[prompt]]))[0, len(ids) - 1 :]
