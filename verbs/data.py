"""The verbs that make, check and show corpora."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from foretrain.verbs.shared import Overrides, TargetArgument, bad_input, check_writable, looking

SHOWN_FINDINGS = 10
"""Broken files and documents that `prepare` lists."""


def prepare(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files or folders of .txt, .md, .py, .jsonl, .csv, .tsv or WebDataset shards (.tar), also compressed "
            "(.gz, .zst); .parquet and .arrow; tokens in .npy, and in .bin and .idx of Megatron."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the corpus, which appears when it is complete.")] = Path("data"),
    stdlib: Annotated[bool, typer.Option("--stdlib", help="Read the source of Python's standard library.")] = False,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Use this tokenizer.json, or that of this folder, instead of training one.")
    ] = None,
    eot_token: Annotated[
        str | None,
        typer.Option(help="Token of --tokenizer that ends a document; default: the eos_token of its folder."),
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Number of tokens of the tokenizer that is trained.")] = 4096,
    text_key: Annotated[
        str, typer.Option(help="Key or column of the text, in lines, tables and .json members.")
    ] = "text",
    member: Annotated[str | None, typer.Option(help="Extension of the member to read in .tar shards.")] = None,
    token_dtype: Annotated[str, typer.Option(help="Integer type of .bin members: uint16 or uint32.")] = "uint16",
    skip_textless: Annotated[
        bool, typer.Option("--skip-textless", help="Leave out samples without text in .tar shards.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out broken files and documents, and report them.")
    ] = False,
    val: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="Hold out this file or folder as the val split; repeat it for several. Those with a NAME also have a "
            "loss of their own.",
        ),
    ] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(help="Share of the documents in the val split: 0.01, or 0 with --val.", show_default=False),
    ] = None,
    shard_tokens: Annotated[int, typer.Option(help="A shard ends when it has this many tokens.")] = 1 << 27,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Read also what links in an input folder name outside of it.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing corpus.")] = False,
    reuse: Annotated[bool, typer.Option("--reuse", help="Do nothing if this very corpus exists already.")] = False,
) -> None:
    """Turn text into a corpus: a tokenizer, WebDataset shards of tokens, and their manifest.

    Example: `foretrain prepare my_docs/ notes.jsonl.gz --out data/mine`
    """
    from foretrain.data_pipeline.corpus.report import MAX_LISTED
    from foretrain.data_pipeline.prepare.build import prepare as prepare_corpus
    from foretrain.data_pipeline.prepare.held_out import warnings_about
    from foretrain.data_pipeline.prepare.input_files import standard_library
    from foretrain.files import named_path
    from foretrain.printable import printable
    from foretrain.progress import print_line

    with bad_input():
        sources = [*(inputs or []), *([standard_library()] if stdlib else [])]
        if not sources:
            raise ValueError("nothing to prepare: name files or folders, or give --stdlib")
        held_out = [named_path(text) for text in val or []]
        manifest = prepare_corpus(
            sources,
            out,
            follow_links=follow_links,
            overwrite=overwrite,
            reuse=reuse,
            progress=True,
            tokenizer_path=tokenizer,
            eot_token=eot_token,
            vocab_size=vocab_size,
            text_key=text_key,
            member=member,
            token_dtype=token_dtype,
            skip_textless=skip_textless,
            skip_bad=skip_bad,
            shard_tokens=shard_tokens,
            val_inputs=[path for name, path in held_out if not name],
            val_sets={name: [path for other, path in held_out if other == name] for name, _ in held_out if name},
            **({} if val_fraction is None else {"val_fraction": val_fraction}),
        )
    width = max(map(len, manifest.splits))
    for name, split in manifest.splits.items():
        typer.echo(f"{out}: {name:{width}} {split.num_tokens:>13,} tokens in {split.num_documents:,} documents")
    for line in manifest.report.lines(SHOWN_FINDINGS):
        print_line(printable(line))
    if manifest.report.num_skipped > SHOWN_FINDINGS:
        print_line(f"the first {MAX_LISTED} of them: foretrain data stats {out}")
    for line in warnings_about(manifest):
        print_line(f"warning: {line}", style="yellow")


def verify(target: TargetArgument, overrides: Overrides = None) -> None:
    """Check every byte of a corpus, or of all corpora of a config, against the manifest.

    Example: `foretrain data verify data/mine`
    """
    from foretrain.data_pipeline.inspect.target import config_of, verify_sources

    with looking("data verify", target, *(overrides or [])):
        manifests = verify_sources(config_of(target, overrides or []).data, progress=True)
    for path, manifest in manifests.items():
        typer.echo(f"{path}: {sum(len(split.shards) for split in manifest.splits.values())} shards are sound")


def stats(
    target: TargetArgument,
    overrides: Overrides = None,
    plot: Annotated[Path | None, typer.Option(help="Write a plot of the document lengths to this PNG file.")] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers to this file; - prints only them.")
    ] = None,
) -> None:
    """Show statistics of a run's data: sizes, document lengths, packing, epochs, and the quality of the shuffle.

    Example: `foretrain data stats data/mine model.seq_len=1024 data.packing=best_fit --plot lengths.png`
    """
    from foretrain.data_pipeline.inspect.stats import collect
    from foretrain.data_pipeline.inspect.stats_view import print_stats
    from foretrain.data_pipeline.inspect.target import config_of

    with looking("data stats", target, *(overrides or [])):
        to_stdout = json_out is not None and str(json_out) == "-"
        check_writable(plot, None if to_stdout else json_out)  # before the long count
        stats = collect(config_of(target, overrides or []), progress=True)
        if json_out is not None:
            text = json.dumps(asdict(stats), indent=1)
            typer.echo(text) if to_stdout else json_out.write_text(text + "\n", encoding="utf-8")
        if plot is not None:
            from foretrain.data_pipeline.inspect.stats_plot import plot_lengths

            plot_lengths(stats, plot)
    if not to_stdout:
        print_stats(stats, Console())


def peek(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A corpus (a folder or URL), a config (a YAML file or preset), or the folder of a run.",
        ),
    ],
    g: Annotated[int, typer.Argument(metavar="G", help="Number of the global sample, from 0.")],
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(help="Number of samples to show, from G on.")] = 1,
) -> None:
    """Show a sample that a run trains on: global sample G as text, document by document, with the place of each.

    With the folder of a run, as in `foretrain data peek runs/mine 4096`, it also shows which samples the run leaves
    out, and why.

    Example: `foretrain data peek data/mine 0 data.packing=documents --count 2`
    """
    from foretrain.data_pipeline.inspect.peek_view import show
    from foretrain.data_pipeline.inspect.target import config_of
    from foretrain.data_pipeline.stream.left_out import NOTHING
    from foretrain.trainer.anomalies.rollbacks import left_out_of_run, read_rollbacks
    from foretrain.trainer.run.folder import CONFIG_FILE

    with looking("data peek", target, *(overrides or [])):
        left_out = NOTHING
        if (Path(target) / CONFIG_FILE).is_file():
            for rollback in read_rollbacks(Path(target)):
                typer.echo(f"-- {rollback} --")
            left_out, target = left_out_of_run(Path(target)), str(Path(target) / CONFIG_FILE)
        show(config_of(target, overrides or []), g, count, Console(), left_out)
