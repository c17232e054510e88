"""What the data of a run say: their vocabulary, and how often the run reads them."""

from dataclasses import dataclass

from foretrain.configs.schema import Config
from foretrain.data_pipeline.stream.data import open_data


@dataclass(frozen=True)
class DataFacts:
    """What a plan must know of the data."""

    vocab_size: int
    num_epochs: float
    """How often the run reads the source that it repeats most."""


def facts_of(config: Config) -> DataFacts:
    """The facts of a run's data. Raises ValueError or OSError, which say why, if they cannot be read."""
    data = open_data(config, progress=True, check=False)
    tokens_per_step = config.train.global_batch_size * config.model.seq_len
    num_samples = -(-config.train.num_tokens // tokens_per_step) * config.train.global_batch_size
    mixture = data.train.mixture
    drawn = mixture.counts(num_samples)
    epochs = (int(taken) / source.num_samples for taken, source in zip(drawn, mixture.sources, strict=True))
    return DataFacts(data.any_stream.vocab_size, max(epochs))
