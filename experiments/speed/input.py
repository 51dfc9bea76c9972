"""Images a second of the input pipeline alone: from memory, and from array_record by threads and by worker processes.

    python -m experiments.speed.input           # writes experiments/speed/input.json
    python -m experiments.speed.input --torch   # PyTorch's DataLoader too; needs torch and torchvision

The photographs are crops of one synthetic picture, saved as JPEG and prepared by the dataset `folder`, which makes
plain values of them. Every way ends with batches on the device, and nothing else is done there. The ways take turns,
each begun anew; the batches that were read before the clock started, and the start itself, are left out of the rates.
"""

import argparse
import contextlib
import dataclasses
import functools
import multiprocessing
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

import grain
import jax
import numpy as np
import PIL.Image
from absl import flags

from experiments.speed import turns
from tlx import parallel
from tlx.data import reader, source

OUT = pathlib.Path(__file__).with_suffix(".json")
ENDLESS = 10**6
WARM = 8  # batches: more than any way reads ahead


@dataclasses.dataclass(frozen=True)
class Photos:
    """A set of `count` photographs of `side` pixels, and the size of its batches."""

    side: int
    count: int
    batch: int


SETS = (Photos(32, 2000, 128), Photos(224, 600, 32))
LARGE, PASSES = Photos(224, 3000, 32), 6  # whose reading is watched for its memory


def make(photos: Photos, root: pathlib.Path) -> Callable[..., source.Examples]:
    """Writes the set into two folders of JPEG; returns what loads it, `load(in_memory_bytes=...)`."""
    rng, folder = np.random.default_rng(0), root / f"photos{photos.side}"
    picture = _picture(rng)
    for number in range(photos.count):
        left, top = rng.integers(0, 1024 - photos.side, 2).tolist()
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.crop((left, top, left + photos.side, top + photos.side)).save(path, quality=90)
    load = functools.partial(
        source.load, "folder", folder=str(folder), image_size=photos.side, data_dir=str(root / "prepared")
    )
    return lambda **options: load(**options).train


def _picture(rng: np.random.Generator) -> PIL.Image.Image:
    """Noise of all scales, the finer the weaker, as in photographs."""
    total = np.zeros((1024, 1024, 3), np.float32)
    for scale in (4, 16, 64, 256, 1024):
        for channel in range(3):
            noise = PIL.Image.fromarray(rng.normal(size=(scale, scale)).astype(np.float32))
            total[..., channel] += np.asarray(noise.resize((1024, 1024), PIL.Image.Resampling.BICUBIC)) / scale**0.5
    return PIL.Image.fromarray(np.clip(128 + 50 * total / total.std(), 0, 255).astype(np.uint8))


def ways(photos: Photos, load: Callable[..., source.Examples], workers: int) -> dict[str, Callable[[], Iterator[Any]]]:
    """name -> what begins an endless walk over batches on the device."""
    lazy, held = load(in_memory_bytes=0), load()
    mesh = parallel.make_mesh()
    stream = reader.Stream(np.arange(len(lazy)), photos.batch, (0,))

    def plain() -> Iterator[Any]:
        for step in range(ENDLESS):
            rows = stream.at(step)
            yield jax.device_put({"image": lazy.images[rows], "label": lazy.labels[rows]})

    def tlx(examples: source.Examples, **options: Any) -> Iterator[Any]:
        store = reader.Store(examples, mesh=mesh, mode="jit", **options)
        return reader.train_batches(store, [stream], start=0, steps=ENDLESS)

    def processes() -> Iterator[Any]:
        read = lambda step: {"image": lazy.images[stream.at(step)], "label": lazy.labels[stream.at(step)]}
        steps = grain.MapDataset.range(ENDLESS).map(read).to_iter_dataset(grain.ReadOptions(1, 1))
        with contextlib.closing(iter(steps.mp_prefetch(grain.MultiprocessingOptions(workers)))) as walk:
            for rows in walk:
                yield parallel.shard_batch(rows, "jit", mesh)

    return {
        "plain": plain,
        "on_device": lambda: tlx(held, device_bytes=2**40),
        "in_memory": lambda: tlx(held, device_bytes=0),
        **{f"{threads}_threads": functools.partial(tlx, lazy, threads=threads) for threads in (1, 2, 4)},
        f"{workers}_workers": processes,
    }


def _tensor(image: PIL.Image.Image) -> Any:
    import torch

    return torch.from_numpy(np.array(image))


def torch_ways(photos: Photos, folder: pathlib.Path) -> dict[str, Callable[[], Iterator[Any]]]:
    """What PyTorch's users write for the same photographs: endless walks over batches of bytes, as tensors."""
    import torch
    from torch.utils import data
    from torchvision import datasets

    files = datasets.ImageFolder(str(folder), _tensor)
    images, labels = torch.stack([image for image, _ in files]), torch.tensor(files.targets)

    def walk(dataset: Any, workers: int) -> Iterator[Any]:
        # By default workers are forks, which jax's threads forbid here.
        more = {"multiprocessing_context": "forkserver", "persistent_workers": True} if workers else {}
        loader = data.DataLoader(dataset, photos.batch, shuffle=True, drop_last=True, num_workers=workers, **more)
        while True:
            yield from loader

    return {
        "torch_in_memory": lambda: walk(data.TensorDataset(images, labels), 0),
        **{f"torch_files_{workers}_workers": functools.partial(walk, files, workers) for workers in (0, 2)},
    }


