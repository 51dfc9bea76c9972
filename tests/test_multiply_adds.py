"""Multiply-adds against counts by hand, and against published ones."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tlx import models
from tlx.models import efficientnet
from tlx.multiply_adds import multiply_adds


def count(call, *shapes):
    """Of `call(*arrays)`, whose last array is an image's."""
    *variables, image = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    return multiply_adds(lambda v, x, train: (call(*v, x),), variables, image.shape)


def of_model(name, image_shape, **options):
    model = models.build(name, **{"num_classes": 1000} | options)
    run = lambda: model.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False)
    return multiply_adds(models.make_apply(model), jax.eval_shape(run), image_shape)


def test_mlp_by_hand():
    assert of_model("mlp", (28, 28, 1), widths=(1200, 1200), num_classes=10) == 784 * 1200 + 1200 * 1200 + 1200 * 10


def test_cnn_by_hand():
    first, second = 8 * 8 * 9 * 1 * 16, 4 * 4 * 9 * 16 * 32  # 3 x 3 convolutions, each then pooled to half the size
    dense = 2 * 2 * 32 * 64
    assert of_model("cnn", (8, 8, 1), widths=(16, 32), dense=64, num_classes=10) == first + second + dense + 64 * 10


def test_grouped_convolution():
    grouped = lambda kernel, x: lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
    )
    assert count(grouped, (3, 3, 2, 12), (5, 6, 8)) == 5 * 6 * 12 * 9 * 2


def test_batched_product():
    assert count(lambda w, x: jnp.einsum("bhwc,hcd->bhwd", x, w), (5, 8, 3), (5, 6, 8)) == 5 * 6 * 8 * 3


def test_inner_programs():
    square = lambda w, x: x @ w  # [1, 2, 3, 4] @ [4, 4]
    once = 2 * 3 * 4 * 4
    differentiable = jax.custom_vjp(square)
    differentiable.defvjp(lambda w, x: (square(w, x), w), lambda w, g: (w, g))
    for wrapped in (square, jax.jit(square), jax.checkpoint(square), differentiable):
        assert count(wrapped, (4, 4), (2, 3, 4)) == once
    scan = lambda w, x: lax.scan(lambda x, _: (x @ w, None), x, length=7)[0]
    assert count(scan, (4, 4), (2, 3, 4)) == 7 * once
    either = lambda w, x: lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x)
    assert count(either, (4, 4), (2, 3, 4)) == 2 * once
    by_platform = lambda w, x: lax.platform_dependent(x, cpu=lambda x: x, default=lambda x: x @ w)
    assert count(by_platform, (4, 4), (2, 3, 4)) == once


def test_a_loop_of_unknown_length_is_refused():
    loop = lambda w, x: lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ w, x)
    with pytest.raises(ValueError, match="while_loop"):
        count(loop, (4, 4), (2, 3, 4))


def test_resnet18():
    """torchvision's documentation of ResNet18_Weights gives 1.81 "GFLOPS", which are multiply-adds."""
    assert of_model("resnet18", (224, 224, 3)) == 1_814_073_344


def test_efficientnet_lite0():
    """By hand, from the stages. The published README has 407 M, 5.7 % more, and does not say what it counts."""
    size, channels = 112, 32
    total = size**2 * 27 * channels
    for stage in efficientnet._STAGES:
        for block in range(stage.blocks):
            wide, stride = channels * stage.expansion, stage.stride if block == 0 else 1
            total += size**2 * channels * wide * (stage.expansion > 1)
            size //= stride
            total += size**2 * wide * (stage.kernel**2 + stage.features)
            channels = stage.features
    total += size**2 * channels * 1280 + 1280 * 1000
    assert of_model("efficientnet_lite0", (224, 224, 3)) == total == 385_187_552
