"""Next-token prediction: each position predicts the token that follows it."""

from foretrain.data_pipeline.stream.batch import Batch, IntArray
from foretrain.trainer.objectives.base import OBJECTIVES, Objective


class NextToken(Objective):
    """Causal language modelling."""

    def inputs_and_targets(self, batch: Batch) -> tuple[IntArray, IntArray]:
        return batch.tokens_BL, batch.targets_BL

    @classmethod
    def keeps_targets(cls) -> bool:
        return cls.inputs_and_targets is NextToken.inputs_and_targets  # an objective derived from it may not


OBJECTIVES.register("next_token", NextToken)
