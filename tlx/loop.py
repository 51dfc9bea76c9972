"""THE loop. Every recipe trains through `fit`; what differs between methods is the step and the batches.

At each step, in this order: stop if asked to; take the batch; step; then, every `eval_every` steps and after the last:
check that the loss is finite, evaluate, write, checkpoint. So whatever is on disk was finite, and was evaluated, unless
the run was asked to stop before that.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from tlx import compiles, memory, profile, progress
from tlx import metrics as metrics_lib
from tlx.checkpoint import Checkpoints
from tlx.errors import UserError
from tlx.preemption import Preempted, Preemption
from tlx.state import TrainState

KEPT = 100  # steps whose metrics stay on the device: fetched together, they cost less


@dataclasses.dataclass
class Clock:
    """Seconds spent, by kind, over the whole life of a phase: kept in its checkpoints, so a resumed run adds on."""

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, kind: str, since: float) -> None:
        """Adds the time since `since`, a reading of `time.perf_counter`."""
        self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - since

    @contextlib.contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        since = time.perf_counter()
        try:
            yield
        finally:
            self.add(kind, since)


def fit(
    *,
    phase: str,
    state: TrainState,
    step: Callable[[int], Callable],
    batches: Callable[[int], Iterator[Mapping[str, jax.Array]]],
    rng: jax.Array,
    steps: int,
    stride: int = 1,
    eval_every: int,
    evaluate: Callable[[TrainState], dict[str, float]],
    checkpoints: Checkpoints,
    writer: metrics_lib.MetricWriter,
    preemption: Preemption,
    schedules: Mapping[str, Callable[[int], Any]] | None = None,
    meta: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
) -> TrainState:
    """Trains `state` for `steps` steps, from wherever its checkpoints say it got to.

    Args:
      phase: the name under which metrics are written and progress is shown.
      state: the state before step 0; also the shape of what is restored. Donated: do not use it afterwards.
      step: number -> the program of that step, `(state, batch, rng) -> (state, metrics)`, which donates its state. The
        same one for all, unless something starts to learn later.
      batches: start -> iterator over the batches from that step on.
      stride: how many steps a program takes in one call, of a batch for them all, with metrics [stride]; it divides
        `steps` and `eval_every` (`check_stride`). A stop is heard, and a point is passed, between calls.
      rng: the root key of the phase.
      eval_every: steps between evaluations, each followed by a checkpoint.
      evaluate: state -> {"validation/accuracy", "validation/loss", ...}; any other figures are written along. May raise
        Preempted in the middle.
      schedules: group -> step -> learning rate, written with the metrics.
      meta: kept in every checkpoint beside the step: the round, and what the data's order is made of.
      clock: told the seconds spent in "train" and "evaluate".

    Returns:
      The state after the last step. The best one is `checkpoints.restore_best`.

    Raises:
      UserError: a loss or gradient that is not finite; a checkpoint that does not fit.
      Preempted: stopped as asked, after a checkpoint.
    """
    clock = clock or Clock()
    start, state, saved, damaged = checkpoints.restore_latest(state)
    for line in damaged:
        progress.say(f"[yellow]{line}[/yellow]")
    if start:
        checkpoints.drop_after(start)
        sums = {name: tuple(pair) for name, pair in saved["sums"].items()}
        clock.seconds = dict(saved["seconds"])
        progress.say(f"{phase}: resumed at step {start:,} of {steps:,}")
    else:
        sums = {}
    # The sums of an interval that is over: the run was stopped in its evaluation, which is still to be made.
    owed = bool(sums) and (start % eval_every == 0 or start == steps)
    writer.rewind(phase, start - 1 if owed else start)

    def save(at: int, sums: metrics_lib.Sums, values: dict[str, float] | None) -> None:
        record = {"phase": phase, "step": at, "sums": sums, "seconds": clock.seconds, **(meta or {})}
        checkpoints.save(at, state, record, values)

    def conclude(number: int, sums: metrics_lib.Sums) -> float:
        """Ends the interval of these sums, at step `number`: evaluates, writes, saves; returns when that began."""
        since = time.perf_counter()
        try:
            found = evaluate(state)
        except Preempted:
            # Saved as between two steps, so that no step is lost, and with the sums, so that none of the curves is. The
            # evaluation is made anew when the run goes on, before any step: what is best, and so the end, is the same.
            clock.add("evaluate", since)
            save(number, sums, None)
            checkpoints.wait()
            raise
        clock.add("evaluate", since)
        since = time.perf_counter()
        rates = {f"learning_rate/{name}": float(rate(number - 1)) for name, rate in (schedules or {}).items()}
        values = metrics_lib.means(sums, "train/") | found | rates
        writer.write(phase, number, values)
        checkpoints.drop_after(number - 1)  # the one without figures, if it was stopped here before
        save(number, {}, values)
        memory.trim()
        watch.look(evaluate, f"{phase}, evaluation at step {number}")
        return since

    ahead = _steps_ahead(state)
    history: list[Any] = []  # the device's metrics since the last evaluation, not yet fetched
    since = time.perf_counter()
    profiler = profile.Profiler(steps - start, stride)
    with (
        progress.bar(phase, total=steps, start=start) as bar,
        compiles.Watch().on() as watch,
        contextlib.closing(profiler),
    ):
        if owed:
            since, sums = conclude(start, sums), {}
        for before, batch in zip(range(start, steps, stride), batches(start)):
            if preemption.asked():
                sums = _collect(sums, history, before, checkpoints)
                clock.add("train", since)
                save(before, sums, None)
                checkpoints.wait()
                preemption.check()
            program, number = step(before), before + stride
            profiler.look(program, (state, batch, rng))
            state, metrics = program(state, batch, rng)
            history.append(metrics)
            watch.look(program, f"{phase}, step {number}")
            if len(history) > ahead:
                # The device always has work, and the queue of dispatched steps stays short.
                history[-1 - ahead]["loss"][0].block_until_ready()  # with it the whole step: one call, not one an array
                if bar.due():
                    bar.update(number, metrics_lib.means(metrics_lib.add({}, [history[-1 - ahead]])))
                if (done := len(history) - ahead) >= KEPT:
                    # The numbers of a step are a dozen small arrays: of ten thousand steps they took 500 MB.
                    sums = _collect(sums, history[:done], number - ahead * stride, checkpoints)
                    history = history[done:]
            if number % eval_every and number != steps:
                continue

            sums = _collect(sums, history, number, checkpoints)
            clock.add("train", since)
            since, sums, history = conclude(number, sums), {}, []
    return state


def _steps_ahead(state: TrainState) -> int:
    """How many steps may be under way besides the one that is waited for.

    None on several virtual CPU devices: XLA runs the collectives of all steps on one small pool of threads, where those
    of two steps can wait for each other until it aborts (seen on two busy cores, once in ten runs of 60 steps).
    """
    devices = state.step.sharding.device_set
    return 0 if len(devices) > 1 and next(iter(devices)).platform == "cpu" else 2


def check_stride(stride: int, **multiples: int) -> None:
    """Raises UserError unless `stride` steps a call divide each of these, by name."""
    if stride < 1:
        raise UserError(f"train.steps_per_call is {stride}: it must be >= 1")
    for name, steps in multiples.items():
        if steps % stride:
            raise UserError(
                f"{name} is {steps}, which does not divide by train.steps_per_call, {stride}: "
                f"use {steps // stride * stride + stride}"
            )


def _collect(sums: metrics_lib.Sums, history: list[Any], last: int, checkpoints: Checkpoints) -> metrics_lib.Sums:
    """Fetches the metrics of the steps up to `last`, and stops the run at the first that is not finite."""
    found = [one for metrics in jax.device_get(history) for one in metrics_lib.each(metrics)]
    for number, metrics in enumerate(found, last - len(found) + 1):
        for name in ("loss", "grad_norm"):
            value = float(metrics[name][0])
            if not math.isfinite(value):
                good = checkpoints.latest_step
                raise UserError(
                    f"{name} is {value} at step {number}: lower the learning rate, or set clip; the last good "
                    f"checkpoint is {checkpoints.folder / str(good) if good is not None else '(none yet)'}"
                )
        sums = metrics_lib.add(sums, [metrics])
    return sums
