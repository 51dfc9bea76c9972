"""Two processes of two virtual devices, one of four and one of one: does every recipe learn the same on them?

    python -m experiments.pods.hosts [--recipes=supervised,distill] [--harnesses=jit,fsdp]

Runs each recipe in small under each harness, with SGD, and writes `hosts.json` and the table in `README.md`: how far
the parameters of the others are from those of the two processes. `tests/test_hosts.py` is made of the same parts.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from ml_collections import ConfigDict

from tlx import checksum, parallel
from tlx.checkpoint import Checkpoints, restore_variables
from tlx.preemption import Preempted, Preemption
from tlx.recipes import distill, self_train, semi_supervised, supervised
from tlx.sweep_table import update_table

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
BEGIN = "<!-- table: made by experiments.pods.hosts -->"
RECIPES = {"supervised": supervised, "distill": distill, "semi_supervised": semi_supervised, "self_train": self_train}
# Name -> (processes, devices of each); the first is what the others are compared with.
MACHINES = {"2 x 2": (2, 2), "1 x 4": (1, 4), "1 x 1": (1, 1)}
# What a child does: joins the others, if there are any, and runs the lines that it is given.
CHILD = """
import sys
import jax
port, processes, process, devices = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", int(devices))
from tlx import hosts as tlx_hosts
if int(processes) > 1:
    tlx_hosts.join(coordinator="localhost:" + port, num_processes=int(processes), process_id=int(process))
from experiments.pods import hosts
"""


def small(recipe: Any, **changes: Any) -> ConfigDict:
    """A config of seconds, with SGD: another order of additions stays another order, and Adam divides by it."""
    learner = ConfigDict(supervised.default_config())
    learner.model = {"name": "mlp", "widths": (16,)}
    learner.optim.groups.all = {"optimizer": "sgd", "learning_rate": 0.05}
    learner.train.update(steps=6, batch_size=8, eval_every=3)
    learner.augment = {"shift": 1}
    given = {name: learner[name].to_dict() for name in ("model", "optim", "train", "augment")}
    made = recipe.default_config()
    made.data.update(labels_per_class=5, validation=50)
    if recipe is self_train:
        made.teacher.update(given)
        made.student.update(given)
        made.update_from_flattened_dict({"rounds": 2, "loss.consistency": 0.5})
    else:
        made.update(given)
    made.update_from_flattened_dict(changes)
    return made


def run_recipes(folder: str | os.PathLike, harnesses: Sequence[str], recipes: Sequence[str]) -> None:
    """Runs each recipe under each harness, into `<folder>/<harness>/<recipe>`; distill's teacher is supervised's."""
    for harness, name in itertools.product(harnesses, recipes):
        at = pathlib.Path(folder) / harness
        taught = {"teacher.run": str(at / "supervised"), "cache.teacher": True, "cache.views": 2}
        changes = {"parallel": harness, **(taught if name == "distill" else {})}
        RECIPES[name].run(small(RECIPES[name], **changes), at / name)


def not_drawn(folder: pathlib.Path) -> pathlib.Path:
    """In the place of `tlx.report.write`, which takes longer than all the rest of a run."""
    return folder / "report.html"


def stop(folder: str | os.PathLike, harness: str) -> None:
    """A self-training run that all hosts are asked to stop at once, in the first student, a step after a checkpoint."""
    since: list[int] = []  # that checkpoint: how often was asked

    def save(checkpoints: Checkpoints, *args: Any) -> None:
        saves(checkpoints, *args)
        since.extend([0] * (checkpoints.folder.name == "round_1" and not since))

    def asked(preemption: Preemption) -> bool:
        if since:
            since[0] += 1
            preemption.requested = signal.SIGTERM if since[0] == 2 else preemption.requested
        return preemption.requested is not None

    (saves, Checkpoints.save), (asks, Preemption.asked) = (Checkpoints.save, save), (Preemption.asked, asked)
    try:
        with contextlib.suppress(Preempted):
            self_train.run(small(self_train, parallel=harness), folder)
    finally:
        Checkpoints.save, Preemption.asked = saves, asks


def start(*arguments: Any, processes: int = 2) -> list[subprocess.Popen]:
    """Python processes of the same arguments, each with its number in the place of `{}`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = lambda i: [sys.executable, *(str(a).replace("{}", str(i)) for a in arguments)]
    env = os.environ | {"XLA_FLAGS": flags_of_children()}
    return [subprocess.Popen(command(i), env=env, text=True, cwd=ROOT, **pipes) for i in range(processes)]


