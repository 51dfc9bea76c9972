"""Networks, all of one shape: a backbone that names its levels, and a head.

    model = models.build("cnn", num_classes=10, dropout=0.5)
    variables = model.init(key, images, train=False)
    logits, levels = model.apply(variables, images, train=False, features=True)

A level's parameters lie under its name ("backbone/stage1/..."), so one regex rule freezes or slows one level.
"""

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tlx.errors import UserError, did_you_mean
from tlx.models.apply import make_apply
from tlx.models.classifier import Classifier
from tlx.models.cnn import cnn
from tlx.models.efficientnet import ARCHITECTURES as EFFICIENTNETS
from tlx.models.efficientnet import efficientnet_lite
from tlx.models.inputs import Input
from tlx.models.mlp import mlp
from tlx.models.options import check_count
from tlx.models.resnet import ARCHITECTURES as RESNETS
from tlx.models.resnet import resnet
from tlx.models.vit import HEADS, vit

__all__ = ["MODELS", "Classifier", "Input", "build", "level_shapes", "levels", "make_apply", "parameter_count", "scale"]

# A constructor's keyword-only arguments, beyond these two, are the model's options.
_GIVEN_BY_BUILD = ("dtype", "axis_name")

MODELS = (
    {"mlp": mlp, "cnn": cnn}
    | {name: functools.partial(resnet, name) for name in RESNETS}
    | {name: functools.partial(efficientnet_lite, name) for name in EFFICIENTNETS}
    | {name: functools.partial(vit, name) for name in HEADS}
)


def build(
    name: str,
    *,
    num_classes: int,
    head_level: str = "",
    projector: int = 0,
    projector_level: str = "pooled",
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    **options: Any,
) -> Classifier:
    """Builds a classifier, without parameters yet.

    Args:
      name: one of MODELS.
      num_classes: K.
      head_level: the level that the head is on, without what lies above it; "" = the top. Checked when the model is
        first traced.
      projector, projector_level: see `Classifier`; not an option of a config, since no trained network has one.
      dtype: what the backbone computes in; parameters and logits are float32 whatever it is.
      axis_name: the mesh axis over which BatchNorm's statistics are averaged. Under plain `jit` leave it None: there
        the batch is whole.
      **options: the keyword arguments of the backbone's constructor, such as `dropout`.

    Raises:
      UserError: an unknown name or option, or a value out of range.
    """
    if name not in MODELS:
        raise UserError(f"model {name!r} is unknown{did_you_mean(name, MODELS)}; the models are {', '.join(MODELS)}")
    constructor = MODELS[name]
    known = [option for option in inspect.signature(constructor).parameters if option not in _GIVEN_BY_BUILD]
    for option in options:
        if option not in known:
            raise UserError(
                f"model {name!r} has no option {option!r}{did_you_mean(option, known)}; "
                f"its options are {', '.join(['head_level', *known])}"
            )
    check_count("num_classes", num_classes, minimum=2)
    try:
        dtype = jnp.dtype(dtype)
    except TypeError:
        raise UserError(f"dtype={dtype!r}: not a dtype; use float32 or bfloat16") from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(f"dtype={dtype.name!r}: not a floating type; use float32 or bfloat16")
    backbone = constructor(dtype=dtype, axis_name=axis_name, **options)
    return Classifier(
        backbone=backbone,
        num_classes=num_classes,
        head_level=head_level,
        projector=projector,
        projector_level=projector_level,
        dtype=dtype,
    )


def scale(options: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The options of `build`, name included, for the same network with every width times `factor`."""
    if factor == 1 or options.get("name") not in MODELS:  # an unknown name is for `build` to refuse
        return dict(options)
    scaled = dict(options)
    for option, parameter in inspect.signature(MODELS[options["name"]]).parameters.items():
        if option in ("widths", "dense", "width"):
            value = options.get(option, parameter.default)
            if option == "width":
                scaled[option] = value * factor
            else:
                times = lambda width: max(1, round(width * factor)) if width else 0
                scaled[option] = times(value) if option == "dense" else tuple(map(times, value))
    return scaled


def levels(model: Classifier, image_shape: Sequence[int]) -> tuple[str, ...]:
    """The names of the backbone's levels that can have parameters, from input to output: all but "pooled".

    Args:
      model: the classifier.
      image_shape: (H, W, C).
    """
    return tuple(name for name in level_shapes(model, image_shape) if name not in ("pooled", "projected"))


def level_shapes(model: Classifier, image_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """name -> the shape of an image's activation, of all levels from input to output; arguments as of `levels`."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    run = functools.partial(model.init_with_output, train=False, features=True)
    (_, activations), _ = jax.eval_shape(run, jax.random.key(0), images)
    return {name: activation.shape[1:] for name, activation in activations.items()}


def parameter_count(params: Any) -> int:
    """The number of values in a pytree of arrays, or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
