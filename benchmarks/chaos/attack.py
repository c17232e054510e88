"""Kills the processes of a run, one at a random moment after the other, and starts it again, until it is complete."""

import random
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import psutil

from benchmarks.chaos.target import CHECKPOINT_EVERY, LAYOUT, LAYOUTS, NUM_STEPS, Target
from foretrain.launcher.local.supervise import MODULE

Moment = Literal["start-up", "training", "save"]
MOMENTS: tuple[Moment, ...] = ("start-up", "training", "save")
SHARES = (0.4, 0.4, 0.2)
"""How often a kill waits for each of MOMENTS."""
SLOWEST, FASTEST = 0.6, 0.8
"""Shares of the steps for the number of kills so far. A run that has done less is not killed before it has caught up,
or PATIENCE_S have passed: else it would be killed again and again before its next checkpoint. One that has done more is
killed in its start-up."""
PATIENCE_S = 300.0
"""Seconds after which a kill no longer waits for a step or a save."""
HANG_S = 900.0
"""Seconds that a run may take to end after the last kill."""
POLL_S = 0.005


class ChaosError(RuntimeError):
    """A run that has ended although nothing was killed, or that was not started again; the message has its output."""


@dataclass(frozen=True)
class Kill:
    """One process that was killed."""

    victim: str
    """"rank", "fork server", "main process" (of `foretrain train`), "supervisor" or "launch command"."""
    moment: Moment
    """What the run was doing: "start-up" is all between a kill and the next step."""
    step: int
    """Steps in the metrics."""


@dataclass
class Attack:
    """Kills `num_kills` processes of a run, each drawn with `chosen`, before the run is complete."""

    target: Target
    num_kills: int
    chosen: random.Random
    on_kill: Callable[[Kill], None] = lambda kill: None
    kills: list[Kill] = field(default_factory=list)
    layouts: list[str] = field(default_factory=list)
    """The layout of each time that the command was started."""

    def __post_init__(self) -> None:
        self._startups_s = [8.0]
        """Seconds that each start-up took. Some are too short: a rank may do a step after another was killed."""

    def run(self) -> None:
        """Kill and start again until the run is complete. Raises ChaosError if it ends in another way.

        No process of the run is left, also if this one is interrupted.
        """
        try:
            while self._start() != 0:
                pass
        except BaseException:
            self._end_all()
            raise
        if len(self.kills) < self.num_kills:
            raise ChaosError(f"the run was complete after {len(self.kills)} of {self.num_kills} kills")

    def _start(self) -> int:
        """Start the command, kill processes until none is left, and return the status of the command."""
        before = len(self.kills)
        self.layouts.append(self._next_layout())
        command = self.target.start(self.layouts[-1])
        self._forget_steps()
        while command.poll() is None or self.target.processes():
            if len(self.kills) < self.num_kills:
                self._kill_at_some_moment(command)
            elif time.monotonic() > self._since_s + HANG_S:
                raise ChaosError(self._described(f"the run has not ended {HANG_S:g} s after the last kill"))
            else:
                time.sleep(0.1)
        status = command.wait()
        was_killed = len(self.kills) > before if self.target.changes_layout else status == -9
        if status != 0 and not was_killed:
            raise ChaosError(self._described(f"the command ended with status {status} after {len(self.kills)} kills"))
        return status

    def _described(self, what: str) -> str:
        return f"{what}:\n{self.target.output.read_text(encoding='utf-8', errors='replace')[-3000:]}"

    def _end_all(self) -> None:
        for process in self.target.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _next_layout(self) -> str:
        if not self.target.changes_layout:
            return LAYOUT
        return self.chosen.choice([layout for layout in LAYOUTS if layout not in self.layouts[-1:]])

    def _forget_steps(self) -> None:
        self._since_s, self._fewest, self._trains = time.monotonic(), NUM_STEPS, False
        self._interrupted = self.target.partial_checkpoints()

    def _is_saving(self) -> bool:
        return self._trains and bool(self.target.partial_checkpoints() - self._interrupted)

    def _look(self) -> int:
        """Steps in the metrics; notices when the run trains again after a kill."""
        steps = self.target.num_steps()
        self._fewest = min(self._fewest, steps)  # a resume cuts the metrics back before it adds to them
        if steps > self._fewest and not self._trains:
            self._trains = True
            self._startups_s.append(time.monotonic() - self._since_s)
        return steps

    def _kill_at_some_moment(self, command: "subprocess.Popen[bytes]") -> None:
        """Wait for a random moment, and kill a process. If the command ends meanwhile, this is the moment."""
        moment = self.chosen.choices(MOMENTS, SHARES)[0]
        least = SLOWEST * NUM_STEPS * len(self.kills) / self.num_kills
        most = FASTEST * NUM_STEPS * (len(self.kills) + 1) / self.num_kills
        had_ended, steps = command.poll(), self._look()
        if steps > most or had_ended is not None:  # without the command, the others are about to end
            moment = "start-up"
        elif steps < least and moment == "start-up":
            moment = "training"
        end_s = self._since_s + PATIENCE_S
        if moment == "start-up":
            end_s = time.monotonic() + self.chosen.uniform(0.0, statistics.median(self._startups_s))
        wanted = self.chosen.randrange(1, CHECKPOINT_EVERY)
        while time.monotonic() < end_s and command.poll() == had_ended:
            steps = self._look()
            is_now: dict[Moment, bool] = {
                "start-up": True,  # it is over already
                "training": steps >= max(least, self._fewest + wanted),
                "save": steps > most or (steps >= least and self._is_saving()),
            }
            if self._trains and is_now[moment]:
                time.sleep(self.chosen.uniform(0.0, 0.1) if moment == "training" else 0.0)
                break
            time.sleep(POLL_S)
        self._kill_one()

    def _kill_one(self) -> None:
        """Kill a random process of the run, if there is one, and record it."""
        with suppress(psutil.NoSuchProcess):
            victims = {each: name for each in self.target.processes() if (name := role(each)) is not None}
            if not victims:
                return
            victim = self.chosen.choice(list(victims))
            steps = self._look()
            moment: Moment = "save" if self._is_saving() else "training" if self._trains else "start-up"
            victim.kill()
            self.kills.append(Kill(victims[victim], moment, steps))
            self._forget_steps()
            self.on_kill(self.kills[-1])
            while victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE:  # `wait` would take the status
                time.sleep(POLL_S)


def role(process: psutil.Process) -> str | None:
    """What a process of a run is; None for helpers, without which a run continues, such as git."""
    words = " ".join(process.cmdline())
    if "multiprocessing.forkserver" in words:
        parent = process.parent()
        is_rank = parent is not None and "multiprocessing.forkserver" in " ".join(parent.cmdline())
        return "rank" if is_rank else "fork server"
    if MODULE in words:
        return "supervisor"
    names = {"foretrain train": "main process", "foretrain launch": "launch command"}
    return next((name for verb, name in names.items() if verb in words), None)
