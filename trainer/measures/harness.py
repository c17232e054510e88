"""A model of ours as EleutherAI's `lm-eval` takes it, and the scores of its tasks. Needs `foretrain[eval]`."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from foretrain.configs.schema import SampleConfig
from foretrain.progress import JobProgress
from foretrain.trainer.tasks.base import TASKS, Problem
from foretrain.trainer.tasks.samples import tokens_of
from foretrain.trainer.text.inference import Model
from foretrain.trainer.text.likelihood import Ids, likelihoods

MAX_NEW_TOKENS = 256
"""Tokens that are generated for a problem whose task does not say how many."""


class HarnessModel(TemplateLM):
    """A trained model of ours for tasks of lm-eval. Likelihoods are computed in fp32.

    `as_in_run`: contexts and continuations have the tokens that they have in the evaluations of a run, in which each is
    a document of its own, after the token that ends the one before.
    """

    def __init__(self, model: Model, batch_size: int, *, as_in_run: bool = False) -> None:
        super().__init__()
        self._model, self._batch_size, self._as_in_run = model, batch_size, as_in_run

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document, and the one before a text without context."""
        return self._model.eot_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """The token ids of a text; no token is added."""
        ids: list[int] = self._model.tokenizer.encode(string, add_special_tokens=False).ids
        return ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not self._as_in_run:
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        before, after = tokens_of(context, continuation, self._model.tokenizer)
        return [self.eot_token_id, *before], after

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log likelihood of each text, in nats, over windows in which each token is predicted once."""
        each = [self._windows(one.args[0]) for one in requests]
        found = iter(self._likelihoods([pair for pairs in each for pair in pairs]))
        return [sum(next(found)[0] for _ in pairs) for pairs in each]

    def _windows(self, text: str) -> list[tuple[Ids, Ids]]:
        seq_len = self._model.config.model.seq_len
        windows = get_rolling_token_windows(self.tok_encode(text), self.eot_token_id, seq_len, context_len=1)
        return [make_disjoint_window(window) for window in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each text, up to the first of its stop strings."""
        found = []
        with JobProgress(len(requests), label="texts") as progress:
            for one in requests:
                context, options = one.args
                stop = options.get("until", [])
                sample = SampleConfig(
                    [context],
                    int(options.get("max_gen_toks", MAX_NEW_TOKENS)),
                    float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0,
                    top_k=0,
                    stop=[stop] if isinstance(stop, str) else list(stop),
                )
                found.append(self._model.continue_text(context, sample))
                progress.advance(1)
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **options: Any
    ) -> list[tuple[float, bool]]:
        return self._likelihoods([(context, continuation) for _, context, continuation in requests])

    def _likelihoods(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        with JobProgress(len(pairs), label="requests") as progress:
            return [*likelihoods(self._model, pairs, self._batch_size, progress.advance)]


def scores(
    model: Model,
    tasks: Sequence[str],
    folder: Path | None = None,
    *,
    batch_size: int = 8,
    num_fewshot: int | None = None,
    limit: int | None = None,
) -> dict[str, dict[str, float]]:
    """The metrics of each task, by its name.

    `folder`: one with the YAML files of tasks, to which those of lm-eval are not added, so that nothing is downloaded.
    `num_fewshot`: examples before each problem; None: as the task says. `limit`: problems of each task. Raises
    ValueError if a task is not known, or its problems cannot be loaded.
    """
    manager = _manager(folder)
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown:
        where = "lm-eval" if folder is None else str(folder)
        raise ValueError(f"{where} has no task {', '.join(unknown)}: {_hint(unknown[0], manager.all_tasks)}")
    try:
        return _scores(HarnessModel(model, batch_size), list(tasks), manager, num_fewshot, limit)
    except OSError as error:  # a file or a server that has the problems is not there
        raise ValueError(f"the problems of {', '.join(tasks)} cannot be loaded ({error}): {_remedy(folder)}") from error


def tasks_in(folder: Path) -> list[str]:
    """The names of the tasks whose YAML files are in a folder."""
    return list(_manager(folder).all_tasks)


def _manager(folder: Path | None) -> TaskManager:
    return TaskManager(include_path=None if folder is None else str(folder), include_defaults=folder is None)


def bundled_scores(
    model: Model, problems: Mapping[str, Sequence[Problem]], *, batch_size: int = 8, num_fewshot: int | None = None
) -> dict[str, dict[str, float]]:
    """The metrics of tasks that are given as their problems, by their names. Nothing is downloaded."""
    tasks = [BundledTask(name, found) for name, found in problems.items()]
    manager = TaskManager(include_defaults=False)
    return _scores(HarnessModel(model, batch_size, as_in_run=True), tasks, manager, num_fewshot, None)


class BundledTask(ConfigurableTask):
    """Problems of ours as a task of lm-eval: multiple choice if they have choices, else a cloze."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self._rows: list[dict[str, Any]] = [{"prompt": each.prompt, "answer": each.answer} for each in problems]
        config: dict[str, Any] = {
            "task": name,
            "test_split": "test",
            "output_type": "loglikelihood",
            "doc_to_text": "prompt",
            "doc_to_target": "answer",
            "target_delimiter": "",
            "metric_list": [_metric("acc"), _metric("perplexity", "perplexity", False)],
        }
        if problems[0].choices:
            self._rows = [
                {"prompt": each.prompt, "choices": [*each.choices], "right": each.choices.index(each.answer)}
                for each in problems
            ]
            config |= {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "right"}
            config |= {"metric_list": [_metric("acc"), _metric("acc_norm")]}
        super().__init__(config=config)

    def download(self, *arguments: Any, **options: Any) -> None:
        """Take the problems, in the place of what lm-eval would download."""
        self.dataset = {"test": Dataset.from_list(self._rows)}


def _metric(name: str, aggregation: str = "mean", higher_is_better: bool = True) -> dict[str, Any]:
    return {"metric": name, "aggregation": aggregation, "higher_is_better": higher_is_better}


def _scores(
    model: HarnessModel, tasks: list[Any], manager: TaskManager, num_fewshot: int | None, limit: int | None
) -> dict[str, dict[str, float]]:
    found = simple_evaluate(
        model,
        tasks=tasks,
        task_manager=manager,
        num_fewshot=num_fewshot,
        limit=limit,
        bootstrap_iters=0,
        log_samples=False,
    )
    return {
        task: {name.partition(",")[0]: value for name, value in metrics.items() if isinstance(value, float)}
        for task, metrics in found["results"].items()
    }


def _hint(name: str, known: Sequence[str]) -> str:
    """What to write in place of a name that is not known."""
    if close := get_close_matches(name, [*known, *TASKS]):
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(known[:20]) or "none"
    more = f" and {len(known) - 20:,} more" if len(known) > 20 else ""
    return f"it has {shown}{more}; bundled are {', '.join(TASKS)}"


def _remedy(folder: Path | None) -> str:
    """What to do where the problems of a task cannot be loaded."""
    if folder is not None:
        return f"correct what the tasks of {folder} name"
    return "without a network, fill the cache of Hugging Face (HF_HOME) on a machine that has one, or use --task-folder"
