"""The benchmark of generation: what it refuses, and what its bars say. Contestants are functions here."""

from collections.abc import Sequence

import pytest

from benchmarks.generation import __main__ as benchmark
from benchmarks.generation.contestants import OURS, TRANSFORMERS, WITHOUT_CACHE, Contestant


def contestant(wrong_from: int = 10**9) -> Contestant:
    """A contestant that counts on from the last token of each prompt, wrongly from a new token on."""

    def generated(prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        return [[prompt[-1] + place + (place >= wrong_from) for place in range(count)] for prompt in prompts]

    return generated


def test_a_contestant_with_another_token_is_refused() -> None:
    chosen = {OURS: contestant(), WITHOUT_CACHE: contestant(), TRANSFORMERS: contestant(wrong_from=500)}
    with pytest.raises(
        ValueError, match=r"transformers has another token than foretrain: prompt 0 of \d+, new token 500"
    ):
        benchmark.contest(chosen, 100, 1)


@pytest.mark.parametrize(("ours_s", "verdicts"), [(0.9, "passed passed passed"), (1.1, "FAILED FAILED FAILED")])
def test_a_bar_is_kept_if_foretrain_takes_less_than_its_part_of_the_other_time(ours_s: float, verdicts: str) -> None:
    seconds = {OURS: ours_s, WITHOUT_CACHE: 10.0, TRANSFORMERS: 1.0}
    records = [
        {"type": "turn", "round": number, "prompts": size, "contestant": name, "s": (1 + number) * seconds[name]}
        for number in range(7)
        for size, names in benchmark.BATCHES.items()
        for name in names
    ]
    assert " ".join(bar.verdict for bar in benchmark.bars(records)) == verdicts
    assert benchmark.table(records).row_count == 5
