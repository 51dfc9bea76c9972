"""How long a stop takes: `python -m experiments.speed.stop`, writes stop.json.

A process runs the loop on a training state of ViT-S/16 with Adam, is sent a SIGTERM, and counts as stopped when it has
ended: between two steps; in the middle of an evaluation; and right after one, when its checkpoint is still being
written. Steps and batches of the evaluation compute nothing, and take a tenth of a second each: what is measured is
what a stop takes beside the one that is under way.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

OUT = pathlib.Path(__file__).with_suffix(".json")
MOMENTS = ("between two steps", "in an evaluation", "right after an evaluation")
EVERY, BATCHES, PART = 10, 50, 0.1  # steps between evaluations, batches of an evaluation, seconds of each of both


def run(moment: str, folder: pathlib.Path) -> int:
    """The process that is stopped: asks for it itself, when `moment` has come, and says so."""
    import jax
    import jax.numpy as jnp

    from experiments.speed.checkpoint import training_state
    from tlx import loop
    from tlx.checkpoint import ACCURACY, LOSS, Checkpoints
    from tlx.metrics import MetricWriter
    from tlx.preemption import Preempted, Preemption

    def part(reached: str) -> None:
        if reached == moment:
            print("asked", time.process_time(), flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PART)

    def batches(start: int) -> Iterator[dict[str, Any]]:
        for number in range(start, 2 * EVERY):
            part({EVERY // 2: MOMENTS[0], EVERY: MOMENTS[2]}.get(number, ""))
            yield {}

    with Preemption() as preemption, contextlib.closing(Checkpoints(folder / "checkpoints")) as checkpoints:

        def evaluate(state: Any) -> dict[str, float]:
            for number in range(BATCHES):
                preemption.check()
                part(MOMENTS[1] if number == BATCHES // 2 else "")
            return {ACCURACY: 0.5, LOSS: 1.0}

        one = (jnp.ones(()), jnp.ones(()))
        step = jax.jit(
            lambda state, batch, rng: (state.replace(step=state.step + 1), {"loss": one, "grad_norm": one}),
            donate_argnums=0,
        )
        try:
            loop.fit(
                phase="stop",
                state=training_state(),
                step=lambda number: step,
                batches=batches,
                rng=jax.random.key(0),
                steps=2 * EVERY,
                eval_every=EVERY,
                evaluate=evaluate,
                checkpoints=checkpoints,
                writer=MetricWriter(folder),
                preemption=preemption,
            )
        except Preempted as e:
            return e.exit_code
    return 0


def measure(moment: str) -> dict[str, float]:
    """From the signal to the end of the process, which has saved by then: its seconds, and those of CPU in them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.speed.stop", f"--moment={moment}", f"--folder={folder}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while "asked" not in (line := process.stdout.readline()):
                assert line, "it ended unasked"
            asked = time.perf_counter()
            process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - asked
            process.returncode = code = os.waitstatus_to_exitcode(status)
        saved = [int(path.name) for path in (pathlib.Path(folder) / "checkpoints").iterdir()]
    assert code == 128 + signal.SIGTERM and saved == [EVERY // 2 if moment == MOMENTS[0] else EVERY], (code, saved)
    return {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime - float(line.split()[1])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--moment", choices=MOMENTS, help="be the process that is stopped then")
    parser.add_argument("--folder", type=pathlib.Path, help="of that process")
    options = parser.parse_args()
    if options.moment:
        return run(options.moment, options.folder)
    result: dict[str, Any] = {"repeats": options.repeats}
    for moment in MOMENTS:
        measured = [measure(moment) for _ in range(options.repeats)]
        result[moment] = {name: statistics.median(m[name] for m in measured) for name in ("seconds", "cpu")}
    result |= {"cores": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()[0]}
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
