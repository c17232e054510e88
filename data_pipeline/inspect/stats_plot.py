"""A picture of the lengths of documents."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from foretrain.data_pipeline.inspect.document_lengths import LengthBin
from foretrain.data_pipeline.inspect.stats import Stats

COLORS = ("#2563eb", "#ea580c", "#0d9488", "#9333ea", "#ca8a04", "#db2777")
QUIET_COLOR = "#6b7280"


def plot_lengths(stats: Stats, png_path: Path) -> None:
    """Draw as PNG, for each source, the share of its documents and of its tokens by length of the document."""
    figure = Figure(figsize=(8, 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    of_documents, of_tokens = figure.subplots(2, 1, sharex=True)
    for number, source in enumerate(stats.sources):
        color = COLORS[number % len(COLORS)]
        bins = source.lengths.bins
        label = f"{source.name or 'corpus'}: {source.lengths.num_documents:,} documents"
        documents = [each.num_documents / source.lengths.num_documents for each in bins]
        _draw(of_documents, bins, documents, color, label)
        _draw(of_tokens, bins, [each.num_tokens / source.lengths.num_tokens for each in bins], color)
    for axes, what in ((of_documents, "documents"), (of_tokens, "tokens")):
        axes.axvline(stats.budget.seq_len, color=QUIET_COLOR, linestyle=(0, (4, 3)), linewidth=1, label="seq_len")
        axes.set_ylabel(f"share of {what} (%)")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    of_documents.legend(frameon=False)
    of_documents.set_title("documents by length", loc="left", fontsize=11)
    of_tokens.set_xscale("log", base=2)
    of_tokens.set_xlabel("length of the document (tokens, its EOT included)")
    figure.align_ylabels()
    figure.savefig(png_path, format="png")


def _draw(axes: Axes, bins: Sequence[LengthBin], shares: Sequence[float], color: str, label: str | None = None) -> None:
    edges = [*(each.low for each in bins), 2 * bins[-1].low]
    percents = [100 * share for share in shares]
    axes.stairs(percents, edges, color=color, fill=True, alpha=0.15)
    axes.stairs(percents, edges, color=color, linewidth=1.4, label=label)
