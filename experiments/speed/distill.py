"""A step of distillation, its teacher live or kept, against a supervised step of the same student.

    python -m experiments.speed.distill     # writes experiments/speed/distill.json; add --threads 1 for one core

10,000 random images of 28 x 28 and batches of 128: the pixels do not matter to the time. The steps, the store and the
streams are those of the recipes, with the loop's own work left out. The three take turns of some steps each, so that
all meet the same machine; medians of the turns are compared.
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import time

OUT = pathlib.Path(__file__).with_suffix(".json")
# name -> teacher, student, steps a turn
CASES = {
    "mlp 1200-1200 -> 800-800": (
        {"name": "mlp", "widths": (1200, 1200)},
        {"name": "mlp", "widths": (800, 800)},
        40,
    ),
    "cnn 64-128 -> 16-32": (
        {"name": "cnn", "widths": (64, 128), "dense": 256},
        {"name": "cnn", "widths": (16, 32), "dense": 64},
        20,
    ),
}


def measure(teacher_options: dict, student_options: dict, turn: int, repeats: int) -> dict:
    """Median seconds a step of "plain", "kept" and "live"."""
    import jax
    import numpy as np
    import optax

    from tlx import models, parallel, steps, teachers
    from tlx.data import reader, view
    from tlx.data.source import Examples
    from tlx.state import TrainState

    mesh, count, rng = parallel.make_mesh(), 10_000, np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    examples = Examples(images, rng.integers(0, 10, count).astype(np.int32))
    takes, tx = models.Input((28, 28, 1), (0.13,), (0.31,)), optax.adam(1e-3)
    init = lambda model, seed: model.init(jax.random.key(seed), images[:1] / np.float32(255), train=False)
    teacher, student = (models.build(**o, num_classes=10) for o in (teacher_options, student_options))
    apply, see, variables = models.make_apply(student, takes=takes), view.make_view(), init(student, 0)
    compile_step = lambda step: parallel.parallelize(step, "jit", mesh, args=("whole", "batch", "whole"), donate=True)
    plain = compile_step(steps.make_supervised_step(apply=apply, view=see, tx=tx))
    taught = compile_step(
        steps.make_distill_step(
            apply=apply,
            view=see,
            tx=tx,
            teach=teachers.make_reader(num_classes=10),
            temperature=4.0,
            alpha=0.9,
            beta=0.1,
        )
    )
    program = parallel.parallelize(
        teachers.make_teach(applies=[models.make_apply(teacher, takes=takes)], view=see),
        "jit",
        mesh,
        args=("whole", "batch", "whole", "whole"),
        out="sharded",
    )
    taught_by, key = (init(teacher, 1),), jax.random.key(0)
    weight = np.ones(count, np.float32)
    logits = rng.normal(size=(count, 1, 10)).astype(np.float32)
    stores = {
        "plain": reader.Store(examples, mesh=mesh, mode="jit", weight=weight),
        "kept": reader.Store(examples, mesh=mesh, mode="jit", weight=weight, teacher_logits=logits),
    }
    stores["live"] = stores["plain"]
    batches = {
        name: reader.train_batches(store, [reader.Stream(np.arange(count), 128, (0,))], start=0, steps=10**6)
        for name, store in stores.items()
    }
    fresh = lambda: TrainState.create(variables=jax.tree.map(np.array, variables), tx=tx)
    states = {name: parallel.replicate(fresh(), mesh) for name in stores}
    seconds: dict[str, list[float]] = {name: [] for name in stores}
    for _ in range(repeats + 1):
        for name in stores:
            began = time.perf_counter()
            for number, batch in enumerate(itertools.islice(batches[name], turn)):
                if name == "live":
                    batch |= program(taught_by, batch, key, np.int32(number))
                states[name], _ = (plain if name == "plain" else taught)(states[name], batch, key)
            jax.block_until_ready(states[name])
            seconds[name].append((time.perf_counter() - began) / turn)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first turn compiles


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="cores to use; 0 = all")
    options = parser.parse_args()
    if options.threads:  # before jax, which looks once
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    import jax

    rows = {}
    for name, (teacher, student, turn) in CASES.items():
        seconds = measure(teacher, student, turn, options.repeats)
        rows[name] = {f"{kind}_seconds": value for kind, value in seconds.items()}
        rows[name] |= {f"{kind}_over_plain": seconds[kind] / seconds["plain"] for kind in ("kept", "live")}
    result = {
        "cases": rows,
        "jax": jax.__version__,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
