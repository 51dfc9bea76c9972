"""The ablations of Noisy Student (Xie et al. 2020) on MNIST: one run, one seed.

    python -m tlx.main --config=experiments/noisy_student/config.py:labels=100,rounds=4 --workdir=runs/full
    python -m tlx.main --config=experiments/noisy_student/config.py:labels=100,dropout=false --workdir=runs/no_dropout

A teacher learns from the labels, with all noise; a student of it from the labels and from what the teacher says of the
other images. The arguments take ingredients away, one by one. MNIST as IDX files (`data=FOLDER`).
"""

from ml_collections import ConfigDict

from experiments.idx import few_labels
from tlx import config as tlx_config
from tlx.recipes import self_train

STEPS = {"teacher": 600, "student": 1_000}
BATCH, RATIO = 32, 4  # labelled images a step, and unlabelled ones for each of them
AUGMENT = {"rotate": 15.0, "scale": 0.15, "shear": 0.15, "translate": 3.0, "cutout": 8}
DROPOUT = 0.5


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: labels=100 (in all), rounds=1, data=FOLDER, seed=0, runlocal; of the student: augment=true, dropout=true,
    hard=false, scale=1.0, unlabeled=0 (so many images; 0 = all); and noised=false: whether its teacher labels noised
    images.
    """
    arg = tlx_config.parse_arg(
        arg,
        labels=100,
        rounds=1,
        augment=True,
        dropout=True,
        hard=False,
        scale=1.0,
        unlabeled=0,
        noised=False,
        data="../shared/data/mnist",
        seed=0,
        runlocal=False,
    )
    c = self_train.default_config()
    c.name = f"noisy_student_{arg.labels}"
    c.seed = arg.seed
    c.rounds = arg.rounds
    noise = {"teacher": (True, True), "student": (arg.augment, arg.dropout)}
    for role, (augment, dropout) in noise.items():
        learner = c[role]
        learner.model = {"name": "cnn", "widths": (16, 32), "dense": 64, "dropout": DROPOUT if dropout else 0.0}
        learner.augment = AUGMENT if augment else {}
        learner.optim = tlx_config.optim(all={"learning_rate": 2e-3, "warmup": 0.05})
        learner.train.update(steps=STEPS[role], batch_size=BATCH, eval_every=STEPS[role] // 10, ema_decay=0.99)
    c.student.unlabeled_ratio = float(RATIO)
    c.student.scale = (arg.scale,)
    c.unlabeled.most = arg.unlabeled
    c.pseudo_label.update(kind="hard" if arg.hard else "soft", noised=arg.noised)
    if arg.hard:
        c.loss.update(alpha=0.0, beta=1.0)
    return few_labels(c, arg.data, labels=arg.labels, runlocal=arg.runlocal)
