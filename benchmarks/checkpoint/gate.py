"""A gate for the thread that writes a save: it works in some steps and not in others, between two pieces of a file."""

from threading import Condition

from foretrain.trainer.checkpoint.pace import Pace

TIMEOUT_S = 300.0
"""The time after which a writer that has not reached the gate counts as lost."""


class Gate:
    """Lets the writer pass while it is open. It knows when the writer has written the last piece."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._is_open, self._is_writer_here = True, False
        self._num_passed = 0
        self._num_of_a_save: int | None = None

    def arrive(self) -> None:
        """Wait until the gate is open. The writer calls it after each piece."""
        with self._changed:
            self._num_passed += 1
            self._is_writer_here = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_open or self.is_passed_for_good)
            self._is_writer_here = False

    @property
    def is_passed_for_good(self) -> bool:
        """Whether the writer has written the last piece of a save. Known after the first save."""
        return self._num_passed == self._num_of_a_save

    def open_for_a_save(self) -> None:
        """Open the gate, before a save begins."""
        self._num_passed = 0
        self.open()

    def end_first(self) -> None:
        """Note how many pieces the writer has written in a save, after the first of several alike."""
        self._num_of_a_save = self._num_passed

    def open(self) -> None:
        """Let the writer continue."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def close(self) -> bool:
        """Wait until the writer is at the gate. False: it has passed for good, and the disk has the rest to do."""
        with self._changed:
            self._is_open = False
            if not self._changed.wait_for(lambda: self._is_writer_here or self.is_passed_for_good, TIMEOUT_S):
                raise TimeoutError("the thread that writes the save has not reached the gate")
            return not self.is_passed_for_good


class GatedPace(Pace):
    """The pace of foretrain, with a gate after each pause."""

    def __init__(self, gate: Gate, share: float) -> None:
        super().__init__(share)
        self._gate = gate

    def pause(self) -> None:
        """Wait as foretrain does, and then for the gate, for which a writer is never ahead or behind its share."""
        super().pause()
        self._gate.arrive()
        super().pause()  # measures its share from now on, and not from before the gate was closed
