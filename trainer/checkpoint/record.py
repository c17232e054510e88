"""The record in a checkpoint: where in the run it was written, and on which data. And the config beside it."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.trainer.checkpoint.places import Place, on_disk, read_file, write_file
from foretrain.trainer.run.folder import CONFIG_FILE, RECORD
from foretrain.typed_json import from_json

VERSION = 1


@dataclass(frozen=True)
class CheckpointRecord:
    """The content of `run.json` in a checkpoint; the same in every layout."""

    step: int
    """Steps that were done."""
    samples_consumed: int
    """Samples that the optimizer had consumed."""
    seed: int
    """Seed of the data stream."""
    data_fingerprint: str
    """Changes with any token of any source."""
    mixture_fingerprint: str
    """Changes with anything else that decides which tokens a sample is made of."""
    stage: str
    """Name of the mixture's stage."""
    sources: dict[str, str] = field(default_factory=dict)
    """Fingerprint of each source, by its name."""
    optimizer_steps: int | None = None
    """Updates that the optimizer has made; None, in records of older versions: one in each step."""
    left_out: tuple[tuple[int, int], ...] = ()
    """Ranges of global samples, [start, end), that the run leaves out."""
    num_bad_samples: int = 0
    """Unreadable samples that were replaced since the start of the run."""
    val_loss: float | None = None
    """Held-out loss after that step, nats per token; None if the step was not evaluated."""
    parent: str = ""
    """The checkpoint of another run from which the run was started; "" if there is none."""
    eot_id: int = 0
    """Token that ends a document."""
    has_optimizer: bool = True
    """Whether it has the states of an optimizer. An imported model has weights only."""
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """State of each callback that has one, by the callback's name."""
    version: int = VERSION
    """Version of this record's form."""

    @property
    def num_updates(self) -> int:
        """Updates that the optimizer has made."""
        return self.step if self.optimizer_steps is None else self.optimizer_steps

    @classmethod
    def read(cls, checkpoint: Place) -> Self:
        """The record of a checkpoint. Raises ValueError, which names the file, if it is not one, or is too new."""
        path = checkpoint / RECORD
        try:
            return from_json(cls, read_file(path), VERSION)
        except ValueError as error:
            raise ValueError(f"{path} is not the record of a checkpoint: {error}: use another checkpoint") from error

    def write(self, checkpoint: Place) -> None:
        """Write the record into the folder of a checkpoint."""
        write_file(checkpoint / RECORD, json.dumps(asdict(self), indent=1))


def config_of(checkpoint: Place) -> Config:
    """The config of the run that wrote a checkpoint. Raises ConfigError as `configs.load` does."""
    with on_disk(checkpoint / CONFIG_FILE) as file:
        return configs.load(file)
