"""How the minutes of a run are divided among its checks. Pure arithmetic on seconds of time.monotonic()."""

from dataclasses import dataclass


class OutOfTimeError(Exception):
    """The time of the program is used up, so a check cannot end."""


class TooSlowError(Exception):
    """A check took longer than its own part of the time."""


@dataclass(frozen=True)
class Budget:
    """The time of the program, or the part of it that one check may use."""

    start_s: float
    total_s: float
    """Seconds of the program."""
    own_end_s: float = float("inf")
    """The moment at which the check's own part ends."""

    @property
    def end_s(self) -> float:
        """The moment at which no command may run any more."""
        return min(self.start_s + self.total_s, self.own_end_s)

    def left_s(self, now_s: float) -> float:
        """Seconds that are left; 0 or more."""
        return max(0.0, self.end_s - now_s)

    def fits(self, needs_s: float, now_s: float) -> bool:
        """Whether a check that needs that many seconds can start."""
        return needs_s <= self.left_s(now_s)

    def part(self, share: float, now_s: float, at_least_s: float = 0.0) -> "Budget":
        """What a check may use that starts now: at most that share of all seconds, or `at_least_s` if that is more.

        What hangs must end before the others have no time left.
        """
        return Budget(self.start_s, self.total_s, now_s + max(share * self.total_s, at_least_s))

    def error(self, now_s: float) -> OutOfTimeError | TooSlowError:
        """What to raise when nothing is left: a check that was cut short by the program's end shows nothing."""
        if now_s >= self.start_s + self.total_s:
            return OutOfTimeError(
                f"the {self.total_s / 60:g} minutes of the program were used up: give it more --minutes"
            )
        return TooSlowError(f"it hangs or is too slow: it was stopped at its part of the {self.total_s / 60:g} minutes")
