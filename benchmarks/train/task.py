"""The task of all contestants: one model, one batch size, one optimizer, and the same batches.

Legend: S steps, B samples of a batch, L positions of a sample.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.data.ours import write_corpus
from foretrain.configs.data import DataConfig
from foretrain.configs.model import ModelConfig
from foretrain.configs.optimization import OptimizerConfig, ScheduleConfig
from foretrain.configs.schema import Config, ParallelConfig, TrainConfig
from foretrain.data_pipeline.stream.data import open_data

CORPUS, BATCHES = "corpus", "batches.npy"
DOCUMENT_TOKENS = 500


@dataclass(frozen=True)
class Task:
    """What every contestant trains."""

    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    d_ff: int
    vocab_size: int
    seq_len: int
    batch_size: int
    """Samples of a step, in one forward pass."""
    precision: str = "fp32"
    """fp32, or bf16: products in bfloat16, and fp32 weights for the optimizer."""
    device: str = "cpu"
    threads: int = 1
    num_steps: int = 100
    """Steps for which there are batches."""
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    """That of matrices; gains do not decay."""
    clip_norm: float = 1.0
    seed: int = 0

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step."""
        return self.batch_size * self.seq_len

    def config(self, folder: Path, run_dir: Path | None = None) -> Config:
        """The config of foretrain with which it does the task, with the settings that a run has by default.

        `folder` has the corpus. Nothing is evaluated, and a checkpoint is written at the end only.
        """
        model = ModelConfig(
            num_layers=self.num_layers,
            d_model=self.d_model,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            d_ff=self.d_ff,
            vocab_size=self.vocab_size,
            seq_len=self.seq_len,
        )
        optimizer = OptimizerConfig(
            lr=self.lr,
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )
        train = TrainConfig(
            num_tokens=self.num_steps * self.tokens_per_step,
            global_batch_size=self.batch_size,
            micro_batch_size=self.batch_size,
            seed=self.seed,
            device=self.device,  # type: ignore[arg-type]
            precision=self.precision,  # type: ignore[arg-type]
            eval_samples=0,
            eval_every=0,
            checkpoint_minutes=0.0,
        )
        return Config(
            run_dir=str(run_dir or folder / "run"),
            model=model,
            data=DataConfig(path=str(folder / CORPUS)),
            parallel=ParallelConfig(dp=1),
            optimizer=optimizer,
            schedule=ScheduleConfig(kind="constant"),
            train=train,
        )

    def to_dict(self) -> dict[str, Any]:
        """The task as plain values, of which `Task(**values)` makes it again."""
        return asdict(self)


TINY = Task(num_layers=2, d_model=64, num_heads=4, num_kv_heads=4, d_ff=128, vocab_size=512, seq_len=32, batch_size=4)
SIZES = {
    "tiny": TINY,
    "small": replace(
        TINY,
        num_layers=4,
        d_model=256,
        num_heads=8,
        num_kv_heads=8,
        d_ff=704,
        vocab_size=4096,
        seq_len=256,
        batch_size=2,
    ),
    "124m": replace(
        TINY,
        num_layers=12,
        d_model=768,
        num_heads=12,
        num_kv_heads=12,
        d_ff=2048,
        vocab_size=32768,
        seq_len=1024,
        batch_size=16,
    ),
    "1b": replace(
        TINY,
        num_layers=16,
        d_model=2048,
        num_heads=16,
        num_kv_heads=16,
        d_ff=5632,
        vocab_size=32768,
        seq_len=2048,
        batch_size=4,
    ),
}
"""Models by name. In a step of the tiny one, what is not arithmetic takes most of the time."""


def write_task(task: Task, folder: Path) -> None:
    """Write the corpus of a task, and the batches that foretrain's stream reads from it, for those that read no corpus.

    Half of all tokens are a function of the token before, so that there is something to learn.
    """
    num_tokens = (task.num_steps + 1) * task.tokens_per_step
    write_corpus(_documents(task, num_tokens), num_tokens, folder / CORPUS, task.vocab_size)
    data = open_data(task.config(folder).data, task.seq_len)
    with data.batches(task.batch_size, num_batches=task.num_steps) as batches:
        batches_S2BL = np.stack([np.stack([batch.tokens_BL, batch.targets_BL]) for batch in batches])
    np.save(folder / BATCHES, batches_S2BL)


def read_batches(folder: Path) -> npt.NDArray[np.int64]:
    """Tokens and targets of the steps of a task, (S, 2, B, L)."""
    batches: npt.NDArray[np.int64] = np.load(folder / BATCHES, mmap_mode="r")
    return batches


def _documents(task: Task, num_tokens: int) -> Iterator[npt.NDArray[np.uint16]]:
    rng = np.random.default_rng(task.seed)
    for _ in range(-(-num_tokens // DOCUMENT_TOKENS)):
        tokens = 1 + ((task.vocab_size - 1) ** rng.random(DOCUMENT_TOKENS)).astype(np.int64)
        follows = rng.random(DOCUMENT_TOKENS) < 0.5
        for place in np.flatnonzero(follows[1:]) + 1:
            tokens[place] = 1 + (7 * tokens[place - 1] + 3) % (task.vocab_size - 1)
        tokens = np.minimum(tokens, task.vocab_size - 1)
        tokens[-1] = 0
        yield tokens.astype(np.uint16)
