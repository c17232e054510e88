"""Prompts in JSON lines are read strictly: a wrong line is named before anything is generated."""

import pytest

from foretrain.trainer.text.prompts import Prompt, read_prompts


def test_each_line_is_a_prompt_and_may_have_a_seed() -> None:
    lines = ['{"prompt": "one", "id": 7}', "", '{"prompt": "", "seed": 3}']
    assert read_prompts(lines, "file") == [Prompt("one"), Prompt("", 3)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("once upon", "p.jsonl, line 2 is not JSON"),
        ('["prompt"]', 'p.jsonl, line 2 has no text named "prompt"'),
        ('{"prompt": 3}', 'p.jsonl, line 2 has no text named "prompt"'),
        ('{"prompt": "a", "seed": -1}', "p.jsonl, line 2 has the seed -1"),
        ('{"prompt": "a", "seed": true}', "p.jsonl, line 2 has the seed True"),
        ('{"prompt": "a\\ud800"}', "p.jsonl, line 2 has half of a surrogate pair at character 1"),
        ("[" * 100_000, "p.jsonl, line 2 is not JSON"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(line: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_prompts(['{"prompt": "fine"}', line], "p.jsonl")
