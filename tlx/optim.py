"""Which parameter learns how: ordered (regex, group) rules to one `optax.multi_transform`.

    rules = ((r"backbone/(stem|stage1)/.*", "frozen"), (r"backbone/.*", "backbone"), (r"head/.*", "head"))
    groups = {"backbone": {"learning_rate": 1e-4}, "head": {"learning_rate": 1e-2}}
    optimizer = make_optimizer(params, rules=rules, groups=groups, total_steps=1000)

The first rule whose regex matches the whole path ("backbone/stage1/conv1/kernel") decides. A parameter that no rule
matches and a rule that decides nothing are errors: either means that the config does not say what its author thinks.
The group "frozen" is reserved: zero updates, no optimiser state, no gradient computed, BatchNorm statistics at rest.
A group with `start` rests in the same way until that part of the run is over (gradual unfreezing, ULMFiT).
"""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import optax
from flax import traverse_util

from tlx.errors import UserError, did_you_mean
from tlx.transforms import max_norm, pull_to_start

FROZEN = "frozen"
PyTree = Any

SCALERS = {
    "sgd": lambda g: optax.trace(g["momentum"], nesterov=g["nesterov"]) if g["momentum"] else optax.identity(),
    "adam": lambda g: optax.scale_by_adam(b1=g["b1"], b2=g["b2"], eps=g["eps"]),
    "lion": lambda g: optax.scale_by_lion(b1=g["b1"], b2=g["b2"]),
    "rmsprop": lambda g: optax.scale_by_rms(decay=g["b2"], eps=g["eps"]),
}
SCHEDULES = ("constant", "cosine", "linear")
GROUP_DEFAULTS = {
    "optimizer": "adam",  # one of SCALERS
    "learning_rate": 1e-3,  # the peak
    "schedule": "cosine",  # to 0 at the last step; one of SCHEDULES
    "warmup": 0.0,  # the fraction of its steps over which the rate rises from 0
    "start": 0.0,  # the fraction of all steps for which the group rests, frozen, before its schedule begins
    "restart": 0.0,  # the fraction of all steps after which the schedule, warm-up included, begins anew; 0 = never
    "restart_rate": 0.0,  # the peak from then on
    "weight_decay": 0.0,  # decoupled (Loshchilov & Hutter 2019), times the rate; kernels only, not biases and norms
    "l2_sp": 0.0,  # as weight_decay, but towards where the group started: the pre-trained weights; all parameters
    "clip": 0.0,  # the group's largest gradient norm; 0 = off
    "max_norm": 0.0,  # the largest norm of the weights into each unit, after every update; kernels only; 0 = off
    "layer_decay": 1.0,  # each level down from the head multiplies the rate by this (ULMFiT, BEiT)
    "split": True,  # under "fsdp", whether its parameters are split over devices; see `tlx.parallel.make_layout`
    "momentum": 0.9,
    "nesterov": False,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stretch of steps with the same parameters at rest. Each is a program of its own: what rests costs nothing.

    Attributes:
      begin: its first step.
      frozen: pytree of bool like the parameters: what the step must not differentiate.
      frozen_norms: paths of the BatchNorm modules whose statistics must not move.
    """

    begin: int
    frozen: PyTree
    frozen_norms: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What the rules came to.

    Attributes:
      tx: the `optax.multi_transform` over all parameters; each group has its own chain of clip, scaling, decay, rate
        and projection, so a frozen leaf's gradient can never enter another group's norm.
      labels: pytree like the parameters, of group names.
      groups: group -> its complete options.
      schedules: group -> step -> learning rate, for the log; 0 while the group rests.
      stages: by their first steps, from 0 on; one, unless a group has a `start`.
      whole: paths of the parameters that are not split over devices.
    """

    tx: optax.GradientTransformation
    labels: PyTree
    groups: dict[str, dict[str, Any]]
    schedules: dict[str, optax.Schedule]
    stages: tuple[Stage, ...]
    whole: frozenset[str]


def make_optimizer(
    params: PyTree,
    *,
    rules: Sequence[tuple[str, str]],
    groups: Mapping[str, Mapping[str, Any]],
    total_steps: int,
    levels: Sequence[str] = (),
    batch_stats: PyTree = None,
    ramp: optax.Schedule | None = None,
) -> Optimizer:
    """Builds the optimiser of a run.

    Args:
      params: nested dict of arrays (or of their shapes).
      rules: ordered (regex, group) pairs; see the module's docstring.
      groups: group -> options; what is left out comes from GROUP_DEFAULTS.
      total_steps: where the schedules end.
      levels: the names of the backbone's levels from input to output, for groups with `layer_decay`. Such a group is
        split in one group a level ("backbone@stage1"), so that the printed table shows each rate; `clip` then holds
        for each level apart.
      batch_stats: the model's statistics; decides the stages' `frozen_norms`.
      ramp: step -> factor on all learning rates, in place of every warm-up, schedule and `start`.

    Raises:
      UserError: an unmatched parameter, an idle or broken rule, an unknown group or option, a value out of range,
        nothing left to train.
    """
    options = {name: _group_options(name, dict(group)) for name, group in groups.items()}
    flat = traverse_util.flatten_dict(params, sep="/")
    labels = label_parameters(list(flat), rules, known_groups=options)
    if all(label == FROZEN for label in labels.values()):
        raise UserError(
            "every parameter is frozen: nothing would be learnt; let one rule give a group other than 'frozen'"
        )
    begins = {name: 0 if ramp else round(group["start"] * total_steps) for name, group in options.items()}
    if min(begins.values()) > 0:
        name = min(begins, key=begins.get)
        raise UserError(f"group {name!r}: start is {options[name]['start']}, and no group learns before: set one to 0")

    def stage(begin: int) -> Stage:
        resting = {FROZEN} | {name for name, own in begins.items() if own > begin}
        frozen = {path: group in resting for path, group in labels.items()}
        norms = _frozen_norms(batch_stats or {}, labels, rules, resting)
        return Stage(begin, traverse_util.unflatten_dict(frozen, sep="/"), norms)

    stages = tuple(stage(begin) for begin in sorted(set(begins.values())))

    for path, group in labels.items():
        decay = options[group]["layer_decay"] if group != FROZEN else 1.0
        if decay != 1.0:
            level = _level(path, levels)
            name = f"{group}@{level}"
            depth = len(levels) - (levels.index(level) if level in levels else len(levels))
            options.setdefault(name, options[group] | {"learning_rate": options[group]["learning_rate"] * decay**depth})
            labels[path], begins[name] = name, begins[group]

    used = sorted(set(labels.values()) - {FROZEN})
    schedules = {name: _from(begins[name], options[name], total_steps) for name in used}
    if ramp:
        schedules = {name: _ramped(ramp, options[name]["learning_rate"]) for name in used}
    transforms = {name: _group_transform(options[name], schedules[name], begins[name]) for name in used}
    label_tree = traverse_util.unflatten_dict(labels, sep="/")
    tx = optax.multi_transform(transforms | {FROZEN: optax.set_to_zero()}, label_tree)
    return Optimizer(
        tx=tx,
        labels=label_tree,
        groups={name: options[name] for name in used},
        schedules={name: _resting_until(begins[name], schedules[name]) for name in used},
        stages=stages,
        whole=frozenset(path for path, group in labels.items() if group != FROZEN and not options[group]["split"]),
    )


def label_parameters(
    paths: Sequence[str], rules: Sequence[tuple[str, str]], *, known_groups: Mapping[str, Any]
) -> dict[str, str]:
    """Gives each path the group of the first rule that matches all of it; raises UserError as `make_optimizer`."""
    compiled = []
    for rule in rules:
        if not isinstance(rule, tuple | list) or [type(part) for part in rule] != [str, str]:
            raise UserError(f"optim.rules has {rule!r}: each of them is two texts, (regex, group)")
        regex, group = rule
        if group != FROZEN and group not in known_groups:
            raise UserError(
                f"rule ({regex!r}, {group!r}): no group {group!r}; the groups are {', '.join([FROZEN, *known_groups])}"
                + did_you_mean(group, [FROZEN, *known_groups])
            )
        try:
            compiled.append(re.compile(regex))
        except re.error as e:
            raise UserError(f"rule ({regex!r}, {group!r}): not a regular expression: {e}") from None

    labels, idle = {}, set(range(len(compiled)))
    for path in paths:
        hit = next((i for i, regex in enumerate(compiled) if regex.fullmatch(path)), None)
        if hit is None:
            raise UserError(f"no rule matches the parameter {path!r}: add one, such as ('.*', 'group'), at the end")
        labels[path] = rules[hit][1]
        idle.discard(hit)
    if idle:
        regex, group = rules[min(idle)]
        shadowed = any(compiled[min(idle)].fullmatch(path) for path in paths)
        why = "every parameter it matches was taken by an earlier rule" if shadowed else "it matches no parameter"
        raise UserError(f"rule ({regex!r}, {group!r}) decides nothing: {why}; parameters are {_few(paths)}")
    unused = set(known_groups) - set(labels.values())
    if unused:
        raise UserError(f"group {min(unused)!r} is used by no rule: remove it or name it in a rule")
    return labels


def make_schedule(group: Mapping[str, Any], total_steps: int) -> optax.Schedule:
    """Linear warm-up from 0 over `warmup * total_steps`, then constant, or to 0 by a line or a half cosine."""
    peak, warmup = group["learning_rate"], round(group["warmup"] * total_steps)
    rest = max(total_steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
    }[group["schedule"]]
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def _from(begin: int, group: Mapping[str, Any], total_steps: int) -> optax.Schedule:
    """The group's schedule over its own steps, `begin` being the first; in two parts where it begins anew."""
    if not group["restart"]:
        return make_schedule(group, total_steps - begin)
    again = round(group["restart"] * total_steps)
    second = make_schedule({**group, "learning_rate": group["restart_rate"]}, total_steps - again)
    return optax.join_schedules([make_schedule(group, again - begin), second], [again - begin])


def _ramped(ramp: optax.Schedule, rate: float) -> optax.Schedule:
    return lambda step: rate * ramp(step)


def _resting_until(begin: int, schedule: optax.Schedule) -> optax.Schedule:
    return optax.join_schedules([optax.constant_schedule(0.0), schedule], [begin]) if begin else schedule


def stop_frozen(params: PyTree, frozen: PyTree | None) -> PyTree:
    """Stops the gradient at frozen leaves, so that their backward pass is never traced, let alone run.

    `set_to_zero` alone would compute the gradient first wherever something else (a logged norm) reads it.
    """
    if frozen is None:
        return params
    return jax.tree.map(lambda p, stop: jax.lax.stop_gradient(p) if stop else p, params, frozen)


def group_table(params: PyTree, optimizer: Optimizer) -> list[dict[str, Any]]:
    """One row a group, in the parameters' order: group, optimizer, (peak) learning_rate, tensors, parameters.

    Where a group has a `start`, all have the step from which they learn.
    """
    rows: dict[str, dict[str, Any]] = {}
    sizes = {path: math.prod(leaf.shape) for path, leaf in traverse_util.flatten_dict(params, sep="/").items()}
    at_rest = [(stage.begin, traverse_util.flatten_dict(stage.frozen, sep="/")) for stage in optimizer.stages]
    for path, label in traverse_util.flatten_dict(optimizer.labels, sep="/").items():
        group = optimizer.groups.get(label, {"optimizer": "-", "learning_rate": 0.0})
        about = {"group": label, "optimizer": group["optimizer"], "learning_rate": group["learning_rate"]}
        if len(at_rest) > 1:
            about["from_step"] = next((begin for begin, frozen in at_rest if not frozen[path]), "never")
        row = rows.setdefault(label, about | {"tensors": 0, "parameters": 0})
        row["tensors"] += 1
        row["parameters"] += sizes[path]
    return list(rows.values())


def _group_options(name: str, given: dict[str, Any]) -> dict[str, Any]:
    if name == FROZEN or "@" in name:
        raise UserError(f"group {name!r}: 'frozen' is reserved and needs no options, and '@' is kept for levels")
    for key in given:
        if key not in GROUP_DEFAULTS:
            raise UserError(
                f"group {name!r}: unknown option {key!r}"
                + did_you_mean(key, GROUP_DEFAULTS)
                + f"; the options are {', '.join(GROUP_DEFAULTS)}"
            )
    group = GROUP_DEFAULTS | given
    for key, known in (("optimizer", SCALERS), ("schedule", SCHEDULES)):
        if group[key] not in known:
            raise UserError(f"group {name!r}: {key} is {group[key]!r}: use one of {', '.join(known)}")
    bounds = {
        "learning_rate": (0, math.inf),
        "warmup": (0, 1),
        "start": (0, 1),
        "restart": (0, 1),
        "restart_rate": (0, math.inf),
        "weight_decay": (0, math.inf),
        "l2_sp": (0, math.inf),
        "clip": (0, math.inf),
        "max_norm": (0, math.inf),
        "layer_decay": (0, 1),
        "momentum": (0, 1),
        "b1": (0, 1),
        "b2": (0, 1),
    }
    for key, (low, high) in bounds.items():
        if not (low <= group[key] <= high and math.isfinite(group[key])):
            raise UserError(f"group {name!r}: {key} is {group[key]}: it must be finite and in {low}..{high}")
    if not isinstance(group["split"], bool):
        raise UserError(f"group {name!r}: split is {group['split']!r}: it must be True or False")
    if bool(group["restart"]) != bool(group["restart_rate"]) or 0 < group["restart"] <= group["start"]:
        raise UserError(
            f"group {name!r}: restart is {group['restart']}, restart_rate {group['restart_rate']} and start "
            f"{group['start']}: give both a restart after the start and its rate, or neither"
        )
    if group["learning_rate"] == 0:
        raise UserError(f"group {name!r}: learning_rate is 0: give its parameters to the group 'frozen' instead")
    return group


def _group_transform(group: Mapping[str, Any], schedule: optax.Schedule, begin: int) -> optax.GradientTransformation:
    # By name, not by rank: a transformer's class token and positions have three axes.
    kernels = lambda params: jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
    chain = optax.chain(
        optax.clip_by_global_norm(group["clip"]) if group["clip"] else optax.identity(),
        SCALERS[group["optimizer"]](group),
        optax.add_decayed_weights(group["weight_decay"], kernels) if group["weight_decay"] else optax.identity(),
        pull_to_start(group["l2_sp"]) if group["l2_sp"] else optax.identity(),
        optax.scale_by_learning_rate(schedule),
        optax.masked(max_norm(group["max_norm"]), kernels) if group["max_norm"] else optax.identity(),
    )
    # At rest: zero updates, and neither the moments nor the schedule's count move.
    return optax.conditionally_mask(chain, lambda step: step >= begin) if begin else chain


def _level(path: str, levels: Sequence[str]) -> str:
    """The level in a parameter's path; what is on none of them (the head) counts as above the last."""
    level = next((part for part in path.split("/") if part in levels), None)
    if level is None and path.startswith("backbone/"):
        raise UserError(f"layer_decay: {path!r} is on none of the model's levels {', '.join(levels) or '(none given)'}")
    return level or "head"


def _frozen_norms(
    batch_stats: PyTree, labels: Mapping[str, str], rules: Sequence[tuple[str, str]], resting: Collection[str]
) -> frozenset[str]:
    """A BatchNorm rests when its own scale and bias do; one without either follows the rule for `.../mean`."""
    modules = {"/".join(path[:-1]) for path in traverse_util.flatten_dict(batch_stats)}
    frozen = set()
    for module in modules:
        own = [label for path, label in labels.items() if path.rpartition("/")[0] == module]
        if not own:
            own = [next((group for regex, group in rules if re.fullmatch(regex, f"{module}/mean")), "")]
        if all(label in resting for label in own):
            frozen.add(module)
    return frozenset(frozen)


def _few(names: Sequence[str], count: int = 4) -> str:
    return ", ".join(names[:count]) + (f", ... ({len(names)} in all)" if len(names) > count else "")
