"""What a trained model loses on held-out text, and how well its probabilities hold there.

Shape letters: B samples of a batch, L positions of a sample, V tokens of the vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretrain.data_pipeline.corpus.manifest import split_of_set
from foretrain.data_pipeline.corpus.shards import TokenStream, open_corpus
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batch import IGNORE
from foretrain.data_pipeline.stream.data import open_data
from foretrain.data_pipeline.stream.held_out import HeldOutSamples, documents_of, num_windows, spread
from foretrain.files import named_path
from foretrain.progress import JobProgress
from foretrain.trainer.measures.calibration import Calibration
from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.run.origin import give_same_ids
from foretrain.trainer.standard_error import Estimate, estimate
from foretrain.trainer.text.inference import Model

LOGITS_BYTES = 2**28
"""Memory for the fp32 logits of a batch, of which a few copies are made."""


@dataclass(frozen=True)
class HeldOutResult:
    """What a model does on one held-out set."""

    name: str
    loss: Estimate
    """Nats per token."""
    num_tokens: int
    """Tokens that were predicted."""
    bytes_per_token: float | None
    """UTF-8 bytes of the set's text for each of its tokens; None if they are not known, or say nothing of the loss."""
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def perplexity(self) -> float:
        """exp of the loss: of models with other tokenizers, it cannot be compared."""
        return math.exp(self.loss.mean) if self.loss.mean < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """The loss in bits for each UTF-8 byte of the text, which no tokenizer changes."""
        return None if self.bytes_per_token is None else self.loss.mean / math.log(2) / self.bytes_per_token

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        return {
            "name": self.name,
            "loss": self.loss.mean,
            "standard_error": self.loss.standard_error,
            "samples": self.loss.num_samples,
            "tokens": self.num_tokens,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "accuracy": self.calibration.accuracy,
            "calibration_error": self.calibration.expected_error,
            "calibration": self.calibration.rows(),
        }


def held_out_sets(model: Model, corpora: Sequence[str]) -> dict[str, TokenStream]:
    """The held-out splits of corpora by their names: folders or URLs, NAME=PATH or PATH alone.

    Without corpora, those of the data that the model was trained on. Raises ValueError, and CorpusError, if one cannot
    be opened, or has another tokenizer than the model.
    """
    found: dict[str, TokenStream] = {}
    if not corpora:
        try:
            sources = open_data(model.config, check=False).held_out
        except CorpusError as error:
            raise CorpusError(f"the data of the run cannot be opened ({error}); --data names another corpus") from error
        for source in sources:
            name = source.name or str(model.config.data.path)
            found[name] = _with_tokenizer_of(model, source.stream, name)
            found |= {f"{name}/{each}": stream for each, stream in source.sets.items()}
    for text in corpora:
        name, path = named_path(text)
        name = name or path
        if name in found:
            raise ValueError(f"--data names {name!r} twice: give each corpus a name of its own, as NAME=PATH")
        cache = model.config.data.cache
        found[name] = _with_tokenizer_of(model, open_corpus(path, "val", cache), path)
        for each in found[name].manifest.val_sets:
            found[f"{name}/{each}"] = open_corpus(path, split_of_set(each), cache)
    return found


def _with_tokenizer_of(model: Model, stream: TokenStream, name: str) -> TokenStream:
    if not give_same_ids(model.tokenizer.to_str().encode(), stream.read_tokenizer()):
        raise CorpusError(
            f"{name} was prepared with another tokenizer than the model's: prepare it with the tokenizer.json of the "
            "checkpoint (foretrain prepare --tokenizer FILE)"
        )
    return stream


def measure(
    model: Model,
    name: str,
    stream: TokenStream,
    num_samples: int,
    batch_size: int | None = None,
    on_batch: Callable[[int], None] = lambda count: None,
) -> HeldOutResult:
    """What the model does on windows of a held-out stream, spread evenly over it, as the evaluations of a run are.

    `num_samples`: windows; 0: all of them. `batch_size`: windows at a time; None: as many as fit into LOGITS_BYTES.
    `on_batch(count)` is called after each batch with the number of its samples. The model computes in fp32.
    """
    seq_len, config = model.config.model.seq_len, model.config
    objective = objective_of(config)(config)
    all_windows = num_windows(stream, seq_len)
    windows_N = spread(num_samples or all_windows, all_windows)
    is_in_documents = config.data.packing != "windows"
    samples = HeldOutSamples(stream, seq_len, windows_N, with_positions=is_in_documents)
    size = batch_size or max(1, LOGITS_BYTES // (4 * seq_len * (config.model.vocab_size or 1)))
    losses, counts, calibration = [], [], Calibration()
    for first in range(0, len(windows_N), size):
        tensors = objective.tensors(samples.batch(slice(first, first + size)))
        loss_BL, confidence_BL, is_right_BL = predictions(model, *tensors)
        carries_BL = (tensors[1] != IGNORE).numpy()
        losses.append(np.where(carries_BL, loss_BL, 0.0).sum(axis=1))
        counts.append(carries_BL.sum(axis=1))
        calibration.add(confidence_BL[carries_BL], is_right_BL[carries_BL])
        on_batch(len(loss_BL))
    loss_N, count_N = np.concatenate(losses), np.concatenate(counts)
    split = stream.manifest.splits[stream.split]
    has_bytes = objective.is_causal and split.num_bytes and split.num_tokens
    return HeldOutResult(
        name,
        estimate(loss_N, count_N, documents_of(stream, seq_len, windows_N)),
        int(count_N.sum()),
        split.num_bytes / split.num_tokens if has_bytes and split.num_bytes else None,
        calibration,
    )


@torch.no_grad()
def predictions(model: Model, tokens_BL: Tensor, targets_BL: Tensor, positions_BL: Tensor | None) -> tuple[Any, ...]:
    """The loss of each target in nats, the probability of the most likely token, and whether it is the target.

    Arrays of shape (B, L), the first two in float64; a target IGNORE has any values.
    """
    logits_BLV = model.network.logits(tokens_BL, positions_BL).transpose(0, 1)
    log_total_BL = logits_BLV.logsumexp(dim=-1)
    greatest_BL, most_likely_BL = logits_BLV.max(dim=-1)
    wanted_BL = targets_BL.to(logits_BLV.device)
    target_BL = logits_BLV.gather(-1, wanted_BL.clamp(min=0)[..., None])[..., 0]
    found = (
        (log_total_BL - target_BL).double(),
        (greatest_BL - log_total_BL).double().exp(),
        most_likely_BL == wanted_BL,
    )
    return tuple(each.cpu().numpy() for each in found)


def measure_all(
    model: Model, sets: Mapping[str, TokenStream], num_samples: int, batch_size: int | None
) -> list[HeldOutResult]:
    """The result of `measure` for each held-out set, with progress on stderr."""
    windows = [num_windows(stream, model.config.model.seq_len) for stream in sets.values()]
    results = []
    with JobProgress(sum(min(num_samples or each, each) for each in windows), label="samples") as progress:
        for name, stream in sets.items():
            results.append(measure(model, name, stream, num_samples, batch_size, progress.advance))
            progress.log(f"{name}: {results[-1].loss.mean:.4f}, {progress.time_left()}")
    return results
