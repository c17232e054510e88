"""How studies print their tables, and how they show the progress of many models."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from rich.console import Console
from rich.table import Table

from foretrain.progress import JobProgress

Model = TypeVar("Model")


def console_for_tables() -> Console:
    """Standard output; wide enough for a table if it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def table_of_numbers(*columns: str) -> Table:
    """An empty table without lines, of right-aligned columns that are not wrapped."""
    table = Table(*columns, box=None)
    for column in table.columns:
        column.justify = "right"
        column.no_wrap = True
    return table


class StudyProgress(JobProgress, Generic[Model]):
    """Progress of a study that trains known models: how many have ended, and which train now; a context manager."""

    def __init__(self, models: Iterable[Model], work: Callable[[Model], float], console: Console | None = None) -> None:
        """`work` estimates the time that a model takes, in any unit."""
        works = [work(model) for model in models]
        super().__init__(sum(works), console=console)
        self._num_models, self._num_ended = len(works), 0
        self._work = work
        self._training: list[Model] = []
        self._update_label()

    def start(self, model: Model) -> None:
        """A model starts to train."""
        self._training.append(model)
        self._update_label()

    def end(self, model: Model, result: str, wall_s: float) -> None:
        """A model has ended after `wall_s` seconds, with this result in words."""
        self._training.remove(model)
        self._num_ended += 1
        self._update_label()
        self.advance(self._work(model))
        self.log(f"{self._num_ended}/{self._num_models}  {model}: {result}, {wall_s:.1f} s, {self.time_left()}")

    def _update_label(self) -> None:
        self.label = f"{self._num_ended}/{self._num_models}  {'; '.join(map(str, self._training))}"
