"""The convolution of residual networks: its gradients are XLA's, whatever the sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.models import convolution

CASES = [
    (batch, size, kernel, stride)
    for batch in (1, 6, 16)  # chunks of 1, 6 and 8
    for size in ((8, 8), (7, 9))
    for kernel, stride in ((3, 1), (3, 2), (1, 2), (1, 1), (7, 2))
]


def arrays(batch, size, kernel, stride, dtype=jnp.float32):
    """x [B, H, W, 3], kernel [k, k, 3, 5] and a gradient by the output."""
    keys = jax.random.split(jax.random.key(0), 3)
    out = [-(-n // stride) for n in size]
    shapes = (batch, *size, 3), (kernel, kernel, 3, 5), (batch, *out, 5)
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes)]


def run(function, kernel, stride):
    """Jitted (x, kernel, g) -> (y, dx, dkernel)."""
    padding = ((kernel // 2, kernel // 2),) * 2

    def call(x, kernel, g):
        y, pull = jax.vjp(lambda x, kernel: function(x, kernel, (stride, stride), padding), x, kernel)
        return y, *pull(g)

    return jax.jit(call)


@pytest.mark.parametrize(("batch", "size", "kernel", "stride"), CASES)
def test_its_gradients_are_xlas(batch, size, kernel, stride):
    given = arrays(batch, size, kernel, stride)
    found, expected = (run(f, kernel, stride)(*given) for f in (convolution.convolve, convolution.plain))
    for name, a, b in zip(("y", "dx", "dkernel"), found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("images", [1, 3])
def test_patches_of_as_many_images_as_the_cache_holds(images, monkeypatch):
    monkeypatch.setattr(convolution, "CHUNK_BYTES", images * 4 * 64 * 9 * 3)
    given = arrays(6, (8, 8), 3, 1)
    found, expected = (run(f, 3, 1)(*given) for f in (convolution.convolve, convolution.plain))
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-5, atol=1e-4)


def test_bfloat16_is_summed_in_float32():
    given = arrays(8, (8, 8), 3, 1, jnp.bfloat16)
    found = run(convolution.convolve, 3, 1)(*given)
    assert {a.dtype for a in found} == {jnp.dtype("bfloat16")}
    expected = run(convolution.plain, 3, 1)(*(a.astype(jnp.float32) for a in given))
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-7, atol=2**-7 * np.abs(b).max())


def test_it_works_under_vmap_and_for_a_gpu_it_is_plain():
    given = arrays(4, (8, 8), 3, 2)
    alone = run(convolution.convolve, 3, 2)(*given)
    x, kernel, g = given
    mapped = jax.vmap(run(convolution.convolve, 3, 2), (0, None, 0))(x[:, None], kernel, g[:, None])
    np.testing.assert_allclose(mapped[2].sum(0), alone[2], atol=1e-4)
    for platform, loops in (("cpu", 1), ("cuda", 0), ("tpu", 0)):
        exported = jax.export.export(run(convolution.convolve, 3, 2), platforms=[platform])(*given)
        assert exported.mlir_module().count("stablehlo.while") == loops
