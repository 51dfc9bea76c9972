"""How much of reading an image from array_record several threads can do at once, whatever else the machine does.

    python -m experiments.speed.decoding     # writes experiments/speed/decoding.json

Pillow's decoders let go of Python's lock (`_decode` in its src/decode.c); all the rest is counted as done under
the lock. CPU time of one thread, which a busy machine disturbs little; the photographs are those of `input`.
"""

import pathlib
import statistics
import tempfile
import time
from importlib import metadata
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image

from experiments.speed import input as speed
from experiments.speed import turns
from tlx.data.prepared import LazyImages

REPEATS = 7


class Timed:
    """One of Pillow's decoders, whose CPU seconds are added to `spent`."""

    def __init__(self, decoder: Any, spent: list[float]):
        self._decoder, self._spent = decoder, spent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def decode(self, data: bytes) -> Any:
        began = time.thread_time()
        done = self._decoder.decode(data)
        self._spent.append(time.thread_time() - began)
        return done


def measure(images: LazyImages) -> dict[str, float]:
    """CPU microseconds an image, the decoder's share, and what follows: by how much threads can be faster than one."""
    rows, whole, shares = np.arange(len(images)), [], []
    make, spent = PIL.Image._getdecoder, []
    with mock.patch.object(PIL.Image, "_getdecoder", lambda *args: Timed(make(*args), spent)):
        for _ in range(REPEATS + 1):
            spent.clear()
            began = time.thread_time()
            images[rows]
            whole.append(time.thread_time() - began)
            shares.append(sum(spent) / whole[-1])
    share, each = statistics.median(shares[1:]), statistics.median(whole[1:]) / len(images)
    return {
        "cpu_us_an_image": 1e6 * each,
        "decoder_share": share,
        "most_speedup_by_threads": 1 / (1 - share),
        "most_images_a_second": 1 / (each * (1 - share)),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cases = {}
        for photos in (speed.Photos(32, 500, 128), speed.Photos(224, 100, 32)):
            load = speed.make(photos, pathlib.Path(folder))
            cases[f"{photos.side} px"] = measure(load(in_memory_bytes=0).images)
    versions = {name: metadata.version(name) for name in ("tensorflow-datasets", "array_record", "pillow")}
    turns.record({"cases": cases, **versions}, pathlib.Path(__file__).with_suffix(".json"))


if __name__ == "__main__":
    main()
