"""Three seeds of one student, one after another or together under `jax.vmap`: seconds a step and seed.

    taskset -c 1 python -m experiments.speed.seeds     # writes experiments/speed/seeds.json; without taskset, two cores

The students of experiments/hinton2015 on random images, batches of 256, the teacher's logits kept. Together, each seed
has its own batches, as it has in a run; they take turns of some steps each, and the medians of the turns are compared.
"""

import json
import os
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tlx import models, steps, teachers
from tlx.data import view
from tlx.state import TrainState

OUT = pathlib.Path(__file__).with_suffix(".json")
SEEDS, BATCH, COUNT, TURN, REPEATS = 3, 256, 10_000, 20, 15
WIDTHS = (30, 300, 800)


def measure(units: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (COUNT, 28, 28, 1), dtype=np.uint8))
    logits = jnp.asarray(rng.normal(size=(COUNT, 1, 10)).astype(np.float32))
    labels = jnp.asarray(rng.integers(0, 10, COUNT).astype(np.int32))
    model, tx = models.build("mlp", num_classes=10, widths=(units, units)), optax.adam(1e-3)
    step = steps.make_distill_step(
        apply=models.make_apply(model, takes=models.Input((28, 28, 1), (0.13,), (0.31,))),
        view=view.make_view(),
        tx=tx,
        teach=teachers.make_reader(num_classes=10),
        temperature=20.0,
        alpha=1.0,
        beta=0.1,
    )

    def one(state: TrainState, index: jax.Array, key: jax.Array) -> TrainState:
        batch = {"image": images[index], "label": labels[index], "teacher_logits": logits[index]}
        batch |= {"weight": jnp.ones(BATCH), "slot": jnp.arange(BATCH, dtype=jnp.int32)}
        return step(state, batch, key)[0]

    init = lambda seed: TrainState.create(
        variables=model.init(jax.random.key(seed), images[:1] / 255.0, train=False), tx=tx
    )
    apart = jax.jit(one, donate_argnums=0)
    together = jax.jit(jax.vmap(one, in_axes=(0, 0, None)), donate_argnums=0)
    alone = [init(seed) for seed in range(SEEDS)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(init(seed) for seed in range(SEEDS)))
    key, seconds = jax.random.key(0), {"apart": [], "together": []}
    for _ in range(REPEATS + 1):
        index = rng.integers(0, COUNT, (TURN, SEEDS, BATCH))
        began = time.perf_counter()
        for seed in range(SEEDS):
            for rows in index[:, seed]:
                alone[seed] = apart(alone[seed], rows, key)
            jax.block_until_ready(alone[seed])
        seconds["apart"].append((time.perf_counter() - began) / TURN / SEEDS)
        began = time.perf_counter()
        for rows in index:
            stacked = together(stacked, rows, key)
        jax.block_until_ready(stacked)
        seconds["together"].append((time.perf_counter() - began) / TURN / SEEDS)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first turn compiles


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    found = {str(units): measure(units) for units in WIDTHS}
    for row in found.values():
        row["together_over_apart"] = row["together"] / row["apart"]
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    results[f"{cores} cores"] = {
        "seconds_a_step_and_seed": found,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "load_average": os.getloadavg()[0],
    }
    OUT.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
