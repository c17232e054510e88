"""Problems of tasks are the same everywhere, and only their answers carry a loss."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from foretrain.configs import load as configs
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.data_pipeline.stream.batch import IGNORE
from foretrain.parallel.loss import not_most_likely
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.metrics import error_of
from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.tasks.base import TASKS, Problem, TextTask, fingerprint, problems_of
from foretrain.trainer.tasks.result import TaskResult
from foretrain.trainer.tasks.samples import TaskSamples, samples_of

EOT = 0


def byte_tokenizer(*merges: tuple[str, str]) -> bytes:
    """A tokenizer of bytes, and of the pairs that are given."""
    tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(one + other for one, other in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str().encode()


def byte_tokens(text: str) -> list[int]:
    """The tokens of a text without merges."""
    ids: list[int] = Tokenizer.from_buffer(byte_tokenizer()).encode(text).ids
    return ids


def config(*tasks: str, seq_len: int = 64, **train: Any) -> Config:
    return Config(model=ModelConfig(seq_len=seq_len), train=TrainConfig(eval_tasks=list(tasks), **train))


@pytest.mark.parametrize("name", ["addition", "copy", "recall"])
def test_problems_follow_from_the_seed_and_their_number_alone(name: str) -> None:
    problems = problems_of(name, 20)
    assert problems_of(name, 20) == problems and problems_of(name, 5) == problems[:5]
    assert problems_of(name, 20, seed=1) != problems
    assert len({each.prompt for each in problems}) == 20
    assert all(each.answer.endswith("\n") and each.prompt for each in problems)
    assert fingerprint(problems) == fingerprint(problems_of(name, 20)) != fingerprint(problems[:19])


def test_the_problems_are_those_of_every_run_so_far() -> None:
    """Fits compare runs of different dates: a change here needs another name of the task."""
    names = ("addition", "copy", "recall")
    first = {name: (problem.prompt, problem.answer) for name in names for problem in problems_of(name, 1)}
    assert first["addition"] == ("85+63=148\n51+26=77\n30+4=34\n7+1=", "8\n")
    assert first["copy"] == ("eye nest snow rain\neye nest snow rain\neye", " nest snow rain\n")
    assert first["recall"] == ("eye=11\nnest=82\nsnow=25\nrain=68\nrain=", "68\n")


def test_the_answers_are_right() -> None:
    for problem in problems_of("addition", 50):
        one, other = problem.prompt.splitlines()[-1].removesuffix("=").split("+")
        assert int(one) + int(other) == int(problem.answer)
    for problem in problems_of("copy", 50):
        first, second, started = problem.prompt.split("\n")
        assert first == second == started + problem.answer.removesuffix("\n")
    for problem in problems_of("recall", 50):
        *lines, asked = problem.prompt.splitlines()
        assert dict(line.split("=") for line in lines)[asked.removesuffix("=")] == problem.answer.removesuffix("\n")


def test_the_targets_of_a_sample_are_the_tokens_of_the_answer_alone() -> None:
    samples = TaskSamples("made_up", "", prompts=[[EOT, 5, 6], [EOT, 7]], answers=[[8, 9], [3]])
    batch = samples.batch(0, 3, 6, EOT, with_positions=True)
    assert batch.tokens_BL.tolist() == [[EOT, 5, 6, 8, EOT, EOT], [EOT, 7, *4 * [EOT]], 6 * [EOT]]
    _ = IGNORE
    assert batch.targets_BL.tolist() == [[_, _, 8, 9, _, _], [_, 3, _, _, _, _], 6 * [_]]
    assert batch.positions_BL is not None and batch.positions_BL.tolist() == [
        [0, 1, 2, 3, 0, 0],
        [0, 1, *4 * [0]],
        6 * [0],
    ]
    rest = samples.batch(1, 2, 6, EOT, with_positions=False)
    assert rest.tokens_BL[0].tolist() == [EOT, 7, *4 * [EOT]] and rest.positions_BL is None
    assert (samples.batch(4, 2, 6, EOT, with_positions=False).targets_BL == IGNORE).all()


def test_an_answer_has_the_tokens_that_it_has_after_its_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits of a sum are one token; where a token would belong to both texts, each is encoded on its own."""
    monkeypatch.setattr(TASKS, "get", lambda name: lambda random: Problem("ab", "cd"))
    apart = samples_of(config("dividing"), byte_tokenizer(("c", "d")), EOT)[0]
    across = samples_of(config("dividing"), byte_tokenizer(("b", "c")), EOT)[0]
    assert [len(each.answers[0]) for each in (apart, across)] == [1, 2]
    assert [len(each.prompts[0]) for each in (apart, across)] == [3, 3]
    assert apart.prompts[0][0] == EOT


