"""The tokenizer of a checkpoint as the files from which transformers loads a fast tokenizer. No torch."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.data_pipeline.prepare.tokenizer import load_tokenizer, vocab_size_of
from foretrain.files import write_atomically
from foretrain.trainer.checkpoint.places import Place, on_disk


def tokenizer_of(checkpoint: Place, vocab_size: int) -> Tokenizer:
    """The tokenizer in a checkpoint. Raises ValueError if it is missing, or has tokens that the model has not."""
    with on_disk(checkpoint / TOKENIZER) as file:
        tokenizer = load_tokenizer(file)
    if (needed := vocab_size_of(tokenizer)) > vocab_size:
        raise ValueError(
            f"the tokenizer of {checkpoint} has tokens up to {needed - 1}, and its model has {vocab_size} rows "
            f"(model.vocab_size): the checkpoint is not one that a run has written"
        )
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer, eot_id: int, seq_len: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    The token that ends a document is that at the start of a text and at its end, as in GPT-2. Nothing adds it to a
    text: the library's ids are those of the data that the model was trained on, in which no token was added either.
    """
    eot = tokenizer.id_to_token(eot_id)
    if eot is None:
        raise ValueError(f"the tokenizer has no token {eot_id}, which ends a document in the record of the checkpoint")
    special = {"bos_token": eot, "eos_token": eot}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "clean_up_tokenization_spaces": False,
        "model_max_length": seq_len,
    }
    for name, content in (
        (TOKENIZER, _without_added_tokens(tokenizer)),
        ("tokenizer_config.json", settings),
        ("special_tokens_map.json", special),
    ):
        write_atomically(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _without_added_tokens(tokenizer: Tokenizer) -> dict[str, Any]:
    """The fields of a tokenizer.json, without what would add tokens to a text."""
    fields: dict[str, Any] = json.loads(tokenizer.to_str())
    if tokenizer.num_special_tokens_to_add(is_pair=False):
        fields["post_processor"] = None
    return fields
