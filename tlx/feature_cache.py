"""Activations of the frozen part of a network, computed once and kept: training then runs on the rest of it.

Which level they are of, and what is wrong with asking for it; `tlx.kept` keeps them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from tlx import kept
from tlx.errors import UserError, did_you_mean
from tlx.optim import FROZEN, Optimizer
from tlx.pretrained import weights

PyTree = Any


def cut(levels: Sequence[str], optimizer: Optimizer, *, batch_stats: PyTree, level: str = "") -> str:
    """The highest level up to which everything stays frozen: no parameter ever learns, no BatchNorm's statistics move.

    Args:
      levels: all of the model's, from input to output, "pooled" included.
      optimizer: the run's.
      batch_stats: the model's, or their shapes.
      level: a level to take instead, at most as high.

    Raises:
      UserError: an unknown level; something at or below it learns, at once or later; nothing is frozen.
    """
    if level and level not in levels:
        raise UserError(f"cache.level is {level!r}{did_you_mean(level, levels)}: the levels are {', '.join(levels)}")
    labels = traverse_util.flatten_dict(optimizer.labels, sep="/")
    norms = {path.rpartition("/")[0] for path in traverse_util.flatten_dict(batch_stats, sep="/")}
    moving = {path: group for path, group in labels.items() if group != FROZEN}
    moving |= {f"{norm}/mean": "" for norm in norms - optimizer.stages[-1].frozen_norms}
    end, first = len(levels), ""
    for i, name in enumerate(levels):
        first = next((path for path in moving if path.startswith(f"backbone/{name}/")), "")
        if first:
            end = i
            break
    wanted = levels.index(level) if level else end - 1
    if end and wanted < end:
        return levels[wanted]
    group, needed = moving[first], level or levels[0]
    start = optimizer.groups[group]["start"] if group else 0
    learns = f"learns (group {group!r}" + (f", from start={start} on" if start else "") + ")" if group else "moves"
    frozen = f"set cache.level to {levels[end - 1]!r}" if end else "freeze the levels from the input up"
    raise UserError(
        f"cache.features is on, but {first!r}, which level {needed!r} depends on, {learns}: {frozen}, or turn "
        "cache.features off"
    )


def check_options(*, views: int, dtype: str, augment: Mapping[str, Any]) -> None:
    """Raises UserError for a number of views or a dtype that makes no sense."""
    kept.check_dtype(dtype)
    if views < 1:
        raise UserError(f"cache.views is {views}: it counts the kept views of each training image and must be >= 1")
    if views > 1 and not augmented(augment):
        raise UserError(f"cache.views is {views}, but nothing is augmented, so all would be equal: set it to 1")


def augmented(augment: Mapping[str, Any]) -> bool:
    """Whether options of `make_augment` change anything: `magnitude` alone does not."""
    return any(value for name, value in augment.items() if name != "magnitude")


def noise_below(model: nn.Module, variables: PyTree, shapes: Mapping[str, tuple[int, ...]], level: str) -> list[str]:
    """The modules below `level` that would drop something in training: what is kept at the level is without it.

    Args:
      model, variables: the classifier.
      shapes: of an image, under the name "", and of each level's activation.
      level: one of them.
    """

    def called(start: str) -> set[str]:
        found = set()

        def note(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
            if getattr(context.module, "rate", 0):  # linen's Dropout, and StochasticDepth
                found.add("/".join(context.module.path))
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            x = jax.ShapeDtypeStruct((1, *shapes[start]), jnp.float32)
            jax.eval_shape(lambda v, x: model.apply(v, x, train=False, start=start), variables, x)
        return found

    return sorted(called("") - called(level))


def make_extract(*, model: nn.Module, takes: Callable, view: Callable, level: str) -> Callable:
    """Builds `extract(variables, batch, key) -> float32 [B, ...]`, the activations of `level`, nothing dropped.

    The noise of an example is `view(image, example, key)`: of its place in the dataset (`batch["example"]`, int32 [B])
    and the view's key, and of nothing else, so neither of the batch that it is in nor of the devices.
    """

    def extract(variables: PyTree, batch: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        images = takes(view(batch["image"], batch["example"], key))
        _, levels = model.apply(variables, images, train=False, features=True)
        return levels[level].astype(jnp.float32)

    return extract


def digest(variables: PyTree, levels: Sequence[str]) -> str:
    """sha256 of the parameters and statistics of these levels of the backbone."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    below = tuple(f"{part}/backbone/{level}/" for part in variables for level in levels)
    return weights.digest({path: value for path, value in flat.items() if path.startswith(below)})
