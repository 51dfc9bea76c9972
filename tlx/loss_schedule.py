"""A loss's temperature or weight over the run: a number, or a number and its change to another.

    temperature = make_schedule(8.0, {"to": 1.0, "shape": "cosine", "end": 0.5}, name="temperature", total_steps=1000)

goes from 8 at step 0 to 1 at step 500 and stays there. Every shape is monotone, so all values lie between the two ends
and `check_range` needs to look at those alone, before anything is compiled.
"""

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tlx.errors import UserError, did_you_mean


def _sigmoid_ramp(t: jax.Array) -> jax.Array:
    """Laine & Aila (2017), "Temporal ensembling for semi-supervised learning", section 2 (not checked there)."""
    return jnp.exp(-5 * (1 - jnp.clip(t, 0, 1)) ** 2)


# (from, to, steps) -> schedule: `from` at step 0 (but for "sigmoid"), `to` from step `steps` on.
SHAPES = {
    "linear": optax.linear_schedule,
    # As a fall from 1 to 0, since optax's own final value is a multiple of its first, which may be 0.
    "cosine": lambda first, to, steps: lambda step: to + (first - to) * optax.cosine_decay_schedule(1.0, steps)(step),
    # The ramp-up of consistency losses: exp(-5 (1 - t)^2), which begins at 0.7 % of the way.
    "sigmoid": lambda first, to, steps: lambda step: first + (to - first) * _sigmoid_ramp(step / steps),
    "step": lambda first, to, steps: optax.constant_schedule(to),
}
CHANGE_DEFAULTS = {
    "to": None,  # the last value; required
    "shape": "linear",  # one of SHAPES; "step" is `value` before `begin` and `to` from there on, and has no `end`
    "begin": 0.0,  # the fraction of the run over which the value stays where it is; above 0 for "step"
    "end": 1.0,  # the fraction after which it has arrived
}


def make_schedule(
    value: float, change: Mapping[str, Any] | None, *, name: str, total_steps: int
) -> float | Callable[[jax.Array], jax.Array]:
    """Builds what a loss takes for T, alpha or beta.

    Args:
      value: the first value.
      change: as CHANGE_DEFAULTS, or None.
      name: the config's key, for messages.
      total_steps: of the run, whose steps are 0..total_steps-1. So with `end` 1 the last one is a step short of `to`,
        as with the learning rates of `tlx.optim`. `begin` and `end` are rounded to whole steps, one apart at least.

    Returns:
      `value` itself where nothing changes, otherwise step (int, scalar array) -> value (float32 scalar).

    Raises:
      UserError: not a finite number, an unknown key or shape, `begin` or `end` out of 0..1 or in the wrong order.
    """
    ends(value, change, name=name)
    if change is None:
        return value
    change = CHANGE_DEFAULTS | change
    begin = round(change["begin"] * total_steps)
    steps = max(round(change["end"] * total_steps) - begin, 1)
    moving = SHAPES[change["shape"]](value, change["to"], steps)
    return optax.join_schedules([optax.constant_schedule(value), moving], [begin])


def make_schedules(
    values: Mapping[str, float], changes: Mapping[str, Any], *, total_steps: int
) -> dict[str, float | Callable[[jax.Array], jax.Array]]:
    """`make_schedule` of each of a loss's numbers, by name; those without a change stay numbers."""
    return {
        name: make_schedule(value, changes.get(name), name=name, total_steps=total_steps)
        for name, value in values.items()
    }


def check_schedules(
    values: Mapping[str, float], changes: Mapping[str, Any], checks: Mapping[str, Callable[[float], None]]
) -> None:
    """Applies each name's check to all of its range; raises UserError for a change of what has none."""
    for name in changes:
        if name not in checks:
            raise UserError(f"loss.schedules has {name!r}{did_you_mean(name, checks)}: use {', '.join(checks)}")
    for name, check in checks.items():
        check_range(values[name], changes.get(name), check, name=name)


def check_range(value: float, change: Mapping[str, Any] | None, check: Callable[[float], None], *, name: str) -> None:
    """Applies `check`, such as `tlx.losses.check_temperature`, to the whole range; raises what it and `ends` raise."""
    first, *last = ends(value, change, name=name)
    check(first)
    for value in last:
        try:
            check(value)
        except UserError as e:
            raise UserError(f"at the end of {name}'s change: {e}") from None


def ends(value: float, change: Mapping[str, Any] | None, *, name: str) -> tuple[float, ...]:
    """The first value and, where it changes, the last. Raises UserError as `make_schedule`, which checks by this."""
    _check_number(value, name)
    if change is None:
        return (value,)
    if not isinstance(change, Mapping):
        raise UserError(f"{name}'s change is {change!r}: it must be a section such as {{'to': 1.0}}")
    for key in change:
        if key not in CHANGE_DEFAULTS:
            raise UserError(
                f"{name}'s change: unknown key {key!r}{did_you_mean(key, CHANGE_DEFAULTS)}; the keys are "
                + ", ".join(CHANGE_DEFAULTS)
            )
    if "to" not in change:
        raise UserError(f"{name}'s change has no 'to': give the value that it ends with")
    given, change = change, CHANGE_DEFAULTS | change
    if change["shape"] not in SHAPES:
        hint = did_you_mean(change["shape"], SHAPES)
        raise UserError(f"{name}'s change: shape is {change['shape']!r}{hint}: use one of {', '.join(SHAPES)}")
    for key in ("to", "begin", "end"):
        _check_number(change[key], f"{name}'s change: {key}")
    begin, end = change["begin"], change["end"]
    if not 0 <= begin < end <= 1:
        raise UserError(f"{name}'s change: begin is {begin} and end {end}: they must be in 0..1, begin before end")
    if change["shape"] == "step" and (begin == 0 or "end" in given):
        raise UserError(f"{name}'s change: a step is at 'begin', which must be above 0, and has no 'end': write it so")
    return value, change["to"]


def _check_number(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise UserError(f"{name} is {value!r}: it must be a finite number")
