"""The command line: one short function for each verb. Heavy imports wait until a verb needs them."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

EXIT_BAD_INPUT = 2

app = typer.Typer(
    help="Pretrain language models with data, tensor and pipeline parallelism: the same curve on every layout.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Look after a prepared corpus.", no_args_is_help=True)

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or a packaged preset such as runs/dry_run.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the file.")
]


@contextmanager
def bad_input() -> Iterator[None]:
    """End with one clear message, and no traceback, where the user's input is at fault."""
    try:
        yield
    except (ValueError, FileNotFoundError, PermissionError, NotADirectoryError) as error:
        if os.environ.get("FORETRAIN_TRACEBACK"):
            raise
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(EXIT_BAD_INPUT) from None


@app.command(rich_help_panel="Data")
def prepare(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(help="Files or folders of .txt, .md, .py, .jsonl, plain or packed (.gz, .zst)."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the corpus; it appears whole or not at all.")] = Path("data"),
    stdlib: Annotated[bool, typer.Option("--stdlib", help="Take the source of Python's standard library.")] = False,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json to use instead of training one.")] = None,
    eot_token: Annotated[str | None, typer.Option(help="The token of --tokenizer that ends a document.")] = None,
    vocab_size: Annotated[int, typer.Option(help="Tokens of the tokenizer that is trained.")] = 4096,
    text_key: Annotated[str, typer.Option(help="The key of the text in .jsonl files.")] = "text",
    val_fraction: Annotated[float, typer.Option(help="Share of the documents that is held out.")] = 0.01,
    shard_tokens: Annotated[int, typer.Option(help="A shard closes past this many tokens.")] = 1 << 27,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a corpus that is there.")] = False,
    reuse: Annotated[bool, typer.Option("--reuse", help="Do nothing if just this corpus is there already.")] = False,
) -> None:
    """Turn text into a corpus: a tokenizer, WebDataset shards of tokens, and their manifest.

    Example: `foretrain prepare my_docs/ notes.jsonl.gz --out data/mine`
    """
    from data_pipeline.documents import standard_library
    from data_pipeline.prepare import prepare as prepare_corpus

    with bad_input():
        sources = [*(inputs or []), *([standard_library()] if stdlib else [])]
        if not sources:
            raise ValueError("nothing to prepare: name files or folders, or give --stdlib")
        manifest = prepare_corpus(
            sources,
            out,
            overwrite=overwrite,
            reuse=reuse,
            progress=True,
            tokenizer_path=tokenizer,
            eot_token=eot_token,
            vocab_size=vocab_size,
            text_key=text_key,
            val_fraction=val_fraction,
            shard_tokens=shard_tokens,
        )
    for name, split in manifest.splits.items():
        typer.echo(f"{out}: {name:5} {split.num_tokens:>13,} tokens in {split.num_documents:,} documents")


@data.command("verify")
def data_verify(path: Annotated[Path, typer.Argument(help="A folder that `foretrain prepare` wrote.")]) -> None:
    """Check every byte of a corpus against its manifest.

    Example: `foretrain data verify data/mine`
    """
    from data_pipeline.shards import verify

    with bad_input():
        manifest = verify(path, progress=True)
    typer.echo(f"{path}: {sum(len(split.shards) for split in manifest.splits.values())} shards are sound")


@app.command(rich_help_panel="Training")
def train(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Train, or go on from the run's newest checkpoint.

    Starts dp * tp * pp ranks on this machine; where RANK is set (torchrun, srun) it is that one rank.

    Example: `foretrain train runs/dry_run optimizer.lr=1e-3 train.num_tokens=200_000`
    """
    from configs import load as configs
    from launcher.local import check_fits, run_local
    from trainer.setup import CONFIG_FILE, prepare_run

    world_size = int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else None
    with bad_input():
        run = prepare_run(configs.load(config, overrides or []), world_size)
        if world_size is None:
            check_fits(run.layout.world_size)
        run.run_dir.mkdir(parents=True, exist_ok=True)
    if run.start_step >= run.total_steps:
        from trainer.finish import finish

        typer.echo(f"{run.run_dir} is complete: delete it, or set another run_dir, to train again")
        finish(run)
        return
    if int(os.environ.get("RANK", "0")) == 0:
        from trainer.environment import describe

        configs.save(run.config, run.run_dir / CONFIG_FILE)
        (run.run_dir / "environment.json").write_text(json.dumps(describe(), indent=1))
        goes_on = f"from step {run.start_step:,}" if run.start_step else "from the start"
        typer.echo(f"{run.run_dir}: {run.layout}, {run.total_steps:,} steps, {goes_on}")
    if world_size is not None:
        from trainer.loop import train_rank

        train_rank(run)
        return
    raise typer.Exit(run_local("trainer.loop:train_rank", (run,), run.layout.world_size, log_dir=run.run_dir / "logs"))


@app.command(rich_help_panel="Training")
def generate(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run.")],
    prompt: Annotated[str, typer.Option(help="Text to continue; empty: begin a document.")] = "",
    checkpoint: Annotated[Path | None, typer.Option(help="A checkpoint's folder; else the newest.")] = None,
    num_tokens: Annotated[int, typer.Option(help="At most this many new tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Sample among the likeliest this many; 0: all.")] = 40,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
) -> None:
    """Continue a prompt with a trained model.

    Example: `foretrain generate runs/dry_run --prompt "def main("`
    """
    with bad_input():
        from configs.schema import SampleConfig
        from trainer.inference import load_model

        sample = SampleConfig([prompt], num_tokens, temperature, top_k, seed)
        text = load_model(run_dir, checkpoint).continue_text(prompt, sample)
    typer.echo(prompt + text)


app.add_typer(data, name="data", rich_help_panel="Data")


def main() -> None:
    """The console script."""
    app(prog_name="foretrain")


if __name__ == "__main__":
    main()
