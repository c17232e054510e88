"""The verbs of text from a trained model."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from foretrain import limits
from foretrain.printable import for_stream
from foretrain.verbs.shared import TensorParallelOption, bad_input

if TYPE_CHECKING:
    from foretrain.configs.schema import SampleConfig
    from foretrain.trainer.text.inference import Model
    from foretrain.trainer.text.prompts import Prompt


def generate(
    run_dir: Annotated[str, typer.Argument(metavar="RUN_FOLDER", help="The folder of a run, or a URL of checkpoints.")],
    prompt: Annotated[str, typer.Option(help="Text to continue. Default: start a new document.")] = "",
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='Continue each line of this file, {"prompt": "..."} (-: of the standard input), and write JSON lines.',
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Checkpoint to use, a folder or a URL. Default: the newest one of the run."
        ),
    ] = None,
    num_tokens: Annotated[int, typer.Option(help="The largest number of tokens to generate.")] = 128,
    temperature: Annotated[
        float, typer.Option(help="Randomness of the choice of tokens; 0: always take the most likely one.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option(help="Choose among this many of the most likely tokens; 0: among all.")] = 40,
    top_p: Annotated[
        float, typer.Option(help="Choose among the fewest most likely tokens whose probabilities sum to this; 1: all.")
    ] = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Leave out tokens less likely than this share of the most likely one; 0: none.")
    ] = 0.0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End the text before this in it; may be given several times.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random choices: the same seed gives the same text.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts of --prompts to continue at the same time.")] = 16,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; auto: on a GPU if there is one.")
    ] = "auto",
    tp: TensorParallelOption = 1,
) -> None:
    """Generate text with a trained model, and show it while it is generated.

    Example: `foretrain generate runs/dry_run --prompt "def main("`
    """
    with bad_input():
        from foretrain.configs.schema import SampleConfig
        from foretrain.launcher.inference import with_model
        from foretrain.trainer.checkpoint.places import place_of
        from foretrain.trainer.text.prompts import read_prompts

        if prompts is not None and prompt:
            raise ValueError("--prompt and --prompts exclude each other: give one of them")
        sample = SampleConfig([prompt], num_tokens, temperature, top_k, seed, top_p, min_p, stop or [])
        listed = None if prompts is None else read_prompts(_lines(prompts), prompts)
        job = partial(print_text, sample=sample)
        if listed is not None:
            job = partial(print_lines, prompts=listed, sample=sample, batch_size=batch_size)
        with_model(place_of(run_dir), place_of(checkpoint) if checkpoint else None, device, tp, job)


def print_text(model: "Model", sample: "SampleConfig") -> None:
    """Print the prompt of `sample`, and what the model continues it with, while it is generated."""
    (prompt,) = sample.prompts
    pieces = model.continue_texts([prompt], sample)
    first = next(pieces, (0, ""))  # before the prompt is shown, since it may be refused
    typer.echo(for_stream(prompt, sys.stdout), nl=False)
    for _, piece in chain([first], pieces):
        typer.echo(for_stream(piece, sys.stdout), nl=False)
    typer.echo()


def print_lines(model: "Model", prompts: "Sequence[Prompt]", sample: "SampleConfig", batch_size: int) -> None:
    """Print a line of JSON for each prompt, as soon as its batch is complete."""
    from foretrain.trainer.text.prompts import continued_lines

    for line in continued_lines(model, prompts, sample, batch_size):
        typer.echo(line, nl=False)


def _lines(name: str) -> list[str]:
    """The lines of a file, or of the standard input if its name is "-".

    Raises ValueError if they are not UTF-8, or have more than `limits.PROMPTS_BYTES`.
    """
    with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
        data = file.read(limits.PROMPTS_BYTES + 1)
    if len(data) > limits.PROMPTS_BYTES:
        raise ValueError(f"{name} has more than {limits.PROMPTS_BYTES:,} bytes, which is the limit: divide it")
    try:
        return data.decode().split("\n")  # a text in JSON may have other characters that break a line
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 ({error}): save it in that encoding") from None
