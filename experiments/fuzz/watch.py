"""What a reader may do with a bad input: read it, or refuse it in one line. Whatever else it does is a finding.

`judge` calls a reader under a limit of memory and of processor time, and listens to the interpreter's audit events:
for a file that is opened for writing outside the folder that was given, and for a program that is started. Writes by
C++ (orbax's, for one) raise no such event and are not seen.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tlx.errors import UserError

SECONDS = 10.0  # of processor time for one input: the inputs are of a few kB, and readers take milliseconds
MEMORY_BYTES = 2**30  # of address space beyond what the process had before

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.truncate", "shutil.rmtree")
_STARTS = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")
_STARTS += ("subprocess.Popen", "socket.connect")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of one input: `kind` is "read", "refused" or "finding"; `said` is the message, `where` the line of tlx."""

    kind: str
    said: str = ""
    where: str = ""


class Hang(BaseException):
    """No Exception, so that no reader takes it for a damaged file."""


def judge(read: Callable[[], Any], *, folder: pathlib.Path, names: Sequence[str]) -> Outcome:
    """Calls `read` and says what came of it.

    Args:
      read: reads one input.
      folder: the only one in which it may write.
      names: one of these must be in the message of a refusal: the file's name, the key, ...
    """
    try:
        with _limits(), _listening(folder) as heard:
            read()
    except UserError as error:
        outcome = _of_refusal(error, names)
    except (Exception, Hang) as error:
        outcome = Outcome("finding", f"{type(error).__name__}: {error}"[:300], _where(error))
    else:
        outcome = Outcome("read")
    return Outcome("finding", heard[0], "an audit event") if heard else outcome


def _of_refusal(error: UserError, names: Sequence[str]) -> Outcome:
    said, cause = str(error), error
    while cause := cause.__cause__ or cause.__context__:
        if isinstance(cause, MemoryError):  # refused, but only because the memory was limited
            return Outcome("finding", f"MemoryError, refused as: {said[:200]}", _where(cause))
    if not said.strip() or len(said.splitlines()) != 1:
        return Outcome("finding", f"a refusal of {len(said.splitlines())} lines: {said[:200]}", _where(error))
    if not any(name in said for name in names):
        return Outcome("finding", f"a refusal that names no file and no key: {said[:200]}", _where(error))
    return Outcome("refused", said)


def _where(error: BaseException) -> str:
    """The innermost line of tlx."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tlx/" in frame.filename]
    return f"{frames[-1].filename.rpartition('/tlx/')[2]} in {frames[-1].name}" if frames else "outside tlx"


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Processor time by a signal, memory by a limit; both are as before afterwards."""

    def stop(*_: Any) -> None:
        raise Hang(f"more than {SECONDS:g} s of processor time")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    has = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGPROF, stop)
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY_BYTES, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


_LISTENERS: list[Callable[[str, tuple], None]] = []  # an audit hook cannot be taken off, so one stays and asks here


def _hook(event: str, arguments: tuple) -> None:
    if _LISTENERS:
        _LISTENERS[-1](event, arguments)


@contextlib.contextmanager
def _listening(folder: pathlib.Path) -> Iterator[list[str]]:
    """Yields a list that grows by a line for each thing that no reader may do."""
    if not getattr(_hook, "added", False):
        sys.addaudithook(_hook)
        _hook.added = True
    heard: list[str] = []
    allowed = (os.path.realpath(folder) + os.sep, os.devnull)

    def listen(event: str, arguments: tuple) -> None:
        if event in _STARTS:
            heard.append(f"{event} {arguments[:2]!r}"[:200])
        for path in map(os.fsdecode, _changed(event, arguments)):
            if not (os.path.realpath(path) + os.sep).startswith(allowed):
                heard.append(f"{event} writes {path}"[:200])

    _LISTENERS.append(listen)
    try:
        yield heard
    finally:
        _LISTENERS.pop()


def _changed(event: str, arguments: tuple) -> Sequence[Any]:
    """The paths that an event writes to, makes or removes; none of those that are relative to a folder's descriptor,
    for whoever takes that away (shutil.rmtree) has been heard with the whole path.
    """
    if event == "open":
        path, mode, flags = arguments
        writes = re.search("[wax+]", mode) if mode else flags & _WRITES
        return [path] if writes and isinstance(path, str | bytes | os.PathLike) else []
    if event not in _CHANGES or any(type(a) is int and a >= 0 for a in arguments[-1:]):
        return []
    return [path for path in arguments[:2] if isinstance(path, str | bytes | os.PathLike)]
