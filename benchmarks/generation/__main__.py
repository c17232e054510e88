"""Measure how fast text is generated: with a cache of keys and values, without it, and by transformers.

    python -m benchmarks.generation --out benchmarks/results/generation.jsonl --check

A small Llama (6 layers of width 256, 1,024 positions) is trained for a few steps and exported. All contestants continue
the same prompts by 512 tokens, always the most likely one, in one process and in turn, in a random order in each round.
The tokens of all must be the same. A ratio is the median over the rounds, with its interval at 95 %. With --check, the
exit status is 1 if a bar fails or is undecided.
"""

import json
import random
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.checkpoint.report import Bar, bar_table
from benchmarks.data.__main__ import machine
from benchmarks.generation.contestants import OURS, TRANSFORMERS, WITHOUT_CACHE, Contestant, contestants
from benchmarks.generation.model import make_model
from benchmarks.train.ratios import ratio, records_of
from foretrain.progress import JobProgress
from foretrain.trainer.run.environment import code_version

PROMPT_TOKENS, NEW_TOKENS = 16, 512
BATCHES = {1: (OURS, WITHOUT_CACHE, TRANSFORMERS), 16: (OURS, TRANSFORMERS)}
"""The contestants for each number of prompts."""
BARS = ((1, WITHOUT_CACHE, 0.1), (1, TRANSFORMERS, 1.0), (16, TRANSFORMERS, 1.0))
"""Prompts, another contestant, and the largest time of foretrain as a multiple of its time."""

Record = dict[str, Any]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the process.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write every record to this .jsonl file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a bar fails or is undecided.")] = False,
) -> None:
    """Measure all contestants and print tables."""
    torch.set_num_threads(threads)
    asked = {"prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "threads": threads}
    records: list[Record] = [{"type": "header", **asked, "code": code_version(), **machine()}]
    with tempfile.TemporaryDirectory(prefix="generation_bench_") as folder:
        model, exported = make_model(Path(folder))
        records += contest(contestants(model, exported), model.config.model.vocab_size or 0, rounds)
    measured = bars(records)
    records.append({"type": "summary", "bars": records_of(measured)})
    if out is not None:
        out.write_text("".join(f"{json.dumps(each)}\n" for each in records), encoding="utf-8")
    Console().print(table(records), bar_table(measured, "Bars"))
    if check and not all(bar.passed for bar in measured):
        raise typer.Exit(1)


def contest(chosen: dict[str, Contestant], vocab_size: int, rounds: int) -> list[Record]:
    """A record for each turn. Raises ValueError if a contestant has other tokens than foretrain."""
    draw, records = random.Random(0), []
    turns = [(size, name) for size, names in BATCHES.items() for name in names]
    with JobProgress(rounds * len(turns), label="generating") as progress:
        for number in range(rounds):
            prompts = [[draw.randrange(vocab_size) for _ in range(PROMPT_TOKENS)] for _ in range(max(BATCHES))]
            found: dict[int, dict[str, list[list[int]]]] = defaultdict(dict)
            for size, name in draw.sample(turns, len(turns)):
                begin_s = time.perf_counter()
                found[size][name] = chosen[name](prompts[:size], NEW_TOKENS)
                taken_s = time.perf_counter() - begin_s
                records.append({"type": "turn", "round": number, "prompts": size, "contestant": name, "s": taken_s})
                progress.advance(1)
                progress.log(f"{size} prompts, {name}: {taken_s:.1f} s; {progress.time_left()}")
            for size, texts in found.items():
                _check_same(texts, size)
    return records


def _check_same(texts: dict[str, list[list[int]]], size: int) -> None:
    for name, other in texts.items():
        for number, (ours, theirs) in enumerate(zip(texts[OURS], other, strict=True)):
            if ours != theirs:
                first = next(place for place, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1])
                raise ValueError(f"{name} has another token than {OURS}: prompt {number} of {size}, new token {first}")


def bars(records: list[Record]) -> list[Bar]:
    """The bars of foretrain."""
    return [
        Bar.of(f"{size} prompts: time / {name}", ratio(times(records, size, OURS), times(records, size, name)), limit)
        for size, name, limit in BARS
    ]


def times(records: list[Record], size: int, name: str) -> list[float]:
    """Seconds of a contestant with a number of prompts, by round."""
    turns = [
        each for each in records if each["type"] == "turn" and (each["prompts"], each["contestant"]) == (size, name)
    ]
    return [each["s"] for each in sorted(turns, key=lambda each: int(each["round"]))]


def table(records: list[Record]) -> Table:
    """A row for each contestant and number of prompts."""
    found = Table("prompts", "contestant", title=f"{NEW_TOKENS} new tokens for each prompt, medians over the rounds")
    for column in ("s", "tokens/s"):
        found.add_column(column, justify="right")
    for size, names in BATCHES.items():
        for name in names:
            taken = times(records, size, name)
            middle = sorted(taken)[len(taken) // 2]
            found.add_row(str(size), name, f"{middle:.2f}", f"{size * NEW_TOKENS / middle:,.0f}")
    return found


if __name__ == "__main__":
    app()
