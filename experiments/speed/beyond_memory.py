"""A set of photographs that is larger than this machine's memory: prepared, read whole once, and trained on.

    python -m experiments.speed.beyond_memory --root=FOLDER [--count=N]     # FOLDER needs 1.4 times the memory of disk

Each photograph shows its own number, as 16 black or white fields that JPEG does not harm, so that what comes out of
THE reader is known to be all of the set, each once. Writes beyond_memory.json. What is in FOLDER stays, for another
run.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import PIL.Image

from tlx import parallel
from tlx.data import reader, source
from tlx.recipes import supervised

OUT = pathlib.Path(__file__).with_suffix(".json")
SIDE, BATCH, TEST = 512, 32, 64
FIELDS = 4  # a side: 16 bits


def numbered(number: int, side: int) -> np.ndarray:
    """[side, side, 3] bytes: noise, with the number's bits in FIELDS x FIELDS fields."""
    bits = (number >> np.arange(FIELDS**2)) & 1
    fields = np.kron(bits.reshape(FIELDS, FIELDS), np.ones((side // FIELDS,) * 2))[..., None]  # [side, side, 1]
    noise = np.random.default_rng(number).integers(-40, 41, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
    return np.clip(60 + 135 * fields + noise, 0, 255).astype(np.uint8)


def numbers(images: np.ndarray) -> np.ndarray:
    """[B, side, side, C] -> [B]: what `numbered` was given."""
    count, side = images.shape[:2]
    fields = images.reshape(count, FIELDS, side // FIELDS, FIELDS, side // FIELDS, -1).mean((2, 4, 5)) > 127
    return fields.reshape(count, -1) @ (1 << np.arange(FIELDS**2))


def make(root: pathlib.Path, count: int, side: int) -> None:
    """`count` photographs to train on in two classes, and TEST to test on; those that are there already stay."""
    for split, several in (("train", count), ("test", TEST)):
        for label in "01":
            (root / "photos" / split / label).mkdir(parents=True, exist_ok=True)
        for number in range(several):
            path = root / "photos" / split / str(number % 2) / f"{number}.jpg"
            if not path.exists():
                # A test image is of the end of the numbers: none is also one to train on.
                image = numbered(number if split == "train" else 2**16 - 1 - number, side)
                PIL.Image.fromarray(image).save(part := path.with_suffix(".part"), "jpeg", quality=80)
                part.rename(path)


def options(root: pathlib.Path, side: int) -> dict[str, Any]:
    return {"folder": str(root / "photos"), "image_size": side, "data_dir": str(root / "prepared")}


def prepare(root: pathlib.Path, side: int) -> dict[str, Any]:
    examples = source.load("folder", **options(root, side), in_memory_bytes=0).train
    return {"photographs": len(examples), "gb": examples.images.shape[0] * side**2 * 3 / 1e9}


def one_pass(root: pathlib.Path, side: int) -> dict[str, Any]:
    """Reads the set through the reader, in the order of training, as far as whole batches go."""
    examples = source.load("folder", **options(root, side), in_memory_bytes=0).train
    stream = reader.Stream(np.arange(len(examples)), BATCH, (0,))
    store = reader.Store(examples, mesh=parallel.make_mesh(), mode="jit", device_bytes=0)
    steps, seen, own, began = len(examples) // BATCH, [], [], time.perf_counter()
    for step, batch in enumerate(reader.train_batches(store, [stream], start=0, steps=steps)):
        given = jax.device_get(batch)
        seen.append(numbers(given["image"]))
        if not (seen[-1] % 2 == given["label"]).all():
            raise SystemExit(f"step {step}: labels that are not their images'")
        if (step + 1) % max(steps // 10, 1) == 0:
            own.append(_mb("RssAnon"))
    seconds, found = time.perf_counter() - began, np.concatenate(seen)
    if len(np.unique(found)) != len(found) or found.max() >= len(examples):
        raise SystemExit("not each photograph once")
    return {"images_a_second": len(found) / seconds, "once": len(found), "own_mb_after_each_tenth": own}


def train(root: pathlib.Path, side: int, steps: int) -> dict[str, Any]:
    """A run of the recipe `supervised`, with all that belongs to one."""
    config = supervised.default_config()
    config.data.update(name="folder", validation=64, channels=3, **options(root, side))
    config.model = {"name": "cnn", "widths": (4, 8)}
    config.train.update(steps=steps, batch_size=BATCH, eval_every=steps)
    config.eval_batch_size = 32
    began = time.perf_counter()
    supervised.run(config, root / f"run-{time.monotonic_ns()}")
    return {"steps": steps, "seconds": time.perf_counter() - began}


def _mb(name: str) -> float:
    """MB of this process: "RssAnon", its own, without pages of files that are read for it; or "VmHWM", the peak."""
    return int(pathlib.Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) / 1024


def main() -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=pathlib.Path, required=True, help="the photographs, and what is made of them")
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--count", type=int, help="photographs; 1.05 times the memory unless given")
    parser.add_argument("--steps", type=int, default=100, help="of training")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    parser.add_argument("--do", help=argparse.SUPPRESS)
    given = parser.parse_args()
    tasks: dict[str, Callable[[], dict[str, Any]]] = {
        "prepare": lambda: prepare(given.root, given.side),
        "one_pass": lambda: one_pass(given.root, given.side),
        "train": lambda: train(given.root, given.side, given.steps),
    }
    if given.do:
        print("\n" + json.dumps(tasks[given.do]() | {"peak_mb": _mb("VmHWM")}))
        return
    count = given.count or int(1.05 * memory / (given.side**2 * 3))
    if count + TEST > 2 ** (FIELDS**2):
        raise SystemExit(f"{count} photographs have no number of {FIELDS**2} bits each: give a larger --side")
    make(given.root, count, given.side)
    result: dict[str, Any] = {"memory_gb": memory / 1e9, "side": given.side, "batch": BATCH, "jax": jax.__version__}
    for task in tasks:  # each in a process of its own, whose peak is its own
        sizes = [f"--root={given.root}", f"--side={given.side}", f"--steps={given.steps}"]
        command = [sys.executable, "-m", "experiments.speed.beyond_memory", *sizes, f"--do={task}"]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        result[task] = json.loads(said.splitlines()[-1])
        print(task, result[task], flush=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
