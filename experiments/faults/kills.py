"""SIGKILL: at random moments, in the middle of every kind of write, and of one of two hosts."""

import os
import pathlib
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.faults.child import Child, start
from experiments.faults.small_run import where
from experiments.faults.trial import LOST, Trial, judge
from tlx import checkpoint, hosts, metrics
from tlx.recipes import self_train

AGAIN = 0.4  # how often a run that was killed is killed once more


def at_random(
    folder: pathlib.Path, undisturbed: dict[str, Any], *, seconds: float, count: int, rng: np.random.Generator
) -> Iterator[Trial]:
    """`count` runs, each killed from outside at a moment drawn from the undisturbed run's `seconds`, then gone on with.

    One that ended before its moment came is drawn again.
    """
    done = 0
    while done < count:
        workdir, moments, hits = folder / "run", [], []
        shutil.rmtree(workdir, ignore_errors=True)
        while not moments or (hits and len(hits) < 4 and rng.random() < AGAIN):
            moments.append(rng.uniform(0, seconds))
            child = start(workdir)
            due = child.started + moments[-1]
            child.wait(lambda due=due: time.monotonic() >= due).kill()
            if not child.killed:
                break
            hits.append(where(workdir))
        if not hits:
            continue
        done += 1
        child = start(workdir).wait()
        what = "after " + " s, and then ".join(f"{moment:.2f}" for moment in moments[: len(hits)]) + " s"
        outcome, said = judge(child, undisturbed, lambda child=child: child)
        yield Trial("SIGKILL at a random moment", what, "; ".join(hits), outcome, said)


def in_writes(folder: pathlib.Path, undisturbed: dict[str, Any]) -> Iterator[Trial]:
    """One run, killed at each of PLACES in turn, and at last left to end."""
    trials, workdir = [], folder / "run"
    for name, aim in PLACES.items():
        child = start(workdir, aim).wait()
        trials.append((name, where(workdir), "" if child.killed else f"not killed there: {child.last_line}"))
    child = start(workdir).wait()
    outcome, said = judge(child, undisturbed, lambda: child)
    for name, hit, missed in trials:
        yield Trial("SIGKILL in a write", name, hit, LOST if missed else outcome, missed or said)


def while_it_lies_there(folder: pathlib.Path, undisturbed: dict[str, Any], patterns: list[str]) -> Iterator[Trial]:
    """A run for each pattern, killed from outside as soon as a file of that name is seen in its folder."""
    for number, pattern in enumerate(patterns):
        workdir = folder / f"run{number}"
        child = start(workdir)
        child.wait(lambda workdir=workdir, pattern=pattern: any(workdir.glob(pattern))).kill()
        hit = where(workdir)
        again = start(workdir).wait()
        outcome, said = judge(again, undisturbed, lambda again=again: again)
        missed = "" if child.killed else " (ended before it was seen)"
        yield Trial("SIGKILL on sight of a file", pattern + missed, hit, outcome, said)


def one_of_two_hosts(folder: pathlib.Path, moments: list[tuple[int, str]]) -> Iterator[Trial]:
    """Two processes that run together; one is killed when a file is there, and the other must end by itself.

    Args:
      folder: for their runs.
      moments: (which host, pattern of the file).
    """
    whole = [child.wait() for child in two(folder / "whole")]
    for number, (victim, pattern) in enumerate(moments):
        workdir = folder / f"run{number}"
        both = two(workdir)
        both[victim].wait(lambda workdir=workdir, pattern=pattern: any(workdir.glob(pattern))).kill()
        hit, other = where(workdir), both[1 - victim]
        killed = time.monotonic()
        other.wait()
        took = time.monotonic() - killed
        again = [child.wait() for child in two(workdir)]
        outcome, said = judge(again[0], whole[0].end, lambda again=again: again[0])
        # jax ends a host that has lost another: from a thread of C++, with a line and SIGABRT, before Python can speak.
        ended = "another task died" if "another task died" in other.said else other.last_line
        if other.hung or not (other.refused or "another task died" in other.said):
            outcome = LOST
        said = said or f"{took:.0f} s later, exit code {other.code}: {ended}"
        yield Trial("a host dies", f"host {victim} of 0 and 1", hit, outcome, said)


def two(workdir: pathlib.Path, harness: str = "jit") -> list[Child]:
    """The small run of two processes that run together."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    join = lambda i: lambda: hosts.join(coordinator=address, num_processes=2, process_id=i)
    return [start(workdir, join(i), harness) for i in range(2)]


def _die(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _in_checkpoint(phase: str, at: int) -> None:
    save = checkpoint.Checkpoints.save

    def saving(self: checkpoint.Checkpoints, step: int, *args: Any) -> None:
        if self.folder.name == phase and step == at:
            # What a kill in the middle of orbax's write leaves: a folder under its temporary name.
            half = self.folder / f"{step}.orbax-checkpoint-tmp-99" / "state"
            half.mkdir(parents=True)
            (half / "manifest.ocdbt").write_bytes(b"half")
            _die()
        save(self, step, *args)

    checkpoint.Checkpoints.save = saving


def _half_of(name: str) -> None:
    """Half of what is written to this file is on the disk, under its temporary name."""
    sync = os.fsync

    def syncing(handle: int) -> None:
        at = os.readlink(f"/proc/self/fd/{handle}")
        if f"/.{name}." in at:
            os.truncate(at, os.path.getsize(at) // 2)
            _die()
        sync(handle)

    os.fsync = syncing


def _before_rename(name: str) -> None:
    """All is written, and has its temporary name still."""
    rename = os.replace
    os.replace = lambda old, new: _die() if str(new).endswith(name) else rename(old, new)


def _half_a_line(phase: str, at: int) -> None:
    write = metrics.MetricWriter.write

    def writing(self: metrics.MetricWriter, at_phase: str, step: int, values: dict[str, float]) -> None:
        write(self, at_phase, step, values)
        if (at_phase, step) == (phase, at):
            os.truncate(self._path, self._path.stat().st_size - 30)
            _die()

    metrics.MetricWriter.write = writing


def _in_promotion() -> None:
    self_train.promotion.compare = _die


# In the order in which a run comes by them.
PLACES: dict[str, Callable[[], None]] = {
    "the data's splits, half": lambda: _half_of("splits.json"),
    "a checkpoint of the teacher": lambda: _in_checkpoint("teacher", 4),
    "the teacher's mark": lambda: _before_rename("phases/teacher.json"),
    "the ledger, first entry": lambda: _before_rename("ledger.json"),
    "a diagnosis": lambda: _before_rename("pseudo_labels/round_1.json"),
    "pseudo-labels": lambda: _before_rename("pseudo_labels/round_1.npz"),
    "pseudo-labels, half": lambda: _half_of("round_1.npz"),
    "a line of the curves": lambda: _half_a_line("round_1", 4),
    "promotion": _in_promotion,
    "the ledger, half": lambda: _half_of("ledger.json"),
    "a checkpoint of the second student": lambda: _in_checkpoint("round_2", 6),
    "the result, half": lambda: _half_of("result.json"),
    "the result": lambda: _before_rename("result.json"),
}
