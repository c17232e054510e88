"""The runs of a fit: from run folders, sweeps and ladders, or from a table; and whether one law can hold for them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foretrain.scaling.laws.forms import FORMS, Floats, Form
from foretrain.scaling.laws.metric import check_metric, task_of
from foretrain.scaling.laws.runs import COLUMNS, RunFacts, read_runs
from foretrain.trainer.metrics import VAL_LOSS

AUTO = "auto"
MOST_COLLINEAR = 0.95
"""The largest correlation of log N and log D at which a law can separate parameters from tokens."""
LEAST_SIZES_OF_BOTH = 6
"""Fewer sizes leave nothing to judge a law of N and D by: it has five parameters."""
ALIASES = {
    "N": ("params", "parameters", "num_params", "model size"),
    "D": ("tokens", "num_tokens", "training tokens"),
    "C": ("flops", "training flop", "training flops", "compute"),
    "loss": ("val_loss", "final loss"),
}
"""Other names of the columns of a table, in small letters."""
SAME = {
    "tokenizer_sha256": "tokenizers",
    "data_fingerprint": "training data",
    "held_out_fingerprint": "held-out data",
    "mixture_fingerprint": "mixtures, orders or packings of the data",
    "parametrization": "parametrizations",
    "seq_len": "sequence lengths",
}
"""What must be the same in all runs of a fit, and in its targets, and how it is called."""


@dataclass(frozen=True)
class RunTable:
    """Runs to which one law is fitted."""

    form: Form
    runs: tuple[RunFacts, ...]
    embeddings: bool
    """Whether N counts embeddings."""

    @property
    def metric(self) -> str:
        """What the losses of the runs are, as their metrics call it."""
        return self.runs[0].metric

    @property
    def variables(self) -> Floats:
        """The variables of the law for each run (R, V)."""
        return np.array([[value_of(run, name, self.embeddings) for name in self.form.variables] for run in self.runs])

    @property
    def losses(self) -> Floats:
        """The loss of each run (R), nats per token."""
        return np.array([run.loss for run in self.runs])

    @property
    def compute(self) -> Floats:
        """The FLOPs of each run (R)."""
        return np.array([value_of(run, "C", self.embeddings) for run in self.runs])


def value_of(run: RunFacts, name: str, embeddings: bool) -> float:
    """N, D or C of a run. C is 6 N D if a table does not have it. Raises ValueError, which names the run and a column.

    A table that has N and C without D is completed in the same way.
    """
    found = {each: run.variable(each, embeddings=embeddings) for each in ("N", "D", "C")}
    if found["C"] is None and found["N"] and found["D"]:
        found["C"] = 6.0 * found["N"] * found["D"]
    if found["D"] is None and found["N"] and found["C"]:
        found["D"] = found["C"] / (6.0 * found["N"])
    value = found[name]
    if value is None:
        column = "N_without_embeddings" if name == "N" and not embeddings else name
        raise ValueError(f"{run.name} has no {column}: add the column, or two of N, D and C")
    return value


def read_table(
    paths: Sequence[Path | str],
    law: str = AUTO,
    *,
    embeddings: bool = True,
    lowest: bool = False,
    metric: str = VAL_LOSS,
) -> RunTable:
    """The runs in folders of runs, sweeps and ladders, and in .csv tables.

    `law`: a name of FORMS, or AUTO: a law of N and D if the runs separate them, else of compute. `lowest`: of runs of
    the same size, take the one with the lowest loss. `metric`: what is taken as the loss, of those that `check_metric`
    allows. Raises ValueError with a line for every reason why no law can be fitted.
    """
    check_metric(metric)
    return table_of(*read_facts(paths, metric), law, embeddings=embeddings, lowest=lowest)


def read_facts(paths: Sequence[Path | str], metric: str = VAL_LOSS) -> tuple[list[RunFacts], list[str]]:
    """The runs of paths, and a line for each that cannot be used.

    `metric`: what is taken as the loss; of a table, a column of this name, or that with the loss.
    """
    runs: list[RunFacts] = []
    problems: list[str] = []
    for path in dict.fromkeys(map(Path, paths)):
        found, bad = _rows(path, metric) if path.suffix == ".csv" else read_runs([path], metric=metric)
        runs.extend(found)
        problems.extend(bad)
    return runs, problems


def table_of(
    runs: Sequence[RunFacts],
    problems: Sequence[str] = (),
    law: str = AUTO,
    *,
    embeddings: bool = True,
    lowest: bool = False,
) -> RunTable:
    """The table of runs; see `read_table`. `problems`: why some cannot be used."""
    problems = [*problems, *differences(runs)]
    if problems:
        raise ValueError("no law can be fitted to these runs:\n" + "\n".join(f"- {problem}" for problem in problems))
    if len(runs) < 2:
        raise ValueError(
            f"how the loss falls with size needs at least three sizes, and there are {len(runs)} runs: add some"
        )
    if lowest:
        runs = _lowest(runs)
    form = _chosen(runs, embeddings) if law == AUTO else FORMS.get(law)
    return RunTable(form, tuple(runs), embeddings)


def _lowest(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """The run with the lowest loss of each size, in the order of the sizes' first runs."""
    found: dict[object, RunFacts] = {}
    for run in runs:
        size = run.num_params, run.num_tokens, run.flops
        if size not in found or run.loss < found[size].loss:
            found[size] = run
    return list(found.values())


