"""A global sample as people read it: text with a line where a document begins that says where it comes from.

Lines of text begin with `| `, lines about it with `--`, so that neither can be taken for the other without colours.
"""

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from foretrain.configs.schema import Config
from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.data_pipeline.inspect.peek import Look, Part, check, look
from foretrain.data_pipeline.inspect.printable import printable
from foretrain.data_pipeline.inspect.target import source_paths
from foretrain.data_pipeline.prepare.tokenizer import load_tokenizer
from foretrain.data_pipeline.stream.data import open_data
from foretrain.data_pipeline.stream.packing import Stretch

RULE_STYLE, MARGIN_STYLE = "bold yellow", "dim"
TEXT_STYLES = ("", "cyan")
"""Documents in turn."""


def show(config: Config, first: int, count: int, console: Console) -> None:
    """Print the global samples from `first` on. Raises ValueError for samples that cannot be, and CorpusError."""
    check(first, count)
    data = open_data(config.data, config.model.seq_len, progress=True)
    tokenizer = load_tokenizer(data.any_stream.store.path(TOKENIZER))
    paths = source_paths(config.data)
    for g in range(first, first + count):
        if g > first:
            console.print()
        sample = look(data, g)
        print_look(sample, paths[sample.source.name], config.train.global_batch_size, tokenizer, console)


def print_look(look: Look, path: str, global_batch_size: int, tokenizer: Tokenizer, console: Console) -> None:
    """Print a global sample; `path` is that of its source."""
    view = _View(look, tokenizer, console)
    for line in _header(look, path, global_batch_size):
        view.rule(line)
    at = 0
    for number, part in enumerate(look.parts, start=1):
        view.tokens(at, part.at, number)
        view.rule(_heading(look, part, number))
        view.tokens(part.at, part.at + part.count, number)
        at = part.at + part.count
    end = len(look.tokens_L) - look.num_padding
    view.tokens(at, end, 0)
    if look.num_padding:
        view.rule(f"{look.num_padding:,} positions of padding from position {end:,} on")


class _View:
    def __init__(self, look: Look, tokenizer: Tokenizer, console: Console) -> None:
        self._tokens_L, self._tokenizer, self._console = look.tokens_L, tokenizer, console

    def rule(self, line: str) -> None:
        """A line about the text, drawn out to the edge of a terminal."""
        shown = f"-- {printable(line)} --"
        if self._console.is_terminal:
            shown = shown.ljust(self._console.width, "-")
        self._console.print(Text(shown, style=RULE_STYLE), soft_wrap=True)

    def tokens(self, begin: int, end: int, number: int) -> None:
        """The text of positions [begin, end), in the colour of document `number`."""
        if begin == end:
            return
        text = printable(self._tokenizer.decode(self._tokens_L[begin:end].tolist(), skip_special_tokens=False))
        for line in text.split("\n"):
            shown = Text.assemble(("| ", MARGIN_STYLE), (line, TEXT_STYLES[number % len(TEXT_STYLES)]))
            self._console.print(shown, soft_wrap=True)


def _header(look: Look, path: str, global_batch_size: int) -> Iterator[str]:
    step, row = divmod(look.g, global_batch_size)
    stage = f", stage {look.stage}" if look.stage else ""
    yield f"global sample {look.g:,}: row {row:,} of the batch of step {step + 1:,}{stage}"
    yield (
        f"{_source(look)} ({path}), epoch {look.epoch:,} (from 0), its sample {look.sample:,}, "
        f"tokens {_shown(look.stretches)} of its stream"
    )
    num_targets = len(look.tokens_L)
    yield f"{num_targets - look.num_ignored:,} of {num_targets:,} targets carry loss"
    if look.replaced:
        yield f"it stands in for sample {look.replaced.sample:,}, which cannot be read: {look.replaced.why}"


def _heading(look: Look, part: Part, number: int) -> str:
    begins = (
        f"document {number:,} goes on at position {part.at:,}, {part.num_before:,} tokens into it"
        if part.num_before
        else f"document {number:,} begins at position {part.at:,}"
    )
    place = part.place
    return f"{begins}: {_source(look)}, shard {place.shard}, member {place.member}, byte {place.offset_bytes:,}"


def _source(look: Look) -> str:
    return f"source {look.source.name}" if look.source.name else "the corpus"


def _shown(stretches: list[Stretch]) -> str:
    return ", ".join(f"[{each.start:,}, {each.start + each.count:,})" for each in stretches)
