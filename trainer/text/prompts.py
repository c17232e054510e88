"""Prompts in JSON lines, and their texts in JSON lines."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from foretrain.configs.schema import SampleConfig
from foretrain.printable import error_message
from foretrain.trainer.text.inference import Model


@dataclass(frozen=True)
class Prompt:
    """A text to continue."""

    text: str
    seed: int | None = None
    """Seed of its random choices; None: the seed of all, and the number of the prompt added."""


def read_prompts(lines: Sequence[str], name: str) -> list[Prompt]:
    """The prompts in lines such as {"prompt": "Once", "seed": 3}; empty lines are left out.

    Raises ValueError, which names `name` and the line, if a line is something else.
    """
    return [_prompt(line, f"{name}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _prompt(line: str, place: str) -> Prompt:
    wanted = 'it should be like {"prompt": "Once upon a time"}, with a "seed" if you like'
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(error_message(f"{place} is not JSON ({error}): {wanted}")) from None
    if not isinstance(fields, dict) or not isinstance(fields.get("prompt"), str):
        raise ValueError(f'{place} has no text named "prompt": {wanted}')
    try:
        fields["prompt"].encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place} has half of a surrogate pair at character {error.start}: {wanted}") from None
    seed = fields.get("seed")
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**63):
        raise ValueError(error_message(f"{place} has the seed {str(seed)[:100]}: use a whole number from 0 on"))
    return Prompt(fields["prompt"], seed)


def continued_lines(model: Model, prompts: Sequence[Prompt], sample: SampleConfig, batch_size: int) -> Iterator[str]:
    """A line of JSON for each prompt, with its text and the seed that gives this text again.

    `batch_size` prompts are continued at the same time.
    """
    seeds = [sample.seed + number if each.seed is None else each.seed for number, each in enumerate(prompts)]
    for first in range(0, len(prompts), batch_size):
        batch = range(first, min(first + batch_size, len(prompts)))
        texts = dict.fromkeys(batch, "")
        pieces = model.continue_texts([prompts[each].text for each in batch], sample, [seeds[each] for each in batch])
        for number, piece in pieces:
            texts[first + number] += piece
        for each in batch:
            yield json.dumps({"prompt": prompts[each].text, "text": texts[each], "seed": seeds[each]}) + "\n"
