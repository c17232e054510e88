"""Tasks of lm-eval through our own model, and through the library's model on the exported folder."""

import json
import math
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.data import DataConfig
from foretrain.configs.schema import Config, TrainConfig
from foretrain.launcher.inference import with_model
from foretrain.trainer.api import build_model
from foretrain.trainer.interop.export import export
from foretrain.trainer.measures.tasks import Scores, task_scores
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.tasks.base import problems_of
from foretrain.trainer.tasks.held_out_text import HeldOutText
from foretrain.trainer.text.inference import load_model
from tests.conftest import RunOnRanks
from tests.required import need_module
from tests.trainer.interop.cases import LLAMA, config_of
from tests.trainer.interop.made import random_model, write_checkpoint
from tests.trainer.tasks.made_text import write_programs
from tests.trainer.tasks.workers import evaluate

WORDS = ("self", "value", "index", "path", "name", "42", "plus", "return")
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "cloze": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{choices[0]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{long}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def write_tasks(folder: Path) -> None:
    """Write four tasks with 24 problems each. No two texts are alike: see docs/evaluation.md."""
    draw = random.Random(0)
    problems = []
    for number in range(24):
        words = draw.sample(WORDS, 4)
        problems.append(
            {
                "text": f"{number} plus {' '.join(words[:2])}",
                "choices": [f" {words[2]}", f" {words[3]} {number}"],
                "gold": number % 2,
                "long": f"{number} " + " ".join(draw.choices(WORDS, k=3 * number + 1)),
            }
        )
    (folder / "problems.jsonl").write_text("".join(json.dumps(each) + "\n" for each in problems))
    for name, task in TASKS.items():
        common = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "problems.jsonl")}},
            "test_split": "test",
            "target_delimiter": "",
        }
        (folder / f"{name}.yaml").write_text(json.dumps({**common, **task}))


def scores_of_the_library(exported: Path, folder: Path) -> Scores:
    """What the library's own model gives for an exported folder."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        "hf",
        model_args={"pretrained": str(exported), "dtype": "float32", "device": "cpu"},
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        batch_size=8,
    )
    return {
        task: {name.partition(",")[0]: value for name, value in metrics.items() if isinstance(value, float)}
        for task, metrics in found["results"].items()
    }


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the tasks, where lm-eval is installed and downloads nothing."""
    need_module("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tasks").mkdir()
    write_tasks(tmp_path / "tasks")
    return tmp_path / "tasks"


@pytest.mark.long
@pytest.mark.parametrize("parametrization", ["standard", "completep"])
def test_scores_are_those_of_the_librarys_model_on_the_exported_folder(
    parametrization: str, tasks: Path, tmp_path: Path
) -> None:
    config = config_of(LLAMA, parametrization)
    checkpoint = write_checkpoint(tmp_path / "run", config, random_model(config).shards())
    exported = export(checkpoint, tmp_path / "hf").out
    model = load_model(tmp_path / "run", checkpoint)
    ours = task_scores(model, list(TASKS), tasks, 8, None, None)
    theirs = scores_of_the_library(exported, tasks)
    for task, metrics in theirs.items():
        for name, value in metrics.items():
            # Perplexities are exponentials of sums in fp32, whose rounding they show; random weights make them large.
            expected = pytest.approx(value, rel=1e-6 if "perplexity" in name else 1e-7)
            assert ours[task][name] == expected, (task, name)
    assert set(ours) == set(TASKS) and ours["cloze"]["perplexity"] > 1
    with pytest.raises(ValueError, match="has no task other: it has "):
        task_scores(model, ["other"], tasks, 8, None, None)
    with pytest.raises(ValueError, match=r"has no task choice: did you mean choices\?"):
        task_scores(model, ["choice"], tasks, 8, None, None)
    few = task_scores(model, ["choices"], tasks, 8, 2, 5)
    assert few["choices"]["acc"] * 5 == pytest.approx(round(few["choices"]["acc"] * 5))
    (tasks / "problems.jsonl").unlink()
    with pytest.raises(ValueError, match=r"cannot be loaded \(Unable to find .*: correct what the tasks of "):
        task_scores(model, ["choices"], tasks, 8, None, None)


