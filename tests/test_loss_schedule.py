"""Values of a loss's temperature and weights over the run by hand, under jit, and the mistakes that are refused."""

import functools

import jax
import numpy as np
import pytest

from tlx import loss_schedule, losses
from tlx.errors import UserError

make = functools.partial(loss_schedule.make_schedule, name="temperature", total_steps=100)


@pytest.mark.parametrize(
    ("value", "change", "expected"),
    [
        (9.0, {"to": 1.0}, {0: 9, 25: 7, 50: 5, 99: 1.08, 100: 1, 120: 1}),
        (0.0, {"to": 2, "shape": "linear"}, {0: 0, 50: 1, 100: 2}),
        (9.0, {"to": 1.0, "begin": 0.2, "end": 0.6}, {0: 9, 19: 9, 20: 9, 30: 7, 40: 5, 60: 1, 61: 1, 99: 1}),
        (9.0, {"to": 1.0, "shape": "cosine"}, {0: 9, 25: 5 + 4 * np.sqrt(0.5), 50: 5, 100: 1, 120: 1}),
        (0.0, {"to": 1.0, "shape": "cosine", "begin": 0.5}, {0: 0, 50: 0, 75: 0.5, 99: 0.99901, 100: 1}),
        (9.0, {"to": 1.0, "shape": "step", "begin": 0.3}, {0: 9, 29: 9, 30: 1, 99: 1}),
        (0.0, {"to": 3.0, "shape": "sigmoid"}, {0: 3 * np.exp(-5), 50: 3 * np.exp(-1.25), 100: 3, 120: 3}),
    ],
)
def test_values_by_hand(value, change, expected):
    schedule = jax.jit(make(value, change))
    steps = np.array(list(expected), np.int32)
    np.testing.assert_allclose(schedule(steps), list(expected.values()), rtol=1e-5, atol=1e-6)
    assert schedule(steps[0]).dtype == np.float32


def test_without_a_change_it_is_the_number():
    assert make(3.5, None) == 3.5 and isinstance(make(3.5, None), float)


@pytest.mark.parametrize("shape", ["linear", "cosine", "sigmoid"])
def test_all_values_lie_between_the_ends(shape):
    for first, to in ((20.0, 0.1), (0.0, 3.3), (0.7, 0.7)):
        values = np.asarray(jax.jit(make(first, {"to": to, "shape": shape}))(np.arange(110)), np.float64)
        assert values.min() >= np.float32(min(first, to)) and values.max() <= np.float32(max(first, to))
        assert np.all(np.diff(values) * np.sign(to - first) >= 0)


@pytest.mark.parametrize("total", [1, 2])
@pytest.mark.parametrize("shape", ["linear", "cosine", "sigmoid", "step"])
def test_a_run_of_a_step_or_two_has_no_nan(shape, total):
    change = {"to": 1.0, "shape": shape, "begin": 0.1}
    schedule = jax.jit(loss_schedule.make_schedule(4.0, change, name="temperature", total_steps=total))
    assert np.isfinite(schedule(np.arange(3))).all() and schedule(2) == 1


def test_it_drives_a_loss_under_jit():
    student, teacher = np.float32([[1.0, 2.0, 4.0]]), np.float32([[0.0, 3.0, 1.0]])
    schedule = make(9.0, {"to": 1.0})
    loss = jax.jit(lambda step: losses.distillation_kl(student, teacher, schedule(step)))
    np.testing.assert_allclose(loss(50), losses.distillation_kl(student, teacher, 5.0), rtol=1e-5)


@pytest.mark.parametrize(
    ("value", "change", "message"),
    [
        ("4", None, "temperature is '4': it must be a finite number"),
        (True, None, "temperature is True"),
        (float("nan"), {"to": 1.0}, "temperature is nan"),
        (4.0, 1.0, r"temperature's change is 1.0: it must be a section such as \{'to': 1.0\}"),
        (4.0, {}, "has no 'to'"),
        (4.0, {"to": 1.0, "shap": "linear"}, "unknown key 'shap' .did you mean 'shape'"),
        (4.0, {"to": 1.0, "shape": "cosin"}, "shape is 'cosin' .did you mean 'cosine'"),
        (4.0, {"to": "1"}, "change: to is '1'"),
        (4.0, {"to": None}, "change: to is None"),
        (4.0, {"to": float("inf")}, "change: to is inf"),
        (4.0, {"to": 1.0, "begin": "0"}, "change: begin is '0'"),
        (4.0, {"to": 1.0, "begin": -0.1}, "begin is -0.1 and end 1.0: they must be in 0..1"),
        (4.0, {"to": 1.0, "end": 1.1}, "end 1.1: they must be in 0..1"),
        (4.0, {"to": 1.0, "begin": 0.5, "end": 0.5}, "begin before end"),
        (4.0, {"to": 1.0, "shape": "step"}, "a step is at 'begin', which must be above 0"),
        (4.0, {"to": 1.0, "shape": "step", "begin": 0.5, "end": 0.9}, "has no 'end'"),
    ],
)
def test_mistakes_are_named(value, change, message):
    with pytest.raises(UserError, match=message):
        make(value, change)


def test_the_range_is_checked_at_both_ends():
    check = functools.partial(loss_schedule.check_range, check=losses.check_temperature, name="temperature")
    check(4.0, None)
    check(4.0, {"to": 1.0})
    with pytest.raises(UserError, match="^temperature is 0.0"):
        check(0.0, {"to": 1.0})
    with pytest.raises(UserError, match="^at the end of temperature's change: temperature is 0: it divides"):
        check(4.0, {"to": 0})
    with pytest.raises(UserError, match="did you mean 'to'"):
        check(4.0, {"too": 1.0})
    weight = lambda v: losses.check_weights(not_all_zero=(), alpha=v)
    loss_schedule.check_range(1.0, {"to": 0.0}, weight, name="alpha")
    with pytest.raises(UserError, match="at the end of alpha's change: alpha is -1"):
        loss_schedule.check_range(1.0, {"to": -1}, weight, name="alpha")


@pytest.mark.parametrize("name", ["temperature", "alpha", "beta"])
def test_each_of_distillations_numbers_is_checked_at_both_ends(name):
    good = {"temperature": 4.0, "alpha": 0.9, "beta": 0.1}
    check = functools.partial(loss_schedule.check_schedules, checks=losses.checks(*good))
    check(good, {name: {"to": 1.0}})
    least = 0.0 if name == "temperature" else -0.1  # a weight may be 0
    check(good | {name: least + 0.1}, {name: {"to": least + 0.1}})
    with pytest.raises(UserError, match=f"^{name} is {least}: it|^{name} is {least}: a loss weight must be finite"):
        check(good | {name: least}, {name: {"to": 1.0}})
    with pytest.raises(UserError, match=f"^at the end of {name}'s change: {name} is {least}"):
        check(good, {name: {"to": least}})
    with pytest.raises(UserError, match=f"^{name} is inf: it must be a finite number"):
        check(good | {name: float("inf")}, {})
    with pytest.raises(UserError, match=f"^{name}'s change: to is nan"):
        check(good, {name: {"to": float("nan")}})


def test_ends():
    assert loss_schedule.ends(1.0, None, name="alpha") == (1.0,)
    assert loss_schedule.ends(1.0, {"to": 0.0, "end": 0.5}, name="alpha") == (1.0, 0.0)
