"""What surrounds a run: a disk that is full, a folder that cannot be written, clocks that jump, a second process."""

import contextlib
import ctypes
import itertools
import os
import pathlib
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.faults.child import Child, start
from experiments.faults.small_run import where
from experiments.faults.trial import LOST, REFUSED, SKIPPED, Trial, judge

_DAC_OVERRIDE = 1 << 1  # the capability by which root writes where permissions say no


def full_disk(
    folder: pathlib.Path, whole: pathlib.Path, undisturbed: dict[str, Any], *, count: int, rng: np.random.Generator
) -> Iterator[Trial]:
    """Runs on file systems too small for them, and then with room."""
    needed = sum(path.stat().st_blocks * 512 for path in whole.rglob("*"))
    for _ in range(count):
        room = int(needed * rng.uniform(0.02, 0.95)) // 4096 * 4096
        with _mounted(folder / "disk", f"size={room}") as disk:
            if disk is None:
                yield Trial("disk full", f"{room:,} bytes", "", SKIPPED, "nothing can be mounted here")
                continue
            child = start(disk / "run").wait()
            hit = where(disk / "run")

            def mended(disk: pathlib.Path = disk) -> Child:
                subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
                return start(disk / "run").wait()

            outcome, said = judge(child, undisturbed, mended)
            yield Trial("disk full", f"{room:,} of {needed:,} bytes", hit, outcome, said)


def no_large_files(folder: pathlib.Path, undisturbed: dict[str, Any], limits: list[int]) -> Iterator[Trial]:
    """Runs whose files may not be larger than so many bytes, as where a quota ends, and then without."""
    for limit in limits:
        workdir = folder / f"run{limit}"
        set_limit = lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        child = start(workdir, set_limit).wait()
        hit = where(workdir)
        outcome, said = judge(child, undisturbed, lambda workdir=workdir: start(workdir).wait())
        yield Trial("files too large", f"more than {limit:,} bytes", hit, outcome, said)


def read_only(
    folder: pathlib.Path, half: pathlib.Path, undisturbed: dict[str, Any], *, mounts: bool = True
) -> Iterator[Trial]:
    """A new run and an interrupted one, in a folder without the permission to write, and on a disk mounted so."""
    for name, begun in (("a new run", False), ("an interrupted run", True)):
        workdir = folder / ("begun" if begun else "new")
        shutil.copytree(half, workdir) if begun else workdir.mkdir(parents=True)
        _allow(workdir, False)
        child = start(workdir, _obey_permissions).wait()
        _allow(workdir, True)
        outcome, said = judge(child, undisturbed, lambda workdir=workdir: start(workdir).wait())
        yield Trial("read-only", f"{name}, by permissions", where(half) if begun else "start", outcome, said)
        if not mounts:
            continue
        with _mounted(folder / f"disk {name}", "size=100m") as disk:
            if disk is None:
                yield Trial("read-only", f"{name}, by mount", "", SKIPPED, "nothing can be mounted here")
                continue
            shutil.copytree(half, disk / "run") if begun else (disk / "run").mkdir()
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            child = start(disk / "run").wait()

            def mended(disk: pathlib.Path = disk) -> Child:
                subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
                return start(disk / "run").wait()

            outcome, said = judge(child, undisturbed, mended)
            yield Trial("read-only", f"{name}, by mount", where(half) if begun else "start", outcome, said)


def jumping_clocks(folder: pathlib.Path, undisturbed: dict[str, Any], seeds: list[int]) -> Iterator[Trial]:
    """Runs in which time.time and time.monotonic jump by up to ten hours, back and forth, every 20th time one asks."""
    for seed in seeds:
        child = start(folder / f"run{seed}", lambda seed=seed: _jump(seed)).wait()
        outcome, said = judge(child, undisturbed, lambda child=child: child)
        yield Trial("clocks jump", f"seed {seed}", "all through", outcome, said)


def second_process(folder: pathlib.Path, undisturbed: dict[str, Any], patterns: list[str]) -> Iterator[Trial]:
    """The same command while a run is under way, once a file is there: the second refuses, the first goes on."""
    for number, pattern in enumerate(patterns):
        workdir = folder / f"run{number}"
        first = start(workdir)
        first.wait(lambda workdir=workdir, pattern=pattern: any(workdir.glob(pattern)))
        hit = where(workdir)
        second = start(workdir).wait()
        still = not first.ended()
        outcome, said = judge(first.wait(), undisturbed, lambda first=first: first)
        if second.refused and "in use" in second.last_line:
            outcome, said = (REFUSED, second.last_line) if outcome != LOST else (outcome, said)
        else:
            outcome, said = (LOST if still else SKIPPED), f"the second: {second.last_line}"
        yield Trial("a second process", f"when there is {pattern}", hit, outcome, said)


@contextlib.contextmanager
def _mounted(at: pathlib.Path, options: str) -> Iterator[pathlib.Path | None]:
    """A file system in memory; None where this process may not mount one."""
    at.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", at], capture_output=True, check=False)
    if done.returncode:
        yield None
        return
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def _allow(folder: pathlib.Path, write: bool) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200 if write else path.stat().st_mode & ~0o222)


def _obey_permissions() -> None:
    """Gives up root's right to write anywhere; another user has none. (As another user, root's Python is not there.)"""
    if os.geteuid():
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: the lower 32 bits, then the upper
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    for i in range(2):
        data[i] &= ~_DAC_OVERRIDE
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def _jump(seed: int) -> None:
    draw, asked = random.Random(seed), itertools.count()
    for name in ("time", "monotonic"):
        clock, offset = getattr(time, name), [0.0]

        def jumping(clock: Any = clock, offset: list[float] = offset) -> float:
            if next(asked) % 20 == 19:
                offset[0] = draw.uniform(-36_000, 36_000)
            return clock() + offset[0]

        setattr(time, name, jumping)
