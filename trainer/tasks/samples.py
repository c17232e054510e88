"""The problems of tasks as samples of a model: their tokens, and which of them are the answer. Imports no torch.

A sample is one problem, as a document of its own: the token that ends documents, the prompt, the answer. Targets are
the tokens of the answer alone. A problem with choices has a sample for each choice, in the place of the answer.

Shape letters: N problems, K choices of a problem, S samples of a task, B samples of a batch, L positions of a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from foretrain.configs.schema import Config
from foretrain.data_pipeline.stream.batch import IGNORE, Batch
from foretrain.data_pipeline.stream.packing import positions_of
from foretrain.trainer.tasks.base import TASKS, Problem, TextTask, fingerprint, problems_of
from foretrain.trainer.tasks.held_out_text import NO_TEXT, HeldOutText
from foretrain.trainer.tasks.result import TaskResult

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Choices:
    """What is known of the choices of N problems, each with K of them."""

    num_chars: list[list[int]]
    """The characters of each choice: N lists of K."""
    right: list[int]
    """The number, from 0, of the choice that is the answer of each problem."""


@dataclass(frozen=True)
class TaskSamples:
    """The problems of a task in tokens. Plain values, which can be sent to other ranks."""

    name: str
    fingerprint: str
    """That of the text of the problems."""
    prompts: list[list[int]]
    """The tokens of each prompt, with the one that ends documents before them."""
    answers: list[list[int]]
    """The tokens of each answer, or of each choice: those of the first problem, then those of the second, ..."""
    choices: Choices | None = None

    @property
    def num_problems(self) -> int:
        """Problems of the task."""
        return len(self.answers) if self.choices is None else len(self.choices.right)

    def result(self, neg_log_S: npt.NDArray[np.float64], num_wrong_S: npt.NDArray[np.float64]) -> TaskResult:
        """The result of samples with these -log of an answer's probability and tokens that are not the most likely."""
        if self.choices is None:
            return TaskResult.of(neg_log_S, (num_wrong_S == 0).astype(float))
        num_chars_NK = np.array(self.choices.num_chars)
        return TaskResult.of_choices(neg_log_S.reshape(num_chars_NK.shape), num_chars_NK, np.array(self.choices.right))

    def batch(self, first: int, count: int, seq_len: int, eot_id: int, *, with_positions: bool) -> Batch:
        """The batch of the `count` samples from number `first` on; beyond the last one, a sample carries no loss.

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


def samples_of(config: Config, tokenizer: bytes, eot_id: int, text: HeldOutText = NO_TEXT) -> list[TaskSamples]:
    """The problems of all tasks that a config names.

    `tokenizer`: the content of tokenizer.json. `text`: that of the data's held-out splits. What does not fit in a
    sample of a problem made of it is left out at its beginning. Raises ValueError, which names the task, if a problem
    of another kind does not fit, or if the text has too few problems, and CorpusError if it cannot be read.
    """
    if not config.train.eval_tasks:
        return []
    from tokenizers import Tokenizer  # a run without tasks does not wait for it

    encoder = Tokenizer.from_buffer(tokenizer)
    encoder.no_truncation()
    encoder.no_padding()
    found = []
    for name in config.train.eval_tasks:
        problems = problems_of(name, config.train.eval_problems, text)
        keeps = config.model.seq_len + 1 if isinstance(TASKS.get(name), TextTask) else None
        samples = _encoded(name, problems, encoder, eot_id, keeps)
        _check(samples, problems, config.model.seq_len)
        found.append(samples)
    return found


def _encoded(name: str, problems: list[Problem], encoder: "Tokenizer", eot_id: int, keeps: int | None) -> TaskSamples:
    """`keeps`: tokens that fit in a sample, the last ones; None: all are kept."""
    prompts, answers = [], []
    for problem in problems:
        for text in problem.choices or (problem.answer,):
            prompt, answer = tokens_of(problem.prompt, text, encoder)
            prompt = [eot_id, *prompt]
            prompts.append(prompt if keeps is None else prompt[-max(1, keeps - len(answer)) :])
            answers.append(answer)
    return TaskSamples(name, fingerprint(problems), prompts, answers, _choices(name, problems))


def _choices(name: str, problems: list[Problem]) -> Choices | None:
    sizes = {len(problem.choices) for problem in problems}
    if len(sizes) != 1:
        raise ValueError(f"the problems of the task '{name}' have {sorted(sizes)} choices: give all of them as many")
    if sizes == {0}:
        return None
    num_chars = [[len(choice) for choice in problem.choices] for problem in problems]
    return Choices(num_chars, [problem.choices.index(problem.answer) for problem in problems])


def tokens_of(prompt_text: str, answer_text: str, encoder: "Tokenizer") -> tuple[list[int], list[int]]:
    """The tokens of a prompt, and those of its answer.

    An answer has the tokens that follow those of the prompt in the complete text, as the model has seen such texts; or
    those that it has alone, if a token of the complete text would belong to both.
    """
    prompt, answer, both = (
        encoder.encode(text, add_special_tokens=False).ids
        for text in (prompt_text, answer_text, prompt_text + answer_text)
    )
    return prompt, both[len(prompt) :] if both[: len(prompt)] == prompt else answer


def _check(samples: TaskSamples, problems: Sequence[Problem], seq_len: int) -> None:
    lengths = [len(prompt) + len(answer) - 1 for prompt, answer in zip(samples.prompts, samples.answers, strict=True)]
    if (longest := max(lengths)) > seq_len:
        raise ValueError(
            f"train.eval_tasks: a problem of '{samples.name}' has {longest} tokens, and model.seq_len = {seq_len}: use "
            "a longer seq_len, a tokenizer with more tokens, or another task"
        )
    texts = [text for problem in problems for text in problem.choices or (problem.answer,)]
    for text, answer in zip(texts, samples.answers, strict=True):
        if not answer:
            raise ValueError(
                f"train.eval_tasks: the tokenizer of the data makes no token of {text!r}, which is an answer of "
                f"'{samples.name}': use another task"
            )
