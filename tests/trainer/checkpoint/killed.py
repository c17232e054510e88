"""A process that saves checkpoints and is killed at a chosen place of its writing, again and again.

Each attempt is a fresh process, forked after the expensive imports. It first checks what the attempt before has left:
every checkpoint must hold what was saved, and the next save must succeed. Then it is killed in the save after that.
"""

import io
import json
import os
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, TrainConfig
from foretrain.parallel import shim
from foretrain.parallel.groups import init_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer.build import build_engine
from foretrain.trainer.checkpoint.files import Checkpoints
from foretrain.trainer.checkpoint.loading import load
from foretrain.trainer.checkpoint.manifest import check_content
from foretrain.trainer.checkpoint.parts import Part, parts_to_read
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.run.folder import step_of
from foretrain.trainer.state import ModelState
from tests.parallel.workers import small_model

KEEP = 2
FIRST_STEP = 1000
"""Steps of all attempts have as many digits, so that all checkpoints have the same size."""
CONFIG = Config(
    model=small_model(num_layers=1), train=TrainConfig(global_batch_size=1), optimizer=OptimizerConfig(kind="sgd")
)
ATTACHED = {"tokenizer.json": b"{}" * 100}
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
"""The audit events of Python that are steps of a save; an "open" only if it is for writing."""


class RenamesTooSoon(Checkpoints):
    """A planted bug: the folder has its name before it is complete."""

    def write_rest(self, folder: Path, target: Path, *others: Any) -> None:
        folder.replace(target)
        super().write_rest(target, target, *others)


class WritesAgain(Checkpoints):
    """A planted bug: a file is written again after the folder has its name."""

    def write_rest(self, folder: Path, target: Path, *others: Any) -> None:
        super().write_rest(folder, target, *others)
        content = (target / "config.yaml").read_bytes()
        (target / "config.yaml").unlink()
        (target / "config.yaml").write_bytes(content)


class RemovesUnderItsName(Checkpoints):
    """A planted bug: a folder that is half deleted looks like a checkpoint."""

    def _remove_superseded(self) -> None:
        for old in self.complete()[:-KEEP]:
            shutil.rmtree(old)


class RemovesTooSoon(Checkpoints):
    """A planted bug: the checkpoints before are removed while the new one is still incomplete."""

    def write_rest(self, folder: Path, target: Path, *others: Any) -> None:
        for old in self.complete():
            shutil.rmtree(old.rename(self.folder / f"partial-{old.name}"))
        super().write_rest(folder, target, *others)


class KeepsLeftovers(Checkpoints):
    """A planted bug: what a killed save has left stays on the disk."""

    def _remove_partial(self) -> None:
        pass


@dataclass(frozen=True)
class Place:
    """Where the process is killed: before an event of a save, or before a byte of all that it writes, from 0."""

    unit: Literal["event", "byte"]
    number: int


