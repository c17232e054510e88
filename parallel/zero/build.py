"""Which engine of data parallelism a layout has."""

from foretrain.parallel.layout import Layout
from foretrain.parallel.zero.base import Zero
from foretrain.parallel.zero.bucketed import BucketedZero
from foretrain.parallel.zero.with_deepspeed import DeepSpeedZero


def zero_of(layout: Layout) -> type[Zero]:
    """DeepSpeed's engine where weights are sharded, and else the project's own."""
    return DeepSpeedZero if layout.zero_stage == 3 else BucketedZero
