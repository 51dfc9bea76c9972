"""The cases of the GPU suite, and both sides of them: `python -m experiments.speed.run --suite=gpu`.

Each network in float32 (TF32 in matrix products and convolutions, on both sides) and bfloat16, with images and labels
on the device. The ways, of a batch of B images:

    inference    predictions
    supervised   cross-entropy, SGD with momentum (AdamW for the ViT)
    kd_live      T^2 KL + CE, a teacher of the same architecture asked at each step
    kd_kept      the same, its logits kept
    self_train   B / 4 labelled and 3 B / 4 unlabelled images, the teacher's logits kept (tlx only)
    frozen_kept  the head alone, on kept features of the frozen backbone (tlx only)
    scan_8       supervised, eight steps a call (tlx only, small networks)
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

TRAINED = ("supervised", "kd_live", "kd_kept")
ALL = ("inference", *TRAINED, "self_train", "frozen_kept")
RIVALS = ("inference", *TRAINED)  # what the rival does too
T = 4.0


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and what is done with it; `count` different images in memory, `variant` for `vary`."""

    net: str
    dtype: str = "float32"
    batch: int = 128
    shape: tuple[int, int, int] = (224, 224, 3)
    num_classes: int = 1000
    count: int = 512
    ways: tuple[str, ...] = ALL
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.net} {self.dtype}" + (f" {self.variant}" if self.variant else "")

    @property
    def small(self) -> bool:
        return self.net in ("mlp", "cnn", "resnet20")


def _digits(net: str, shape: tuple[int, int, int]) -> Case:
    return Case(net, shape=shape, num_classes=10, count=8192, ways=("supervised", "kd_kept", "scan_8"))


LESS = (*RIVALS, "frozen_kept")
CASES = (
    Case("resnet50", "bfloat16"),
    Case("resnet50", "float32", ways=LESS),
    Case("vit_b16", "bfloat16", ways=("inference", "supervised")),
    Case("efficientnet_lite0", "bfloat16"),
    Case("efficientnet_lite0", "float32", ways=LESS),
    Case("vit_b16", "bfloat16", ways=("supervised",), variant="cudnn_attention"),
    Case("resnet50", "bfloat16", ways=("supervised",), variant="one_multiply_add_norm"),
    _digits("mlp", (28, 28, 1)),
    _digits("cnn", (28, 28, 1)),
    _digits("resnet20", (32, 32, 3)),
)
# The same programs at sizes that a CPU can run, to test the suite.
TINY = (
    Case("resnet20", "bfloat16", batch=16, shape=(32, 32, 3), num_classes=10, count=64),
    Case("mlp", shape=(28, 28, 1), num_classes=10, count=2048, ways=("supervised", "scan_8")),
)


def of(cases: tuple[Case, ...], name: str) -> Case:
    return next(case for case in cases if case.name == name)


# --- tlx ---


