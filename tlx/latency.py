"""What a prediction costs, measured: the latency of one image and the throughput of a batch, on this machine, now.

Networks that are to be compared are measured alternately in one call: a machine slows down and recovers by itself, and
what is measured one after the other compares the hours.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from tlx import hosts

PyTree = Any
Network = tuple[Callable, PyTree]  # (apply, variables)

_SECONDS = 1.0  # for a network and a batch size, unless `repeats` calls take longer
_MOST = 200  # calls


def compare(
    networks: Mapping[str, Network],
    image_shape: tuple[int, int, int],
    *,
    batch_sizes: tuple[int, int] = (1, 64),
    repeats: int = 3,
) -> dict[str, dict[str, float]]:
    """Times predictions on the first device, compiled, with the images already on it.

    Args:
      networks: name -> (apply, variables), `apply(variables, images, train=False) -> (logits, ...)`.
      image_shape: (H, W, C) of what they are given.
      batch_sizes: of the latency, and of the throughput.
      repeats: how often each is called at least. They take turns until they have had a second each, on average, or 200
        turns.

    Returns:
      name -> {"latency_ms": median milliseconds of a batch of the first size, "images_per_second": the second size over
      the median seconds of such a batch}.
    """
    device = jax.local_devices()[0]
    predict = {}
    for name, (apply, variables) in networks.items():
        # By way of numpy: a run's variables may lie on several devices, and on those of other hosts.
        variables = jax.device_put(jax.tree.map(hosts.fetch, variables), device)
        predict[name] = functools.partial(jax.jit(functools.partial(_logits, apply)), variables)
    medians = []
    for size in batch_sizes:
        images = np.random.default_rng(0).random((size, *image_shape), np.float32)
        medians.append(_medians(predict, jax.device_put(images, device), repeats))
    return {
        name: {"latency_ms": 1e3 * medians[0][name], "images_per_second": batch_sizes[1] / medians[1][name]}
        for name in networks
    }


def _logits(apply: Callable, variables: PyTree, images: jax.Array) -> jax.Array:
    return apply(variables, images, train=False)[0]


def _medians(predict: Mapping[str, Callable], images: jax.Array, repeats: int) -> dict[str, float]:
    """Seconds of a call on these images, the median over turns."""
    for call in predict.values():
        jax.block_until_ready(call(images))  # compiles
    seconds = {name: [] for name in predict}
    end = time.perf_counter() + _SECONDS * len(predict)
    for turn in range(max(_MOST, repeats)):
        if turn >= repeats and time.perf_counter() > end:
            break
        for name, call in predict.items():
            begin = time.perf_counter()
            jax.block_until_ready(call(images))
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}
