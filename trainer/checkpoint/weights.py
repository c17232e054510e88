"""The weights of a checkpoint of any layout one after the other, or in parts, without a model to load them into."""

import torch
from torch import Tensor

from foretrain.trainer.checkpoint.boxes import Box
from foretrain.trainer.checkpoint.checksums import DamagedError
from foretrain.trainer.checkpoint.loading import metadata_bytes
from foretrain.trainer.checkpoint.manifest import METADATA
from foretrain.trainer.checkpoint.metadata import read_metadata
from foretrain.trainer.checkpoint.parts import WEIGHT, Part
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.plans import ReadPlan
from foretrain.trainer.checkpoint.storage import CheckpointReader, expect_no_messages


class StoredWeights:
    """The weights in a checkpoint, read in one process, and no more of the files than is asked for.

    Raises as `loading.read_from` does: DamagedError, UnsafeError, OSError.
    """

    def __init__(self, checkpoint: Place) -> None:
        self._checkpoint = checkpoint
        try:
            content, self.reads_parts = metadata_bytes(checkpoint)
        except FileNotFoundError as error:
            raise DamagedError(f"{checkpoint}: {error}") from error
        self._metadata = read_metadata(content, checkpoint / METADATA)
        self._reader = CheckpointReader(checkpoint, self._metadata, has_checksums=self.reads_parts)
        self._reader.set_up_storage_reader(self._reader.read_metadata(), is_coordinator=True)

    reads_parts: bool
    """Whether a part of a parameter is read alone. Of checkpoints without checksums, torch reads complete tensors."""

    def rows(self, name: str, shape: tuple[int, ...], first: int, stop: int) -> Tensor:
        """The rows from `first` up to `stop` of a parameter of that global shape, in fp32.

        Raises ValueError if the checkpoint has no such parameter, or has it in another shape.
        """
        values = torch.empty(stop - first, *shape[1:])
        self.read_into(values, name, shape, first)
        return values

    def read_into(self, values: Tensor, name: str, shape: tuple[int, ...], first: int = 0) -> None:
        """Read rows of a parameter, from `first` on, into `values`, which has as many rows as are read."""
        box = Box((first, *(0 for _ in shape[1:])), tuple(values.shape))
        plan = ReadPlan([Part(WEIGHT, name, shape, box, values)])
        expect_no_messages()
        plan.set_up_planner(None, self._metadata)
        try:
            self._reader.read_data(plan.create_local_plan(), plan).wait()
        except FileNotFoundError as error:
            raise DamagedError(f"{self._checkpoint}: {error}") from error
