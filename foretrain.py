"""The command line: one short function for each verb. Heavy imports wait until a verb needs them."""

import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from trainer.exit_status import EXIT_BAD_INPUT, EXIT_CONFIG, EXIT_DONE, EXIT_FAILED

EXIT_DIFFERS = 1

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
TargetArgument = Annotated[
    str, typer.Argument(metavar="TARGET", help="A corpus (folder or URL), or a config (YAML file or preset).")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that win over the file.")]


@contextmanager
def bad_input() -> Iterator[None]:
    """End with one clear message, and no traceback, where the user's input is at fault."""
    try:
        yield
    except (ValueError, OSError) as error:
        message = _message(error)
        if message is None or os.environ.get("FORETRAIN_TRACEBACK") == "1":
            raise
        Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
        raise typer.Exit(_status(error)) from None


def _status(error: ValueError | OSError) -> int:
    """By hand, always the same; to a launcher it says whether another start, perhaps elsewhere, could end otherwise."""
    if "RANK" not in os.environ:
        return EXIT_BAD_INPUT
    from trainer.lock import InUseError

    return EXIT_FAILED if isinstance(error, OSError | InUseError) else EXIT_CONFIG


def _message(error: ValueError | OSError) -> str | None:
    """What to tell the user; None where it is no fault of theirs."""
    if isinstance(error, ValueError):
        return str(error)
    if error.filename is not None:
        return f"cannot use {error.filename} ({error.strerror}): choose another path, or mend this one"
    return f"{error.strerror}: make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None


def _check_writable(*paths: Path | None) -> None:
    """Raise OSError, which names the path, where a file cannot be written."""
    for path in paths:
        if path is not None:
            blocked = errno.EISDIR if path.is_dir() else 0 if path.parent.is_dir() else errno.ENOENT
            if not blocked and not os.access(path if path.exists() else path.parent, os.W_OK):
                blocked = errno.EACCES
            if blocked:
                raise OSError(blocked, os.strerror(blocked), str(path))


@app.command(rich_help_panel="Data")
def prepare(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files or folders of .txt, .md, .py, .jsonl and WebDataset shards (.tar), plain or packed (.gz, .zst)."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the corpus; it appears whole or not at all.")] = Path("data"),
    stdlib: Annotated[bool, typer.Option("--stdlib", help="Take the source of Python's standard library.")] = False,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json to use instead of training one.")] = None,
    eot_token: Annotated[str | None, typer.Option(help="The token of --tokenizer that ends a document.")] = None,
    vocab_size: Annotated[int, typer.Option(help="Tokens of the tokenizer that is trained.")] = 4096,
    text_key: Annotated[str, typer.Option(help="The key of the text in .jsonl files and .json members.")] = "text",
    member: Annotated[str | None, typer.Option(help="In .tar shards, the extension of the member to take.")] = None,
    token_dtype: Annotated[str, typer.Option(help="Integers of .bin members: uint16 or uint32.")] = "uint16",
    skip_textless: Annotated[
        bool, typer.Option("--skip-textless", help="In .tar shards, leave out samples without text.")
    ] = False,
    val_fraction: Annotated[float, typer.Option(help="Share of the documents that is held out.")] = 0.01,
    shard_tokens: Annotated[int, typer.Option(help="A shard closes past this many tokens.")] = 1 << 27,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a corpus that is there.")] = False,
    reuse: Annotated[bool, typer.Option("--reuse", help="Do nothing if just this corpus is there already.")] = False,
) -> None:
    """Turn text into a corpus: a tokenizer, WebDataset shards of tokens, and their manifest.

    Example: `foretrain prepare my_docs/ notes.jsonl.gz --out data/mine`
    """
    from data_pipeline.prepare.build import prepare as prepare_corpus
    from data_pipeline.prepare.documents import standard_library

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
            member=member,
            token_dtype=token_dtype,
            skip_textless=skip_textless,
            val_fraction=val_fraction,
            shard_tokens=shard_tokens,
        )
    for name, split in manifest.splits.items():
        typer.echo(f"{out}: {name:5} {split.num_tokens:>13,} tokens in {split.num_documents:,} documents")


@data.command("verify")
def data_verify(target: TargetArgument, overrides: Overrides = None) -> None:
    """Check every byte of a corpus, or of all corpora of a config, against its manifest.

    Example: `foretrain data verify data/mine`
    """
    from data_pipeline.inspect.target import config_of, verify_sources

    with bad_input():
        manifests = verify_sources(config_of(target, overrides or []).data, progress=True)
    for path, manifest in manifests.items():
        typer.echo(f"{path}: {sum(len(split.shards) for split in manifest.splits.values())} shards are sound")