@pytest.mark.parametrize(
    ("name", "problem", "seq_len", "message"),
    [
        ("long", Problem("a" * 40, "b" * 40), 64, "'long' has 80 tokens, and model.seq_len = 64: use a longer seq_len"),
        ("long", Problem("a" * 40, "b" * 24), 64, ""),
    ],
)
def test_a_problem_that_does_not_fit_in_a_sample_is_refused(
    name: str, problem: Problem, seq_len: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TASKS, "get", lambda name: lambda random: problem)
    if not message:
        assert len(samples_of(config(name, seq_len=seq_len), byte_tokenizer(), EOT)[0].answers) == 128
        return
    with pytest.raises(ValueError, match=message):
        samples_of(config(name, seq_len=seq_len), byte_tokenizer(), EOT)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.eval_tasks=[copy]", "train.eval_samples=0"], "eval_samples = 0: set it, such as 64"),
        (["train.eval_tasks=[copy,copy]"], "names a task twice"),
        (["train.eval_tasks=[copy]", "train.eval_problems=0"], "eval_problems = 0 must be greater than 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configs.load("runs/dry_run", overrides)


def test_what_has_no_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="has an empty answer"):
        Problem("1+1=", "")
    with pytest.raises(ValueError, match=r"train\.eval_tasks: there is no task named 'adition': did you mean addition"):
        problems_of("adition", 1)


def test_a_model_that_sees_later_tokens_answers_no_problems() -> None:
    masked = configs.load("runs/dry_run", ["plugins=[tests.plugins.objectives]", "objective.kind=masked"])
    with pytest.raises(ValueError, match=r"cannot answer problems: remove train\.eval_tasks"):
        objective_of(Config(objective=masked.objective, train=TrainConfig(eval_tasks=["copy"])))


def test_the_default_leaves_the_hash_of_a_config() -> None:
    plain, asked = (configs.load("runs/dry_run", more) for more in ([], ["train.eval_tasks=[copy]"]))
    assert configs.config_hash(plain) != configs.config_hash(asked)
    assert configs.config_hash(plain) == configs.config_hash(configs.load("runs/dry_run", ["train.eval_problems=128"]))


def test_the_metric_is_the_mean_of_logarithms_and_not_the_logarithm_of_the_mean() -> None:
    rates = np.array([0.5, 0.125])
    found = TaskResult.of(-np.log(rates), np.array([1.0, 0.0]))
    assert found.neg_log_pass_rate == pytest.approx(2 * math.log(2)) and found.accuracy == 0.5
    assert found.neg_log_pass_rate > -math.log(rates.mean())
    assert found.neg_log_pass_rate_error == pytest.approx(math.log(2))  # sd sqrt(2) log 2, of two problems
    assert found.accuracy_error == pytest.approx(0.5)
    assert HeldOutLoss(3.0, by_task={"copy": found}).as_metrics == {
        "val_loss": 3.0,
        "neg_log_pass_rate/copy": found.neg_log_pass_rate,
        "neg_log_pass_rate_standard_error/copy": found.neg_log_pass_rate_error,
        "accuracy/copy": 0.5,
        "accuracy_standard_error/copy": found.accuracy_error,
        "num_problems/copy": 2,
    }
    assert error_of("val_loss") == "val_loss_standard_error"
    assert TaskResult.of(np.ones(1), np.ones(1)).accuracy_error is None


