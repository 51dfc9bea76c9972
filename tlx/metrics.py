"""Metrics as (sum, count) pairs, and where they are written: `metrics.jsonl` and TensorBoard.

A line of `metrics.jsonl` is {"phase", "step", name: value, ..., "seal": a checksum of the rest}.

A mean of means is wrong as soon as two batches differ in size or mask. Sums and counts add up exactly over steps,
devices and hosts, and are divided once, when somebody looks.
"""

import itertools
import json
import math
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from tlx import hosts, progress
from tlx.workdir import opened, sealed, write_bytes

Sums = dict[str, tuple[float, float]]


def add(sums: Sums, new: Iterable[Mapping[str, tuple[jax.Array, jax.Array]]]) -> Sums:
    """Adds the metrics of some steps, in their order and in float64, to `sums`."""
    sums = dict(sums)
    for metrics in (one for several in jax.device_get(list(new)) for one in each(several)):
        for name, (total, count) in metrics.items():
            old = sums.get(name, (0.0, 0.0))
            sums[name] = (old[0] + float(total), old[1] + float(count))
    return sums


def each(metrics: Mapping[str, tuple[Any, Any]]) -> Iterator[Mapping[str, tuple[Any, Any]]]:
    """The metrics of each step, from those of one, or of several steps of one call, [steps]."""
    if np.ndim(next(iter(metrics.values()))[0]) == 0:
        yield metrics
    else:
        yield from (dict(zip(metrics, pairs)) for pairs in zip(*(zip(*pair) for pair in metrics.values())))


def means(sums: Sums, prefix: str = "") -> dict[str, float]:
    """Divides; a metric that nothing counted in is left out."""
    return {prefix + name: total / count for name, (total, count) in sums.items() if count > 0}


class MetricWriter:
    """Appends to a run's curves. On a resumed run, first drops what was written after the checkpoint."""

    def __init__(self, workdir: pathlib.Path):
        self._path = workdir / "metrics.jsonl"
        self._tensorboard_dir = workdir / "tensorboard"
        self._events: tuple[str, Any] = ("", None)  # the phase under way, and its file of events

    def rewind(self, phase: str, step: int) -> None:
        """Forgets the lines of `phase` after `step`: the run that wrote them died, and they will be written again.

        And what is no line as it was written: the last one of a killed run, cut off, or a damaged one, which is said.
        """
        if not self._path.exists():
            return
        with self._path.open(errors="replace") as lines:
            kept = [self._stays(line, number, phase, step) for number, line in enumerate(lines, 1)]
        if all(kept):
            return
        with self._path.open(errors="replace") as lines:
            write_bytes(self._path, "".join(itertools.compress(lines, kept)).encode())

    def _stays(self, line: str, number: int, phase: str, step: int) -> bool:
        if not line.endswith("\n"):
            return False  # the last one of a process that was killed
        try:
            record = opened(json.loads(line), seal=False)
            of, at = record["phase"], record["step"]
            return bool(of != phase or at <= step)
        except (ValueError, TypeError, KeyError, RecursionError):
            progress.say(f"[yellow]{self._path} line {number} is damaged: left out[/yellow]")
            return False

    def write(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """One line of JSON, and one TensorBoard point for each value. Host 0 only."""
        if not hosts.is_first():
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        with self._path.open("a") as f:
            f.write(json.dumps(sealed({"phase": phase, "step": step, **finite})) + "\n")
        self._write_events(phase, step, values)

    def close(self) -> None:
        if self._events[1]:
            self._events[1].close()
        self._events = ("", None)

    def _write_events(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """By tensorboardX's parts: its SummaryWriter has a thread, which a full disk ends, and the run then waits."""
        # Here, because a reader of metrics needs none of it.
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        if self._events[0] != phase:
            self.close()  # phases come one after another, and a run may have a thousand
            folder = self._tensorboard_dir / phase
            folder.mkdir(parents=True, exist_ok=True)
            self._events = (phase, event_file_writer.EventsWriter(str(folder / "events")))
        for name, value in values.items():
            event = event_pb2.Event(wall_time=time.time(), step=step, summary=summary.scalar(name, value))
            self._events[1].write_event(event)
        self._events[1].flush()
