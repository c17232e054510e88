"""The model card of an exported model: what it is, on what it was trained, and how it did, as Markdown."""

from collections.abc import Iterator

from foretrain.printable import quotable
from foretrain.trainer.interop.facts import Facts
from foretrain.trainer.interop.family import Family
from foretrain.trainer.metrics import FINAL_SHARE
from foretrain.trainer.model.size import ModelSize

_HEAD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- foretrain
---
"""
_USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```
"""


def model_card(facts: Facts, family: Family, dtype: str, checkpoint: str, num_tokens_known: int) -> str:
    """The text of the card. `num_tokens_known`: tokens of the tokenizer."""
    name = code(facts.config.model.name)
    parts = [
        f"{_HEAD}\n# {name}",
        f"A {family.name} model ({code(family.architecture)}), exported by foretrain from {code(checkpoint)}, step "
        f"{facts.record.step:,}, in {dtype}.",
        _USE.rstrip(),
        "## Model",
        table(_model(facts, num_tokens_known)),
        "## Training",
        table(_training(facts)),
        "## Results",
        table(_results(facts)) + "\n\nLosses are in nats per token.",
    ]
    if notes := list(_notes(facts, num_tokens_known)):
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _model(facts: Facts, num_tokens_known: int) -> Iterator[tuple[str, str]]:
    model = facts.config.model
    shape, size = model.block_shape, ModelSize.of(model)
    yield "parameters", f"{size.num_params:,} ({size.num_params_without_embeddings:,} without embeddings)"
    yield "layers, width, feed-forward width", f"{model.num_layers}, {shape.d_model}, {shape.d_ff}"
    yield "heads, key-value heads, head width", f"{shape.num_heads}, {shape.num_kv_heads}, {shape.head_dim}"
    yield "positions", f"{model.seq_len:,}, {model.position}"
    yield "vocabulary", f"{model.vocab_size:,} rows, of which the tokenizer uses {num_tokens_known:,}"
    yield "embeddings", "tied" if model.tie_embeddings else "not tied"


def _training(facts: Facts) -> Iterator[tuple[str, str]]:
    config, record = facts.config, facts.record
    yield "tokens", f"{facts.num_tokens:,} in {record.step:,} steps of {config.train.global_batch_size:,} samples"
    yield "budget", f"{config.train.num_tokens:,} tokens, {facts.total_steps:,} steps"
    yield "training FLOPs", f"{ModelSize.of(config.model).flops(facts.num_tokens):.4g}"
    yield "parametrization", code(config.mup.parametrization)
    yield "precision", config.train.precision
    yield "optimizer, peak learning rate", f"{code(config.optimizer.kind)}, {config.optimizer.lr:g}"
    yield "seed of the data", str(record.seed)
    yield "fingerprint of the data", code(record.data_fingerprint)
    yield "fingerprint of the mixture", code(record.mixture_fingerprint)
    for name, fingerprint in record.sources.items():
        if name:  # a corpus without sources has the fingerprint of the data
            yield f"source {code(name)}", code(fingerprint)
    if record.parent:
        yield "started from", code(record.parent)


def _results(facts: Facts) -> Iterator[tuple[str, str]]:
    if facts.train_loss is None:
        yield "final training loss", "not known: the folder of the run was not there"
    else:
        yield "final training loss", f"{facts.train_loss:.4f} (mean of the last {FINAL_SHARE:.0%} of steps)"
    if facts.val_loss is None:
        yield "held-out loss", "not measured"
    else:
        error = "" if facts.val_loss_error is None else f" ± {facts.val_loss_error:.4f}"
        yield "held-out loss", f"{facts.val_loss:.4f}{error} (step {facts.val_loss_step:,})"
    if facts.prediction is not None:
        yield "predicted held-out loss at the end", f"{facts.prediction.loss:.4f} (seal {code(facts.prediction.seal)})"
        if facts.is_complete and facts.val_loss is not None and facts.val_loss_step == facts.record.step:
            yield "measured minus predicted", f"{facts.val_loss - facts.prediction.loss:+.4f}"


def _notes(facts: Facts, num_tokens_known: int) -> Iterator[str]:
    config = facts.config
    if not facts.record.step:
        yield "The weights were imported from another library, and not trained on."
    elif not facts.is_complete:
        yield f"The run was not at its end: {facts.record.step:,} of {facts.total_steps:,} steps were done."
    if config.mup.parametrization != "standard":
        yield "The multipliers of the parametrization are factors of the weights: train on from the checkpoint."
    if config.data.packing != "windows":
        yield "In training, each document started with the end-of-text token, and attention stayed inside documents."
    if num_tokens_known < (config.model.vocab_size or 0):
        yield "The rows of the vocabulary that no token uses were never a target of training."


def table(rows: Iterator[tuple[str, str]]) -> str:
    """A table of two columns without a head."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def code(text: str) -> str:
    """Text of others as code in a table, whatever is in it: it cannot end the code, the cell or the line."""
    plain = " ".join(quotable(text).split()).replace("`", "'").replace("|", "/")
    return f"`{plain}`" if plain else "none"
