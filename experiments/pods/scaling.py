"""What splitting costs, measured on virtual devices, and what FSDP saves: `python -m experiments.pods.scaling`.

One process, eight virtual CPU devices, of which 1, 2, 4 and 8 take turns, so that all meet the same machine. They share
the same cores: with more devices nothing gets faster, and what a step takes longer than on one device, for as many
images, is what splitting the batch, gathering and summing cost. Writes scaling.json and two tables of the page.
"""

import argparse
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

DEVICES = (1, 2, 4, 8)
MODES = ("jit", "pmap", "shard_map", "fsdp")
NETWORKS = {
    "MLP 1200-1200": {"name": "mlp", "widths": (1200, 1200)},
    "CNN 16-32": {"name": "cnn", "widths": (16, 32)},
}
START = 16  # images a step on one device, in weak scaling
BATCH = START * max(DEVICES)  # images a step on all, in strong scaling
LARGE = {"ViT-S/16": "vit_s16"}  # whose memory is counted
SPLITS = ("jit", "fsdp:2", "fsdp:4", "fsdp")
HERE = pathlib.Path(__file__).parent
SPEED, MEMORY = (f"<!-- {what}: made by experiments.pods.scaling -->" for what in ("speed", "memory"))


def walk(options: Mapping[str, Any], mode: str, devices: int, batch: int) -> Any:
    """So many training steps with Adam on random images, under `mode`, on the first `devices`."""
    import jax
    import numpy as np

    from tlx import models, parallel
    from tlx.data import reader
    from tlx.data.source import Examples

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4096, 28, 28, 1), dtype=np.uint8)
    mesh = parallel.make_mesh(mode, jax.devices()[:devices])
    step, layout, fresh = build(options, mode, mesh, takes=models.Input((28, 28, 1), (0.13,), (0.31,)))
    examples = Examples(images, rng.integers(0, 10, len(images)).astype(np.int32))
    store = reader.Store(examples, mesh=mesh, mode=mode, weight=np.ones(len(images), np.float32))
    batches = itertools.cycle([store.batch(np.arange(start, start + batch)) for start in range(0, 4 * batch, batch)])
    held = [parallel.place(fresh(), layout)]

    def take(turn: int) -> Any:
        for batch in itertools.islice(batches, turn):
            held[0], metrics = step(held[0], batch, jax.random.key(0))
            jax.block_until_ready(metrics)  # as the loop does on virtual devices
        return held[0]

    return take


def build(options: Mapping[str, Any], mode: str, mesh: Any, *, takes: Any, classes: int = 10) -> tuple[Any, Any, Any]:
    """(compiled step, the state's layout, a function that makes the state)."""
    import jax
    import jax.numpy as jnp
    import optax

    from tlx import models, parallel, steps
    from tlx.data import view
    from tlx.state import TrainState

    axis = parallel.axis_name(mode)
    model, tx = models.build(**options, num_classes=classes, axis_name=axis), optax.adam(1e-3)

    def fresh() -> TrainState:
        variables = model.init(jax.random.key(0), jnp.zeros((1, *takes.shape)), train=False)
        return TrainState.create(variables=variables, tx=tx)

    layout = parallel.make_layout(jax.eval_shape(fresh), mesh)
    step = steps.make_supervised_step(
        apply=models.make_apply(model, takes=takes), view=view.make_view(), tx=tx, axis_name=axis
    )
    args, out = ("whole", "batch", "whole"), ("state", "whole")
    return parallel.parallelize(step, mode, mesh, args=args, out=out, layout=layout, donate=True), layout, fresh


def speed(repeats: int) -> Iterator[dict[str, Any]]:
    """A record a network, harness, scaling and number of devices: seconds a step, images a step."""
    from experiments.speed.turns import take_turns

    for (name, options), mode in itertools.product(NETWORKS.items(), MODES):
        sizes = {
            (scaling, n): START * n if scaling == "weak" else BATCH for scaling in ("weak", "strong") for n in DEVICES
        }
        walks = {case: walk(options, mode, case[1], size) for case, size in sizes.items()}
        for (scaling, n), seconds in take_turns(walks, turn=5, repeats=repeats).items():
            case = {"network": name, "mode": mode, "scaling": scaling, "devices": n}
            yield case | {"batch": sizes[scaling, n], "seconds": seconds}


