"""What the measurements of a rank's memory show. Pure."""

from collections.abc import Mapping, Sequence


def growth(lines: Sequence[Mapping[str, int]], first_step: int) -> float:
    """By how much the memory from a step on differs at most from that at the step, as a share of it."""
    later = [line["now"] for line in lines if line["step"] >= first_step]
    if not later:
        raise ValueError(f"no memory was measured from step {first_step} on")
    return max(abs(each / later[0] - 1) for each in later)


def peak(lines: Sequence[Mapping[str, int]]) -> int:
    """The most memory of a rank in one start, in KiB."""
    if not lines:
        raise ValueError("no memory was measured")
    return max(line["most"] for line in lines)
