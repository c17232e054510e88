"""The other libraries that are measured, each with the settings that its documentation recommends for this use.

Each is imported only in the process that measures it. All but `webdataset, documents` store complete samples of
seq_len + 1 uint16 tokens and shuffle them. A batch is converted to int64 when it is put together, in the worker if
there is one. If a loader of the library has a state, the resume uses it.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.contest import FLAT, Contestant, Loader, Settings, SourceTokens

NUM_SHARDS = 16
SHUFFLE_BUFFER = 1000
"""Samples or documents in a shuffle buffer; webdataset's documentation has 1,000."""


def _collate(samples: list[Any]) -> Any:
    """Return rows of uint16 as one int64 tensor, in one pass."""
    import torch

    rows = np.empty((len(samples), len(samples[0])), dtype=np.int64)
    for row, sample in zip(rows, samples, strict=True):
        row[:] = sample
    return torch.from_numpy(rows)


def _workers(num_workers: int) -> dict[str, Any]:
    return {"num_workers": num_workers, "persistent_workers": num_workers > 0}


# webdataset


def _write_tars(payloads: Iterable[np.ndarray[Any, Any]], total: int, folder: Path) -> None:
    import webdataset as wds

    numbered = enumerate(payloads)
    for shard in range(NUM_SHARDS):
        size = total * (shard + 1) // NUM_SHARDS - total * shard // NUM_SHARDS
        with wds.TarWriter(str(folder / f"{shard:06d}.tar"), mtime=0) as tar:
            for i, payload in islice(numbered, size):
                tar.write({"__key__": f"{i:09d}", "tokens": payload.tobytes()})


def _write_documents(source: SourceTokens, folder: Path, settings: Settings) -> None:
    _write_tars(source.documents(), len(source.ends), folder)


def _write_samples(source: SourceTokens, folder: Path, settings: Settings) -> None:
    _write_tars(source.samples(settings.seq_len), source.num_samples(settings.seq_len), folder)


def _tokens_of(sample: dict[str, bytes]) -> np.ndarray[Any, Any]:
    return np.frombuffer(sample["tokens"], dtype=np.uint16)


def cut_into_samples(documents: Iterable[np.ndarray[Any, Any]], size: int) -> Iterator[np.ndarray[Any, Any]]:
    """Put documents end to end and yield samples of `size` tokens that overlap by one token."""
    held: list[np.ndarray[Any, Any]] = []
    num_held = 0
    for document in documents:
        held.append(document)
        num_held += len(document)
        if num_held < size:
            continue
        joined = np.concatenate(held)
        start = 0
        while start + size <= num_held:
            yield joined[start : start + size]
            start += size - 1
        held = [joined[start:]]
        num_held -= start


def _open_webdataset(folder: Path, settings: Settings, state: Any, *, per_document: bool) -> Loader:
    import webdataset as wds

    urls = sorted(map(str, folder.glob("*.tar")))
    members = wds.WebDataset(urls, shardshuffle=NUM_SHARDS, seed=settings.seed)
    samples = members.shuffle(SHUFFLE_BUFFER, rng=random.Random(settings.seed)).map(_tokens_of)
    if per_document:
        samples = samples.compose(partial(cut_into_samples, size=settings.seq_len + 1))
    batches = samples.batched(settings.batch_size, collation_fn=_collate, partial=False)
    return Loader(wds.WebLoader(batches, batch_size=None, **_workers(settings.num_workers)).__iter__)


# MosaicML Streaming


def _write_mds(source: SourceTokens, folder: Path, settings: Settings) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"tokens": f"ndarray:uint16:{settings.seq_len + 1}"}) as writer:
        for sample in source.samples(settings.seq_len):
            writer.write({"tokens": sample})


def _collate_mds(samples: list[dict[str, Any]]) -> Any:
    return _collate([sample["tokens"] for sample in samples])


def _open_mds(folder: Path, settings: Settings, state: Any) -> Loader:
    from streaming import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(
        local=str(folder), shuffle=True, shuffle_seed=settings.seed, batch_size=settings.batch_size
    )
    loader = StreamingDataLoader(
        dataset,
        batch_size=settings.batch_size,
        drop_last=True,
        collate_fn=_collate_mds,
        **_workers(settings.num_workers),
    )
    if state is not None:
        loader.load_state_dict(state)
    return Loader(loader.__iter__, loader.state_dict)


# LitData


def _read_windows(bounds: tuple[int, int], flat: str, seq_len: int) -> Iterator[Any]:
    import torch

    tokens = np.memmap(flat, dtype=np.uint16, mode="r")
    for sample in SourceTokens(
        tokens[bounds[0] * seq_len : bounds[1] * seq_len + 1], np.empty(0, dtype=np.int64)
    ).samples(seq_len):
        yield torch.from_numpy(np.array(sample))


