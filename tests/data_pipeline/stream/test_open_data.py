"""The data of a run from Python: for a training loop of one's own, with any number of ranks."""

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from foretrain import open_data
from foretrain.configs.data import DataConfig
from foretrain.configs.schema import Config, ModelConfig
from foretrain.data_pipeline.stream.data import Data


class Model:
    """It remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def train_step(self, tokens_BL: np.ndarray, targets_BL: np.ndarray) -> None:
        """Remember the tokens."""
        assert tokens_BL.shape == targets_BL.shape
        self.seen.append(tokens_BL)


def train(data: Data, dp_rank: int, dp_size: int, samples_consumed: int, num_batches: int) -> tuple[np.ndarray, int]:
    """A training loop in five lines. Returns the tokens that the model saw, and the state to resume from."""
    model = Model()
    batches = data.batches(12, dp_rank=dp_rank, dp_size=dp_size, samples_consumed=samples_consumed)
    for _, batch in zip(range(num_batches), batches, strict=False):
        model.train_step(batch.tokens_BL, batch.targets_BL)
    return np.stack(model.seen), batches.samples_consumed


def test_a_loop_resumes_exactly_with_another_number_of_ranks(corpus: Path) -> None:
    data = open_data(corpus, seq_len=16, packing="documents", seed=3)
    full, _ = train(data, 0, 1, 0, 8)
    assert full.shape == (8, 12, 16) and full.dtype == np.int64

    samples_consumed, seen = 0, []
    for dp_size, num_batches in ((2, 3), (3, 1), (1, 4)):
        reopened = open_data(corpus, seq_len=16, packing="documents", seed=3)
        ranks = [train(reopened, rank, dp_size, samples_consumed, num_batches) for rank in range(dp_size)]
        seen.append(np.concatenate([tokens for tokens, _ in ranks], axis=1))
        (samples_consumed,) = {state for _, state in ranks}
    assert samples_consumed == 8 * 12
    assert np.array_equal(np.concatenate(seen), full)


def test_a_config_its_data_section_and_keyword_arguments_open_the_same_data(corpus: Path) -> None:
    section = DataConfig(str(corpus), order="local", shuffle_window=20, seed=5)
    config = Config(model=ModelConfig(seq_len=24), data=section)
    same = [
        open_data(config),
        open_data(section, 24),
        open_data(DataConfig(seed=9), 24, path=str(corpus), order="local", shuffle_window=20, seed=5),
        open_data(corpus, 24, order="local", shuffle_window=20, seed=5),
        open_data(config, path=str(corpus)),
    ]
    batches = [next(data.batches(8)) for data in same]
    assert len({batch.tokens_BL.tobytes() for batch in batches}) == 1
    assert len({data.mixture_fingerprint for data in same}) == 1
    assert section.seed == 5 and section.path == str(corpus)


def test_sources_can_be_given_as_plain_values(corpus: Path) -> None:
    sources = {"web": {"path": str(corpus), "weight": 0.7}, "code": {"path": str(corpus), "weight": 0.3}}
    data = open_data(DataConfig(), 16, sources=sources, mixture_block=10)
    names = [location.source.name for location in data.train.locate(np.arange(10))]
    assert (names.count("web"), names.count("code")) == (7, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pakcing": "documents"}, "cannot set pakcing of `data`: .*Did you mean: 'packing'"),
        ({"packing": "bestfit"}, "cannot set packing of `data`: .*'bestfit', expected one of .*'best_fit'"),
        ({"shuffle_window": 0}, "shuffle_window = 0 must be greater than 0"),
        ({"sources": {"web": {"pth": "x"}}}, "cannot set sources .*Did you mean: 'path'"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_possible(settings: dict, message: str, corpus: Path) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(corpus, 16, **settings)


def test_what_cannot_be_divided_among_the_ranks_is_refused(corpus: Path) -> None:
    with pytest.raises(ValueError, match="needs seq_len"):
        open_data(corpus)
    data = open_data(corpus, 16)
    with pytest.raises(ValueError, match="global_batch_size = 10 is not a multiple of dp = 4"):
        data.batches(10, dp_size=4)
    with pytest.raises(ValueError, match="dp_rank = 4 is not among the dp_size = 4 ranks"):
        data.batches(8, dp_rank=4, dp_size=4)


def test_batches_end_after_num_batches_or_with_the_last_full_batch_of_the_sources(corpus: Path) -> None:
    data = open_data(DataConfig(), 16, sources={"web": {"path": str(corpus), "max_epochs": 1}})
    num_samples = data.train.sources[0].samples.num_samples
    assert len(list(data.batches(8, samples_consumed=16))) == (num_samples - 16) // 8
    assert len(list(data.batches(8, num_batches=3))) == 3
    assert list(data.batches(8, samples_consumed=num_samples)) == []


def test_a_loop_that_is_left_early_leaves_no_thread(corpus: Path) -> None:
    for _ in open_data(corpus, 16).batches(4):
        break
    gc.collect()
    deadline_s = time.monotonic() + 60
    while any(thread.name == "prefetch" for thread in threading.enumerate()):
        assert time.monotonic() < deadline_s, "a thread still reads ahead"
        time.sleep(0.01)