def memory() -> Iterator[dict[str, Any]]:
    """A record a network and split: bytes of the state on a device, and of what the compiled step needs beside it."""
    import jax
    import jax.numpy as jnp

    from tlx import models, parallel

    takes, rows = models.Input((224, 224, 3), (0.5,) * 3, (0.5,) * 3), 2 * max(DEVICES)
    shapes = {"image": ((*takes.shape,), jnp.uint8), "label": ((), jnp.int32), "weight": ((), jnp.float32)}
    shapes |= {"slot": ((), jnp.int32)}
    batch = {name: jax.ShapeDtypeStruct((rows, *shape), dtype) for name, (shape, dtype) in shapes.items()}
    for (name, model), mode in itertools.product(LARGE.items(), SPLITS):
        mesh = parallel.make_mesh(mode)
        step, layout, fresh = build({"name": model}, mode, mesh, takes=takes, classes=1000)
        state = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), jax.eval_shape(fresh), layout
        )
        size = lambda x: x.dtype.itemsize * jnp.prod(jnp.array(x.sharding.shard_shape(x.shape), int))
        used = step.lower(state, batch, jax.random.key(0)).compile().memory_analysis()
        yield {
            "network": name,
            "mode": mode,
            "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
            "images": rows // max(DEVICES),
            "state_bytes": int(sum(map(size, jax.tree.leaves(state)))),
            "temporary_bytes": int(used.temp_size_in_bytes),
        }


def speed_table(records: list[dict[str, Any]]) -> str:
    """Images a second on n devices, as a share of those on one."""
    rate = {(r["network"], r["mode"], r["scaling"], r["devices"]): r["batch"] / r["seconds"] for r in records}
    head = ["network", "harness", "scaling", "images a step", *(f"{n} devices" for n in DEVICES[1:])]
    lines = [head, ["---"] * 3 + ["---:"] * (len(head) - 3)]
    for network, mode, scaling in itertools.product(NETWORKS, MODES, ("weak", "strong")):
        alone = rate[network, mode, scaling, 1]
        size = f"{START} a device" if scaling == "weak" else f"{BATCH}"
        lines.append(
            [network, mode, scaling, size, *(f"{rate[network, mode, scaling, n] / alone:.2f}" for n in DEVICES[1:])]
        )
    return _markdown(lines)


def memory_table(records: list[dict[str, Any]]) -> str:
    """Megabytes on each of eight devices."""
    head = ["network", "parameters", "harness", "state, MB a device", "of the whole", "the step's own, MB a device"]
    lines = [head, ["---", "---:", "---", "---:", "---:", "---:"]]
    whole = {r["network"]: r["state_bytes"] for r in records if r["mode"] == "jit"}
    for r in records:
        share = f"{r['state_bytes'] / whole[r['network']]:.3f}"
        sizes = (f"{r['state_bytes'] / 1e6:,.1f}", share, f"{r['temporary_bytes'] / 1e6:,.1f}")
        lines.append([r["network"], f"{r['parameters']:,}", r["mode"], *sizes])
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(
    argv: list[str] | None = None, out: pathlib.Path = HERE / "scaling.json", page: pathlib.Path = HERE / "README.md"
) -> None:
    """Measures, writes the record, and rewrites the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("speed", "memory"), help="leave the other part of the record as it is")
    options = parser.parse_args(argv)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={max(DEVICES)}"  # before jax, which looks once
    import jax

    from tlx.sweep_table import update_table

    result = json.loads(out.read_text()) if options.only and out.exists() else {}
    parts = {
        "speed": (lambda: speed(options.repeats), speed_table, SPEED),
        "memory": (memory, memory_table, MEMORY),
    }
    for name in [options.only] if options.only else parts:
        measure, table, begin = parts[name]
        result[name] = list(measure())
        update_table(page, table(result[name]), begin=begin)
    result |= {"jax": jax.__version__, "cores": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()[0]}
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