def tlx_tasks(case: Case) -> tuple[dict[str, Callable[[int], None]], dict[str, Any]]:
    """The tasks of a case, and {"parameters", "multiply_adds"}."""
    import jax
    import optax

    from experiments.speed import turns
    from tlx import multiply_adds, parallel, steps, teachers

    options = {"name": case.net, "dtype": case.dtype}
    options |= {"mlp": {"widths": (800, 800)}, "cnn": {"widths": (16, 32), "dense": 64}}.get(case.net, {})
    tx = optax.adamw(1e-4) if case.net == "vit_b16" else optax.sgd(1e-3, momentum=0.9)
    bench = turns.Bench(options, shape=case.shape, num_classes=case.num_classes, count=case.count, tx=tx)
    network = functools.partial(bench.network, options)
    logits = {"teacher_logits": bench.logits[:, None]}
    reads = teachers.make_reader(num_classes=case.num_classes)
    distill = functools.partial(steps.make_distill_step, teach=reads, temperature=T, alpha=1.0, beta=1.0)

    def waits(walk: Any) -> Callable[[int], None]:
        task = lambda count: jax.block_until_ready(walk(count))
        task.compile = walk.compile
        return task

    def train(make_step: Callable, sizes: tuple[int, ...] = (case.batch,), columns: Any = None, **more: Any) -> Any:
        return waits(bench.walk(make_step, bench.batches(bench.store(**(columns or {})), *sizes), **more))

    def kd_live() -> Callable[[int], None]:
        taught_by, apply = network(seed=1)
        taught_by = parallel.replicate(taught_by, bench.mesh)
        teach = teachers.make_teach(applies=[apply], view=bench.view)
        args = ("whole", "batch", "whole", "whole")
        program = parallel.parallelize(teach, "jit", bench.mesh, args=args, out="sharded")
        return train(distill, before=lambda batch, n: batch | program((taught_by,), batch, bench.key, np.int32(n)))

    def self_train() -> Callable[[int], None]:
        known = np.arange(case.count) < case.count // 2
        columns = {"labeled": known.astype(np.int8), "teacher_logits": bench.logits}
        columns |= {"weight": known.astype(np.float32), "teacher_weight": (~known).astype(np.float32)}
        sizes = (case.batch // 4, case.batch - case.batch // 4)
        return train(steps.make_self_train_step, sizes, columns, alpha=1.0, temperature=T)

    def inference() -> Callable[[int], None]:
        predict = parallel.parallelize(
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
                out = predict(variables, next(batches))
            jax.block_until_ready(out)

        task.compile = lambda: predict.lower(variables, next(batches)).compile()
        return task

    def frozen_kept() -> Callable[[int], None]:
        from tlx.data.source import Examples

        width = bench.variables["params"]["head"]["kernel"].shape[0]
        features = np.random.default_rng(0).normal(size=(case.count, width)).astype(np.float32)
        frozen = {
            name: jax.tree.map(lambda _, at=name: at != "head", p) for name, p in bench.variables["params"].items()
        }
        tx = optax.multi_transform({True: optax.set_to_zero(), False: optax.sgd(1e-3, momentum=0.9)}, frozen)
        batches = bench.batches(bench.store(Examples(features, bench.examples.labels)), case.batch)
        apply = network(seed=0, start="pooled")[1]
        return waits(bench.walk(steps.make_supervised_step, batches, apply=apply, tx=tx, frozen=frozen))

    def scan_8() -> Callable[[int], None]:
        def make(**options: Any) -> Callable:
            step = steps.make_supervised_step(**options)

            def eight(state: Any, batch: Any, rng: jax.Array) -> tuple[Any, Any]:
                parts = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
                return jax.lax.scan(lambda state, part: step(state, part, rng), state, parts)

            return eight

        eight = train(make, (8 * case.batch,))
        return lambda count: eight(-(-count // 8))

    made = {
        "inference": inference,
        "supervised": lambda: train(steps.make_supervised_step),
        "kd_live": kd_live,
        "kd_kept": lambda: train(distill, columns=logits),
        "self_train": self_train,
        "frozen_kept": frozen_kept,
        "scan_8": scan_8,
    }
    about = {
        "parameters": sum(x.size for x in jax.tree.leaves(bench.variables["params"])),
        "multiply_adds": multiply_adds.multiply_adds(bench.apply, bench.variables, case.shape),
    }
    return {way: made[way]() for way in case.ways}, about


def vary(variant: str) -> None:
    """Puts another formulation of a layer in place of tlx's, for the whole process."""
    import jax

    from tlx.models import norm

    if variant == "cudnn_attention":
        jax.nn.dot_product_attention = functools.partial(_padded_attention, jax.nn.dot_product_attention)
    elif variant == "one_multiply_add_norm":
        sys.modules["tlx.models.resnet"].nn.BatchNorm = norm.BatchNorm


def _padded_attention(attention: Callable, query: Any, key: Any, value: Any) -> Any:
    """cuDNN's fused attention: it refuses 197 tokens (jax 0.11.2), so there are 256, of which it reads 197."""
    import jax.numpy as jnp

    batch, tokens = query.shape[:2]
    pad = lambda x: jnp.pad(x, ((0, 0), (0, -tokens % 64), (0, 0), (0, 0)))
    lengths = {name: jnp.full(batch, tokens, jnp.int32) for name in ("query_seq_lengths", "key_value_seq_lengths")}
    return attention(pad(query), pad(key), pad(value), **lengths, implementation="cudnn")[:, :tokens]


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


def stream_tasks(side: int, count: int, batch: int) -> dict[str, Callable[[int], None]]:
    """Batches of photographs from array_record to the device, and nothing else done there: what feeds the networks."""
    import pathlib
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


# --- PyTorch ---


def torch_tasks(case: Case, device: str, compiled: bool) -> tuple[dict[str, Callable[[int], None]], dict[str, Any]]:
    """As `tlx_tasks`, for the ways in RIVALS: channels_last, autocast, `torch.compile`."""
    import torch
    import torch.nn.functional as F

    from experiments.speed import torch_nets

    torch.set_float32_matmul_precision("high")  # TF32, as cuDNN's convolutions have it and as jax does
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (case.count, *case.shape), dtype=np.uint8)).to(device)
    labels = torch.from_numpy(rng.integers(0, case.num_classes, case.count)).to(device)
    kept = torch.from_numpy(rng.normal(size=(case.count, case.num_classes)).astype(np.float32)).to(device)
    # Small networks wait for the launch of each kernel: CUDA graphs are what PyTorch has against it.
    compile = functools.partial(torch.compile, mode="reduce-overhead" if case.small else "default")
    compile = compile if compiled else lambda net: net
    layout = torch.contiguous_format if case.net == "mlp" else torch.channels_last
    make = lambda: torch_nets.make(case.net).to(device).to(memory_format=layout)
    student, teacher = make().train(), make().eval()
    parameters = sum(p.numel() for p in student.parameters())
    adamw = case.net == "vit_b16"
    optimizer = (
        torch.optim.AdamW(student.parameters(), lr=1e-4, fused=device == "cuda")
        if adamw
        else torch.optim.SGD(student.parameters(), lr=1e-3, momentum=0.9, fused=device == "cuda")
    )
    student, teacher = compile(student), compile(teacher)
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=case.dtype == "bfloat16")

    def look(index: torch.Tensor) -> torch.Tensor:
        x = images[index].permute(0, 3, 1, 2)  # a view: channels_last
        return (x.float() / 255 - 0.13) / 0.31

    def ask_teacher(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), autocast():
            return teacher(x).float()

    def learn(x: torch.Tensor, index: torch.Tensor, said: torch.Tensor | None) -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            logits = student(x)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels[index])
        if said is not None:
            soft = [F.log_softmax(z / T, dim=1) for z in (logits, said)]
            loss = loss + T * T * F.kl_div(*soft, log_target=True, reduction="batchmean")
        loss.backward()
        optimizer.step()

    def one(name: str) -> None:
        index = torch.randint(case.count, (case.batch,)).to(device, non_blocking=True)
        x = look(index)
        if name == "inference":
            ask_teacher(x)
        elif name == "kd_live":
            learn(x, index, ask_teacher(x))
        else:
            learn(x, index, kept[index] if name == "kd_kept" else None)

    def way(name: str) -> Callable[[int], None]:
        def task(count: int) -> None:
            for _ in range(count):
                one(name)
            if device == "cuda":
                torch.cuda.synchronize()

        return task

    return {name: way(name) for name in case.ways if name in RIVALS}, {"parameters": parameters}


def flops(way: str, multiply_adds: int) -> float:
    """Floating-point operations an image, of the network itself: a training step is three predictions' worth."""
    return 2.0 * multiply_adds * {"inference": 1, "kd_live": 4, "frozen_kept": 0}.get(way, 3)


def about_machine(side: str) -> Mapping[str, Any]:
    if side == "tlx":
        import jax

        return {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    import torch

    return {"torch": torch.__version__}
