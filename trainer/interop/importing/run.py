"""Importing a model of transformers as a folder from whose checkpoint runs start, without the model in memory."""

from dataclasses import dataclass, replace
from pathlib import Path

from foretrain.configs import load as configs
from foretrain.configs.schema import Config, TrainConfig
from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.printable import quotable
from foretrain.progress import byte_progress
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.space import GIB, free_bytes
from foretrain.trainer.checkpoint.storage import NotFiniteError
from foretrain.trainer.interop.family import targets_of
from foretrain.trainer.interop.folder import IMPORT, check_is_free, replacing_folder
from foretrain.trainer.interop.importing.checkpoint import write_checkpoint
from foretrain.trainer.interop.importing.declared import Declared, declared_model
from foretrain.trainer.interop.importing.errors import UnfitError
from foretrain.trainer.interop.importing.fit import fitting
from foretrain.trainer.interop.importing.stored import Stored, stored_tensors
from foretrain.trainer.interop.importing.tokenizer import ImportedTokenizer, tokenizer_of
from foretrain.trainer.interop.importing.values import Values, portions_of
from foretrain.trainer.interop.tensors import Target
from foretrain.trainer.model.size import ModelSize
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.run.folder import CHECKPOINTS, CONFIG_FILE

VERSION = 1
_FP32_BYTES = 4


@dataclass(frozen=True)
class Imported:
    """What was imported."""

    out: Path
    declared: Declared
    tokenizer: ImportedTokenizer
    num_params: int

    def __str__(self) -> str:
        model, token = self.declared.model, self.tokenizer
        lines = [
            f"{self.out}: a {self.declared.kind.name} model of {self.num_params:,} parameters, for sequences of "
            f"{model.seq_len:,} tokens; documents end with {quotable(token.eot)!r} ({token.eot_id})"
        ]
        if self.declared.dropouts:
            asked = ", ".join(f"{name} = {value}" for name, value in self.declared.dropouts.items())
            lines.append(f"config.json asks for dropout in training ({asked}), and runs of foretrain have none")
        return "\n".join(lines)


def import_model(
    source: Path,
    out: Path,
    *,
    seq_len: int | None = None,
    tokenizer: Path | None = None,
    eot_token: str | None = None,
    progress: bool = False,
) -> Imported:
    """Import the model folder `source` to the new folder `out`: a config, and a checkpoint of step 0.

    Takes memory for a few parts of 4 MiB, and, for GPT-2, for one tensor. `seq_len`: tokens of a sample (None: as many
    as the model allows). `tokenizer`: a tokenizer.json (None: that of the folder). `eot_token`: the token that ends a
    document (None: the one that the folder names). Raises ValueError if the model is not one that ours computes, or if
    a file is missing or not sound; there is nothing at `out` then.
    """
    check_is_free(out, overwrite=False, kind=IMPORT)
    stored = stored_tensors(source)
    declared = declared_model(source, seq_len, name=quotable(out.resolve().name))
    config = Config(model=declared.model, run_dir=quotable(f"runs/from-{out.resolve().name}"))
    targets = targets_of(declared.kind.family, blueprint(config))
    fitted = fitting(stored, targets, declared.kind)
    shape = declared.model.vocab_size
    assert shape is not None, "every config.json has it"
    found = tokenizer_of(source, shape, tokenizer, eot_token)
    num_params = ModelSize.of(declared.model).num_params
    _check_room(out, num_params * _FP32_BYTES)
    mark = {"version": VERSION, "model": str(source), "kind": declared.kind.name}
    with replacing_folder(out, mark, overwrite=False, kind=IMPORT) as folder:
        start = replace(config, train=TrainConfig(init_from=str(out.resolve())))
        configs.save(start, folder / CONFIG_FILE)
        _write(folder / CHECKPOINTS, source, config, targets, fitted, found, progress=progress)
    return Imported(out, declared, found, num_params)


def _write(
    folder: Path,
    source: Path,
    config: Config,
    targets: list[Target],
    fitted: dict[str, Stored],
    tokenizer: ImportedTokenizer,
    *,
    progress: bool,
) -> None:
    """Write the checkpoint of step 0."""
    record = CheckpointRecord(
        step=0,
        samples_consumed=0,
        seed=config.data.seed,
        data_fingerprint="",
        mixture_fingerprint="",
        stage="",
        parent=str(source),
        eot_id=tokenizer.eot_id,
        has_optimizer=False,
    )
    num_bytes = sum(each.entry.stop - each.entry.start for each in fitted.values())
    with byte_progress(f"importing {source.resolve().name}", num_bytes, enabled=progress) as advance:
        values = Values(fitted, advance)
        try:
            attached = {TOKENIZER: tokenizer.content}
            write_checkpoint(folder, list(portions_of(targets)), values.of, record, config, attached)
        except NotFiniteError as error:
            (target,) = (each for each in targets if str(error) in [one.name for one in each.sources])
            stored = fitted[target.name]
            raise UnfitError(f"{stored.name} in {stored.path} has weights that are not finite") from error


def _check_room(out: Path, num_bytes: int) -> None:
    free = free_bytes(out.resolve().parent)
    if free < num_bytes:
        raise UnfitError(
            f"the checkpoint has {num_bytes / GIB:.3f} GiB, and {free / GIB:.3f} GiB are free for {out}: free some, or "
            "choose another folder"
        )
