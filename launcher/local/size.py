"""The data-parallel size of the next start of an elastic run on this machine."""

from functools import cached_property

from foretrain.launcher.elastic import Sizes
from foretrain.launcher.local.capacity import RANKS_PER_CORE, num_gpus, ranks_on_cores


class LocalSize:
    """Chooses a size by the ranks that this machine can run now, and never one that was given up."""

    def __init__(self, sizes: Sizes, device: str) -> None:
        """`device`: that of the config, "auto", "cpu" or "cuda"."""
        self._sizes, self._wanted = sizes, device
        self.size = sizes.allowed[-1]
        """The newest choice."""

    def choose(self) -> int:
        """The size of the next start. Raises ValueError if this machine cannot run the smallest one."""
        num_ranks = self._num_ranks()
        size = self._sizes.largest(num_ranks)
        if size is None:
            needed = self._sizes.allowed[0] * self._sizes.ranks_per_replica
            raise ValueError(
                f"launch.elastic: dp = {self._sizes.allowed[0]} needs {needed} ranks, and this machine can run "
                f"{num_ranks} ({'one on each visible GPU' if self._uses_gpus else f'{RANKS_PER_CORE} on each core'}): "
                "lower its minimum, or free more of the machine"
            )
        self.size = size
        return size

    def give_up_size(self) -> bool:
        """Take only smaller sizes from now on; return whether there is one."""
        smaller = self._sizes.below(self.size)
        self._sizes = smaller or self._sizes
        return smaller is not None

    def is_too_large(self) -> bool:
        """Whether this machine can no longer run the newest choice, since GPUs have gone."""
        return self.size * self._sizes.ranks_per_replica > self._num_ranks()

    @cached_property
    def _uses_gpus(self) -> bool:
        # Once: a run whose GPUs have all gone must not continue on the CPU.
        return self._wanted == "cuda" or (self._wanted == "auto" and num_gpus() > 0)

    def _num_ranks(self) -> int:
        return num_gpus() if self._uses_gpus else ranks_on_cores()