@data.command("stats")
def data_stats(
    target: TargetArgument,
    overrides: Overrides = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the lengths of documents here, as PNG.")] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers here; -: only them, on stdout.")
    ] = None,
) -> None:
    """Show what the data of a run are: sizes, lengths of documents, packing, epochs, and how well they are shuffled.

    Example: `foretrain data stats data/mine model.seq_len=1024 data.packing=best_fit --plot lengths.png`
    """
    from data_pipeline.inspect.stats import collect
    from data_pipeline.inspect.stats_view import print_stats
    from data_pipeline.inspect.target import config_of

    with bad_input():
        to_stdout = json_out is not None and str(json_out) == "-"
        _check_writable(plot, None if to_stdout else json_out)  # told now, not after a long count
        stats = collect(config_of(target, overrides or []), progress=True)
        if json_out is not None:
            text = json.dumps(stats.as_dict(), indent=1)
            typer.echo(text) if to_stdout else json_out.write_text(text + "\n", encoding="utf-8")
        if plot is not None:
            from data_pipeline.inspect.stats_plot import plot_lengths

            plot_lengths(stats, plot)
    if not to_stdout:
        print_stats(stats, Console())


@data.command("peek")
def data_peek(
    target: TargetArgument,
    g: Annotated[int, typer.Argument(metavar="G", help="Number of the global sample, from 0.")],
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(help="Show so many samples, from G on.")] = 1,
) -> None:
    """Show what a run trains on: global sample G as text, document by document, and where each of them lies.

    Example: `foretrain data peek data/mine 0 data.packing=documents --count 2`
    """
    from data_pipeline.inspect.peek_view import show
    from data_pipeline.inspect.target import config_of

    with bad_input():
        show(config_of(target, overrides or []), g, count, Console())


@app.command(rich_help_panel="Training")
def train(
    config: ConfigArgument,
    overrides: Overrides = None,
    allow_data_change: Annotated[
        bool, typer.Option("--allow-data-change", help="Go on from a checkpoint with other data, or another mixture.")
    ] = False,
) -> None:
    """Train, or go on from the run's newest checkpoint.

    Starts all ranks of the layout on this machine; where RANK is set (torchrun, srun) it is that one rank. Ctrl-C saves
    a checkpoint and ends.

    Example: `foretrain train runs/dry_run train.num_tokens=2e5`
    """
    from configs import load as configs
    from launcher import training

    with ExitStack() as until_done:
        with bad_input():
            place = training.my_place()
            settings = configs.load(config, overrides or [])
            run = until_done.enter_context(training.opened(settings, place, allow_data_change=allow_data_change))
            if place.rank == 0:
                training.begin(run)
        raise typer.Exit(EXIT_DONE if run.is_complete else training.start(run, place))


@app.command(rich_help_panel="Training")
def launch(
    config: ConfigArgument,
    overrides: Overrides = None,
    on: Annotated[Literal["local", "slurm", "ray"], typer.Option("--on", help="Where to start the ranks.")] = "local",
    nodes: Annotated[int | None, typer.Option(help="Nodes; the same as cluster.num_nodes=N.")] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(help="GPUs of a node, and so its ranks; the same as cluster.gpus_per_node=G.")
    ] = None,
    allow_data_change: Annotated[
        bool, typer.Option("--allow-data-change", help="Go on from a checkpoint with other data, or another mixture.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be submitted, and check the run.")
    ] = False,
) -> None:
    """Start a run on this machine, on Slurm or on Ray; the same command goes on where the run ended.

    Checks the run, and makes its folder: the whole config, a copy of the code, and the script that is submitted.

    Example: `foretrain launch runs/llama_7b_a100 --on slurm --nodes 8 launch.slurm.partition=gpu --dry-run`
    """
    from configs import load as configs
    from launcher import launch as launching
    from trainer.setup import prepare_run

    with bad_input():
        sizes = {"cluster.num_nodes": nodes, "cluster.gpus_per_node": gpus_per_node}
        options = [f"{key}={value}" for key, value in sizes.items() if value is not None]
        settings = configs.load(config, [*(overrides or []), *options])
        plan = launching.make_plan(settings, on, allow_data_change=allow_data_change)
        if dry_run:
            typer.echo(plan.shown, nl=False)
        run = prepare_run(settings, plan.job.num_ranks, allow_data_change=allow_data_change, progress=True)
        launching.check(plan, dry_run=dry_run)
        if dry_run:
            return
        if plan.in_foreground:
            launching.write(plan, run.config)
            raise typer.Exit(launching.run_here(plan))
        typer.echo(run.outlook)
        if run.is_complete:
            return
        launching.write(plan, run.config)
        submitted = launching.submit(plan)
    for line in submitted.lines():
        typer.echo(line)


