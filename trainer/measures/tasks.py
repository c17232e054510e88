"""Scores of tasks of EleutherAI's `lm-eval`, and the refusal where it is not installed."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.text.inference import Model

Scores = dict[str, dict[str, float]]


def task_scores(
    model: Model, tasks: Sequence[str], folder: Path | None, batch_size: int, num_fewshot: int | None, limit: int | None
) -> Scores:
    """The metrics of each task, by its name.

    `folder`: one with the YAML files of tasks; None: the tasks of lm-eval, whose data it downloads. `num_fewshot`:
    examples before each problem; None: as the task says. `limit`: problems of each task; None: all. Raises ValueError
    if lm-eval is not installed, if a task is not known, and if the model's objective is not causal.
    """
    if not objective_of(model.config).is_causal:
        kind = model.config.objective.kind
        raise ValueError(f"--tasks: a model of objective.kind = {kind} sees later tokens and cannot continue a text")
    if folder is not None and not folder.is_dir():
        raise ValueError(f"--task-folder {folder} is no folder: name one with the YAML files of tasks")
    if find_spec("lm_eval") is None:
        raise ValueError("--tasks needs the library lm-eval: pip install 'foretrain[eval]'")
    from foretrain.trainer.measures.harness import scores

    return scores(model, tasks, folder, batch_size=batch_size, num_fewshot=num_fewshot, limit=limit)