@dataclass
class Kill:
    """Counts what a save does, and kills this process at `place`; None: never."""

    place: Place | None
    events: list[str] = field(default_factory=list)
    """The events that are done."""
    num_bytes: int = 0
    """Bytes that are written."""
    is_over: bool = False
    """The save is complete, and what follows is not counted."""

    def event(self, name: str) -> None:
        """To be called before an event."""
        if self.is_over:
            return
        if self.place == Place("event", len(self.events)):
            os.kill(os.getpid(), signal.SIGKILL)
        self.events.append(name)

    def write(self, file: io.FileIO, data: Any) -> int:
        """Write all of the data, or as much as there is before the place."""
        view = memoryview(data).cast("B")
        if self.place is not None and self.place.unit == "byte" and self.place.number < self.num_bytes + len(view):
            io.FileIO.write(file, view[: self.place.number - self.num_bytes])
            os.kill(os.getpid(), signal.SIGKILL)
        self.num_bytes += len(view)
        return io.FileIO.write(file, view)

    def install(self) -> None:
        """Watch all that this process does with files, from now on up to its end."""
        kill, open_path = self, Path.open

        class Watched(io.FileIO):
            def write(self, data: Any) -> int:
                return kill.write(self, data)

        def open_watched(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            return Watched(path, "wb") if mode == "wb" else open_path(path, mode, *args, **kwargs)

        def audit(name: str, args: tuple[Any, ...]) -> None:
            if name in EVENTS and (name != "open" or args[2] & (os.O_WRONLY | os.O_RDWR)):
                kill.event(f"{name} {Path(str(args[0])).name}")

        Path.open = open_watched  # type: ignore[method-assign,assignment]
        os.fsync = lambda fd: kill.event("fsync")
        sys.addaudithook(audit)


@dataclass(frozen=True)
class Steps:
    """What a save does that is not killed, and that removes a checkpoint."""

    events: list[str]
    """The events, and for most of them the file."""
    num_bytes: int
    """All that it writes."""


def steps_of_a_save(folder: Path) -> Steps:
    """What a save does. Call it before this process has threads: they would be missing in a forked process."""
    for number in range(2):
        status, report = _forked(folder, FIRST_STEP + 2 * number, None, Checkpoints)
        assert status == 0, report
    return Steps(**json.loads(report))


def attempts(folder: Path, places: Sequence[Place], bug: type[Checkpoints] = Checkpoints) -> str:
    """Make an attempt for each place, between two without a kill. Returns the first failure, or "" if there is none.

    Call it before this process has threads, as `steps_of_a_save`.
    """
    before: Place | None = None
    for number, place in enumerate((None, *places, None)):
        status, report = _forked(folder, FIRST_STEP + 2 * number, place, bug)
        if status != (0 if place is None else -signal.SIGKILL):
            return f"status {status} in an attempt with a kill at {place}, after a kill at {before}: {report}"
        before = place
    return ""


def _forked(folder: Path, step: int, place: Place | None, bug: type[Checkpoints]) -> tuple[int, str]:
    """The exit status of an attempt, and its report: JSON of Steps, or a traceback."""
    shim.install(torch.device("cpu"))  # starts a compiler, once for all attempts
    report = folder.with_name("report")
    report.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            report.write_text(json.dumps(asdict(_attempt(folder, step, place, bug))))
            status = 0
        except BaseException:  # noqa: BLE001 (the parent reports it)
            report.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status, report.read_text() if report.exists() else ""


def _attempt(folder: Path, step: int, place: Place | None, bug: type[Checkpoints]) -> Steps:
    """Check what there is, save `step`, and save `step` + 1 with a kill."""
    torch.set_num_threads(1)
    for name in ("RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
    os.fsync = lambda fd: None  # a killed process loses nothing that it has written
    groups = init_groups(Layout(), "cpu", timeout_s=60.0)
    _, state = build_engine(CONFIG, groups, is_loaded=True)
    warnings.simplefilter("error")  # users should see none at each save
    checkpoints = bug(folder, Retention(KEEP))
    _check_all(checkpoints, state, step)
    _save(checkpoints, state, step)
    assert not list(folder.glob("partial-*")), "leftovers are still there"
    assert len(checkpoints.complete()) <= KEEP
    kill = Kill(place)
    kill.install()
    _save(checkpoints, state, step + 1)
    kill.is_over = True
    return Steps(kill.events[:], kill.num_bytes)


def _check_all(checkpoints: Checkpoints, state: ModelState, step: int) -> None:
    """Check all checkpoints that there are before `step`, of which the attempt before has made step - 2 for sure."""
    steps = [step_of(path) for path in checkpoints.complete()]
    assert step == FIRST_STEP or step - 2 in steps, f"step {step - 2} is lost"
    for path in checkpoints.complete():
        check_content(path)
        record = CheckpointRecord.read(path)
        assert record.step == step_of(path)
        for part in parts_to_read(state):
            part.values.zero_()
        load(path, state, record.step)
        for part in parts_to_read(state):
            assert torch.equal(part.values, _values(part, record.step)), part.index


def _save(checkpoints: Checkpoints, state: ModelState, step: int) -> None:
    for part in parts_to_read(state):
        part.values.copy_(_values(part, step))
    record = CheckpointRecord(step, 0, seed=0, data_fingerprint="", mixture_fingerprint="", stage="")
    checkpoints.save(step, state, record, CONFIG, ATTACHED)


def _values(part: Part, step: int) -> torch.Tensor:
    """What a part holds after some steps."""
    return (torch.arange(part.box.num_elements, dtype=torch.float32) + step).view(part.box.sizes)
