"""What THE loop costs a step: the smallest step that a recipe has, through `tlx.loop.fit` and in a bare `for`.

    python -m experiments.speed.loop     # writes experiments/speed/loop.json; add --threads 1 for one core

Both take the same batches and call the same compiled step: an MLP of 32 units on 8 x 8 digits, batches of 16. The bare
`for` keeps no metrics and waits for the device only at the end. Evaluation and checkpoints, which come once in some
hundred steps, are left out: the clock runs from the 200th step to the last but one.
"""

import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from experiments.speed import turns

STEPS, UNSEEN, BATCH = 2200, 200, 16


def measure(repeats: int) -> dict[str, dict[str, float]]:
    """{case: median seconds a step of "plain", the bare loop, and "fit"}."""
    import jax

    from tlx import loop, parallel, steps
    from tlx.checkpoint import ACCURACY, LOSS, Checkpoints
    from tlx.metrics import MetricWriter
    from tlx.preemption import Preemption
    from tlx.state import TrainState

    bench = turns.Bench({"name": "mlp", "widths": (32,)}, shape=(8, 8, 1))
    store = bench.store()
    make = steps.make_supervised_step(apply=bench.apply, view=bench.view, tx=bench.tx)
    step = parallel.parallelize(make, "jit", bench.mesh, args=("whole", "batch", "whole"), donate=True)
    fresh = lambda: parallel.replicate(TrainState.create(variables=bench.variables, tx=bench.tx), bench.mesh)

    def timed() -> tuple[Callable, list[float]]:
        calls: list[float] = []

        def program(*arguments: Any) -> Any:
            calls.append(time.perf_counter())
            return step(*arguments)

        return program, calls

    def plain() -> float:
        (program, calls), state = timed(), fresh()
        for batch, _ in zip(bench.batches(store, BATCH), range(STEPS)):
            state, _ = program(state, batch, bench.key)
        jax.block_until_ready(state)
        return (calls[-1] - calls[UNSEEN]) / (STEPS - UNSEEN - 1)

    def fit() -> float:
        program, calls = timed()
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            checkpoints, writer = Checkpoints(folder / "checkpoints"), MetricWriter(folder)
            loop.fit(
                phase="train",
                state=fresh(),
                step=lambda number: program,
                batches=lambda start: (batch for batch, _ in zip(bench.batches(store, BATCH), range(STEPS))),
                rng=bench.key,
                steps=STEPS,
                eval_every=STEPS,
                evaluate=lambda state: {ACCURACY: 0.5, LOSS: 1.0},
                checkpoints=checkpoints,
                writer=writer,
                preemption=Preemption(),
            )
            checkpoints.close()
            writer.close()
        return (calls[-1] - calls[UNSEEN]) / (STEPS - UNSEEN - 1)

    seconds: dict[str, list[float]] = {"plain": [], "fit": []}
    for _ in range(repeats + 1):  # the first compiles
        seconds["plain"].append(plain())
        seconds["fit"].append(fit())
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {f"mlp 64-32-10, batches of {BATCH}": medians}


if __name__ == "__main__":
    turns.main(measure, pathlib.Path(__file__).with_suffix(".json"))
