"""Reading what a rank needs of the files of a checkpoint: each block that it needs once, and checked."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from foretrain.trainer.checkpoint.checksums import BLOCK_BYTES, Trailer, expected_trailer, read_blocks
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.reading.node import Node
from foretrain.trainer.checkpoint.reading.sharing import Run, plan_runs, ranges_of, rounds_of
from foretrain.trainer.checkpoint.reading.stored import Wanted

Blocks = dict[int, list[Wanted]]
"""What is wanted of each block of a file."""


def read_wanted(folder: Place, wanted: Mapping[str, Sequence[Wanted]], node: Node) -> None:
    """Read what is wanted of each file of a folder; ranks of `node` that want the same read it once.

    Raises DamagedError on all of them if what one of them reads is not what was written, and OSError if it cannot be
    read.
    """
    _Reading(folder, wanted, node).read()


class _Reading:
    def __init__(self, folder: Place, wanted: Mapping[str, Sequence[Wanted]], node: Node) -> None:
        self._folder, self._node = folder, node
        self._blocks = {file: _by_block(each) for file, each in wanted.items()}
        self._trailers: dict[str, Trailer] = {}
        self._error: Exception | None = None
        self._has_stopped = False
        """Whether there is no use in reading more, since this rank or another one has failed."""

    def read(self) -> None:
        needs = self._node.gather({file: ranges_of(blocks) for file, blocks in self._blocks.items()})
        runs = plan_runs(needs)
        self._read_trailers(runs)
        for together in rounds_of(runs):
            self._node.exchange(together, self._content, self._take)
        for run in runs:
            if not run.receivers and run.reader == self._node.place:
                self._take(run, self._content(run))
        self._node.raise_first(self._error)

    def _read_trailers(self, runs: Sequence[Run]) -> None:
        """Read the checksums of each file once, by the rank that reads its first run."""
        readers = {run.file: run.reader for run in reversed(runs)}
        found: dict[str, Trailer] = {}
        try:
            for file in [file for file, reader in readers.items() if reader == self._node.place]:
                found[file] = expected_trailer(self._folder / file)
        except Exception as error:  # noqa: BLE001 (other ranks wait for an answer)
            self._error = error
        self._node.raise_first(self._error)
        for of_rank in self._node.gather(found):
            self._trailers |= of_rank

    def _content(self, run: Run) -> Tensor | None:
        """The content of a run; None if it cannot be read."""
        if self._has_stopped:
            return None
        try:
            content = read_blocks(self._folder / run.file, self._trailers[run.file], run.first, run.stop)
        except Exception as error:  # noqa: BLE001 (other ranks wait for the run)
            self._error, self._has_stopped = error, True
            return None
        return torch.frombuffer(content, dtype=torch.uint8)

    def _take(self, run: Run, content: Tensor | None) -> None:
        """Copy to where it is needed what this rank wants of a run."""
        if content is None:
            self._has_stopped = True
        if self._has_stopped:
            return
        assert content is not None
        blocks = self._blocks[run.file]
        try:
            for each in dict.fromkeys(each for number in range(run.first, run.stop) for each in blocks[number]):
                each.take(run.first * BLOCK_BYTES, content)
        except Exception as error:  # noqa: BLE001 (other ranks wait for what this one reads)
            self._error, self._has_stopped = error, True


def _by_block(wanted: Sequence[Wanted]) -> Blocks:
    found: Blocks = {}
    for each in wanted:
        first, stop = each.span
        for number in range(first // BLOCK_BYTES, -(-stop // BLOCK_BYTES)):
            found.setdefault(number, []).append(each)
    return found
