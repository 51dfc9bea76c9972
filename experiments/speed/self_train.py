"""A step of self-training, 32 labelled and 160 unlabelled images, against a supervised step on as many images.

    python -m experiments.speed.self_train     # writes experiments/speed/self_train.json; add --threads 1 for one core

"taught" learns from labels and from the teacher's, kept for the round: one program, one forward pass. "consistent" has
the consistency term too, whose target is a second forward pass on the clean images.
"""

import pathlib

import numpy as np

from experiments.speed import turns

LABELED, UNLABELED = 32, 160
AUGMENT = {"rotate": 15.0, "scale": 0.15, "translate": 2.0}
CASES = {  # name -> network, steps a turn
    "mlp 800-800": ({"name": "mlp", "widths": (800, 800), "dropout": 0.5}, 20),
    "cnn 16-32": ({"name": "cnn", "widths": (16, 32), "dense": 64, "dropout": 0.5}, 10),
}


def measure(options: dict, turn: int, repeats: int) -> dict[str, float]:
    """Median seconds a step of "plain", "taught" and "consistent"."""
    from tlx import steps

    bench = turns.Bench(options, **AUGMENT)
    known = np.arange(turns.COUNT) < turns.COUNT // 2
    weights = {"weight": known.astype(np.float32), "teacher_weight": (~known).astype(np.float32)}
    told = bench.store(labeled=known.astype(np.int8), teacher_logits=bench.logits, **weights)
    both = lambda: bench.batches(told, LABELED, UNLABELED)
    walks = {
        "plain": bench.walk(steps.make_supervised_step, bench.batches(bench.store(), LABELED + UNLABELED)),
        "taught": bench.walk(steps.make_self_train_step, both(), alpha=1.0),
        "consistent": bench.walk(steps.make_self_train_step, both(), alpha=1.0, consistency=1.0),
    }
    return turns.take_turns(walks, turn=turn, repeats=repeats)


if __name__ == "__main__":
    turns.main(
        lambda repeats: {name: measure(*case, repeats) for name, case in CASES.items()},
        pathlib.Path(__file__).with_suffix(".json"),
    )
