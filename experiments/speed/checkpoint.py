"""What a checkpoint costs the steps: `python -m experiments.speed.checkpoint`, writes checkpoint.json.

A training state of ViT-S/16 with Adam is saved again and again. `save` returns when the state is copied and its
checksums are taken; the rest is written while training goes on. The baseline is to wait for it.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

OUT = pathlib.Path(__file__).with_suffix(".json")


def training_state() -> Any:
    """Of ViT-S/16 with Adam, before the first step."""
    import jax
    import jax.numpy as jnp
    import optax

    from tlx import models
    from tlx.state import TrainState

    model, tx = models.build("vit_s16", num_classes=1000), optax.adam(1e-3)
    variables = jax.jit(lambda key: model.init(key, jnp.zeros((1, 224, 224, 3)), train=False))(jax.random.key(0))
    return jax.block_until_ready(TrainState.create(variables=variables, tx=tx))


def measure(folder: pathlib.Path, repeats: int) -> dict[str, float]:
    """Median seconds of a save, of the wait after it, of a restore, and of the checksums alone."""
    import jax

    from tlx import checksum
    from tlx.checkpoint import Checkpoints

    state = training_state()
    checkpoints, seconds = Checkpoints(folder), {"save": [], "wait": [], "restore": [], "checksums": []}

    def clock(name: str, call, *args) -> None:
        began = time.perf_counter()
        call(*args)
        seconds[name].append(time.perf_counter() - began)

    for step in range(repeats + 1):  # the first opens files and threads for the first time
        clock("save", checkpoints.save, step, state, {}, None)
        clock("wait", checkpoints.wait)
        clock("restore", checkpoints.restore_latest, state)
        clock("checksums", checksum.of_arrays, state)
    checkpoints.close()
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    return {name: statistics.median(values[1:]) for name, values in seconds.items()} | {"megabytes": size / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    import jax

    with tempfile.TemporaryDirectory() as folder:
        result = measure(pathlib.Path(folder) / "checkpoints", repeats)
    result["save_over_whole"] = result["save"] / (result["save"] + result["wait"])
    result["checksums_over_restore"] = result["checksums"] / result["restore"]
    result |= {"jax": jax.__version__, "cores": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()[0]}
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
