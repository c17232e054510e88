"""An objective that is next-token prediction, but for a fault that is planted in some global samples."""

from typing import Any, ClassVar

import numpy as np

from foretrain.data_pipeline.stream.batch import Batch, IntArray
from foretrain.trainer.objectives.base import OBJECTIVES, Objective

WRONG_TARGETS, NAN, LARGE_GRADIENT = 0.0, 1.0, 2.0
"""Kinds of faults."""


class Planted(Objective):
    """The rank that has samples [first, end) gets wrong targets, losses of NaN, or gradients 10,000 times too large."""

    options: ClassVar[dict[str, float]] = {"first": -1, "end": -1, "fault": WRONG_TARGETS}
    is_here: ClassVar[bool] = False
    """Whether this rank's latest batch has such a sample."""

    def inputs_and_targets(self, batch: Batch) -> tuple[IntArray, IntArray]:
        first, end, fault = (self.settings[name] for name in ("first", "end", "fault"))
        assert batch.samples_B is not None
        planted_B = (batch.samples_B >= first) & (batch.samples_B < end)
        Planted.is_here = bool(planted_B.any())
        wrong_BL = planted_B[:, None] & (batch.targets_BL >= 0) & (fault == WRONG_TARGETS)
        return batch.tokens_BL, np.where(wrong_BL, 0, batch.targets_BL)

    def token_losses(self, logits_LBV: Any, targets_BL: Any, tp: Any) -> Any:
        fault = self.settings["fault"]
        if Planted.is_here and fault == LARGE_GRADIENT:
            logits_LBV.register_hook(lambda gradient: 1e4 * gradient)
        losses = super().token_losses(logits_LBV, targets_BL, tp)
        return losses * float("nan") if Planted.is_here and fault == NAN else losses


OBJECTIVES.register("planted", Planted)
