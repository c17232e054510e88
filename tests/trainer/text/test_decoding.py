"""A cache of keys and values changes no logit: they are those of computing every position again."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foretrain.configs.schema import ModelConfig
from foretrain.trainer.model.gpt import Stage
from foretrain.trainer.text.decoding import CachedDecoder, RecomputingDecoder
from foretrain.trainer.text.network import StageNetwork
from tests.trainer.model.test_transformers import MODELS, build

TOLERANCE = 2e-5
"""On logits of about 1 to 5 in fp32."""
LENGTHS = (1, 7, 3)
GENERATOR = torch.Generator().manual_seed(5)
TOKENS = torch.randint(61, (3, 40), generator=GENERATOR).tolist()
each_model = pytest.mark.parametrize("model", [model for _, model in MODELS.values()], ids=MODELS.keys())


def full(stage: Stage, texts: Sequence[Sequence[int]]) -> Tensor:
    """The logits (R, V) that follow each text."""
    with torch.no_grad():
        return torch.stack([stage(torch.tensor([text]))[-1, 0] for text in texts])


@each_model
def test_texts_of_different_lengths_have_the_logits_of_all_positions_computed_again(model: ModelConfig) -> None:
    stage = build(model)
    texts = [TOKENS[row][:length] for row, length in enumerate(LENGTHS)]
    decoder = CachedDecoder(StageNetwork(stage), model.seq_len, max_tokens=20)
    found = decoder.start(texts)
    for place in range(10):
        assert (found - full(stage, texts)).abs().max() <= TOLERANCE
        assert full(stage, texts).abs().max() > 1
        if place == 4:  # the others have ended
            decoder.keep([2, 0])
            texts = [texts[2], texts[0]]
        new = [TOKENS[row][20 + place] for row in range(len(texts))]
        texts = [[*text, token] for text, token in zip(texts, new, strict=True)]
        found = decoder.append(new)


def test_every_position_is_computed_once() -> None:
    model = MODELS["llama"][1]
    stage, num_computed = build(model), 0

    def count(module: object, inputs: tuple[Tensor]) -> None:
        nonlocal num_computed
        num_computed += inputs[0].numel()

    stage.register_forward_pre_hook(count)
    decoder = CachedDecoder(StageNetwork(stage), model.seq_len, max_tokens=20)
    decoder.start([TOKENS[0][:5], TOKENS[1][:3]])
    for place in range(10):
        decoder.append([TOKENS[0][place], TOKENS[1][place]])
    assert num_computed == 5 + 3 + 2 * 10


def test_the_comparison_notices_a_cache_that_is_one_position_off() -> None:
    model = MODELS["llama"][1]
    stage = build(model)
    decoder = CachedDecoder(StageNetwork(stage), model.seq_len, max_tokens=20)
    decoder.start([TOKENS[0][:5]])
    wrong = decoder.append([TOKENS[0][6]])
    assert (wrong - full(stage, [TOKENS[0][:6]])).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "llama, grouped queries"])
def test_a_full_window_continues_with_its_later_half(name: str) -> None:
    model = replace(MODELS[name][1], seq_len=8)
    stage = build(model)
    decoder = CachedDecoder(StageNetwork(stage), model.seq_len, max_tokens=40)
    texts = [TOKENS[0][:6], TOKENS[1][:20]]
    begins = [0, 12]
    found = decoder.start(texts)
    for place in range(15):
        windows = [text[begin:] for text, begin in zip(texts, begins, strict=True)]
        assert (found - full(stage, windows)).abs().max() <= TOLERANCE
        new = [TOKENS[2][place], TOKENS[2][place + 1]]
        texts = [[*text, token] for text, token in zip(texts, new, strict=True)]
        for row, text in enumerate(texts):
            if len(text) - begins[row] > 8:
                begins[row] = len(text) - 4
        found = decoder.append(new)
    assert min(begins) > 8


def test_the_recomputing_decoder_sees_the_latest_seq_len_tokens() -> None:
    windows = []

    def recording_model(tokens_BL: Tensor) -> Tensor:
        windows.append(tokens_BL[0].tolist())
        assert tokens_BL.shape[0] == 1
        assert tokens_BL.dtype == torch.int64
        return torch.zeros(*tokens_BL.shape, 5)

    decoder = RecomputingDecoder(recording_model, seq_len=3)
    decoder.start([[1, 2]])
    for token in (3, 4, 5):
        decoder.append([token])
    assert windows == [[1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