def test_the_most_likely_choice_is_the_models_own_also_by_character() -> None:
    neg_log_NK, right_N = np.array([[2.0, 3.0], [4.0, 1.0], [2.0, 2.0]]), np.array([0, 0, 0])
    found = TaskResult.of_choices(neg_log_NK, np.array([[2, 6], [8, 1], [1, 1]]), right_N)
    assert (found.accuracy, found.accuracy_norm) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert found.neg_log_pass_rate == pytest.approx((2 + 4 + 2) / 3)
    first = TaskResult.of_choices(neg_log_NK[:2], np.array([[2, 6], [8, 1]]), right_N[:2])
    assert (first.accuracy, first.accuracy_norm) == (0.5, 0.5)  # the first problem, then the second one
    one = TaskResult.of_choices(neg_log_NK[:1], np.array([[2, 6]]), right_N[:1])
    assert (one.accuracy, one.accuracy_norm) == (1, 0)  # 2 / 2 and 3 / 6 nats per character
    short = TaskResult.of_choices(np.array([[1.9, 6.0]]), np.array([[2, 6]]), np.array([1]))
    assert short.accuracy_norm == 0  # 0.95 and 1 nat per character
    metrics = found.as_metrics("which")
    assert (metrics["accuracy_norm/which"], metrics["num_problems/which"]) == (found.accuracy_norm, 3)
    assert metrics["accuracy_norm_standard_error/which"] == found.accuracy_norm_error
    assert "accuracy_norm/which" not in TaskResult.of(np.ones(2), np.ones(2)).as_metrics("which")


def give(problems: list[Problem], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every task be one with these problems of a text."""
    monkeypatch.setattr(TASKS, "get", lambda name: TextTask(lambda documents, random: iter(problems)))


def test_each_choice_is_a_sample_and_the_right_one_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [Problem("1 2", f" {right}", (" 3", " 44", " 5")) for right in (3, 5, 44, 44)]
    give(problems, monkeypatch)
    [samples] = samples_of(config("made", eval_problems=4), byte_tokenizer(), EOT)
    assert samples.choices is not None and samples.num_problems == 4
    assert samples.choices.num_chars == 4 * [[2, 3, 2]]
    assert samples.answers == 4 * [byte_tokens(" 3"), byte_tokens(" 44"), byte_tokens(" 5")]
    assert samples.prompts == 12 * [[EOT, *byte_tokens("1 2")]]
    # What a model finds that knows the answers.
    right = [byte_tokens(each.answer) for each in problems]
    neg_log = np.array([float(answer != right[number // 3]) for number, answer in enumerate(samples.answers)])
    assert samples.result(neg_log, np.ones(12)).accuracy == 1
    others = [(each + 1) % 3 for each in samples.choices.right]  # a planted bug: the next choice counts as right
    planted = replace(samples, choices=replace(samples.choices, right=others))
    assert planted.result(neg_log, np.ones(12)).accuracy == 0


def test_a_passage_that_does_not_fit_in_a_sample_loses_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    give([Problem("a" * 40 + "b" * 40, " word", (" word", " other"))], monkeypatch)
    [samples] = samples_of(config("made", seq_len=32, eval_problems=1), byte_tokenizer(), EOT)
    assert samples.prompts == [28 * byte_tokens("b"), 27 * byte_tokens("b")]
    targets_BL = samples.batch(0, 2, 32, EOT, with_positions=False).targets_BL
    assert targets_BL[1, -6:].tolist() == byte_tokens(" other") and (targets_BL[1, :-6] == IGNORE).all()


def test_problems_with_unequal_numbers_of_choices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    give([Problem("1", " 3", (" 3", " 4")), Problem("1", " 3")], monkeypatch)
    with pytest.raises(ValueError, match=r"the problems of the task 'made' have \[0, 2\] choices: give all of them as"):
        samples_of(config("made", eval_problems=2), byte_tokenizer(), EOT)


def test_a_token_that_is_as_likely_as_another_is_not_the_most_likely_one() -> None:
    """Otherwise a model whose head is 0 at first would be right everywhere."""
    logits_LBV = torch.tensor([[[1.0, 3.0, 2.0]], [[3.0, 3.0, 0.0]], [[0.0, 0.0, 0.0]], [[math.nan, 1.0, 0.0]]])
    for target, wrong in ((1, [0, 1, 1, 1]), (0, [1, 1, 1, 1]), (IGNORE, [0, 0, 0, 0])):
        targets_BL = torch.full((1, 4), target)
        assert not_most_likely(logits_LBV, targets_BL, TensorParallel())[:, 0].tolist() == wrong
