"""What ranks do with trained models in tests of tensor parallelism, and what one process does for comparison."""

import os
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import psutil
import torch
from torch import Tensor, nn

from foretrain.configs.schema import Config, SampleConfig
from foretrain.parallel.groups import Groups, destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer.checkpoint import loading
from foretrain.trainer.checkpoint.parts import part_of
from foretrain.trainer.measures.held_out import held_out_sets, measure_all
from foretrain.trainer.model.cache import KeyValueCache
from foretrain.trainer.text import sharded
from foretrain.trainer.text.inference import Model
from foretrain.trainer.text.likelihood import likelihoods
from foretrain.trainer.text.network import StageNetwork
from foretrain.trainer.text.prompts import Prompt, continued_lines
from foretrain.trainer.text.ranks import with_groups
from tests.trainer.interop.made import tokenizer_json
from tests.trainer.interop.workers import saved

PROMPTS = ("7 plus", "", "a longer prompt about 12 plus 30")
"""The last one and its text do not fit into the window of the models."""
SEEDS = (5, 4, 3)
NUM_TOKENS = 10
GREEDY = SampleConfig(num_tokens=NUM_TOKENS, temperature=0.0)
SAMPLED = SampleConfig(num_tokens=NUM_TOKENS, temperature=1.0, top_k=50, top_p=0.95, min_p=0.01)

Found = dict[str, Any]


def texts(model: Model) -> Found:
    """Text that a model generates: exactly the same for any number of ranks."""
    return {
        "sampled": list(model.continue_texts(PROMPTS, SAMPLED, SEEDS)),
        "lines": lines(model),
        "at the same time": list(_interleaved(model)),
    }


def lines(model: Model) -> list[str]:
    """Lines of JSON with the most likely texts, of which the first one ends at a stop string."""
    stop = model.continue_text(PROMPTS[0], GREEDY)[3:5]
    stopping = SampleConfig(num_tokens=NUM_TOKENS, temperature=0.0, stop=[stop])
    return [*continued_lines(model, [Prompt(text) for text in PROMPTS], stopping, batch_size=3)]


def _interleaved(model: Model) -> Iterator[tuple[str, ...]]:
    """Two batches of texts that are generated in turn, each with a cache of its own."""
    both = (model.continue_texts(PROMPTS[1:], GREEDY), model.continue_texts(PROMPTS[:1], SAMPLED))
    for pieces in zip(*both, strict=False):
        yield tuple(piece for _, piece in pieces)


def numbers(model: Model, corpus: Path) -> Found:
    """What is measured of a model: the same for any number of ranks but for the order of sums."""
    tokens_BL = torch.arange(60).view(3, 20) + 2
    pairs = [([1, 2, 3], [4, 5]), ([7], [8, 9, 10, 11])]
    (result,) = measure_all(model, held_out_sets(model, [str(corpus)]), 20, 7)
    return {
        "logits": model.logits(tokens_BL),
        "likelihoods": [each.log_probability for each in likelihoods(model, pairs, 2)],
        "held out": result.to_dict(),
    }


def everything(model: Model, corpus: Path) -> Found:
    """Both of them."""
    return {"texts": texts(model), "numbers": numbers(model, corpus)}


def on_two_ranks(checkpoints: Sequence[Path], corpus: Path) -> Found:
    """What two ranks find of each model, and of the first with planted faults, and the caches that each has held."""
    groups = init_groups(Layout(tp=2), "cpu", 60.0)
    found: Found = {"models": [with_groups(groups, each, partial(everything, corpus=corpus)) for each in checkpoints]}
    first = checkpoints[0]
    with patch.object(sharded, "gathered", _not_gathered):
        found["logits of one rank only"] = with_groups(groups, first, lines)
    with patch.object(KeyValueCache, "keep", KeyValueCache.keep if groups.rank == 0 else _keep_all):
        found["texts that have ended stay in a cache"] = with_groups(groups, first, lines)
    counter, parts = CountedCaches(), Mock(side_effect=part_of)
    with patch.object(StageNetwork, "cache", counter.cache), patch.object(loading, "part_of", parts):
        with_groups(groups, first, _many_texts)
    found["elements that were read"] = sum(part_of(call.args[0]).values.numel() for call in parts.call_args_list)
    found["most caches at a time"], found["heads of a cache"] = counter.most, counter.heads
    destroy_groups()
    return found


def trained_and_read(configs: Sequence[Config]) -> list[tuple[Path, list[str]]]:
    """The checkpoint of each config, which four ranks train in its layout, and what they then write with tp=4."""
    checkpoints = saved(configs, tokenizer_json())
    groups = init_groups(Layout(tp=4), "cpu", 60.0)
    found = [(each, with_groups(groups, each, lines)) for each in checkpoints]
    destroy_groups()
    return found


def _not_gathered(part: Tensor, groups: Groups, vocab_size: int) -> Tensor | None:
    """The planted fault: rank 0 sees its own part of the vocabulary."""
    missing = part.new_full((*part.shape[:-1], vocab_size - part.shape[-1]), -torch.inf)
    return torch.cat((part, missing), dim=-1) if groups.rank == 0 else None


def _keep_all(cache: KeyValueCache, rows: Sequence[int]) -> None:
    """The planted fault: this rank does not know that texts have ended."""


class CountedCaches:
    """Makes caches, and counts those that are in memory, and the key-value heads of each."""

    def __init__(self) -> None:
        self.most, self.heads = 0, set[int]()
        self._all: weakref.WeakSet[KeyValueCache] = weakref.WeakSet()

    def cache(self, num_texts: int, capacity: int) -> KeyValueCache:
        made = _ObservedCache(num_texts, capacity, self.heads)
        self._all.add(made)
        self.most = max(self.most, len(self._all))
        return made


class _ObservedCache(KeyValueCache):
    def __init__(self, batch_size: int, capacity: int, heads: set[int]) -> None:
        super().__init__(batch_size, capacity)
        self._heads = heads

    def layer(self, layer: nn.Module, like_LRKH: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = super().layer(layer, like_LRKH)
        self._heads |= {keys.shape[1], values.shape[1]}
        return keys, values


def _many_texts(model: Model) -> None:
    for seed in range(6):
        model.continue_text("7 plus", SampleConfig(num_tokens=2, seed=seed))


# Jobs of tests that start ranks by `launcher.inference`.


def fail(model: Model, error: Exception) -> None:
    """A job that raises."""
    raise error


def kill_a_rank(model: Model) -> None:
    """A job during which another rank is killed."""
    (other,) = (each for each in psutil.Process(os.getppid()).children() if each.pid != os.getpid())
    other.kill()
    model.continue_text("7 plus", SampleConfig(num_tokens=20))
