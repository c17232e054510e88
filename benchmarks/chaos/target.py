"""A short run on CPUs that is going to be killed: its commands, its processes, its steps, and what it leaves behind."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from foretrain.data_pipeline.prepare.build import prepare
from foretrain.trainer.checkpoint.folders import PARTIAL
from foretrain.trainer.metrics import METRICS_FILE, is_time, read_metrics
from foretrain.trainer.run.folder import CHECKPOINTS

NUM_STEPS = 200
BATCH_SIZE, SEQ_LEN = 8, 32
CHECKPOINT_EVERY = 4
MAX_STARTS = 1000
"""More starts than there are kills: a run that is killed at its start-up each time must not give up."""
CONFIG = f"""
model: {{num_layers: 2, d_model: 32, num_heads: 2, d_ff: 64, seq_len: {SEQ_LEN}}}
schedule: {{warmup_tokens: 1000}}
train:
  num_tokens: {NUM_STEPS * BATCH_SIZE * SEQ_LEN}
  global_batch_size: {BATCH_SIZE}
  micro_batch_size: 2
  checkpoint_every: {CHECKPOINT_EVERY}
  eval_samples: 0
  device: cpu
  sinks: [terminal]
sample: {{prompts: []}}
launch: {{max_starts: {MAX_STARTS}}}
"""
LAYOUT = "dp=2"
LAYOUTS = ("dp=2", "tp=2", "pp=2", "dp=1", "dp=2 zero_stage=3", "cp=2", "tp=2 sp=true", "dp=2 zero_stage=2")
"""Layouts of at most two ranks. The first is that of runs whose layout does not change."""
MARK = "FORETRAIN_CHAOS"
"""The variable by which all processes of a run are found, whatever has become of their parents."""
ROOT = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")
CACHE = "torchinductor_"
"""What the name of a folder begins with that torch keeps for later processes of the same user."""
_FOREIGN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def write_corpus(folder: Path) -> Path:
    """A small corpus of sums in a folder that is empty."""
    texts = folder / "texts"
    texts.mkdir(parents=True)
    for number in range(60):
        lines = [f"{number} plus {other} is {number + other}, and nothing else.\n" for other in range(30)]
        (texts / f"sums-{number:02}.txt").write_text("".join(lines))
    prepare([texts], folder / "corpus", vocab_size=300, val_fraction=0.1)
    return folder / "corpus"


@dataclass(frozen=True)
class Target:
    """A run of NUM_STEPS steps."""

    folder: Path
    """Its own folder, absolute: for the run, its output and its temporary files."""
    corpus: Path
    changes_layout: bool = False
    """Whether each start has another layout. Then `foretrain train` starts it, and nothing starts it again. Otherwise
    `foretrain launch` starts it, which also starts it again."""

    @property
    def run_dir(self) -> Path:
        """The folder of the run."""
        return self.folder / "run"

    @property
    def config(self) -> Path:
        """The file with CONFIG."""
        return self.folder / "tiny.yaml"

    @property
    def output(self) -> Path:
        """The file to which all starts of the run print."""
        return self.folder / "output.txt"

    def command(self, layout: str) -> list[str]:
        """The command that starts the run, or resumes it, in a layout such as "tp=2 sp=true"."""
        verb = "train" if self.changes_layout else "launch"
        where = (f"run_dir={self.run_dir}", f"data.path={self.corpus}")
        parallel = [f"parallel.{size}" for size in layout.split()]
        return [sys.executable, "-m", "foretrain", verb, str(self.config), *where, *parallel]

    def start(self, layout: str = LAYOUT) -> "subprocess.Popen[bytes]":
        """Start the command, whose output is appended to `output`."""
        temporary = self.folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        self.config.write_text(CONFIG, encoding="utf-8")
        ours = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
        env = {**ours, "PYTHONPATH": str(ROOT), MARK: str(self.folder), "TMPDIR": str(temporary)}
        with self.output.open("ab") as file:
            return subprocess.Popen(
                self.command(layout), cwd=self.folder, env=env, stdout=file, stderr=file, start_new_session=True
            )

    def processes(self) -> list[psutil.Process]:
        """The processes of the run that are alive."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def num_steps(self) -> int:
        """Steps in the metrics of the run, which each resume cuts back to its checkpoint."""
        metrics = self.run_dir / METRICS_FILE
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def partial_checkpoints(self) -> set[tuple[str, int]]:
        """The checkpoints that are being written or removed, or were when a process was killed: names and changes."""
        found = set()
        for path in (self.run_dir / CHECKPOINTS).glob(f"{PARTIAL}*"):
            with suppress(FileNotFoundError):
                found.add((path.name, path.stat().st_ctime_ns))
        return found

    def curve(self) -> list[dict[str, Any]]:
        """What the metrics say of every step and evaluation, without times."""
        records = [each for each in read_metrics(self.run_dir / METRICS_FILE) if each["kind"] in ("train", "eval")]
        return [{name: value for name, value in record.items() if not is_time(name)} for record in records]

    def left_behind(self, shared_before: set[Path]) -> list[str]:
        """What a run that has ended has left: processes, temporary files, incomplete checkpoints, shared memory."""
        processes = [f"process {' '.join(process.cmdline())[-100:]}" for process in self.processes()]
        temporary = [f"temporary file {path.name}" for path in self._temporary()]
        partial = [f"checkpoint {path.name}" for path in (self.run_dir / CHECKPOINTS).glob(f"{PARTIAL}*")]
        shared = [f"shared memory {path.name}" for path in unused_shared_memory() - shared_before]
        return [*processes, *temporary, *partial, *shared]

    def _temporary(self) -> list[Path]:
        return [path for path in (self.folder / "tmp").iterdir() if not path.name.startswith(CACHE)]

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)


def unused_shared_memory() -> set[Path]:
    """The files in shared memory that no process maps or has open."""
    files = {path for path in SHARED_MEMORY.rglob("*") if path.is_file()}
    used: set[str] = set()
    for process in psutil.process_iter() if files else ():
        with suppress(psutil.Error):
            used |= {each.path for each in process.memory_maps()} | {each.path for each in process.open_files()}
    return {path for path in files if str(path) not in used}
