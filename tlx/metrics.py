"""Metrics as (sum, count) pairs, and where they are written: `metrics.jsonl` and TensorBoard.

A mean of means is wrong as soon as two batches differ in size or mask. Sums and counts add up exactly over steps,
devices and hosts, and are divided once, when somebody looks.
"""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from tlx import hosts
from tlx.workdir import write_bytes

Sums = dict[str, tuple[float, float]]


def add(sums: Sums, new: Iterable[Mapping[str, tuple[jax.Array, jax.Array]]]) -> Sums:
    """Adds the metrics of some steps, in their order and in float64, to `sums`."""
    sums = dict(sums)
    for metrics in jax.device_get(list(new)):
        for name, (total, count) in metrics.items():
            old = sums.get(name, (0.0, 0.0))
            sums[name] = (old[0] + float(total), old[1] + float(count))
    return sums


def means(sums: Sums, prefix: str = "") -> dict[str, float]:
    """Divides; a metric that nothing counted in is left out."""
    return {prefix + name: total / count for name, (total, count) in sums.items() if count > 0}


class MetricWriter:
    """Appends to a run's curves. On a resumed run, first drops what was written after the checkpoint."""

    def __init__(self, workdir: pathlib.Path):
        self._path = workdir / "metrics.jsonl"
        self._tensorboard_dir = workdir / "tensorboard"
        self._tensorboard: dict[str, Any] = {}

    def rewind(self, phase: str, step: int) -> None:
        """Forgets the lines of `phase` after `step`: the run that wrote them died, and they will be written again."""
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
                of, at = record["phase"], record["step"]
                if of != phase or at <= step:
                    kept.append(line)
            except (ValueError, TypeError, KeyError, RecursionError):
                continue  # the last line of a killed run, cut off, or none of ours
        write_bytes(self._path, "".join(line + "\n" for line in kept).encode())

    def write(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """One line of JSON, and one TensorBoard point for each value. Host 0 only."""
        if not hosts.is_first():
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        with self._path.open("a") as f:
            f.write(json.dumps({"phase": phase, "step": step, **finite}) + "\n")
        if phase not in self._tensorboard:
            import tensorboardX  # here, because a reader of metrics needs none

            self._tensorboard[phase] = tensorboardX.SummaryWriter(str(self._tensorboard_dir / phase))
        for name, value in values.items():
            self._tensorboard[phase].add_scalar(name, value, step)
        self._tensorboard[phase].flush()

    def close(self) -> None:
        for writer in self._tensorboard.values():
            writer.close()
        self._tensorboard.clear()
