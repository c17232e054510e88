"""The inputs of a corpus: the files of each split, and what was found besides."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foretrain.data_pipeline.corpus.manifest import Source
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.input_files import Found, StrPath, search


@dataclass(frozen=True)
class Inputs:
    """The inputs as the user has named them, and their files."""

    named: Sequence[StrPath]
    val_named: Sequence[StrPath]
    """The user's own held-out files; empty if a part of the documents is held out."""
    found: Found
    val_found: Found
    train: list[Path] = field(default_factory=list)
    val: list[Path] = field(default_factory=list)

    @classmethod
    def find(cls, named: Sequence[StrPath], val_named: Sequence[StrPath], *, follow_links: bool) -> "Inputs":
        """Find the files. Those that are held out are no files to train on. Raises CorpusError as `search` does, but
        for files in folders that cannot be opened: these are `unopened`."""
        found = search(named, follow_links=follow_links, skip_bad=True)
        if not val_named:
            return cls(named, (), found, Found([]), found.files)
        val_found = search(val_named, follow_links=follow_links, skip_bad=True)
        held_out = {file.resolve() for file in val_found.files}
        train = [file for file in found.files if file.resolve() not in held_out]
        if not train:
            raise CorpusError("--val names every file of the inputs: name other files to train on")
        return cls(named, val_named, found, val_found, train, val_found.files)

    @property
    def files(self) -> list[Path]:
        """All files, in the order in which they are read: first those to train on."""
        return self.train + self.val

    @property
    def unopened(self) -> list[tuple[Path, CorpusError]]:
        """Files in folders that cannot be opened, with the reason."""
        return self.found.bad + self.val_found.bad

    def sources(self) -> list[Source]:
        """The record of each input, of which the files are read that are not held out."""
        return _sources(self.named, self.found, self.train)

    def val_sources(self) -> list[Source]:
        """The record of each input that is held out."""
        return _sources(self.val_named, self.val_found, self.val)


def _sources(named: Sequence[StrPath], found: Found, read: Sequence[Path]) -> list[Source]:
    are_read = set(read)
    sources = []
    for each, files in zip(named, found.by_input, strict=True):
        kept = [file for file in files if file in are_read]
        sources.append(Source(str(Path(each).resolve()), len(kept), sum(file.stat().st_size for file in kept)))
    return sources
