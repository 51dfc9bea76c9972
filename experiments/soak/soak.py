"""Student after student for hours: memory must not grow, and after the first student nothing is compiled.

    python -m experiments.soak.soak --minutes=120 [--every=10] [--steps=100000] [--workdir=FOLDER]

A run of self-training on digits through `tlx.loop`, with evaluations and checkpoints, which ends as if it had been
asked to stop by its cluster. Time in which the process is held by SIGSTOP does not count. Writes `results.json` as it
goes, and says at the end whether resident memory stayed within 2 % after warm-up and no program was made; ends with 1
if not. Stop it (Ctrl-C) whenever you like: what it measured until then is judged.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from ml_collections import ConfigDict

from tlx import compiles, memory
from tlx.preemption import Preempted, Preemption
from tlx.recipes import self_train
from tlx.workdir import write_json

HERE = pathlib.Path(__file__).parent
LIMIT = 0.02  # of the memory after warm-up
WARM = 0.1  # the part of the time that is warm-up, and two students at least
SAMPLED = ("seconds", "rss_mb", "private_mb", "compiled", "students")
WINDOWS = 10  # of what follows: their medians are compared


def config(*, steps: int) -> ConfigDict:
    """More students than hours have room for, each with ten evaluations and checkpoints."""
    made = self_train.default_config()
    made.name, made.rounds = "soak", 5000
    made.data.update(labels_per_class=10, validation=100)
    for section in (made.teacher, made.student):
        section.model = {"name": "mlp", "widths": (64,), "dropout": 0.2}
        section.train.update(steps=steps, batch_size=16, eval_every=-(-steps // 10), ema_decay=0.99)
        section.augment = {"shift": 1, "noise": 0.1}
    made.loss.consistency = 0.5
    return made


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m experiments.soak.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two looks at the memory")
    parser.add_argument("--steps", type=int, default=100_000, help="of a student")
    parser.add_argument("--students", type=int, default=4000, help="after so many it ends in any case")
    parser.add_argument("--workdir", type=pathlib.Path, help="of the run, which is kept; else it is a temporary one")
    parser.add_argument("--into", type=pathlib.Path, default=HERE / "results.json", help="the results")
    options = parser.parse_args(argv)
    memory.keep()  # as the command does
    with tempfile.TemporaryDirectory(prefix="tlx-soak-") as folder:
        workdir = options.workdir or pathlib.Path(folder) / "run"
        # The outer Preemption: a stop that comes when the run is not ready for it does not end this process.
        with compiles.strict(), compiles.counted() as names, Preemption():
            with _sampled(workdir, names, options) as record, contextlib.suppress(Preempted):
                self_train.run(config(steps=options.steps), workdir)
    record |= {"verdict": judge(record)}
    write_json(options.into, record, indent=None)
    print(json.dumps(record["verdict"], indent=1))
    return 0 if record["verdict"]["flat"] and record["verdict"]["compiled"] == 0 else 1


def judge(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the samples say.

    Returns:
      seconds and students in all; warm_up_seconds; rss_mb and private_mb after it, the lowest and highest of WINDOWS
      medians, and `growth`, by which part one of private_mb's is above an earlier one at most; mb_per_hour, the slope
      of a line through all its samples after warm-up; compiled, how many programs were made after it; flat, whether
      growth is at most LIMIT.
    """
    seconds, rss, private, compiled, students = (np.asarray(record[name]) for name in SAMPLED)
    warm = (seconds >= WARM * seconds[-1]) & (students >= 2)
    if warm.sum() < WINDOWS:
        raise SystemExit(f"{warm.sum()} samples after warm-up are too few to judge: give it more --minutes")
    windows = lambda memory: [float(np.median(part)) for part in np.array_split(memory[warm], WINDOWS)]
    medians = windows(private)
    growth = max(later / min(medians[:number]) - 1 for number, later in enumerate(medians) if number)
    return {
        "seconds": float(seconds[-1]),
        "students": int(students[-1]),
        "warm_up_seconds": float(seconds[warm][0]),
        "rss_mb": [min(windows(rss)), max(windows(rss))],
        "private_mb": [min(medians), max(medians)],
        "growth": round(growth, 4),
        "mb_per_hour": round(float(np.polyfit(seconds[warm] / 3600, private[warm], 1)[0]), 2),
        "compiled": int(compiled[warm][-1] - compiled[warm][0]),
        "flat": growth <= LIMIT,
    }


@contextlib.contextmanager
def _sampled(workdir: pathlib.Path, names: list[str], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Looks every so often, while this is entered, and asks the run to stop when the time is over."""
    record: dict[str, Any] = {
        "every": options.every,
        "jax": jax.__version__,
        "cores": os.cpu_count(),
        **{name: [] for name in SAMPLED},
    }
    over = threading.Event()

    def look() -> None:
        last, passed = time.monotonic(), 0.0
        while not over.wait(options.every):
            now = time.monotonic()
            # A process that was held (SIGSTOP, for a benchmark beside it) took no steps: that time does not count.
            last, passed = now, passed + min(now - last, 2 * options.every)
            students = len(list((workdir / "phases").glob("round_*.json")))
            for name, value in zip(SAMPLED, (round(passed, 1), *_memory(), len(names), students)):
                record[name].append(value)
            write_json(options.into, record, indent=None)
            if passed > options.minutes * 60 or students >= options.students:
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield record
    finally:
        over.set()
        thread.join()


def _memory() -> tuple[float, float]:
    """MB of this process that are resident, and of these its own: without the files that it maps, such as libraries,
    which the system drops and fetches again as it likes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    found = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    return round(found["VmRSS:"], 1), round(found["RssAnon:"], 1)


if __name__ == "__main__":
    sys.exit(main())
