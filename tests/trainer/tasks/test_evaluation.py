"""Evaluations on tasks: what plain PyTorch finds, on every layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from foretrain.configs.data import DataConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.trainer.api import build_model
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import Run, prepare_run
from foretrain.trainer.tasks.base import fingerprint, problems_of
from foretrain.trainer.tasks.held_out_text import HeldOutText
from foretrain.trainer.tasks.result import TaskResult
from foretrain.trainer.tasks.samples import TaskSamples
from foretrain.trainer.text.inference import Model
from foretrain.trainer.text.likelihood import Likelihood, likelihoods
from foretrain.trainer.text.network import StageNetwork
from tests.conftest import RunOnRanks
from tests.trainer.tasks.made_text import write_programs
from tests.trainer.tasks.workers import counting_prompts, evaluate, with_one_rank_alone, with_unreadable_text

BATCH, SEQ_LEN, VOCAB = 8, 32, 300
NUM_PROBLEMS = BATCH + 3
"""The last batch is not full."""
LENGTHS = (1, 2, 3)


def run_of(folder: Path, corpus: Path, parallel: ParallelConfig | None = None, **more: Any) -> Run:
    config = Config(
        run_dir=str(folder),
        model=ModelConfig(
            num_layers=2, d_model=32, num_heads=2, d_ff=64, seq_len=more.pop("seq_len", SEQ_LEN), vocab_size=VOCAB
        ),
        data=DataConfig(path=str(corpus), packing=more.pop("packing", "windows")),
        parallel=parallel or ParallelConfig(),
        train=TrainConfig(
            num_tokens=4 * BATCH * SEQ_LEN, global_batch_size=BATCH, micro_batch_size=2, sinks=["terminal"], **more
        ),
    )
    return prepare_run(config)


def made_up(run: Run) -> tuple[TaskSamples, TaskResult]:
    """Problems of which the initial model answers about half, and what it then gets, computed without the engine.

    The answers to these are what the model itself says, a token at a time.
    """
    random, model = np.random.default_rng(0), build_model(run.config)
    eot_id = run.data.any_stream.eot_id
    prompts, answers, neg_log, is_right = [], [], [], []
    for number in range(NUM_PROBLEMS):
        prompt = [eot_id, *random.integers(1, VOCAB, size=4 + number).tolist()]
        tokens, sum_of_logs = list(prompt), 0.0
        for _ in range(LENGTHS[number % len(LENGTHS)]):
            with torch.no_grad():
                logits_V = model(torch.tensor([tokens]))[-1, 0].double()
            token = int(logits_V.argmax()) if number % 2 else int(random.integers(1, VOCAB))
            sum_of_logs += float(logits_V[token] - logits_V.logsumexp(0))
            tokens.append(token)
        prompts.append(prompt)
        answers.append(tokens[len(prompt) :])
        neg_log.append(-sum_of_logs)
        is_right.append(float(number % 2))
    assert eot_id == 0
    return TaskSamples("made_up", "", prompts, answers), TaskResult.of(np.array(neg_log), np.array(is_right))


def of_held_out_text(run: Run) -> tuple[TaskResult, TaskResult]:
    """What the initial model gets in `which_word` and `last_word`, text by text, of which the end is seen."""
    stream, text = run.data.any_stream, HeldOutText.of(run.data)
    tokenizer = Tokenizer.from_buffer(stream.read_tokenizer())
    model = Model(run.config, StageNetwork(build_model(run.config)), tokenizer, stream.eot_id)

    def found(prompt: str, answer: str) -> Likelihood:
        ids = [stream.eot_id, *tokenizer.encode(prompt).ids]
        return likelihoods(model, [(ids, tokenizer.encode(answer).ids)], batch_size=1)[0]

    which, last = (problems_of(name, NUM_PROBLEMS, text) for name in ("which_word", "last_word"))
    neg_log_NK = np.array([[-found(each.prompt, choice).log_probability for choice in each.choices] for each in which])
    num_chars_NK = np.array([[len(choice) for choice in each.choices] for each in which])
    right_N = np.array([each.choices.index(each.answer) for each in which])
    of_last = [found(each.prompt, each.answer) for each in last]
    neg_log_N = np.array([-each.log_probability for each in of_last])
    return (
        TaskResult.of_choices(neg_log_NK, num_chars_NK, right_N),
        TaskResult.of(neg_log_N, np.array([float(each.is_greedy) for each in of_last])),
    )


def assert_same(found: TaskResult, expected: TaskResult) -> None:
    assert (found.accuracy, found.num_problems) == (expected.accuracy, NUM_PROBLEMS)
    assert found.neg_log_pass_rate == pytest.approx(expected.neg_log_pass_rate, rel=1e-5)
    assert found.neg_log_pass_rate_error == pytest.approx(expected.neg_log_pass_rate_error, rel=1e-3)


def test_results_are_those_of_plain_pytorch_and_of_the_answers_alone(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    """With attention across a sample, and inside documents. Prompts that count would be noticed."""
    run, documents = run_of(tmp_path, corpus), run_of(tmp_path, corpus, packing="documents")
    samples, expected = made_up(run)
    assert expected.accuracy == pytest.approx(5 / NUM_PROBLEMS)
    names = ["which_word", "last_word"]
    text = run_of(tmp_path, write_programs(tmp_path / "data"), eval_tasks=names, eval_problems=NUM_PROBLEMS)
    [found] = ranks(1, evaluate, samples, run, documents, text)
    for each in found:
        assert_same(each["made_up"], expected)
    for name, of_text in zip(names, of_held_out_text(text), strict=True):
        assert_same(found[-1][name], of_text)
        assert found[-1][name].accuracy_norm == of_text.accuracy_norm
    [[wrong]] = ranks(1, counting_prompts, samples, run)
    assert wrong["made_up"].neg_log_pass_rate > 2 * expected.neg_log_pass_rate


LAYOUTS = [ParallelConfig(dp=2), ParallelConfig(tp=2, sp=True), ParallelConfig(cp=2), ParallelConfig(pp=2)]


@pytest.mark.long
def test_every_layout_finds_the_same(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    samples, expected = made_up(run_of(tmp_path, corpus))
    runs = [run_of(tmp_path, corpus, layout) for layout in LAYOUTS]
    one, other = ranks(2, evaluate, samples, *runs)
    assert one == other
    for found in one:
        assert_same(found["made_up"], expected)
    [[wrong], _] = ranks(2, with_one_rank_alone, samples, runs[1])
    assert wrong["made_up"].accuracy != expected.accuracy


@pytest.mark.long
def test_text_that_cannot_be_read_ends_every_rank(tmp_path: Path, ranks: RunOnRanks) -> None:
    run = run_of(tmp_path, write_programs(tmp_path / "data"), LAYOUTS[0], eval_tasks=["last_word"])
    assert ranks(2, with_unreadable_text, run) == 2 * ["the text of tasks cannot be read: the disk is gone"]


@pytest.mark.long
def test_a_run_records_its_tasks_and_what_it_finds_of_them(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks: dict[str, Any] = {"eval_tasks": ["copy", "addition"], "eval_problems": 5, "eval_samples": 4, "eval_every": 1}
    ranks(1, train_rank, run_of(tmp_path, corpus, seq_len=64, **tasks))
    records = read_metrics(tmp_path / METRICS_FILE)
    found = {record["task"]: record for record in records if record["kind"] == "task"}
    for name in ("copy", "addition"):
        expected = {"task": name, "step": 0, "problems": 5, "sha256": fingerprint(problems_of(name, 5))}
        assert found[name] == {"kind": "task", **expected}
    evaluations = [record for record in records if record["kind"] == "eval"]
    assert [record["step"] for record in evaluations] == [1, 2]
    for name in ("copy", "addition"):
        rates = [record[f"neg_log_pass_rate/{name}"] for record in evaluations]
        assert rates[1] != rates[0] and evaluations[1][f"neg_log_pass_rate_standard_error/{name}"] > 0
        assert evaluations[1][f"num_problems/{name}"] == 5
    assert (
        f"copy: -log(pass rate) {evaluations[-1]['neg_log_pass_rate/copy']:.4f}, accuracy 0.0%"
        in capfd.readouterr().out
    )


def test_text_with_too_few_problems_is_refused_before_a_run_starts(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(ValueError, match=r"has 0 problems of the task 'which_word', and 128 are asked for: prepare it"):
        run_of(tmp_path, corpus, eval_tasks=["which_word"])  # each line of it ends with the same word


def test_problems_that_are_longer_than_a_sample_are_refused_before_a_run_starts(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.eval_tasks: a problem of 'copy' has \d+ tokens"):
        run_of(tmp_path, corpus, seq_len=16, eval_tasks=["copy"])
    with pytest.raises(ValueError, match="there is no task named 'kopy': did you mean copy"):
        run_of(tmp_path, corpus, eval_tasks=["kopy"])
