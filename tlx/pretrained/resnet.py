"""Published ResNet-18, 34 and 50: torchvision's names, which timm's `resnet18`, `resnet34` and `resnet50` share."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tlx.pretrained.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tlx.pretrained.renaming import kernel_and_bias, norm, rename

RULES = (
    *kernel_and_bias("conv1", "backbone/stem/conv"),
    *norm("bn1", "backbone/stem/norm"),
    *kernel_and_bias(r"layer(\d)\.(\d+)\.conv(\d)", r"backbone/stage\1/block\2+1/conv\3"),
    *norm(r"layer(\d)\.(\d+)\.bn(\d)", r"backbone/stage\1/block\2+1/norm\3"),
    *kernel_and_bias(r"layer(\d)\.(\d+)\.downsample\.0", r"backbone/stage\1/block\2+1/shortcut_conv"),
    *norm(r"layer(\d)\.(\d+)\.downsample\.1", r"backbone/stage\1/block\2+1/shortcut_norm"),
    *kernel_and_bias("fc", "head"),
)
IGNORE = (r".*\.num_batches_tracked",)

# By the weights' origin. timm 1.0.31 resizes the shorter side to floor(224 / crop_pct).
PREPROCESSING = {
    # torchvision 0.29.1, ResNet{18,34,50}_Weights.IMAGENET1K_V1.transforms(), and timm's "*.tv_in1k"
    "torchvision": Preprocessing(224, 256, "bilinear", IMAGENET_MEAN, IMAGENET_STD),
    # torchvision 0.29.1, ResNet50_Weights.IMAGENET1K_V2.transforms()
    "torchvision_v2": Preprocessing(224, 232, "bilinear", IMAGENET_MEAN, IMAGENET_STD),
    # timm's default_cfg of "resnet{18,34,50}.a1_in1k", what `create_model` loads: crop_pct 0.95 (and, for its reported
    # accuracy, 288 pixels with crop_pct 1)
    "timm": Preprocessing(224, 235, "bicubic", IMAGENET_MEAN, IMAGENET_STD),
}


def from_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{"params", "batch_stats"} for `graft`, from a file's tensors by name.

    Raises:
      UserError: a tensor that has no place in a ResNet.
    """
    return rename(tensors, RULES, ignore=IGNORE)
