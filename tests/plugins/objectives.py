"""An objective from outside the packages, as a user's plugin would add it: masked language modelling."""

import numpy as np

from foretrain.data_pipeline.stream.batch import IGNORE, Batch, IntArray
from foretrain.trainer.objectives.base import OBJECTIVES, Objective


class MaskedLM(Objective):
    """A share of the tokens is replaced by the vocabulary's last token, and must be found from both sides."""

    is_causal = False
    options = {"mask_share": 0.15}  # noqa: RUF012 (a constant)

    def inputs_and_targets(self, batch: Batch) -> tuple[IntArray, IntArray]:
        assert batch.samples_B is not None and self.config.model.vocab_size is not None
        seed, seq_len = self.config.data.seed, batch.tokens_BL.shape[1]
        draws_BL = np.stack([np.random.default_rng([seed, g]).random(seq_len) for g in batch.samples_B.tolist()])
        masked_BL = (draws_BL < self.settings["mask_share"]) & (batch.targets_BL != IGNORE)
        mask_id = self.config.model.vocab_size - 1
        return np.where(masked_BL, mask_id, batch.tokens_BL), np.where(masked_BL, batch.tokens_BL, IGNORE)


OBJECTIVES.register("masked", MaskedLM)
