"""What a format of input files declares, and what the formats of one pass over the files share."""

import io
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from foretrain.data_pipeline.prepare.bad_inputs import SetupError
from foretrain.data_pipeline.prepare.text import TextReader
from foretrain.data_pipeline.prepare.token_members import Document, TokenFormat


@dataclass
class Reading:
    """One pass over the files: the options of its user, and what it has counted."""

    texts: TextReader
    """It has the key of the text, and counts the documents with invalid UTF-8."""
    token_format: TokenFormat | None = None
    """None: tokens are refused, because their vocabulary is unknown."""
    member: str | None = None
    skip_textless: bool = False
    """As in TarDocuments."""
    num_skipped: int = 0
    """Samples of shards that were left out because of `skip_textless`."""

    def tokens_of(self, place: str) -> TokenFormat:
        """How tokens are read. Raises SetupError, which names the place that has some, if it is not known."""
        if self.token_format is None:
            raise SetupError(f"{place} holds tokens: give the tokenizer.json that made them with --tokenizer")
        return self.token_format


Documents = Generator[Document, None, None]


class Format(ABC):
    """One kind of input files. It has no state: what a pass counts is in its Reading."""

    endings: tuple[str, ...]
    """Ends of the names of its files, without those of compressions."""
    may_be_compressed = True
    """Whether a file may also be compressed as one, with an ending of `unpack.COMPRESSIONS` after its own. If not, it
    is read in any order."""

    def is_input(self, file: Path) -> bool:
        """Whether a file that was found in a folder, with such an ending, is an input. Others are left out."""
        return True

    def files_of(self, file: Path) -> list[Path]:
        """The files that are read if a user names this one. `read` is called with each of them."""
        return [file]

    @abstractmethod
    def read(self, stream: io.BufferedIOBase, file: Path, reading: Reading) -> Documents:
        """Yield the documents of a file, some of which may be empty; `stream` has its decompressed bytes.

        Raises CorpusError, which names the file and the place in it, if no more documents can be read; an error of one
        document is given to `reading.texts.bad`, and the next one follows.
        """
