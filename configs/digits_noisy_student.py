"""Noisy student on digits: 100 labels, 10 a class; three rounds of student becomes teacher.

    python -m tlx.main --config=configs/digits_noisy_student.py --workdir=runs/digits

Test accuracy, mean ± sample deviation of seeds 0-4 (experiments/digits; 500 images):

    teacher    0.9616 ± 0.0259     student 1  0.9812 ± 0.0076
    student 2  0.9860 ± 0.0076     student 3  0.9880 ± 0.0045     the promoted one  0.9896 ± 0.0050
"""

from ml_collections import ConfigDict

from tlx import config as tlx_config
from tlx.recipes import self_train


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: seed=0, labels=10 (a class), runlocal."""
    arg = tlx_config.parse_arg(arg, seed=0, labels=10, runlocal=False)
    c = self_train.default_config()
    c.name = "digits_noisy_student"
    c.seed = arg.seed
    c.data.labels_per_class = arg.labels
    c.rounds = 3

    noise = {"rotate": 15.0, "scale": 0.15, "shear": 0.15, "translate": 1.0, "noise": 0.1}
    c.teacher.model = {"name": "cnn", "widths": (64, 128), "dense": 128, "dropout": 0.3}
    c.teacher.train.update(steps=600, batch_size=64, eval_every=100)
    c.teacher.augment = noise

    c.student.model = c.teacher.model
    c.student.scale = (1.5,)  # students are larger than the first teacher, as in the paper
    c.student.train.update(steps=600, batch_size=32, eval_every=100)
    c.student.unlabeled_ratio = 4.0
    c.student.augment = noise
    for section in (c.teacher, c.student):
        section.optim = tlx_config.optim(all={"learning_rate": 2e-3, "weight_decay": 0.05, "warmup": 0.05})

    c.pseudo_label.align = True
    c.loss = {"temperature": 1.0, "alpha": 1.0, "beta": 0.0, "consistency": 0.5, "labeled": 1.0}
    if arg.runlocal:
        tlx_config.run_local(c)
    return c