def pace(begin: Callable[[], Iterator[Any]], seconds: float) -> tuple[float, float]:
    """(seconds until the first batch is there, seconds a batch after the first few)."""
    started = time.perf_counter()
    with contextlib.closing(begin()) as batches:
        jax.block_until_ready(next(batches))
        first = time.perf_counter() - started
        for _ in range(WARM):
            next(batches)
        count, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds:
            jax.block_until_ready(next(batches))
            count += 1
    print(f"{first:.1f} s to begin, {1e3 * passed / count:.1f} ms a batch", flush=True)
    return first, passed / count


def measure(
    found: Mapping[str, Callable[[], Iterator[Any]]], photos: Photos, *, repeats: int, seconds: float
) -> dict[str, float]:
    """Of each way: median images a second, the median ratio to "plain" of the same round, and seconds to begin."""
    rounds = [{name: pace(begin, seconds) for name, begin in found.items()} for _ in range(repeats)]
    row = {}
    for name in found:
        row[f"{name}_images_a_second"] = photos.batch / statistics.median(r[name][1] for r in rounds)
        row[f"{name}_over_plain"] = statistics.median(r["plain"][1] / r[name][1] for r in rounds)
        row[f"{name}_seconds_to_begin"] = statistics.median(r[name][0] for r in rounds)
    return row


def indices(repeats: int) -> dict[str, Mapping[str, float]]:
    """CPU milliseconds for the indices of a batch of 128, by grain's shuffle and batch and by ours; for an order."""
    rows = {}
    for count in (1_437, 60_000, 1_281_167):
        shuffled = grain.MapDataset.range(count).shuffle(seed=0).repeat().batch(128)
        stream = reader.Stream(np.arange(count), 128, (0,))
        calls = {
            "grain": lambda step, d=shuffled: d[step],
            "stream": stream.at,
            "order": lambda step, c=count: np.random.default_rng((0, step)).permutation(c),
        }
        spent: dict[str, list[float]] = {name: [] for name in calls}
        for step in range(repeats + 1):
            for name, call in calls.items():
                began = time.process_time()
                call(step)
                spent[name].append(1e3 * (time.process_time() - began))
        rows[f"{count:,} examples"] = {f"{name}_ms": statistics.median(ms[1:]) for name, ms in spent.items()}
    return rows


def memory(photos: Photos, folder: str, data_dir: str, in_memory_bytes: int, passes: int, send: Any) -> None:
    """In a process of its own: sends its peak resident megabytes after a batch, and after each pass over the images."""
    images = source.load(
        "folder", folder=folder, image_size=photos.side, data_dir=data_dir, in_memory_bytes=in_memory_bytes
    ).train
    stream = reader.Stream(np.arange(len(images)), photos.batch, (0,))
    store = reader.Store(images, mesh=parallel.make_mesh(), mode="jit", device_bytes=0)
    each = len(images) // photos.batch
    peaks = []
    for number, batch in enumerate(reader.train_batches(store, [stream], start=0, steps=each * passes)):
        jax.block_until_ready(batch)
        if number == 0 or (number + 1) % each == 0:
            status = pathlib.Path("/proc/self/status").read_text()
            peaks.append(int(status.partition("VmHWM:")[2].split()[0]) / 1e3)
    send.send({"peak_mb": peaks, "images_mb": images.images.shape[0] * photos.side**2 * 3 / 1e6})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--torch", action="store_true", help="PyTorch's DataLoader too")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    options = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # grain's worker processes ask absl, which nobody has told anything here
    result: dict[str, Any] = {"cases": {}, "memory": {}, "indices": indices(20)}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for photos in SETS:
            load, name = make(photos, root / "few"), f"{photos.side} px, batches of {photos.batch}"
            lazy = load(in_memory_bytes=0)  # before there are decoded copies beside the files
            records = lazy.images._source.data_source
            size = statistics.mean(len(records[row]) for row in range(100))
            found = ways(photos, load, options.workers)
            if options.torch:
                found |= torch_ways(photos, root / "few" / f"photos{photos.side}")
            result["cases"][name] = {"bytes_an_image": size} | measure(
                found, photos, repeats=options.repeats, seconds=options.seconds
            )
        make(LARGE, root)(in_memory_bytes=0)
        for name, limit in (("streamed", 0), ("in_memory", 2**30)):
            receive, send = spawn.Pipe(duplex=False)
            given = (LARGE, str(root / f"photos{LARGE.side}"), str(root / "prepared"), limit, PASSES, send)
            process = spawn.Process(target=memory, args=given)
            process.start()
            result["memory"][name] = receive.recv()
            process.join()
    libraries = ("grain", "array_record", "pillow", *["torch"] * options.torch)
    result |= {name: metadata.version(name) for name in libraries}
    turns.record(result, options.out)


if __name__ == "__main__":
    main()