def _write_litdata(source: SourceTokens, folder: Path, settings: Settings) -> None:
    from litdata import TokensLoader, optimize

    size = settings.seq_len + 1
    cuts = np.linspace(0, source.num_samples(settings.seq_len), NUM_SHARDS + 1).astype(int).tolist()
    optimize(
        fn=partial(_read_windows, flat=str(folder.parent / FLAT), seq_len=settings.seq_len),
        inputs=list(pairwise(cuts)),
        output_dir=str(folder),
        chunk_size=size * max(1, (32 << 20) // size),  # 64 MiB, as its documentation of pre-training advises
        num_workers=1,
        item_loader=TokensLoader(block_size=size),
        verbose=False,
    )


def _open_litdata(folder: Path, settings: Settings, state: Any) -> Loader:
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    dataset = StreamingDataset(
        str(folder),
        item_loader=TokensLoader(block_size=settings.seq_len + 1),
        shuffle=True,
        drop_last=True,
        seed=settings.seed,
    )
    loader = StreamingDataLoader(
        dataset, batch_size=settings.batch_size, drop_last=True, collate_fn=_collate, **_workers(settings.num_workers)
    )
    if state is not None:
        loader.load_state_dict(state)
    return Loader(loader.__iter__, loader.state_dict)


# Hugging Face datasets


def _write_arrow(source: SourceTokens, folder: Path, settings: Settings) -> None:
    import pyarrow as pa
    from datasets import Dataset

    size = settings.seq_len + 1
    flat = np.concatenate(list(source.samples(settings.seq_len)))
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat), size)
    Dataset(pa.table({"tokens": column})).save_to_disk(str(folder), num_shards=NUM_SHARDS)


def _int64_of(table: Any, size: int) -> Any:
    import torch

    column = table["tokens"].combine_chunks()
    while hasattr(column, "flatten") and column.type.num_fields:
        column = column.flatten()
    return torch.from_numpy(column.to_numpy().reshape(-1, size).astype(np.int64))


def _open_arrow_map(folder: Path, settings: Settings, state: Any) -> Loader:
    """A sampler of full batches, as the page on PyTorch recommends; Arrow is the fastest of the formats."""
    from datasets import load_from_disk
    from torch.utils.data import DataLoader

    dataset = load_from_disk(str(folder)).with_format("arrow")
    sampler = _ShuffledBatches(len(dataset), settings, state or 0)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        collate_fn=partial(_int64_of, size=settings.seq_len + 1),
        **_workers(settings.num_workers),
    )
    num_given = state or 0

    def epoch() -> Iterator[Any]:
        nonlocal num_given
        for batch in loader:
            num_given += 1
            yield batch

    return Loader(epoch, lambda: num_given)


class _ShuffledBatches:
    """The indices of each batch from batch number `start` on; each epoch has another order."""

    def __init__(self, num_samples: int, settings: Settings, start: int) -> None:
        self._num_samples, self._batch_size, self._seed = num_samples, settings.batch_size, settings.seed
        self._epoch, self._skip = divmod(start, len(self))

    def __len__(self) -> int:
        return self._num_samples // self._batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._num_samples)
        first, self._skip, self._epoch = self._skip, 0, self._epoch + 1
        for batch in range(first, len(self)):
            yield order[batch * self._batch_size : (batch + 1) * self._batch_size].tolist()


def _open_arrow_iterable(folder: Path, settings: Settings, state: Any) -> Loader:
    """Shards in a shuffled order and a shuffle buffer, as the page on streaming recommends for speed.

    The buffer is filled from one shard at a time; from ten, which is the default, batches take five times as long.
    """
    from datasets import load_from_disk
    from torchdata.stateful_dataloader import StatefulDataLoader

    shards = load_from_disk(str(folder)).with_format("arrow").to_iterable_dataset(NUM_SHARDS)
    shuffled = shards.shuffle(seed=settings.seed, buffer_size=SHUFFLE_BUFFER, max_buffer_input_shards=1)
    dataset = shuffled.batch(settings.batch_size, drop_last_batch=True)
    collate = partial(_int64_of, size=settings.seq_len + 1)
    loader = StatefulDataLoader(dataset, batch_size=None, collate_fn=collate, **_workers(settings.num_workers))
    if state is not None:
        loader.load_state_dict(state)
    epochs = count()

    def epoch() -> Iterator[Any]:
        dataset.set_epoch(next(epochs))
        return iter(loader)

    return Loader(epoch, loader.state_dict)


WEBDATASET: Callable[..., Contestant] = partial(
    Contestant, modules=("webdataset", "torch"), workers=(0, 1, 2), is_peer=True
)

PEERS = [
    WEBDATASET(
        "webdataset, documents",
        _write_documents,
        partial(_open_webdataset, per_document=True),
        note="one document per member, joined and cut into samples as they are read",
    ),
    WEBDATASET(
        "webdataset, samples",
        _write_samples,
        partial(_open_webdataset, per_document=False),
        note="one sample per member",
    ),
    Contestant("MosaicML Streaming", _write_mds, _open_mds, ("streaming", "torch"), workers=(0, 1, 2), is_peer=True),
    Contestant("LitData", _write_litdata, _open_litdata, ("litdata", "torch"), workers=(0, 1, 2), is_peer=True),
    Contestant(
        "HF datasets, map", _write_arrow, _open_arrow_map, ("datasets", "torch"), workers=(0, 1, 2), is_peer=True
    ),
    Contestant(
        "HF datasets, iterable",
        _write_arrow,
        _open_arrow_iterable,
        ("datasets", "torch", "torchdata"),
        workers=(0, 1, 2),
        is_peer=True,
        note=f"shuffle buffer of {SHUFFLE_BUFFER}",
    ),
]
