"""Attention by hand, padded, and, where there is a GPU for it, fused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import models, multiply_adds
from tlx.models import attention


def arrays(tokens, dtype=jnp.float32):
    """query, key, value and a gradient, [2, tokens, 3, 64]."""
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(key, (2, tokens, 3, 64)).astype(dtype) for key in keys]


def by_hand(query, key, value):
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) / 8.0)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def run(function, query, key, value, g):
    """(y, its gradients by all three) in float32."""
    y, pull = jax.vjp(function, query, key, value)
    return [np.asarray(x, np.float32) for x in (y, *pull(g))]


@pytest.mark.parametrize("tokens", [6, 7])
@pytest.mark.parametrize("fused", [None, "xla"])
def test_it_is_attention_also_where_it_pads(tokens, fused):
    given = arrays(tokens)
    found = run(jax.jit(lambda q, k, v: attention.attend(q, k, v, fused=fused)), *given)
    for a, b in zip(found, run(by_hand, *given)):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.skipif(not attention._has_cudnn(), reason="needs an NVIDIA GPU, Ampere or later")
@pytest.mark.parametrize("tokens", [196, 197])
def test_fused_is_as_near_to_the_truth_as_the_plain_form(tokens):
    given = arrays(tokens, jnp.bfloat16)
    with jax.default_matmul_precision("highest"):
        truth = run(by_hand, *(x.astype(jnp.float32) for x in given))
    fused = run(jax.jit(attention.attend), *given)
    with attention.written_out():
        plain = run(jax.jit(attention.attend), *given)
    for a, b, c in zip(fused, plain, truth):
        norm = np.linalg.norm
        assert norm(a - c) / norm(c) < 2 * norm(b - c) / norm(c) + 1e-3


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="is of a CPU")
def test_a_cpu_has_the_plain_form():
    assert not attention._has_cudnn()


def test_multiply_adds_are_those_of_the_plain_form(monkeypatch):
    """On a GPU too, where the program has a call in place of the two products."""
    model = models.build("vit_ti16", num_classes=10, patch=8, blocks=1, dtype=jnp.bfloat16)
    apply = models.make_apply(model, takes=models.Input((24, 24, 3), (0.0,) * 3, (1.0,) * 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 24, 24, 3)), train=False))
    expected = multiply_adds.multiply_adds(apply, variables, (24, 24, 3))
    monkeypatch.setattr(attention, "_has_cudnn", lambda: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, k, v, **how: q if how else by_hand(q, k, v))
    assert multiply_adds.multiply_adds(apply, variables, (24, 24, 3)) == expected
