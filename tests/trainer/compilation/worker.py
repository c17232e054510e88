"""What a rank runs in the tests of compiled runs."""

from foretrain import Run
from foretrain.trainer.run.rank import train_rank


def train_and_count(run: Run) -> dict[str, int]:
    """Train, and return how many functions torch has found in its folder, and how many it has compiled."""
    from torch._dynamo.utils import counters

    train_rank(run)
    return {name: counters["inductor"][f"fxgraph_cache_{name}"] for name in ("hit", "miss", "bypass")}
