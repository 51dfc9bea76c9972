"""Writes runs/data/fashion_small: a tenth of Fashion-MNIST's training images and a fifth of its test images.

    python -m experiments.freeze_rule.prepare --data=../shared/data

600 and 200 of each class: EfficientNet-Lite0 on all 70,000 would take hours on a CPU, in every run.
"""

import argparse
import pathlib

import numpy as np

from experiments.yosinski2014.prepare import write_idx
from tlx.data.builders import read_idx_dir

OUT = pathlib.Path("runs/data/fashion_small")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.freeze_rule.prepare", description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="the folder that holds fashion_mnist/")
    splits = read_idx_dir(pathlib.Path(parser.parse_args().data) / "fashion_mnist")
    OUT.mkdir(parents=True, exist_ok=True)
    for split, stem, step in (("train", "train", 10), ("test", "t10k", 5)):
        images, labels = splits[split]
        rows = np.sort(np.concatenate([np.flatnonzero(labels == label)[::step] for label in range(10)]))
        write_idx(OUT / f"{stem}-images-idx3-ubyte.gz", images[rows].reshape(-1, 28, 28))
        write_idx(OUT / f"{stem}-labels-idx1-ubyte.gz", labels[rows])
        print(f"{OUT}: {len(rows):,} of {split}")


if __name__ == "__main__":
    main()
