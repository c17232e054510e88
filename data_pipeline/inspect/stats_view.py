"""Tables and bars of the statistics, in plain ASCII if the output is not a terminal."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from foretrain.data_pipeline.inspect.document_lengths import Lengths
from foretrain.data_pipeline.inspect.order_quality import Measure, ShuffleQuality
from foretrain.data_pipeline.inspect.stats import SourceStats, Stats
from foretrain.printable import printable

EIGHTHS = " ▏▎▍▌▋▊▉"
BAR_WIDTH = 24
FACTS_WIDTH, SOURCE_WIDTH = 30, 18
"""Columns of the terminal that the names of facts take, and the least columns that each source takes."""

FACTS: dict[str, Callable[[SourceStats], str]] = {
    "tokens": lambda source: f"{source.train.num_tokens:,}",
    "documents": lambda source: f"{source.train.num_documents:,}",
    "bytes of text": lambda source: f"{source.train.num_text_bytes:,}",
    "bytes per token": lambda source: f"{source.train.bytes_per_token:.3f}",
    "shards": lambda source: f"{source.train.num_shards:,}",
    "members of shards": lambda source: f"{source.train.num_members:,}",
    "held-out tokens": lambda source: f"{source.held_out.num_tokens:,}",
    "held-out documents": lambda source: f"{source.held_out.num_documents:,}",
    "samples of an epoch": lambda source: f"{source.packing.num_samples:,}",
    "padding": lambda source: _percent(source.packing.padding_share),
    "tokens that are no target": lambda source: f"{source.packing.num_unused:,}",
    "documents cut": lambda source: _percent(source.packing.truncated_share),
    "weight": lambda source: _percent(source.weight),
    "samples drawn by the run": lambda source: f"{source.num_drawn:,}",
    "share of the run": lambda source: _percent(source.drawn_share),
    "epochs by the run": lambda source: f"{source.epochs:.3f}",
    "most epochs allowed": lambda source: "any" if source.max_epochs is None else f"{source.max_epochs:g}",
}


def print_stats(stats: Stats, console: Console) -> None:
    """Print all statistics."""
    view = _StatsView(console)
    view.say(*_summary(stats))
    for some in _side_by_side(stats.sources, console.width):
        view.facts(some)
    if len(stats.stages) > 1:
        view.stages(stats)
    for source in stats.sources:
        view.report(source)
    for source in stats.sources:
        view.lengths(source, stats.budget.seq_len)
    view.shuffles(stats)


class _StatsView:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._fancy = console.is_terminal and not console.options.ascii_only

    def say(self, *lines: str) -> None:
        for line in lines:
            self._console.print(Text(printable(line)), soft_wrap=True)

    def facts(self, sources: Sequence[SourceStats]) -> None:
        """Print the facts of several sources, side by side."""
        table = self._table("", *(source.name or "corpus" for source in sources))
        for name, value in FACTS.items():
            table.add_row(name, *(value(source) for source in sources))
        self._print(table)

    def report(self, source: SourceStats) -> None:
        """Print what of a source's inputs is not in it as it was."""
        lines = [*source.report.lines()]
        if lines:
            self.say("", f"Inputs{f' of {source.name}' if source.name else ''}:", *(f"  {line}" for line in lines))

    def stages(self, stats: Stats) -> None:
        """Print the first token of each stage, its weights, and the samples that it takes from each source."""
        table = self._table("stage", "source", "from token", "weight", "drawn", "share", num_names=2)
        for stage in stats.stages:
            total = sum(stage.drawn.values())
            title, begins = stage.name or "(first)", f"{stage.from_tokens:,}"
            for name, drawn in stage.drawn.items():
                share = _percent(drawn / total) if total else "not reached"
                table.add_row(title, name, begins, _percent(stage.weights[name]), f"{drawn:,}", share)
                title = begins = ""
        self._print(table)

    def lengths(self, source: SourceStats, seq_len: int) -> None:
        """Print the histogram of a source's documents by length."""
        lengths = source.lengths
        most = max(each.num_documents for each in lengths.bins)
        ranges = [f"{each.low:,} - {2 * each.low - 1:,}" for each in lengths.bins]
        width = max(map(len, ["tokens", *ranges]))
        of_source = f" of {source.name}" if source.name else ""
        self.say("", f"Documents{of_source} by length, tokens:", f"  {_percentiles(lengths)}")
        self.say(f"  {'tokens':>{width}} {'':{BAR_WIDTH}} {'documents':>13} {'share':>7} {'of tokens':>9}")
        for each, shown in zip(lengths.bins, ranges, strict=True):
            drawn = bar(each.num_documents / most, BAR_WIDTH, fancy=self._fancy)
            share = _percent(each.num_documents / lengths.num_documents)
            of_tokens = _percent(each.num_tokens / lengths.num_tokens)
            mark = " <- seq_len" if each.low <= seq_len < 2 * each.low else ""
            numbers = f" {each.num_documents:>13,} {share:>7} {of_tokens:>9}{mark}"
            line = Text.assemble(f"  {shown:>{width}} ", (f"{drawn:{BAR_WIDTH}}", "cyan"), numbers)
            self._console.print(line, soft_wrap=True)

    def shuffles(self, stats: Stats) -> None:
        """Print the quality of both orders for each source, next to that of an ideal shuffle."""
        table = self._table("source", "shuffle quality", "shuffle", "local", "ideal", num_names=2)
        for source in stats.sources:
            title = source.name or "corpus"
            for measure in fields(ShuffleQuality):
                values = [getattr(source.shuffle[mode], measure.name) for mode in ("shuffle", "local")]
                cells = [*(_number(each.value) for each in values), _number(values[0].ideal)]
                table.add_row(title, measure.name.replace("_", " "), *cells)
                title = ""
        self._print(table)
        self.say(*_meanings(stats.sources[0].shuffle["shuffle"]))
        self.say(f"  local: with data.shuffle_window = {stats.budget.shuffle_window:,}; this run: {stats.budget.order}")

    def _table(self, *columns: str, num_names: int = 1) -> Table:
        """Return a table whose first `num_names` columns are names and the others numbers."""
        table = Table(box=box.SIMPLE_HEAD if self._fancy else box.ASCII2)
        for number, column in enumerate(columns):
            justify: Literal["left", "right"] = "left" if number < num_names else "right"
            table.add_column(Text(printable(column)), justify=justify, overflow="fold")
        return table

    def _print(self, table: Table) -> None:
        self._console.print()
        self._console.print(table, markup=False, highlight=False)


