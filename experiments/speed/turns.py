"""What the benchmarks of steps share: steps that take turns, so that all meet the same machine, and the record.

10,000 random images of 28 x 28: the pixels do not matter to the time. The steps, the store and the streams are those of
the recipes, with the loop's own work left out. Of each step's turns the median counts.
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

COUNT = 10_000
Walk = Callable[[int], Any]  # takes so many steps, and returns what to wait for


class Bench:
    """A network on random images, and what its steps need."""

    def __init__(self, options: Mapping[str, Any], **augment: Any):
        import jax
        import optax

        from tlx import models, parallel
        from tlx.data import view
        from tlx.data.source import Examples

        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (COUNT, 28, 28, 1), dtype=np.uint8)
        self.examples = Examples(images, rng.integers(0, 10, COUNT).astype(np.int32))
        self.logits = rng.normal(size=(COUNT, 10)).astype(np.float32)
        self.mesh, self.key = parallel.make_mesh(), jax.random.key(0)
        self.takes, self.tx = models.Input((28, 28, 1), (0.13,), (0.31,)), optax.adam(1e-3)
        self.view = view.make_view(**augment)
        self.variables, self.apply = self.network(options, seed=0)

    def network(self, options: Mapping[str, Any], *, seed: int) -> tuple[Any, Callable]:
        """(variables, apply)."""
        import jax

        from tlx import models

        model = models.build(**options, num_classes=10)
        first = self.examples.images[:1] / np.float32(255)
        variables = model.init(jax.random.key(seed), first, train=False)
        return variables, models.make_apply(model, takes=self.takes)

    def store(self, **columns: np.ndarray) -> Any:
        from tlx.data import reader

        columns = {"weight": np.ones(COUNT, np.float32)} | columns
        return reader.Store(self.examples, mesh=self.mesh, mode="jit", **columns)

    def batches(self, store: Any, *sizes: int) -> Iterator[Any]:
        """Endless, each drawn in parts of these sizes, of equal shares of the images."""
        from tlx.data import reader

        shares = np.array_split(np.arange(COUNT), len(sizes))
        streams = [reader.Stream(share, size, (0,)) for share, size in zip(shares, sizes, strict=True)]
        return reader.train_batches(store, streams, start=0, steps=10**6)

    def walk(self, make_step: Callable, batches: Iterator[Any], before: Callable | None = None, **options: Any) -> Walk:
        """The step that `make_step` makes, on these batches; `before(batch, number)` may add columns."""
        import jax

        from tlx import parallel
        from tlx.state import TrainState

        step = make_step(apply=self.apply, view=self.view, tx=self.tx, **options)
        step = parallel.parallelize(step, "jit", self.mesh, args=("whole", "batch", "whole"), donate=True)
        fresh = TrainState.create(variables=jax.tree.map(np.array, self.variables), tx=self.tx)
        held = [parallel.replicate(fresh, self.mesh)]

        def take(turn: int) -> Any:
            for number, batch in enumerate(itertools.islice(batches, turn)):
                batch = before(batch, number) if before else batch
                held[0], _ = step(held[0], batch, self.key)
            return held[0]

        return take


def take_turns(walks: Mapping[str, Walk], *, turn: int, repeats: int) -> dict[str, float]:
    """name -> median seconds a step; the first turn, which compiles, is left out."""
    import jax

    seconds: dict[str, list[float]] = {name: [] for name in walks}
    for _ in range(repeats + 1):
        for name, walk in walks.items():
            began = time.perf_counter()
            jax.block_until_ready(walk(turn))
            seconds[name].append((time.perf_counter() - began) / turn)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main(measure: Callable[[int], Mapping[str, Mapping[str, float]]], out: pathlib.Path) -> None:
    """Writes `measure(repeats)`, {case: {name: seconds}}, and each name's ratio to "plain"."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="cores to use; 0 = all")
    options = parser.parse_args()
    if options.threads:  # before jax, which looks once
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    rows = {}
    for case, seconds in measure(options.repeats).items():
        rows[case] = {f"{name}_seconds": value for name, value in seconds.items()}
        rows[case] |= {f"{name}_over_plain": v / seconds["plain"] for name, v in seconds.items() if name != "plain"}
    record({"cases": rows}, out)


def record(result: Mapping[str, Any], out: pathlib.Path) -> None:
    """Writes and prints a result, and the machine that it is of."""
    import jax

    machine = {
        "jax": jax.__version__,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }
    text = json.dumps({**result, **machine}, indent=1)
    out.write_text(text + "\n")
    print(text)
