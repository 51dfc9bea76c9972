"""Programs that are compiled: kept on disk for the next start, counted, and, where a test asks, an error.

A program that is compiled again and again, for a shape or a type that changes from step to step, makes no figure wrong
and every step slow. What counts is a new program: traced, and compiled or fetched from jax's cache on disk.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
from collections.abc import Hashable, Iterator
from typing import Any

import jax

from tlx import progress

MOST_BYTES = 2**31  # kept on disk; what was used longest ago goes first
_EVENT = "/jax/core/compile/backend_compile_duration"
_strict = False


def keep_on_disk() -> None:
    """Lets jax keep what it compiles for this user's next runs, unless jax has been told where, or not to.

    In `~/.cache/tlx/compiled` (or below XDG_CACHE_HOME), for each kind of processor apart: a home may be shared by
    machines whose CPUs know different instructions. Another place: JAX_COMPILATION_CACHE_DIR; none:
    JAX_ENABLE_COMPILATION_CACHE=0. What cannot be written there is compiled anew, as without.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    try:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = pathlib.Path(home, "tlx", "compiled", _processor())
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # read-only, or no home at all
        return
    if new:
        progress.say(f"compiled programs are kept in {folder}; JAX_ENABLE_COMPILATION_CACHE=0 turns that off")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    if jax.config.jax_persistent_cache_min_compile_time_secs == 1.0:  # jax's default: most programs here take less
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _processor() -> str:
    """Eight digits of what the CPU can do, as Linux lists it; the machine's name of its kind elsewhere."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    said = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


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
