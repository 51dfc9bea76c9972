"""The benchmark of the input pipeline, in small: all that it compares give the same batches."""

import itertools

import jax
import numpy as np

from experiments.speed import beyond_memory
from experiments.speed import input as speed


def test_all_ways_give_the_same_batches(tmp_path):
    photos = speed.Photos(side=8, count=40, batch=4)
    ways = speed.ways(photos, speed.make(photos, tmp_path), workers=0)
    del ways["0_workers"]  # processes start for seconds
    found = {name: [jax.device_get(b) for b in itertools.islice(begin(), 3)] for name, begin in ways.items()}
    assert set(found) == {"plain", "on_device", "in_memory", "1_threads", "2_threads", "4_threads"}
    for batches in found.values():
        for batch, plain in zip(batches, found["plain"], strict=True):
            np.testing.assert_array_equal(batch["image"], plain["image"])
            np.testing.assert_array_equal(batch["label"], plain["label"])


def test_a_pass_over_a_set_on_disk_sees_each_photograph_once(tmp_path):
    beyond_memory.make(tmp_path, count=70, side=32)
    assert beyond_memory.prepare(tmp_path, 32)["photographs"] == 70
    assert beyond_memory.one_pass(tmp_path, 32)["once"] == 64  # two whole batches


def test_a_photograph_says_its_number():
    given = np.array([0, 1, 40_000, 2**16 - 1])
    images = np.stack([beyond_memory.numbered(number, 64) for number in given])
    np.testing.assert_array_equal(beyond_memory.numbers(images), given)
