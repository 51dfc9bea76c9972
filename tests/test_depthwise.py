"""Depthwise convolution: both formulations are one function, and its gradients one, whatever the sizes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.models import depthwise
from tlx.models.layers import pointwise, relu6
from tlx.models.norm import BatchNorm

CASES = [
    (stride, k, size)
    for stride in (1, 2)
    for k in (3, 5)
    for size in ((8, 8), (7, 9), (1, 2))  # even, odd, smaller than the kernel
]


def arrays(stride, k, size, dtype=jnp.float32):
    """x [2, H, W, 3], kernel [k, k, 1, 3] and a gradient by the output."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (2, *size, 3), (k, k, 1, 3), (2, *(-(-n // stride) for n in size), 3)
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes)]


def run(function, stride):
    """Jitted (x, kernel, g) -> (y, dx, dkernel)."""

    def call(x, kernel, g):
        y, pull = jax.vjp(lambda x, kernel: function(x, kernel, stride), x, kernel)
        return y, *pull(g)

    return jax.jit(call)


@pytest.mark.parametrize(("stride", "k", "size"), CASES)
def test_both_formulations_agree(stride, k, size):
    found = run(depthwise.depthwise, stride)(*arrays(stride, k, size))
    expected = run(depthwise.grouped, stride)(*arrays(stride, k, size))
    for name, a, b in zip(("y", "dx", "dkernel"), found, expected):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_stays_bfloat16_and_near(stride):
    given = arrays(stride, 3, (6, 7), jnp.bfloat16)
    found = run(depthwise.depthwise, stride)(*given)
    assert {a.dtype for a in found} == {jnp.dtype("bfloat16")}
    expected = run(depthwise.grouped, stride)(*(a.astype(jnp.float32) for a in given))
    for a, b in zip(found, expected):
        # bf16 keeps 8 bits: each of 9 terms and partial sums is off by 2^-9 of at most the largest value
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=9 * 2**-8 * np.abs(b).max())


def test_the_program_for_a_cpu_has_no_convolution_and_that_for_a_gpu_has():
    exported = {
        platform: jax.export.export(run(depthwise.depthwise, 2), platforms=[platform])(*arrays(2, 3, (8, 8)))
        for platform in ("cpu", "cuda", "tpu")
    }
    convolutions = {platform: e.mlir_module().count("stablehlo.convolution") for platform, e in exported.items()}
    assert convolutions == {"cpu": 0, "cuda": 3, "tpu": 3}  # values, gradients by input and by kernel


def test_works_under_vmap():
    x, kernel, g = arrays(2, 3, (8, 8))
    found = jax.vmap(run(depthwise.depthwise, 2), (0, None, 0))(x[:, None], kernel, g[:, None])
    expected = run(depthwise.grouped, 2)(x, kernel, g)
    for a, b in zip(found, (expected[0][:, None], expected[1][:, None])):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(found[2].sum(0), expected[2], atol=1e-5)


def test_pointwise_is_a_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    variables = nn.Conv(6, (1, 1)).init(jax.random.key(1), x)
    found = nn.Conv(6, (1, 1), conv_general_dilated=pointwise).apply(variables, x)
    np.testing.assert_allclose(found, nn.Conv(6, (1, 1)).apply(variables, x), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu6_and_its_gradient(dtype):
    below_six = (6 - 4 * jnp.finfo(dtype).eps).astype(dtype)
    x = jnp.array([-1.0, 0.0, 1e-30, 0.5, below_six, 6.0, 7.0], dtype)
    y, pull = jax.vjp(relu6, x)
    np.testing.assert_array_equal(y, jnp.clip(x, 0, 6))
    np.testing.assert_array_equal(pull(jnp.full(7, 2, dtype))[0].astype(jnp.float32), [0, 0, 2, 2, 2, 0, 0])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_batch_norm_is_linens(train, dtype):
    x = (3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 3, 2))).astype(dtype)
    stats = {"mean": jnp.array([1.0, 2.0]), "var": jnp.array([0.5, 2.0])}
    params = {"scale": jnp.array([1.5, -1.0]), "bias": jnp.array([0.25, 1.0])}

    def run(norm):
        def loss(params, x):
            y, updated = norm.apply({"params": params, "batch_stats": stats}, x, not train, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(y.astype(jnp.float32))), (y, updated["batch_stats"])

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)

    options = {"momentum": 0.99, "epsilon": 1e-3, "dtype": dtype}
    found, expected = run(BatchNorm(**options)), run(nn.BatchNorm(**options))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), rtol=tolerance, atol=tolerance)
