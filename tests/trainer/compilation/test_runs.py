"""A run with compiled blocks: its curve, its second start, what it shows, and what its time is spent on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from foretrain.configs.schema import ParallelConfig
from foretrain.trainer.compilation.machine import FOLDER_VARIABLE
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.facts import Fact
from foretrain.trainer.goodput.ledger import Ledger
from foretrain.trainer.metrics import METRICS_FILE, VAL_LOSS, read_metrics
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from tests.conftest import RunOnRanks
from tests.required import need_to_compile
from tests.trainer.compilation.worker import train_and_count
from tests.trainer.test_resume import NUM_STEPS, config

pytestmark = pytest.mark.long
STOP = 4


@dataclass(frozen=True)
class Starts:
    """Two starts of one run, and the same run without compiled code."""

    compiled: Path
    eager: Path
    shared_tmp: Path
    """What is /tmp for them."""
    first: dict[str, int]
    second: dict[str, int]


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory, corpus: Path, ranks: RunOnRanks) -> Iterator[Starts]:
    """The runs, with a folder for compiled code that is empty before."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv(FOLDER_VARIABLE, "")
        patch.setenv("TMPDIR", str(folder / "tmp"))
        (folder / "tmp").mkdir()
        need_to_compile()
        counts = []
        for stop in (STOP, None):
            run = prepare_run(config(folder / "run", corpus, ParallelConfig(), compile=True, stop_after=stop))
            counts += ranks(1, train_and_count, run)
        ranks(1, train_rank, prepare_run(config(folder / "eager", corpus, ParallelConfig())))
        yield Starts(folder / "run", folder / "eager", folder / "tmp", *counts)


def curve(run_dir: Path) -> list[float]:
    """The losses and gradient norms of the steps, and the held-out losses."""
    records = read_metrics(run_dir / METRICS_FILE)
    return [each[name] for each in records for name in ("loss", "grad_norm", VAL_LOSS) if name in each]


def test_the_curve_is_that_of_eager_blocks_also_after_a_resume(starts: Starts) -> None:
    assert curve(starts.compiled) == pytest.approx(curve(starts.eager), rel=1e-5)
    assert curve(starts.compiled) != curve(starts.eager), "no bit differs: nothing was compiled"
    assert len(curve(starts.compiled)) > 2 * NUM_STEPS


def test_a_second_start_finds_all_that_the_first_has_compiled(starts: Starts) -> None:
    assert starts.first["miss"] == starts.second["hit"] == 3, "forward and backward pass of training, and evaluation"
    assert starts.second["miss"] == starts.second["bypass"] == 0


def test_nothing_that_is_compiled_is_in_a_folder_that_others_can_write(starts: Starts) -> None:
    """Such as the headers that torch compiles in advance, in a folder whose name everybody knows."""
    assert [*starts.shared_tmp.glob("torchinductor_*")] == []


def test_the_steps_in_which_something_was_compiled_say_how_long_it_took(starts: Starts) -> None:
    steps = [each for each in read_metrics(starts.compiled / METRICS_FILE) if each["kind"] == "train"]
    with_compiling = {each["step"]: each["compile_s"] for each in steps if "compile_s" in each}
    assert with_compiling.keys() == {1, STOP + 1}, "the first steps of the starts"
    assert all(0 < with_compiling[each["step"]] < each["step_s"] for each in steps if "compile_s" in each)


def test_the_goodput_of_the_run_counts_compiling_apart_from_steps_and_start_up(starts: Starts) -> None:
    history = facts.read(starts.compiled)
    seconds = Ledger(history).seconds
    steps = [each for each in read_metrics(starts.compiled / METRICS_FILE) if each["kind"] == "train"]
    in_steps_s = sum(each.get("compile_s", 0.0) for each in steps)
    assert seconds["compile"] > in_steps_s, "an evaluation compiles too"
    others_s = sum(each["step_s"] - each["data_wait_s"] for each in steps) - in_steps_s
    assert seconds["step"] <= others_s
    assert seconds["step"] + seconds["start_up"] < seconds["compile"], "the first start compiles for many seconds"
    assert Ledger(_up_to_the_first_end(history)).seconds["compile"] > 0.5 * seconds["compile"]


def _up_to_the_first_end(history: list[Fact]) -> list[Fact]:
    return history[: 1 + [fact.kind for fact in history].index("end")]
