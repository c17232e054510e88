"""A checkpoint of weights that are made one part after the other, while they are written."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem

from foretrain.configs.schema import Config
from foretrain.trainer.checkpoint.files import Checkpoints
from foretrain.trainer.checkpoint.folders import folder_of
from foretrain.trainer.checkpoint.plans import WritePlan
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.checkpoint.storage import RankWriter, expect_no_messages
from foretrain.trainer.interop.importing.values import Portion


class _MadePlan(WritePlan):
    """Writes portions whose values are made when they are needed, and not kept."""

    def __init__(self, portions: Sequence[Portion], values_of: Callable[[Portion], Tensor]) -> None:
        parts = [portion.part for portion in portions]
        super().__init__(parts)
        self._portions: dict[MetadataIndex, Portion] = {
            part.index: portion for part, portion in zip(parts, portions, strict=True)
        }
        self._values_of = values_of

    def set_up_planner(
        self, state_dict: Mapping[str, Any], storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        """Nothing: there is no state from which tensors could be taken."""

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self._values_of(self._portions[write_item.index])


def write_checkpoint(
    folder: Path,
    portions: Sequence[Portion],
    values_of: Callable[[Portion], Tensor],
    record: CheckpointRecord,
    config: Config,
    attached: Mapping[str, bytes],
) -> Path:
    """Write the checkpoint of the record's step into a folder of checkpoints, as a run of one rank does. Returns it.

    It has weights and no states of an optimizer. `values_of` is called once for each portion, in their order. Raises
    NotFiniteError, with the name of the parameter, for values that are not finite.
    """
    places = folder_of(folder)
    target = places.path(record.step)
    partial = places.unfinished(target)
    partial.mkdir(parents=True)
    expect_no_messages()
    dcp.save(
        {},
        storage_writer=RankWriter(partial, 0),
        planner=_MadePlan(portions, values_of),
        no_dist=True,
        use_collectives=False,
    )
    Checkpoints(folder, Retention(newest=1)).write_rest(partial, target, 1, record, config, attached)
    assert isinstance(target, Path)
    return target
