"""The problems of tasks as samples of a model: their tokens, and which of them are the answer. Imports no torch.

A sample is one problem, as a document of its own: the token that ends documents, the prompt, the answer. Targets are
the tokens of the answer alone.

Shape letters: N problems, B samples of a batch, L positions of a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foretrain.configs.schema import Config
from foretrain.data_pipeline.stream.batch import IGNORE, Batch
from foretrain.data_pipeline.stream.packing import positions_of
from foretrain.trainer.tasks.base import Problem, fingerprint, problems_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TaskSamples:
    """The problems of a task in tokens. Plain values, which can be sent to other ranks."""

    name: str
    fingerprint: str
    """That of the text of the problems."""
    prompts: list[list[int]]
    """The tokens of each prompt, with the one that ends documents before them."""
    answers: list[list[int]]
    """The tokens of each answer."""

    def batch(self, first: int, count: int, seq_len: int, eot_id: int, *, with_positions: bool) -> Batch:
        """The batch of the `count` problems from number `first` on; without a problem, a sample carries no loss.

        `with_positions`: attention stays inside documents.
        """
        tokens_BL = np.full((count, seq_len), eot_id, dtype=np.int64)
        targets_BL = np.full((count, seq_len), IGNORE, dtype=np.int64)
        problems = list(zip(self.prompts, self.answers, strict=True))[first : first + count]
        for row, (prompt, answer) in enumerate(problems):
            inputs = [*prompt, *answer[:-1]]  # nothing follows the last token of the answer
            tokens_BL[row, : len(inputs)] = inputs
            targets_BL[row, len(prompt) - 1 : len(inputs)] = answer
        positions_BL = positions_of(tokens_BL, eot_id) if with_positions else None
        return Batch(tokens_BL, targets_BL, positions_BL)


def samples_of(config: Config, tokenizer: bytes, eot_id: int) -> list[TaskSamples]:
    """The problems of all tasks that a config names. `tokenizer`: the content of tokenizer.json.

    Raises ValueError, which names the task, if a problem does not fit in a sample.
    """
    if not config.train.eval_tasks:
        return []
    from tokenizers import Tokenizer  # a run without tasks does not wait for it

    encoder = Tokenizer.from_buffer(tokenizer)
    encoder.no_truncation()
    encoder.no_padding()
    found = []
    for name in config.train.eval_tasks:
        problems = problems_of(name, config.train.eval_problems)
        samples = _encoded(name, problems, encoder, eot_id)
        _check(samples, problems, config.model.seq_len)
        found.append(samples)
    return found


def _encoded(name: str, problems: list[Problem], encoder: "Tokenizer", eot_id: int) -> TaskSamples:
    prompts, answers = [], []
    for problem in problems:
        prompt, answer = _tokens(problem, encoder)
        prompts.append([eot_id, *prompt])
        answers.append(answer)
    return TaskSamples(name, fingerprint(problems), prompts, answers)


def _tokens(problem: Problem, encoder: "Tokenizer") -> tuple[list[int], list[int]]:
    """The tokens of a prompt, and those of its answer.

    An answer has the tokens that follow those of the prompt in the complete text, as the model has seen such texts; or
    those that it has alone, if a token of the complete text would belong to both.
    """
    prompt, answer, both = (
        encoder.encode(text, add_special_tokens=False).ids
        for text in (problem.prompt, problem.answer, problem.prompt + problem.answer)
    )
    return prompt, both[len(prompt) :] if both[: len(prompt)] == prompt else answer


def _check(samples: TaskSamples, problems: Sequence[Problem], seq_len: int) -> None:
    lengths = [len(prompt) + len(answer) - 1 for prompt, answer in zip(samples.prompts, samples.answers, strict=True)]
    if (longest := max(lengths)) > seq_len:
        raise ValueError(
            f"train.eval_tasks: a problem of '{samples.name}' has {longest} tokens, and model.seq_len = {seq_len}: use "
            "a longer seq_len, a tokenizer with more tokens, or another task"
        )
    for problem, answer in zip(problems, samples.answers, strict=True):
        if not answer:
            raise ValueError(
                f"train.eval_tasks: the tokenizer of the data makes no token of {problem.answer!r}, which is an answer "
                f"of '{samples.name}': use another task"
            )
