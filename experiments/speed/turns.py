"""What the benchmarks of steps share: steps that take turns, so that all meet the same machine, and the record.

Random images: the pixels do not matter to the time. The steps, the store and the streams are those of the recipes, with
the loop's own work left out. Of each step's turns the median counts.
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
    """A network on random images, and what its steps need.

    Attributes:
      variables, apply: the network's.
      examples, logits: the images and their labels, and random logits for them, [N, K].
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        shape: tuple[int, int, int] = (28, 28, 1),
        num_classes: int = 10,
        images: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        tx: Any = None,
        **augment: Any,
    ):
        """`options` are those of `tlx.models.build`, `augment` those of the view, `tx` is Adam unless given.

        `images` [N, H, W, C] and `labels` [N] are COUNT random ones of `shape` unless given.
        """
        import jax
        import optax

        from tlx import models, parallel
        from tlx.data import view
        from tlx.data.source import Examples

        rng = np.random.default_rng(0)
        if images is None:
            images = rng.integers(0, 256, (COUNT, *shape), dtype=np.uint8)
            labels = rng.integers(0, num_classes, COUNT).astype(np.int32)
        self.num_classes, shape = num_classes, images.shape[1:]
        self.examples = Examples(images, labels)
        self.logits = rng.normal(size=(len(images), num_classes)).astype(np.float32)
        self.mesh, self.key = parallel.make_mesh(), jax.random.key(0)
        self.takes, self.tx = models.Input(shape, (0.13,) * shape[2], (0.31,) * shape[2]), tx or optax.adam(1e-3)
        self.view = view.make_view(**augment)
        self.variables, self.apply = self.network(options, seed=0)

    def network(self, options: Mapping[str, Any], *, seed: int, **of_apply: Any) -> tuple[Any, Callable]:
        """(variables, apply); `of_apply` are options of `tlx.models.make_apply`."""
        import jax
        import jax.numpy as jnp

        from tlx import models

        model = models.build(**options, num_classes=self.num_classes)
        first = jnp.zeros((1, *self.takes.shape))
        variables = jax.jit(lambda key: model.init(key, first, train=False))(jax.random.key(seed))
        return jax.device_get(variables), models.make_apply(model, takes=self.takes, **of_apply)

    def store(self, examples: Any = None, **columns: np.ndarray) -> Any:
        """Of all images, or of `examples` in their place, with these columns."""
        from tlx.data import reader

        columns = {"weight": np.ones(len(self.logits), np.float32)} | columns
        return reader.Store(examples or self.examples, mesh=self.mesh, mode="jit", **columns)

    def batches(self, store: Any, *sizes: int, together: int = 1) -> Iterator[Any]:
        """Endless, each drawn in parts of these sizes, of equal shares of the images; so many `together`."""
        from tlx.data import reader

        shares = np.array_split(np.arange(len(self.logits)), len(sizes))
        streams = [reader.Stream(share, size, (0,)) for share, size in zip(shares, sizes, strict=True)]
        return reader.train_batches(store, streams, start=0, steps=10**6 // together * together, together=together)

    def walk(
        self,
        make_step: Callable,
        batches: Iterator[Any],
        before: Callable | None = None,
        variables: Any = None,
        together: int = 1,
        **options: Any,
    ) -> Walk:
        """The step that `make_step` makes, on these batches; `before(batch, number)` may add columns.

        With `together`, each of its steps is that many, in one program, on as many batches together.

        Its attribute `compile()` compiles the program, for the persistent cache, and takes no step; `begin(variables)`
        begins anew from these.
        """
        import jax

        from tlx import parallel
        from tlx.state import TrainState

        options = {"apply": self.apply, "view": self.view, "tx": self.tx} | options
        step = make_step(**options)
        step = parallel.repeat(step, together, "jit", self.mesh) if together > 1 else step
        step = parallel.parallelize(step, "jit", self.mesh, args=("whole", "batch", "whole"), donate=True)
        before = before or (lambda batch, number: batch)
        held: list[TrainState] = []

        def begin(variables: Any) -> None:
            fresh = TrainState.create(variables=jax.tree.map(np.array, variables), tx=options["tx"])
            held[:] = [parallel.replicate(fresh, self.mesh)]

        def take(turn: int) -> Any:
            for number, batch in enumerate(itertools.islice(batches, turn)):
                held[0], _ = step(held[0], before(batch, number), self.key)
            return held[0]

        take.compile = lambda: step.lower(held[0], before(next(batches), 0), self.key).compile()
        take.begin = begin
        begin(self.variables if variables is None else variables)
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
