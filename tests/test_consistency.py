"""Consistency by hand, under jit: distances, sharpening, the threshold, and the side that gets the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.consistency import make_consistency
from tlx.errors import UserError

P = jnp.array([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]])  # the student
Q = jnp.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]])  # the target
SHARP = np.array([0.49, 0.04, 0.01]) / 0.54, np.array([0.16, 0.16, 0.04]) / 0.36  # Q at temperature 1/2: squares


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "kl"}, (Q * jnp.log(Q / P)).sum(-1)),
        ({"kind": "mse"}, [(0.04 + 0.0025 + 0.0225) / 3, (0.04 + 0.09 + 0.01) / 3]),
        ({"kind": "ce"}, -(Q * jnp.log(P)).sum(-1)),
        ({"kind": "kl", "temperature": 0.5}, [(q * np.log(q / p)).sum() for q, p in zip(SHARP, P, strict=True)]),
        ({"kind": "ce", "hard": True}, [np.log(2), -np.log(0.2)]),  # of equal ones the first
        ({"kind": "kl", "hard": True}, [np.log(2), -np.log(0.2)]),
        ({"kind": "mse", "hard": True}, [(0.25 + 0.0625 + 0.0625) / 3, (0.64 + 0.49 + 0.01) / 3]),
        ({"kind": "ce", "hard": True, "threshold": 0.6}, [np.log(2), 0]),
        ({"kind": "ce", "temperature": 0.1, "threshold": 0.8}, [0, 0]),  # the confidence is that before sharpening
    ],
)
def test_by_hand(options, expected):
    compare = jax.jit(make_consistency(**options))
    values, passed = compare(jnp.log(P), jnp.log(Q) + 3)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(passed, np.array([0.7, 0.4]) >= options.get("threshold", 0))


@pytest.mark.parametrize("options", [{"kind": "kl"}, {"kind": "mse"}, {"kind": "ce"}, {"kind": "ce", "hard": True}])
def test_the_target_gets_no_gradient(options):
    compare = make_consistency(**options)
    gradient = jax.jit(jax.grad(lambda s, t: compare(s, t)[0].sum(), argnums=(0, 1)))
    of_student, of_target = gradient(jnp.log(P), jnp.log(Q))
    np.testing.assert_array_equal(of_target, 0)
    assert np.abs(of_student).min() > 0


def test_a_very_sure_target_is_finite():
    for kind in ("kl", "mse", "ce"):
        values, _ = make_consistency(kind=kind, temperature=0.1)(jnp.array([[0.0, 50.0]]), jnp.array([[90.0, -90.0]]))
        assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "l2"}, "consistency.kind is 'l2'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"threshold": 1.1}, "consistency.threshold is 1.1"),
        ({"hard": True, "temperature": 0.5}, "consistency.temperature is 0.5, but consistency.hard"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        make_consistency(**options)
