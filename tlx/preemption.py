"""SIGTERM and Ctrl-C, turned into a question that the loop asks between two steps."""

import itertools
import signal
import sys
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

# Questions are numbered, the same on all hosts, which is how they agree on the one to stop at.
_QUESTIONS = itertools.count(1)


class Preempted(Exception):
    """The run was asked to stop and has saved what it had; the same command goes on from there."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Preemption:
    """While entered, SIGTERM (a cluster that wants its machine back) and SIGINT (Ctrl-C) end nothing by themselves.

    They set `requested`, the signal's number, of this one and of those that it is entered within; a second Ctrl-C stops
    at once. Python can handle signals in its main thread only; elsewhere (a notebook's worker) this does nothing.

    On several hosts a SIGTERM to any of them is heard by jax, and stops all at the same question; Ctrl-C stops at once.
    """

    requested: int | None = None

    def __enter__(self) -> "Preemption":
        self._main = threading.current_thread() is threading.main_thread() and jax.process_count() == 1
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

    def asked(self) -> bool:
        """Whether a stop was requested. Every host must ask, and all get the same answer."""
        several = jax.process_count() > 1 and self.requested is None
        if several and multihost_utils.reached_preemption_sync_point(next(_QUESTIONS)):
            self.requested = signal.SIGTERM
        return self.requested is not None

    def check(self) -> None:
        """Raises Preempted if a stop was requested: what is not saved yet, who has it saves on the way out."""
        if self.asked():
            raise Preempted(self.requested)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.stderr.write("\nstopping after this step, and saving; Ctrl-C once more stops at once\n")
