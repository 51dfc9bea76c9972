"""What a network takes of images of any size and colour."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.errors import UserError
from tlx.models import Input


def test_normalises_each_channel():
    takes = Input((1, 1, 3), mean=(0.0, 0.1, 0.5), std=(1.0, 0.1, 0.25))
    images = jnp.array([0.0, 0.2, 1.0]).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(takes(images).ravel(), [0, 1, 2], atol=1e-6)
    assert takes.differs((1, 1, 3)) == ""


def test_resizes_and_repeats_grey():
    takes = Input((4, 6, 3), mean=(0.5, 0.5, 0.0), std=(1.0, 0.5, 1.0))
    images = jnp.broadcast_to(jnp.linspace(0, 1, 3)[:, None, None], (2, 2, 3, 3, 1)[1:])
    result = jax.jit(takes)(images)
    assert result.shape == (2, 4, 6, 3)
    # Rows of a ramp stay a ramp: the centres of 4 rows lie at -1/8, 5/8, ... of 3 rows, clamped at the edges.
    rows = np.clip((np.arange(4) + 0.5) * 3 / 4 - 0.5, 0, 2) / 2
    np.testing.assert_allclose(result[0, :, 0, 2], rows, atol=1e-6)
    np.testing.assert_allclose(result[..., 1], 2 * result[..., 0], atol=1e-6)
    assert takes.differs((3, 3, 1)) == "3x3 resized to 4x6, grey repeated to 3 channels"


def test_what_does_not_fit():
    with pytest.raises(UserError, match="one of each for every channel"):
        Input((4, 4, 3), mean=(0.5,), std=(0.5,))
    with pytest.raises(UserError, match="std > 0"):
        Input((4, 4, 1), mean=(0.5,), std=(0.0,))
    takes = Input((4, 4, 1), mean=(0.5,), std=(0.5,))
    with pytest.raises(UserError, match="takes 1 channels and the images have 3"):
        takes.check((4, 4, 3))
