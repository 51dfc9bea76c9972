"""A learner: an architecture, how it learns, and its compiled step; and what training it in a run gives."""

import bisect
import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from tlx import feature_cache, hosts, loop, metrics, models, optim, parallel, progress, steps
from tlx import rng as rng_lib
from tlx.checkpoint import Checkpoints
from tlx.data import reader, source
from tlx.data.view import make_view
from tlx.errors import UserError
from tlx.pretrained.run import network_only
from tlx.recipes.run import Run
from tlx.state import TrainState
from tlx.workdir import read_json, write_json

PyTree = Any
Teach = Callable[[Iterator[reader.Batch], int], Iterator[reader.Batch]]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network that a phase ended with: the checkpoint that was best on validation.

    `figures` has accuracy and loss on validation and test for it, and `..._last` for the last checkpoint; `correct` is
    which validation images it classifies rightly, [V] bool, for paired tests; `bias` [K] has been added to its head's
    after training.
    """

    phase: str
    learner: "Learner"
    variables: PyTree
    step: int
    figures: dict[str, float]
    correct: np.ndarray
    digest: str
    bias: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Learner:
    """An architecture with its optimiser and its compiled steps: everything about a phase but its data and seed.

    `step(number)` is the program of step `number`: all steps share one, unless groups start to learn later than others.
    Phases that share a learner share its compiled programs: a second student compiles nothing.

    `layout` says where each array of a state lies, see `tlx.parallel.make_layout`.

    Where a `start` is named, steps take that level's activations for images (see `tlx.recipes.features`), and so must
    `examples(split)`, what is evaluated on, hold them.
    """

    run: Run
    options: dict[str, Any]
    train: ConfigDict
    model: Any
    takes: models.Input
    optimizer: optim.Optimizer
    step: Callable[[int], Callable]
    eval_step: Callable
    parameters: int
    layout: TrainState
    examples: Callable[[str], source.Examples]
    start: str = ""

    @property
    def network(self) -> nn.Module:
        """The model as it predicts, without what training alone uses."""
        return self.model.clone(projector=0)

    def make_apply(self) -> Callable:
        """As `tlx.models.make_apply`, of the network."""
        return models.make_apply(self.network, takes=self.takes)

    def init(self, phase: str) -> PyTree:
        """Fresh variables, from the stream of this phase's name."""
        # A network that outgrows a device is never whole on one.
        layout = self.layout.variables(ema=False) if self.run.mesh.shape["model"] > 1 else None
        return _init(self.model, rng_lib.stream(self.key(phase), "init"), self.takes, layout)

    def key(self, phase: str) -> jax.Array:
        """The root key of a phase, which its steps are given."""
        return rng_lib.stream(self.run.rng, phase)

    def state(self, variables: PyTree) -> TrainState:
        """The state before the first step, on the devices."""
        # A copy: steps donate their state, and the variables may be a teacher's, which is needed on.
        variables = jax.tree.map(jnp.copy, variables)
        state = TrainState.create(variables=variables, tx=self.optimizer.tx, ema=self.train.ema_decay > 0)
        return parallel.place(state, self.layout)

    def fit(
        self,
        phase: str,
        *,
        variables: PyTree,
        store: reader.Store,
        streams: Sequence[reader.Stream],
        teach: Teach | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Trained:
        """Trains from `variables`, or goes on with the phase, or takes it from disk if it has ended.

        Args:
          phase: its name, in the folder and in the metrics.
          store, streams: where the batches come from.
          teach: adds a live teacher's columns to the batches; given these, from a step on, and its number.
          meta: kept in its checkpoints.
        """
        run, mark = self.run, self.run.workdir / "phases" / f"{phase}.json"
        run.start()
        run.preemption.check()
        like = self.state(variables)
        shape = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        clock = loop.Clock()
        folder = run.workdir / "checkpoints" / phase
        with contextlib.closing(Checkpoints(folder, keep=self.train.keep)) as checkpoints:
            if mark.exists():
                record = read_json(mark, seal=True)
                clock.seconds = record["seconds"]
            else:
                record = self._fit(phase, like, shape, checkpoints, clock, store, streams, teach, dict(meta or {}))
                write_json(mark, record, seal=True)
            step, best = checkpoints.restore_best(shape)
        for kind, seconds in clock.seconds.items():
            run.clock.seconds[kind] = run.clock.seconds.get(kind, 0.0) + seconds
        return Trained(
            phase=phase,
            learner=self,
            variables=network_only(best.variables()),
            step=step,
            figures=record["figures"],
            correct=np.asarray(record["correct"], bool),
            digest=record["digest"],
        )

    def predict(self, variables: PyTree, store: reader.Store, index: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
        """Exact accuracy and loss over `index` of the store, and the logits [len(index), K]."""
        sums, logits = {}, []
        for batch in self.run.eval_batches(store, index):
            new, rows = self.eval_step(variables, batch)
            sums = metrics.add(sums, [new])
            logits.append(hosts.fetch(rows))
        return metrics.means(sums), np.concatenate(logits)[: len(index)]

    def judge(self, variables: PyTree, split: str) -> tuple[dict[str, float], np.ndarray]:
        """`predict` over all of "validation" or "test"."""
        examples = self.examples(split)
        return self.predict(variables, self.run.store(examples), np.arange(len(examples)))

    def _fit(
        self,
        phase: str,
        state: TrainState,
        shape: TrainState,
        checkpoints: Checkpoints,
        clock: loop.Clock,
        store: reader.Store,
        streams: Sequence[reader.Stream],
        teach: Teach | None,
        meta: dict[str, Any],
    ) -> dict[str, Any]:
        run, train = self.run, self.train
        held_out = self.examples("validation")
        validation, rows = run.store(held_out), np.arange(len(held_out))

        def evaluate(state: TrainState) -> dict[str, float]:
            values, _ = self.predict(state.variables(), validation, rows)
            return {f"validation/{name}": value for name, value in values.items()}

        def batches(start: int) -> Iterator[reader.Batch]:
            read = reader.train_batches(store, streams, start=start, steps=train.steps, together=train.steps_per_call)
            return teach(read, start) if teach else read

        state = loop.fit(
            phase=phase,
            state=state,
            step=self.step,
            batches=batches,
            rng=self.key(phase),
            steps=train.steps,
            stride=train.steps_per_call,
            eval_every=train.eval_every,
            evaluate=evaluate,
            checkpoints=checkpoints,
            writer=run.writer,
            preemption=run.preemption,
            schedules=self.optimizer.schedules,
            meta={"data_seeds": [list(stream.seed) for stream in streams], **meta},
            clock=clock,
        )
        # The test set is read here, when everything that chooses has chosen.
        test = run.store(self.examples("test"))
        everything = np.arange(len(run.dataset.test))
        step, best = checkpoints.restore_best(shape)
        figures = {}
        for suffix, variables in (("_last", state.variables()), ("", best.variables())):
            on_test, _ = self.predict(variables, test, everything)
            on_validation, logits = self.predict(variables, validation, rows)
            figures |= {f"validation_{name}{suffix}": value for name, value in on_validation.items()}
            figures |= {f"test_{name}{suffix}": value for name, value in on_test.items()}
        correct = np.argmax(logits, -1) == held_out.labels
        return {
            "phase": phase,
            "step": step,
            "figures": figures,
            "correct": correct.astype(int),
            "digest": digest(network_only(best.variables())),
            "seconds": clock.seconds,
        }


def make_learner(
    run: Run,
    role: str,
    section: ConfigDict,
    *,
    make_step: Callable,
    scale: float = 1.0,
    takes: models.Input | None = None,
    projector: int = 0,
    projector_level: str = "pooled",
    streams: Mapping[str, int] | None = None,
    cache: Mapping[str, Any] | None = None,
) -> Learner:
    """Builds all of a phase that can be wrong, before anything is compiled, and prints the table of groups.

    Args:
      run: the run.
      role: "teacher", "student": what the table is titled with; "" = without the table.
      section: as `tlx.config.learner` makes it: `model`, options of `models.build`; `optim`, of `make_optimizer`;
        `train`; and `augment`, of `make_augment`, for the training view.
      make_step: a factory of `tlx.steps`, with what is special to it bound.
      scale: multiplies the model's widths.
      takes: the network's input; None = the run's data as they are.
      projector, projector_level: see `tlx.models.Classifier`; the step's `apply` then returns the projection too.
      streams: name -> batch size; each must divide by the devices.
      cache: see `tlx.recipes.supervised`; with `features`, what is learnt starts from a frozen level's activations.
    """
    config, train, devices = run.config, section.train, run.mesh.devices.size
    for key in ("steps", "eval_every", "keep", "accumulate"):
        if train[key] < 1:
            raise UserError(f"train.{key} is {train[key]}: it must be >= 1")
    loop.check_stride(train.steps_per_call, **{f"train.{key}": train[key] for key in ("steps", "eval_every")})
    for name, size in (streams or {"train.batch_size": train.batch_size}).items():
        parallel.check_batch(size, devices, what=name, accumulate=train.accumulate)
    takes = takes or run.takes
    takes.check(run.dataset.image_shape)
    options = models.scale(section.model, scale)
    dtype = jnp.dtype(config.dtype)
    network = models.build(
        **options,
        num_classes=run.num_classes,
        projector=projector,
        projector_level=projector_level,
        dtype=dtype,
        axis_name=run.axis_name,
    )
    shapes = jax.eval_shape(lambda: _init(network, jax.random.key(0), takes))
    levels = models.levels(network, takes.shape)
    made = optim.make_optimizer(
        shapes["params"],
        rules=section.optim.rules,
        groups=section.optim.groups,
        total_steps=train.steps,
        levels=levels,
        batch_stats=shapes.get("batch_stats", {}),
        ramp=run.ramp,
    )
    if role:
        title = f"{role} ({options['name']}): who learns how"
        progress.say(progress.table(title, optim.group_table(shapes["params"], made)))
    view, start = make_view(**section.augment), ""
    if cache and cache["features"]:
        start = feature_cache.cut(
            [*levels, "pooled"], made, batch_stats=shapes.get("batch_stats", {}), level=cache["level"]
        )
        feature_cache.check_options(views=cache["views"], dtype=cache["dtype"], augment=section.augment)
        view = make_view()  # the activations are of augmented images already
    start_of = lambda variables: TrainState.create(variables=variables, tx=made.tx, ema=train.ema_decay > 0)
    layout = parallel.make_layout(jax.eval_shape(start_of, shapes), run.mesh, whole=made.whole)
    programs = []
    for stage in made.stages:
        step = make_step(
            apply=models.make_apply(
                network,
                takes=takes,
                frozen_norms=stage.frozen_norms,
                start=start,
                level="projected" if projector else "",
            ),
            view=view,
            tx=made.tx,
            frozen=stage.frozen,
            ema_decay=train.ema_decay,
            accumulate=train.accumulate,
            axis_name=run.axis_name,
        )
        if train.steps_per_call > 1 and run.ramp is None:  # a range test looks at each step's loss
            step = parallel.repeat(step, train.steps_per_call, config.parallel, run.mesh)
        out = ("state", "whole")
        programs.append(run.parallelize(step, args=("whole", "batch", "whole"), out=out, layout=layout, donate=True))
    begins = [stage.begin for stage in made.stages]
    for begin in begins:
        loop.check_stride(train.steps_per_call, **{"the step at which a later group's start lets it learn": begin})
    eval_step = steps.make_eval_step(
        apply=models.make_apply(network, takes=takes, start=start), view=make_view(), axis_name=run.axis_name
    )
    return Learner(
        run=run,
        options=options,
        train=train,
        model=network,
        takes=takes,
        optimizer=made,
        step=lambda number: programs[bisect.bisect_right(begins, number) - 1],
        eval_step=run.parallelize(eval_step, args=("whole", "batch"), out=("whole", "batch")),
        parameters=models.parameter_count(network_only(shapes)["params"]),
        layout=layout,
        examples=run.examples,
        start=start,
    )


def digest(variables: PyTree) -> str:
    """sha256 of all names and values: two networks are equal bit for bit or differ here."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        sha.update(jax.tree_util.keystr(path).encode())
        sha.update(np.ascontiguousarray(hosts.fetch(leaf)).tobytes())
    return sha.hexdigest()


def _init(model: Any, key: jax.Array, takes: models.Input, layout: PyTree = None) -> PyTree:
    if layout is None:
        return _init_whole(model, key, takes)
    shardings = {name: layout[name] for name in jax.eval_shape(lambda: _init_whole(model, key, takes))}
    return jax.jit(lambda key: _init_whole(model, key, takes), out_shardings=shardings)(key)


@functools.partial(jax.jit, static_argnames=("model", "takes"))  # one program for all phases of a network
def _init_whole(model: Any, key: jax.Array, takes: models.Input) -> PyTree:
    return model.init({"params": key}, jnp.zeros((1, *takes.shape)), train=False)
