"""All that can be known about a run before a process starts: its whole config, its corpus, what it resumes from.

Raises ValueError, with what to change, for a run that cannot be. Imports no torch, so that a mistake is told at once.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from configs import load as configs
from configs.schema import Config
from data_pipeline.shards import TokenStream, open_corpus
from parallel import layout as layouts
from parallel.layout import Layout
from trainer import schedule
from trainer.stage_cost import balanced, counted

CONFIG_FILE = "config.yaml"
CHECKPOINTS = "checkpoints"
RECORD = "run.json"

MAY_CHANGE = (
    "run_dir",
    "model.name",
    "data.path",  # the tokens may move; their fingerprint may not change
    "data.prefetch_batches",
    "parallel.",
    "train.micro_batch_size",
    "train.device",
    "train.recompute",
    "train.check_every",
    "train.eval_every",
    "train.eval_samples",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.log_every",
    "train.stop_after",
    "sample.",
    "cluster.",
)
"""Settings that leave the curve as it is. A resume with any other one changed is refused."""


@dataclass(frozen=True)
class Run:
    """A run that can be: every default filled in, checked against its corpus and its newest checkpoint."""

    config: Config
    layout: Layout
    train_data: TokenStream
    val_data: TokenStream
    checkpoint: Path | None
    """Where it resumes from."""
    start_step: int
    """Steps already done."""

    @property
    def tokens_per_step(self) -> int:
        """Positions of one global batch."""
        return self.config.train.global_batch_size * self.config.model.seq_len

    @property
    def total_steps(self) -> int:
        """Steps of the whole budget, rounded up."""
        return -(-self.config.train.num_tokens // self.tokens_per_step)

    @property
    def measures_stages(self) -> bool:
        """Whether its ranks still measure the costs by which the layout's stages share the blocks."""
        parallel = self.config.parallel
        return self.layout.pp > 1 and parallel.balance == "measured" and parallel.stage_layers is None

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path(self.config.run_dir)


def prepare_run(config: Config, world_size: int | None = None) -> Run:
    """Fill in what the corpus and the number of ranks decide, and check everything."""
    train_data = open_corpus(config.data.path, "train")
    val_data = open_corpus(config.data.path, "val")
    config = _with_vocabulary(config, train_data)
    layout = Layout.from_config(config.parallel, world_size)
    layouts.check(layout, config.model, config.train)
    if config.parallel.balance == "flops" and layout.stage_layers is None:
        layout = balanced(layout, config.model.num_layers, counted(config.model, config.train))
    schedule.check(config.schedule, config.train.num_tokens)
    train_data.num_samples(config.model.seq_len)
    checkpoint = newest_checkpoint(Path(config.run_dir))
    start_step = check_resume(checkpoint, config, train_data.fingerprint) if checkpoint else 0
    return Run(config, layout, train_data, val_data, checkpoint, start_step)


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run: partial ones have another name."""
    return max((run_dir / CHECKPOINTS).glob("step-*"), default=None)


def check_resume(checkpoint: Path, config: Config, fingerprint: str) -> int:
    """The step of a checkpoint, if `config` continues its curve. Raises ValueError that lists what does not."""
    record = json.loads((checkpoint / RECORD).read_text())
    lines = configs.diff(configs.load(checkpoint / CONFIG_FILE), config)
    changed = [line for line in lines if not line.startswith(MAY_CHANGE)]
    if fingerprint != record["data_fingerprint"]:
        changed.append(f"the tokens in data.path = {config.data.path} are not those of the checkpoint")
    if changed:
        raise ValueError(
            f"{checkpoint} cannot be resumed, because these change the curve:\n  "
            + "\n  ".join(changed)
            + "\nset them back to resume, or start a new run with another run_dir"
        )
    return record["step"]


def _with_vocabulary(config: Config, data: TokenStream) -> Config:
    vocab_size = config.model.vocab_size or data.vocab_size
    if vocab_size < data.vocab_size:
        raise ValueError(
            f"model.vocab_size = {vocab_size} is smaller than the {data.vocab_size} tokens of {data.folder}: "
            f"set it to {data.vocab_size} or more, or leave it out"
        )
    return replace(config, model=replace(config.model, vocab_size=vocab_size))
