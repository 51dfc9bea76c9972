"""The offset against brute force, and the same offset in logits and in a head."""

import jax
import numpy as np
import pytest

from tlx import bias_correction, models
from tlx.errors import UserError
from tlx.pretrained.run import add_bias


def errors(logits, labels, omitted, offset):
    return int(np.sum(bias_correction.apply(logits, omitted, offset).argmax(-1) != labels))


def example(seed, n=60, classes=5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels], labels


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("omitted", [[3], [0, 1, 4]])
def test_no_offset_makes_fewer_errors(seed, omitted):
    logits, labels = example(seed)
    logits[:, omitted] -= 3.0
    offset = bias_correction.fit(logits, labels, omitted)
    tried = [errors(logits, labels, omitted, x) for x in np.linspace(-15, 15, 6001)]
    # The grid may miss an interval narrower than its step, and never has one that is better.
    assert errors(logits, labels, omitted, offset) <= min(tried) < errors(logits, labels, omitted, 0.0)


def margins(kept, omitted):
    """Logits of two classes, the second omitted: images of class 0 and of class 1 with these margins."""
    logits = np.array([[m, 0.0] for m in (*kept, *omitted)])
    return logits, np.array([0] * len(kept) + [1] * len(omitted))


@pytest.mark.parametrize(
    ("kept", "omitted", "offset"),
    [
        ((4, 5), (1, 2), 3),  # the middle between the last that is won and the first that is lost
        ((0.5,), (2,), -0.5),  # one of the two is right below 0.5 and above 2: 1 inside the nearer end
        ((-2,), (-0.5,), 0.5),
        ((6, -3), (4, -4), -3.5),  # three are right in (-4, -3) and in (4, 6): the nearer to 0
        ((3, 3), (3,), 0),  # the same margin for all, and 0 well below it
    ],
)
def test_the_middle_of_the_interval_nearest_zero(kept, omitted, offset):
    assert bias_correction.fit(*margins(kept, omitted), [1]) == pytest.approx(offset)


def test_images_that_no_offset_gets_right_do_not_count():
    logits = np.array([[0.0, 2, 9], [2.0, 0, 9], [9, 0, 5.0], [8, 0, 9.0]])  # the first two are taken for each other
    assert bias_correction.fit(logits, np.array([0, 1, 2, 2]), [2]) == 5
    assert bias_correction.fit(logits[:2], np.array([0, 2]), [2]) == 0
    hopeless = np.array([[0.0, 1, 2, 3], [0.0, 1, 2, 3]])
    assert bias_correction.fit(hopeless, np.array([0, 2]), [2, 3]) == 0


def test_into_the_head_is_the_same():
    model = models.build("mlp", num_classes=4, widths=(8,))
    images = np.random.default_rng(0).random((5, 2, 2, 1), np.float32)
    variables = jax.device_get(jax.jit(lambda: model.init(jax.random.key(0), images, train=False))())
    before = variables["params"]["head"]["bias"].copy()
    raised = add_bias(variables, bias_correction.apply(np.zeros(4, np.float32), [1, 3], 2.5))
    logits, expected = (np.asarray(model.apply(v, images, train=False)) for v in (variables, raised))
    found = bias_correction.apply(logits, [1, 3], 2.5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(found - logits, np.tile([0, 2.5, 0, 2.5], (5, 1)), rtol=1e-5)
    assert found.dtype == np.float32 and raised["params"]["head"]["bias"].dtype == before.dtype
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], before)
    assert raised["params"]["backbone"] is variables["params"]["backbone"]


@pytest.mark.parametrize(
    ("omitted", "chosen", "message"),
    [
        ([], slice(None), "name at least one"),
        ([0, 1, 2, 3, 4], slice(None), "leave at least one out"),
        ([5], slice(None), "omitted class 5 does not exist: there are 0 to 4"),
        ([-1], slice(None), "omitted class -1 does not exist"),
        ([2], [0, 1, 3], r"show none of the omitted classes \[2\]"),
        (np.array([2]), [2], r"show only the omitted classes \[2\]"),
    ],
)
def test_bad_input(omitted, chosen, message):
    logits, labels = np.eye(5), np.arange(5)
    with pytest.raises(UserError, match=message):
        bias_correction.fit(logits[chosen], labels[chosen], omitted)


def test_logits_that_are_not_finite():
    with pytest.raises(UserError, match="not all finite"):
        bias_correction.fit(np.array([[0.0, np.nan], [0, 1]]), np.array([0, 1]), [1])
