"""The inputs of a corpus: the files of each split, and what was found besides."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

from foretrain.data_pipeline.corpus.manifest import SET_NAME, Source, split_of_set
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.input_files import Found, StrPath, search


@dataclass(frozen=True)
class Part:
    """The inputs of one split as the user has named them, and the files of them that are read for it."""

    named: Sequence[StrPath] = ()
    found: Found = field(default_factory=lambda: Found([]))
    files: list[Path] = field(default_factory=list)

    @classmethod
    def find(cls, named: Sequence[StrPath], *, follow_links: bool) -> "Part":
        """Find the files. Raises CorpusError as `search` does, but for files in folders that cannot be opened."""
        found = search(named, follow_links=follow_links, skip_bad=True)
        return cls(named, found, found.files)

    def without(self, others: Sequence["Part"]) -> "Part":
        """The same inputs without the files of others."""
        taken = {file.resolve() for other in others for file in other.files}
        return replace(self, files=[file for file in self.files if file.resolve() not in taken])

    def sources(self) -> list[Source]:
        """The record of each input."""
        are_read = set(self.files)
        sources = []
        for each, files in zip(self.named, self.found.by_input, strict=True):
            kept = [file for file in files if file in are_read]
            sources.append(Source(str(Path(each).resolve()), len(kept), sum(file.stat().st_size for file in kept)))
        return sources


@dataclass(frozen=True)
class Inputs:
    """The inputs of all splits. Files that are held out are read for no other split."""

    train: Part
    val: Part
    """The user's own held-out files that are in no named set."""
    val_sets: dict[str, Part]
    """The named sets of the user's own held-out files."""

    @classmethod
    def find(
        cls,
        named: Sequence[StrPath],
        val_named: Sequence[StrPath],
        val_sets: Mapping[str, Sequence[StrPath]],
        *,
        follow_links: bool,
    ) -> "Inputs":
        """Find the files. Raises CorpusError as `Part.find` does, for names that no set can have, for a file in two
        sets, and if no file is left to train on."""
        train = Part.find(named, follow_links=follow_links)
        val = Part.find(val_named, follow_links=follow_links) if val_named else Part()
        for name in val_sets:
            if not re.fullmatch(SET_NAME, name):
                raise CorpusError(
                    f"--val {name}=...: a name of held-out files has lower-case letters, digits and _, and begins with "
                    "a letter, since files and metrics are named by it"
                )
        sets = {name: Part.find(val_sets[name], follow_links=follow_links) for name in sorted(val_sets)}
        _check_in_one_set(sets)
        val = val.without([*sets.values()])
        train_only = train.without([val, *sets.values()])
        if train.files and not train_only.files:
            raise CorpusError("--val names every file of the inputs: name other files to train on")
        return cls(train_only, val, sets)

    @property
    def parts(self) -> dict[str, Part]:
        """The inputs of each split, in the order in which they are read: first those to train on."""
        return {"train": self.train, "val": self.val} | {
            split_of_set(name): part for name, part in self.val_sets.items()
        }

    @property
    def files(self) -> list[Path]:
        """All files, in the order in which they are read."""
        return [file for part in self.parts.values() for file in part.files]

    @property
    def has_held_out_files(self) -> bool:
        """Whether the user has named files to hold out."""
        return bool(self.val.named or self.val_sets)

    def split_of(self, file_number: int) -> str:
        """The split for which a file is read, by its place in `files`."""
        ends = list(accumulate(len(part.files) for part in self.parts.values()))
        return list(self.parts)[bisect_right(ends, file_number)]

    @property
    def unopened(self) -> list[tuple[Path, CorpusError]]:
        """Files in folders that cannot be opened, with the reason."""
        return [bad for part in self.parts.values() for bad in part.found.bad]

    @property
    def ignored(self) -> Counter[str]:
        """Files in folders that no format reads, by the ending of their names."""
        return sum((part.found.ignored for part in self.parts.values()), Counter())


def _check_in_one_set(sets: Mapping[str, Part]) -> None:
    """Raise CorpusError if a file is in two named sets."""
    owner: dict[Path, str] = {}
    for name, part in sets.items():
        for file in part.files:
            other = owner.setdefault(file.resolve(), name)
            if other != name:
                raise CorpusError(f"--val names {file} in two sets, {other} and {name}: leave it out of one of them")
