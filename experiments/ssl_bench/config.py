"""Semi-supervised methods against each other, on the same network, data, splits, batches and steps: one run, one seed.

    python -m tlx.main --config=experiments/ssl_bench/config.py:method=fixmatch,labels=40 --workdir=runs/fixmatch

MNIST or Fashion-MNIST as IDX files (`data=FOLDER`). A method is what METHODS says and nothing else; the table of all is
in experiments/ssl_bench/README.md.
"""

from ml_collections import ConfigDict

from experiments.idx import few_labels
from tlx import config as tlx_config
from tlx.models.options import check_choice
from tlx.recipes import self_train, semi_supervised, supervised

STEPS = 1_000
BATCH, RATIO = 32, 4  # labelled images a step, and unlabelled ones for each of them
MODEL = {"name": "cnn", "widths": (16, 32), "dense": 64, "dropout": 0.5}
LARGE = MODEL | {"widths": (32, 64), "dense": 128}  # with twice as many steps
WEAK = {"shift": 2}
STRONG = {"rotate": 15.0, "scale": 0.15, "shear": 0.15, "translate": 3.0, "cutout": 8}

RAMPED_UP = {"consistency": 0.0, "schedules": {"consistency": {"to": 50.0, "shape": "sigmoid", "end": 0.4}}}

# What a method sets, of the recipe semi_supervised unless it names another. What is not here is the same for all.
METHODS = {
    "supervised": {"recipe": "supervised", "augment": STRONG},
    "pi_model": {
        "augment": WEAK,
        "consistency": {"kind": "mse", "target": "student", "sees": "noised"},
        "loss": RAMPED_UP,
    },
    "pseudo_label": {
        "augment": WEAK,
        "consistency": {"kind": "ce", "target": "student", "sees": "weak", "hard": True},
        "loss": {"consistency": 0.0, "schedules": {"consistency": {"to": 1.0, "begin": 0.1, "end": 0.6}}},
    },
    "mean_teacher": {
        "augment": WEAK,
        "consistency": {"kind": "mse", "target": "ema", "sees": "noised"},
        "loss": RAMPED_UP,
    },
    "uda": {
        "augment": STRONG,
        "labeled_sees": "weak",
        "consistency": {"kind": "kl", "target": "student", "sees": "weak", "temperature": 0.4, "threshold": 0.8},
    },
    "fixmatch": {
        "augment": STRONG,
        "labeled_sees": "weak",
        "consistency": {"kind": "ce", "target": "student", "sees": "weak", "threshold": 0.95, "hard": True},
    },
    "noisy_student": {"recipe": "self_train", "augment": STRONG, "pseudo_label": {"kind": "soft"}},
}
RECIPES = {"supervised": supervised, "semi_supervised": semi_supervised, "self_train": self_train}


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: method=<one of METHODS>, labels=100 (in all), large (network and steps), data=FOLDER, seed=0, runlocal.

    Raises:
      UserError: an unknown method, or labels that the classes cannot share.
    """
    arg = tlx_config.parse_arg(
        arg, method="fixmatch", labels=100, large=False, data="../shared/data/mnist", seed=0, runlocal=False
    )
    model, steps = (LARGE, 2 * STEPS) if arg.large else (MODEL, STEPS)
    method = dict(METHODS[check_choice("method", arg.method, METHODS)])
    recipe = method.setdefault("recipe", "semi_supervised")
    c = RECIPES[recipe].default_config()
    c.name = f"ssl_bench_{arg.method}_{arg.labels}"
    c.seed = arg.seed
    if recipe == "self_train":
        c.rounds = 1  # so that its one student sees as many unlabelled images as any other method
    for learner in (c.teacher, c.student) if recipe == "self_train" else (c,):
        learner.model = dict(model)
        learner.augment = method["augment"]
        learner.optim = tlx_config.optim(all={"learning_rate": 2e-3, "warmup": 0.05})
        learner.train.update(steps=steps, batch_size=BATCH, eval_every=steps // 10, ema_decay=0.99)
        if "unlabeled_ratio" in learner:
            learner.unlabeled_ratio = float(RATIO)
            learner.weak = WEAK
    c.update({key: value for key, value in method.items() if key not in ("recipe", "augment")})
    return few_labels(c, arg.data, labels=arg.labels, runlocal=arg.runlocal)
