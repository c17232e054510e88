"""The documents of plain WebDataset shards: one member of each sample is its text or its tokens."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.bad_inputs import SetupError
from foretrain.data_pipeline.prepare.tar_samples import Sample, read_samples
from foretrain.data_pipeline.prepare.text import TextReader
from foretrain.data_pipeline.prepare.token_members import Document, TokenFormat
from foretrain.data_pipeline.prepare.unpack import UNPACK_ERRORS, read_document, unpack, without_compression

KINDS = ("txt", "json", "jsonl", "npy", "bin")
"""Kinds of members that can be a sample's document. If a sample has several, the first kind in this order is taken."""


@dataclass
class TarDocuments:
    """Reader of the documents of shards."""

    texts: TextReader
    token_format: TokenFormat | None
    """None: tokens are refused, because their vocabulary is unknown."""
    member: str | None = None
    """Extension of the member to take; None: the first of KINDS that the sample has."""
    skip_textless: bool = False
    """Leave out samples without such a member, and count them; otherwise they are an error."""
    num_skipped: int = 0

    def read(self, stream: io.BufferedIOBase, shard: str) -> Iterator[Document]:
        """Yield the documents of a shard, some of which may be empty; `stream` has its decompressed bytes.

        Raises CorpusError, which names the shard, the member and its offset, for any damage, for a sample without a
        document, and for a sample with two members of the same kind.
        """
        for sample in read_samples(stream, shard, lambda extension: self._rank(extension) is not None):
            try:
                extension = self._choose(sample, shard)
                if extension is None:
                    self.num_skipped += 1
                    continue
                member = sample.members[extension]
                place = f"{shard}: {member.name}, at byte {member.offset_bytes},"
                yield from self._documents(extension, member.data, place)
            except CorpusError as error:
                self.texts.bad(error)

    def _rank(self, extension: str) -> int | None:
        """The priority of a member, of which the lowest is taken; None if it is not a document."""
        kind = without_compression(f".{extension}").rpartition(".")[2]
        if kind not in KINDS or (self.member is not None and extension != self.member.lower().lstrip(".")):
            return None
        return KINDS.index(kind)

    def _choose(self, sample: Sample, shard: str) -> str | None:
        ranks = {extension: rank for extension in sample.members if (rank := self._rank(extension)) is not None}
        best = [extension for extension, rank in ranks.items() if rank == min(ranks.values())]
        if len(best) == 1:
            return best[0]
        place = f"{shard}: the sample {sample.key} ({sample.place})"
        if best:
            raise CorpusError(f"{place} has {' and '.join(best)}: choose one of them for all samples with --member")
        if not self.skip_textless:
            wanted = self.member or ", ".join(KINDS)
            raise CorpusError(
                f"{place} has only {', '.join(sample.members)}, and none of {wanted}: choose another with --member, or "
                "leave such samples out with --skip-textless"
            )
        return None

    def _documents(self, extension: str, data: bytes, place: str) -> Iterator[Document]:
        try:
            data = read_document(unpack(extension, io.BytesIO(data)), place)
        except UNPACK_ERRORS as error:
            raise CorpusError(f"{place} cannot be decompressed ({error}): repair it or leave it out") from error
        kind = without_compression(f".{extension}").rpartition(".")[2]
        if kind == "txt":
            yield self.texts.decode_file(data)
        elif kind == "json":
            yield self.texts.parse_json(data, place)
        elif kind == "jsonl":
            yield from self.texts.read_lines(io.BytesIO(data), place)
        elif self.token_format is None:
            raise SetupError(f"{place} holds tokens: give the tokenizer.json that made them with --tokenizer")
        else:
            read = self.token_format.read_npy if kind == "npy" else self.token_format.read_bin
            yield from read(io.BytesIO(data), place)
