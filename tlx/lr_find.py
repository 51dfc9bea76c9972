"""The learning-rate range test: `python -m tlx.lr_find --config=configs/x.py[:arg] [--out=FILE.png] [--steps=100]`.

Smith (2017), "Cyclical Learning Rates for Training Neural Networks", section 3.3: train for a short while with a rate
that rises, and see where the loss begins to fall and where it breaks. That the rate rises exponentially, that the loss
is smoothed, and that the test stops at 4 times the least loss, is Howard's (fastai's `lr_find`).

What rises here is one factor on the learning rates of all groups, so their ratios stay as configured, and `frozen`
stays frozen. Warm-up, schedule and `start` are set aside. All else is what the run would do: its network, its start,
its batches, its noise, from the same seed. The trained state is thrown away and no folder of a run is touched.
"""

import functools
import itertools
import math
import os
import pathlib
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from tlx import compiles, hosts, memory, optim, plots, progress, recipes
from tlx import config as config_lib
from tlx.data import reader
from tlx.errors import UserError
from tlx.ramp import Found, follow
from tlx.recipes.learner import Learner, Teach
from tlx.recipes.run import prepare

RECIPES = ("supervised", "distill", "semi_supervised")  # what trains in one phase
STEPS, LOW, HIGH = 100, 1e-4, 1e3  # low and high are factors: about a config's usual 1e-3, rates from 1e-7 to 1


def find(config: Mapping[str, Any], *, steps: int = STEPS, low: float = LOW, high: float = HIGH) -> Found:
    """Runs the test.

    Args:
      config: of a recipe that trains one network, see RECIPES.
      steps: of the ramp.
      low, high: the factor on the config's learning rates at the first and at the last step.

    Raises:
      UserError: a value out of range; another recipe; whatever is wrong with the config.
    """
    if steps < 10:
        raise UserError(f"steps is {steps}: a ramp needs 10 at least, and 100 to be smooth")
    if not (0 < low < high < math.inf):
        raise UserError(f"low is {low:g} and high {high:g}: they must be finite, and 0 < low < high")
    name = config.get("recipe", "")
    recipe = recipes.load(name)
    if name not in RECIPES:
        raise UserError(
            f"recipe is {name!r}, which trains several networks: the range test takes {' or '.join(RECIPES)}"
        )
    config = config_lib.resolve(config, recipe.default_config())
    ramp = lambda step: low * (high / low) ** (step / (steps - 1))
    learner, given = recipe.build(prepare(config, ramp=ramp))
    # The config's groups and not the optimiser's, which `layer_decay` may have split.
    groups = config_lib.to_dict(config.optim.groups)
    rates = {group: (optim.GROUP_DEFAULTS | own)["learning_rate"] for group, own in groups.items()}
    return follow(_train(learner, steps, **given), np.geomspace(low, high, steps), rates)


def _train(
    learner: Learner,
    steps: int,
    *,
    variables: Any,
    store: reader.Store,
    streams: Sequence,
    teach: Teach = lambda batches, start: batches,
) -> Iterator[float]:
    """The loss of each step, as `learner.fit` would come to it."""
    state, key = learner.state(variables), learner.key("train")
    with progress.bar("range test", total=steps, start=0) as bar:
        for number, batch in enumerate(teach(reader.train_batches(store, streams, start=0, steps=steps), 0)):
            state, metrics = learner.step(number)(state, batch, key)
            loss = float(metrics["loss"][0])
            if bar.due():
                bar.update(number + 1, {"loss": loss})
            yield loss