@pytest.mark.long
def test_two_tensor_parallel_ranks_have_the_scores_of_one_process(tasks: Path, tmp_path: Path) -> None:
    config = config_of(LLAMA)
    checkpoint = write_checkpoint(tmp_path / "run", config, random_model(config).shards())
    names = ["choices", "texts", "answers"]
    scored = partial(task_scores, tasks=names, folder=tasks, batch_size=8, num_fewshot=None, limit=6)
    one, two = (with_model(tmp_path / "run", checkpoint, "cpu", tp, scored) for tp in (1, 2))
    assert set(two) == set(names)
    for task, metrics in one.items():
        assert two[task] == pytest.approx(metrics, rel=1e-5), task


def no_network(*arguments: Any, **options: Any) -> None:
    raise AssertionError(f"a connection was opened: {arguments}")


@pytest.mark.long
def test_bundled_tasks_have_the_scores_of_the_evaluations_of_a_run_without_a_network(
    tmp_path: Path, ranks: RunOnRanks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With attention across samples and inside documents, and passages that do and that do not fit in a sample."""
    need_module("lm_eval")
    from foretrain.trainer.measures.harness import bundled_scores

    corpus, names = write_programs(tmp_path / "data"), ["which_word", "last_word", "copy"]
    train = TrainConfig(eval_tasks=names, eval_problems=24, eval_samples=4, global_batch_size=8)
    cases: list[tuple[int, Any]] = [(512, "windows"), (96, "documents")]
    runs = [
        prepare_run(
            Config(
                run_dir=str(tmp_path / f"run{seq_len}"),
                model=replace(LLAMA, vocab_size=None, seq_len=seq_len),
                data=DataConfig(str(corpus), packing=packing),
                train=train,
            )
        )
        for seq_len, packing in cases
    ]
    [in_run] = ranks(1, evaluate, None, *runs)
    monkeypatch.setattr("socket.socket.connect", no_network)
    for run, found in zip(runs, in_run, strict=True):
        tokenizer = run.data.any_stream.read_tokenizer().decode()
        shards = build_model(run.config).shards()
        model = load_model(run.run_dir, write_checkpoint(run.run_dir, run.config, shards, tokenizer=tokenizer))
        scores = task_scores(model, names, None, 8, None, None)
        which, problems = found["which_word"], problems_of("which_word", 24, HeldOutText.of(run.data))
        assert scores["which_word"] == {"acc": which.accuracy, "acc_norm": which.accuracy_norm}
        for name in ("last_word", "copy"):
            expected = {"perplexity": math.exp(found[name].neg_log_pass_rate), "acc": found[name].accuracy}
            assert scores[name] == pytest.approx(expected, rel=1e-4)
        right = bundled_scores(model, {"right": [replace(each, choices=()) for each in problems]})
        assert right["right"]["perplexity"] == pytest.approx(math.exp(which.neg_log_pass_rate), rel=1e-4)
        # A planted bug: the choice before the right one counts as right.
        others = [replace(each, answer=each.choices[each.choices.index(each.answer) - 1]) for each in problems]
        assert bundled_scores(model, {"others": others})["others"]["acc"] != which.accuracy
    write_tasks(tmp_path)
    (tmp_path / "copy.yaml").write_text((tmp_path / "cloze.yaml").read_text().replace('"cloze"', '"copy"'))
    mixed = task_scores(model, ["which_word", "copy", "cloze"], tmp_path, 8, None, None)
    assert mixed["which_word"] == scores["which_word"]
    assert mixed["copy"] == pytest.approx(mixed["cloze"], rel=1e-4)  # the folder has a task with that name
    assert mixed["copy"] != pytest.approx(scores["copy"], rel=1e-2)
    few = task_scores(model, ["which_word"], None, 8, 2, 20)  # with two examples
    assert few["which_word"]["acc"] * 20 == pytest.approx(round(few["which_word"]["acc"] * 20))
    with pytest.raises(ValueError, match=r"has no task other: it has .*; bundled are .*which_word"):
        task_scores(model, ["which_word", "other"], tmp_path, 8, None, None)


def test_a_folder_of_tasks_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    config = config_of(LLAMA)
    checkpoint = write_checkpoint(tmp_path, config, random_model(config).shards())
    with pytest.raises(ValueError, match="is no folder: name one with the YAML files of tasks"):
        task_scores(load_model(tmp_path, checkpoint), ["a"], tmp_path / "no", 8, None, None)
