"""A trained model from a checkpoint, in one process or on tensor-parallel ranks, to generate text with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from foretrain.configs.model import Shape
from foretrain.configs.schema import Config, SampleConfig
from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.data_pipeline.prepare.tokenizer import load_tokenizer
from foretrain.parallel import shim
from foretrain.parallel.groups import Groups
from foretrain.parallel.layout import Layout
from foretrain.parallel.placement import allocate
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.checkpoint.loading import load_weights
from foretrain.trainer.checkpoint.places import Place, on_disk
from foretrain.trainer.checkpoint.reading.node import Node
from foretrain.trainer.checkpoint.record import CheckpointRecord, config_of
from foretrain.trainer.model.gpt import build_stages
from foretrain.trainer.model.init import InitialWeights
from foretrain.trainer.model.table import layers_of
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.run.folder import RECORD, newest_checkpoint
from foretrain.trainer.text.decoding import CachedDecoder, Decoder, RecomputingDecoder
from foretrain.trainer.text.generate import Generation
from foretrain.trainer.text.network import Network, StageNetwork
from foretrain.trainer.text.pieces import DecodedText, StoppedText
from foretrain.trainer.text.sampling import Sampling
from foretrain.trainer.text.sharded import ShardedNetwork


@dataclass(frozen=True)
class Model:
    """A trained model with its tokenizer."""

    config: Config
    network: Network
    tokenizer: Tokenizer
    eot_id: int
    step: int = 0
    """Steps of its checkpoint."""

    def logits(self, tokens_BL: Tensor) -> Tensor:
        """Logits (B, L, V) in fp32 on the CPU."""
        return self.network.logits(tokens_BL).transpose(0, 1).cpu()

    def decoder(self, max_tokens: int) -> Decoder:
        """What gives the next token of texts with up to `max_tokens` tokens."""
        seq_len = self.config.model.seq_len
        if layers_of(self.config.model)["attn"].takes_cache:
            return CachedDecoder(self.network, seq_len, max_tokens)
        return RecomputingDecoder(self.logits, seq_len)

    def continue_text(self, prompt: str, sample: SampleConfig) -> str:
        """The text that follows `prompt`; an empty prompt starts a document. Raises as `continue_texts` does."""
        return "".join(text for _, text in self.continue_texts([prompt], sample))

    def continue_texts(
        self, prompts: Sequence[str], sample: SampleConfig, seeds: Sequence[int] | None = None
    ) -> Iterator[tuple[int, str]]:
        """The texts that follow `prompts`, while they are generated: a prompt's number and the next piece of its text.

        All prompts are continued at the same time, and each has a seed, or `sample.seed`. A text ends before the first
        of `sample.stop`. Raises ValueError if a prompt cannot be encoded as UTF-8, and if the model's objective is not
        causal.
        """
        ids = [self._encoded(prompt) for prompt in prompts]
        decoder = self.decoder(max(map(len, ids), default=0) + sample.num_tokens)
        sampling = Sampling(sample.temperature, sample.top_k, sample.top_p, sample.min_p)
        seeds = seeds or [sample.seed] * len(prompts)
        generation = Generation(decoder, ids, sample.num_tokens, sampling, seeds, self.eot_id)
        # The token that starts a document has a text, too, and is not part of any.
        decoded = [DecodedText(self.tokenizer, [token for token in each if token != self.eot_id]) for each in ids]
        texts = [StoppedText(sample.stop) for _ in prompts]
        for number, token in generation:
            if piece := texts[number].add(decoded[number].add(token)):
                yield number, piece
            if texts[number].is_stopped:
                generation.stop(number)
        for number, text in enumerate(texts):
            if piece := text.add(decoded[number].end()) + text.end():
                yield number, piece

    def _encoded(self, prompt: str) -> list[int]:
        if not objective_of(self.config).is_causal:
            kind = self.config.objective.kind
            raise ValueError(f"a model of objective.kind = {kind} sees later tokens and cannot continue a text")
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the prompt {prompt!r} is not valid UTF-8: pass it in that encoding") from None
        ids: list[int] = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        if not ids or self.config.data.packing != "windows":
            ids = [self.eot_id, *ids]  # if attention stays inside documents, each document starts with this token
        return ids


def find_checkpoint(run_dir: Place, checkpoint: Place | None = None) -> Place:
    """`checkpoint`, or a run's newest one. Raises ValueError if it is not complete, or if there is none.

    `run_dir` may also be a folder of checkpoints on a server.
    """
    found: Place | None = checkpoint or newest_checkpoint(run_dir)
    if found is None or not (found / RECORD).is_file():
        raise ValueError(f"{found or run_dir} holds no complete checkpoint: train first, or name another folder")
    return found


def load_model(run_dir: Place, checkpoint: Place | None = None, device: str = "auto") -> Model:
    """The model of a run's newest checkpoint, or of `checkpoint`, in this process. Raises as `find_checkpoint` does."""
    return read_model(find_checkpoint(run_dir, checkpoint), shim.device_of(device, local_rank=0))


def read_model(checkpoint: Place, device: torch.device, groups: Groups | None = None) -> Model:
    """The model of a checkpoint of any layout, in this process, or on the tensor-parallel ranks of `groups`.

    No rank ever holds more of the weights than its part. Every rank must call it. Raises ValueError if a file of the
    checkpoint is damaged.
    """
    config, record = config_of(checkpoint), CheckpointRecord.read(checkpoint)
    with on_disk(checkpoint / TOKENIZER) as file:
        tokenizer = load_tokenizer(file)
    tp = TensorParallel() if groups is None else TensorParallel.of(groups)
    (stage,) = build_stages(blueprint(config), Layout(tp=tp.size), 0, tp)
    shards = stage.shards()
    allocate(stage.parameters(), InitialWeights(shards, seed=None).fill, device, torch.float32)
    load_weights(checkpoint, shards, None if groups is None else Node.that_shares(checkpoint, groups))
    stage.eval()
    if groups is None:
        return Model(config, StageNetwork(stage), tokenizer, record.eot_id, record.step)
    network = ShardedNetwork(stage, groups, Shape.of(config.model).vocab_size)
    return Model(config, network, tokenizer, record.eot_id, record.step)


def continue_all(model: Model, prompts: Sequence[str], sample: SampleConfig) -> Iterator[tuple[str, str]]:
    """Each prompt with its continuation."""
    texts = [""] * len(prompts)
    for number, piece in model.continue_texts(prompts, sample):
        texts[number] += piece
    yield from zip(prompts, texts, strict=True)
