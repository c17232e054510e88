"""Greedy texts of two programs, token by token. Pure.

Greedy texts are equal until one program prefers another token. From there on they are different texts, so that what
follows says nothing. That token is an error, unless both are equally likely within the rounding of fp32.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LEAST_TOKENS = 32
"""Tokens of each prompt that must be compared."""
NOISE = 1e-4
"""Two logits that are closer than this may change places if sums are made in another order in fp32."""

Gap = Callable[[int, int, int, int], float]
"""Maps the number of a prompt, a position of its continuation and two tokens to how far our logit of the first is above
that of the second."""


@dataclass(frozen=True)
class Difference:
    """The first token of a continuation that is not ours."""

    prompt: int
    position: int
    ours: int | None
    """None: our text ends here."""
    theirs: int | None
    gap: float | None
    """How far our logit of our token is above that of theirs; None: one of the texts ends here."""

    @property
    def is_noise(self) -> bool:
        """Whether rounding explains it."""
        return self.gap is not None and self.gap < NOISE


@dataclass(frozen=True)
class Comparison:
    """What was found of some prompts."""

    equal_tokens: Sequence[int]
    """Tokens of each continuation that are ours, before the first that is not."""
    differences: Sequence[Difference]

    @property
    def reason(self) -> str:
        """Why the texts do not count as equal, in words; "" if they do."""
        explained = {each.prompt for each in self.differences if each.is_noise}
        wrong = [each for each in self.differences if not each.is_noise]
        if wrong:
            first = wrong[0]
            gap = "one of them ends there" if first.gap is None else f"our logits differ by {first.gap:.2g}"
            return (
                f"{len(wrong)} texts differ, the first at token {first.position} of prompt {first.prompt}: "
                f"{first.theirs} instead of {first.ours} ({gap})"
            )
        for prompt, count in enumerate(self.equal_tokens):
            if count < LEAST_TOKENS and prompt not in explained:
                return f"the text of prompt {prompt} ends after {count} tokens, and {LEAST_TOKENS} are needed"
        return ""

    def record(self) -> dict[str, Any]:
        """The comparison as JSON can hold it."""
        return {
            "prompts": len(self.equal_tokens),
            "tokens": sum(self.equal_tokens),
            "fewest_tokens": min(self.equal_tokens),
            "differences": [{**asdict(each), "is_noise": each.is_noise} for each in self.differences],
        }


def compare(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]], gap: Gap) -> Comparison:
    """Compare the continuations of each prompt. Raises ValueError for another number of texts."""
    counts, differences = [], []
    for prompt, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        position = _equal_at_first(mine, other)
        counts.append(position)
        if position < max(len(mine), len(other)):
            wanted, found = (text[position] if position < len(text) else None for text in (mine, other))
            distance = None if wanted is None or found is None else gap(prompt, position, wanted, found)
            differences.append(Difference(prompt, position, wanted, found, distance))
    return Comparison(counts, differences)


def _equal_at_first(mine: Sequence[int], other: Sequence[int]) -> int:
    for position, (wanted, found) in enumerate(zip(mine, other, strict=False)):
        if wanted != found:
            return position
    return min(len(mine), len(other))
