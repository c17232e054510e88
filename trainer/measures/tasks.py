"""Scores of tasks through EleutherAI's `lm-eval`: bundled ones, those of a folder, and those that it downloads."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from foretrain.trainer.measures.held_out import held_out_sets
from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.tasks.base import TASKS, Problem, TextTask, problems_of
from foretrain.trainer.tasks.held_out_text import NO_TEXT, HeldOutText
from foretrain.trainer.text.inference import Model

Scores = dict[str, dict[str, float]]


def task_scores(
    model: Model,
    tasks: Sequence[str],
    folder: Path | None,
    batch_size: int,
    num_fewshot: int | None,
    limit: int | None,
    corpora: Sequence[str] = (),
) -> Scores:
    """The metrics of each task, by its name. A registered task needs no file: its problems are those of a run.

    `folder`: one with the YAML files of the other tasks; None: those of lm-eval, whose data it downloads.
    `num_fewshot`: examples before each problem; None: as the task says. `limit`: problems of each task; None: all, of
    registered tasks `train.eval_problems`. `corpora`: those of whose held-out text problems are made, as in
    `held_out_sets`. Raises ValueError if lm-eval is not installed, if a task is not known, if there is too little text,
    and if the model's objective is not causal.
    """
    if not objective_of(model.config).is_causal:
        kind = model.config.objective.kind
        raise ValueError(f"--tasks: a model of objective.kind = {kind} sees later tokens and cannot continue a text")
    if folder is not None and not folder.is_dir():
        raise ValueError(f"--task-folder {folder} is no folder: name one with the YAML files of tasks")
    if find_spec("lm_eval") is None:
        raise ValueError("--tasks needs the library lm-eval: pip install 'foretrain[eval]'")
    from foretrain.trainer.measures.harness import bundled_scores, scores, tasks_in

    in_folder = [] if folder is None else tasks_in(folder)  # which may have a task with the name of a registered one
    registered = [name for name in tasks if name in TASKS and name not in in_folder]
    others = [name for name in tasks if name not in registered]
    found: Scores = {}
    if others:  # first, since a name that does not exist is an error
        found |= scores(model, others, folder, batch_size=batch_size, num_fewshot=num_fewshot, limit=limit)
    if registered:
        problems = _problems(model, registered, limit, corpora)
        found |= bundled_scores(model, problems, batch_size=batch_size, num_fewshot=num_fewshot)
    return found


def _problems(
    model: Model, tasks: Sequence[str], limit: int | None, corpora: Sequence[str]
) -> dict[str, list[Problem]]:
    """The problems of registered tasks. A corpus is opened only if a task needs its text."""
    needs_text = any(isinstance(TASKS.get(name), TextTask) for name in tasks)
    streams = held_out_sets(model, corpora).values() if needs_text else ()
    val = [stream for stream in streams if stream.split == "val"]  # named sets are parts of it
    text = HeldOutText(val) if val else NO_TEXT
    return {name: problems_of(name, limit or model.config.train.eval_problems, text) for name in tasks}
