"""Folders of runs that have ended, as far as fits read them, without training."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.trainer.metrics import METRICS_FILE, to_line
from foretrain.trainer.run.description import Description
from foretrain.trainer.run.folder import CONFIG_FILE


def write_folder(
    folder: Path, config: Config, flops: float, tokens_per_step: int, records: Iterable[Mapping[str, Any]]
) -> Path:
    """The folder of a run of `config` with `records` as its metrics. Its parameters follow from its FLOPs."""
    num_tokens = config.train.num_tokens
    folder.mkdir(parents=True)
    configs.save(config, folder / CONFIG_FILE)
    Description(
        num_params=round(flops / 6 / num_tokens),
        num_params_without_embeddings=1,
        flops_per_token=round(flops / num_tokens),
        tokens_per_step=tokens_per_step,
        num_steps=num_tokens // tokens_per_step,
        num_tokens=num_tokens,
        flops=round(flops),
        flops_6nd=round(flops),
        tokenizer_sha256="t",
        data_fingerprint="d",
        held_out_fingerprint="h",
        mixture_fingerprint="m",
    ).write(folder)
    (folder / METRICS_FILE).write_text("".join(map(to_line, records)))
    return folder
