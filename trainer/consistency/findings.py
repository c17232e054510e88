"""The ranks that differ from the majority, from what every rank claims. Pure; imports no torch."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

Claims = Mapping[str, int | str]
"""What one rank claims by key: values as text, and checksums of parameters as integers."""

_MOST_LISTED = 8
"""Number of ranks, and of keys of one rank, that a message lists."""


def findings(claims: Sequence[Claims], nodes: Sequence[str]) -> list[str]:
    """One line for each rank that differs from the majority for a key, and for each set of ranks without a majority.

    `claims` and `nodes` (names of hosts) are in the order of ranks.
    """
    alone: dict[int, list[str]] = defaultdict(list)
    divided: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for key in dict.fromkeys(key for claim in claims for key in claim):
        claimed = {rank: claim[key] for rank, claim in enumerate(claims) if key in claim}
        (usual, votes), *others = Counter(claimed.values()).most_common()
        if not others:
            continue
        if 2 * votes <= len(claimed):
            words = sorted({value for value in claimed.values() if isinstance(value, str)})
            divided[tuple(claimed)].append(f"{key} ({', '.join(listed(words))})" if words else key)
            continue
        for rank, value in claimed.items():
            if value != usual:
                alone[rank].append(f"{key} = {value} (most have {usual})" if isinstance(value, str) else key)
    lines = [f"rank {rank} (node {nodes[rank]}): {', '.join(listed(alone[rank]))}" for rank in sorted(alone)]
    for ranks, keys in divided.items():
        names = ", ".join(listed([str(rank) for rank in ranks]))
        lines.append(f"ranks {names}, with no majority: {', '.join(listed(keys))}")
    return lines


def listed(items: Sequence[str]) -> list[str]:
    """The first items, and how many more there are."""
    left_out = len(items) - _MOST_LISTED
    return [*items[:_MOST_LISTED], f"and {left_out} more"] if left_out > 0 else list(items)
