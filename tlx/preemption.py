"""SIGTERM and Ctrl-C, turned into a question that the loop asks between two steps."""

import signal
import sys
import threading
from types import FrameType


class Preempted(Exception):
    """The run was asked to stop and has saved what it had; the same command goes on from there."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Preemption:
    """While entered, SIGTERM (a cluster that wants its machine back) and SIGINT (Ctrl-C) end nothing by themselves.

    They set `requested`, the signal's number, of this one and of those that it is entered within; a second Ctrl-C stops
    at once. Python can handle signals in its main
    thread only; elsewhere (a notebook's worker) this does nothing.
    """

    requested: int | None = None

    def __enter__(self) -> "Preemption":
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._previous = {
                number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(self, *exc: object) -> None:
        if self._main:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
                outer = getattr(handler, "__self__", None)
                if self.requested == number and isinstance(outer, Preemption):
                    outer.requested = number  # a sweep around the run must hear of it too

    def check(self) -> None:
        """For places where everything is saved already: raises Preempted if a stop was requested."""
        if self.requested is not None:
            raise Preempted(self.requested)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.stderr.write("\nstopping after this step, and saving; Ctrl-C once more stops at once\n")
