"""The values of a sweep in the config of a run, by the batch rule of a ladder. Reads the sweep, and writes nothing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from foretrain.configs.schema import Config
from foretrain.scaling.ladder.rungs import BatchRule
from foretrain.scaling.transfer.sweep_folder import read_sweep
from foretrain.scaling.transfer.transfer import Transfer, settings, transfer_to
from foretrain.trainer.optimizers.entry import OPTIMIZERS

Resolve = Callable[[Sequence[str]], Config]
"""The user's config with further overrides."""


def check_batch_rule(rule: BatchRule, config: Config) -> None:
    """Raise ValueError if the rule does not hold for the optimizer of a config."""
    if rule != "fixed" and OPTIMIZERS.get(config.optimizer.kind).step_degree != 0:
        raise ValueError(
            f"--batch {rule} scales the learning rate with the root of the batch, which is a rule for Adam, and "
            f"optimizer.kind = {config.optimizer.kind}: use --batch fixed, or adamw"
        )


def tuned(
    sweep_folder: Path,
    coord_check: Path | None,
    rule: BatchRule,
    resolve: Resolve,
    *,
    judged_as: Callable[[Config], Config],
    trained_as: Callable[[Config], Config],
) -> tuple[Config, Transfer]:
    """The config that is trained, with the values of the sweep, and their transfer.

    `judged_as` and `trained_as` give a config the size of the run. With `--batch sqrt` and `linear` the transfer is
    judged at the batch of the sweep, and the rate is scaled from there to that of the run. With `fixed` it is judged at
    the batch of the run: it says nothing about the rate at another one. Raises ValueError if the sweep cannot be read.
    """
    sweep = read_sweep(sweep_folder)
    swept_batch_tokens = sweep.config.train.global_batch_size * sweep.config.model.seq_len

    def judged(more: Sequence[str]) -> Config:
        config = judged_as(resolve(more))
        if rule == "fixed":
            return config
        samples = max(1, round(swept_batch_tokens / config.model.seq_len))
        return replace(config, train=replace(config.train, global_batch_size=samples))

    transfer = transfer_to(sweep, judged, coord_check)
    config = trained_as(resolve(settings(transfer.study.values)))
    lr = config.optimizer.lr
    if rule != "fixed":
        lr *= math.sqrt(config.train.global_batch_size * config.model.seq_len / swept_batch_tokens)
    mup = replace(config.mup, evidence=transfer.config.mup.evidence)
    return replace(config, optimizer=replace(config.optimizer, lr=lr), mup=mup), transfer
