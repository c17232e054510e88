"""Where the time of some steps goes: the kinds of operations, and what a run with `train.profile_steps` leaves."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from foretrain.configs.schema import ParallelConfig, TrainConfig
from foretrain.trainer.run.folder import PROFILES, RUN_LOG
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import Run, prepare_run
from foretrain.trainer.step_profile import DATA, IDLE, OTHER, PYTHON, Profiler, kind_of, shares
from tests.conftest import RunOnRanks
from tests.trainer.test_resume import NUM_STEPS, config, curve


def test_each_operation_counts_once_and_the_rest_is_python_or_idle_time() -> None:
    assert kind_of(["aten::mm", "aten::linear"]) == "matrix products"
    assert kind_of(["aten::mul", "Optimizer.step#AdamW.step"]) == "optimizer"
    assert kind_of(["aten::_scaled_dot_product_flash_attention_for_cpu"]) == "attention"
    assert kind_of(["gloo:all_reduce"]) == "communication"
    assert kind_of(["aten::silu"]) == OTHER
    operations = [(["aten::mm"], 3.0), (["aten::silu"], 1.0), (["aten::mm"], 2.0)]
    assert shares(operations, 10.0, on_gpu=False) == {"matrix products": 5.0, PYTHON: 4.0, OTHER: 1.0}
    assert shares(operations, 10.0, on_gpu=True)[IDLE] == 4.0
    waiting = shares(operations, 10.0, 2.5, on_gpu=False)
    assert waiting == {"matrix products": 5.0, DATA: 2.5, PYTHON: 1.5, OTHER: 1.0}


def profiled(folder: Path, corpus: Path, **changes: Any) -> Run:
    """A run on two ranks, whose steps 3 and 4 are recorded on both."""
    settings = config(folder, corpus, ParallelConfig(dp=2))
    train = replace(settings.train, **({"profile_steps": [3, 4], "profile_ranks": [0, 1]} | changes))
    return prepare_run(replace(settings, train=train))


def reports(folder: Path) -> list[str]:
    """What a run has reported of its profile."""
    lines = (folder / RUN_LOG).read_text(encoding="utf-8").splitlines()
    return [line.partition("Z  ")[2] for line in lines if "ms a step" in line]


def test_a_run_reports_where_the_time_of_some_steps_went_and_leaves_a_trace_and_its_curve(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    plain, stopped = tmp_path / "plain", tmp_path / "stopped"
    ranks(2, train_rank, profiled(plain, corpus, profile_steps=[]))
    ranks(2, train_rank, profiled(tmp_path / "run", corpus))
    assert curve(tmp_path / "run") == curve(plain)
    lines = reports(tmp_path / "run")
    assert [line.partition(":")[0] for line in lines] == [f"steps 3 to 4, rank {rank}" for rank in (0, 1)]
    for rank, line in enumerate(lines):
        found = {kind.strip(): int(share) for kind, share in re.findall(r"([A-Za-z ]+) (\d+)%", line)}
        assert {"matrix products", "Python and waiting for ranks"} <= found.keys()  # others may be short
        assert 100 - 2 * len(found) <= sum(found.values()) <= 100 + len(found)
        (trace,) = (tmp_path / "run" / PROFILES).glob(f"steps-3-4-rank-{rank:03d}.trace.json.gz")
        names = [each.get("name") for each in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]]
        assert sum(name == "Optimizer.step#AdamW.step" for name in names) == 2, "one for each step"

    # A run that stops in between reports what it has, and the next start the rest; steps that are done are not taken.
    ranks(2, train_rank, profiled(stopped, corpus, stop_after=3))
    ranks(2, train_rank, profiled(stopped, corpus, profile_ranks=[1], stop_after=4))
    ranks(2, train_rank, profiled(stopped, corpus, profile_steps=[1, 2]))
    assert curve(stopped) == curve(plain)
    ranks(2, train_rank, profiled(stopped, corpus, profile_steps=[1, NUM_STEPS]))  # it is complete
    assert [line.partition(":")[0] for line in reports(stopped)] == [
        "steps 3 to 3, rank 0",
        "steps 3 to 3, rank 1",
        "steps 4 to 4, rank 1",
    ]


def collectives_at_the_end_of_the_profile(run: Run) -> list[int]:
    """Train, and return how many collectives nobody had waited for each time that a profile ended."""
    in_flight: set[Any] = set()
    at_end: list[int] = []
    gather, end = dist.all_gather_into_tensor, Profiler.end

    class Watched:
        def __init__(self, work: Any) -> None:
            self._work = work
            in_flight.add(self)

        def wait(self) -> Any:
            in_flight.discard(self)
            return self._work.wait()

    def watched_gather(*arguments: Any, **options: Any) -> Any:
        work = gather(*arguments, **options)
        return Watched(work) if options.get("async_op") else work

    def watched_end(self: Profiler, wall_s: float, waited_s: float = 0.0) -> dict[str, float]:
        at_end.append(len(in_flight))
        return end(self, wall_s, waited_s)

    dist.all_gather_into_tensor = watched_gather
    Profiler.end = watched_end  # type: ignore[method-assign]
    train_rank(run)
    return at_end


def test_no_collective_is_in_flight_when_a_profile_ends(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    """torch ends the process if one that it has seen the start of ends after it."""
    assert ranks(2, collectives_at_the_end_of_the_profile, profiled(tmp_path, corpus)) == [[0], [0]]


@pytest.mark.parametrize("steps", [[3], [4, 3], [0, 3], [1, 2, 3]])
def test_steps_that_are_no_range_are_refused(steps: list[int]) -> None:
    with pytest.raises(ValueError, match="must be the first and the last step to record"):
        TrainConfig(profile_steps=steps)


def test_ranks_that_the_layout_does_not_have_are_refused(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(ValueError, match=r"train.profile_ranks = \[2\], and the ranks of the layout are 0 to 1"):
        profiled(tmp_path, corpus, profile_ranks=[2])
