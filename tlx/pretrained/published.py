"""Published weights for a network of ours: read, renamed, and with the input that they were trained on."""

import dataclasses
from types import ModuleType
from typing import Any

from tlx.errors import UserError, did_you_mean
from tlx.models.inputs import Input
from tlx.pretrained import efficientnet, resnet, vit, weights

PyTree = Any

# Model -> its family's reader, and the preprocessing that is meant if none is named.
FAMILIES: dict[str, tuple[ModuleType, str]] = {
    **{name: (resnet, "torchvision") for name in ("resnet18", "resnet34", "resnet50")},
    **{name: (vit, "timm") for name in ("vit_ti16", "vit_s16", "vit_b16")},
    **{name: (efficientnet, name) for name in efficientnet.PREPROCESSING},
}


@dataclasses.dataclass(frozen=True)
class Published:
    """Somebody's network.

    Attributes:
      name: where its weights came from.
      variables: {"params", "batch_stats"}, for `graft`.
      takes: the input that the weights were trained on, at the size that is asked for.
      digest: of the file's tensors.
    """

    name: str
    variables: PyTree
    takes: Input
    digest: str


def load_published(
    model: str, source: str, *, key: str = "", preprocessing: str = "", image_size: int = 0
) -> Published:
    """Loads published weights.

    Args:
      model: a key of FAMILIES.
      source: a file, "package:NAME" or "hf:OWNER/REPO", as `tlx.pretrained.weights.find` takes it.
      key: where the state dict lies in a file of `torch.save` that holds several.
      preprocessing: a key of the family's PREPROCESSING, for its mean, deviation and size; "" = the usual one.
      image_size: the side of the square input; 0 = that of the preprocessing. A convolutional net takes any; a ViT's
        positions are resized.

    Raises:
      UserError: no published weights are known for the model, an unknown preprocessing, or whatever is wrong with the
        file.
    """
    if model not in FAMILIES:
        raise UserError(
            f"no published weights are known for the model {model!r}{did_you_mean(model, FAMILIES)}: "
            f"use one of {', '.join(FAMILIES)}"
        )
    family, usual = FAMILIES[model]
    known = family.PREPROCESSING
    if preprocessing and preprocessing not in known:
        raise UserError(
            f"init.preprocessing is {preprocessing!r}{did_you_mean(preprocessing, known)}: for {model} it is one of "
            f"{', '.join(known)}"
        )
    if image_size < 0:
        raise UserError(f"init.image_size is {image_size}: it must be > 0, or 0 for the published size")
    spec = known[preprocessing or usual]
    side = image_size or spec.size
    tensors = weights.read(source, key=key or None)
    shape = (side, side, 3)
    variables = family.from_tensors(tensors, **({"image_shape": shape} if family is vit else {}))
    return Published(source, variables, Input(shape, spec.mean, spec.std), weights.digest(tensors))
