"""What ranks run in tests of imports: complete runs, one after the other in the same processes."""

from collections.abc import Sequence

from foretrain.parallel.groups import destroy_groups, init_groups
from foretrain.trainer.run.setup import Run
from foretrain.trainer.trainer import Trainer


def fit_all(runs: Sequence[Run]) -> None:
    """Train each run, all of the same layout, to its end: to start ranks takes longer than these steps."""
    groups = init_groups(runs[0].layout, "cpu", timeout_s=120.0)
    for run in runs:
        trainer = Trainer(run, groups)
        trainer.fit()
        trainer.engine.zero.destroy()
    destroy_groups()