@app.command(rich_help_panel="Training")
def verify(
    config: ConfigArgument,
    overrides: Overrides = None,
    layouts: Annotated[
        str, typer.Option(help="Only these, as in 'dp=2 tp=2 sp,pp=2 vpp=2 zbv'; empty: every legal one.")
    ] = "",
    max_processes: Annotated[int, typer.Option(help="Every legal layout up to this many processes.")] = 4,
    steps: Annotated[int, typer.Option(help="Optimizer steps of each trial.")] = 10,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or both.")] = "fp32",
    sample: Annotated[int | None, typer.Option(help="Only so many of them, at random.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of --sample.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the results here, as JSON lines.")] = None,
    show_refused: Annotated[
        bool, typer.Option("--show-refused", help="Only list the layouts that the config cannot run, and why.")
    ] = False,
) -> None:
    """Check on this machine that a config has the same curve under every layout.

    Takes a few steps of the config, made small, on CPU processes, and compares them with plain PyTorch in one process
    and in float64. Exits with 1 where a layout differs.

    Example: `foretrain verify runs/dry_run --layouts "dp=2,tp=2 sp,pp=2 vpp=2 zbv" --precision both`
    """
    from configs import load as configs
    from launcher.local.run import check_fits
    from scaling.verify import report
    from scaling.verify.layouts import parse_layouts
    from scaling.verify.plan import make_plan
    from scaling.verify.run import verify as run_trials

    with bad_input():
        named = parse_layouts(layouts) if layouts else []
        check_fits(max((layout.world_size for layout in named), default=max_processes))
        plan = make_plan(
            configs.load(config, overrides or []),
            named,
            max_processes=max_processes,
            num_steps=steps,
            precision=precision,
            sample=sample,
            seed=seed,
        )
        if show_refused:
            report.print_refused(plan)
            return
        if out is not None:
            report.write_jsonl(out, plan, [])  # a path that cannot be written is told now, not after the trials
    typer.echo(f"{len(plan.trials)} trials; {len(plan.refused)} layouts are refused (--show-refused lists why)")
    with report.Display(plan) as display:
        verdicts = run_trials(plan, display)
    if out is not None:
        report.write_jsonl(out, plan, verdicts)
    report.print_verdicts(verdicts)
    raise typer.Exit(0 if all(verdict.passed for verdict in verdicts) else EXIT_DIFFERS)


