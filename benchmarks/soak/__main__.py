"""Train a tiny run for tens of thousands of steps with all sinks, and show that its memory does not grow.

    python -m benchmarks.soak --out benchmarks/results/soak.json

Two ranks train with evaluations, checks of the replicas, checkpoints, metrics, TensorBoard and the terminal. From a
tenth of the steps on, the memory of each rank must stay within 2 %. Then the run is resumed, and ends: its ranks, and
the command, must need as much memory as a short run that is resumed and ends, within 5 %, though its record is many
times longer. Exits with 1 if a bar is exceeded.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.data.__main__ import machine
from benchmarks.soak.judge import growth, peak
from benchmarks.soak.plugin import EVERY, file_of
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.progress import JobProgress
from foretrain.trainer.metrics import METRICS_FILE
from foretrain.trainer.run.environment import code_version

NUM_RANKS = 2
BATCH_SIZE, SEQ_LEN = 4, 16
RESUMED_STEPS = 10 * EVERY
"""Steps after the resume, and those of the short run before it."""
GROWTH_BAR, RESUME_BAR = 0.02, 0.05
POLL_S = 1.0
SHOWN_EVERY = 2_500
"""Steps between two lines, where there is no bar."""
EXIT_STOPPED = (0, 85)
"""Exit statuses of a run that was stopped by `train.stop_after`, or that is complete."""
CONFIG = f"""
plugins: [benchmarks.soak.plugin]
model: {{num_layers: 1, d_model: 16, num_heads: 2, d_ff: 32, seq_len: {SEQ_LEN}}}
parallel: {{dp: {NUM_RANKS}}}
schedule: {{warmup_tokens: 1000}}
train:
  global_batch_size: {BATCH_SIZE}
  micro_batch_size: {BATCH_SIZE // NUM_RANKS}
  checkpoint_every: 2500
  eval_every: 1000
  eval_samples: 64
  check_every: 500
  device: cpu
  callbacks: [memory]
  sinks: [terminal, tensorboard]
sample: {{prompts: ["1 plus "], num_tokens: 16}}
"""

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Soaked:
    """What a run of `steps` steps needed."""

    steps: int
    memory_mib: list[dict[str, float]]
    """Memory of each rank, by the step, at ten steps."""
    growth: list[float]
    """By how much the memory of each rank changed at most from a tenth of the steps on, as a share of it."""
    peak_mib: list[float]
    """The most that each rank needed until it was stopped."""
    resumed_peak_mib: list[float]
    """The most that each rank needed in the second start, which reads the record and completes the run."""
    peak_of_all_mib: float
    """The most that any process needed so far, that of the command included."""
    metrics_mib: float
    tensorboard_mib: float


@app.command()
def main(
    steps: Annotated[int, typer.Option(min=20 * EVERY, help="Steps of the long run.")] = 50_000,
    out: Annotated[Path | None, typer.Option(help="Write the results to this .json file.")] = None,
    work: Annotated[Path | None, typer.Option(help="New folder of the runs; default: a temporary one.")] = None,
) -> None:
    """Train a short and a long run, and compare what they needed."""
    if work is not None and work.exists():
        # Its runs would be resumed, and the memory of two starts is not that of one.
        raise typer.BadParameter(f"{work} is there already: give a new folder, or delete it")
    with tempfile.TemporaryDirectory(prefix="soak_") as temporary:
        folder = (work or Path(temporary)).absolute()
        corpus = corpus_in(folder)
        short = soak(folder / "short", corpus, RESUMED_STEPS)
        long = soak(folder / "long", corpus, steps)
    peaks = zip(
        [*long.resumed_peak_mib, long.peak_of_all_mib], [*short.resumed_peak_mib, short.peak_of_all_mib], strict=True
    )
    more = [with_long_record / other - 1 for with_long_record, other in peaks]
    passed = max(long.growth) <= GROWTH_BAR and max(more) <= RESUME_BAR
    found = {
        "code": code_version(),
        **machine(),
        "passed": passed,
        "growth_bar": GROWTH_BAR,
        "resume_bar": RESUME_BAR,
        "more_memory_of_resume": more,
        "short": asdict(short),
        "long": asdict(long),
    }
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    typer.echo(
        f"memory of the ranks changed by {', '.join(f'{each:.2%}' for each in long.growth)} (bar {GROWTH_BAR:.0%})"
    )
    typer.echo(f"the resume needs {', '.join(f'{each:+.2%}' for each in more)} (bar {RESUME_BAR:.0%})")
    raise typer.Exit(0 if passed else 1)


def corpus_in(folder: Path) -> Path:
    """A small corpus of sums, which is made if it is not there."""
    corpus, texts = folder / "corpus", folder / "texts"
    if not corpus.exists():
        texts.mkdir(parents=True, exist_ok=True)
        for number in range(100):
            lines = [f"{number} plus {other} is {number + other}.\n" for other in range(100)]
            (texts / f"{number}.txt").write_text("".join(lines), encoding="utf-8")
        prepare([texts], corpus, vocab_size=300, val_fraction=0.1)
    return corpus


def soak(run_dir: Path, corpus: Path, steps: int) -> Soaked:
    """Train for `steps` steps, stop, and resume for RESUMED_STEPS more, with which the run is complete."""
    with JobProgress(steps + RESUMED_STEPS, label=f"{steps:,} steps") as progress:
        config = run_dir.with_suffix(".yaml")
        config.write_text(CONFIG, encoding="utf-8")
        tokens = (steps + RESUMED_STEPS) * BATCH_SIZE * SEQ_LEN
        settings = [f"run_dir={run_dir}", f"data.path={corpus}", f"train.num_tokens={tokens}"]
        train(config, [*settings, f"train.stop_after={steps}"], run_dir, progress)
        before = [measured(run_dir, rank) for rank in range(NUM_RANKS)]
        train(config, settings, run_dir, progress)
        after = [measured(run_dir, rank)[len(lines) :] for rank, lines in enumerate(before)]
    return Soaked(
        steps=steps,
        memory_mib=[
            {str(each["step"]): each["now"] / 1024 for each in lines[9 :: len(lines) // 10]} for lines in before
        ],
        growth=[growth(lines, steps // 10) for lines in before],
        peak_mib=[peak(lines) / 1024 for lines in before],
        resumed_peak_mib=[peak(lines) / 1024 for lines in after],
        peak_of_all_mib=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        metrics_mib=(run_dir / METRICS_FILE).stat().st_size / 2**20,
        tensorboard_mib=sum(path.stat().st_size for path in (run_dir / "tensorboard").rglob("*")) / 2**20,
    )


def measured(run_dir: Path, rank: int) -> list[dict[str, Any]]:
    """What the callback wrote on a rank."""
    path = file_of(run_dir, rank)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def train(config: Path, settings: list[str], run_dir: Path, progress: JobProgress) -> None:
    """Train until the run stops. Raises RuntimeError, with the end of its output, if it fails."""
    log = run_dir.with_suffix(".log")
    command = [sys.executable, "-m", "foretrain", "train", str(config), *settings]
    done = steps_of(run_dir)
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
                now = steps_of(run_dir)
                if now > done:
                    progress.advance(now - done)
                if now // SHOWN_EVERY > done // SHOWN_EVERY:
                    progress.log(f"step {now:,}; {progress.time_left()}")
                done = max(done, now)
        finally:
            process.terminate()
            process.wait()
    if process.returncode not in EXIT_STOPPED:
        raise RuntimeError(f"the run ended with status {process.returncode}:\n{log.read_text()[-3000:]}")


def steps_of(run_dir: Path) -> int:
    """Steps that rank 0 has measured in all starts."""
    lines = measured(run_dir, 0)
    return int(lines[-1]["step"]) if lines else 0


if __name__ == "__main__":
    app()
