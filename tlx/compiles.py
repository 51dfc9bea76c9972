"""Programs that are compiled, counted; and, where a test asks, an error once all of a loop's are there.

A program that is compiled again and again, for a shape or a type that changes from step to step, makes no figure wrong
and every step slow. What counts is a new program: traced, and compiled or fetched from jax's cache on disk.
"""

import contextlib
from collections.abc import Hashable, Iterator
from typing import Any

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_strict = False


class Recompiled(AssertionError):
    """A program was compiled when all should have been there."""


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """The names of the programs that are made while this is entered, one after another."""
    names: list[str] = []

    def listen(event: str, seconds: float, *, fun_name: str = "?", **_: Any) -> None:
        if event == _EVENT:
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Within, `tlx.loop.fit` raises Recompiled where anything is compiled after its first step and evaluation.

    The first step of another program, as where a group starts to learn later than others, may compile too, and so may
    the first of each phase.
    """
    global _strict
    before, _strict = _strict, True
    try:
        yield
    finally:
        _strict = before


class Watch:
    """What a loop compiles, looked at after each of its parts; while `strict` is not entered, it does nothing."""

    def __init__(self) -> None:
        self._warm: set[Hashable] = set()
        self._names: list[str] = []

    @contextlib.contextmanager
    def on(self) -> Iterator["Watch"]:
        with counted() if _strict else contextlib.nullcontext([]) as self._names:
            yield self

    def look(self, what: Hashable, where: str) -> None:
        """Raises Recompiled, with the programs' names, if `what` was looked at before and something was compiled."""
        names = ", ".join(self._names)
        if names and what in self._warm:
            raise Recompiled(f"{where}: {names} compiled, when all was there")
        self._warm.add(what)
        self._names.clear()
