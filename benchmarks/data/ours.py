"""The contestants that are no peers: this library's stream in several modes, and plain reads of a flat file."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models

from benchmarks.data.contest import (
    EOT_ID,
    FLAT,
    VOCAB_SIZE,
    Contestant,
    Loader,
    Rows,
    Settings,
    SourceTokens,
    counted_loader,
)
from foretrain.configs.data import DataConfig, SourceConfig
from foretrain.data_pipeline.corpus.manifest import TOKENIZER, VERSION, Manifest, sha256_of
from foretrain.data_pipeline.corpus.shard_writer import SplitWriter
from foretrain.data_pipeline.stream.data import open_data

PREFETCH_BATCHES = 2
BLOCK_BYTES = 1 << 20
NUM_SHARDS = 12
VAL_DOCUMENTS = 64
SECOND_SHARE = 0.3
"""Share of the second corpus in the mixture."""

LIMIT = "memmap"


def write_corpus(documents: Iterator[Any], num_tokens: int, folder: Path, vocab_size: int = VOCAB_SIZE) -> None:
    """Write a corpus as `foretrain prepare` does, from documents that are tokenized already.

    The first documents are also the val split, because only the train split is measured.
    """
    folder.mkdir(exist_ok=True)
    vocab = {"<|endoftext|>": EOT_ID, **{f"token{i}": i for i in range(1, vocab_size)}}
    Tokenizer(models.WordLevel(vocab, unk_token="token1")).save(str(folder / TOKENIZER))
    shard_tokens = max(1, num_tokens // NUM_SHARDS)
    train = SplitWriter(folder, "train", block_bytes=BLOCK_BYTES, shard_tokens=shard_tokens)
    val = SplitWriter(folder, "val", block_bytes=BLOCK_BYTES, shard_tokens=shard_tokens)
    for number, document in enumerate(documents):
        train.add(document, len(document))
        if number < VAL_DOCUMENTS:
            val.add(document, len(document))
    Manifest(
        version=VERSION,
        dtype="uint16",
        vocab_size=vocab_size,
        eot_id=EOT_ID,
        tokenizer_sha256=sha256_of(folder / TOKENIZER),
        splits={"train": train.close(), "val": val.close()},
        unigram_entropy_nats=0.0,
        num_replaced_documents=0,
        sources=[],
        prepared_from="",
    ).write(folder)


def _write(source: SourceTokens, folder: Path, settings: Settings) -> None:
    write_corpus(source.documents(), len(source.tokens), folder)


def _write_two(source: SourceTokens, folder: Path, settings: Settings) -> None:
    """Write one corpus of the first 70% of the documents, and one of the others."""
    cut = round((1 - SECOND_SHARE) * len(source.ends))
    first_tokens = int(source.ends[cut - 1])
    first = SourceTokens(source.tokens[:first_tokens], source.ends[:cut])
    second = SourceTokens(source.tokens[first_tokens:], source.ends[cut:] - first_tokens)
    for part, name in ((first, "first"), (second, "second")):
        write_corpus(part.documents(), len(part.tokens), folder / name)


def _write_packed(source: SourceTokens, folder: Path, settings: Settings) -> None:
    """Write the corpus and the plan of the packing, which the first opening makes."""
    _write(source, folder, settings)
    open_data(one_corpus(folder, packing="best_fit"), settings.seq_len)


def one_corpus(folder: Path, **config: Any) -> DataConfig:
    """Return the config of one corpus."""
    return DataConfig(path=str(folder), **config)


def two_corpora(folder: Path) -> DataConfig:
    """Return the config of a mixture of two corpora, 70 samples of one to 30 of the other."""
    sources = {
        "first": SourceConfig(str(folder / "first"), 1 - SECOND_SHARE),
        "second": SourceConfig(str(folder / "second"), SECOND_SHARE),
    }
    return DataConfig(sources=sources)


def _open(folder: Path, settings: Settings, state: Any, *, config: Callable[[Path], DataConfig]) -> Loader:
    data_config = replace(config(folder), prefetch_batches=PREFETCH_BATCHES * settings.num_workers)
    data = open_data(data_config, settings.seq_len)
    size = settings.batch_size
    per_epoch = sum(source.samples.num_samples for source in data.train.sources) // size

    def read(epoch: int, first: int) -> Iterator[Any]:
        start = (epoch * per_epoch + first) * size
        with data.batches(size, samples_consumed=start, num_batches=per_epoch - first) as batches:
            for batch in batches:
                yield batch.tokens_BL, batch.targets_BL

    return counted_loader(state, per_epoch, read)


def _write_nothing(source: SourceTokens, folder: Path, settings: Settings) -> None:
    """Write nothing: the contestant reads the flat file from which all others are written."""


def _open_memmap(folder: Path, settings: Settings, state: Any, *, as_array: bool = False) -> Loader:
    """Windows in an order that numpy shuffles for each epoch, each read and converted to int64 in one copy.

    `as_array`: read through a plain array over the map; its slices take half the time of those of np.memmap.
    """
    mapped = np.memmap(folder.parent / FLAT, dtype=np.uint16, mode="r")
    tokens = np.asarray(mapped) if as_array else mapped
    num_windows = (len(tokens) - 1) // settings.seq_len
    per_epoch = num_windows // settings.batch_size

    def read(epoch: int, first: int) -> Iterator[Rows]:
        starts = np.random.default_rng((settings.seed, epoch)).permutation(num_windows) * settings.seq_len
        for batch in range(first, per_epoch):
            rows = np.empty((settings.batch_size, settings.seq_len + 1), dtype=np.int64)
            for row, start in enumerate(starts[batch * len(rows) : (batch + 1) * len(rows)].tolist()):
                rows[row] = tokens[start : start + rows.shape[1]]
            yield rows

    return counted_loader(state, per_epoch, read)


def _open_nanogpt(folder: Path, settings: Settings, state: Any) -> Loader:
    """Windows at random places, inputs and targets read separately, as nanoGPT's get_batch does."""
    import torch

    rng = np.random.default_rng(settings.seed)

    def epoch() -> Iterator[tuple[Any, Any]]:
        num_tokens = len(np.memmap(folder.parent / FLAT, dtype=np.uint16, mode="r"))
        for _ in range(num_tokens // settings.seq_len // settings.batch_size):
            tokens = np.memmap(folder.parent / FLAT, dtype=np.uint16, mode="r")  # opened again, as nanoGPT does
            starts = rng.integers(num_tokens - settings.seq_len, size=settings.batch_size).tolist()
            inputs, targets = (
                torch.stack([torch.from_numpy(tokens[i : i + settings.seq_len].astype(np.int64)) for i in shifted])
                for shifted in (starts, [i + 1 for i in starts])
            )
            yield inputs, targets

    return Loader(epoch)


def _ours(name: str, write: Any, config: Callable[[Path], DataConfig], note: str = "") -> Contestant:
    return Contestant(
        name,
        write,
        partial(_open, config=config),
        workers=(0, 1),
        note=note or f"num_workers = 1: a thread that reads {PREFETCH_BATCHES} batches ahead",
    )


OURS = "ours, windows"

CONTESTANTS = [
    Contestant(LIMIT, _write_nothing, _open_memmap, note="one flat file through np.memmap, shuffled windows"),
    Contestant(
        "memmap, as array",
        _write_nothing,
        partial(_open_memmap, as_array=True),
        note="the same through a plain array: nothing in Python is faster",
    ),
    _ours(OURS, _write, one_corpus),
    _ours("ours, documents", _write, partial(one_corpus, packing="documents"), "with positions for attention masks"),
    _ours("ours, best_fit", _write_packed, partial(one_corpus, packing="best_fit"), "the plan was made before"),
    _ours("ours, mixture", _write_two, two_corpora, "70:30 of two corpora"),
    Contestant(
        "memmap, nanoGPT", _write_nothing, _open_nanogpt, ("torch",), note="random places, inputs and targets apart"
    ),
]