def flags_of_children() -> str:
    """XLA_FLAGS of this process but for its number of devices: a child has devices of its own."""
    return " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag)


def start_children(lines: str, *, processes: int, devices: int) -> list[subprocess.Popen]:
    """Processes that run `lines` together, in which `hosts` is this module and {process} the number of each."""
    code = CHILD + lines.replace("{process}", "{}")
    return start("-c", code, free_port(), processes, "{}", devices, processes=processes)


def ends(children: Sequence[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """(exit code, standard output, standard error) of each, when they have ended."""
    try:
        said = [child.communicate(timeout=500) for child in children]
    finally:
        for child in children:
            child.kill()
    return [(child.returncode, *texts) for child, texts in zip(children, said, strict=True)]


def free_port() -> str:
    """Of this machine, for now."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])


def parameters(run: str | os.PathLike) -> dict[str, np.ndarray]:
    """Those that each phase of a run ended with, by phase and path: also of a student that was not chosen."""
    found = {}
    for phase in sorted((pathlib.Path(run) / "checkpoints").iterdir()):
        last = max(int(step.name) for step in phase.iterdir() if step.name.isdecimal())
        flat = checksum.named(restore_variables(phase, last))
        found |= {f"{phase.name}/{path}": np.asarray(leaf) for path, leaf in flat.items()}
    return found


def compare(folder: pathlib.Path, harnesses: Sequence[str], recipes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A record a recipe, harness and machine: the largest difference of a parameter, and the largest parameter."""
    ours, *others = MACHINES
    for name, harness, other in itertools.product(recipes, harnesses, others):
        wanted, got = (parameters(folder / machine / harness / name) for machine in (ours, other))
        differ = max(float(np.abs(got[path] - wanted[path]).max()) for path in wanted | got)
        largest = max(float(np.abs(x).max()) for x in wanted.values())
        yield {"recipe": name, "harness": harness, "machine": other, "difference": differ, "largest": largest}


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a recipe and machine, a column a harness."""
    harnesses = list(dict.fromkeys(r["harness"] for r in records))
    found = {(r["recipe"], r["machine"], r["harness"]): r["difference"] for r in records}
    rows = list(dict.fromkeys((r["recipe"], r["machine"]) for r in records))
    lines = [["recipe", f"{next(iter(MACHINES))} against", *harnesses], ["---", "---", *["---:"] * len(harnesses)]]
    lines += [[*row, *(f"{found[*row, harness]:.1e}" for harness in harnesses)] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs, compares, and writes the record; ends with 1 if a run failed."""
    parser = argparse.ArgumentParser("python -m experiments.pods.hosts", description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default=",".join(RECIPES), help="distill needs supervised before it")
    parser.add_argument("--harnesses", default=",".join(parallel.MODES))
    parser.add_argument("--into", type=pathlib.Path, default=HERE / "hosts.json", help="the record")
    options = parser.parse_args(argv)
    recipes, harnesses = options.recipes.split(","), options.harnesses.split(",")
    with tempfile.TemporaryDirectory(prefix="tlx-hosts-") as name:
        folder = pathlib.Path(name)
        for machine, (processes, devices) in MACHINES.items():
            lines = "import tlx.report\ntlx.report.write = hosts.not_drawn\n"
            lines += f"hosts.run_recipes({str(folder / machine)!r}, {harnesses}, {recipes})"
            for code, _, err in ends(start_children(lines, processes=processes, devices=devices)):
                if code:
                    print(f"{machine}: {err[-2000:]}", file=sys.stderr)
                    return 1
        records = list(compare(folder, harnesses, recipes))
    result = {"records": records, "jax": jax.__version__, "platform": jax.default_backend()}
    options.into.write_text(json.dumps(result, indent=1) + "\n")
    if options.into == HERE / "hosts.json":
        update_table(HERE / "README.md", table(records), begin=BEGIN)
    print(table(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
