"""A learner that trains on the activations of its frozen levels, computed once and kept in the run's folder."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from tlx import feature_cache, hosts, kept, models, progress
from tlx import rng as rng_lib
from tlx.data import reader, source
from tlx.data.view import make_view
from tlx.recipes.learner import Learner
from tlx.recipes.run import Run

PyTree = Any


def on_features(
    learner: Learner, variables: PyTree, *, augment: Mapping[str, Any], views: int, dtype: str
) -> tuple[Learner, reader.Store, np.ndarray]:
    """Computes, or finds, the activations of `learner.start`; those of the test images only when they are read.

    View v of a training image is augmented with the key `at_step(stream(root, "views"), v)` and its place in the
    dataset. What is evaluated is clean. Nothing is dropped below the level, also where the config has a dropout there.

    Args:
      learner: of a network whose levels up to `learner.start` are frozen.
      variables: what it starts from.
      augment, views, dtype: see the recipe's config.

    Returns:
      The learner, evaluating on activations; the store of the labelled images' activations; and their rows [K, N], K
      views of N images, for a stream.

    Raises:
      UserError: the weights or data have changed since training began; see also `kept.keep`.
    """
    run = learner.run
    run.start()
    shapes = models.level_shapes(learner.model, learner.takes.shape)
    names, shape = list(shapes), shapes[learner.start]
    key = {
        "weights": feature_cache.digest(variables, names[: names.index(learner.start) + 1]),
        "data": run.fingerprint,
        "network": [learner.options, dataclasses.asdict(learner.takes), run.config.dtype],
        "level": learner.start,
        "dtype": dtype,
    }
    noisy = feature_cache.noise_below(learner.model, variables, shapes | {"": learner.takes.shape}, learner.start)
    if noisy:
        progress.say(
            f"[yellow]nothing is dropped up to {learner.start!r}, whose activations are kept: {noisy}[/yellow]"
        )
    variables = jax.tree.map(np.array, variables)  # a copy: training donates the others, and the test images come last

    def make_extract(**augment: Any) -> Callable:
        extract = feature_cache.make_extract(
            model=learner.model, takes=learner.takes, view=make_view(**augment), level=learner.start
        )
        return run.parallelize(extract, args=("whole", "batch", "whole"), out="batch")

    def compute(split: str, extract: Callable, views: int, about: list[Any]) -> source.Examples:
        path, images = run.workdir / "features" / f"{split}.npy", run.examples(split)
        places = np.arange(len(images)) if split == "test" else getattr(run.splits, split)  # in the dataset
        own = key | {"images": [split, hashlib.sha256(places.astype(np.int64).tobytes()).hexdigest()], "views": about}
        kept.check_training(path, own, begun=any((run.workdir / "checkpoints").glob("*/[0-9]*")))
        on_devices = run.place(variables)
        with run.clock.measure("features"):
            found = kept.keep(
                path,
                functools.partial(_rows, run, functools.partial(extract, on_devices), images, places, views, dtype),
                key=own,
                shape=(views * len(images), *shape),
                dtype=dtype,
            )
        progress.say(
            f"features: {views} x {len(images):,} {split} images at {learner.start!r}, {list(found.shape[1:])} "
            f"{dtype}, {found.nbytes / 1e6:.3g} MB"
        )
        return source.Examples(found, np.tile(images.labels, views))

    clean = make_extract()
    if feature_cache.augmented(augment):
        if views == 1:
            progress.say("[yellow]cache.views is 1: each image is seen in one augmented view, always the same[/yellow]")
        labeled = compute("labeled", make_extract(**augment), views, [views, dict(augment), run.config.seed])
    else:
        labeled = compute("labeled", clean, 1, [])
    store = run.store(labeled, weight=np.ones(len(labeled), np.float32))
    evaluated = functools.cache(lambda split: compute(split, clean, 1, []))
    return dataclasses.replace(learner, examples=evaluated), store, np.arange(len(labeled)).reshape(views, -1)


def _rows(
    run: Run, extract: Callable, images: source.Examples, places: np.ndarray, views: int, dtype: str
) -> Iterator[np.ndarray]:
    """The activations of all images, view after view, [b, ...] at a time."""
    count = len(images)
    store = run.store(images, example=places.astype(np.int32))
    with progress.bar("features", total=views * count, start=0) as bar:
        for view in range(views):
            key, done = rng_lib.at_step(rng_lib.stream(run.rng, "views"), view), 0
            for batch in run.eval_batches(store, np.arange(count)):
                part = hosts.fetch(extract(batch, key))[: count - done]  # without the padding
                done += len(part)
                yield kept.cast(part, dtype, what="activations")
                if bar.due():
                    bar.update(view * count + done, {})