def differences(runs: Sequence[RunFacts]) -> list[str]:
    """What differs between runs although one law needs it to be the same, a line for each."""
    found = []
    for field, what in {**SAME, "metric": "metrics", "problems_sha256": "problems of the task"}.items():
        values: dict[object, str] = {}
        for run in runs:
            if value := getattr(run, field):
                values.setdefault(value, run.name)
        if len(values) > 1:
            names = " and ".join(list(values.values())[:2])
            found.append(f"the runs have {len(values)} different {what}, such as {names}: fit runs that share them")
    first: dict[str, str] = {}
    found.extend(
        f"{run.name} is a copy of {other}, and would count as a second run: leave it out"
        for run in runs
        if run.metrics_sha256 and (other := first.setdefault(run.metrics_sha256, run.name)) != run.name
    )
    return found


def _rows(path: Path, metric: str) -> tuple[list[RunFacts], list[str]]:
    """The runs of a table, and a line for each row that cannot be used."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # some programs begin a table with a mark
            reader = csv.DictReader(file)
            names = [_column(name) for name in reader.fieldnames or ()]
            rows = [{_column(name): value for name, value in row.items() if name} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        return [], [f"{path} is not a table of text ({error}): save it as CSV in UTF-8"]
    twice = next((name for name in (*COLUMNS, "seed", "group") if names.count(name) > 1), None)
    if twice is not None:
        return [], [f"{path} has two columns for {twice}: leave one of them out"]
    if not rows:
        return [], [f"{path} has no rows: it needs a line with the names of the columns, and one for each run"]
    found, problems = [], []
    for number, row in enumerate(rows, start=2):
        try:
            found.append(RunFacts.of_row(row, f"{path}:{number}", metric))
        except ValueError as error:
            problems.append(str(error))
    return found, problems


def _column(name: str) -> str:
    """The name of a column of a table, as RunFacts knows it."""
    plain = name.strip().lower()
    return next((column for column, others in ALIASES.items() if plain in (column.lower(), *others)), name.strip())


def _chosen(runs: Sequence[RunFacts], embeddings: bool) -> Form:
    """The law of N and D if the runs separate them, else, and for metrics of tasks, that of compute."""
    by_compute = FORMS.get("compute")
    if task_of(runs[0].metric):  # its exponents of N and D are not known to be near the usual ones
        return by_compute
    try:
        sizes_RV = np.array([[value_of(run, name, embeddings) for name in ("N", "D")] for run in runs])
    except ValueError:
        return by_compute
    num_sizes = len(np.unique(sizes_RV, axis=0))
    if num_sizes < LEAST_SIZES_OF_BOTH or (np.ptp(sizes_RV, axis=0) == 0).any() or are_collinear(sizes_RV):
        return by_compute
    return FORMS.get("chinchilla")


def are_collinear(sizes_RV: Floats) -> bool:
    """Whether the sizes (N and D of each run) are almost on one line of log N and log D, on which both vary."""
    log_RV = np.log(np.unique(sizes_RV, axis=0))
    if (np.ptp(log_RV, axis=0) == 0).any():
        return False
    return abs(float(np.corrcoef(log_RV.T)[0, 1])) >= MOST_COLLINEAR
