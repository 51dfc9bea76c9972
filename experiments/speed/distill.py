"""A step of distillation, its teacher live or kept, against a supervised step of the same student; batches of 128.

    python -m experiments.speed.distill     # writes experiments/speed/distill.json; add --threads 1 for one core

"kept" reads what the teacher said from the batch; "live" asks it at each step.
"""

import functools
import pathlib

import numpy as np

from experiments.speed import turns

# name -> teacher, student, steps a turn
CASES = {
    "mlp 1200-1200 -> 800-800": (
        {"name": "mlp", "widths": (1200, 1200)},
        {"name": "mlp", "widths": (800, 800)},
        40,
    ),
    "cnn 64-128 -> 16-32": (
        {"name": "cnn", "widths": (64, 128), "dense": 256},
        {"name": "cnn", "widths": (16, 32), "dense": 64},
        20,
    ),
}


def measure(teacher_options: dict, student_options: dict, turn: int, repeats: int) -> dict[str, float]:
    """Median seconds a step of "plain", "kept" and "live"."""
    from tlx import parallel, steps, teachers

    bench = turns.Bench(student_options)
    taught_by, apply = bench.network(teacher_options, seed=1)
    taught_by = parallel.replicate(taught_by, bench.mesh)  # or each step would carry the weights to the device
    program = parallel.parallelize(
        teachers.make_teach(applies=[apply], view=bench.view),
        "jit",
        bench.mesh,
        args=("whole", "batch", "whole", "whole"),
        out="sharded",
    )
    make_step = functools.partial(
        steps.make_distill_step,
        teach=teachers.make_reader(num_classes=10),
        temperature=4.0,
        alpha=0.9,
        beta=0.1,
    )
    live = lambda batch, number: batch | program((taught_by,), batch, bench.key, np.int32(number))
    plain, kept = bench.store(), bench.store(teacher_logits=bench.logits[:, None])
    walks = {
        "plain": bench.walk(steps.make_supervised_step, bench.batches(plain, 128)),
        "kept": bench.walk(make_step, bench.batches(kept, 128)),
        "live": bench.walk(make_step, bench.batches(plain, 128), live),
    }
    return turns.take_turns(walks, turn=turn, repeats=repeats)


if __name__ == "__main__":
    turns.main(
        lambda repeats: {name: measure(*case, repeats) for name, case in CASES.items()},
        pathlib.Path(__file__).with_suffix(".json"),
    )