def bar(share: float, width: int, *, fancy: bool) -> str:
    """Return a bar of `share` of `width` characters: blocks in eighths of a character if `fancy`, else full `#`.

    A share greater than 0 is never an empty bar.
    """
    if share <= 0:
        return ""
    if not fancy:
        return "#" * max(1, round(share * width))
    full, eighths = divmod(max(1, round(share * width * 8)), 8)
    return "█" * full + EIGHTHS[eighths].strip()


def _summary(stats: Stats) -> Iterator[str]:
    for source in stats.sources:
        yield f"{source.name}: {source.path}" if source.name else source.path
    budget = stats.budget
    yield (
        f"samples of {budget.seq_len:,} tokens, packing {budget.packing}, order {budget.order}, seed {budget.seed}; "
        f"the run: {budget.num_tokens:,} tokens, {budget.num_steps:,} steps of {budget.global_batch_size:,} samples"
    )
    if budget.num_available is not None and budget.num_available < budget.num_samples:
        yield (
            f"the data end after {budget.num_available:,} of the run's {budget.num_samples:,} samples: raise "
            f"max_epochs, or lower train.num_tokens to {budget.num_available * budget.seq_len:,}"
        )


def _side_by_side(sources: list[SourceStats], width: int) -> Iterator[list[SourceStats]]:
    """Yield groups of as many sources as fit next to each other."""
    count = max(1, (width - FACTS_WIDTH) // SOURCE_WIDTH)
    for first in range(0, len(sources), count):
        yield sources[first : first + count]


def _percentiles(lengths: Lengths) -> str:
    percents = "  ".join(f"{percent}% {value:,}" for percent, value in lengths.percentiles.items())
    return f"min {lengths.min:,}  {percents}  max {lengths.max:,}  mean {lengths.mean:,.1f}"


def _meanings(quality: ShuffleQuality) -> Iterator[str]:
    for each in fields(quality):
        measure: Measure = getattr(quality, each.name)
        yield f"  {each.name.replace('_', ' ')}: {measure.meaning}"


def _percent(share: float) -> str:
    return f"{share:.2%}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) >= 1 else f"{value:,.4f}"