@app.command("mup", rich_help_panel="Scaling")
def mup_table(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Show what a config's parametrization gives each parameter: initial law, multiplier, learning rate, eps, decay.

    Example: `foretrain mup runs/llama_7b_a100 mup.parametrization=mup mup.base.d_model=256`
    """
    from configs import load as configs
    from scaling.console import console_for_tables
    from trainer.mup.view import show

    with bad_input():
        show(configs.load(config, overrides or []), console_for_tables())


@app.command("coord-check", rich_help_panel="Scaling")
def coord_check(
    config: ConfigArgument,
    overrides: Overrides = None,
    widths: Annotated[str, typer.Option(help="Values of model.d_model; empty: doublings of the base's, from 64.")] = "",
    depths: Annotated[
        str, typer.Option(help="Values of model.num_layers; empty: of the base's, where it is completep; none: none.")
    ] = "",
    seeds: Annotated[int, typer.Option(help="Each model is trained from so many seeds, and their mean is judged.")] = 2,
    steps: Annotated[int, typer.Option(help="Optimizer steps of each model.")] = 8,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate; else model.init_std / 32, at which faults show (sgd: the config's)."),
    ] = None,
    layout: Annotated[str, typer.Option(help="Of each model, as in 'tp=2 sp'.")] = "dp=1",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: cuda where there is one.")] = "auto",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write coord_check.json and coord_check.png here.")
    ] = None,
) -> None:
    """Check that activations and their updates keep their size over widths and depths, as muP wants them to.

    Trains small models of the config's kind for a few steps, and fits the slope of log2(mean |x|) and log2(change)
    of every module. Exits with 1 where one is steeper than 0.2 over widths or 0.4 over depths. It does not see how
    weight decay, norm gains or (heads stay as wide as they are) the scale of attention go with width.

    Example: `foretrain coord-check runs/dry_run mup.parametrization=mup mup.base.d_model=64`
    """
    from configs import load as configs
    from launcher.local.run import check_fits
    from scaling.coord_check import report
    from scaling.coord_check.plan import make_plan, parse_layout, parse_sizes
    from scaling.coord_check.run import check, device_of

    with bad_input():
        plan = make_plan(
            configs.load(config, overrides or []),
            widths=parse_sizes("--widths", widths),
            depths=None if not depths else () if depths == "none" else parse_sizes("--depths", depths),
            num_seeds=seeds,
            num_steps=steps,
            lr=lr,
            layout=parse_layout(layout),
            device=device_of(device),
        )
        check_fits(plan.layout.world_size)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            _check_writable(out / report.RECORD_FILE, out / report.PLOT_FILE)
    with report.Display(plan) as display:
        measured, verdict = check(plan, display)
    if out is not None:
        report.write(out, plan, measured, verdict)
    report.print_verdict(plan, verdict)
    raise typer.Exit(0 if verdict.passed else EXIT_DIFFERS)


@app.command(rich_help_panel="Scaling")
def sweep(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where trials and results go.")],
    over: Annotated[
        list[str], typer.Option(metavar="KEY=SPEC", help="Values to try: 2^-10..2^-3, 1e-4,3e-4 or 0..0.2:0.05.")
    ],
    overrides: Overrides = None,
    widths: Annotated[str, typer.Option(help="Values of model.d_model, as in 32,64,128; empty: the config's.")] = "",
    depths: Annotated[str, typer.Option(help="Values of model.num_layers; empty: the config's.")] = "",
    seeds: Annotated[str, typer.Option(help="Each trial is repeated with these seeds.")] = "0",
    search: Annotated[
        Literal["grid", "random", "halving"], typer.Option(help="halving: the best third gets three times the tokens.")
    ] = "grid",
    num_trials: Annotated[
        int | None, typer.Option(help="Settings to draw at random; each is tried at every width, depth and seed.")
    ] = None,
    search_seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Trials at a time; else one for each core (or GPU).")] = None,
    on: Annotated[Literal["local", "slurm", "ray"], typer.Option("--on", help="Where to run them.")] = "local",
    layout: Annotated[str, typer.Option(help="Of each trial, as in 'dp=2 tp=2'.")] = "dp=1",
) -> None:
    """Train small proxies of a config over values of its settings, to find the best ones.

    Interrupted or killed, the same command goes on, and ends with the same results. Exits with 0 once every trial has
    one, and to diverge is one.

    Example: `foretrain sweep runs/dry_run --over optimizer.lr=2^-10..2^-5 --widths 64,128 --out sweeps/lr
    train.num_tokens=1e5`
    """
    from configs import load as configs
    from scaling.console import console_for_tables
    from scaling.sweep import view
    from scaling.sweep.plan import Ask
    from scaling.sweep.run import make_plan, opened, runner_of
    from scaling.sweep.space import parse_numbers

    with ExitStack() as until_done:
        with bad_input():
            ask = Ask(
                tuple(over),
                parse_numbers("--widths", widths),
                parse_numbers("--depths", depths),
                parse_numbers("--seeds", seeds, least=0),
                search,
                num_trials,
                search_seed,
                layout,
            )
            plan = make_plan(ask, lambda more: configs.load(config, [*(overrides or []), *more]), out)
            runner = runner_of(plan, out, on, jobs)
            trials = until_done.enter_context(opened(plan, out))
        with view.Display(plan.num_trials) as display:
            status = trials.run(runner, display)
        view.print_end(trials, status, console_for_tables())
    raise typer.Exit(status)


@app.command(rich_help_panel="Scaling")
def transfer(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", help="The folder of a `foretrain sweep`.")],
    to: Annotated[str, typer.Option("--to", metavar="CONFIG", help="The large run: a YAML file or a preset.")],
    overrides: Overrides = None,
    coord_check: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The record of `foretrain coord-check`; else SWEEP/coord_check.json."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the config goes; else CONFIG's name + .transferred.yaml.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write it where the evidence does not bear it, and say so in it.")
    ] = False,
) -> None:
    """Carry the best learning rate of small proxies over to a large config, if the evidence bears it.

    Writes the whole config with the values, and where they come from. Exits with 1, and writes no config, where they
    are not known to hold for it; says why, and what to do.

    Example: `foretrain transfer sweeps/small --to runs/gpt2_124m_a100 mup.parametrization=mup mup.base.d_model=64`
    """
    from scaling.console import console_for_tables
    from scaling.transfer import report
    from scaling.transfer.plot import PLOT_FILE, plot
    from scaling.transfer.transfer import default_out, make_transfer, write

    with bad_input():
        made = make_transfer(sweep, to, overrides or [], coord_check)
        report.print_study(made.study, console_for_tables())
        _check_writable(sweep / PLOT_FILE)
        plot(made.study, sweep / PLOT_FILE)
        report.print_objections(made.objections, Console(stderr=True))
        if made.objections and not force:
            raise typer.Exit(EXIT_FAILED)
        path = out or default_out(to)
        _check_writable(path)
        write(made, path, overwrite)
    for key, value in made.study.values.items():
        typer.echo(f"{path}: {key} = {value}")


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
    _mend_streams()
    app(prog_name="foretrain")


def _mend_streams() -> None:
    """Let this process and its ranks print where a standard stream is closed, or cannot show what a model says."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # Else the next file that is opened gets this number.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
            os.environ["PYTHONIOENCODING"] = f"{stream.encoding}:replace"


if __name__ == "__main__":
    main()
