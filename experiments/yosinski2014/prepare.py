"""Cuts MNIST and Fashion-MNIST down to 400 training images a class: 200 to learn from and 200 for validation.

    python -m experiments.yosinski2014.prepare [--data=../shared/data] [--few=runs/data/yosinski2014]

A config could do so with `labels_per_class`, but then the run's seed draws the images as well as the initial weights: a
network that copies levels of baseB must learn from baseB's images, and its new levels must begin from other weights.
"""

import argparse
import gzip
import struct
import sys
from pathlib import Path

import numpy as np

from tlx.data import splits
from tlx.data.builders import read_idx_dir
from tlx.errors import UserError

PER_CLASS = 400
DATASETS = ("fashion_mnist", "mnist")


def cut(data: Path, few: Path, *, per_class: int = PER_CLASS) -> None:
    """Writes FEW/{fashion_mnist,mnist} from DATA's; the test sets stay whole. Raises UserError as `read_idx_dir`."""
    for name in DATASETS:
        whole = read_idx_dir(data / name)
        images, labels = whole["train"]
        kept = splits.make_splits(labels, name=name, seed=0, labels_per_class=per_class).labeled
        (few / name).mkdir(parents=True, exist_ok=True)
        for prefix, arrays in {"train": (images[kept], labels[kept]), "t10k": whole["test"]}.items():
            for kind, array in zip(("images", "labels"), arrays):
                write_idx(few / name / f"{prefix}-{kind}-idx{array.ndim}-ubyte.gz", array)


def write_idx(path: Path, values: np.ndarray) -> None:
    """uint8 in the format of MNIST's files: two zeros, the type 8, the rank, the sizes, the values."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(head + np.asarray(values, np.uint8).tobytes(), mtime=0))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.yosinski2014.prepare", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds mnist/ and fashion_mnist/")
    parser.add_argument("--few", type=Path, default=Path("runs/data/yosinski2014"), help="is made")
    options = parser.parse_args(argv)
    try:
        cut(options.data, options.few)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
