"""What the checksums of replayed gradients say about ranks. Pure; imports no torch.

In each round of a replay, every replica computes the gradients of one replica's samples: in round k, replica d those of
replica (d + shift_k) % dp. Ranks at the same place in the other dimensions of the layout, with the same samples, must
have the same gradients.
"""

from collections.abc import Sequence

from foretrain.parallel.layout import Layout
from foretrain.trainer.consistency.findings import Claims, findings, listed

FIRST_SHIFTS = (0, 1)
"""The rounds of each replay: a replica's own samples, and those of the next replica."""


def deciding_shifts(dp: int) -> tuple[int, ...]:
    """The rounds that follow if ranks differ.

    Of three replicas or more, a third gives the majority. Of two, each repeats what it has computed: one that is wrong
    only now and then differs from itself. One replica alone has done that already.
    """
    return (2,) if dp > 2 else FIRST_SHIFTS if dp == 2 else ()


def rank_with_samples(layout: Layout, rank: int, shift: int) -> int:
    """The rank whose samples `rank` computes in a round with this shift: at its place in another replica."""
    at = layout.coordinates(rank)
    return layout.rank(at.pp, (at.dp + shift) % layout.dp, at.tp, at.cp)


def has_difference(layout: Layout, shifts: Sequence[int], words: Sequence[Sequence[int]]) -> bool:
    """Whether any two checksums differ that must be equal. `words`: of each round, those of all ranks."""
    seen: dict[int, int] = {}
    for shift, of_ranks in zip(shifts, words, strict=True):
        for rank, word in enumerate(of_ranks):
            if seen.setdefault(rank_with_samples(layout, rank, shift), word) != word:
                return True
    return False


def verdict(layout: Layout, shifts: Sequence[int], words: Sequence[Sequence[int]], nodes: Sequence[str]) -> list[str]:
    """A line for each rank that cannot be right, and for each pair of ranks of which one is wrong.

    `words` as in `has_difference`; `nodes`: the host of each rank. A rank whose own repetition of a computation differs
    is wrong, and has no vote. Else the majority of the ranks that computed the same is right.
    """
    claims: list[dict[str, int | str]] = [{} for _ in nodes]
    unsteady: set[int] = set()
    for shift, of_ranks in zip(shifts, words, strict=True):
        for rank, word in enumerate(of_ranks):
            key = f"gradients of the samples of rank {rank_with_samples(layout, rank, shift)}"
            if claims[rank].setdefault(key, word) != word:
                unsteady.add(rank)
    lines = [f"rank {rank} (node {nodes[rank]}): differs from its own repetition" for rank in sorted(unsteady)]
    votes: list[Claims] = [{} if rank in unsteady else claim for rank, claim in enumerate(claims)]
    return listed(lines) + findings(votes, nodes)