@plots.style()
def draw(found: Found):
    """Raw and smoothed loss against the factor, with the suggestions; returns a `matplotlib.figure.Figure`."""
    color, lines = plots.COLOR, []
    for (name, factor), tint in zip(found.suggestions.items(), ("red", "green")):
        rates = ", ".join(f"{group} {plots.short(rate)}" for group, rate in found.scaled(factor).items())
        lines.append((factor, color[tint], textwrap.fill(f"{name}: x {plots.short(factor)} ({rates})", 72)))
    rows = 2 + sum(text.count("\n") + 1 for _, _, text in lines)
    figure, ax = plots.axes(2.2 + 0.17 * rows, top=0.36, right=0.15, bottom=0.5 + 0.17 * rows)
    ax.plot(found.factors, found.losses, color=color["muted"], linewidth=0.7, alpha=0.7, label="loss of each step")
    ax.plot(found.centers, found.smoothed, color=color["blue"], label="smoothed")
    for factor, tint, text in lines:
        ax.axvline(factor, color=tint, linewidth=1.1, label=text)
    ax.set_xscale("log")
    if len(found.losses):
        # What broke may leave the picture: it would flatten all that matters.
        ax.set_ylim(0, 1.5 * found.smoothed[: len(found.smoothed) // 2 + 1].max())
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: plots.short(value))
    ax.minorticks_off()
    ax.set_xlabel("factor on the learning rates")
    figure.legend(loc="lower left", frameon=False, fontsize=8, labelspacing=0.3)
    plots.title(figure, "loss while the learning rates rise", "nats")
    return figure


def main(argv: list[str]) -> int:
    """`python -m tlx.lr_find`; returns the exit code."""
    # Here, and not when the module is imported: who imports it for `find` may have such flags of their own.
    from tlx import command

    out, steps, low, high = _flags()

    def body() -> int:
        memory.keep()
        compiles.keep_on_disk()
        config = command.CONFIG.value
        path = _figure_path(out.value, config.get("name", "config"))
        found = find(config, steps=steps.value, low=low.value, high=high.value)
        for line in describe(found):
            progress.say(line)
        if hosts.is_first():
            plots.save(draw(found), path)
            progress.say(f"figure: {path}")
        return 0

    return command.call(body, argv, usage="python -m tlx.lr_find --config=configs/x.py")


@functools.cache  # a flag can be defined once
def _flags() -> tuple[flags.FlagHolder, ...]:
    return (
        flags.DEFINE_string("out", None, "The figure, a new .png; by default <name>_lr.png in the current folder."),
        flags.DEFINE_integer("steps", STEPS, "The steps of the ramp."),
        flags.DEFINE_float("low", LOW, "The factor on the config's learning rates at the first step."),
        flags.DEFINE_float("high", HIGH, "The factor at the last step."),
    )


def describe(found: Found) -> list[str]:
    """What the command prints: for each suggestion the factor, and the learning rates to write into the config."""
    lines = []
    for name, what in (("steepest", "the loss falls fastest"), ("conservative", "a tenth of where it is least")):
        if name in found.suggestions:
            factor = found.suggestions[name]
            write = [f"--config.optim.groups.{g}.learning_rate={rate:g}" for g, rate in found.scaled(factor).items()]
            lines.append(f"{name} ({what}): x {plots.short(factor)}  {' '.join(write)}")
    now = ", ".join(f"{group} {rate:g}" for group, rate in found.learning_rates.items())
    ends = [f"x {factor:g}" for factor in (*found.factors[:1], *found.factors[-1:])]
    lines.append(f"learning rates now: {now}; ramp: {' to '.join(ends)} in {len(found.factors)} steps")
    return lines + ([found.advice] if found.advice else [])


def _figure_path(out: str | None, name: str) -> pathlib.Path:
    """Where the figure may be written without harm to another file."""
    if out is None:
        stem = f"{name.replace('/', '_')}_lr"
        names = itertools.chain([f"{stem}.png"], (f"{stem}_{number}.png" for number in itertools.count(2)))
        path = next(path for path in map(pathlib.Path, names) if not path.exists())
    else:
        path = pathlib.Path(out).expanduser()
    if path.suffix != ".png":
        raise UserError(f"out is {out!r}: it must end with .png")
    if path.exists():
        raise UserError(f"out {out} exists: choose another --out, or delete it")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"out {path}: its folder does not exist or is not writable; choose another --out")
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv))
