"""What a run trains, written into its folder: the size of its model, its tokens and FLOPs, and what its data are.

    {"num_params": 124439808, "num_params_without_embeddings": 85056000, "flops_per_token": 797815296, ...}

Laws of the loss are fitted to these numbers. They are recorded, since a config alone does not give them: the vocabulary
may come from the data, and a plugin counts the FLOPs of its layers.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from foretrain.files import write_atomically
from foretrain.trainer.model.size import ModelSize
from foretrain.trainer.run.folder import DESCRIPTION_FILE
from foretrain.trainer.run.setup import Run
from foretrain.typed_json import from_json

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of `description.json`; the same in every layout. Definitions are in `trainer/model/size.py`."""

    num_params: int
    """Parameters in all."""
    num_params_without_embeddings: int
    flops_per_token: int
    """FLOPs of training on one token."""
    tokens_per_step: int
    """Tokens of a global batch."""
    num_steps: int
    """Steps of the complete budget."""
    num_tokens: int
    """Tokens of the complete budget, which is rounded up to complete steps."""
    flops: int
    """FLOPs of the complete budget."""
    flops_6nd: int
    """The estimate 6 N D, with all parameters as N, for comparison."""
    tokenizer_sha256: str
    data_fingerprint: str
    """Changes with any token of the train split of any source, and with the tokenizer."""
    held_out_fingerprint: str
    """Changes with any token of the held-out split of any source."""
    mixture_fingerprint: str
    """Changes with anything else that decides which tokens a sample is made of."""
    parent: str = ""
    """The checkpoint of another run from which the run was started; "" if there is none."""
    version: int = VERSION
    """Version of this file's form."""

    @classmethod
    def of(cls, run: Run) -> Self:
        """The description of a checked run."""
        size, data = ModelSize.of(run.config.model), run.data
        num_tokens = run.total_steps * run.tokens_per_step
        return cls(
            **asdict(size),
            tokens_per_step=run.tokens_per_step,
            num_steps=run.total_steps,
            num_tokens=num_tokens,
            flops=size.flops(num_tokens),
            flops_6nd=size.flops_6nd(num_tokens),
            tokenizer_sha256=data.any_stream.tokenizer_sha256,
            data_fingerprint=data.fingerprint,
            held_out_fingerprint=data.held_out_fingerprint,
            mixture_fingerprint=data.mixture_fingerprint,
            parent=run.parent,
        )

    @classmethod
    def read(cls, run_dir: Path) -> Self:
        """The description in a run folder.

        Raises FileNotFoundError if there is none, and ValueError, which names the file, if it is not one.
        """
        path = run_dir / DESCRIPTION_FILE
        try:
            return from_json(cls, path.read_bytes(), VERSION)
        except ValueError as error:
            raise ValueError(f"{path} does not describe a run: {error}: run the same command again") from error

    def write(self, run_dir: Path) -> None:
        """Write the description into a run folder."""
        write_atomically(run_dir / DESCRIPTION_FILE, json.dumps(asdict(self), indent=1) + "\n")
