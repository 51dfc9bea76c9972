"""EfficientNet-Lite0 on a CPU: tlx against the reference PyTorch code in channels_last, alternating, in one run.

    pip install -r requirements.txt torch efficientnet-lite-pytorch     # in one environment, which tlx does not need
    python -m experiments.speed.efficientnet_lite [--threads 2] [--repeats 9] [--compile]

Prints a table and writes efficientnet_lite_THREADS.json beside this file. Each side is a process of its own, and only
one of them works at a time; what counts is the ratio of the medians.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

BATCH, SIZE, CLASSES, RATE = 16, 224, 1000, 1e-3
TASKS = ("forward", "step")


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((BATCH, SIZE, SIZE, 3), np.float32), rng.integers(0, CLASSES, BATCH)


def tlx_tasks() -> dict[str, Callable]:
    import jax
    import jax.numpy as jnp
    import optax

    from tlx import models

    model = models.build("efficientnet_lite0", num_classes=CLASSES)
    images, labels = map(jnp.asarray, images_and_labels())
    variables = jax.jit(lambda key: model.init(key, images[:1], train=False))(jax.random.key(0))
    forward = jax.jit(lambda variables: model.apply(variables, images, train=False))

    def update(variables):
        def loss(params):
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            logits, updated = model.apply(given, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        gradient, updated = jax.grad(loss, has_aux=True)(variables["params"])
        return {"params": jax.tree.map(lambda p, g: p - RATE * g, variables["params"], gradient), **updated}

    update = jax.jit(update, donate_argnums=0)
    state = [jax.tree.map(jnp.copy, variables)]

    def step():
        state[0] = jax.block_until_ready(update(state[0]))

    return {"forward": lambda: jax.block_until_ready(forward(variables)), "step": step}


def torch_tasks(compiled: bool) -> dict[str, Callable]:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    make = lambda: EfficientNet.from_name("efficientnet-lite0", drop_connect_rate=0, dropout_rate=0).to(
        memory_format=torch.channels_last
    )
    images, labels = map(torch.from_numpy, images_and_labels())
    images = images.permute(0, 3, 1, 2)  # a view: channels_last
    evaluated, trained = make().eval(), make().train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=RATE)
    if compiled:
        evaluated, trained = torch.compile(evaluated), torch.compile(trained)

    def forward():
        with torch.inference_mode():
            evaluated(images)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(trained(images), labels).backward()
        optimizer.step()

    return {"forward": forward, "step": step}


def work(side: str) -> None:
    """Reads a task a line, does it, and answers with the seconds of wall and of CPU that it took."""
    tasks = tlx_tasks() if side == "tlx" else torch_tasks(side == "torch_compile")
    answer, sys.stdout = sys.stdout, sys.stderr  # the reference code prints
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        tasks[line.strip()]()
        print(time.perf_counter() - wall, time.process_time() - cpu, file=answer, flush=True)


class Worker:
    """One side's process."""

    def __init__(self, side: str, threads: int):
        cores = sorted(os.sched_getaffinity(0))[:threads]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.speed.efficientnet_lite", "--work", side],
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, task: str) -> tuple[float, float]:
        self.process.stdin.write(f"{task}\n")
        self.process.stdin.flush()
        wall, cpu = map(float, self.process.stdout.readline().split())
        return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="torch.compile too (needs a C++ compiler)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args.work)
    sides = ["tlx", "torch"] + ["torch_compile"] * args.compile
    workers = {side: Worker(side, args.threads) for side in sides}
    seconds = {task: {side: [] for side in sides} for task in TASKS}
    for task in TASKS:
        for repeat in range(-2, args.repeats):  # the first two compile and warm up
            for side, worker in workers.items():
                taken = worker(task)
                if repeat >= 0:
                    seconds[task][side].append(taken)
    for worker in workers.values():
        worker.process.stdin.close()
        worker.process.wait()
    result = {
        "batch": BATCH,
        "size": SIZE,
        "threads": args.threads,
        "repeats": args.repeats,
        "python": platform.python_version(),
        "malloc": {name: value for name, value in os.environ.items() if "MALLOC" in name},
    }
    for task, by_side in seconds.items():
        medians = {
            side: [round(statistics.median(column), 4) for column in zip(*taken)] for side, taken in by_side.items()
        }
        result[task] = {side: {"wall_s": wall, "cpu_s": cpu} for side, (wall, cpu) in medians.items()}
        for side, (wall, cpu) in medians.items():
            ratio = medians["tlx"][0] / wall
            print(f"{task:8} {side:14} wall {wall:.3f} s, cpu {cpu:.3f} s, tlx takes {ratio:.2f} of it")
    path = pathlib.Path(__file__).with_name(f"efficientnet_lite_{args.threads}.json")
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
