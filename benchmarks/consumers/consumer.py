"""A program that reads exports, and what the benchmark must know of it."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.consumers.commands import run
from benchmarks.consumers.comparison import compare
from benchmarks.consumers.environments import Environment
from benchmarks.consumers.models import FAMILIES, Model
from benchmarks.consumers.ours import Ours

INSIDE = Path(__file__).with_name("inside")
Measured = dict[str, Any]


class CheckFailedError(Exception):
    """A consumer does something else than foretrain; the message says what, and `measured` is what was found."""

    def __init__(self, message: str, measured: Measured) -> None:
        super().__init__(message)
        self.measured = measured


@dataclass(frozen=True)
class Job:
    """What one check gets."""

    model: Model
    ours: Ours
    python: Path
    """The interpreter of the consumer's environment."""
    folder: Path
    """The check's own folder."""
    label: str
    """The beginning of each line that is shown."""

    def run_inside(self, program: str, asked: Mapping[str, Any]) -> Measured:
        """Run a program of `inside/` in the consumer's environment, and return its answer.

        Raises CommandError if it fails.
        """
        question, answer = self.folder / "asked.json", self.folder / "answer.json"
        question.write_text(json.dumps(asked), encoding="utf-8")
        # -P: the folder of the program must not be one of modules.
        command = [str(self.python), "-P", str(INSIDE / program), str(question), str(answer)]
        run(command, self.folder / "output.log", self.label)
        found: Measured = json.loads(answer.read_text(encoding="utf-8"))
        return found


class Consumer(ABC):
    """A program that loads exports."""

    name: str
    way: str
    """How it gets a model and what it does with it, in a few words."""
    environment: Environment
    shown_versions: tuple[str, ...]
    """Packages whose versions are recorded; the first is the consumer's own."""
    families: tuple[str, ...] = tuple(FAMILIES)
    """The families that it can load."""

    @abstractmethod
    def check(self, job: Job) -> Measured:
        """What was measured with a model. Raises CheckFailedError if the consumer does something else than foretrain,
        and CommandError if it does not work."""


def checked_texts(job: Job, found: Mapping[str, Any]) -> Measured:
    """Compare greedy continuations with ours: "prompt_ids", "tokens" and "texts" of a consumer, one for each prompt.

    Raises CheckFailedError if its tokenizer, its tokens or its texts are others.
    """
    ours = job.ours
    comparison = compare(ours.tokens, found["tokens"], ours.gap)
    measured = {**comparison.record(), "smallest_margin": ours.margins[0], "median_margin": ours.median_margin}
    if found["prompt_ids"] != ours.prompt_ids:
        raise CheckFailedError("its tokenizer gives other ids for the prompts", measured)
    if comparison.reason:
        raise CheckFailedError(comparison.reason, measured)
    noisy = {each.prompt for each in comparison.differences}
    for prompt, (mine, text) in enumerate(zip(ours.texts, found["texts"], strict=True)):
        if mine != text and prompt not in noisy:
            raise CheckFailedError(f"the text of prompt {prompt} is another, and its tokens are ours", measured)
    return measured
