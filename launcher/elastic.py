"""The data-parallel sizes that an elastic run may have, and the one for a number of ranks. Plain arithmetic."""

from dataclasses import dataclass, replace

from foretrain.configs.launching import size_range
from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout, LayoutError, check


@dataclass(frozen=True)
class Sizes:
    """The data-parallel sizes of an elastic run."""

    allowed: tuple[int, ...]
    """Ascending, and not empty."""
    ranks_per_replica: int
    """tp * cp * pp."""

    def largest(self, num_ranks: int) -> int | None:
        """The largest size for which `num_ranks` ranks suffice; None if they are too few for the smallest one."""
        return max((size for size in self.allowed if size * self.ranks_per_replica <= num_ranks), default=None)

    @classmethod
    def parse(cls, text: str) -> "Sizes":
        """The inverse of `str`."""
        sizes, _, ranks_per_replica = text.partition("x")
        return cls(tuple(int(size) for size in sizes.split(",")), int(ranks_per_replica))

    def __str__(self) -> str:
        return f"{','.join(map(str, self.allowed))}x{self.ranks_per_replica}"

    def below(self, size: int) -> "Sizes | None":
        """The sizes that are smaller than `size`; None if there is none."""
        smaller = tuple(each for each in self.allowed if each < size)
        return replace(self, allowed=smaller) if smaller else None

    def nodes(self, ranks_per_node: int) -> tuple[int, ...]:
        """The numbers of nodes, ascending, that sizes fill. Raises ValueError if no size fills its nodes."""
        ranks = (size * self.ranks_per_replica for size in self.allowed)
        filled = tuple(each // ranks_per_node for each in ranks if each % ranks_per_node == 0)
        if not filled:
            raise ValueError(
                f"launch.elastic: no data-parallel size of {', '.join(map(str, self.allowed))} fills nodes of "
                f"{ranks_per_node} ranks with replicas of {self.ranks_per_replica}: allow another size, or change "
                "cluster.gpus_per_node"
            )
        return filled

    @property
    def max_ranks(self) -> int:
        """The ranks of the largest size."""
        return self.allowed[-1] * self.ranks_per_replica


def elastic_sizes(config: Config) -> Sizes | None:
    """The sizes in `launch.elastic` with which the model, the batch and the pipeline work; None: it is not set.

    Raises ValueError if `parallel.dp` is set too, or if no size works.
    """
    if config.launch.elastic is None:
        return None
    setting = f"launch.elastic = {config.launch.elastic}"
    if config.parallel.dp is not None:
        raise ValueError(
            f"{setting} lets the data-parallel size change, and parallel.dp = {config.parallel.dp} sets it: "
            "set parallel.dp=null, or leave launch.elastic out"
        )
    named = size_range(config.launch.elastic)
    layout = Layout.from_config(config.parallel)
    most = max(named[0], config.train.global_batch_size // config.train.micro_batch_size)
    reasons = {size: _refusal(replace(layout, dp=size), config) for size in named if size <= most}
    allowed = tuple(size for size, reason in reasons.items() if reason is None)
    if not allowed:
        raise ValueError(f"{setting} names no data-parallel size that can run. The first one:\n{reasons[named[0]]}")
    return Sizes(allowed, layout.world_size)


def _refusal(layout: Layout, config: Config) -> str | None:
    """Why the config cannot run in a layout; None if it can."""
    try:
        check(layout, config.model, config.train)
    except LayoutError as error:
        return str(error)
    return None
