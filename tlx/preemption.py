"""SIGTERM, turned into a question that the loop asks between two steps."""

import signal
import threading
from types import FrameType


class Preempted(Exception):
    """The run was asked to stop and has saved what it had; the same command goes on from there."""


class Preemption:
    """While entered, SIGTERM (a cluster that wants its machine back) sets `requested` and ends nothing by itself.

    Python can handle signals in its main thread only; elsewhere (a notebook's worker) this does nothing.
    """

    requested = False

    def __enter__(self) -> "Preemption":
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._previous)

    def check(self) -> None:
        """For places where everything is saved already: raises Preempted if a stop was requested."""
        if self.requested:
            raise Preempted

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
