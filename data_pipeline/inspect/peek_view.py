"""A global sample as text; before each document, a line says where it comes from.

Lines of text begin with `| `, lines about the text with `--`, so that they can be distinguished without colours.
"""

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from foretrain.configs.schema import Config
from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.data_pipeline.inspect.peek import DocumentPart, SampleInfo, check, inspect_sample
from foretrain.data_pipeline.prepare.tokenizer import load_tokenizer
from foretrain.data_pipeline.stream.data import named_sources, open_data
from foretrain.data_pipeline.stream.left_out import NOTHING, LeftOut
from foretrain.data_pipeline.stream.packing import Span
from foretrain.printable import printable

RULE_STYLE, MARGIN_STYLE = "bold yellow", "dim"
TEXT_STYLES = ("", "cyan")
"""Colours of the documents, used in turn."""


def show(config: Config, first: int, count: int, console: Console, left_out: LeftOut = NOTHING) -> None:
    """Print `count` global samples from `first` on, with the steps of a run that leaves `left_out` out.

    Raises ValueError for samples that do not exist, and CorpusError for data that cannot be opened or read.
    """
    check(first, count)
    data = open_data(config.data, config.model.seq_len, progress=True)
    tokenizer = load_tokenizer(data.any_stream.store.path(TOKENIZER))
    named = named_sources(config.data)
    for g in range(first, first + count):
        if g > first:
            console.print()
        sample = inspect_sample(data, g)
        step = _step(left_out.consumed_before(g), config.train.global_batch_size)
        print_sample(sample, named[sample.source.name].path, step, tokenizer, console)


def print_sample(sample: SampleInfo, path: str, step: str, tokenizer: Tokenizer, console: Console) -> None:
    """Print a global sample; `path` is the path of its source, and `step` says which step trains on it."""
    view = _SampleView(sample, tokenizer, console)
    for line in _header(sample, path, step):
        view.rule(line)
    at = 0
    for number, part in enumerate(sample.parts, start=1):
        view.tokens(at, part.at, number)
        view.rule(_heading(sample, part, number))
        view.tokens(part.at, part.at + part.count, number)
        at = part.at + part.count
    end = len(sample.tokens_L) - sample.num_padding
    view.tokens(at, end, 0)
    if sample.num_padding:
        view.rule(f"{sample.num_padding:,} positions of padding from position {end:,} on")


class _SampleView:
    def __init__(self, sample: SampleInfo, tokenizer: Tokenizer, console: Console) -> None:
        self._tokens_L, self._tokenizer, self._console = sample.tokens_L, tokenizer, console

    def rule(self, line: str) -> None:
        """Print a line about the text, as long as a terminal is wide."""
        shown = f"-- {printable(line)} --"
        if self._console.is_terminal:
            shown = shown.ljust(self._console.width, "-")
        self._console.print(Text(shown, style=RULE_STYLE), soft_wrap=True)

    def tokens(self, begin: int, end: int, number: int) -> None:
        """Print the text of positions [begin, end) in the colour of document `number`."""
        if begin == end:
            return
        text = printable(self._tokenizer.decode(self._tokens_L[begin:end].tolist(), skip_special_tokens=False))
        for line in text.split("\n"):
            shown = Text.assemble(("| ", MARGIN_STYLE), (line, TEXT_STYLES[number % len(TEXT_STYLES)]))
            self._console.print(shown, soft_wrap=True)


def _step(consumed_before: int | None, global_batch_size: int) -> str:
    """Which step trains on the sample before which that many are consumed; None: the run leaves it out."""
    if consumed_before is None:
        return "left out by a rollback"
    step, row = divmod(consumed_before, global_batch_size)
    return f"row {row:,} of the batch of step {step + 1:,}"


def _header(sample: SampleInfo, path: str, step: str) -> Iterator[str]:
    stage = f", stage {sample.stage}" if sample.stage else ""
    yield f"global sample {sample.g:,}: {step}{stage}"
    yield (
        f"{_source(sample)} ({path}), epoch {sample.epoch:,} (from 0), its sample {sample.sample:,}, "
        f"tokens {_shown(sample.spans)} of its stream"
    )
    num_targets = len(sample.tokens_L)
    yield f"{num_targets - sample.num_ignored:,} of {num_targets:,} targets carry loss"
    if sample.replaced:
        yield f"it replaces sample {sample.replaced.sample:,}, which cannot be read: {sample.replaced.why}"


def _heading(sample: SampleInfo, part: DocumentPart, number: int) -> str:
    begins = (
        f"document {number:,} continues at position {part.at:,}, {part.num_before:,} tokens into it"
        if part.num_before
        else f"document {number:,} begins at position {part.at:,}"
    )
    place = part.place
    return f"{begins}: {_source(sample)}, shard {place.shard}, member {place.member}, byte {place.offset_bytes:,}"


def _source(sample: SampleInfo) -> str:
    return f"source {sample.source.name}" if sample.source.name else "the corpus"


def _shown(spans: list[Span]) -> str:
    return ", ".join(f"[{each.start:,}, {each.start + each.count:,})" for each in spans)
