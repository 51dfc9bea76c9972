"""Lee (2013), "Pseudo-Label: the simple and efficient semi-supervised learning method", on MNIST: one run, one seed.

    python -m tlx.main --config=experiments/lee2013/config.py:labels=100 --workdir=runs/without
    python -m tlx.main --config=experiments/lee2013/config.py:labels=100,pseudo_labels --workdir=runs/with

A network of one hidden layer with dropout, on labels alone, or with its own most probable classes as the labels of the
other images from the first tenth of the run on. MNIST as IDX files (`data=FOLDER`).
"""

from ml_collections import ConfigDict

from experiments.idx import few_labels
from tlx import config as tlx_config
from tlx.recipes import semi_supervised, supervised

STEPS = 1_500
BATCH, RATIO = 32, 4  # labelled images a step, and unlabelled ones for each of them


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: labels=100 (in all), pseudo_labels, units=5000, data=FOLDER, seed=0, runlocal."""
    arg = tlx_config.parse_arg(
        arg, labels=100, pseudo_labels=False, units=5000, data="../shared/data/mnist", seed=0, runlocal=False
    )
    c = (semi_supervised if arg.pseudo_labels else supervised).default_config()
    c.name = f"lee2013_{arg.labels}" + ("_pseudo_labels" if arg.pseudo_labels else "")
    c.seed = arg.seed
    c.model = {"name": "mlp", "widths": (arg.units,), "dropout": 0.5, "input_dropout": 0.2}
    c.optim = tlx_config.optim(all={"learning_rate": 1e-3, "warmup": 0.02})
    c.train.update(steps=STEPS, batch_size=BATCH, eval_every=STEPS // 10)
    if arg.pseudo_labels:
        c.unlabeled_ratio = float(RATIO)
        c.consistency.update(kind="ce", hard=True, target="student", sees="weak")
        # The paper's alpha(t): 0 at first, then a straight line to its last value.
        c.loss.consistency = 0.0
        c.loss.schedules = {"consistency": {"to": 1.0, "begin": 0.1, "end": 0.6}}
    return few_labels(c, arg.data, labels=arg.labels, runlocal=arg.runlocal)
