"""Which engine of data parallelism a config has."""

from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout, uses_deepspeed
from foretrain.parallel.zero.base import Zero
from foretrain.parallel.zero.bucketed import BucketedZero
from foretrain.parallel.zero.with_deepspeed import DeepSpeedZero


def zero_of(layout: Layout, config: Config) -> type[Zero]:
    """DeepSpeed's engine where weights are sharded or states offloaded, and else the project's own."""
    return DeepSpeedZero if uses_deepspeed(layout, config.parallel) else BucketedZero
