"""Which samples and positions of a global batch are a rank's. Pure arithmetic."""

from dataclasses import dataclass

from foretrain.parallel.layout import Coordinates, Layout


def nth_part(length: int, index: int, count: int) -> slice:
    """Part `index` of `count` equal, contiguous parts of `length` items. Raises ValueError if there are none."""
    if length % count:
        raise ValueError(f"{length} items cannot be divided into {count} equal parts")
    size = length // count
    return slice(index * size, (index + 1) * size)


@dataclass(frozen=True)
class BatchShare:
    """A rank's part of a global batch: contiguous samples by its dp rank, contiguous positions by its cp rank.

    The shares of any number of ranks are together the same batch in the same order, rank 0 first.
    """

    layout: Layout
    at: Coordinates

    def samples(self, global_batch_size: int) -> slice:
        """This rank's samples of a global batch. Raises ValueError if dp does not divide `global_batch_size`."""
        dp = self.layout.dp
        if global_batch_size % dp:
            raise ValueError(
                f"global_batch_size = {global_batch_size} is not a multiple of dp = {dp}: change one of them"
            )
        return nth_part(global_batch_size, self.at.dp, dp)

    def positions(self, seq_len: int) -> slice:
        """This rank's positions of a sample. Raises ValueError if cp does not divide `seq_len`."""
        return nth_part(seq_len, self.at.cp, self.layout.cp)
