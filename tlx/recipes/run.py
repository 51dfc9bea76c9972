"""What every recipe stands on: the run's folder and data, opened once, and learners to train in it.

A recipe is a story in phases. A phase that ended left its mark (`phases/<name>.json`), so a recipe that is started
again walks through its story from the beginning, takes each finished phase from disk, and goes on in the middle of the
one that was interrupted. There is no other bookkeeping of "where we were".
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

import tlx
from tlx import config as config_lib
from tlx import hosts, loop, metrics, models, parallel, progress, reentry, report
from tlx.class_scores import macro_scores
from tlx.data import reader, source, splits
from tlx.errors import UserError
from tlx.preemption import Preemption
from tlx.workdir import begin, is_finished, open_workdir, read_json, writable, write_json

if TYPE_CHECKING:
    from tlx.recipes.learner import Trained


@dataclasses.dataclass
class Run:
    """A run under way.

    Attributes:
      config: resolved and locked.
      mesh: all devices.
      dataset, splits: the data, and which training images are labelled, unlabelled, for validation.
      takes: what a network takes that begins here: the data's images, with the training images' mean and deviation.
      rng: the root key.
      ramp: of a range test, see `tlx.lr_find`.
      workdir: the run's folder; without one (`prepare`) nothing can be fitted, since nothing can be written.
      overwrite: whether the run that it holds is deleted when this one starts.
      from_round: the round that the run it holds is begun anew from when this one starts; 0 = it just goes on.
      kept: the configs of rounds that another one made, see `tlx.reentry.kept`.
      writer, preemption, clock: see their modules; the clock adds up over phases.
      result: of a run that has finished already, else None.
    """

    config: ConfigDict
    mesh: Mesh
    dataset: source.Dataset
    splits: splits.Splits
    takes: models.Input
    rng: jax.Array
    ramp: optax.Schedule | None = None
    workdir: pathlib.Path | None = None
    overwrite: bool = False
    from_round: int = 0
    kept: Sequence[Mapping[str, Any]] = ()
    writer: metrics.MetricWriter | None = None
    preemption: Preemption | None = None
    clock: loop.Clock = dataclasses.field(default_factory=loop.Clock)
    result: dict[str, Any] | None = None
    started: bool = False

    def start(self) -> None:
        """Begins, or goes on with, the folder's record. The first phase calls it, when all that it needs is built."""
        if self.started:
            return
        self.started = True
        hosts.from_first(self._begin)

    def _begin(self) -> None:
        if not self.overwrite and self.other_data():
            raise UserError(
                f"workdir {self.workdir} holds a run on other data: the images or labels have changed since; "
                "choose another --workdir, or --overwrite to delete that run"
            )
        settings = config_lib.to_dict(self.config)
        if self.from_round and reentry.enter(self.workdir, settings, self.from_round):
            progress.say(
                f"{self.workdir}: begun anew from round {self.from_round}; what was made from it on is forgotten"
            )
        begin(self.workdir, settings, overwrite=self.overwrite)
        splits.save(self.splits, self.workdir / "splits.json")
        write_json(self.workdir / "task.json", _task(self), seal=True)

    def config_of(self, number: int) -> ConfigDict:
        """What made, or makes, round `number`: the run's config, or an earlier one if it was begun anew after it."""
        made = reentry.config_of(self.kept, number)
        return config_lib.resolve(made, self.config) if made else self.config

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the data."""
        return source.fingerprint(self.dataset)

    def other_data(self) -> bool:
        """Whether the folder holds a run that began on other images or labels."""
        path = self.workdir / "task.json"
        return path.exists() and read_json(path, seal=True)["fingerprint"] != self.fingerprint

    @property
    def axis_name(self) -> str | None:
        return parallel.axis_name(self.config.parallel)

    @property
    def num_classes(self) -> int:
        return self.dataset.num_classes

    def examples(self, split: str) -> source.Examples:
        """The images of "labeled" or "validation", both of the training set, or of "test"."""
        return self.dataset.test if split == "test" else self.dataset.train.select(getattr(self.splits, split))

    def store(self, examples: source.Examples, **columns: np.ndarray) -> reader.Store:
        """Examples and further columns, ready for `parallel`'s harness."""
        return reader.Store(examples, mesh=self.mesh, mode=self.config.parallel, **columns)

    def labeled_store(self, **columns: np.ndarray) -> reader.Store:
        """The training images, with the labels of the labelled ones only.

        The hidden truth of the others never gets as far as a step: their label is 0 there, and weighs 0.
        """
        weight = np.zeros(len(self.dataset.train), np.float32)
        weight[self.splits.labeled] = 1
        labels = np.where(weight > 0, self.dataset.train.labels, 0).astype(np.int32)
        return self.store(source.Examples(self.dataset.train.images, labels), weight=weight, **columns)

    def stream(self, index: np.ndarray, size: int, name: str) -> reader.Stream:
        """A seeded walk over `index`; `name` sets it apart from the run's other streams."""
        return reader.Stream(index, size, (self.config.seed, *name.encode()))

    def eval_batches(self, store: reader.Store, index: np.ndarray) -> Iterator[reader.Batch]:
        """Rows `index` of the store, once and in order, in batches that divide by the devices.

        Every pass over images but training's comes here, however many they are: before each batch it stops if it was
        asked to (raises Preempted; all hosts ask, as all have the same batches). Nothing of a pass is kept by half.
        """
        devices = self.mesh.devices.size
        size = -(-min(self.config.eval_batch_size, len(index)) // devices) * devices
        for batch in reader.eval_batches(store, index, size):
            if self.preemption:
                self.preemption.check()
            yield batch

    def place(self, variables: Any) -> Any:
        """A network's variables, or several networks', on the devices."""
        return parallel.place(variables, parallel.make_layout(variables, self.mesh))

    def parallelize(self, step: Callable, **kwargs: Any) -> Callable:
        return parallel.parallelize(step, self.config.parallel, self.mesh, **kwargs)


def prepare(config: ConfigDict, *, ramp: optax.Schedule | None = None) -> Run:
    """A run without a folder: the data, their splits, the devices, the root key. No record of it is written."""
    mesh = parallel.make_mesh(config.parallel)
    if config.dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype is {config.dtype!r}: use float32 or bfloat16")
    options = config.data
    dataset = source.load(
        options.name,
        idx_dir=options.idx_dir,
        folder=options.folder,
        image_size=options.image_size,
        channels=options.channels,
        data_dir=options.data_dir,
        classes=tuple(options.classes),
    )
    parts = splits.make_splits(
        dataset.train.labels,
        name=dataset.name,
        seed=config.seed,
        labels_per_class=options.labels_per_class or None,
        validation=options.validation,
    )
    if not len(parts.validation):
        raise UserError("data.validation is 0: checkpoints and promotions are chosen on it; set it above 0")
    return Run(
        config=config,
        mesh=mesh,
        dataset=dataset,
        splits=parts,
        takes=models.Input(dataset.image_shape, *_moments(dataset.train.images)),
        rng=jax.random.key(config.seed),
        ramp=ramp,
    )


@contextlib.contextmanager
def open_run(
    config: ConfigDict, workdir: str | os.PathLike, *, overwrite: bool = False, from_round: int = 0
) -> Iterator[Run]:
    """Opens the folder, the data and the devices; a run that has finished already comes with its `result`."""
    started, settings = time.perf_counter(), config_lib.to_dict(config)
    if from_round:
        if overwrite:
            raise UserError("--overwrite deletes the run whose rounds --from_round keeps: leave one of them out")
        reentry.check(pathlib.Path(workdir).expanduser(), settings, from_round)  # before there is a folder
    with open_workdir(workdir, settings, overwrite=overwrite, from_round=from_round) as folder:
        run = prepare(config)
        goes_on = not overwrite and (not from_round or reentry.done(folder, settings, from_round))
        with Preemption() as preemption:
            run = dataclasses.replace(
                run,
                workdir=folder,
                overwrite=overwrite,
                from_round=from_round,
                kept=() if overwrite else reentry.kept(folder, settings, from_round),
                writer=metrics.MetricWriter(folder),
                preemption=preemption,
                result=read_json(folder / "result.json", seal=True) if goes_on and is_finished(folder) else None,
            )
            run.clock.add("setup", started)
            try:
                with _compile_seconds(run.clock), writable(folder):
                    yield run
            finally:
                run.writer.close()


def run_phase(
    config: Mapping[str, Any],
    workdir: str | os.PathLike,
    *,
    defaults: ConfigDict,
    build: Callable,
    overwrite: bool = False,
    show: Callable[["Run"], None] | None = None,
) -> dict[str, Any]:
    """Runs, or goes on with, a recipe of one phase, "train".

    `build(run)` gives its learner and what `fit` is given; `show(run)` writes what else its report is to show.
    """
    with open_run(config_lib.resolve(config, defaults), workdir, overwrite=overwrite) as run:
        if run.result:
            return finished(run)
        learner, given = build(run)
        trained = learner.fit("train", **given)
        if show:
            show(run)
        return finish(run, trained)


def finished(run: Run) -> dict[str, Any]:
    """For a run that had ended before: says so and gives its result; the folder is left as it is.

    Only a report that is missing (the run was killed between its result and its report) is made.
    """
    progress.say(f"{run.workdir} holds the finished run of this config; --overwrite runs it again")
    if run.other_data():
        progress.say("[yellow]the images or labels have changed since that run[/yellow]")
    _print_result(run.result)
    if hosts.is_first() and not (run.workdir / "report.html").exists():
        progress.say(f"report: {report.write(run.workdir)}")
    return run.result


def finish(run: Run, trained: "Trained", **more: Any) -> dict[str, Any]:
    """Writes the confusion matrix, `result.json` (last, since it says that the run is over) and the report."""
    labels = run.dataset.test.labels
    _, logits = trained.learner.judge(trained.variables, "test")
    confusion = np.zeros((run.num_classes, run.num_classes), int)
    np.add.at(confusion, (labels, np.argmax(logits, -1)), 1)
    seconds = run.clock.seconds
    result = {
        "recipe": run.config.recipe,
        "name": run.config.name,
        "seed": run.config.seed,
        "figures": trained.figures | {f"test_{name}": v for name, v in macro_scores(labels, logits).items()},
        **more,
        "confusion": confusion,
        "class_names": run.dataset.class_names,
        "selected": {
            "phase": trained.phase,
            "step": trained.step,
            "model": trained.learner.options,
            "takes": dataclasses.asdict(trained.learner.takes),
            "dtype": run.config.dtype,
            "parameters": trained.learner.parameters,
            "digest": trained.digest,
            **({"bias": trained.bias} if trained.bias else {}),
        },
        "time": {"total": sum(seconds.values()) - seconds.get("compile", 0.0), **seconds},
        "versions": {"python": platform.python_version(), "tlx": tlx.__version__, **_versions()},
        "git": _git_revision(),
        "devices": f"{run.mesh.devices.size} x {run.mesh.devices.flat[0].device_kind}" + _hosts(),
    }
    write_json(run.workdir / "result.json", result, seal=True)
    hosts.wait("result")
    result = read_json(run.workdir / "result.json", seal=True)
    _print_result(result)
    if hosts.is_first():
        progress.say(f"report: {report.write(run.workdir)}")
    return result


def _print_result(result: dict[str, Any]) -> None:
    if result.get("rounds"):
        progress.say(report.rounds_table(result))
    if result.get("compression"):
        progress.say(report.compression_table(result))
    figures, correct = result["figures"], np.trace(result["confusion"])
    progress.say(
        f"test accuracy {figures['test_accuracy']:.4f} ({correct} of {np.sum(result['confusion'])}), "
        f"validation {figures['validation_accuracy']:.4f}, {result['time']['total']:.0f} s"
    )


def _moments(images: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of at most 10,000 evenly spaced images."""
    index = np.linspace(0, len(images) - 1, min(len(images), 10_000)).astype(int)
    if isinstance(images, source.LazyImages):
        return _moments_of_counts(images, index)
    rows = np.asarray(images[index], np.float64) / 255
    axes = tuple(range(rows.ndim - 1))
    return tuple(rows.mean(axes).tolist()), tuple(np.maximum(rows.std(axes), 1e-3).tolist())


def _moments_of_counts(images: source.LazyImages, index: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The same from how often each value is there, a few images at a time: 10,000 of 224 px are 12 GB as float64."""
    counts = np.zeros((images.shape[-1], 256), int)
    for part in np.array_split(index, -(-len(index) // 64)):
        rows = images[part]
        counts += [np.bincount(rows[..., channel].ravel(), minlength=256) for channel in range(len(counts))]
    share, value = counts / counts.sum(-1, keepdims=True), np.arange(256) / 255
    mean = share @ value
    deviation = np.sqrt((share * (value - mean[:, None]) ** 2).sum(-1))
    return tuple(mean.tolist()), tuple(np.maximum(deviation, 1e-3).tolist())


def _task(run: Run) -> dict[str, Any]:
    """The data that the run is about."""
    return {
        "dataset": run.dataset.name,
        "fingerprint": run.fingerprint,
        "class_names": run.dataset.class_names,
        "image_shape": run.dataset.image_shape,
        "counts": {
            "labeled": len(run.splits.labeled),
            "unlabeled": len(run.splits.unlabeled),
            "validation": len(run.splits.validation),
            "test": len(run.dataset.test),
        },
    }


@contextlib.contextmanager
def _compile_seconds(clock: loop.Clock) -> Iterator[None]:
    """Adds what XLA spends compiling, as jax reports it; it is part of the other kinds' seconds, not beside them."""

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            clock.seconds["compile"] = clock.seconds.get("compile", 0.0) + seconds

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def _hosts() -> str:
    return f" on {jax.process_count()} hosts" if jax.process_count() > 1 else ""


def _versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "ml-collections", "numpy")
    return {name: metadata.version(name) for name in names}


def _git_revision() -> str:
    """The commit of the code, with "+" where it was changed since; "" outside a checkout."""
    root = pathlib.Path(tlx.__file__).parent.parent
    ask = lambda *words: subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=False)
    try:
        revision = ask("rev-parse", "--short", "HEAD")
        changed = ask("status", "--porcelain", "--untracked-files=no")
    except OSError:
        return ""
    return revision.stdout.strip() + ("+" if changed.stdout.strip() else "") if revision.returncode == 0 else ""
