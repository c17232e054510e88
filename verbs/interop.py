"""The verbs between checkpoints of foretrain and the models of other libraries."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from foretrain.verbs.shared import bad_input


def export(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="The folder of a run, whose newest checkpoint is exported, or one checkpoint; or a URL of either.",
        ),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The folder to make. An empty one may be there.")],
    to: Annotated[Literal["hf"], typer.Option(help="hf: a folder that transformers and what reads its files load.")],
    dtype: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Type of the weights in the files. Checkpoints have fp32.")
    ] = "fp32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", "--force", help="Replace OUT if it is an earlier export.")
    ] = False,
    max_file_gb: Annotated[
        float, typer.Option(min=1e-9, help="Size of the largest file with weights, GB, unless one tensor has more.")
    ] = 5.0,
) -> None:
    """Export a checkpoint as a Llama, Qwen3 or GPT-2 model of the transformers library, whichever the config is.

    Needs no GPU, and memory for one tensor. The multipliers of muP and CompleteP become factors of the weights. OUT has
    the weights (safetensors), config.json, the tokenizer, and a model card with what the run has recorded. A config
    that no family computes is refused, with the settings that are in the way.

    Example: `foretrain export runs/dry_run exported/dry_run --to hf --dtype bf16`
    """
    with bad_input():
        from foretrain.trainer.checkpoint.places import place_of
        from foretrain.trainer.interop.folder import check_is_free

        if "://" in out:
            raise ValueError(f"{out} is a URL: OUT is a folder of this machine; copy it to the server afterwards")
        check_is_free(Path(out), overwrite=overwrite)  # before seconds of imports
        from foretrain.trainer.interop.export import export as write

        exported = write(
            place_of(target),
            Path(out),
            dtype,
            overwrite=overwrite,
            max_file_bytes=round(max_file_gb * 1e9),
            progress=True,
        )
    typer.echo(exported)


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="The model: a folder with config.json, safetensors files and tokenizer.json."
        ),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The folder to make. An empty one may be there.")],
    seq_len: Annotated[
        int | None, typer.Option(help="Tokens of one sample. Default: as many as the model allows.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A tokenizer.json. Default: that of FOLDER.")
    ] = None,
    eot_token: Annotated[
        str | None,
        typer.Option(
            help="Token that ends a document. Default: the one that config.json and the files beside it name."
        ),
    ] = None,
) -> None:
    """Import a Llama, Mistral, Qwen3 or GPT-2 model of the transformers library, from whose weights runs start.

    OUT has a checkpoint of step 0, which `train.init_from=OUT`, `generate` and `export` take, and a config.yaml with
    the model section and `train.init_from`. Weights in bf16 and fp16 are stored in fp32, exactly. A model that
    computes something else than ours is refused, with the fields of config.json that are in the way.

    Example: `foretrain import models/SmolLM2-135M imported/smollm`
    """
    with bad_input():
        from foretrain.trainer.interop.folder import IMPORT, check_is_free

        if "://" in out:
            raise ValueError(f"{out} is a URL: OUT is a folder of this machine; copy it to the server afterwards")
        check_is_free(Path(out), overwrite=False, kind=IMPORT)  # before seconds of imports
        from foretrain.trainer.interop.importing.run import import_model

        imported = import_model(
            source, Path(out), seq_len=seq_len, tokenizer=tokenizer, eot_token=eot_token, progress=True
        )
    typer.echo(imported)
