"""Tasks made of held-out text: their problems are those of the text, one answer is right, and only reading finds it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from foretrain.data_pipeline.corpus.shards import open_corpus
from foretrain.data_pipeline.errors import CorpusError
from foretrain.trainer.tasks.base import TASKS, Problem, TextTask, fingerprint, problems_of
from foretrain.trainer.tasks.held_out_text import MAX_CHARS, HeldOutText
from foretrain.trainer.tasks.last_words import LAST_WORD, PASSAGE_CHARS, WORD
from tests.trainer.tasks.made_text import program, story, write_programs

TEXTS = {"programs": [program(number) for number in range(24)], "stories": [story(number) for number in range(24)]}
NAMES = ["which_word", "last_word"]
NUM_PROBLEMS = 128


def made(name: str, documents: Sequence[str], count: int = NUM_PROBLEMS) -> list[Problem]:
    """The first problems of a task that is made of these documents."""
    task = TASKS.get(name)
    assert isinstance(task, TextTask)
    problems = task.make(documents, np.random.default_rng(0))
    return [next(problems) for _ in range(count)]


def are_of(documents: Sequence[str], problems: Sequence[Problem]) -> bool:
    """Whether each problem is a passage of a document and the complete word that follows it there."""
    texts = "\0".join(documents)
    ends = [texts.find(each.prompt + each.answer) + len(each.prompt + each.answer) for each in problems]
    return all(
        each.prompt + each.answer in texts and not texts[end].isalnum()
        for each, end in zip(problems, ends, strict=True)
    )


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_problem_is_a_passage_and_the_word_that_ends_its_line_or_sentence(name: str, text: str) -> None:
    problems = made(name, TEXTS[text])
    assert are_of(TEXTS[text], problems)
    for each in problems:
        word = each.answer.removeprefix(" ")
        assert word in WORD.findall(each.prompt) and len(each.prompt) <= PASSAGE_CHARS
        assert not each.prompt.endswith((word, " "))
    assert len({each.prompt for each in problems}) == NUM_PROBLEMS
    wrong = [Problem(each.prompt, each.answer[:-1]) for each in problems]  # a planted bug: the word is not complete
    assert not are_of(TEXTS[text], wrong)


@pytest.mark.parametrize("text", TEXTS)
def test_one_of_four_choices_is_right_and_the_others_end_lines_of_the_passage(text: str) -> None:
    for each in made("which_word", TEXTS[text]):
        assert len(set(each.choices)) == 4 and each.choices.count(each.answer) == 1
        others = {choice.removeprefix(" ") for choice in each.choices if choice != each.answer}
        assert others <= set(LAST_WORD.findall(each.prompt))
        words = sorted(each.choices)
        assert not any(after.startswith(before) for before, after in pairwise(words))


def accuracy(problems: Sequence[Problem], value: Callable[[Problem, str], float]) -> float:
    """The share of problems whose answer has the highest value, choices that have the same sharing it."""
    found = []
    for each in problems:
        values = [value(each, choice) for choice in each.choices]
        of_right = value(each, each.answer)
        found.append((of_right == max(values)) / values.count(of_right))
    return float(np.mean(found))


@pytest.mark.parametrize("text", TEXTS)
def test_neither_frequency_nor_length_nor_place_finds_the_answer(text: str) -> None:
    documents = TEXTS[text]
    counts = Counter(word for each in documents for word in LAST_WORD.findall(each))

    def frequency(problem: Problem, choice: str) -> float:
        return counts[choice[1:]] + sorted(problem.choices).index(choice) / 10

    problems = made("which_word", documents)
    error = 3 * (0.25 * 0.75 / NUM_PROBLEMS) ** 0.5
    assert accuracy(problems, frequency) == 0.25 == accuracy(problems, lambda *each: -frequency(*each))
    for value in (lambda _, choice: len(choice), lambda problem, choice: problem.choices.index(choice)):
        assert abs(accuracy(problems, value) - 0.25) < error
        assert abs(accuracy(problems, lambda *each, value=value: -value(*each)) - 0.25) < error
    # A planted bias: problems whose right word is the most frequent of the four.
    biased = [
        each for each in problems if frequency(each, each.answer) == max(frequency(each, c) for c in each.choices)
    ]
    assert len(biased) == NUM_PROBLEMS / 4 and accuracy(biased, frequency) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_same_text_gives_the_same_problems_and_fewer_are_the_first_of_them(name: str) -> None:
    problems = made(name, TEXTS["programs"])
    assert problems == made(name, TEXTS["programs"]) and problems[:5] == made(name, TEXTS["programs"], 5)
    assert problems != made(name, TEXTS["programs"][1:])


def test_the_problems_are_those_of_every_run_so_far() -> None:
    """Curves compare runs of different dates: a change here needs another name of the task."""
    found = {name: fingerprint(made(name, TEXTS["stories"], 20))[:16] for name in NAMES}
    assert found == {"which_word": "081bbb42f7a2b20a", "last_word": "05fd36caaa336149"}


def test_problems_are_of_held_out_text_alone_and_the_same_with_other_tokenizers_and_shards(tmp_path: Path) -> None:
    small = {"block_bytes": 900, "shard_tokens": 900}
    corpora = [write_programs(tmp_path / "a"), write_programs(tmp_path / "b", vocab_size=400, **small)]
    text, other = (HeldOutText([open_corpus(corpus, "val")]) for corpus in corpora)
    assert len(open_corpus(corpora[1], "val").shard_names) > 3
    assert text.documents == other.documents == TEXTS["programs"]
    for name in NAMES:
        assert problems_of(name, NUM_PROBLEMS, text) == made(name, TEXTS["programs"])
    trained_on = HeldOutText([open_corpus(corpora[0], "train")])  # a planted bug: the other split
    assert not are_of(TEXTS["programs"], problems_of("last_word", 5, trained_on))
    both = HeldOutText([open_corpus(corpus, "val") for corpus in corpora])
    assert both.documents == 2 * TEXTS["programs"]
    with pytest.raises(
        ValueError, match=r"held-out text of \S+corpus has \d+ problems of the task 'which_word', and 9"
    ):
        problems_of("which_word", 99_999, text)


def test_long_documents_give_their_beginnings_and_many_documents_are_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foretrain.trainer.tasks.held_out_text.MAX_CHARS", 1600)
    monkeypatch.setattr("foretrain.trainer.tasks.held_out_text.MAX_DOCUMENTS", 8)
    stream = open_corpus(write_programs(tmp_path), "val")
    assert HeldOutText([stream]).documents == [each[:200] for each in TEXTS["programs"][1::3]]
    assert MAX_CHARS > 1600


def test_of_documents_that_lie_in_several_shards_the_ends_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foretrain.data_pipeline.corpus.shard_writer.MAX_PART_BYTES", 100)
    stream = open_corpus(write_programs(tmp_path, block_bytes=100, shard_tokens=100), "val")
    found = HeldOutText([stream]).documents
    assert len(stream.shard_names) > len(found) == 24
    assert all(text.endswith(each) for text, each in zip(TEXTS["programs"], found, strict=True))
    assert sum(map(bool, found)) > 12  # an end can be the token alone that ends a document
    val = stream.manifest.splits["val"]
    more = [replace(shard, num_documents=99) for shard in val.shards]
    stream.manifest = replace(stream.manifest, splits={"val": replace(val, shards=more)})
    with pytest.raises(CorpusError, match="has fewer documents than its manifest says: run `foretrain data verify`"):
        _ = HeldOutText([stream]).documents


def test_choices_among_which_the_answer_is_not_are_refused() -> None:
    for choices in ((" a", " b"), (" c",), (" c", " c", " a")):
        with pytest.raises(ValueError, match="give it two or more different ones, of which one is the answer ' c'"):
            Problem("ab", " c", choices)
