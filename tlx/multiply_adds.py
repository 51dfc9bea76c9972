"""What a prediction costs, counted: multiply-adds in matrix products and convolutions, from the traced program.

Additions, activations, normalisation and pooling are left out, as in published counts. The count is of the mathematics
and not of one backend's way to do it: see `lax.cond` below.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from tlx.models import attention

PyTree = Any


def multiply_adds(apply: Callable, variables: PyTree, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of one prediction for one image. Traces the network; nothing is compiled or run.

    Resizing to the network's input is counted where `apply` does it, being a matrix product too; padding is counted as
    if it were image.

    Args:
      apply: `apply(variables, images, train=False) -> (logits, ...)`.
      variables: {"params", "batch_stats"}, arrays or their shapes.
      image_shape: (H, W, C) of what `apply` is given.

    Raises:
      ValueError: there are some in a `lax.while_loop`, whose length is unknown.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with attention.written_out():
        traced = jax.make_jaxpr(lambda variables, images: apply(variables, images, train=False)[0])(variables, images)
    return _count(traced.jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lhs = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(lhs[axis] for axis in contracted)
    if name == "conv_general_dilated":
        # An output value sums over the kernel's window and, of the input's channels, its own group's only.
        kernel, (out_features, *_) = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // kernel[out_features]
    inner = [_count(jaxpr) for jaxpr in _jaxprs(params)]
    if name == "cond":
        # The costliest branch. Of `lax.platform_dependent`, a `cond` too, it is the one that says what is computed:
        # tlx's depthwise convolution is a convolution there, and on CPU a sum of shifted images, with none to count.
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError("multiply-adds in a lax.while_loop cannot be counted: its length is unknown; use lax.scan")
    return sum(inner) * params.get("length", 1)  # `length` is lax.scan's


def _jaxprs(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs that an equation calls: of jit, checkpoint, custom_jvp, custom_vjp, scan, cond, while."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
