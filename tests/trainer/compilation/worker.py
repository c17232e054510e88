"""What a rank runs in the tests of compiled runs."""

from foretrain import Run
from foretrain.trainer.run.rank import train_rank


def train_and_count(run: Run) -> dict[str, int]:
    """Train, and return how many functions torch has found in its folder, and how many it has compiled."""
    from torch._dynamo.utils import counters
    from torch._inductor import config

    # To find the vector instructions of a machine, torch would compile six programs first.
    config.cpp.vec_isa_ok = False
    train_rank(run)
    return {name: counters["inductor"][f"fxgraph_cache_{name}"] for name in ("hit", "miss", "bypass")}
