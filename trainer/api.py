"""Functions for use from Python that no other module needs: a complete model in one process, and process groups."""

from collections.abc import Iterator
from contextlib import contextmanager

from foretrain.configs.schema import Config
from foretrain.parallel.groups import Groups, destroy_groups, init_groups
from foretrain.trainer.model import gpt
from foretrain.trainer.model.gpt import Stage
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.run.setup import Run


def build_model(config: Config) -> Stage:
    """The complete model of a config in this process, on the CPU in fp32, with its initial weights.

    It maps tokens (B, L) to logits (L, B, V). Raises ValueError if `model.vocab_size` is not set, or if the
    parametrization does not fit the model.
    """
    return gpt.build_model(blueprint(config), config.train.seed)


@contextmanager
def process_groups(run: Run) -> Iterator[Groups]:
    """Join the other ranks of a run, and leave them at the end of the block.

    Reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as torchrun sets them; a single process needs none.
    """
    groups = init_groups(run.layout, run.config.train.device, run.config.parallel.timeout_s)
    try:
        yield groups
    finally:
        destroy_groups()
