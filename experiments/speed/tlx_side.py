"""tlx's side of the comparison: the steps of its recipes, on the reader's batches, without the loop around them."""

import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.speed import turns
from experiments.speed.cases import Case, T, arrays

DTYPES = ("bfloat16", "float32")
MOST = 25  # operations of a profile


def tasks(case: Case) -> tuple[dict[str, Callable[[int], None]], dict[str, Any]]:
    """The tasks of a case, and {"parameters", "multiply_adds"}; those of training have `learn(seed) -> accuracy`."""
    import jax
    import jax.numpy as jnp
    import optax

    from tlx import multiply_adds, parallel, steps, teachers

    given = arrays(case)
    tx = {"adamw": optax.adamw, "adam": optax.adam, "sgd": functools.partial(optax.sgd, momentum=0.9)}
    tx = tx[case.optimizer](case.rate)
    images, labels = given["train_images"], given["train_labels"]
    bench = turns.Bench(case.options(), images=images, labels=labels, num_classes=case.num_classes, tx=tx)
    reads = teachers.make_reader(num_classes=case.num_classes)
    distill = functools.partial(steps.make_distill_step, teach=reads, temperature=T, alpha=1.0, beta=1.0)

    def waits(walk: Any, learns: bool = case.learn > 0) -> Callable[[int], None]:
        task = profiled(lambda count: jax.block_until_ready(walk(count)), walk.compile)
        if learns:
            task.learn = lambda seed: learn(walk, seed)
        return task

    def learn(walk: Any, seed: int) -> float:
        walk.begin(bench.network(case.options(), seed=seed)[0])
        found = predict(walk(case.learn).variables(), bench.apply, given["test_images"])
        return float(np.mean(np.argmax(found, -1) == given["test_labels"]))

    def predict(variables: Any, apply: Callable, images: np.ndarray) -> np.ndarray:
        """Logits [N, K]."""
        logits = jax.jit(lambda v, x: apply(v, jnp.float32(x) / 255, train=False)[0])
        parts = np.array_split(images, -(-len(images) // 1000))
        return np.concatenate([np.asarray(logits(variables, part)) for part in parts])

    @functools.cache
    def teacher() -> tuple[Any, Callable]:
        """(variables, apply)"""
        variables, apply = bench.network(case.options(teacher=True), seed=1)
        if case.learn:
            batches = bench.batches(bench.store(), case.batch)
            walk = bench.walk(steps.make_supervised_step, batches, apply=apply, variables=variables)
            variables = jax.device_get(walk(case.learn).variables())
        return variables, apply

    def logits() -> np.ndarray:
        """What the teacher says of the training images, [N, K]; random, where it is not trained either."""
        return predict(*teacher(), images) if case.learn else bench.logits

    def train(make_step: Callable, sizes: tuple[int, ...] = (case.batch,), columns: Any = None, **more: Any) -> Any:
        return waits(bench.walk(make_step, bench.batches(bench.store(**(columns or {})), *sizes), **more))

    def kd_live() -> Callable[[int], None]:
        taught_by, apply = teacher()
        taught_by = parallel.replicate(taught_by, bench.mesh)
        teach = teachers.make_teach(applies=[apply], view=bench.view)
        args = ("whole", "batch", "whole", "whole")
        program = parallel.parallelize(teach, "jit", bench.mesh, args=args, out="sharded")
        return train(distill, before=lambda batch, n: batch | program((taught_by,), batch, bench.key, np.int32(n)))

    def self_train() -> Callable[[int], None]:
        known = np.arange(len(images)) < -(-len(images) // 2)
        columns = {"labeled": known.astype(np.int8), "teacher_logits": logits()}
        columns |= {"weight": known.astype(np.float32), "teacher_weight": (~known).astype(np.float32)}
        sizes = (case.labeled, case.batch - case.labeled)
        return train(steps.make_self_train_step, sizes, columns, alpha=1.0, temperature=T)

    def inference() -> Callable[[int], None]:
        program = parallel.parallelize(
            lambda variables, batch: bench.apply(
                variables, bench.view(batch["image"], batch["slot"], None), train=False
            )[0],
            "jit",
            bench.mesh,
            args=("whole", "batch"),
            out="sharded",
        )
        batches, variables = bench.batches(bench.store(), case.batch), parallel.replicate(bench.variables, bench.mesh)

        def task(count: int) -> None:
            for _ in range(count):
                out = program(variables, next(batches))
            jax.block_until_ready(out)

        return profiled(task, lambda: program.lower(variables, next(batches)).compile())

    def frozen_kept() -> Callable[[int], None]:
        from tlx.data.source import Examples

        width = bench.variables["params"]["head"]["kernel"].shape[0]
        features = np.random.default_rng(0).normal(size=(len(images), width)).astype(np.float32)
        frozen = {
            name: jax.tree.map(lambda _, at=name: at != "head", p) for name, p in bench.variables["params"].items()
        }
        alone = optax.multi_transform({True: optax.set_to_zero(), False: tx}, frozen)
        batches = bench.batches(bench.store(Examples(features, bench.examples.labels)), case.batch)
        apply = bench.network(case.options(), seed=0, start="pooled")[1]
        walk = bench.walk(steps.make_supervised_step, batches, apply=apply, tx=alone, frozen=frozen)
        return waits(walk, learns=False)

    def scan_8() -> Callable[[int], None]:
        walk = bench.walk(steps.make_supervised_step, bench.batches(bench.store(), case.batch, together=8), together=8)
        return profiled(lambda count: jax.block_until_ready(walk(-(-count // 8))), walk.compile)

    made = {
        "inference": inference,
        "supervised": lambda: train(steps.make_supervised_step),
        "kd_live": kd_live,
        "kd_kept": lambda: train(distill, columns={"teacher_logits": logits()[:, None]}),
        "self_train": self_train,
        "frozen_kept": frozen_kept,
        "scan_8": scan_8,
    }
    about = {
        "parameters": sum(x.size for x in jax.tree.leaves(bench.variables["params"])),
        "multiply_adds": multiply_adds.multiply_adds(bench.apply, bench.variables, case.shape),
    }
    return {way: made[way]() for way in case.ways}, about


def profiled(task: Callable[[int], None], compile: Callable[[], Any]) -> Callable[[int], None]:
    """The task, with what `run --profile` asks of it."""
    task.compile, task.profile = compile, lambda folder: operations(task, compile, folder)
    return task


def operations(task: Callable[[int], None], compile: Callable, folder: str) -> list[tuple[float, str, str]]:
    """The most expensive operations of three steps: (milliseconds a step, name, the path by which it came from the
    step). The trace is left in `folder`, with the program's text."""
    import jax

    from tlx import profile

    path, steps = pathlib.Path(folder), 3
    path.mkdir(parents=True, exist_ok=True)
    text = compile().as_text()
    (path / "program.txt").write_text(text)
    task(2)
    with jax.profiler.trace(folder):
        task(steps)
    (trace,) = sorted(path.rglob("*.xplane.pb"))[-1:]
    costs = [(1e3 * seconds / steps, name) for of in profile.operations(trace).values() for name, seconds in of.items()]
    sources = profile.sources(text)
    return [(round(ms, 4), name, sources.get(name, "")) for ms, name in sorted(costs, reverse=True)[:MOST]]


def vary(variant: str) -> None:
    """Puts another formulation of a layer in place of tlx's, for the whole process."""
    from tlx.models import attention, norm

    if variant == "plain_attention":
        attention.FUSED = ()
    elif variant == "aligned_attention":
        sys.modules["tlx.models.vit"].attend = _aligned_attention
    elif variant == "one_multiply_add_norm":
        sys.modules["tlx.models.resnet"].nn.BatchNorm = norm.BatchNorm


def _aligned_attention(query: Any, key: Any, value: Any) -> Any:
    """The plain form over 200 tokens in place of 197, of which the added ones are not read: rows of 8 are aligned."""
    import jax
    import jax.numpy as jnp

    batch, tokens = query.shape[:2]
    pad = lambda x: jnp.pad(x, ((0, 0), (0, -tokens % 8), (0, 0), (0, 0)))
    lengths = {"key_value_seq_lengths": jnp.full(batch, tokens, jnp.int32)}
    return jax.nn.dot_product_attention(pad(query), pad(key), pad(value), **lengths)[:, :tokens]


def matmul_task(dtype: str, side: int) -> Callable[[int], None]:
    """A product of two random matrices of `side` x `side`: the peak that the networks are held against."""
    import jax
    import jax.numpy as jnp

    a, b = (jax.random.normal(jax.random.key(i), (side, side), jnp.dtype(dtype)) for i in range(2))
    product = jax.jit(lambda a, b: a @ b)

    def task(count: int) -> None:
        for _ in range(count):
            out = product(a, b)
        jax.block_until_ready(out)

    return task


def machine_tasks(side: int, photos: tuple[int, int, int]) -> dict[str, Callable[[int], None]]:
    """What a GPU's networks are held against; `photos`: pixels, how many, of a batch."""
    return {f"matmul {dtype}": matmul_task(dtype, side) for dtype in DTYPES} | stream_tasks(*photos)


def stream_tasks(side: int, count: int, batch: int) -> dict[str, Callable[[int], None]]:
    """Batches of photographs from array_record to the device, and nothing else done there: what feeds the networks."""
    import tempfile

    import jax

    from experiments.speed import input as pipeline
    from tlx import parallel
    from tlx.data import reader

    folder = tempfile.mkdtemp(prefix="tlx-photos-")
    photos = pipeline.Photos(side, count, batch)
    examples = pipeline.make(photos, pathlib.Path(folder))(in_memory_bytes=0)
    stream, mesh = reader.Stream(np.arange(count), batch, (0,)), parallel.make_mesh()

    def task(threads: int) -> Callable[[int], None]:
        store = reader.Store(examples, mesh=mesh, mode="jit", threads=threads)
        batches = reader.train_batches(store, [stream], start=0, steps=10**6)

        def read(steps: int) -> None:
            for _ in range(steps):
                jax.block_until_ready(next(batches))

        return read

    return {f"streamed {threads} threads": task(threads) for threads in (1, 8, 16)}


def about() -> dict[str, str]:
    import jax

    return {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
